"""Next edits: renames against Python's own compiler, repeats, and what is never proposed."""

from __future__ import annotations

import ast
import inspect
import random
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from codeclippy_ls.next_edit.history import EditHistory
from codeclippy_ls.next_edit.propose import NextEdit, propose
from codeclippy_ls.syntax.languages import find_language
from codeclippy_ls.syntax.tree import parse
from codeclippy_ls.text import Edit, apply_edits
from tests.editor import Editor

SOURCES = sorted(Path(__file__).parent.parent.joinpath("codeclippy_ls").rglob("*.py"))
NEW = "fresh_name"


class Typist:
    """A text, its history, and the cursor behind the last edit."""

    def __init__(self, text: str, language: str) -> None:
        self.text, self.language, self.cursor = text, language, 0
        self.history = EditHistory()

    def replace(self, old: str, new: str, occurrence: int = 0) -> None:
        """Replace an occurrence of a text, as somebody who types."""
        at = -1
        for _ in range(occurrence + 1):
            at = self.text.index(old, at + 1)
        self.apply(Edit(at, at + len(old), new))

    def apply(self, edit: Edit) -> None:
        """Apply an edit."""
        after = apply_edits(self.text, [edit])
        self.history.record(self.text, after)
        self.text, self.cursor = after, edit.start + len(edit.text)

    def propose(self) -> NextEdit | None:
        """Propose the next edit."""
        return propose(self.text, parse(self.text, find_language(self.language)), self.history, self.cursor)

    def accept_all(self) -> int:
        """Accept what is proposed until there is nothing; return how often."""
        for count in range(1000):
            found = self.propose()
            if found is None:
                return count
            self.apply(found.edit)
        raise AssertionError("no end of next edits")


def iter_code(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and those inside."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from iter_code(value)


def describe(code: CodeType, new: str, old: str) -> list[Any]:
    """Return what a rename of a local name must not change; the new name counts as the old one."""

    def rename(names: tuple[str, ...]) -> list[str]:
        return [old if name == new else name for name in names]

    found: list[Any] = []
    for part in iter_code(code):
        cells = sorted(rename(part.co_cellvars)), sorted(rename(part.co_freevars))
        found.append((part.co_name, part.co_names, rename(part.co_varnames), cells))
        if part.co_flags & inspect.CO_OPTIMIZED:  # else it holds the names of parameters for their annotations
            found.append([value for value in part.co_consts if not isinstance(value, CodeType)])
            # With cells the numbers of variables follow the order of their names.
            found.append(None if any(cells) else part.co_code)
    return found


def list_locals(text: str) -> list[tuple[str, int]]:
    """List the parameters and variables of functions, each with the offset of its first binding."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    found = []
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(part) for function in functions for part in ast.walk(function) if part is not function}
    for function in (function for function in functions if id(function) not in inside):
        parts = list(ast.walk(function))
        declared = {name for node in parts if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        names: list[tuple[str, Any]] = [(item.arg, item) for item in arguments]
        names += [(item.id, item) for item in parts if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)]
        first: dict[str, int] = {}
        for name, item in names:
            at = starts[item.lineno - 1] + len(text.split("\n")[item.lineno - 1].encode()[: item.col_offset].decode())
            first[name] = min(first.get(name, at), at)
        # A function around another one holds the names of the inner one's parameters, for their annotations.
        inner = [item.arg for item in parts if isinstance(item, ast.arg) and item not in arguments]
        nested = {item.name for item in parts if item is not function and hasattr(item, "name")} | set(inner)
        found += [(name, at) for name, at in first.items() if name not in declared | nested and name != "self"]
    return found


def test_a_renamed_local_is_renamed_completely() -> None:
    """Python's compiler makes the same code of a file whose local name was renamed, but for that name."""
    chance = random.Random(3)
    wrong, proposed = [], 0
    for path in chance.sample(SOURCES, 24):
        text = path.read_text()
        choices = list_locals(text)
        for name, at in chance.sample(choices, min(5, len(choices))):
            typist = Typist(text, "python")
            typist.apply(Edit(at, at + len(name), NEW))
            proposed += typist.accept_all()
            before, after = compile(text, "f", "exec"), compile(typist.text, "f", "exec")
            owners = [part for part in iter_code(after) if NEW in part.co_varnames + part.co_cellvars]
            if len(owners) != 1 or describe(before, NEW, name) != describe(after, NEW, name):
                wrong.append((path.name, name, text[:at].count("\n") + 1))
    assert proposed > 150
    assert not wrong


@pytest.mark.parametrize(
    ("language", "text", "old", "new", "expected"),
    [
        (
            "python",  # another function's parameter, an attribute and a keyword have the name, too
            "def f(items, b):\n    for item in items:\n        g(items, b.items, items=items)\n\n"
            "    def h(items):\n        return items\n\n    return [items for item in items]\n\n\nitems = 3\n",
            "items",
            "values",
            "def f(values, b):\n    for item in values:\n        g(values, b.items, items=values)\n\n"
            "    def h(items):\n        return items\n\n    return [values for item in values]\n\n\nitems = 3\n",
        ),
        (
            "python",
            "class A:\n    def old(self):\n        return self.x\n\n    def k(self):\n        return self.old()\n\n\n"
            "A().old()\nold = 1\n",
            "old",
            "fresh",
            "class A:\n    def fresh(self):\n        return self.x\n\n    def k(self):\n        return self.fresh()\n"
            "\n\nA().old()\nold = 1\n",
        ),
        (
            "javascript",
            "function f(a, b) {\n  const k = {a, b: a, a: 2};\n  return [a, k].map((x) => x.a + a);\n}\n",
            "a, b",
            "first, b",
            "function f(first, b) {\n  const k = {a: first, b: first, a: 2};\n"
            "  return [first, k].map((x) => x.a + first);\n}\n",
        ),
        (
            "java",
            "class A {\n  private int size;\n  int get(int size) { return size + this.size; }\n"
            "  int two() { return size * 2; }\n}\n",
            "size",
            "count",
            "class A {\n  private int count;\n  int get(int size) { return size + this.count; }\n"
            "  int two() { return count * 2; }\n}\n",
        ),
        (
            "go",
            "func f(a int, b int) int {\n\tk := a + 1\n\treturn k * a\n}\n",
            "k",
            "size",
            "func f(a int, b int) int {\n\tsize := a + 1\n\treturn size * a\n}\n",
        ),
        (
            "rust",
            'fn f(a: &str) -> String { format!("{}", a) + a }\nfn g(a: i32) -> i32 { a }\n',
            "a:",
            "text:",
            'fn f(text: &str) -> String { format!("{}", text) + text }\nfn g(a: i32) -> i32 { a }\n',
        ),
        (
            "c",
            "int f(int a, char *b) {\n  int k = a * 2;\n  return k + a + g->a;\n}\n",
            "a,",
            "first,",
            "int f(int first, char *b) {\n  int k = first * 2;\n  return k + first + g->a;\n}\n",
        ),
        (
            "php",
            "<?php\nfunction f($items) {\n  foreach ($items as $item) { g($item, $items); }\n}\n",
            "items",
            "values",
            "<?php\nfunction f($values) {\n  foreach ($values as $item) { g($item, $values); }\n}\n",
        ),
        (
            "go",  # the same line elsewhere
            "func f() {\n\tx := get(a, b)\n}\nfunc g() {\n\tx := get(a, b)\n}\n",
            "get(a",
            "get(c",
            "func f() {\n\tx := get(c, b)\n}\nfunc g() {\n\tx := get(c, b)\n}\n",
        ),
        # Not in a text, where it may be a version or a date.
        ("markdown", "for 3.1 only\nother\nfor 3.1 only\n", "3.1", "3.2", "for 3.2 only\nother\nfor 3.1 only\n"),
    ],
)
def test_a_name_is_renamed_where_it_is_the_same_name(
    language: str, text: str, old: str, new: str, expected: str
) -> None:
    """By one edit of the user, in the languages of the grammars."""
    typist = Typist(text, language)
    typist.replace(old, new)
    typist.accept_all()
    assert typist.text == expected


def test_line_ends_of_windows_change_nothing() -> None:
    """The same line elsewhere is found, and renames keep their places."""
    repeated = Typist("x = get(first, b)\r\ny = 1\r\nx = get(first, b)\r\n", "python")
    repeated.replace("get", "take")
    assert repeated.accept_all() == 1
    assert repeated.text == "x = take(first, b)\r\ny = 1\r\nx = take(first, b)\r\n"
    renamed = Typist("def f(size):\r\n    # é 😀\r\n    return size\r\n", "python")
    renamed.replace("size", "count")
    assert renamed.accept_all() == 1 and renamed.text == "def f(count):\r\n    # é 😀\r\n    return count\r\n"


def test_a_change_that_was_made_twice_is_proposed_below() -> None:
    """With what the two have around them in common; not where the user passed by, and not a flag."""
    typist = Typist("a = get(url, 3)\nb = get(url, 4)\nc = get(url, 5)\nput(url, 6)\n", "python")
    typist.replace("get(url", "fetch(url")
    assert typist.propose() is None
    typist.replace("get(url", "fetch(url")
    assert typist.accept_all() == 1
    assert typist.text == "a = fetch(url, 3)\nb = fetch(url, 4)\nc = fetch(url, 5)\nput(url, 6)\n"
    passed = Typist("a = get(url, 3)\nb = get(url, 4)\nc = get(url, 5)\nd = get(url, 6)\n", "python")
    passed.replace("get(url", "fetch(url", 1)
    passed.replace("get(url", "fetch(url", 1)
    assert passed.propose() is None
    flags = Typist('a_flag = "x", True\nb_flag = "x", True\nc_flag = "x", True\n', "python")
    flags.replace("True", "False")
    flags.replace("True", "False")
    assert flags.propose() is None


def test_an_edit_that_is_undone_is_forgotten() -> None:
    """And nothing asks for the inverse of what was just done."""
    typist = Typist("def f(size):\n    return size\n", "python")
    typist.replace("size", "count")
    assert typist.propose() is not None
    typist.replace("count", "size")
    assert typist.history.edits == () and typist.propose() is None


def test_a_word_typed_key_by_key_is_one_edit() -> None:
    """Deleted and typed anew, with what was mistyped on the way."""
    typist = Typist("def f(size):\n    return size\n", "python")
    at = typist.text.index("size")
    for _ in range(4):
        typist.apply(Edit(at, at + 1, ""))
    for index, character in enumerate("cooutn"):
        typist.apply(Edit(at + index, at + index, character))
    for _ in range(4):
        typist.apply(Edit(at + 2, at + 3, ""))
    for index, character in enumerate("unt"):
        typist.apply(Edit(at + 2 + index, at + 2 + index, character))
    assert len(typist.history.edits) == 1
    assert typist.accept_all() == 1 and typist.text == "def f(count):\n    return count\n"


def test_the_history_knows_what_stood_there_and_what_stands_there_now() -> None:
    """After any edits: each recent edit's characters are in the text, and taking all back gives the first text."""
    chance = random.Random(5)
    for _ in range(300):
        text = first = "".join(chance.choice("ab c\n") for _ in range(30))
        history = EditHistory()
        for _ in range(chance.randrange(1, 8)):
            start = chance.randrange(len(text) + 1)
            end = min(len(text), start + chance.randrange(4))
            after = text[:start] + "".join(chance.choice("xyz") for _ in range(chance.randrange(3))) + text[end:]
            history.record(text, after)
            text = after
        for edit in history.edits:
            assert text[edit.start : edit.end] == edit.updated
            assert edit.before[edit.offset : edit.offset + len(edit.original)] == edit.original
        if len(history.edits) == 1:
            (edit,) = history.edits
            if edit.before == first:
                assert text[: edit.start] + edit.original + text[edit.end :] == first


async def test_the_request_of_githubs_server(editor: Editor) -> None:
    """As sidekick.nvim and copilot-lsp send it: one edit of this version, with a command; else an empty list."""
    await editor.start()
    buffer = editor.open("def f(size):\n    return size + size\n")

    async def ask(context: dict[str, Any]) -> list[dict[str, Any]]:
        params = {"textDocument": buffer.identifier, "position": buffer.position(8), **context}
        answer = await editor.call("textDocument/copilotInlineEdit", params)
        assert list(answer) == ["edits"]
        found: list[dict[str, Any]] = answer["edits"]
        return found

    editor.notify("textDocument/didFocus", {"textDocument": {"uri": buffer.uri}})
    assert await ask({}) == []
    editor.type(buffer, 6, "count", 10)
    for expected in ("def f(count):\n    return count + size\n", "def f(count):\n    return count + count\n"):
        (edit,) = await ask({"context": {"triggerKind": 2}})
        assert edit["textDocument"] == buffer.identifier
        editor.notify("textDocument/didShowInlineEdit", {"item": {"command": edit["command"]}})
        start, end = (buffer.offset(edit["range"][name]) for name in ("start", "end"))
        editor.type(buffer, start, edit["text"], end)
        assert buffer.text == expected
        await editor.call("workspace/executeCommand", {key: edit["command"][key] for key in ("command", "arguments")})
    assert await ask({}) == []
