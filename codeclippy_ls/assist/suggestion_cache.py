"""Suggestions that were made, for each document: found again when the cursor comes back or their text is typed.

Belongs to the loop thread. Keeps no document, only the surroundings of each cursor.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

_REACH = 2000  # characters of the surroundings that must be the same
_MOST = 8  # of a document


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Text to insert at ``offset``, in the document's own end-of-line style.

    Attributes:
        source: whose passage it copies.
        replaces: how many characters after ``offset`` it takes the place of; they stand on the same line.
        confidence: mean probability per token that the model chose, 0 to 1.
    """

    text: str
    offset: int
    source: str = ""
    replaces: int = 0
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class _Kept:
    before: str
    length: int  # of all that stood before
    after: str
    left: int  # of all that stood after
    suggestion: Suggestion


class SuggestionCache:
    """The newest suggestions of each document."""

    def __init__(self) -> None:
        self._kept: dict[str, deque[_Kept]] = {}

    def keep(self, uri: str, prefix: str, suffix: str, suggestion: Suggestion) -> None:
        """Remember what was suggested between two texts."""
        kept = _Kept(prefix[-_REACH:], len(prefix), suffix[:_REACH], len(suffix), suggestion)
        self._kept.setdefault(uri, deque(maxlen=_MOST)).appendleft(kept)

    def find(self, uri: str, prefix: str, suffix: str) -> Suggestion | None:
        """What is left of a suggestion whose head was typed, down to all of it; ``offset`` is the end of ``prefix``."""
        for kept in self._kept.get(uri, ()):
            typed = prefix[kept.length :]
            if len(typed) < len(kept.suggestion.text) and _fits(kept, prefix, suffix, typed):
                return replace(kept.suggestion, text=kept.suggestion.text[len(typed) :], offset=len(prefix))
        return None

    def stands(self, uri: str, prefix: str, suffix: str) -> bool:
        """Whether the prefix ends in a whole suggestion made here."""
        return any(
            prefix[kept.length :] == kept.suggestion.text and _fits(kept, prefix, suffix, kept.suggestion.text)
            for kept in self._kept.get(uri, ())
        )

    def forget(self, uri: str) -> None:
        """Drop a document's."""
        self._kept.pop(uri, None)


def _fits(kept: _Kept, prefix: str, suffix: str, typed: str) -> bool:
    start = kept.length - len(kept.before)
    return (
        len(prefix) >= kept.length
        and len(suffix) == kept.left
        and suffix.startswith(kept.after)
        and prefix.startswith(kept.before, start)
        and kept.suggestion.text.startswith(typed)
    )
