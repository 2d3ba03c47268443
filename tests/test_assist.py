"""The two jobs on real models with random weights: whatever they write, what comes out is right or refused."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.proposals import Proposal, Refusal
from codeclippy_ls.engines import open_thread_engine
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.settings import parse
from codeclippy_ls.syntax.languages import find_language, load_grammar
from codeclippy_ls.tasks.edit_context import find_marker, find_region, select_edit_context
from codeclippy_ls.text import Document, apply_edits
from tests import checkpoints
from tests.editor import in_process

DOCUMENTS = {
    "lf": "def f(x):\n    return x\n\n\n# done\n",
    "crlf": "def f(x):\r\n    return x\r\n\r\n\r\n# done\r\n",
    "mixed": "a = 1\r\nb = 2\nc = 3\rd = 4",
    "no final line end": "class A:\n    def b(self):\n        pass",
    "astral": "x = '😀'\n\n\nx = '😀'\n\n\nx = 'é'\n",
    "empty": "",
    "blank": "\n\n",
}
# An edit by random weights is as long as it may be, and takes seconds.
documents = pytest.mark.parametrize(
    "names", [("crlf", "empty"), pytest.param(tuple(DOCUMENTS), marks=pytest.mark.slow)]
)


async def with_model(options: dict[str, Any], work: Callable[[Assistant], Any]) -> Any:
    """Run work on an assistant over real checkpoints."""
    settings, problems = parse(options)
    assert not problems
    assistant = Assistant(open_thread_engine(settings), settings)
    try:
        await assistant.load()
        return await work(assistant)
    finally:
        await assistant.aclose()
        assert assistant.join(0), "the engine's thread did not end"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of our own family with random weights."""
    return checkpoints.save_checkpoint(tmp_path_factory.mktemp("toy"), context_length=2048)


def options(model: Path, **edit: Any) -> dict[str, Any]:
    """Settings for a model, in float32 on the CPU."""
    return {
        "model": {"completion": str(model), "device": "cpu", "dtype": "float32"},
        "completion": {"timeBudgetMs": 20000, "maxTokens": 16},
        "edit": {"maxTokens": 800, **edit},
    }


@documents
async def test_edits_by_random_weights_apply_or_are_refused(toy: Path, names: Sequence[str]) -> None:
    """Lines outside the edit, and every line end, are untouched; the diff is the difference."""

    async def work(assistant: Assistant) -> int:
        applied = 0
        for name in names:
            text = DOCUMENTS[name]
            document = Document("file:///x.py", text, 1)
            for span in (None, (0, 0), (1, 2)):
                result = await assistant.edit(document, "Change it", span)
                if isinstance(result, Refusal):
                    assert result.reason and not result.cancelled
                    continue
                applied += 1
                assert result.after == apply_edits(text, result.edits) != text, name
                bare = [edit for edit in result.edits if "\r" not in edit.text]
                assert name != "crlf" or all("\n" not in edit.text for edit in bare)
        return applied

    assert await with_model(options(toy, temperature=1.5), work) >= len(names) // 2


async def test_completions_by_random_weights_keep_the_line_ends(toy: Path) -> None:
    """Anywhere in any document, also inside words and at both ends; nothing empty, nothing but insertions."""

    async def work(assistant: Assistant) -> int:
        shown = 0
        chance = random.Random(0)
        for text in DOCUMENTS.values():
            document = Document("file:///x.py", text, 1)
            for offset in {0, len(text), *(chance.randrange(len(text) + 1) for _ in range(4))}:
                result = await assistant.complete(document, offset)
                for suggestion in result.items:
                    shown += 1
                    assert suggestion.offset == offset and suggestion.text.strip()
                    assert "\n" not in suggestion.text.replace(document.eol, "")
                    assert "\ufffd" not in suggestion.text
        return shown

    assert await with_model(options(toy), work) >= 5


async def test_a_model_that_only_continues_leaves_edits_to_the_shipped_one(tmp_path: Path) -> None:
    """The user never has to know which model can do what."""
    folder = checkpoints.save_checkpoint(tmp_path / "codegen", "codegen", control_tokens=("<|endoftext|>",))

    async def work(assistant: Assistant) -> Any:
        document = Document("file:///x.py", "def f(value):\n    return val", 1)
        expected = (
            r"complete by codegen on cpu, [\d.]+ ms a token; edit by the shipped model, which the first edit loads"
        )
        assert re.fullmatch(expected, assistant.describe_models())
        completion = await assistant.complete(document, len(document.text))
        assert completion.generation is not None and completion.generation.text.startswith(" val")
        assert assistant.supports_edits()
        edited = await assistant.edit(Document("file:///x.py", "def f(x):\n    return x\n", 1), "Add a docstring")
        assert isinstance(edited, (Proposal, Refusal))
        model = assistant.model_info(ModelRole.EDIT)
        assert model is not None
        assert re.search(r"; edit by the shipped model on cpu, [\d.]+ ms a token$", assistant.describe_models())
        return model.name

    assert await with_model(options(folder), work) == ""


async def test_the_models_and_their_speed_are_one_line(toy: Path) -> None:
    """A model that completes and edits is named for both, and switched-off edits are said to be off."""

    async def work(assistant: Assistant) -> Any:
        return assistant.describe_models()

    line = await with_model(options(toy), work)
    assert re.fullmatch(r"complete by (toy\d* on cpu, [\d.]+ ms a token); edit by \1", line)
    assert (await with_model(options(toy, enabled=False), work)).endswith("; edits are off")


async def test_a_family_that_does_not_fit_is_one_clear_error(toy: Path) -> None:
    """The setting is named."""
    wrong = options(toy)
    wrong["model"]["family"] = "starcoder"
    with pytest.raises(EngineError, match=r'setting "model\.family"'):
        await with_model(wrong, lambda assistant: None)


@documents
async def test_two_documents_share_an_engine_through_the_server(toy: Path, names: Sequence[str]) -> None:
    """Real editor text after real edits by random weights equals the server's, in two documents at once."""
    from codeclippy_ls.server.server import Server

    server = Server(options(toy, temperature=1.5))
    async with in_process(server) as editor:
        await editor.start()
        buffers = [
            editor.open(text, f"file:///{index}.py") for index, text in enumerate(DOCUMENTS[name] for name in names)
        ]
        for round in range(2):
            for buffer in buffers:
                editor.type(buffer, len(buffer.text) // 2, f"v{round}")
                await editor.ghost(buffer, len(buffer.text))
                await editor.edit(buffer, "Change it", 0, 0)
            for _ in buffers:
                await editor.outcome()
        await editor.call("workspace/executeCommand", {"command": "codeclippy.reloadModel"})
        for buffer in buffers:
            document = server.session.documents.get(buffer.uri)
            assert document is not None and document.text == buffer.text


PYTHON = """import os

@decorated
def outer(a):
    x = 1

    def inner(b):
        return b

    return inner


class A:
    def method(self):
        pass

VALUE = 1
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (3, (2, 9)),
        (4, (2, 9)),
        (5, (6, 7)),
        (7, (6, 7)),
        (9, (2, 9)),
        (12, (12, 14)),
        (13, (13, 14)),
        (14, (13, 14)),
        (16, (0, 17)),
        (0, (0, 17)),
    ],
)
def test_the_scope_around_a_line(line: int, expected: tuple[int, int]) -> None:
    """The innermost function or class, with its decorators; the whole of a short document outside of one."""
    assert find_region(Document("file:///x.py", PYTHON), line) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# clippy: do it", "do it"),
        ("    // clippy:   do it  ", "do it"),
        ("/* clippy: do it */", "do it"),
        ("<!-- clippy: do it -->", "do it"),
        ("-- clippy: do it", "do it"),
        ("; clippy: x", "x"),
        ("clippy: do it", None),
        ("# clippy:", None),
        ("x = 1  # clippy: do it", "do it"),
        ("x = '# clippy: do it'", None),
        ("x = 1  # not clippy: do it", None),
        ("# clipper: do it", None),
    ],
)
def test_comment_markers(text: str, message: str | None) -> None:
    """In the comment signs of many languages, on a line of their own; behind code in those of the language."""
    found = find_marker(Document("file:///x.py", f"a\n{text}\nb\n"), (1, 1), "clippy:")
    assert (found.message if found else None) == message


@pytest.mark.parametrize(
    ("language", "text", "message", "is_alone"),
    [
        ("python", "def f():\n    return 1  # clippy: do it\n", "do it", False),
        ("python", 's = """\nx # clippy: no\n"""\n', None, False),
        ("javascript", "x = '// clippy: no'; // clippy: do it\n", "do it", False),
        ("javascript", "f(/* clippy: do it */ 1);\n", "do it", False),
        ("javascript", "/*\n * clippy: do it\n */\nf();\n", "do it", True),
        ("typescriptreact", "a = <p>{/* clippy: do it */}</p>;\n", "do it", False),
        ("typescriptreact", "a = <p>\n  {/* clippy: do it */}\n</p>;\n", "do it", True),
        ("typescriptreact", "a = <p>\n  { /* clippy: do it */ }\n</p>;\n", "do it", True),
        ("typescriptreact", 'a = <p title="clippy: do it"/>;\n', "do it", False),
        ("typescriptreact", "a = <p /* clippy: do it */ />;\n", "do it", False),
        ("html", '<p class="a" title="clippy: do it">b</p>\n', "do it", False),
        ("html", "<p>b</p> <!-- clippy: do it -->\n", "do it", False),
        ("html", "<p>clippy: no</p>\n", None, False),
        ("css", "a { b: c; } /* clippy: do it */\n", "do it", False),
        ("rust", "let a: &'static str = b; // clippy: do it\n", "do it", False),
        ("go", "x := `// clippy: no` // clippy: do it\n", "do it", False),
        ("shellscript", "echo '# clippy: no' # clippy: do it\n", "do it", False),
        ("ruby", "x = 1 # clippy: do it\n", "do it", False),
        ("yaml", "a: b # clippy: do it\n", "do it", False),
        ("lua", "x = 1 -- clippy: do it\n", "do it", False),
        ("vb", "' clippy: do it\nDim x\n", "do it", True),
        ("python", "' clippy: no\n", None, False),
        ("perl", "x(); # clippy: nobody can tell\n", None, False),
        ("java", "é = '😀'; // clippy: tut es ö\r\n", "tut es ö", False),
    ],
)
def test_markers_behind_code(language: str, text: str, message: str | None, is_alone: bool) -> None:
    """The tree says what is a comment, in each language's own; the line stays in what the model is shown."""
    row = find_language(language)
    assert row is not None
    if row.grammar and load_grammar(row) is None:
        pytest.skip(f"the grammar of {language} is not installed (extra `languages`)")
    document = Document("file:///work/x", text, 1, language)
    found = find_marker(document, None, "clippy:")
    assert (found.message if found else None) == message
    if found is not None:
        assert found.is_alone == is_alone
        shown = select_edit_context(document, (found.line, found.line), found)
        assert (found.line in shown.line_numbers) != is_alone


@pytest.mark.parametrize(
    ("lines", "span", "numbers", "selection"),
    [
        (["def a():", "    # clippy: do it", "    pass", "", "b = 1", ""], (1, 1), (0, 2), (1, 1)),
        (["def a():", "    # clippy: do it", "    pass", "", "b = 1", ""], (0, 1), (0,), (0, 0)),
        (["x = 1", "y = 2", "# clippy: do it"], (2, 2), (0, 1), (1, 1)),
        (["x = 1", "y = 2", "# clippy: do it", ""], (2, 3), (0, 1), (1, 1)),
        (["# clippy: do it", "x = 1", "y = 2", ""], (0, 0), (1, 2), (0, 0)),
        (["x = 1", "y = 2", ""], (2, 9), (0, 1), (1, 1)),
        (["x = 1", "y = 2", ""], (0, 1), (0, 1), (0, 1)),
        (["x = 1", "y = 2", ""], None, (0, 1), (0, 0)),
        (["# clippy: do it", "", ""], (0, 0), (), (0, 0)),
    ],
)
def test_the_lines_shown(
    lines: list[str], span: tuple[int, int] | None, numbers: tuple[int, ...], selection: tuple[int, int]
) -> None:
    """Never none of a document that has text: a selection of the comment alone, or past the end, counts as a cursor."""
    document = Document("file:///x.py", "\n".join(lines))
    shown = select_edit_context(document, span, find_marker(document, None, "clippy:"))
    assert (shown.line_numbers, (shown.first, shown.last)) == (numbers, selection)
    assert shown.is_new == (not numbers)
