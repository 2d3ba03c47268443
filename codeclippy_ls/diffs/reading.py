"""Read a unified diff as exact edits of a document: all hunks or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from codeclippy_ls.diffs.edits import build_edits, build_edits_at_lines, find_overlap
from codeclippy_ls.diffs.hunks import Problem, find_fences, parse_hunks
from codeclippy_ls.diffs.matching import HunkMatch, IndentShift, LineIndex, match_hunk
from codeclippy_ls.text import Document, Edit, apply_edits, split_lines

# Reading stays below 100 ms up to these sizes. Each hunk is searched for in the whole document: the worst text takes
# 0.2 ms for a hunk in 50,000 lines.
MAX_DOCUMENT_LINES = 50_000
MAX_SEARCHED_LINES = 8_000_000  # hunks times lines of the document


class DiffResult(NamedTuple):
    """Edits of a document, or at least one fatal problem, never both."""

    edits: list[Edit]
    problems: list[Problem]


def read_diff(text: str, document: Document, near: int | None = None, *, complete: bool = False) -> DiffResult:
    """Read a diff as edits of a document: all hunks or none.

    Numbers in headers are hints. A hunk is located by its kept and removed lines, except for trailing white space; if
    they occur more than once, at the place clearly nearest to its header or, for an only hunk, to ``near``. If the
    lines occur only with one common indentation more or less, at exactly one place, the hunk is re-indented. Lines
    that are added without any others need ``near`` or an empty document.

    Added lines take the document's line ends; in a document that mixes several, those of the diff if its other lines
    have the document's own, else those of the document's first line. The final line end stays as it is, unless the
    diff marks it as missing on one side only.

    Unless the text is ``complete``, a last hunk that may have been cut is left out with a note. It counts as cut when
    nothing follows it and

    - the text does not end with a line end, or
    - the counts in its header promise more lines than there are, or
    - the counts promise fewer, and it ends with a removed line, or
    - its header has no counts, and it does not end with a kept line.

    Args:
        text: the diff, which may be in fences and between prose.
        document: paths in the diff are ignored.
        near: offset of the selection or cursor.
        complete: the writer finished it (a model that was not stopped at a limit).
    """
    if document.line_count > MAX_DOCUMENT_LINES:
        return _refuse(Problem(f"The document has more than {MAX_DOCUMENT_LINES} lines."))
    fences = find_fences(document.text)
    hunks, problems = parse_hunks(text, complete=complete, empty_document=not document.text, fences=fences)
    if any(problem.fatal for problem in problems):
        return DiffResult([], problems)
    if len(hunks) * document.line_count > MAX_SEARCHED_LINES:
        return _refuse(Problem(f"The diff has {len(hunks)} hunks, too many for a document of this length."))
    index = LineIndex(document)
    near_line = None if near is None else document.line_at(min(max(near, 0), len(document.text)))
    matches: list[HunkMatch] = []
    for hunk in hunks:
        found = match_hunk(hunk, index, near_line, only=len(hunks) == 1)
        if isinstance(found, Problem):
            return _refuse(found)
        matches.append(found)
    matches.sort(key=lambda match: (match.start, match.end))
    if overlap := find_overlap(matches):
        return _refuse(overlap)
    return _check_edits(build_edits(matches, index), index, problems)


def read_diff_at(text: str, document: Document, numbers: Sequence[int], dropped: Sequence[int] = ()) -> DiffResult:
    """Read a diff of some of a document's lines with correct headers, as edits or none.

    `read_diff` searches for a hunk's lines; here they must be where the header says, or the diff is refused. So
    equal lines are never confused, and each edit goes to its lines by their numbers, whatever their line ends.

    Args:
        text: the whole diff.
        numbers: the document's line, from 0, of each line that the diff counts; ascending.
        dropped: lines that are removed with the edit in any case.
    """
    hunks, problems = parse_hunks(text, complete=True, empty_document=not numbers)
    if any(problem.fatal for problem in problems):
        return DiffResult([], problems)
    matches: list[HunkMatch] = []
    for hunk in hunks:
        old = [line.text for line in hunk.old]
        start = hunk.start if hunk.start is not None else len(numbers) + 1
        if old != [document.line(number) for number in numbers[start : start + len(old)]]:
            return _refuse(Problem(f"Hunk {hunk.number} is not where its header says.", hunk.number))
        matches.append(HunkMatch(hunk, start, start + len(old), IndentShift()))
    if overlap := find_overlap(matches):
        return _refuse(overlap)
    index = LineIndex(document)
    return _check_edits(build_edits_at_lines(matches, index, numbers, dropped), index, problems)


def _check_edits(edits: list[Edit], index: LineIndex, problems: list[Problem]) -> DiffResult:
    """Return the edits, unless there are none or line ends would merge."""
    if not edits:
        return _refuse(*problems, Problem("The diff changes nothing."))
    if not index.has_stable_numbers and not _keeps_lines(index.document, edits):
        return _refuse(Problem("The document mixes kinds of line ends here in a way that an edit would break."))
    return DiffResult(edits, problems)


def _keeps_lines(document: Document, edits: Sequence[Edit]) -> bool:
    """Return whether no line ends merge, a CR before an LF: the number of lines is as expected."""
    changed = Document(document.uri, apply_edits(document.text, edits)).line_count
    # One end in each removed and added piece may be shared with the text around it: count them in that text.
    counted = document.line_count
    for edit in edits:
        removed = document.text[edit.start : edit.end]
        counted += len(split_lines(f"x{edit.text}x")) - len(split_lines(f"x{removed}x"))
    return changed == counted


def _refuse(*problems: Problem) -> DiffResult:
    return DiffResult([], list(problems))
