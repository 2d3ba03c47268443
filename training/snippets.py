"""Find snippets of source files for synthetic edits, and make and apply unified diffs.

A `Snippet` is a function, a class or the imports of a module, dedented so that it parses on its own;
`place_in_document` puts two versions of it back between lines of its file. Diffs are hunks without file headers, always
with both counts: `@@ -a,b +c,d @@`. `apply_diff` reads such a diff strictly; every edit is checked with it.
"""

from __future__ import annotations

import ast
import difflib
import random
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

HUNK = re.compile(r"@@ -(\d+),(\d+) \+(\d+),(\d+) @@\n")
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Snippet:
    """Dedented source with its syntax tree, its original indentation, and the lines around it in its file."""

    source: str
    tree: ast.Module
    indent: str
    above: tuple[str, ...]
    below: tuple[str, ...]

    @property
    def node(self) -> ast.stmt:
        """The function or class of the snippet (or its first import)."""
        return self.tree.body[0]

    @property
    def function(self) -> FunctionNode:
        """The node of a snippet that is a function."""
        assert isinstance(self.node, (ast.FunctionDef, ast.AsyncFunctionDef))
        return self.node

    def get_offset(self, line: int, column: int) -> int:
        """Return the offset of an `ast` position (lines from 1); snippets are ASCII, so columns are characters."""
        start = 0
        for _ in range(line - 1):
            start = self.source.index("\n", start) + 1
        return start + column

    def get_span(self, node: ast.expr | ast.stmt | ast.arg) -> tuple[int, int]:
        """Return the start and end offsets of a node."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.get_offset(node.lineno, node.col_offset), self.get_offset(node.end_lineno, node.end_col_offset)

    def get_source(self, node: ast.expr | ast.stmt | ast.arg) -> str:
        """Return the source of a node."""
        start, end = self.get_span(node)
        return self.source[start:end]

    def get_line(self, number: int) -> str:
        """Return a line by its number (from 1), without its newline."""
        return self.source.split("\n")[number - 1]

    def replace(self, *changes: tuple[int, int, str]) -> str:
        """Return the source with spans replaced; the spans must not overlap."""
        text = self.source
        for start, end, new in sorted(changes, reverse=True):
            text = text[:start] + new + text[end:]
        return text

    def replace_lines(self, first: int, last: int, new: Iterable[str]) -> str:
        """Return the source with lines `first` to `last` (from 1, inclusive) replaced; last = first - 1 inserts."""
        lines = self.source.split("\n")
        return "\n".join([*lines[: first - 1], *new, *lines[last:]])


def parse(source: str) -> ast.Module | None:
    """Parse the source; None on a syntax error."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def make_snippet(lines: list[str], first: int, last: int) -> Snippet | None:
    """Make a snippet of the lines `first` to `last` (from 1, inclusive) of a file."""
    raw = lines[first - 1 : last]
    source = textwrap.dedent("\n".join(raw)) + "\n"
    tree = parse(source)
    if tree is None or not tree.body or not source.isascii():
        return None
    indent = raw[0][: len(raw[0]) - len(raw[0].lstrip())]
    above, below = tuple(lines[max(0, first - 16) : first - 1]), tuple(lines[last : last + 12])
    return Snippet(source, tree, indent, above, below)


def find_snippets(text: str, max_lines: int = 34) -> Iterator[Snippet]:
    """Yield functions and classes of up to `max_lines` lines, and the imports of the file."""
    tree = parse(text)
    if tree is None:
        return
    lines = text.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.end_lineno is not None:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if 2 <= node.end_lineno - first + 1 <= max_lines and (found := make_snippet(lines, first, node.end_lineno)):
                yield found
    imports = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    if imports and imports[-1].end_lineno is not None:
        end = next(
            (n.end_lineno for n in tree.body if n.lineno > imports[-1].lineno and n.end_lineno), imports[-1].end_lineno
        )
        if end - imports[0].lineno < 40 and (head := make_snippet(lines, imports[0].lineno, end)):
            yield head


def place_in_document(snippet: Snippet, before: str, after: str, rng: random.Random) -> tuple[str, str]:
    """Place both versions in a document: alone, in a new class, or between the lines around the snippet."""
    choice = rng.random()
    if choice < 0.45 or (not snippet.indent and choice < 0.6):
        return before, after
    if snippet.indent and choice < 0.7:
        head = f"class {rng.choice(CLASS_NAMES)}{rng.choice(['', '', '(Base)', '(object)'])}:\n"
        return head + textwrap.indent(before, "    "), head + textwrap.indent(after, "    ")
    above = list(snippet.above)[rng.randrange(len(snippet.above) + 1) :]
    below = list(snippet.below)[: rng.randrange(len(snippet.below) + 1)]
    start, end = "".join(f"{line}\n" for line in above), "".join(f"{line}\n" for line in below)
    return start + textwrap.indent(before, snippet.indent) + end, start + textwrap.indent(after, snippet.indent) + end


# fmt: off
CLASS_NAMES = (
    "Client", "Session", "Config", "Parser", "Node", "Task", "Worker", "Handler", "Model", "User", "Account",
    "Order", "Item", "Cache", "Queue", "Stack", "Graph", "Point", "Vector", "Matrix", "Shape", "Circle",
    "Logger", "Reader", "Writer", "Token", "Lexer", "Engine", "Robot", "Game", "Player", "Board", "Event",
    "Store", "Index", "Record",
)
# fmt: on


def make_diff(before: str, after: str, context: int = 3) -> str:
    """Make the hunks that turn `before` into `after`; both must end with a newline."""
    groups = difflib.SequenceMatcher(
        None, old := before.splitlines(True), new := after.splitlines(True), autojunk=False
    )
    return "".join(format_hunk(group, old, new) for group in groups.get_grouped_opcodes(context))


def format_hunk(group: list[tuple[str, int, int, int, int]], old: list[str], new: list[str]) -> str:
    """Format a group of opcodes as a hunk; an empty side has the number of the line before it, as in diff."""
    i1, i2, j1, j2 = group[0][1], group[-1][2], group[0][3], group[-1][4]
    header = f"@@ -{i1 + (i2 > i1)},{i2 - i1} +{j1 + (j2 > j1)},{j2 - j1} @@\n"
    body = []
    for tag, a, b, c, d in group:
        if tag == "equal":
            body += [" " + line for line in old[a:b]]
        else:
            body += ["-" + line for line in old[a:b]] + ["+" + line for line in new[c:d]]
    return header + "".join(body)


def apply_diff(before: str, diff: str) -> str | None:
    """Apply a diff; None if any count, line number or line does not match exactly."""
    old, result, at = before.splitlines(True), [], 0
    lines = diff.splitlines(True)
    while lines:
        header = HUNK.fullmatch(lines.pop(0))
        if header is None:
            return None
        a, b, c, d = map(int, header.groups())
        result += old[at : a - (b > 0)]
        at = a - (b > 0)
        if len(result) != c - (d > 0):
            return None
        while b or d:
            marker, line = (lines[0][:1], lines.pop(0)[1:]) if lines else ("", "")
            if marker not in tuple(" -+") or (marker != "+" and old[at : at + 1] != [line]):
                return None
            at, b = (at, b) if marker == "+" else (at + 1, b - 1)
            result, d = (result, d) if marker == "-" else ([*result, line], d - 1)
    return "".join(result + old[at:])
