"""The measure of suggestions: what counts as harm, and how figures are put together."""

from __future__ import annotations

import random

import pytest

from bench.suggest import PLACES, WITHOUT, File, Hole, beside, harmful, holes, together
from codeclippy_ls.settings import parse

CODE = (
    '''"""Doc."""


def mean(values, weights=None):
    total = sum(values)
    if weights is not None:
        total = sum(value * weight for value, weight in zip(values, weights))
    return total / len(values)
'''
    * 4
)


@pytest.mark.parametrize(
    ("prefix", "text", "suffix", "expected"),
    [
        ("x = ", "1", "\n", False),
        ("x = ", "(1", "\n", True),
        ("x = f(", "1", ")\n", False),
        ("x = f(", "1)", ")\n", True),
        ("if x", " > 1:", "\n", False),
        ("", "if x:", "\n    y = 1\n", False),
        ("x = 1", " y", "\n", True),
        ("def f():\n    ", "return 1", "\n    return 1\n", True),
    ],
)
def test_what_is_harm(prefix: str, text: str, suffix: str, expected: bool) -> None:
    """A file that does not parse any more, or a line said twice; a head that waits for its body is none."""
    assert harmful(Hole(prefix, "1", suffix), text) is expected


@pytest.mark.parametrize("place", PLACES)
def test_holes_are_what_they_are_called_and_the_same_for_a_seed(place: str) -> None:
    """Put together again, a hole is its file."""
    files = [File("a", "a/b.py", CODE), File("a", "a/c.py", CODE)]
    found = holes(files, place, 20, seed=1)
    assert found == holes(files, place, 20, seed=1) != holes(files, place, 20, seed=2)
    for hole in found:
        assert hole.prefix + hole.middle + hole.suffix == CODE
        assert (hole.middle == "") == (place == "complete")


def test_other_files_are_never_the_holes_own() -> None:
    """Those of the same folder come first."""
    files = [File("a", path, CODE) for path in ("a/x/1.py", "a/2.py", "a/3.py", "a/x/4.py")]
    hole = holes(files[2:3], "new line", 1, seed=1)[0]
    assert [other.path for other in beside(hole, files)] == ["2.py", "1.py", "4.py"]


def test_every_technique_that_is_switched_off_has_a_switch() -> None:
    """Its settings are settings, and what it puts in place of something replaces something."""
    for way in WITHOUT.values():
        assert not parse({"completion": way.settings})[1]
        assert way.patch is None or hasattr(way.patch[0], way.patch[1])


def test_figures_of_several_kinds() -> None:
    """Shares of holes are weighed by holes, shares of what was shown by what was shown."""
    rng = random.Random(1)
    rows = [
        {
            "holes": 10.0,
            "shown": shown,
            "exact": rng.random(),
            "whole": 0.0,
            "similar": shown,
            "harmful": harm,
            "ms": 1.0,
        }
        for shown, harm in ((1.0, 0.1), (0.0, 0.0), (0.5, 0.4))
    ]
    found = together(rows)
    assert found["shown"] == pytest.approx(0.5) and found["harmful"] == pytest.approx((1 + 2) / 15)
    assert found["holes"] == 30 and found["similar"] == pytest.approx((10 * 1 + 5 * 0.5) / 15)
