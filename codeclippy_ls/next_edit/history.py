"""The recent edits of a document, found from its successive texts.

Changes that touch each other are one edit, as a word is that somebody deletes and types anew; an edit that is undone is
forgotten. Knows characters only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from codeclippy_ls.text import common_prefix_length

_MAX_EDITS = 16
_MAX_WORD = 100  # characters


@dataclass(frozen=True, slots=True)
class RecentEdit:
    """A place where the text was changed.

    Attributes:
        before: the whole text when the edit began.
        offset: where in ``before`` the original characters stand.
        start: where the updated ones stand in the text as it is now.
    """

    before: str
    offset: int
    original: str
    start: int
    updated: str

    @property
    def end(self) -> int:
        """End of the updated characters in the text as it is now."""
        return self.start + len(self.updated)


def _move(edit: RecentEdit, start: int, end: int, inserted: str) -> RecentEdit | None:
    """Return an edit after ``[start, end)`` was replaced elsewhere, or None if its place was changed too."""
    if end <= edit.start:
        return replace(edit, start=edit.start + len(inserted) - (end - start))
    return edit if start >= edit.end else None


def _merge(edit: RecentEdit, before: str, start: int, end: int, inserted: str) -> RecentEdit:
    """Extend an edit by a change of ``before`` that touches it."""
    head, tail = max(0, edit.start - start), max(0, end - edit.end)
    # Between the edit and the ends of the change stands what had stood there already.
    original = before[edit.start - head : edit.start] + edit.original + before[edit.end : edit.end + tail]
    updated = before[edit.start : max(edit.start, start)] + inserted + before[end : max(end, edit.end)]
    return replace(edit, offset=edit.offset - head, original=original, start=edit.start - head, updated=updated)


class EditHistory:
    """The recent edits of one document, the newest last."""

    def __init__(self) -> None:
        self.edits: tuple[RecentEdit, ...] = ()

    def record(self, before: str, after: str) -> None:
        """Record that the text changed, in the one span in which the two differ."""
        start = common_prefix_length(before, after)
        most = min(len(before), len(after)) - start
        same = common_prefix_length(before[len(before) - most :][::-1], after[len(after) - most :][::-1])
        end, inserted = len(before) - same, after[start : len(after) - same]
        if start == end and not inserted:
            return
        newest = self.edits[-1] if self.edits else None
        if newest is not None and start <= newest.end and end >= newest.start:
            merged, older = _merge(newest, before, start, end, inserted), self.edits[:-1]
        else:
            merged, older = RecentEdit(before, start, before[start:end], start, inserted), self.edits
        kept = [moved for edit in older if (moved := _move(edit, start, end, inserted)) is not None]
        if merged.original != merged.updated:
            kept.append(merged)
        self.edits = tuple(kept[-_MAX_EDITS:])


def widen_to_words(edit: RecentEdit, text: str) -> RecentEdit:
    """Widen an edit to whole words, after what is the same at both ends of it was taken off."""
    head = common_prefix_length(edit.original, edit.updated)
    original, updated = edit.original[head:], edit.updated[head:]
    tail = common_prefix_length(original[::-1], updated[::-1])
    original, updated = original[: len(original) - tail], updated[: len(updated) - tail]
    start, end = edit.start + head, edit.start + head + len(updated)
    left = text[_find_word_start(text, start) : start] if _is_inside(original, updated, 0) else ""
    right = text[end : _find_word_end(text, end)] if _is_inside(original, updated, -1) else ""
    return replace(
        edit,
        offset=edit.offset + head - len(left),
        original=left + original + right,
        start=start - len(left),
        updated=left + updated + right,
    )


def _is_inside(original: str, updated: str, at: int) -> bool:
    """Return whether a word goes on beyond an end of an edit, in the text as it was or as it is."""
    return any(not text or _is_word(text[at]) for text in (original, updated))


def _find_word_start(text: str, end: int) -> int:
    at = end
    while at > max(0, end - _MAX_WORD) and _is_word(text[at - 1]):
        at -= 1
    return at


def _find_word_end(text: str, start: int) -> int:
    at = start
    while at < min(len(text), start + _MAX_WORD) and _is_word(text[at]):
        at += 1
    return at


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
