"""Prompts as text: spelling, refusals, size, and a head that stays the same during typing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codeclippy_ls.engine.loading.tokenizer import Tokenizer
from codeclippy_ls.families import FAMILIES, Family, detect_served_family
from codeclippy_ls.inference.spec import SHIPPED_FOLDER
from codeclippy_ls.prompts.context import CompletionContext, EditTarget
from codeclippy_ls.prompts.context_snippets import Snippet
from codeclippy_ls.prompts.control_tokens import RefusedTextError
from codeclippy_ls.prompts.text_prompts import (
    RemoteModel,
    build_text_completion_prompt,
    build_text_edit_prompt,
    estimate_tokens,
    extract_completion,
)
from codeclippy_ls.prompts.token_prompts import build_completion_prompt
from codeclippy_ls.remote.models import PROPERTIES, select_model
from tests.shared import tokenizer_folder

CASES = Path(__file__).parent / "cases"

FILE = "".join(f"def function_{number}(value):\n    return value + {number}\n\n\n" for number in range(2000))
FIM_FAMILIES = [family for family in FAMILIES if family.fim_template is not None]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Qwen/Qwen2.5-Coder-7B", "qwen-coder"),
        ("qwen2.5-coder:1.5b-base", "qwen-coder"),
        ("starcoder2:3b", "starcoder2"),
        ("/models/codellama-13b.Q8_0.gguf", "code-llama"),
        ("deepseek-ai/DeepSeek-Coder-V2-Lite-Base", "deepseek-coder"),
        ("codegemma:2b-code", "codegemma"),
        ("mistralai/Codestral-22B-v0.1", "codestral"),
        ("gpt-4o", "causal"),
        ("CarperAI/diff-codegen-350m-v2", "diff-codegen"),
        ("Salesforce/codegen-350M-mono", "codegen"),
        ("meta-llama/Llama-3.2-1B", "causal"),
        ("microsoft/phi-4", "phi"),
    ],
)
def test_family_is_detected_by_served_name(name: str, family: str) -> None:
    """In the forms that services use; a configured family takes precedence."""
    assert detect_served_family(name).name == family
    assert detect_served_family(name, "mellum").name == "mellum"
    with pytest.raises(ValueError, match="unknown family"):
        detect_served_family(name, "nonsense")


@pytest.mark.parametrize("family", FIM_FAMILIES, ids=lambda family: family.name)
def test_control_tokens_in_user_text_are_refused(family: Family) -> None:
    """Any control token of the family, at any place of prefix or suffix."""
    name = family.name
    served = RemoteModel("model", 2048)
    made = build_text_completion_prompt(served, CompletionContext("x = ", "\n", "a.py"), 32, name)
    assert made.text.count("x = ") == 1 and made.suffix is None
    for token in made.control_tokens:
        for context in (
            CompletionContext(f"x = {token}", ""),
            CompletionContext("x = ", f"\n{token}"),
            CompletionContext(f"{token}\nx = ", ""),
        ):
            with pytest.raises(ValueError, match=re.escape(token)):
                build_text_completion_prompt(served, context, 32, name)


def test_service_reads_the_text_as_the_intended_tokens() -> None:
    """Checked with the shipped tokenizer, which reads control tokens wherever they are spelled."""
    tokenizer = Tokenizer((SHIPPED_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    context = CompletionContext("def f(x):\n    return ", "\nf(1)\n")
    view = SimpleNamespace(name="", architecture="gpt_neox", tokenizer=tokenizer, chat=None)
    made = build_text_completion_prompt(RemoteModel("m", 1024), context, 32, "clippy")
    assert made.text == "<|SUF|>\nf(1)\n<|PRE|>def f(x):\n    return <|MID|>"
    assert tuple(tokenizer.encode_template(made.text)) == build_completion_prompt(view, context, 1024, 32).token_ids
    assert len(tokenizer.encode(FILE)) <= estimate_tokens(FILE)


def read_published_tokens() -> dict[str, list[str]]:
    """Read the control tokens that publishers' tokenizers list, by model."""
    paragraphs = (CASES / "control_tokens.txt").read_text(encoding="utf-8").strip().split("\n\n")[1:]
    return {model: rows.split() for model, _, rows in (paragraph.partition("\n") for paragraph in paragraphs)}


@pytest.mark.parametrize("served", ["qwen2.5-coder-7b", "codestral-22b", "starcoder2-3b", "gpt-4o"])
def test_published_control_tokens_are_refused_whatever_is_served(served: str) -> None:
    """A file opens no turn and no other file: not before the cursor, behind it or in a snippet, nor in an edit."""
    models = read_published_tokens()
    tokens = list(dict.fromkeys(token for model in models.values() for token in model))
    assert len(models) >= 10 and len(tokens) >= 145
    remote, chat = RemoteModel(served, 2048), RemoteModel("some-instruct", 2048, is_chat=True)
    held = 0
    for token in tokens:
        for prefix, suffix in ((f"a = '{token}'\nb = ", "\n"), ("b = ", f"\nc = '{token}'\n"), (f"b ={token}", "")):
            if suffix and build_text_completion_prompt(remote, CompletionContext("b = ", "x"), 32).text == "b = ":
                continue  # a continuation shows no suffix
            with pytest.raises(RefusedTextError, match=re.escape(token)):
                build_text_completion_prompt(remote, CompletionContext(prefix, suffix, "a.py"), 32)
        snippets = (Snippet("other.py", f"text = '{token}'"), Snippet("good.py", "good = 1"))
        shown = build_text_completion_prompt(remote, CompletionContext("b = ", "", "a.py", snippets=snippets), 32).text
        assert "good = 1" in shown and "other.py" not in shown
        for target in (
            EditTarget((f"a = '{token}'",), 0, 0, "a.py", "sort"),
            EditTarget(("a = 1",), 0, 0, "a.py", f"sort {token}"),
            EditTarget(("a = 1",), 0, 0, f"{token}.py", "sort"),
        ):
            with pytest.raises(RefusedTextError, match=re.escape(token)):
                build_text_edit_prompt(chat, target, 100, edit_format="diff")
            if token not in target.name:  # which a rewrite does not show
                with pytest.raises(RefusedTextError, match=re.escape(token)):
                    build_text_edit_prompt(chat, target, 100)
        held += 1
    assert held == len(tokens)


@pytest.mark.parametrize("name", ["codeclippy", "codegen", "fim-neox", "gpt2", "neox"])
def test_control_tokens_of_real_tokenizers_are_refused(name: str) -> None:
    """Runs of spaces, which some of them add too, are text."""
    definition = json.loads((tokenizer_folder(name) / "tokenizer.json").read_text(encoding="utf-8"))
    for token in (added["content"] for added in definition["added_tokens"] if added["content"].strip()):
        with pytest.raises(RefusedTextError):
            build_text_completion_prompt(RemoteModel("gpt-4o", 2048), CompletionContext(f"a = '{token}'\n", ""), 32)


@pytest.mark.parametrize(
    "code",
    [
        "let y = a <|> b <| f |> g || h",
        "fn f(x: Box<[u8]>, y: &[[u8; 2]]) -> Vec<[T]> { x[0] << 2 >> 1 }",
        "Copyright <YEAR> <NAME>; key = <KEY> [OPTIONS] [ARGS] <file> <b>bold</b> <unk>",
        "| a | b |\n|---|---|\n|<|>|x|",
    ],
)
def test_ordinary_code_is_no_control_token(code: str) -> None:
    """Of a model whose family is known: operators, types, markup, and the placeholders of manuals."""
    assert (
        code in build_text_completion_prompt(RemoteModel("qwen2.5-coder", 2048), CompletionContext(code, ""), 32).text
    )


def test_tokens_that_the_service_lists_are_refused() -> None:
    """Of any spelling, but no word, number or punctuation, which would refuse all text."""
    listed = {
        "data": [{"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx": 4096, "eot_token": "%%end%%"}}],
        PROPERTIES: {
            "bos_token": "{start}",
            "eos_token": "end",
            "pad_token": "```",
            "tokenizer_class": "SomeTokenizer",
            "chat_template": "(:unlisted:)",
            "added_tokens_decoder": {"7": {"content": "#turn#", "special": True}, "8": {"content": "\n"}},
        },
    }
    info = select_model(listed, "", 0, False, "u")
    assert info.listed_tokens == ("%%end%%", "{start}", "#turn#")
    remote = RemoteModel(info.name, 2048, listed_tokens=info.listed_tokens)
    for token in info.listed_tokens:
        with pytest.raises(RefusedTextError, match=re.escape(token)):
            build_text_completion_prompt(remote, CompletionContext(f"a = '{token}'\nb = ", ""), 32)
    assert build_text_completion_prompt(remote, CompletionContext("end = '```' (:unlisted:)", ""), 32).text


@settings(max_examples=60, deadline=None)
@example(window=160, cut=130, wide=False, family="deepseek-coder")  # whose control tokens have many bytes
@given(
    window=st.integers(160, 3000),
    cut=st.integers(0, len(FILE)),
    wide=st.booleans(),
    family=st.sampled_from(["causal", *(family.name for family in FIM_FAMILIES)]),
)
def test_text_prompt_fits_the_context_length(window: int, cut: int, wide: bool, family: str) -> None:
    """By the estimate, with room for the answer; the prompt shows the text around the cursor."""
    text = FILE.replace("value", "wért") if wide else FILE
    context = CompletionContext(text[:cut], text[cut:], "some/file.py", "python", (Snippet("b.py", "other = 1\n"),))
    made = build_text_completion_prompt(RemoteModel("m", window), context, 48, family)
    control = re.compile("|".join(map(re.escape, sorted(made.control_tokens, key=len, reverse=True))) or "(?!)")
    taken = estimate_tokens(control.sub("", made.text)) + len(control.findall(made.text))
    assert taken <= window - min(48, window // 2)
    near = min(cut, 20)
    assert text[cut - near : cut] in made.text


def test_text_prompt_keeps_its_head_during_typing() -> None:
    """So that the service's prefix cache stays valid."""
    at = len(FILE) // 2
    texts = [
        build_text_completion_prompt(
            RemoteModel("m", 1024), CompletionContext(FILE[:at] + "value"[:count], FILE[at:], "a.py"), 48, "qwen-coder"
        ).text
        for count in range(6)
    ]
    typed = [text.partition("<|fim_suffix|>") for text in texts]
    assert all(later[0].startswith(typed[0][0]) for later in typed)
    assert {later[2] for later in typed} == {typed[0][2]}


def test_answers_are_cut_at_control_tokens_and_do_not_repeat_the_word() -> None:
    """Some services spell the token that ended the answer."""
    made = build_text_completion_prompt(
        RemoteModel("m", 1024), CompletionContext("x = cou", "", "a.py"), 48, "qwen-coder"
    )
    assert extract_completion("nt()<|endoftext|>junk", made) == "nt()"
    assert extract_completion("count()", made) == "" and extract_completion("nt()", made) == "nt()"


def test_text_edit_prompts_by_template_and_by_chat() -> None:
    """The family's template if it has one, else a message to a chat model, else a refusal."""
    edited = EditTarget(("def f():", "    pass"), 0, 1, "a.py", "add a\ndocstring")
    assert build_text_edit_prompt(RemoteModel("m", 1024), edited, 100, "clippy").text == (
        "<NME> a.py\n<BEF> def f():\n    pass\n<MSG> add a docstring\n<DFF>"
    )
    chat = build_text_edit_prompt(RemoteModel("m-instruct", 1024, is_chat=True), edited, 100)
    assert chat.is_chat and "```\ndef f():\n    pass\n```" in chat.text and "add a\ndocstring" in chat.text
    assert chat.answer_start.endswith("\n```\n") and chat.num_copied
    with pytest.raises(ValueError, match="not known to make edits"):
        build_text_edit_prompt(RemoteModel("m", 1024), edited, 100)
    for token, family in (("<BEF>", "clippy"), ("<|im_start|>", "")):
        wrong = EditTarget(("def f():", f"    {token}"), 0, 1, "a.py", "x")
        with pytest.raises(ValueError, match=re.escape(token)):
            build_text_edit_prompt(RemoteModel("m", 1024, is_chat=True), wrong, 100, family)


def test_long_document_is_cut_around_the_selection() -> None:
    """A selection that is too long is refused."""
    lines = tuple(FILE.split("\n"))
    made = build_text_edit_prompt(RemoteModel("m", 1024), EditTarget(lines, 4000, 4002, "a.py", "x"), 200, "clippy")
    start, end = made.line_range
    assert 0 < start <= 4000 and 4002 < end < len(lines) and estimate_tokens(made.text) <= 1024
    with pytest.raises(ValueError, match="too long"):
        build_text_edit_prompt(RemoteModel("m", 1024), EditTarget(lines, 0, 4000, "a.py", "x"), 200, "clippy")


def test_every_fim_family_has_a_served_name() -> None:
    """Behind a service a family is detected by its name alone; ours is not served under any."""
    assert {family.name for family in FIM_FAMILIES if not family.served_names} == {"clippy"}
