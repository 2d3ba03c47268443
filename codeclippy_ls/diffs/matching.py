"""Where a hunk stands in a document: found by its text, with its header and the cursor as hints.

Lines are searched as characters: every distinct line of the document has a number, the document is a string of
them, and so is a hunk. Finding a block of lines is then `str.find`, which is linear in the worst case too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from codeclippy_ls.diffs.hunks import Hunk, Line, Problem
from codeclippy_ls.text import Document

_BLANKS = " \t\r\n"
# Blocks of the same words that are compared by their indentation: one is expected, many would take too long.
_MOST_LOOKALIKES = 5


@dataclass(frozen=True, slots=True)
class IndentShift:
    """A common change of indentation: what each line of the hunk has too much in front, or too little."""

    excess: str = ""
    lack: str = ""

    def fits(self, line: str) -> bool:
        """Whether the line can be shifted."""
        return not line.strip(_BLANKS) or line.startswith(self.excess)

    def applied(self, line: str) -> str:
        """The line as it must stand in the document; blank lines stay as they are."""
        return self.lack + line[len(self.excess) :] if line.strip(_BLANKS) else line


@dataclass(frozen=True, slots=True)
class HunkMatch:
    """The lines ``[start, end)`` of a document at which a hunk's old lines stand, and how it is re-indented."""

    hunk: Hunk
    start: int
    end: int
    shift: IndentShift


class LineIndex:
    """The lines of a document, ready to be searched for a hunk's old lines. Lines have their line ends here."""

    def __init__(self, document: Document) -> None:
        self.document = document
        bounds = pairwise((*document.starts, len(document.text)))
        self.lines = [document.text[start:end] for start, end in bounds if start < end]

    @cached_property
    def eol(self) -> str | None:
        """The one line end of the document, ``None`` where it mixes several or has none."""
        kinds = {line_end(line) for line in self.lines} - {""}
        return kinds.pop() if len(kinds) == 1 else None

    @cached_property
    def numbered(self) -> bool:
        """Whether everybody counts its lines alike: a lone CR among LFs ends a line in an editor, but not in a tool."""
        return not ("\n" in self.document.text and any(line.endswith("\r") for line in self.lines))

    @cached_property
    def loose(self) -> _Index:
        """The lines without their trailing blanks."""
        return _Index([line.rstrip(_BLANKS) for line in self.lines])

    @cached_property
    def bare(self) -> _Index:
        """The lines without their blanks on either side."""
        return _Index([line.strip(_BLANKS) for line in self.lines])


class _Index:
    """A sequence of keys that is searched for shorter ones."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._codes: dict[str, str] = {}
        self.text = "".join([self._codes.setdefault(key, chr(len(self._codes))) for key in keys])
        self._reversed = self.text[::-1]

    def encoded(self, keys: Sequence[str]) -> str | None:
        """The keys as they are searched for, ``None`` where one is not in the index."""
        codes = [self._codes.get(key, "") for key in keys]
        return "".join(codes) if all(codes) else None

    def around(self, block: str, line: int) -> list[int]:
        """The two last places of a block before a line and the two first at or after it, as far as there are."""
        line = min(line, len(self.text))
        found = list(_finds(self.text, block, line, 2))
        turned = block[::-1]
        last = len(self.text) - len(block)
        return [last - at for at in _finds(self._reversed, turned, max(last - line + 1, 0), 2)] + found


def _finds(text: str, block: str, start: int, most: int) -> Iterator[int]:
    """The first places of a block from a start on; they may overlap."""
    for _ in range(most):
        start = text.find(block, start) + 1
        if start == 0:
            return
        yield start - 1


def match_hunk(hunk: Hunk, ground: LineIndex, near: int | None, *, only: bool) -> HunkMatch | Problem:
    """The place of a hunk, or why it has none.

    Args:
        hunk: what is to be placed.
        ground: the document.
        near: line of the selection or cursor.
        only: whether the diff has no other hunk.
    """
    hunk = hunk if ground.numbered else replace(hunk, start=None, sure=False)
    old = hunk.old
    if not old:
        return _held(hunk, ground, near, only=only)
    block = ground.loose.encoded([line.text.rstrip(_BLANKS) for line in old])
    if any(line.end == "" for line in hunk.lines):
        start = len(ground.lines) - len(old)
        if block is None or not ground.loose.text.endswith(block):
            return Problem("The hunk is marked as the end of the file, but does not match there.", hunk.number)
        return HunkMatch(hunk, start, start + len(old), IndentShift())
    if block is None or block not in ground.loose.text:
        return _reindented(hunk, ground)
    # Of several hunks, nobody knows which one the cursor is about.
    chosen = _chosen(ground.loose, block, hunk, near if only else None)
    if chosen is None:
        return Problem("The hunk's lines stand more than once, none clearly nearest to what it says.", hunk.number)
    return HunkMatch(hunk, chosen, chosen + len(old), IndentShift())


def _held(hunk: Hunk, ground: LineIndex, near: int | None, *, only: bool) -> HunkMatch | Problem:
    """The place of lines that are inserted without any line around them.

    Only a cursor holds them: the header's place where it is at the cursor's line, before or after it; else before
    the cursor's line if nothing else is to be changed. An empty document has just one place.
    """
    count = len(ground.lines)
    place: int | None = None
    if not count:
        place = 0
    elif near is not None and hunk.lines[-1].end == "":
        place = count
    elif near is not None and hunk.start is not None and near <= hunk.start <= min(near + 1, count):
        place = hunk.start
    elif near is not None and only:
        place = near
    if place is None:
        return Problem("The hunk adds lines without saying after which line.", hunk.number)
    return HunkMatch(hunk, place, place, IndentShift())


def _chosen(index: _Index, block: str, hunk: Hunk, near: int | None) -> int | None:
    """The place that the hints tell from its look-alikes; a header is believed where it can be verified."""
    hint, size = hunk.start, len(block)
    found = index.around(block, hint or 0)
    if len(found) == 1 or (hunk.sure and hint in found):
        return found[0] if len(found) == 1 else hint
    picks: set[int | None] = set()
    if hint is not None:
        picks.add(_clearly_nearest(found, lambda start: abs(start - hint)))
    if near is not None:
        beside = index.around(block, near)  # and inside is as near as can be
        picks.add(_clearly_nearest(beside, lambda start: max(start - near, near - start - size + 1, 0)))
    picks.discard(None)
    return picks.pop() if len(picks) == 1 else None


def _clearly_nearest(places: Sequence[int], distance: Callable[[int], int]) -> int | None:
    """The nearest of several places if the next is about three times as far; one line off is not far."""
    first, second = sorted(places, key=distance)[:2]
    return first if distance(second) + 1 >= 3 * (distance(first) + 1) else None


def _reindented(hunk: Hunk, ground: LineIndex) -> HunkMatch | Problem:
    """The one place where only a common indentation is different."""
    old = hunk.old
    block = ground.bare.encoded([line.text.strip(_BLANKS) for line in old])
    nowhere = Problem("The hunk's kept and removed lines do not stand in the document.", hunk.number)
    if block is None:
        return nowhere
    starts = list(_finds(ground.bare.text, block, 0, _MOST_LOOKALIKES + 1))
    shifts = [(start, _shift(old, ground.lines[start : start + len(old)])) for start in starts]
    found = [HunkMatch(hunk, start, start + len(old), shift) for start, shift in shifts if shift is not None]
    if len(found) > 1 or len(starts) > _MOST_LOOKALIKES:
        return Problem("The hunk is indented differently, and its lines stand more than once.", hunk.number)
    if found and not all(found[0].shift.fits(line.text) for line in hunk.lines):
        return Problem("The hunk is indented differently, and an added line cannot be re-indented.", hunk.number)
    return found[0] if found else nowhere


def _shift(old: Iterable[Line], lines: Iterable[str]) -> IndentShift | None:
    """The common change of indentation that turns a hunk's lines into a document's of the same words."""
    shift: IndentShift | None = None
    for line, there in zip(old, lines, strict=True):
        if not there.strip(_BLANKS):
            continue
        wrong, right = _indentation(line.text), _indentation(there)
        if right.endswith(wrong):
            step = IndentShift(lack=right[: len(right) - len(wrong)])
        elif wrong.endswith(right):
            step = IndentShift(excess=wrong[: len(wrong) - len(right)])
        else:
            return None
        if shift not in (None, step):
            return None
        shift = step
    return shift


def line_end(line: str) -> str:
    """The line end of a line; empty where it has none."""
    return line[len(line.rstrip("\r\n")) :]


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
