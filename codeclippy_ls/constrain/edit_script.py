"""Edit scripts, lines with their sign over a whole document, written as unified diffs with headers that are right."""

from __future__ import annotations

from collections.abc import Sequence

# Context that `diff -u` shows around a change, and so all that models trained on such diffs have seen.
CONTEXT = 3


def written(script: Sequence[bytes]) -> str:
    """The script as hunks with context; empty where it changes nothing."""
    script = _minimal(script)
    return "".join(_hunk(script, start, end) for start, end in _groups(script))


def _minimal(script: Sequence[bytes]) -> list[bytes]:
    """The script with what stands at the head or tail of a change on both sides as context, removed lines first."""
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


def _groups(script: Sequence[bytes]) -> list[tuple[int, int]]:
    """Spans of an edit script around its changes, with context; changes that share context share a hunk."""
    spans: list[tuple[int, int]] = []
    for index, line in enumerate(script):
        if line[:1] == b" ":
            continue
        start, end = max(index - CONTEXT, 0), min(index + CONTEXT + 1, len(script))
        if spans and start <= spans[-1][1]:
            start = spans.pop()[0]
        spans.append((start, end))
    return spans


def _hunk(script: Sequence[bytes], start: int, end: int) -> str:
    """The lines ``[start, end)`` of a script with their header; a side without lines is numbered by the line before."""
    numbers = []
    for sign in (b"+", b"-"):  # the old side has no added lines, the new side no removed ones
        before = sum(line[:1] != sign for line in script[:start])
        count = sum(line[:1] != sign for line in script[start:end])
        numbers.append(f"{before + 1 if count else before},{count}")
    body = "".join(line.decode() + "\n" for line in script[start:end])
    return f"@@ -{numbers[0]} +{numbers[1]} @@\n{body}"
