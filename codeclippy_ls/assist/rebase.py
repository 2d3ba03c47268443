"""An edit that was made for one text, for the text that the document has become meanwhile. Pure."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from codeclippy_ls.assist.proposals import Proposal
from codeclippy_ls.text import Document, Edit, trim_edit

_AROUND = 3  # lines above and below an edit that must be untouched as well, as context in a diff


def rebased(proposal: Proposal, now: Document) -> Proposal | None:
    """The proposal for the text as it is now; ``None`` where there is no doubt-free place for each of its edits.

    The lines of an edit with those around it must be untouched. They stand where they stood if all changes are below
    them, moved by what was added if all are above; between changes, only where they stand once in both texts.
    """
    old, new = proposal.document.text, now.text
    changed = trim_edit(old, 0, len(old), new)  # the one span that holds all changes
    moved = len(new) - len(old)
    edits: list[Edit] = []
    for edit in proposal.edits:
        start, end = _lines_around(proposal.document, edit)
        if end <= changed.start:
            shift = 0
        elif start >= changed.end:
            shift = moved
        else:
            block = old[start:end]
            place = _only_place(new, block)
            if place is None or _only_place(old, block) != start:
                return None
            shift = place - start
        edits.append(Edit(edit.start + shift, edit.end + shift, edit.text))
    ordered = all(one.end <= other.start for one, other in pairwise(edits))
    others = tuple(one for other in proposal.others if (one := rebased(other, now)) is not None)
    return replace(proposal, document=now, edits=tuple(edits), others=others) if ordered else None


def _lines_around(document: Document, edit: Edit) -> tuple[int, int]:
    """Offsets of an edit's lines with those around it, line ends included."""
    first = max(document.line_at(edit.start) - _AROUND, 0)
    behind = document.line_at(edit.end) + 1 + _AROUND
    return document.starts[first], document.starts[behind] if behind < document.line_count else len(document.text)


def _only_place(text: str, block: str) -> int | None:
    """Where a block of lines stands, if it stands once."""
    place = text.find(block)
    if place < 0 or text.find(block, place + 1) >= 0 or (place and text[place - 1] not in "\r\n"):
        return None
    return place
