"""The names of files: what a URI of any client is to people, to models and to the settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from codeclippy_ls.assist.triggers import find_disabling_setting
from codeclippy_ls.secret_files import is_secret_uri
from codeclippy_ls.settings import parse as parse_settings
from codeclippy_ls.uris import parse_name, parse_path, relative_path
from tests.editor import Editor
from tests.scripted import ScriptedWorker

# Neovim has `term://` and plugins' schemes; Python's own parser raises ValueError at these two.
REFUSED = ("term://[x", "octo://[pr]/x")
ODD = (*REFUSED, "", ":", "#", "?", "file:", "file:///", "file://%zz", "a://[::", "x:y:z", "%", "\ud800:/a", "c:")


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///home/a/my%20file.py", "/home/a/my file.py"),
        ("file:///home/%C3%A9.py", "/home/é.py"),
        ("file:///home/a%23b%3Fc.py", "/home/a#b?c.py"),
        ("file://server/share/a.py", "/share/a.py"),
        ("file:///c%3A/Users/a.py", "c:/Users/a.py"),
        ("file:///C:/Users/a.py", "C:/Users/a.py"),
        ("file:///C:\\Users\\a.py", "C:/Users/a.py"),
        ("C:\\Users\\100%25.py", "C:/Users/100%25.py"),
        ("/home/a/100%25#.py", "/home/a/100%25#.py"),
        ("untitled:Untitled-1", "Untitled-1"),
        ("untitled:/home/a/new.py", "/home/a/new.py"),
        ("vscode-notebook-cell:/home/a/my%20nb.ipynb#W0sZmlsZQ%3D%3D", "/home/a/my nb.ipynb"),
        ("vscode-notebook-cell://ssh-remote%2Bhost/home/nb.ipynb#W1", "/home/nb.ipynb"),
        ("git:/home/a/b.py?%7B%22ref%22%3A%22~%22%7D", "/home/a/b.py"),
        ("term://~/proj//123:bash", "/proj//123:bash"),
        ("term://[x", "[x"),
        ("octo://[pr]/x", "/x"),
        ("file:///a%0Ab%00c.py", "/a\ufffdb\ufffdc.py"),
    ],
)
def test_path_and_name_of_a_uri(uri: str, path: str) -> None:
    """Decoded, without fragment and query, whatever the scheme; a text without a scheme is a path as it stands."""
    assert parse_path(uri) == path
    assert parse_name(uri) == path.rpartition("/")[2]


@pytest.mark.skipif(os.name != "posix", reason="the names are not allowed on Windows")
@pytest.mark.parametrize("name", ["a b.py", "a#b.py", "100%25.py", "a?b.py", "é😀.py", "a:b.py", "[x].py", "a\\b.py"])
def test_path_of_a_files_own_uri(name: str) -> None:
    """As `pathlib` writes it."""
    path = Path("/home/a") / name
    assert parse_path(path.as_uri()) == str(path) and parse_name(path.as_uri()) == name


@pytest.mark.parametrize(
    ("uri", "other", "path"),
    [
        ("file:///a/b.py", "file:///a/c.py", "c.py"),
        ("file:///a/b.py", "file:///a/d/c%20e.py", "d/c e.py"),
        ("file:///a/x/b.py", "file:///a/c.py", "../c.py"),
        ("file:///a/b/c/d/e.py", "file:///z/y.py", "y.py"),
        ("untitled:Untitled-1", "file:///a/c.py", "c.py"),
        ("file:///a/b.py", "untitled:Untitled-2", "Untitled-2"),
        ("vscode-notebook-cell:/a/b.ipynb#W0", "file:///a/d/c.py", "d/c.py"),
        ("file:///c%3A/a/b.py", "file:///C:/a/d/c.py", "d/c.py"),
        ("file:///c%3A/a/b.py", "file:///d%3A/a/c.py", "c.py"),
        ("file:///a/b.py", "octo://[pr]/a/x", "x"),
        ("file:///a/b.py", "term://[x", "[x"),
    ],
)
def test_the_path_that_a_model_is_told(uri: str, other: str, path: str) -> None:
    """From the file's own folder; the name alone where that is far away."""
    assert relative_path(uri, other) == path


def test_no_uri_is_refused() -> None:
    """Each rule over names answers for each pair of texts."""
    settings, _ = parse_settings({"completion": {"disabledPaths": ["*.x"]}})
    for uri in ODD:
        assert find_disabling_setting(uri, "python", settings.completion) == ""
        assert not is_secret_uri(uri)
        for other in ODD:
            assert "\n" not in relative_path(uri, other)


@pytest.mark.parametrize("odd", REFUSED)
async def test_a_document_of_any_uri_breaks_no_other(editor: Editor, worker: ScriptedWorker, odd: str) -> None:
    """All have answers: the document itself and the one beside it."""
    await editor.start(options={"completion": {"prefetch": False, "debounce": False}})
    strange, plain = editor.open("y = \n", odd), editor.open("x = \n")
    for buffer in (plain, strange):
        assert [item["insertText"] for item in await editor.ghost(buffer, 4)] == ["value"]
        assert len(await editor.complete(buffer, 4)) == 1
        assert await editor.call(
            "textDocument/codeAction",
            {"textDocument": {"uri": buffer.uri}, "range": {"start": buffer.position(0), "end": buffer.position(4)}}
            | {"context": {"diagnostics": []}},
        )


async def test_the_model_is_told_the_decoded_name(editor: Editor, worker: ScriptedWorker) -> None:
    """In the prompts of edits, without escapes, query and fragment; and the user, in messages."""
    await editor.start()
    worker.response = ""
    for uri, name in (
        ("file:///work/my%20file.py", "my file.py"),
        ("vscode-notebook-cell:/work/nb.ipynb#W0sZmlsZQ%3D%3D", "nb.ipynb"),
        ("octo://[pr]/x", "x"),
    ):
        await editor.edit(editor.open("x = 1\n", uri), "do nothing")
        assert "no edit" in (await editor.outcome())["message"]
        assert worker.prompts[-1].startswith(f" {name}\n x = 1\n")
    buffer = editor.open("x = 1\n", "file:///work/a%20b.py")
    back = {"start": {"line": 1, "character": 0}, "end": {"line": 0, "character": 0}}
    editor.notify(
        "textDocument/didChange",
        {"textDocument": buffer.identifier, "contentChanges": [{"range": back, "text": ""}]},
    )
    assert "the text of a b.py is out of step" in (await editor.until("window/showMessage"))["message"]


async def test_a_language_that_is_not_named_is_that_of_the_file(editor: Editor, worker: ScriptedWorker) -> None:
    """Some clients send no language."""
    await editor.start(options={"completion": {"prefetch": False, "debounce": False}})
    text = "f(1);\n"
    for uri, count in (("file:///work/a%2Ejs?x#y.py", 0), ("file:///work/a", 1)):
        document = {"uri": uri, "languageId": "", "version": 1, "text": text}
        editor.notify("textDocument/didOpen", {"textDocument": document})
        at = {"textDocument": {"uri": uri}, "position": {"line": 0, "character": 5}}
        found = await editor.call("textDocument/inlineCompletion", {**at, "context": {"triggerKind": 2}})
        assert len(found["items"]) == count, "a JavaScript statement that is complete, in which nothing is missing"
