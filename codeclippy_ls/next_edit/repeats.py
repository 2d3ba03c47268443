"""The same change in other places: what two edits had in common, or a line that stands in the file twice.

Knows tokens and lines, so it works in every language. On 3,000 episodes of ten histories (`bench.next_edit`) a
place that the user had passed by, above the edits or between them, was right in 4 of 13; places below in 9 of 10.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from codeclippy_ls.next_edit.history import RecentEdit
from codeclippy_ls.syntax.code import is_prose
from codeclippy_ls.syntax.languages import BlockStyle
from codeclippy_ls.syntax.tree import SyntaxTree
from codeclippy_ls.text import Edit

_TOKEN = re.compile(r"\w+|[^\w\s]|\s+")
_WORD = re.compile(r"\w+")
# A flag that is changed twice says nothing of the others.
_CONSTANT = re.compile(r"true|false|True|False|null|None|nil")
_MAX_CONTEXT = 8  # tokens on either side that two edits may have in common
_MIN_LINE = 12  # characters of a line that is the same elsewhere
_MIN_WORDS = 2  # in what was changed and around it
_MAX_PLACES = 200


def find_repeats(tree: SyntaxTree | None, text: str, edits: Sequence[RecentEdit]) -> list[Edit]:
    """Find the places where the newest edit would be made again; empty if nothing says that it is to be.

    Args:
        edits: widened to words, the newest last.
    """
    newest = edits[-1]
    if "\n" in newest.original + newest.updated or _CONSTANT.fullmatch(newest.original.strip()):
        return []
    same = [edit for edit in edits if (edit.original, edit.updated) == (newest.original, newest.updated)]
    found = list(_find_same_lines(text, newest)) if len(same) > 1 or _is_code(tree, text, newest) else []
    found = found or list(_find_same_context(text, same))
    passed = max(edit.start for edit in same)
    return [] if any(edit.start < passed for edit in found) else found


def _is_code(tree: SyntaxTree | None, text: str, edit: RecentEdit) -> bool:
    """Return whether an edit is in code: versions, dates and sentences are changed once and stay elsewhere."""
    if tree is None or tree.language.style in (BlockStyle.NONE, BlockStyle.TAGS) or edit.original.isdigit():
        return False
    return not is_prose(tree, len(text[: edit.start].encode("utf-8", "replace")))


def _find_same_lines(text: str, edit: RecentEdit) -> Iterator[Edit]:
    """Find lines that are what the edited line was."""
    start, end = _find_line(text, edit.start)
    before, after = text[start : edit.start], text[edit.end : end]
    line = (before + edit.original + after).strip()
    if len(line) < _MIN_LINE or not edit.original.strip():
        return
    offset = len(before.lstrip())
    for match in re.finditer(rf"^[ \t]*({re.escape(line)})[ \t\r]*$", text, re.M):
        at = match.start(1) + offset
        yield Edit(at, at + len(edit.original), edit.updated)


def _find_same_context(text: str, same: Sequence[RecentEdit]) -> Iterator[Edit]:
    """Find places that have around them what several edits of one kind have around them."""
    if len(same) < 2:
        return
    lines = [_find_line(text, edit.start) for edit in same]
    before = [text[start : edit.start] for (start, _), edit in zip(lines, same, strict=True)]
    after = [text[edit.end : end] for (_, end), edit in zip(lines, same, strict=True)]
    left = "".join(reversed(_list_common([_TOKEN.findall(part)[::-1] for part in before])))
    right = "".join(_list_common([_TOKEN.findall(part) for part in after]))
    original, updated = same[-1].original, same[-1].updated
    pattern = left + original + right
    if len(_WORD.findall(pattern)) < _MIN_WORDS:
        return
    at = text.find(pattern)
    for _ in range(_MAX_PLACES):
        if at < 0:
            return
        if not _splits_word(text, at) and not _splits_word(text, at + len(pattern)):
            start = at + len(left)
            yield Edit(start, start + len(original), updated)
        at = text.find(pattern, at + 1)


def _list_common(parts: Sequence[Sequence[str]]) -> list[str]:
    """List the tokens that all parts begin with."""
    found: list[str] = []
    for tokens in zip(*parts, strict=False):
        if len(found) == _MAX_CONTEXT or len(set(tokens)) > 1:
            break
        found.append(tokens[0])
    return found


def _splits_word(text: str, at: int) -> bool:
    return _WORD.fullmatch(text[max(0, at - 1) : at + 1]) is not None and 0 < at < len(text)


def _find_line(text: str, at: int) -> tuple[int, int]:
    """Return start and end of the line around an offset."""
    end = text.find("\n", at)
    return text.rfind("\n", 0, at) + 1, end if end >= 0 else len(text)
