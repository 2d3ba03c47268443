"""What became of suggestions: counted here, kept in memory, sent nowhere. Belongs to the loop thread."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from codeclippy_ls.text import Document

_LATENCIES = 2000


@dataclass(slots=True)
class _Open:
    """A suggestion that is on the screen, as far as is known: the document's length then, and what of it was typed."""

    offset: int
    text: str
    replaces: int
    length: int
    typed: int = 0


@dataclass
class Metrics:
    """Counts since the start.

    A suggestion that was shown is *accepted* when its item's command says so or all that is left of it comes in one
    change, *typed through* when it was typed key by key to its end, else *dismissed*.

    Attributes:
        characters: of accepted suggestions, without those that had been typed.
        answers: seconds from request to answer, the newest.
    """

    shown: int = 0
    accepted: int = 0
    typed_through: int = 0
    dismissed: int = 0
    characters: int = 0
    answers: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))
    _open: dict[str, _Open] = field(default_factory=dict, repr=False)

    def offer(self, document: Document, offset: int, text: str, replaces: int = 0) -> None:
        """Record that a suggestion is sent to be shown.

        One shown before in the document counts as dismissed unless this one continues it.
        """
        before = self._open.get(document.uri)
        if before is not None and before.text[before.typed :] == text and before.offset + before.typed == offset:
            return
        self._dismiss(document.uri)
        self._open[document.uri] = _Open(offset, text, replaces, len(document.text))
        self.shown += 1

    def changed(self, document: Document) -> None:
        """The document has a new text."""
        if (shown := self._open.get(document.uri)) is None:
            return
        grown, text = len(document.text) - shown.length, shown.text
        if grown == len(text) - shown.replaces and document.text.startswith(text, shown.offset):
            brought = len(text) - shown.typed
            self._settle(document.uri, brought if brought > 1 else 0)
        elif shown.typed < grown < len(text) and document.text.startswith(text[:grown], shown.offset):
            shown.typed = grown
        else:
            self._dismiss(document.uri)

    def accept(self, uri: str) -> None:
        """An item's command says that it was accepted; the change that brings its text may come before or after."""
        if (shown := self._open.get(uri)) is not None:
            self._settle(uri, len(shown.text) - shown.typed)

    def closed(self, uri: str) -> None:
        """A document was closed."""
        self._dismiss(uri)

    def _settle(self, uri: str, brought: int) -> None:
        """Its text stands there; ``brought`` characters of it came at once."""
        del self._open[uri]
        if brought:
            self.accepted += 1
            self.characters += brought
        else:
            self.typed_through += 1

    def _dismiss(self, uri: str) -> None:
        self.dismissed += self._open.pop(uri, None) is not None

    def exported(self) -> dict[str, Any]:
        """As plain values, for JSON; milliseconds of 50, 95 and 99 in a hundred answers."""
        rows = sorted(self.answers)
        at = {
            f"p{share}": round(rows[min(len(rows) - 1, len(rows) * share // 100)] * 1000, 1)
            for share in (50, 95, 99)
            if rows
        }
        return {
            "shown": self.shown,
            "accepted": self.accepted,
            "typedThrough": self.typed_through,
            "dismissed": self.dismissed,
            "charactersSaved": self.characters,
            "answers": len(rows),
            "answerMilliseconds": at,
        }

    def sentence(self) -> str:
        """For the user."""
        found = self.exported()
        if not found["shown"]:
            return "nothing was suggested yet"
        at = found["answerMilliseconds"]
        times = f"; answers took {at['p50']:.0f} ms, {at['p95']:.0f} ms at the 95th percentile" if at else ""
        return (
            f"{self.shown} shown, {self.accepted} accepted, {self.typed_through} typed through, {self.dismissed} "
            f"dismissed; {self.characters} characters saved{times}"
        )
