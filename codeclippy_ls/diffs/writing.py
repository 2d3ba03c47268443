"""Write unified diffs that `patch -p1` and `git apply` accept."""

from __future__ import annotations

import difflib

_NO_NEWLINE = "\\ No newline at end of file\n"
_ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def write_diff(before: str, after: str, name: str, context: int = 3) -> str:
    """Write the diff that turns one text into the other; empty if they are equal.

    Lines end at LF only, as for all tools that read diffs; CR is part of a line.

    Args:
        before: the old text.
        after: the new text.
        name: the file's path, relative to where the diff is applied.
        context: kept lines around a change.
    """
    old, new = _split_lines(before), _split_lines(after)
    rows: list[str] = []
    for line in difflib.unified_diff(old, new, _quote_path(f"a/{name}"), _quote_path(f"b/{name}"), n=context):
        rows.append(line if line.endswith("\n") else line + "\n" + _NO_NEWLINE)
    return "".join(rows)


def _split_lines(text: str) -> list[str]:
    *complete, rest = text.split("\n")
    return [line + "\n" for line in complete] + ([rest] if rest else [])


def _quote_path(path: str) -> str:
    """Write a path as git does: in quotes if it has control characters, followed by a tab if it has spaces."""
    if any(char in _ESCAPES or char < " " for char in path):
        return '"' + "".join(_ESCAPES.get(char, char if char >= " " else f"\\{ord(char):03o}") for char in path) + '"'
    return path + "\t" if " " in path else path
