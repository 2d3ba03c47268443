"""Edit scripts: all lines of a document, each with its line type, formatted as unified diffs with correct headers."""

from __future__ import annotations

from collections.abc import Sequence

# Lines of context that `diff -u` shows around a change, and so all that models trained on such diffs have seen.
CONTEXT = 3


def format_script(script: Sequence[bytes]) -> str:
    """Format a script as hunks with context; empty if it changes nothing."""
    script = _minimize(script)
    return "".join(_format_hunk(script, start, end) for start, end in _group_changes(script))


def _minimize(script: Sequence[bytes]) -> list[bytes]:
    """Turn equal lines at the start or end of a change into context, and put removed lines first."""
    result: list[bytes] = []
    removed: list[bytes] = []
    added: list[bytes] = []
    for line in [*script, b" "]:
        if line[:1] != b" ":
            (removed if line[:1] == b"-" else added).append(line[1:])
            continue
        head = next(
            (i for i, (old, new) in enumerate(zip(removed, added)) if old != new),  # noqa: B905
            min(len(removed), len(added)),
        )
        tail = 0
        while tail < min(len(removed), len(added)) - head and removed[-1 - tail] == added[-1 - tail]:
            tail += 1
        result += [b" " + old for old in removed[:head]]
        result += [b"-" + old for old in removed[head : len(removed) - tail]]
        result += [b"+" + new for new in added[head : len(added) - tail]]
        result += [b" " + old for old in removed[len(removed) - tail :]]
        result.append(line)
        removed, added = [], []
    return result[:-1]


def _group_changes(script: Sequence[bytes]) -> list[tuple[int, int]]:
    """Group changes that share context, as spans of the script with context."""
    spans: list[tuple[int, int]] = []
    for index, line in enumerate(script):
        if line[:1] == b" ":
            continue
        start, end = max(index - CONTEXT, 0), min(index + CONTEXT + 1, len(script))
        if spans and start <= spans[-1][1]:
            start = spans.pop()[0]
        spans.append((start, end))
    return spans


def _format_hunk(script: Sequence[bytes], start: int, end: int) -> str:
    """Format the lines ``[start, end)`` of a script as a hunk; an empty side is numbered by the line before."""
    numbers = []
    for line_type in (b"+", b"-"):  # the old side has no added lines, the new side no removed ones
        before = sum(line[:1] != line_type for line in script[:start])
        count = sum(line[:1] != line_type for line in script[start:end])
        numbers.append(f"{before + 1 if count else before},{count}")
    body = "".join(line.decode() + "\n" for line in script[start:end])
    return f"@@ -{numbers[0]} +{numbers[1]} @@\n{body}"
