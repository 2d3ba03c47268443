"""Carry an edit over to a text that changed after the edit was made. Pure."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from codeclippy_ls.assist.proposals import Proposal
from codeclippy_ls.text import Document, Edit, trim_edit

_CONTEXT_LINES = 3  # above and below an edit that must be unchanged as well, like the context of a diff


def rebase(proposal: Proposal, document: Document) -> Proposal | None:
    """Return the proposal for the current document; ``None`` if any edit cannot be relocated unambiguously.

    The lines of an edit and the context lines around it must be unchanged. They keep their place if all changes are
    below them, and move by the difference in length if all changes are above. Between changes they are found by their
    text, which must occur once in both texts.
    """
    old, new = proposal.document.text, document.text
    changed = trim_edit(old, 0, len(old), new)  # the one span that contains all changes
    growth = len(new) - len(old)
    edits: list[Edit] = []
    for edit in proposal.edits:
        start, end = _context_span(proposal.document, edit)
        if end <= changed.start:
            shift = 0
        elif start >= changed.end:
            shift = growth
        else:
            block = old[start:end]
            offset = _find_unique(new, block)
            if offset is None or _find_unique(old, block) != start:
                return None
            shift = offset - start
        edits.append(Edit(edit.start + shift, edit.end + shift, edit.text))
    if any(edit.end > following.start for edit, following in pairwise(edits)):
        return None
    alternatives = tuple(
        rebased for alternative in proposal.alternatives if (rebased := rebase(alternative, document)) is not None
    )
    return replace(proposal, document=document, edits=tuple(edits), alternatives=alternatives)


def _context_span(document: Document, edit: Edit) -> tuple[int, int]:
    """Return the offsets of an edit's lines with the context lines around them, line ends included."""
    first = max(document.line_at(edit.start) - _CONTEXT_LINES, 0)
    stop = document.line_at(edit.end) + 1 + _CONTEXT_LINES
    return document.starts[first], document.starts[stop] if stop < document.line_count else len(document.text)


def _find_unique(text: str, block: str) -> int | None:
    """Return the offset of a block of lines if it occurs exactly once."""
    offset = text.find(block)
    if offset < 0 or text.find(block, offset + 1) >= 0 or (offset and text[offset - 1] not in "\r\n"):
        return None
    return offset
