"""Unified diffs, written so that `patch -p1` and `git apply` take them."""

from __future__ import annotations

import difflib

_NO_NEWLINE = "\\ No newline at end of file\n"
_ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def write_diff(before: str, after: str, name: str, context: int = 3) -> str:
    """The diff that turns one text into the other, empty where they are the same.

    Lines end at LF and at nothing else, as for all tools that read diffs; CR is part of a line.

    Args:
        before: the old text.
        after: the new text.
        name: the file's path, relative to where the diff is applied.
        context: kept lines around a change.
    """
    old, new = _lines(before), _lines(after)
    written: list[str] = []
    for line in difflib.unified_diff(old, new, _quoted(f"a/{name}"), _quoted(f"b/{name}"), n=context):
        written.append(line if line.endswith("\n") else line + "\n" + _NO_NEWLINE)
    return "".join(written)


def _lines(text: str) -> list[str]:
    *ended, rest = text.split("\n")
    return [line + "\n" for line in ended] + ([rest] if rest else [])


def _quoted(path: str) -> str:
    """A path as git writes it: in quotes where it has control characters, with a tab after it where it has blanks."""
    if any(char in _ESCAPES or char < " " for char in path):
        return '"' + "".join(_ESCAPES.get(char, char if char >= " " else f"\\{ord(char):03o}") for char in path) + '"'
    return path + "\t" if " " in path else path
