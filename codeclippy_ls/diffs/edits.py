"""Edits from located hunks.

A hunk's kept lines are never rewritten. The rest are blocks: runs of lines that are replaced by others. Line ends are
decided only here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from codeclippy_ls.diffs.hunks import Line, Problem
from codeclippy_ls.diffs.matching import HunkMatch, LineIndex, get_line_end
from codeclippy_ls.text import Edit, trim_edit


@dataclass(frozen=True, slots=True)
class _Block:
    """Replace the lines ``[start, end)`` by ``lines``, each with its line end."""

    start: int
    end: int
    lines: tuple[str, ...]


def find_overlap(matches: Sequence[HunkMatch]) -> Problem | None:
    """Find a hunk that shares a line with the one before it, or inserts at the same line."""
    for one, other in pairwise(matches):
        if other.start < one.end or (one.start, one.end) == (other.start, other.end):
            return Problem(f"Hunks {one.hunk.number} and {other.hunk.number} overlap.", other.hunk.number)
    return None


def build_edits(matches: Sequence[HunkMatch], index: LineIndex) -> list[Edit]:
    """Build minimal edits from hunk matches, which are in order and do not overlap."""
    blocks = [block for match in matches for block in _split_blocks(match, _choose_eol(match, index))]
    return _join_blocks(blocks, index, _ends_in_newline(matches, index))


def build_edits_at_lines(
    matches: Sequence[HunkMatch], index: LineIndex, numbers: Sequence[int], dropped: Sequence[int]
) -> list[Edit]:
    """Build edits from matches that count some of the document's lines.

    Args:
        numbers: the document's line of each counted line.
        dropped: lines that are removed with the edit.
    """

    def map_block(block: _Block) -> _Block:
        end = numbers[-1] + 1 if numbers else len(index.lines)
        start = numbers[block.start] if block.start < len(numbers) else end
        return _Block(start, numbers[block.end - 1] + 1 if block.end > block.start else start, block.lines)

    eol = index.document.eol
    blocks = [map_block(block) for match in matches for block in _split_blocks(match, eol)]
    if blocks:
        blocks += [_Block(line, line + 1, ()) for line in dropped if not any(b.start <= line < b.end for b in blocks)]
        blocks.sort(key=lambda block: (block.start, block.end))
    return _join_blocks(blocks, index, not index.lines or get_line_end(index.lines[-1]) != "")


def _join_blocks(blocks: Sequence[_Block], index: LineIndex, final_newline: bool) -> list[Edit]:
    """Join blocks that touch and turn each into an edit; ``final_newline``: the result ends with a line end."""
    joined: list[_Block] = []
    for block in blocks:
        # One edit instead of two that touch: editors differ in how they order edits at one position.
        if joined and joined[-1].end == block.start:
            joined[-1] = replace(joined[-1], end=block.end, lines=joined[-1].lines + block.lines)
        else:
            joined.append(block)
    edits = [_build_edit(block, index, final_newline) for block in joined]
    return [edit for edit in edits if edit.text or edit.start < edit.end]


def _split_blocks(match: HunkMatch, eol: str | None) -> Iterator[_Block]:
    """Yield the blocks of one hunk; added lines end in ``eol``, or as they do in the diff."""
    start = at = match.start
    added: list[str] = []
    for line in (*match.hunk.lines, Line(" ", "", "")):  # one more kept line, to close the last block
        if line.line_type == "+":
            added.append(match.shift.apply(line.text) + (line.end if eol is None or not line.end else eol))
            continue
        if line.line_type == " ":
            if added or start < at:
                yield _Block(start, at, tuple(added))
            start, added = at + 1, []
        at += 1


def _choose_eol(match: HunkMatch, index: LineIndex) -> str | None:
    """Choose the line end for all added lines of a hunk; ``None`` if they keep their own.

    They keep it if the document mixes line ends (or has none yet) and the hunk has those of the lines it matches.
    """
    if index.eol is not None:
        return index.eol
    matched = index.lines[match.start : match.end]
    same = [line.text + line.end for line in match.hunk.old] == matched
    return None if same else index.document.eol


def _ends_in_newline(matches: Sequence[HunkMatch], index: LineIndex) -> bool:
    """Return whether the result ends with a line end: as the document does, unless a hunk marks one side only."""
    for match in matches:
        old, new = (bool(side) and side[-1].end == "" for side in (match.hunk.old, match.hunk.new))
        if old != new:
            return old
    return not index.lines or get_line_end(index.lines[-1]) != ""


def _build_edit(block: _Block, index: LineIndex, final_newline: bool) -> Edit:
    """Build the edit of a block, trimmed to the difference."""
    document, count = index.document, len(index.lines)
    eol = document.eol
    lines = [line if get_line_end(line) else line + eol for line in block.lines]
    start = document.starts[block.start] if block.start < count else len(document.text)
    end = document.starts[block.end] if block.end < count else len(document.text)
    if block.end == count:
        if block.start and not get_line_end(index.lines[-1]) and block.start == count:
            lines.insert(0, eol)  # the document's last line is final_newline first
        if not final_newline and lines:
            lines[-1] = lines[-1].rstrip("\r\n")
        elif not final_newline and block.start:
            start -= len(get_line_end(index.lines[block.start - 1]))
    return trim_edit(document.text, start, end, "".join(lines))
