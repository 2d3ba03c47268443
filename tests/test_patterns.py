"""No regular expression takes more than linear time, whatever text it is given."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")
PACKAGE = Path(__file__).parent.parent / "codeclippy_ls"
# Repeated, each is what some pattern may try again from every position.
PIECES = (
    *("a", " ", "\t", "\n", ";", "-", "=", "#", "/", "*", "(", "{", '"', "'", "`", "\\", "<", "0", "é", "\x00"),
    *(
        "a ",
        " a",
        "\n ",
        " \n",
        "\n;; ",
        "\n# a",
        "\n// a",
        "a,",
        "a.b",
        "ab\n",
        '"""',
        "<|",
        "<|a",
        "export ",
        "@@ -1",
    ),
    *("(a)", "a: ", "--- ", "+++ ", "\n\n", "/*", "*/", "<!--", "%%", "async def ", "import a\n", "};\n", "1 ", "aA1_"),
)
LIMIT = 0.05  # seconds for that length; only growth that is not linear can reach it and fail
LENGTH = 8000
MAX_PARTS = 8
# A character of each class.
CATEGORIES = {"DIGIT": "1", "NOT_DIGIT": "a", "SPACE": " ", "NOT_SPACE": "a", "WORD": "a", "NOT_WORD": "-"}


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern as it is written, and the methods that it is used with."""

    place: str
    text: str
    flags: int
    uses: frozenset[str]

    @property
    def room(self) -> str:
        """The room that it is written in."""
        return self.place.split("/")[0].split(":")[0]


def patterns() -> Iterator[Pattern]:
    """Yield every pattern that is written in the package."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py")) if _is_ours(path)}
    for path, source in sources.items():
        names, parsed = {}, ast.parse(source)
        constants = _constants(parsed)
        for node in ast.walk(parsed):
            if isinstance(node, ast.Assign):
                targets = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                names.update({id(value): ast.unparse(name) for name, value in zip(targets, values, strict=False)})
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.") and node.args:
                text, method = _literal(node.args[0], constants), ast.unparse(node.func).removeprefix("re.")
                if method == "escape":
                    continue
                assert text is not None, f"{path}:{node.lineno}: the pattern is not written where it is compiled"
                used = {method} if method != "compile" else _methods(names.get(id(node), ""), source)
                yield Pattern(f"{path.relative_to(PACKAGE)}:{node.lineno}", text, _flags(node), frozenset(used))


def _is_ours(path: Path) -> bool:
    return path.parent.name != "samples"


def _methods(name: str, source: str) -> set[str]:
    """Return the methods that a compiled pattern's name is used with; all of them if none is seen."""
    found = set(re.findall(rf"\b{re.escape(name)}\.(\w+)\(", source)) if name else set()
    return found & {"match", "fullmatch", "search", "finditer", "findall", "split", "sub"} or {
        "match",
        "search",
        "finditer",
    }


def _constants(module: ast.Module) -> dict[str, str]:
    """Return a module's text constants, from which patterns may be made."""
    found: dict[str, str] = {}
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if (text := _literal(node.value, found)) is not None:
                found[node.targets[0].id] = text
    return found


def _literal(node: ast.expr, constants: dict[str, str]) -> str | None:
    """Return a pattern that is written as it is, or with parts that are filled in.

    Those are constants of the module, or else are taken for a letter.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
        return node.value.decode("ascii")
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    if isinstance(node, ast.FormattedValue):
        return _literal(node.value, constants) or "a"
    if isinstance(node, ast.JoinedStr):
        return "".join(_literal(part, constants) or "" for part in node.values)
    if isinstance(node, ast.BinOp):
        left, right = _literal(node.left, constants), _literal(node.right, constants)
        return None if left is None or right is None else left + right
    return "a" if isinstance(node, ast.Call) else None


def _flags(node: ast.Call) -> int:
    written = " ".join(ast.unparse(one) for one in (*node.args[1:], *(keyword.value for keyword in node.keywords)))
    return sum(getattr(re, name) for name in dict.fromkeys(re.findall(r"\bre\.([A-Z]+)\b", written)))


def seconds(pattern: re.Pattern[str], uses: frozenset[str], text: str) -> float:
    """Return the CPU seconds of using a pattern on a text in all its ways, the best of two runs."""
    runs = []
    for _ in range(2):
        started = time.process_time()
        for use in uses:
            found = pattern.sub("", text) if use == "sub" else getattr(pattern, use)(text)
            if use == "finditer":
                list(found)
        runs.append(time.process_time() - started)
    return min(runs)


def pieces_of(pattern: Pattern) -> set[str]:
    """Return texts that are made of a pattern's own parts: all of it, each repeated part, each of two in a row."""
    examples: list[str] = []
    whole = _example(_parser.parse(pattern.text, pattern.flags), examples)
    parts = [part for part in dict.fromkeys((whole, whole[:-1], *examples)) if part][:MAX_PARTS]
    return {*parts, *(one + other for one in parts for other in parts if one != other)}


def _example(parsed: Any, found: list[str]) -> str:
    """Return a text that a parsed pattern matches; collect those of its repeated parts and of its branches."""
    text = ""
    for operation, argument in parsed:
        name = str(operation)
        if name in ("LITERAL", "NOT_LITERAL"):
            text += chr(argument) if name == "LITERAL" else "a" if chr(argument) != "a" else "b"
        elif name == "ANY":
            text += "a"
        elif name == "IN":
            text += _member(argument)
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            low, _, inner = argument
            part = _example(inner, found)
            found.append(part)
            text += part * max(low, 1)
        elif name == "BRANCH":
            branches = [_example(branch, found) for branch in argument[1]]
            found += branches
            text += branches[0]
        elif name in ("SUBPATTERN", "ATOMIC_GROUP"):
            text += _example(argument[-1] if name == "SUBPATTERN" else argument, found)
    return text


def _member(members: Any) -> str:
    """Return a character of a class."""
    kind, argument = members[0]
    if str(kind) == "NEGATE":
        excluded = {chr(value) for which, value in members[1:] if str(which) == "LITERAL"}
        return next(character for character in "a b1-" if character not in excluded)
    if str(kind) == "CATEGORY":
        return CATEGORIES[str(argument).removeprefix("CATEGORY_")]
    return chr(argument if str(kind) == "LITERAL" else argument[0])


FOUND = list(patterns())


@pytest.mark.parametrize(
    ("text", "use", "piece"),
    [(r"(?:\s*;+[^\n]*\n?)*$", "match", ";\n"), (r"(\w+\s?)+$", "match", "a "), (r"[ \t]+\n", "search", " ")],
)
def test_patterns_are_attacked_with_their_own_parts(text: str, use: str, piece: str) -> None:
    """The parts of a pattern that is not linear are found, so that nobody must think of them."""
    pattern = Pattern("here", text, 0, frozenset({use}))
    assert piece in pieces_of(pattern)


def test_patterns_are_found() -> None:
    """Each of them compiles."""
    assert len(FOUND) > 40
    for one in FOUND:
        assert re.compile(one.text, one.flags), one.place


@pytest.mark.parametrize("room", sorted({one.room for one in FOUND}))
def test_every_pattern_is_linear(room: str) -> None:
    """In a process of its own: one that is exponential never comes back."""
    command = [sys.executable, "-m", "tests.test_patterns", room]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def main(room: str) -> int:
    """Try the patterns of a room; returns 1 if one of them grows faster than its text."""
    slow = 0
    for one in FOUND:
        if one.room != room:
            continue
        pattern = re.compile(one.text, one.flags)
        for piece in (*PIECES, *sorted(pieces_of(one) - set(PIECES))):
            for end in ("", "!", "\n"):
                print(f"{one.place} {one.text!r} on {piece!r} and {end!r}", flush=True)  # the last line may hang
                long = seconds(pattern, one.uses, (piece * LENGTH)[:LENGTH] + end)
                if long > LIMIT and long > 3 * seconds(pattern, one.uses, (piece * LENGTH)[: LENGTH // 2] + end):
                    print(f"  takes {long:.2f} s")
                    slow = 1
    return slow


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
