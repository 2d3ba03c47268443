"""The hunks of a diff, cut out of whatever a model wrote around them.

A header's numbers are never trusted to tell where its hunk ends: the hunk goes on for as long as lines look like a
hunk's, and every header is recounted from them before `unidiff` reads the structure. A line that belongs to no hunk
but may have been meant for one refuses the diff. Knows nothing of the document but whether it is empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from unidiff import PatchSet
from unidiff.errors import UnidiffParseError

from codeclippy_ls.text import replace_surrogates, split_lines, to_lf

# More than any model writes in one answer, and little enough that reading stays below 100 ms.
MOST_CHARACTERS = 200_000
MOST_LINES = 10_000  # CR counts as well
MOST_HUNKS = 1_000

_NUMBER = r"([0-9]+)(?:,([0-9]+))?"
_HEADER = re.compile(rf"@@ *-{_NUMBER}(?: *\+{_NUMBER})?")
_FENCE = ("```", "~~~")
_SIGNS = ("+", "-")
_MARKER = "\\ No newline at end of file"
_FOREIGN = re.compile(r"@@@|\*\*\* |<{5,9} ")
_OPERATION = re.compile(
    r"(?:old|new) mode [0-7]+|deleted file mode |(?:rename|copy) (?:from|to) |similarity index |GIT binary patch"
    r"|Binary files? .*(?:differ|has changed)|\+\+\+ \"?/dev/null"
)
_NOT_UNIFIED = "a context diff, a combined diff, a search-and-replace block or another kind of patch."
_CREATION = re.compile(r"new file mode |--- \"?/dev/null")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a diff, or a hunk of it (numbered from 1; 0 is the whole), is not applied; a note where not ``fatal``."""

    reason: str
    hunk: int = 0
    fatal: bool = True


class Line(NamedTuple):
    """A line of a hunk: its sign, its text and its line end, which is empty where marked as having none."""

    sign: str
    text: str
    end: str


@dataclass(frozen=True, slots=True)
class Hunk:
    """A finished hunk that changes something.

    Attributes:
        number: its place in the diff, from 1.
        lines: lines in the sense of `text`, so a lone CR inside a line of the diff has divided it.
        start: index of the document's line at which its header puts it; a hint.
        sure: whether all its header's numbers agree with the bodies of all hunks.
    """

    number: int
    lines: tuple[Line, ...]
    start: int | None
    sure: bool

    @property
    def old(self) -> list[Line]:
        """The lines that must stand in the document."""
        return [line for line in self.lines if line.sign != "+"]

    @property
    def new(self) -> list[Line]:
        """The lines that stand there afterwards."""
        return [line for line in self.lines if line.sign != "-"]


@dataclass(frozen=True, slots=True)
class _Header:
    """The numbers of a header; a count is ``None`` where the header does not tell it."""

    old_start: int | None = None
    old: int | None = None
    new_start: int | None = None
    new: int | None = None


@dataclass(frozen=True, slots=True)
class _Piece:
    """A hunk as it stands in the text.

    Attributes:
        body: its lines, without empty ones at the end.
        old, new: how many lines of either side it has, empty ones at the end included.
        then: the lines up to the next hunk, ``None`` after a hunk that nothing follows.
    """

    number: int
    header: _Header
    body: tuple[str, ...]
    old: int
    new: int
    then: tuple[str, ...] | None

    @property
    def exact(self) -> bool:
        """Whether the header counts what is there; empty lines after a hunk may be part of it or not."""
        if self.header.old is None or self.header.new is None:
            return False
        empty = self.old - _counts(self.body)[0]
        missing = self.old - self.header.old
        return missing == self.new - self.header.new and 0 <= missing <= empty

    @property
    def changes(self) -> bool:
        """Whether the hunk removes or adds anything."""
        return any(line[:1] in _SIGNS for line in self.body)


def parse_hunks(text: str, *, whole: bool, empty_document: bool) -> tuple[list[Hunk], list[Problem]]:
    """The hunks of a text. Problems are fatal, or notes of hunks that were left out."""
    if len(text) > MOST_CHARACTERS:
        return [], [Problem(f"The diff is longer than {MOST_CHARACTERS} characters.")]
    lines, ended = _lines(text)
    if sum(1 + line.count("\r") for line in lines) > MOST_LINES:
        return [], [Problem(f"The diff is longer than {MOST_LINES} lines.")]
    above, pieces = _pieces(lines)
    if len(pieces) > MOST_HUNKS:
        return [], [Problem(f"The diff has more than {MOST_HUNKS} hunks.")]
    if problem := _foreign(above, pieces, empty_document):
        return [], [problem]
    if not pieces:
        return [], [Problem("The answer is not a unified diff: it has no line that starts with @@.")]
    notes = []
    if not whole and _unfinished(pieces[-1], ended):
        cut_off = pieces.pop()
        notes.append(Problem("The last hunk was cut off and is left out.", cut_off.number, fatal=not pieces))
    notes += [Problem(f"Hunk {p.number} changes nothing.", p.number, fatal=False) for p in pieces if not p.changes]
    hunks, problem = _parsed([piece for piece in pieces if piece.changes])
    return ([], [problem]) if problem else (hunks, notes)


def _lines(text: str) -> tuple[list[str], bool]:
    """The lines without their line ends (CR stays where others end in LF alone), and whether the last one is ended."""
    text = replace_surrogates(text.removeprefix("\ufeff"))
    if text.count("\n") == text.count("\r\n"):
        text = to_lf(text)
    if text.lstrip().startswith("@@"):  # the seed format has a blank between <DFF> and the first header
        text = text.lstrip()
    lines = text.split("\n")
    ended = lines[-1] == ""
    return (lines[:-1] if ended else lines), ended


def _pieces(lines: Sequence[str]) -> tuple[Sequence[str], list[_Piece]]:
    """What stands above the first hunk, and the hunks."""
    first = at = _next_header(lines, 0)
    heads = _file_heads(lines[:first])
    pieces: list[_Piece] = []
    while at < len(lines):
        header = _header(lines[at])
        end = _body_end(lines, at + 1, header, heads)
        after = _next_header(lines, end)
        body, then = tuple(lines[at + 1 : end]), tuple(lines[end:after])
        heads |= _file_heads(then)
        kept = len(body)
        while kept and body[kept - 1] in ("", "\r"):
            kept -= 1
        pieces.append(_Piece(len(pieces) + 1, header, body[:kept], *_counts(body), then if end < len(lines) else None))
        at = after
    return lines[:first], pieces


def _next_header(lines: Sequence[str], first: int) -> int:
    """The next line that opens a hunk; three signs at its start would be git's diff of a merge."""
    opening = (at for at in range(first, len(lines)) if lines[at].startswith("@@") and lines[at][2:3] != "@")
    return next(opening, len(lines))


def _file_heads(lines: Sequence[str]) -> set[tuple[str, str]]:
    """The pairs of ``---`` and ``+++`` lines."""
    return {(a, b) for a, b in pairwise(lines) if a.startswith("--- ") and b.startswith("+++ ")}


def _header(line: str) -> _Header:
    """The numbers of a header, as far as it has them."""
    match = _HEADER.match(line)
    if match is None:
        return _Header()
    # Longer numbers mean no more than this one, and int() raises for very long ones.
    old_start, old, new_start, new = (None if n is None else int(n) if len(n) < 10 else 10**9 for n in match.groups())
    if old_start is None or new_start is None:
        return _Header(old_start)
    return _Header(old_start, 1 if old is None else old, new_start, 1 if new is None else new)


def _counts(body: Iterable[str]) -> tuple[int, int]:
    """How many lines of a body are the document's, and how many the result's."""
    signs = [line[:1] for line in body if line[:1] != "\\"]
    return len(signs) - signs.count("+"), len(signs) - signs.count("-")


def _body_end(lines: Sequence[str], first: int, header: _Header, heads: set[tuple[str, str]]) -> int:
    """The first line after a hunk's body.

    ``---`` and ``+++`` before another ``@@`` are a file's head where the hunk is full exactly, or where the same
    head stood above. Elsewhere they are lines of the hunk: taken so wrongly, they do not stand in the document.
    """
    old = new = 0
    for at in range(first, len(lines)):
        line = lines[at]
        if line and line[0] not in " +-\\\t\r":
            return at
        full = (old, new) == (header.old, header.new)
        if line.startswith("--") and _is_no_removal(lines[at : at + 3], full, heads):
            return at
        old += line[:1] not in ("+", "\\")
        new += line[:1] not in ("-", "\\")
    return len(lines)


def _is_no_removal(lines: Sequence[str], full: bool, heads: set[tuple[str, str]]) -> bool:
    """Whether a line that starts with ``--``, given with the two after it, ends the hunk."""
    if full and lines[0] in ("--", "-- ") and not any(line[:1] in _SIGNS for line in lines[1:2]):
        return True  # the signature under a mailed patch
    head = _file_heads(lines[:2])
    return bool(head) and len(lines) == 3 and lines[2].startswith("@@") and (full or head <= heads)


def _unfinished(piece: _Piece, ended: bool) -> bool:
    """Whether the text may have been cut in this hunk, its last."""
    if piece.then is not None:
        return False
    if not ended or piece.exact:
        return not ended
    header, last = piece.header, piece.body[-1][:1] if piece.body else ""
    if header.old is None or header.new is None:
        return last in _SIGNS
    return header.old > piece.old or header.new > piece.new or last == "-"


def _foreign(above: Sequence[str], pieces: Sequence[_Piece], empty_document: bool) -> Problem | None:
    """Why the lines outside of the hunks forbid to apply them."""
    gaps = [(0, above, False), *((piece.number, piece.then or (), not piece.exact) for piece in pieces)]
    for number, gap, open_hunk in gaps:
        for line in gap:
            if _OPERATION.match(line) or (_CREATION.match(line) and not empty_document):
                return Problem("The diff creates, deletes, renames or changes a file as a whole, or is binary.")
            if pieces and _FOREIGN.match(line):
                return Problem("The answer holds more than a unified diff: " + _NOT_UNIFIED)
        if pieces and _strays(gap, open_hunk):
            return Problem("A line that is neither kept, removed nor added breaks off a hunk.", number)
    return None


def _strays(gap: Sequence[str], open_hunk: bool) -> bool:
    """Whether lines with a sign stand where a hunk should have gone on, or should have begun with ``@@``."""
    heads = _file_heads(gap)
    for at, line in enumerate(gap):
        if line.startswith(_FENCE) or tuple(gap[at : at + 2]) in heads:
            open_hunk = False
        elif at and tuple(gap[at - 1 : at + 1]) in heads:
            open_hunk = True
        elif open_hunk and line[:1] in _SIGNS:
            return True
    return False


def _parsed(pieces: Sequence[_Piece]) -> tuple[list[Hunk], Problem | None]:
    """The structure of the hunks, as `unidiff` reads them with headers that are right."""
    written, hunks = ["--- a\n+++ b\n"], []
    for piece in pieces:
        old, new = _counts(piece.body)
        written.append(f"@@ -1,{old} +1,{new} @@\n")
        written += [_canonical(line) + "\n" for line in piece.body]
    try:
        files = PatchSet("".join(written)) if pieces else []
    except UnidiffParseError:
        return [], Problem("The diff is malformed.")
    sure = _agreeing(pieces)
    for piece, parsed in zip(pieces, [hunk for file in files for hunk in file], strict=True):
        lines = _hunk_lines([(line.line_type, line.value) for line in parsed])
        hunk = Hunk(piece.number, tuple(lines), _start(piece.header, bool(_counts(piece.body)[0])), sure)
        if any(line.end == "" for side in (hunk.old, hunk.new) for line in side[:-1]):
            return [], Problem("A line in the middle of the hunk is marked as the end of the file.", piece.number)
        hunks.append(hunk)
    return hunks, None


def _canonical(line: str) -> str:
    """A body line in the form that `unidiff` knows: a tab or nothing in front means that the sign was lost."""
    if line.startswith("\\"):
        return _MARKER
    return line if line[:1] in (" ", "+", "-") else " " + line


def _hunk_lines(parsed: Sequence[tuple[str, str]]) -> list[Line]:
    """Lines with their line ends, from the types and values of `unidiff`."""
    found: list[Line] = []
    for (sign, value), (following, _) in zip(parsed, [*parsed[1:], ("", "")], strict=True):
        if sign != "\\":
            value = value[:-1] if following == "\\" else value
            for line in split_lines(value):
                content = line.rstrip("\r\n")
                found.append(Line(sign, content, line[len(content) :]))
    return found


def _start(header: _Header, has_old: bool) -> int | None:
    """The line, from 0, at which a header puts its hunk; without old lines its number is that of the line before."""
    if header.old_start is None:
        return None
    return max(header.old_start - 1, 0) if has_old else header.old_start


def _agreeing(pieces: Sequence[_Piece]) -> bool:
    """Whether all counts are right and all new starts follow from the old ones, as where a tool wrote the diff."""
    shift = 0
    for piece in sorted(pieces, key=lambda piece: piece.header.old_start or 0):
        header = piece.header
        if not piece.exact or header.old_start is None or header.new_start is None:
            return False
        assert header.old is not None and header.new is not None
        if header.new_start - (header.new > 0) != header.old_start - (header.old > 0) + shift:
            return False
        shift += header.new - header.old
    return True
