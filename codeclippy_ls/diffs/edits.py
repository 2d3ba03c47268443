"""Edits from hunks that have their places.

A hunk's kept lines are never rewritten. What is left are blocks: runs of lines that are replaced by others. Only here
line ends are decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from codeclippy_ls.diffs.hunks import Line, Problem
from codeclippy_ls.diffs.matching import HunkMatch, LineIndex, line_end
from codeclippy_ls.text import Edit, trim_edit


@dataclass(frozen=True, slots=True)
class _Block:
    """Replace the lines ``[start, end)`` by ``lines``, each with its line end."""

    start: int
    end: int
    lines: tuple[str, ...]


def find_overlap(places: Sequence[HunkMatch]) -> Problem | None:
    """The problem of a hunk that shares a line with the one before it, or inserts where that one does."""
    for one, other in pairwise(places):
        if other.start < one.end or (one.start, one.end) == (other.start, other.end):
            return Problem(f"Hunks {one.hunk.number} and {other.hunk.number} overlap.", other.hunk.number)
    return None


def build_edits(places: Sequence[HunkMatch], ground: LineIndex) -> list[Edit]:
    """The smallest edits that do what the hunks say; places are in order and do not overlap."""
    blocks = [block for place in places for block in _blocks(place, _own_eol(place, ground))]
    return _edits(blocks, ground, _ends_in_newline(places, ground))


def build_edits_at_lines(
    places: Sequence[HunkMatch], ground: LineIndex, numbers: Sequence[int], dropped: Sequence[int]
) -> list[Edit]:
    """The same where places count other lines: ``numbers`` has the document's line of each; ``dropped`` lines go."""

    def mapped(block: _Block) -> _Block:
        behind = numbers[-1] + 1 if numbers else len(ground.lines)
        start = numbers[block.start] if block.start < len(numbers) else behind
        return _Block(start, numbers[block.end - 1] + 1 if block.end > block.start else start, block.lines)

    eol = ground.document.eol
    blocks = [mapped(block) for place in places for block in _blocks(place, eol)]
    if blocks:
        blocks += [_Block(line, line + 1, ()) for line in dropped if not any(b.start <= line < b.end for b in blocks)]
        blocks.sort(key=lambda block: (block.start, block.end))
    return _edits(blocks, ground, not ground.lines or line_end(ground.lines[-1]) != "")


def _edits(blocks: Sequence[_Block], ground: LineIndex, ended: bool) -> list[Edit]:
    """The edits of blocks in order; ``ended`` is whether the result ends with a line end."""
    joined: list[_Block] = []
    for block in blocks:
        # One edit where two would touch: editors differ in how they order edits at one position.
        if joined and joined[-1].end == block.start:
            joined[-1] = replace(joined[-1], end=block.end, lines=joined[-1].lines + block.lines)
        else:
            joined.append(block)
    edits = [_edit(block, ground, ended) for block in joined]
    return [edit for edit in edits if edit.text or edit.start < edit.end]


def _blocks(place: HunkMatch, eol: str | None) -> Iterator[_Block]:
    """The blocks of one hunk; added lines end in ``eol``, or as they do in the diff."""
    start = at = place.start
    added: list[str] = []
    for line in (*place.hunk.lines, Line(" ", "", "")):  # one kept line more, to close the last block
        if line.sign == "+":
            added.append(place.shift.applied(line.text) + (line.end if eol is None or not line.end else eol))
            continue
        if line.sign == " ":
            if added or start < at:
                yield _Block(start, at, tuple(added))
            start, added = at + 1, []
        at += 1


def _own_eol(place: HunkMatch, ground: LineIndex) -> str | None:
    """The line end for all added lines of a hunk; ``None`` where they may keep their own.

    They may where the document mixes line ends (or has none yet), and the hunk has those of the lines that it matches.
    """
    if ground.eol is not None:
        return ground.eol
    there = ground.lines[place.start : place.end]
    same = [line.text + line.end for line in place.hunk.old] == there
    return None if same else ground.document.eol


def _ends_in_newline(places: Sequence[HunkMatch], ground: LineIndex) -> bool:
    """Whether the result ends with a line end: as the document does, unless a hunk marks the one side only."""
    for place in places:
        old, new = (bool(side) and side[-1].end == "" for side in (place.hunk.old, place.hunk.new))
        if old != new:
            return old
    return not ground.lines or line_end(ground.lines[-1]) != ""


def _edit(block: _Block, ground: LineIndex, ended: bool) -> Edit:
    """The edit of a block, trimmed to what differs."""
    document, count = ground.document, len(ground.lines)
    eol = document.eol
    lines = [line if line_end(line) else line + eol for line in block.lines]
    start = document.starts[block.start] if block.start < count else len(document.text)
    end = document.starts[block.end] if block.end < count else len(document.text)
    if block.end == count:
        if block.start and not line_end(ground.lines[-1]) and block.start == count:
            lines.insert(0, eol)  # the document's last line is ended first
        if not ended and lines:
            lines[-1] = lines[-1].rstrip("\r\n")
        elif not ended and block.start:
            start -= len(line_end(ground.lines[block.start - 1]))
    return trim_edit(document.text, start, end, "".join(lines))
