"""`SuggestionCache`: the suggestions made for each document.

A suggestion is found again when the cursor comes back, and while its own text is typed. Keeps no document, only the
text around each cursor.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

_REACH = 2000  # characters around the cursor that must be the same
_MAX_ENTRIES = 8  # per document


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Text to insert at ``offset``, in the document's own end-of-line style.

    Attributes:
        source: the package that it copies code from, if any.
        replaces: how many characters after ``offset`` it replaces; they are on the same line.
        confidence: mean probability per token that the model chose, 0 to 1.
    """

    text: str
    offset: int
    source: str = ""
    replaces: int = 0
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class _Entry:
    """A suggestion and the text around its cursor.

    Attributes:
        before, after: the nearest ``_REACH`` characters of the prefix and of the suffix.
        prefix_length, suffix_length: their whole lengths.
    """

    before: str
    prefix_length: int
    after: str
    suffix_length: int
    suggestion: Suggestion


class SuggestionCache:
    """The newest suggestions of each document. Belongs to the loop thread."""

    def __init__(self) -> None:
        self._entries: dict[str, deque[_Entry]] = {}

    def put(self, uri: str, prefix: str, suffix: str, suggestion: Suggestion) -> None:
        """Keep a suggestion made between ``prefix`` and ``suffix``."""
        entry = _Entry(prefix[-_REACH:], len(prefix), suffix[:_REACH], len(suffix), suggestion)
        self._entries.setdefault(uri, deque(maxlen=_MAX_ENTRIES)).appendleft(entry)

    def find(self, uri: str, prefix: str, suffix: str) -> Suggestion | None:
        """Return the rest of a suggestion whose beginning, or nothing of it, was typed; ``offset`` is the cursor."""
        for entry in self._entries.get(uri, ()):
            typed = prefix[entry.prefix_length :]
            if len(typed) < len(entry.suggestion.text) and _matches(entry, prefix, suffix, typed):
                return replace(entry.suggestion, text=entry.suggestion.text[len(typed) :], offset=len(prefix))
        return None

    def is_inserted(self, uri: str, prefix: str, suffix: str) -> bool:
        """Return whether ``prefix`` ends in a whole suggestion made here."""
        return any(
            prefix[entry.prefix_length :] == entry.suggestion.text
            and _matches(entry, prefix, suffix, entry.suggestion.text)
            for entry in self._entries.get(uri, ())
        )

    def clear(self) -> None:
        """Drop the suggestions of all documents."""
        self._entries.clear()

    def remove(self, uri: str) -> None:
        """Drop a document's suggestions."""
        self._entries.pop(uri, None)


def _matches(entry: _Entry, prefix: str, suffix: str, typed: str) -> bool:
    start = entry.prefix_length - len(entry.before)
    return (
        len(prefix) >= entry.prefix_length
        and len(suffix) == entry.suffix_length
        and suffix.startswith(entry.after)
        and prefix.startswith(entry.before, start)
        and entry.suggestion.text.startswith(typed)
    )
