"""`Metrics`: how many suggestions were shown, accepted and dismissed. Kept in memory and sent nowhere."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from codeclippy_ls.text import Document

_MAX_LATENCIES = 2000


@dataclass(slots=True)
class _Shown:
    """A suggestion on the screen, as far as is known.

    Attributes:
        length: of the document when the suggestion was shown.
        typed: how many of its characters were typed since.
    """

    offset: int
    text: str
    replaces: int
    length: int
    typed: int = 0


@dataclass
class Metrics:
    """Counts since the start. Belongs to the loop thread.

    A shown suggestion is *accepted* if its item's command reports it or if all that is left of it comes in one change,
    *typed through* if it was typed key by key to its end, otherwise *dismissed*.

    Attributes:
        next_edits: that were accepted.
        characters_saved: characters of accepted suggestions that were not typed.
        latencies: seconds from request to answer, of the newest answers.
    """

    shown: int = 0
    accepted: int = 0
    typed_through: int = 0
    dismissed: int = 0
    characters_saved: int = 0
    next_edits: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_LATENCIES))
    _on_screen: dict[str, _Shown] = field(default_factory=dict, repr=False)

    def record_shown(self, document: Document, offset: int, text: str, replaces: int = 0) -> None:
        """Count a suggestion that is sent to be shown, unless it is the rest of the one on the screen.

        Any other suggestion on the document's screen is dismissed.
        """
        current = self._on_screen.get(document.uri)
        if current is not None and current.text[current.typed :] == text and current.offset + current.typed == offset:
            return
        self._dismiss(document.uri)
        self._on_screen[document.uri] = _Shown(offset, text, replaces, len(document.text))
        self.shown += 1

    def record_change(self, document: Document) -> None:
        """Compare the document's new text with the suggestion on its screen."""
        if (current := self._on_screen.get(document.uri)) is None:
            return
        growth, text = len(document.text) - current.length, current.text
        if growth == len(text) - current.replaces and document.text.startswith(text, current.offset):
            inserted = len(text) - current.typed
            self._finish(document.uri, inserted if inserted > 1 else 0)
        elif current.typed < growth < len(text) and document.text.startswith(text[:growth], current.offset):
            current.typed = growth
        else:
            self._dismiss(document.uri)

    def record_accepted(self, uri: str) -> None:
        """Count an acceptance that the client reports; the change that inserts the text may come before or after."""
        if (current := self._on_screen.get(uri)) is not None:
            self._finish(uri, len(current.text) - current.typed)

    def record_closed(self, uri: str) -> None:
        """Dismiss the suggestion of a document that was closed."""
        self._dismiss(uri)

    def _finish(self, uri: str, inserted: int) -> None:
        """Count a suggestion whose text is in the document; ``inserted`` of its characters came at once."""
        del self._on_screen[uri]
        if inserted:
            self.accepted += 1
            self.characters_saved += inserted
        else:
            self.typed_through += 1

    def _dismiss(self, uri: str) -> None:
        self.dismissed += self._on_screen.pop(uri, None) is not None

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain values, with percentiles of the latency in milliseconds."""
        latencies = sorted(self.latencies)
        percentiles = {
            f"p{percent}": round(latencies[min(len(latencies) - 1, len(latencies) * percent // 100)] * 1000, 1)
            for percent in (50, 95, 99)
            if latencies
        }
        return {
            "shown": self.shown,
            "accepted": self.accepted,
            "typedThrough": self.typed_through,
            "dismissed": self.dismissed,
            "charactersSaved": self.characters_saved,
            "nextEditsAccepted": self.next_edits,
            "answers": len(latencies),
            "answerMilliseconds": percentiles,
        }

    def summary(self) -> str:
        """Return one sentence for the user."""
        if not self.shown:
            return "nothing was suggested yet"
        percentiles = self.to_json()["answerMilliseconds"]
        latency = (
            f"; answers took {percentiles['p50']:.0f} ms (median), {percentiles['p95']:.0f} ms (95th percentile)"
            if percentiles
            else ""
        )
        return (
            f"{self.shown} shown, {self.accepted} accepted, {self.typed_through} typed through, {self.dismissed} "
            f"dismissed; {self.characters_saved} characters saved{latency}"
        )
