"""Hunks of a diff, extracted from a model's answer.

The numbers of a header never decide where its hunk ends: a hunk continues as long as lines look like its own, and every
header is recounted before `unidiff` parses the structure. If a line outside of all hunks may have been meant for one,
the diff is refused. Knows nothing of the document except if it is empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from unidiff import PatchSet
from unidiff.errors import UnidiffParseError

from codeclippy_ls.text import replace_surrogates, split_lines, to_lf

# More than any model writes in one answer, and little enough that reading stays below 100 ms.
MAX_CHARACTERS = 200_000
MAX_LINES = 5_000  # CR counts as well
MAX_HUNKS = 1_000

_NUMBER = r"([0-9]+)(?:,([0-9]+))?"
_HEADER = re.compile(rf"@@ *-{_NUMBER}(?: *\+{_NUMBER})?")
_FENCE = ("```", "~~~")
_DIFF_LANGUAGES = ("diff", "patch")  # of a fence
_FILE_HEADERS = ("--- ", "+++ ")
_CHANGE_TYPES = ("+", "-")
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
    """Reason why a diff, or a hunk of it (from 1; 0 is the whole diff), is not applied; a note if not ``fatal``."""

    reason: str
    hunk: int = 0
    fatal: bool = True


class Line(NamedTuple):
    """A line of a hunk: its type (space, plus or minus), its text, and its line end, empty if marked as missing."""

    line_type: str
    text: str
    end: str


@dataclass(frozen=True, slots=True)
class Hunk:
    """A parsed hunk that changes something.

    Attributes:
        number: its number in the diff, from 1.
        lines: lines as `text` defines them, so a lone CR inside a line of the diff divides it.
        start: index of the document's line in its header; a hint.
        is_consistent: all numbers of its header agree with the bodies of all hunks.
    """

    number: int
    lines: tuple[Line, ...]
    start: int | None
    is_consistent: bool

    @property
    def old(self) -> list[Line]:
        """Lines that must be in the document."""
        return [line for line in self.lines if line.line_type != "+"]

    @property
    def new(self) -> list[Line]:
        """Lines of the result."""
        return [line for line in self.lines if line.line_type != "-"]


@dataclass(frozen=True, slots=True)
class _Header:
    """Numbers of a header; ``None`` for a missing one."""

    old_start: int | None = None
    old: int | None = None
    new_start: int | None = None
    new: int | None = None


@dataclass(frozen=True, slots=True)
class _RawHunk:
    """A hunk as it is in the text.

    Attributes:
        body: its lines, without empty ones at the end.
        old, new: number of lines of each side, empty ones at the end included.
        following: lines up to the next hunk; ``None`` if nothing follows.
    """

    number: int
    header: _Header
    body: tuple[str, ...]
    old: int
    new: int
    following: tuple[str, ...] | None

    @property
    def is_exact(self) -> bool:
        """True if the header's counts are right; empty lines after a hunk may be part of it or not."""
        if self.header.old is None or self.header.new is None:
            return False
        empty = self.old - _count_sides(self.body)[0]
        missing = self.old - self.header.old
        return missing == self.new - self.header.new and 0 <= missing <= empty

    @property
    def has_changes(self) -> bool:
        """True if the hunk removes or adds a line."""
        return any(line[:1] in _CHANGE_TYPES for line in self.body)


def parse_hunks(
    text: str, *, complete: bool, empty_document: bool, fences: frozenset[str] = frozenset()
) -> tuple[list[Hunk], list[Problem]]:
    """Parse the hunks of a text. Problems are fatal, or notes about hunks that were left out.

    Args:
        fences: the document's own lines that look like a fence; see `find_fences`.
    """
    if len(text) > MAX_CHARACTERS:
        return [], [Problem(f"The diff is longer than {MAX_CHARACTERS} characters.")]
    lines, final_newline = _split_text(text)
    if sum(1 + line.count("\r") for line in lines) > MAX_LINES:
        return [], [Problem(f"The diff is longer than {MAX_LINES} lines.")]
    above, raw_hunks = _split_hunks(lines)
    raw_hunks = _drop_repeated(raw_hunks)
    if len(raw_hunks) > MAX_HUNKS:
        return [], [Problem(f"The diff has more than {MAX_HUNKS} hunks.")]
    if problem := _find_foreign_text(above, raw_hunks, empty_document) or _find_lost_fence(raw_hunks, fences):
        return [], [problem]
    if not raw_hunks:
        return [], [Problem("The answer is not a unified diff: it has no line that starts with @@.")]
    notes = []
    if not complete and _may_be_cut(raw_hunks[-1], final_newline):
        cut_off = raw_hunks.pop()
        notes.append(Problem("The last hunk was cut off and is left out.", cut_off.number, fatal=not raw_hunks))
    notes += [
        Problem(f"Hunk {raw.number} changes nothing.", raw.number, fatal=False)
        for raw in raw_hunks
        if not raw.has_changes
    ]
    hunks, problem = _parse_structure([raw for raw in raw_hunks if raw.has_changes])
    return ([], [problem]) if problem else (hunks, notes)


def find_fences(text: str) -> frozenset[str]:
    """Find the lines of a document that would close a fence if they lost their space in a diff."""
    if not any(fence in text for fence in _FENCE):
        return frozenset()
    return frozenset(line.rstrip() for line in text.splitlines() if line.startswith(_FENCE))


def _split_text(text: str) -> tuple[list[str], bool]:
    """Split a text into lines without line ends; return them and whether the last one has an end.

    CR stays in a line if other lines end in LF alone.
    """
    text = replace_surrogates(text.removeprefix("\ufeff"))
    if text.count("\n") == text.count("\r\n"):
        text = to_lf(text)
    if text.lstrip().startswith("@@"):  # the seed format has a space between <DFF> and the first header
        text = text.lstrip()
    lines = text.split("\n")
    final_newline = lines[-1] == ""
    return (lines[:-1] if final_newline else lines), final_newline


def _split_hunks(lines: Sequence[str]) -> tuple[Sequence[str], list[_RawHunk]]:
    """Split lines into those above the first hunk, and the hunks."""
    first = at = _find_header(lines, 0)
    file_headers = _find_file_headers(lines[:first])
    raw_hunks: list[_RawHunk] = []
    while at < len(lines):
        header = _parse_header(lines[at])
        end = _find_body_end(lines, at + 1, header, file_headers)
        after = _find_header(lines, end)
        body, following = tuple(lines[at + 1 : end]), tuple(lines[end:after])
        file_headers |= _find_file_headers(following)
        kept = len(body)
        while kept and body[kept - 1] in ("", "\r"):
            kept -= 1
        raw_hunks.append(
            _RawHunk(
                len(raw_hunks) + 1, header, body[:kept], *_count_sides(body), following if end < len(lines) else None
            )
        )
        at = after
    return lines[:first], raw_hunks


def _drop_repeated(raw_hunks: Sequence[_RawHunk]) -> list[_RawHunk]:
    """Drop the hunks that repeat one in an earlier fence: small models often write their answer several times."""
    kept: list[_RawHunk] = []
    seen: set[tuple[_Header, tuple[str, ...]]] = set()
    fenced: set[tuple[_Header, tuple[str, ...]]] = set()  # those that a fence was closed after
    for raw in raw_hunks:
        if (raw.header, raw.body) not in fenced:
            kept.append(raw)
        elif raw.following:
            kept[-1] = replace(kept[-1], following=(*(kept[-1].following or ()), *raw.following))
        seen.add((raw.header, raw.body))
        if any(line.startswith(_FENCE) for line in raw.following or ()):
            fenced |= seen
    return kept


def _find_header(lines: Sequence[str], first: int) -> int:
    """Find the next line that opens a hunk; ``@@@`` would be git's diff of a merge."""
    opening = (at for at in range(first, len(lines)) if lines[at].startswith("@@") and lines[at][2:3] != "@")
    return next(opening, len(lines))


def _find_file_headers(lines: Sequence[str]) -> set[tuple[str, str]]:
    """Find the pairs of ``---`` and ``+++`` lines."""
    return {(a, b) for a, b in pairwise(lines) if a.startswith("--- ") and b.startswith("+++ ")}


def _parse_header(line: str) -> _Header:
    """Parse the numbers of a header, as far as it has them."""
    match = _HEADER.match(line)
    if match is None:
        return _Header()
    # Larger numbers are as good as this one, and int() raises for very long ones.
    old_start, old, new_start, new = (None if n is None else int(n) if len(n) < 10 else 10**9 for n in match.groups())
    if old_start is None or new_start is None:
        return _Header(old_start)
    return _Header(old_start, 1 if old is None else old, new_start, 1 if new is None else new)


def _count_sides(body: Iterable[str]) -> tuple[int, int]:
    """Count the lines of a body that are the document's, and those that are the result's."""
    types = [line[:1] for line in body if line[:1] != "\\"]
    return len(types) - types.count("+"), len(types) - types.count("-")


def _find_body_end(lines: Sequence[str], first: int, header: _Header, file_headers: set[tuple[str, str]]) -> int:
    """Find the first line after a hunk's body.

    ``---`` and ``+++`` before another ``@@`` are a file's header if the hunk has exactly its counted lines, or if the
    same header came before. Otherwise they are lines of the hunk; if that is wrong, they are not in the document.
    """
    old = new = 0
    for at in range(first, len(lines)):
        line = lines[at]
        if line and line[0] not in " +-\\\t\r":
            return at
        full = (old, new) == (header.old, header.new)
        if line.startswith("--") and _ends_hunk(lines[at : at + 3], full, file_headers):
            return at
        old += line[:1] not in ("+", "\\")
        new += line[:1] not in ("-", "\\")
    return len(lines)


def _ends_hunk(lines: Sequence[str], full: bool, file_headers: set[tuple[str, str]]) -> bool:
    """Return whether a line that starts with ``--``, given with the two after it, ends the hunk."""
    if full and lines[0] in ("--", "-- ") and not any(line[:1] in _CHANGE_TYPES for line in lines[1:2]):
        return True  # the signature under a mailed patch
    head = _find_file_headers(lines[:2])
    return bool(head) and len(lines) == 3 and lines[2].startswith("@@") and (full or head <= file_headers)


def _may_be_cut(raw: _RawHunk, final_newline: bool) -> bool:
    """Return whether the text may have been cut in its last hunk."""
    if raw.following is not None:
        return False
    if not final_newline or raw.is_exact:
        return not final_newline
    header, last = raw.header, raw.body[-1][:1] if raw.body else ""
    if header.old is None or header.new is None:
        return last in _CHANGE_TYPES
    return header.old > raw.old or header.new > raw.new or last == "-"


def _find_foreign_text(above: Sequence[str], raw_hunks: Sequence[_RawHunk], empty_document: bool) -> Problem | None:
    """Find a line outside of the hunks that forbids applying them."""
    gaps = [(0, above, False), *((raw.number, raw.following or (), not raw.is_exact) for raw in raw_hunks)]
    fence = ""
    for number, gap, is_open in gaps:
        for line in gap:
            if _OPERATION.match(line) or (_CREATION.match(line) and not empty_document):
                return Problem("The diff creates, deletes, renames or changes a file as a whole, or is binary.")
            if raw_hunks and _FOREIGN.match(line):
                return Problem("The answer holds more than a unified diff: " + _NOT_UNIFIED)
        # A fence right below a hunk closes one, which the prompt may have opened.
        fence = fence or (_FENCE[0] if number and gap and gap[0].startswith(_FENCE) else "")
        if raw_hunks and _has_stray_lines(gap, is_open, fence):
            return Problem("A line that is neither kept, removed nor added breaks off a hunk.", number)
        for line in gap:
            fence = _update_fence(fence, line)
    return None


def _find_lost_fence(raw_hunks: Sequence[_RawHunk], fences: frozenset[str]) -> Problem | None:
    """Find a hunk that may go on behind a fence line of the document, which lost its space."""
    for raw in raw_hunks:
        first, *others = raw.following or ("",)
        if not raw.is_exact and first.rstrip() in fences and any(line[:1] in _CHANGE_TYPES for line in others):
            return Problem("A line that is neither kept, removed nor added breaks off a hunk.", raw.number)
    return None


def _update_fence(fence: str, line: str) -> str:
    """Return the opening line of the fence that is open after a line, empty if none is; ``fence``: before it."""
    if not line.startswith(_FENCE):
        return fence
    return "" if fence and not line.strip("`~ \t\r") else line


def _has_stray_lines(gap: Sequence[str], is_open: bool, fence: str) -> bool:
    """Return whether added or removed lines follow where a hunk should continue, or should begin with ``@@``.

    So do those of another fence that is called a diff, or has both kinds.
    """
    file_headers = _find_file_headers(gap)
    types = set[str]()
    for at, line in enumerate(gap):
        if line.startswith(_FENCE):
            is_open, fence, types = False, _update_fence(fence, line), set()
        elif fence and line[:1] in _CHANGE_TYPES and line[:4] not in _FILE_HEADERS:
            types.add(line[0])
            if is_open or len(types) == 2 or fence.strip("`~ ").partition(" ")[0] in _DIFF_LANGUAGES:
                return True
        elif tuple(gap[at : at + 2]) in file_headers:
            is_open = False
        elif at and tuple(gap[at - 1 : at + 1]) in file_headers:
            is_open = True
        elif is_open and line[:1] in _CHANGE_TYPES:
            return True
    return False


def _parse_structure(raw_hunks: Sequence[_RawHunk]) -> tuple[list[Hunk], Problem | None]:
    """Parse the structure of the hunks with `unidiff`, after correcting their headers."""
    written, hunks = ["--- a\n+++ b\n"], []
    for raw in raw_hunks:
        old, new = _count_sides(raw.body)
        written.append(f"@@ -1,{old} +1,{new} @@\n")
        written += [_normalize(line) + "\n" for line in raw.body]
    try:
        files = PatchSet("".join(written)) if raw_hunks else []
    except UnidiffParseError:
        return [], Problem("The diff is malformed.")
    is_consistent = _are_consistent(raw_hunks)
    for raw, parsed in zip(raw_hunks, [hunk for file in files for hunk in file], strict=True):
        lines = _convert_lines([(line.line_type, line.value) for line in parsed])
        hunk = Hunk(raw.number, tuple(lines), _locate_start(raw.header, bool(_count_sides(raw.body)[0])), is_consistent)
        if any(line.end == "" for side in (hunk.old, hunk.new) for line in side[:-1]):
            return [], Problem("A line in the middle of the hunk is marked as the end of the file.", raw.number)
        hunks.append(hunk)
    return hunks, None


def _normalize(line: str) -> str:
    """Normalize a body line for `unidiff`: a tab or nothing in front means that the space was lost."""
    if line.startswith("\\"):
        return _MARKER
    return line if line[:1] in (" ", "+", "-") else " " + line


def _convert_lines(parsed: Sequence[tuple[str, str]]) -> list[Line]:
    """Convert types and values of `unidiff` to lines with their line ends."""
    found: list[Line] = []
    for (line_type, value), (following, _) in zip(parsed, [*parsed[1:], ("", "")], strict=True):
        if line_type != "\\":
            value = value[:-1] if following == "\\" else value
            for line in split_lines(value):
                content = line.rstrip("\r\n")
                found.append(Line(line_type, content, line[len(content) :]))
    return found


def _locate_start(header: _Header, has_old: bool) -> int | None:
    """Return the line, from 0, of a header; without old lines its number is that of the line before.

    Line 0 of a hunk with old lines is a header that the model left empty, and no hint.
    """
    if header.old_start is None or (has_old and not header.old_start):
        return None
    return header.old_start - 1 if has_old else header.old_start


def _are_consistent(raw_hunks: Sequence[_RawHunk]) -> bool:
    """Return whether all counts and new starts are consistent, as in a diff that a tool wrote."""
    shift = 0
    for raw in sorted(raw_hunks, key=lambda raw: raw.header.old_start or 0):
        header = raw.header
        if not raw.is_exact or header.old_start is None or header.new_start is None:
            return False
        assert header.old is not None and header.new is not None
        if header.new_start - (header.new > 0) != header.old_start - (header.old > 0) + shift:
            return False
        shift += header.new - header.old
    return True
