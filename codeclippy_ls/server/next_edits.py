"""The next edits of a client's documents: what it changed, what was proposed, what became of that.

Answers ``textDocument/copilotInlineEdit`` as GitHub's language server defines it, so that clients that exist can show
our next edits. Belongs to the loop thread; searching runs beside it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from codeclippy_ls.next_edit.history import EditHistory
from codeclippy_ls.next_edit.propose import NextEdit, propose
from codeclippy_ls.server import convert
from codeclippy_ls.syntax.languages import find_language
from codeclippy_ls.syntax.tree import DocumentTrees
from codeclippy_ls.text import Document, Encoding, apply_edits

ACCEPT_NEXT_EDIT_COMMAND = "codeclippy.didAcceptNextEdit"
_MAX_TEXT = 400_000  # characters of a document whose edits are recorded
_MAX_IGNORED = 3  # times that the same change is proposed without being accepted


@dataclass
class _Proposed:
    """The last proposal in a document: the text that it makes, and what it replaces by what."""

    after: str
    change: tuple[str, str]


@dataclass
class _State:
    history: EditHistory = field(default_factory=EditHistory)
    proposed: _Proposed | None = None
    ignored: Counter[tuple[str, str]] = field(default_factory=Counter)


class NextEdits:
    """The next edits of one client's documents."""

    def __init__(self) -> None:
        self._states: dict[str, _State] = {}
        self._trees = DocumentTrees()

    def record_change(self, before: Document | None, after: Document | None) -> None:
        """Record that a document's text changed."""
        if before is None or after is None or max(len(before.text), len(after.text)) > _MAX_TEXT:
            return
        state = self._states.setdefault(after.uri, _State())
        state.history.record(before.text, after.text)
        if state.proposed is not None:
            if after.text == state.proposed.after:
                state.ignored.pop(state.proposed.change, None)
            else:
                state.ignored[state.proposed.change] += 1
            state.proposed = None

    async def propose(self, document: Document, offset: int) -> NextEdit | None:
        """Return the next edit of a document, or None if there is none, or it has been ignored often enough."""
        state = self._states.get(document.uri)
        if state is None or not state.history.edits:
            return None
        language = find_language(document.language)
        tree = await asyncio.to_thread(self._trees.parse, document.uri, document.text, language)
        found = await asyncio.to_thread(propose, document.text, tree, state.history, offset)
        if found is None:
            return None
        change = document.text[found.edit.start : found.edit.end], found.edit.text
        if state.ignored[change] >= _MAX_IGNORED:
            return None
        state.proposed = _Proposed(apply_edits(document.text, [found.edit]), change)
        return found

    def forget_document(self, uri: str) -> None:
        """Drop all state of a document that was closed."""
        self._states.pop(uri, None)
        self._trees.forget(uri)


def to_inline_edit(document: Document, found: NextEdit, encoding: Encoding) -> dict[str, Any]:
    """Convert a next edit to an item of ``textDocument/copilotInlineEdit``."""
    range = convert.to_range(document, found.edit.start, found.edit.end, encoding)
    return {
        "textDocument": {"uri": document.uri, "version": document.version},
        "range": {
            "start": {"line": range.start.line, "character": range.start.character},
            "end": {"line": range.end.line, "character": range.end.character},
        },
        "text": found.edit.text,
        "command": {
            "title": "Accept",
            "command": ACCEPT_NEXT_EDIT_COMMAND,
            "arguments": [{"uri": document.uri, "kind": found.kind}],
        },
    }
