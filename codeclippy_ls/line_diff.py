"""Find the lines that differ between two texts, in linear time. Knows neither edits nor the format of diffs.

Lines that occur once in both texts, in the same order, are anchors. Between two anchors, Myers' greedy algorithm ("An
O(ND) Difference Algorithm", 1986) looks ahead by a fixed number of differences, commits to the path that got furthest,
and goes on from there. So changes of up to `_LOOKAHEAD` lines between anchors are minimal; larger ones are correct.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

# Differences per round: the cost is at most 24 comparisons a line, 50 ms for two texts of 4,000 lines.
_LOOKAHEAD = 16
_MAX_LINES = 100_000  # of both texts; of longer ones, all lines between the first and the last difference are changed


class LineChange(NamedTuple):
    """The old lines ``[start, end)`` become the new lines ``[new_start, new_end)``."""

    start: int
    end: int
    new_start: int
    new_end: int


class _Span(NamedTuple):
    """Lines of both texts between two anchors."""

    start: int
    end: int
    new_start: int
    new_end: int


def find_changes(old: Sequence[str], new: Sequence[str]) -> list[LineChange]:
    """Return the changes that turn the old lines into the new ones, in order; unchanged lines lie between them."""
    changes: list[LineChange] = []
    at, new_at = 0, 0
    for start, new_start, size in [*_match(old, new), (len(old), len(new), 0)]:
        if (at, new_at) != (start, new_start):
            changes.append(LineChange(at, start, new_at, new_start))
        at, new_at = start + size, new_start + size
    return changes


def _match(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """Yield blocks of equal lines: the first line in each text, and the number of lines."""
    whole = _Span(0, len(old), 0, len(new))
    head, tail = _count_equal_ends(old, new, whole)
    middle = _Span(head, len(old) - tail, head, len(new) - tail)
    yield 0, 0, head
    if len(old) + len(new) <= _MAX_LINES:
        at, new_at = head, head
        for anchor, new_anchor in _find_anchors(old, new, middle):
            yield from _match_span(old, new, _Span(at, anchor, new_at, new_anchor))
            yield anchor, new_anchor, 1
            at, new_at = anchor + 1, new_anchor + 1
        yield from _match_span(old, new, _Span(at, middle.end, new_at, middle.new_end))
    yield middle.end, middle.new_end, tail


def _count_equal_ends(old: Sequence[str], new: Sequence[str], span: _Span) -> tuple[int, int]:
    """Count the equal lines at the start and, of the others, at the end of a span."""
    size = min(span.end - span.start, span.new_end - span.new_start)
    head = tail = 0
    while head < size and old[span.start + head] == new[span.new_start + head]:
        head += 1
    while head + tail < size and old[span.end - 1 - tail] == new[span.new_end - 1 - tail]:
        tail += 1
    return head, tail


def _find_anchors(old: Sequence[str], new: Sequence[str], span: _Span) -> list[tuple[int, int]]:
    """Find the lines that occur once in each text of a span: the longest sequence with the same order in both."""
    counts = Counter(old[span.start : span.end])
    new_counts = Counter(new[span.new_start : span.new_end])
    places = {new[at]: at for at in range(span.new_start, span.new_end) if new_counts[new[at]] == 1}
    pairs = [(at, places[old[at]]) for at in range(span.start, span.end) if counts[old[at]] == 1 and old[at] in places]
    return _find_longest_ascent(pairs)


def _find_longest_ascent(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the longest subsequence whose second numbers ascend (patience sorting)."""
    tops: list[int] = []  # the smallest last number of an ascent, by length
    chains: list[Any] = []  # that ascent, as linked pairs
    for pair in pairs:
        length = bisect_left(tops, pair[1])
        chain = pair, (chains[length - 1] if length else None)
        if length == len(tops):
            tops.append(pair[1])
            chains.append(chain)
        else:
            tops[length], chains[length] = pair[1], chain
    return _unlink(chains[-1] if chains else None)


def _match_span(old: Sequence[str], new: Sequence[str], span: _Span) -> Iterator[tuple[int, int, int]]:
    """Yield blocks of equal lines in a span."""
    head, tail = _count_equal_ends(old, new, span)
    yield span.start, span.new_start, head
    rest = _Span(span.start + head, span.end - tail, span.new_start + head, span.new_end - tail)
    if set(old[rest.start : rest.end]).isdisjoint(new[rest.new_start : rest.new_end]):
        rest = rest._replace(start=rest.end)  # nothing to find, which would take longest
    while rest.start < rest.end and rest.new_start < rest.new_end:
        blocks, start, new_start = _look_ahead(old, new, rest)
        yield from blocks
        rest = rest._replace(start=start, new_start=new_start)
    yield span.end - tail, span.new_end - tail, tail


def _look_ahead(old: Sequence[str], new: Sequence[str], span: _Span) -> tuple[list[tuple[int, int, int]], int, int]:
    """Follow the paths with few differences from the start of a span.

    Returns:
        The equal blocks on the path that got furthest, and the lines where it ended.
    """
    size, new_size = span.end - span.start, span.new_end - span.new_start
    # By diagonal (old line minus new line): the furthest old line, and the equal blocks on the way as a linked list.
    frontier: dict[int, tuple[int, Any]] = {1: (0, None)}
    for differences in range(_LOOKAHEAD + 1):
        for diagonal in range(-differences, differences + 1, 2):
            above, left = frontier.get(diagonal + 1), frontier.get(diagonal - 1)
            steps = []
            if above is not None and above[0] - diagonal <= new_size:
                steps.append(above)
            if left is not None and left[0] < size:
                steps.append((left[0] + 1, left[1]))
            if not steps:
                continue
            at, blocks = start, _ = max(steps, key=lambda step: step[0])
            while (
                at < size and at - diagonal < new_size and old[span.start + at] == new[span.new_start + at - diagonal]
            ):
                at += 1
            if at > start:
                blocks = (span.start + start, span.new_start + start - diagonal, at - start), blocks
            frontier[diagonal] = at, blocks
            if at == size and at - diagonal == new_size:
                return _unlink(blocks), span.end, span.new_end
    diagonal = max(frontier, key=lambda one: 2 * frontier[one][0] - one)
    at, blocks = frontier[diagonal]
    return _unlink(blocks), span.start + at, span.new_start + at - diagonal


def _unlink(chain: Any) -> list[Any]:
    """Return the items of a linked list, the innermost first."""
    found = []
    while chain is not None:
        item, chain = chain
        found.append(item)
    return found[::-1]
