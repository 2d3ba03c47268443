"""Files and passages that hold secrets go to no service and are shown beside no other file; ordinary ones are."""

from __future__ import annotations

import base64
import random
import re
import string
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from codeclippy_ls.assist.proposals import Refusal
from codeclippy_ls.inference.errors import DocumentRefusedError
from codeclippy_ls.prompts.context import CompletionContext
from codeclippy_ls.prompts.context_snippets import Snippet
from codeclippy_ls.prompts.control_tokens import RefusedTextError
from codeclippy_ls.prompts.text_prompts import RemoteModel
from codeclippy_ls.secret_files import is_secret_uri
from codeclippy_ls.secret_text import _COMPILED, find_secret_lines, holds_secret, remove_secret_lines
from codeclippy_ls.tasks.completion import CompletionTask
from codeclippy_ls.tasks.edit import EditTask
from codeclippy_ls.tasks.edit_context import select_edit_context
from codeclippy_ls.text import Document
from tests.editor import Editor
from tests.scripted import ScriptedWorker
from tests.services import run_stub
from tests.test_remote import answer_text, complete, make_settings, open_assistant

CASES = Path(__file__).parent / "cases"
ROOT = Path(__file__).parent.parent


def read_lines(name: str) -> list[str]:
    """Read the lines of a case file that are no comments."""
    lines = (CASES / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("# ")]


SECRET_NAMES = read_lines("secret_names.txt")
SECRET_URIS = read_lines("secret_uris.txt")
HARMLESS_NAMES = " ".join(read_lines("harmless_names.txt")).split()


def make_uri(path: str) -> str:
    """Return the URI of a path as editors write it."""
    return f"file://{quote(f'/home/me/{path}' if not path.startswith(('etc/', 'run/')) else f'/{path}')}"


def make_token(letters: str, length: int) -> str:
    """Return random letters, the same at each run."""
    return "".join(random.Random(length).choices(letters, k=length))


ALNUM, HEX = string.ascii_letters + string.digits, "0123456789abcdef"
UPPER = string.ascii_uppercase + "234567"
BODY = "\n".join(re.findall(".{64}", base64.b64encode(bytes(range(256)) * 4).decode()))
# Made here, so that no scanner takes this file for one that holds secrets.
TOKENS = {
    "AWS": f"AKIA{make_token(UPPER, 16)}",
    "Google": f"AIza{make_token(ALNUM, 35)}",
    "Azure": f"AccountKey={make_token(ALNUM, 86)}==",
    "GitHub": f"ghp_{make_token(ALNUM, 36)}",
    "GitHub, fine-grained": f"github_pat_{make_token(ALNUM, 82)}",
    "GitLab": f"glpat-{make_token(ALNUM, 20)}",
    "npm": f"npm_{make_token(ALNUM, 36)}",
    "PyPI": f"pypi-AgEIcHlwaS5vcmc{make_token(ALNUM, 60)}",
    "Docker": f"dckr_pat_{make_token(ALNUM, 27)}",
    "OpenAI": f"sk-{make_token(ALNUM, 48)}",
    "OpenAI, project": f"sk-proj-{make_token(ALNUM, 48)}",
    "Anthropic": f"sk-ant-api03-{make_token(ALNUM, 80)}",
    "Hugging Face": f"hf_{make_token(ALNUM, 34)}",
    "Slack": f"xoxb-{make_token('0123456789', 12)}-{make_token(ALNUM, 24)}",
    "Slack, webhook": f"https://hooks.slack.com/services/T0000/B0000/{make_token(ALNUM, 24)}",
    "Discord": f"https://discord.com/api/webhooks/{make_token('0123456789', 18)}/{make_token(ALNUM, 68)}",
    "Telegram": f"{make_token('123456789', 10)}:AA{make_token(ALNUM, 33)}",
    "SendGrid": f"SG.{make_token(ALNUM, 22)}.{make_token(ALNUM, 43)}",
    "Stripe": f"sk_live_{make_token(ALNUM, 24)}",
    "Shopify": f"shpat_{make_token(HEX, 32)}",
    "DigitalOcean": f"dop_v1_{make_token(HEX, 64)}",
    "Databricks": f"dapi{make_token(HEX, 32)}",
    "Vault": f"hvs.{make_token(ALNUM, 90)}",
    "Terraform": f"{make_token(ALNUM, 14)}.atlasv1.{make_token(ALNUM, 64)}",
    "Grafana": f"glsa_{make_token(ALNUM, 32)}_{make_token(HEX, 8)}",
    "Tailscale": f"tskey-auth-{make_token(ALNUM, 30)}",
    "Age": f"AGE-SECRET-KEY-1{make_token(UPPER, 58)}",
    "JSON web token": f"eyJ{make_token(ALNUM, 33)}.eyJ{make_token(ALNUM, 60)}.{make_token(ALNUM, 43)}",
    "header": f"Authorization: Bearer {make_token(ALNUM, 40)}",
    "URL": "postgres://admin:s3cretpw@db.example.org/app",
    "WireGuard": f"PrivateKey = {make_token(ALNUM, 43)}=",
    "Kubernetes": f"client-key-data: {make_token(ALNUM, 80)}",
    "npmrc": f"//registry.example.org/:_authToken={make_token(ALNUM, 36)}",
    "assigned": f'api_key = "{make_token(ALNUM, 32)}"',
    "assigned, in JSON": f'"clientSecret": "{make_token(ALNUM, 40)}",',
    "assigned, in a shell": f"export DB_PASSWORD={make_token(ALNUM, 24)}",
}
KEYS = {
    kind: f"-----BEGIN {kind}-----\n{BODY}\n-----END {kind}-----"
    for kind in (
        *("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY", "OPENSSH PRIVATE KEY"),
        *("ENCRYPTED PRIVATE KEY", "PGP PRIVATE KEY BLOCK"),
    )
}
REMOTE = RemoteModel("qwen2.5-coder-7b", 4096)
EDITOR = RemoteModel("some-instruct", 4096, is_chat=True)


# By name.


def test_counts_of_what_is_tried() -> None:
    """The attack's own numbers, or more."""
    assert len(set(SECRET_NAMES)) >= 99 and len(set(SECRET_URIS)) >= 20 and len(TOKENS) + len(KEYS) >= 40


async def test_files_with_secret_names_go_to_no_service() -> None:
    """Not for a suggestion and not for an edit; each with a sentence that says why."""
    async with run_stub(answer_text("x")) as service, open_assistant(make_settings(service.url)) as assistant:
        await assistant.load()
        uris = [*map(make_uri, SECRET_NAMES), *SECRET_URIS]
        held = 0
        for uri in uris:
            with pytest.raises(DocumentRefusedError, match="never leave this machine"):
                await complete(assistant, uri=uri)
            refused = await assistant.edit(Document(uri, "A=1\n"), "sort")
            assert isinstance(refused, Refusal) and "never leave this machine" in refused.reason, uri
            held += 1
        assert held == len(uris) and not service.posts


async def test_files_with_secret_names_are_shown_beside_no_file(editor: Editor, worker: ScriptedWorker) -> None:
    """To no model, also on this machine, where the file itself gets suggestions."""
    await editor.start(options={"completion": {"prefetch": False, "debounce": False}})
    for uri in [*map(make_uri, SECRET_NAMES), *SECRET_URIS]:
        editor.open("area_of_circle = 'hunter2'\ndef area_of_circle(): pass\n", uri)
        buffer = editor.open("from shapes import area_of_circle\n\ntotal = \n", "file:///home/me/main.py")
        await editor.ghost(buffer, 42)
        assert "total =" in worker.prompts[-1] and "hunter2" not in worker.prompts[-1], uri
        editor.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
    secret = editor.open("TOKEN=\n", "file:///home/me/.env")
    assert await editor.ghost(secret, 6)


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_ordinary_files_are_not_secret(name: str) -> None:
    """Nor what a URI's query says beside its path."""
    assert not is_secret_uri(f"file:///home/me/project/src/{name}")
    assert not is_secret_uri(f"http://host/src/{name}?token=abc&password=1#secret")


# By content.


@pytest.mark.parametrize("secret", [*TOKENS.values(), *KEYS.values()], ids=[*TOKENS, *KEYS])
def test_passage_that_holds_a_secret_is_left_out(secret: str) -> None:
    """Of the file before and behind the cursor, of other files, and of an edit; the rest is sent."""
    first_line = secret.split("\n")[0]
    for text in (secret, secret.replace("\n", "\\n"), f"x = '''{secret}'''", f"  # {secret}"):
        passage = f"first = 1\n{text}\nlast = 2\n"
        assert remove_secret_lines(passage) == "first = 1\nlast = 2\n"
        context = CompletionContext(f"{passage}value = ", f"\n{passage}", "a.py")
        prompt = CompletionTask(context, 32).build_text_prompt(REMOTE).text
        assert prompt.count("first = 1") == prompt.count("last = 2") == 2 and "value = " in prompt
        assert first_line not in prompt and BODY[:64] not in prompt
        document = Document("file:///a.py", f"above = 0\n{passage}def f():\n    return 1\n")
        lines = document.text[: document.text.index("def f")].count("\n")
        edit = EditTask("a.py", select_edit_context(document, (lines, lines + 1), None), "add a docstring", 100)
        prompt = edit.build_text_prompt(EDITOR).text
        assert "return 1" in prompt and first_line not in prompt and BODY[:64] not in prompt
        window = replace(edit, edit_format="window", family="qwen-coder").build_text_prompt(EDITOR).text
        assert "above = 0" in window and first_line not in window and BODY[:64] not in window
    snippets = (Snippet("other.py", secret), Snippet("good.py", "good = 1"))
    prompt = CompletionTask(CompletionContext("x = ", "", "a.py", snippets=snippets), 32).build_text_prompt(REMOTE).text
    assert "good = 1" in prompt and "other.py" not in prompt


@pytest.mark.parametrize("secret", [TOKENS["GitHub"], KEYS["PRIVATE KEY"]], ids=["token", "key"])
def test_text_at_the_cursor_that_holds_a_secret_is_refused(secret: str) -> None:
    """Also if the cursor is inside it, and in the selection and the message of an edit."""
    for at in (4, len(secret) // 2, len(secret) - 4, len(secret)):
        context = CompletionContext(f"a = 1\nb = {secret[:at]}", f"{secret[at:]}\nc = 2\n", "a.py")
        with pytest.raises(RefusedTextError, match="looks like a key"):
            CompletionTask(context, 32).build_text_prompt(REMOTE)
    document = Document("file:///a.py", f"a = 1\n{secret}\nb = 2\n")
    with pytest.raises(RefusedTextError, match="selected lines"):
        EditTask("a.py", select_edit_context(document, (0, 2), None), "sort", 100).build_text_prompt(EDITOR)
    selected = select_edit_context(Document("file:///a.py", "a = 1\n"), (0, 0), None)
    with pytest.raises(RefusedTextError):
        EditTask("a.py", selected, f"use {secret}", 100).build_text_prompt(EDITOR)


def test_edit_beside_a_secret_has_the_documents_line_numbers() -> None:
    """The prompt begins behind the secret, the diff's lines are those of the whole."""
    document = Document("file:///a.py", f"a = 1\n{TOKENS['GitHub']}\nb = 2\nc = 3\n{TOKENS['Slack']}\nd = 4\n")
    task = EditTask("a.py", select_edit_context(document, (2, 2), None), "sort", 100)
    prompt = task.build_text_prompt(EDITOR)
    assert prompt.line_range == (2, 4) and "b = 2\nc = 3\n" in prompt.text


@pytest.mark.parametrize("part", ["begin", "end"])
def test_part_of_a_private_key_is_left_out(part: str) -> None:
    """Where the rest of it is cut off, or the key is not finished."""
    begin, _, end = KEYS["PRIVATE KEY"].partition(f"{BODY}\n")
    text = f"a = 1\n{begin}{BODY}\nb = 2\n" if part == "begin" else f"a = 1\n{BODY}\n{end}\nb = 2\n"
    assert BODY[:64] not in remove_secret_lines(text) and "a = 1\n" in remove_secret_lines(text)
    if part == "end":
        assert remove_secret_lines(text) == "a = 1\nb = 2\n"


async def test_passage_that_holds_a_secret_is_shown_beside_no_file(editor: Editor, worker: ScriptedWorker) -> None:
    """To no model; another passage of the same file is."""
    await editor.start(options={"completion": {"prefetch": False, "debounce": False}})
    filler = "".join(f"\n\n# part {number}\n" for number in range(30))
    secret = TOKENS["GitHub"]
    editor.open(
        f"def area_of_circle(radius):\n    login('{secret}')\n    return radius\n{filler}\n"
        "def area_of_square(side):\n    return side * side\n",
        "file:///home/me/shapes.py",
    )
    buffer = editor.open("from shapes import area_of_circle, area_of_square\n\ntotal = \n", "file:///home/me/main.py")
    await editor.ghost(buffer, 59)
    assert "return side * side" in worker.prompts[-1] and secret not in worker.prompts[-1]


@pytest.mark.parametrize(
    "text",
    [
        "key = os.environ['API_KEY_OF_THE_SERVICE_2']",
        "token = get_token_from_environment(session_2, timeout=30)",
        'password = "correct-horse-battery-staple"',
        "secret_key = settings.SECRET_KEY_FALLBACKS",
        "url = 'https://example.org/some/long/path/to/a/resource-2024-01-31.html'",
        "url = f'https://{user}:{password}@{host}/path'",
        "git clone git@github.com:owner/repository-with-a-long-name.git",
        "commit = 'c92e6d21f0e4a4b2a9c8d7e6f5a4b3c2d1e0f9a8'",
        "digest = 'sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "uuid = '123e4567-e89b-12d3-a456-426614174000'",
        "class AuthenticationTokenSerializer2(serializers.ModelSerializer):",
        "sk-learn is spelled scikit-learn, and task-queue-worker-processes is a name",
    ],
)
def test_ordinary_text_holds_no_secret(text: str) -> None:
    """Names, hashes, placeholders, public keys."""
    assert not holds_secret(text)


def test_the_packages_own_sources_hold_no_secret() -> None:
    """A measure of how much good text would be left out."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "codeclippy_ls").rglob("*.py"))]
    assert len(texts) > 100
    assert [text[start:end] for text in texts for start, end in find_secret_lines(text)] == []


def measure_seconds(text: str) -> float:
    """Return the processor's time that a search takes."""
    find_secret_lines.cache_clear()
    before = time.process_time()
    find_secret_lines(text)
    return time.process_time() - before


@pytest.mark.parametrize("end", ["", " ", "\n"], ids=["run", "words", "lines"])
def test_secrets_are_looked_for_in_linear_time(end: str) -> None:
    """Whatever is repeated: four times the text takes about four times as long, where squares would be sixteen."""
    pieces = [marker for marker, _ in _COMPILED]
    pieces += [
        "-----BEGIN ",
        "-----BEGIN PRIVATE KEY-----\n",
        "-----END PRIVATE KEY-----\n",
        "PRIVATE KEY",
        "a=",
        "key=",
    ]
    for piece in (*pieces, "key: ", "://a:", "eyJ.", "a1" * 20, "="):
        text = (piece + end) * (20_000 // len(piece + end))
        ratios = (measure_seconds(text * 4) / max(measure_seconds(text), 0.005) for _ in range(3))
        assert any(ratio < 10 for ratio in ratios), repr(piece)
