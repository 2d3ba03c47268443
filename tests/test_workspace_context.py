"""What prompts show of closed files: chosen by the index, kept while typing, and never what must not leak."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls import cli
from codeclippy_ls.assist.context import ChosenContext, ContextChooser, Cursor, resolve_context_mode
from codeclippy_ls.index.building import update_index
from codeclippy_ls.index.reader import FolderIndex
from codeclippy_ls.prompts.context import CompletionContext
from codeclippy_ls.prompts.context_snippets import OpenFile, Snippet
from codeclippy_ls.prompts.text_prompts import RemoteModel, build_text_completion_prompt
from codeclippy_ls.server.server import Server
from codeclippy_ls.settings import Settings, parse
from codeclippy_ls.syntax.tree import DocumentTrees
from codeclippy_ls.text import Document
from tests.editor import TIMEOUT, Editor, in_process
from tests.scripted import ScriptedWorker

TOKEN = "ghp_" + "a1B2c3D4" * 5
MAIN = (
    "from shapes import make_shape\n\n\ndef first(width):\n    return make_shape(|\n\n\ndef second(width):\n    pass\n"
)
Choose = Callable[..., ChosenContext]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_tree(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


class Project:
    """A folder with its index, and choices for cursors in it."""

    def __init__(self, folder: Path) -> None:
        update_index(folder)
        self.folder, self.files = folder, list[OpenFile]()
        self.index = FolderIndex(folder)
        self._chooser = ContextChooser(lambda document: self.files, self._find, DocumentTrees())

    def _find(self, document: Document) -> FolderIndex | None:
        return self.index

    def choose(self, text: str, options: Any = None, name: str = "main.py") -> ChosenContext:
        """Choose at the mark ``|``."""
        settings, problems = parse({"completion": options or {}})
        assert not problems
        prefix, _, suffix = text.partition("|")
        document = Document((self.folder / name).as_uri(), prefix + suffix, 1, "python")
        files = self._chooser.list_open_files(settings, document)
        return self._chooser.choose(settings, Cursor(document, prefix, suffix), files, 400)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    """Make a project of files."""
    made: list[Project] = []

    def make(**files: str) -> Project:
        made.append(Project(write_tree(tmp_path / "project", **files)))
        return made[-1]

    yield make
    for one in made:
        one.index.close()


def shown(chosen: ChosenContext) -> str:
    return "\n".join(f"{part.snippet.path}\n{part.snippet.text}" for part in chosen.parts)


SHAPES = "def make_shape(width: int, height: int) -> int:\n    return 1\n\n\ndef other_thing(depth): ...\n"


def test_a_closed_file_is_shown_with_its_reason(project: Callable[..., Project]) -> None:
    chosen = project(shapes=SHAPES).choose(MAIN)
    assert "def make_shape(width: int, height: int) -> int:" in shown(chosen)
    assert (chosen.path, chosen.repository) == ("main.py", "project")
    assert chosen.parts[-1].reasons == ("imported as make_shape",)


@pytest.mark.parametrize("context", ["open", "off"])
def test_nothing_of_a_closed_file_is_shown_otherwise(project: Callable[..., Project], context: str) -> None:
    assert project(shapes=SHAPES).choose(MAIN, {"context": context}) == ChosenContext()


def test_services_are_shown_open_files_only_unless_the_user_says_so() -> None:
    def mode(options: Any) -> str:
        return resolve_context_mode(parse(options)[0])

    service = {"model": {"endpoint": "https://example.com/v1"}}
    assert mode({}) == "workspace" and mode(service) == "open"
    assert mode({**service, "completion": {"context": "workspace"}}) == "workspace"
    assert mode({**service, "completion": {"context": "off"}}) == "off"


def test_what_a_model_must_not_see_is_not_shown(project: Callable[..., Project], tmp_path: Path) -> None:
    """Files that hold secrets, lines that do, excluded files and languages, and what a link leads to."""
    outside = write_tree(tmp_path / "outside", outer="def make_outer(width): ...\n")
    folder = write_tree(
        tmp_path / "project",
        shapes=f'def make_shape(width, key="{TOKEN}"): ...\nTOKEN = "{TOKEN}"\n\n\ndef make_safe(width): ...\n',
        secrets="def make_secret(width): ...\n",
        private__mine="def make_private(width): ...\n",
    )
    (folder / "outer.py").symlink_to(outside / "outer.py")
    (folder / "linked").symlink_to(outside, target_is_directory=True)
    made = project()
    text = "from shapes import *\nfrom secrets import *\nfrom private.mine import *\nfrom outer import *\n"
    text += (
        "from linked.outer import *\nmake_shape, make_safe, make_secret, make_private, make_outer, TOKEN\nmake_safe(|\n"
    )
    found = shown(made.choose(text))
    assert "make_safe" in found and "make_private" in found
    assert not any(word in found for word in ("make_shape", "make_secret", "make_outer", TOKEN))
    assert "make_private" not in shown(made.choose(text, {"disabledPaths": ["*/private/*"]}))
    assert shown(made.choose(text, {"disabledLanguages": ["python"]})) == ""


def test_a_file_that_became_a_link_is_not_read(project: Callable[..., Project], tmp_path: Path) -> None:
    """Between the index's last look and the question."""
    words = "basket_weight discount_table customer_group price_total shipping_cost currency_rate voucher_code tax_share"
    made = project(similar=f"{words.replace(' ', ' = 1; ')} = 2\n")
    text = "basket_weight = discount_table[customer_group] * price_total\n|\n"
    assert "voucher_code" in shown(made.choose(text))
    outside = write_tree(tmp_path / "outside", similar=f"{words.replace(' ', ' = 3; ')} = 4\n")
    (made.folder / "similar.py").unlink()
    (made.folder / "similar.py").symlink_to(outside / "similar.py")
    assert "voucher_code" not in shown(made.choose("\n" * 40 + text))


def test_the_choice_stays_while_typing_in_a_definition(project: Callable[..., Project]) -> None:
    """And while the code is broken for a moment; in another definition it is made anew."""
    made = project(shapes=SHAPES)
    first = made.choose(MAIN)
    for typed in ("width", "width, 'a", "width, other_thing", "width)\n    for x in (\n    "):
        assert made.choose(MAIN.replace("|", f"{typed}|")) is first
    assert made.choose(MAIN.replace("(|", "()").replace("    pass", "    other_thing(|")) is not first


def test_the_choice_follows_the_index(project: Callable[..., Project]) -> None:
    made = project(shapes=SHAPES)
    assert "height" in shown(made.choose(MAIN))
    write_tree(made.folder, shapes="def make_shape(radius): ...\n")
    assert "height" in shown(made.choose(MAIN))
    update_index(made.folder)
    assert "def make_shape(radius): ..." in shown(made.choose(MAIN))


def test_an_open_file_counts_as_it_is_in_the_editor(project: Callable[..., Project]) -> None:
    made = project(shapes=SHAPES)
    made.files = [
        OpenFile("shapes.py", "def make_shape(unsaved): ...\n", "python", file=str(made.folder / "shapes.py"))
    ]
    assert "unsaved" in shown(made.choose(MAIN)) and "height" not in shown(made.choose(MAIN))


def test_the_place_that_was_edited_last_is_shown(project: Callable[..., Project]) -> None:
    lines = [f"line_{number} = {number}" for number in range(60)]
    made = project()
    made.files = [OpenFile("a.py", "\n".join(lines), "python", 40), OpenFile("b.py", "\n".join(lines), "python")]
    (part,) = made.choose("x = |\n").parts
    assert part.snippet.path == "a.py" and "line_40 = 40" in part.snippet.text and "line_20" not in part.snippet.text


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("qwen2.5-coder", "<|repo_name|>app\n<|file_sep|>lib/a.py\nA = 1\n<|file_sep|>b.py\n<|fim_prefix|>x = "),
        ("starcoder2", "<repo_name>app\n<file_sep>lib/a.py\nA = 1\n<file_sep>b.py\n<fim_prefix>x = "),
        ("deepseek-coder", "<｜fim▁begin｜>#lib/a.py\nA = 1\n#b.py\nx = "),
        ("codestral", "[SUFFIX]\n[PREFIX]+++++ lib/a.py\nA = 1\n+++++ b.py\nx = "),
        ("starcoderbase", "<fim_prefix># Path: lib/a.py\n# A = 1\nx = "),
    ],
)
def test_snippets_are_written_as_the_family_has_learned_it(model: str, expected: str) -> None:
    context = CompletionContext(
        "x = ", "\n", "b.py", "python", (Snippet("lib/a.py", "A = 1"),), path="b.py", repository="app"
    )
    prompt = build_text_completion_prompt(RemoteModel(model, 4096), context, 50)
    assert prompt.text.startswith(expected)


# Through the server.


async def ask_until(editor: Editor, worker: ScriptedWorker, text: str, uri: str, wanted: str) -> str:
    """Ask at the mark until the prompt has a text; return the prompt."""
    prefix, _, suffix = text.partition("|")
    buffer = editor.buffers.get(uri) or editor.open(prefix + suffix, uri)
    offset, deadline = len(prefix), asyncio.get_running_loop().time() + TIMEOUT
    while True:
        await editor.ghost(buffer, offset)
        if worker.prompts and wanted in worker.prompts[-1]:
            return worker.prompts[-1]
        assert asyncio.get_running_loop().time() < deadline, worker.prompts[-1:]
        await asyncio.sleep(0.1)
        offset = editor.type(buffer, offset, "w")


def make_params(folders: Sequence[Path], options: Any = None) -> dict[str, Any]:
    return {
        "processId": None,
        "rootUri": None,
        "workspaceFolders": [{"uri": folder.as_uri(), "name": folder.name} for folder in folders],
        "capabilities": {"workspace": {"didChangeWatchedFiles": {"dynamicRegistration": True}}},
        "initializationOptions": {"statusNotification": True, "completion": {"prefetch": False, "debounce": False}}
        | (options or {}),
    }


async def test_a_session_shows_closed_files_and_follows_the_disk(tmp_path: Path, worker: ScriptedWorker) -> None:
    """As after a checkout; of the folder that the document is in, and not of another one that is open, too."""
    folder = write_tree(tmp_path / "project", shapes=SHAPES)
    other = write_tree(
        tmp_path / "other", shapes="def make_shape(elsewhere): ...\n", foreign="def unseen_thing(a): ...\n"
    )
    async with in_process(Server(engine=worker.open)) as editor:
        await editor.call("initialize", make_params([folder, other]))
        editor.notify("initialized", {})
        registration = (await editor.until("client/registerCapability"))["registrations"][0]
        assert registration["method"] == "workspace/didChangeWatchedFiles"
        assert {"globPattern": "**/*.py"} in registration["registerOptions"]["watchers"]
        uri = (folder / "main.py").as_uri()
        prompt = await ask_until(editor, worker, MAIN + "unseen_thing(1)\n", uri, "make_shape(width: int, height")
        assert "elsewhere" not in prompt and "unseen_thing(a)" not in prompt
        write_tree(folder, shapes="def make_shape(radius: float): ...\n")
        changed = {"uri": (folder / "shapes.py").as_uri(), "type": 2}
        editor.notify("workspace/didChangeWatchedFiles", {"changes": [changed]})
        prompt = await ask_until(editor, worker, MAIN, uri, "make_shape(radius: float)")
        assert "height" not in prompt
        shutil.rmtree(folder)
        await editor.stop()


async def test_a_stranger_has_no_folder_read(tmp_path: Path, worker: ScriptedWorker) -> None:
    """Whoever comes over a port without the token can name no folder, neither at the start nor later."""
    folder = write_tree(tmp_path / "project", shapes=SHAPES)
    async with in_process(Server(engine=worker.open, token="x" * 20)) as editor:
        await editor.call("initialize", make_params([folder]))
        editor.notify("initialized", {})
        event = {"added": [{"uri": folder.as_uri(), "name": "a"}], "removed": []}
        editor.notify("workspace/didChangeWorkspaceFolders", {"event": event})
        await editor.until("codeclippy/status", lambda m: m["params"]["state"] == "ready")
        buffer = editor.open(MAIN.replace("|", ""), (folder / "main.py").as_uri())
        await editor.ghost(buffer, MAIN.index("|"))
        assert "height" not in worker.prompts[-1]
        assert not list((tmp_path / "cache").rglob("*.db"))
        await editor.stop()


def test_settings_of_a_workspace_cannot_open_closed_files() -> None:
    """Not even where the user has left it to the server."""
    from codeclippy_ls.settings import Source

    base, _ = parse({"model": {"endpoint": "https://example.com/v1"}})
    settings, _ = parse({"completion": {"context": "workspace"}}, base, Source.WORKSPACE)
    assert resolve_context_mode(settings) == "open" and isinstance(settings, Settings)


async def test_a_command_shows_the_context(tmp_path: Path, worker: ScriptedWorker) -> None:
    """As a document, for a place or where the user was last; with paths, reasons and tokens."""
    async with in_process(Server(engine=worker.open)) as editor:
        params = make_params([write_tree(tmp_path / "project", shapes=SHAPES)])
        await editor.call("initialize", {**params, "capabilities": {"window": {"showDocument": {"support": True}}}})
        editor.notify("initialized", {})
        uri = (tmp_path / "project" / "main.py").as_uri()
        await ask_until(editor, worker, MAIN, uri, "make_shape(width: int, height")
        place = {"uri": uri, "position": {"line": 4, "character": 0}}
        command = {"command": "codeclippy.showContext", "arguments": [place]}
        result = await editor.call("workspace/executeCommand", command)
        (part,) = result["parts"]
        assert part["path"] == "shapes.py" and part["reasons"] == ["imported as make_shape"] and part["tokens"] > 10
        document = await editor.until("window/showDocument")
        shown = Path(document["uri"].removeprefix("file://")).read_text(encoding="utf-8")
        assert shown == result["text"] and "imported as make_shape\ndef make_shape(width" in shown
        editor.notify("codeclippy/cursor", {"textDocument": {"uri": uri}, "position": place["position"]})
        command["arguments"] = []
        assert await editor.call("workspace/executeCommand", command) == result
        await editor.until("window/showDocument")
        await editor.stop()


def test_the_command_line_shows_the_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tree(tmp_path / "project", shapes=SHAPES, main=MAIN.replace("|", ""))
    (folder / "pyproject.toml").touch()
    assert cli.main(["context", f"{folder / 'main.py'}:5:12"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("parts of another file are shown at line 5 of main.py: about ")
    assert "--- shapes.py" in printed and "def make_shape(width: int, height: int) -> int: ..." in printed
    assert cli.main(["context", f"{folder / 'main.py'}:99:1"]) == 2
