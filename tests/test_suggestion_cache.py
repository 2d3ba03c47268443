"""Suggestions that are remembered, the pace of typing, and the figures that are kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeclippy_ls.assist.debounce import AdaptiveDebounce
from codeclippy_ls.assist.metrics import Metrics
from codeclippy_ls.assist.suggestion_cache import Suggestion, SuggestionCache
from codeclippy_ls.text import Document

URI = "file:///x.py"


def test_typing_through_and_coming_back() -> None:
    """What is left of a suggestion, while its own text is typed and after it was deleted again."""
    cache = SuggestionCache()
    cache.put(URI, "x = ", "\n", Suggestion("foo(bar)", 4, replaces=0, confidence=0.5))
    for typed in ("", "f", "foo(", "fo", ""):
        found = cache.find(URI, "x = " + typed, "\n")
        assert found == Suggestion("foo(bar)"[len(typed) :], 4 + len(typed), confidence=0.5)
    assert cache.find(URI, "x = g", "\n") is None
    assert cache.find(URI, "x = foo(bar)", "\n") is None and cache.is_inserted(URI, "x = foo(bar)", "\n")
    assert not cache.is_inserted(URI, "x = foo(ba", "\n")
    assert cache.find(URI, "x = f", "\ny") is None and cache.find(URI, "y = f", "\n") is None
    assert cache.find("file:///y.py", "x = f", "\n") is None
    cache.remove(URI)
    assert cache.find(URI, "x = f", "\n") is None


@given(
    st.text("ab\n", max_size=12),
    st.text("ab\n", max_size=12),
    st.text("ab", min_size=1, max_size=4),
    st.text("ab\n", max_size=12),
    st.text("ab\n", max_size=12),
)
def test_what_is_found_leads_to_the_same_text(
    before: str, after: str, suggested: str, prefix: str, suffix: str
) -> None:
    """Inserted at the later cursor, it gives the text that the first suggestion was for."""
    cache = SuggestionCache()
    cache.put(URI, before, after, Suggestion(suggested, len(before)))
    if (found := cache.find(URI, prefix, suffix)) is not None:
        assert prefix + found.text + suffix == before + suggested + after


def test_the_newest_of_many_are_kept() -> None:
    """Memory is bounded."""
    cache = SuggestionCache()
    for number in range(50):
        cache.put(URI, f"{number} ", "", Suggestion("text", 3))
    assert cache.find(URI, "49 ", "") and not cache.find(URI, "9 ", "")


@pytest.mark.parametrize(
    ("interval", "latency", "least", "most"),
    [(0.15, 0.03, 0, 0), (0.15, 0.4, 0.18, 0.2), (0.05, 0.1, 0.06, 0.07), (0.6, 2.0, 0.25, 0.25), (3.0, 9.0, 0, 0)],
)
def test_who_is_faster_than_the_engine_waits_for_a_pause(
    interval: float, latency: float, least: float, most: float
) -> None:
    """Nothing waits where answers come before the next key."""
    debounce = AdaptiveDebounce()
    assert debounce.delay(0.0) == 0.0
    for key in range(30):
        debounce.record_keystroke(key * interval)
        debounce.record_latency(latency)
    assert least <= debounce.delay(29 * interval) <= most
    assert debounce.delay(29 * interval + 10) == 0.0, "an editor that waits by itself is not made to wait again"


class Typed:
    """A document that is typed into."""

    def __init__(self, text: str) -> None:
        self.document, self.metrics = Document(URI, text, 1, "python"), Metrics()

    def type(self, text: str, at: int, removed: int = 0) -> None:
        """A change."""
        old = self.document.text
        self.document = Document(URI, old[:at] + text + old[at + removed :], 1, "python")
        self.metrics.record_change(self.document)

    def counts(self) -> tuple[int, int, int, int, int]:
        """Shown, accepted, typed through, dismissed, characters."""
        metrics = self.metrics
        return (metrics.shown, metrics.accepted, metrics.typed_through, metrics.dismissed, metrics.characters_saved)


def test_accepted_at_once() -> None:
    """All of it comes in one change."""
    typed = Typed("x = \n")
    typed.metrics.record_shown(typed.document, 4, "foo()")
    typed.type("foo()", 4)
    assert typed.counts() == (1, 1, 0, 0, 5)


def test_accepted_after_some_of_it_was_typed() -> None:
    """Only what was not typed is saved; what is shown of it in between is no new suggestion."""
    typed = Typed("x = \n")
    typed.metrics.record_shown(typed.document, 4, "foo()")
    typed.type("f", 4)
    typed.metrics.record_shown(typed.document, 5, "oo()")
    typed.type("oo()", 5)
    assert typed.counts() == (1, 1, 0, 0, 4)


def test_accepted_by_its_command() -> None:
    """Whichever comes first, the change or the command, it counts once."""
    for command_first in (True, False):
        typed = Typed("x = \n")
        typed.metrics.record_shown(typed.document, 4, "foo()")
        if command_first:
            typed.metrics.record_accepted(URI)
        typed.type("foo()", 4)
        typed.metrics.record_accepted(URI)
        assert typed.counts() == (1, 1, 0, 0, 5)


def test_accepted_over_a_bracket() -> None:
    """A suggestion that takes the place of what the editor closed."""
    typed = Typed("f()\n")
    typed.metrics.record_shown(typed.document, 2, "a):", replaces=1)
    typed.type("a):", 2, removed=1)
    assert typed.counts() == (1, 1, 0, 0, 3)


def test_typed_through() -> None:
    """Key by key to the end."""
    typed = Typed("\n")
    typed.metrics.record_shown(typed.document, 0, "foo")
    for at, key in enumerate("foo"):
        typed.type(key, at)
    assert typed.counts() == (1, 0, 1, 0, 0)


def test_dismissed() -> None:
    """Another text was typed, another suggestion came, the document was closed."""
    typed = Typed("x\n")
    typed.metrics.record_shown(typed.document, 1, "foo")
    typed.type("b", 1)
    typed.metrics.record_shown(typed.document, 2, "bar")
    typed.metrics.record_shown(typed.document, 2, "baz")
    typed.metrics.record_closed(URI)
    assert typed.counts() == (3, 0, 0, 3, 0)


def test_exported_as_json() -> None:
    """With percentiles of the latency."""
    metrics = Metrics()
    assert "nothing" in metrics.summary()
    metrics.latencies.extend(number / 1000 for number in range(1, 101))
    metrics.record_shown(Document(URI, "", 1, "python"), 0, "a")
    found = json.loads(json.dumps(metrics.to_json()))
    assert found["shown"] == 1 and found["answerMilliseconds"] == {"p50": 51.0, "p95": 96.0, "p99": 100.0}
    assert "1 shown" in metrics.summary() and "51 ms" in metrics.summary()
