"""Matching of hunks to a document: located by their text, with the header and the cursor as hints.

Lines are searched as characters: every distinct line of the document has a number, the document is a string of these,
and so is a hunk. Finding a block of lines is then `str.find`, which is linear also in the worst case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from codeclippy_ls.diffs.hunks import Hunk, Line, Problem
from codeclippy_ls.text import Document

_SPACES = " \t\r\n"
# Blocks of the same words that are compared by indentation: one is expected, many would take too long.
_MAX_LOOKALIKES = 5
_AMBIGUOUS = "The hunk is indented differently, and its lines occur more than once."


@dataclass(frozen=True, slots=True)
class IndentShift:
    """A common change of indentation: the ``excess`` or the ``lack`` in front of each line of the hunk."""

    excess: str = ""
    lack: str = ""

    def fits(self, line: str) -> bool:
        """Return whether the line can be shifted."""
        return not line.strip(_SPACES) or line.startswith(self.excess)

    def apply(self, line: str) -> str:
        """Shift a line to the document's indentation; empty lines stay as they are."""
        return self.lack + line[len(self.excess) :] if line.strip(_SPACES) else line


@dataclass(frozen=True, slots=True)
class HunkMatch:
    """The lines ``[start, end)`` of a document that a hunk's old lines match, and how to re-indent the hunk."""

    hunk: Hunk
    start: int
    end: int
    shift: IndentShift


class LineIndex:
    """Index of a document's lines for the search of a hunk's old lines. Lines include their line ends."""

    def __init__(self, document: Document) -> None:
        self.document = document
        bounds = pairwise((*document.starts, len(document.text)))
        self.lines = [document.text[start:end] for start, end in bounds if start < end]

    @cached_property
    def eol(self) -> str | None:
        """The document's line end; ``None`` if it mixes several or has none."""
        kinds = [end for end, count in self._ends.items() if count]
        return kinds[0] if len(kinds) == 1 else None

    @cached_property
    def has_stable_numbers(self) -> bool:
        """False if tools count its lines otherwise: a lone CR among LFs ends a line only in an editor."""
        return not (self._ends["\r"] and (self._ends["\n"] or self._ends["\r\n"]))

    @cached_property
    def _ends(self) -> dict[str, int]:
        """Number of line ends of each kind."""
        text = self.document.text
        both = text.count("\r\n")
        return {"\r\n": both, "\n": text.count("\n") - both, "\r": text.count("\r") - both}

    @cached_property
    def rstripped(self) -> _BlockSearch:
        """The lines without trailing white space."""
        return _BlockSearch([line.rstrip(_SPACES) for line in self.lines])

    @cached_property
    def stripped(self) -> _BlockSearch:
        """The lines without leading and trailing white space."""
        return _BlockSearch([line.strip(_SPACES) for line in self.lines])


class _BlockSearch:
    """A sequence of lines that is searched for blocks of lines."""

    def __init__(self, keys: Sequence[str]) -> None:
        distinct = dict.fromkeys(keys)
        self._codes = dict(zip(distinct, map(chr, range(len(distinct))), strict=True))
        self.text = "".join(map(self._codes.__getitem__, keys))
        self._reversed = self.text[::-1]

    def encode(self, keys: Sequence[str]) -> str | None:
        """Encode lines for the search; ``None`` if one is not in the sequence."""
        codes = [self._codes.get(key, "") for key in keys]
        return "".join(codes) if all(codes) else None

    def find_around(self, block: str, line: int) -> list[int]:
        """Find up to two last occurrences of a block before a line, and two first at or after it."""
        line = min(line, len(self.text))
        found = list(_find_all(self.text, block, line, 2))
        reversed_block = block[::-1]
        last = len(self.text) - len(block)
        return [last - at for at in _find_all(self._reversed, reversed_block, max(last - line + 1, 0), 2)] + found


def _find_all(text: str, block: str, start: int, limit: int) -> Iterator[int]:
    """Yield the first occurrences of a block from a start; they may overlap."""
    for _ in range(limit):
        start = text.find(block, start) + 1
        if start == 0:
            return
        yield start - 1


def match_hunk(hunk: Hunk, index: LineIndex, near: int | None, *, only: bool) -> HunkMatch | Problem:
    """Match a hunk to the document, or return the problem.

    Args:
        near: line of the selection or cursor.
        only: the diff has no other hunk.
    """
    hunk = hunk if index.has_stable_numbers else replace(hunk, start=None, is_consistent=False)
    old = hunk.old
    if not old:
        return _locate_insertion(hunk, index, near, only=only)
    block = index.rstripped.encode([line.text.rstrip(_SPACES) for line in old])
    if any(line.end == "" for line in hunk.lines):
        start = len(index.lines) - len(old)
        if block is None or not index.rstripped.text.endswith(block):
            return Problem("The hunk is marked as the end of the file, but does not match there.", hunk.number)
        return HunkMatch(hunk, start, start + len(old), IndentShift())
    if block is None or block not in index.rstripped.text:
        return _match_reindented(hunk, index)
    # With several hunks it is unknown which one the cursor is about.
    chosen = _choose_match(index.rstripped, block, hunk, near if only else None)
    if chosen is None:
        return Problem(
            "The hunk's lines occur more than once, none clearly nearest to its header or the cursor.", hunk.number
        )
    return HunkMatch(hunk, chosen, chosen + len(old), IndentShift())


def _locate_insertion(hunk: Hunk, index: LineIndex, near: int | None, *, only: bool) -> HunkMatch | Problem:
    """Locate lines that are inserted without any line around them.

    Only a cursor locates them: at the header's line if that is directly before or after the cursor's line; else before
    the cursor's line if the diff has no other hunk. An empty document has only one place.
    """
    count = len(index.lines)
    line: int | None = None
    if not count:
        line = 0
    elif near is not None and hunk.lines[-1].end == "":
        line = count
    elif near is not None and hunk.start is not None and near <= hunk.start <= min(near + 1, count):
        line = hunk.start
    elif near is not None and only:
        line = near
    if line is None:
        return Problem("The hunk adds lines without saying after which line.", hunk.number)
    return HunkMatch(hunk, line, line, IndentShift())


def _choose_match(index: _BlockSearch, block: str, hunk: Hunk, near: int | None) -> int | None:
    """Choose a place among equal ones by the hints; a header is believed if it can be verified."""
    hint, size = hunk.start, len(block)
    found = index.find_around(block, hint or 0)
    if len(found) == 1 or (hunk.is_consistent and hint in found):
        return found[0] if len(found) == 1 else hint
    picks: set[int | None] = set()
    if hint is not None:
        picks.add(_find_clearly_nearest(found, lambda start: abs(start - hint)))
    if near is not None:
        beside = index.find_around(block, near)  # inside the block is distance 0
        picks.add(_find_clearly_nearest(beside, lambda start: max(start - near, near - start - size + 1, 0)))
    picks.discard(None)
    return picks.pop() if len(picks) == 1 else None


def _find_clearly_nearest(places: Sequence[int], distance: Callable[[int], int]) -> int | None:
    """Return the nearest place if the next is about three times as far; one line off is not far."""
    first, second = sorted(places, key=distance)[:2]
    return first if distance(second) + 1 >= 3 * (distance(first) + 1) else None


def _match_reindented(hunk: Hunk, index: LineIndex) -> HunkMatch | Problem:
    """Match a hunk at the only place that differs by a common indentation."""
    old = hunk.old
    block = index.stripped.encode([line.text.strip(_SPACES) for line in old])
    nowhere = Problem("The hunk's kept and removed lines are not in the document.", hunk.number)
    if block is None:
        return nowhere
    starts = list(_find_all(index.stripped.text, block, 0, _MAX_LOOKALIKES + 1))
    if len(starts) > _MAX_LOOKALIKES:
        return Problem(_AMBIGUOUS, hunk.number)
    shifts = [(start, _find_shift(old, index.lines[start : start + len(old)])) for start in starts]
    found = [HunkMatch(hunk, start, start + len(old), shift) for start, shift in shifts if shift is not None]
    if len(found) > 1:
        return Problem(_AMBIGUOUS, hunk.number)
    if found and not all(found[0].shift.fits(line.text) for line in hunk.lines):
        return Problem("The hunk is indented differently, and an added line cannot be re-indented.", hunk.number)
    return found[0] if found else nowhere


def _find_shift(old: Iterable[Line], lines: Iterable[str]) -> IndentShift | None:
    """Find the common change of indentation that turns a hunk's lines into a document's lines of the same words."""
    shift: IndentShift | None = None
    for line, there in zip(old, lines, strict=True):
        words = there.lstrip(" \t")
        if not words.strip(_SPACES):
            continue
        right, wrong = there[: len(there) - len(words)], _get_indentation(line.text)
        if shift is None:
            shift = _compare_indentation(wrong, right)
        if shift is None or shift.lack + wrong != shift.excess + right:
            return None
    return shift


def _compare_indentation(wrong: str, right: str) -> IndentShift | None:
    """Return the change that turns one indentation into the other; ``None`` if it is neither more nor less."""
    if right.endswith(wrong):
        return IndentShift(lack=right[: len(right) - len(wrong)])
    if wrong.endswith(right):
        return IndentShift(excess=wrong[: len(wrong) - len(right)])
    return None


def get_line_end(line: str) -> str:
    """Return the line end of a line; empty if it has none."""
    return line[len(line.rstrip("\r\n")) :]


def _get_indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
