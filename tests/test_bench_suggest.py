"""The suggestion benchmark: harmful suggestions, and the combination of results."""

from __future__ import annotations

import random

import pytest

from bench.suggest import ABLATIONS, CURSOR_KINDS, File, InfillCase, combine, cut_cases, is_harmful, select_open_files
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
def test_harmful_suggestions_are_detected(prefix: str, text: str, suffix: str, expected: bool) -> None:
    """The file is not valid any more, or a line is repeated; a header without its body is allowed."""
    assert is_harmful(InfillCase(prefix, "1", suffix), text) is expected


@pytest.mark.parametrize("kind", CURSOR_KINDS)
def test_cases_are_of_their_kind_and_reproducible(kind: str) -> None:
    """The parts of a case make its file."""
    files = [File("a", "a/b.py", CODE), File("a", "a/c.py", CODE)]
    found = cut_cases(files, kind, 20, seed=1)
    assert found == cut_cases(files, kind, 20, seed=1) != cut_cases(files, kind, 20, seed=2)
    for case in found:
        assert case.prefix + case.middle + case.suffix == CODE
        assert (case.middle == "") == (kind == "complete")


def test_open_files_do_not_include_the_cases_own() -> None:
    """Files of the same folder come first."""
    files = [File("a", path, CODE) for path in ("a/x/1.py", "a/2.py", "a/3.py", "a/x/4.py")]
    case = cut_cases(files[2:3], "new line", 1, seed=1)[0]
    assert [other.path for other in select_open_files(case, files)] == ["2.py", "1.py", "4.py"]


def test_ablations_use_settings_and_functions_that_exist() -> None:
    """An unknown setting or a new attribute would switch nothing off."""
    for ablation in ABLATIONS.values():
        assert not parse({"completion": ablation.settings})[1]
        assert ablation.patch is None or hasattr(ablation.patch[0], ablation.patch[1])


def test_results_of_several_kinds_are_combined() -> None:
    """Shares of all cases are weighted by the number of cases, shares of the shown ones by the number shown."""
    rng = random.Random(1)
    rows = [
        {
            "cases": 10.0,
            "shown": shown,
            "exact": rng.random(),
            "whole": 0.0,
            "similar": shown,
            "harmful": harm,
            "ms": 1.0,
        }
        for shown, harm in ((1.0, 0.1), (0.0, 0.0), (0.5, 0.4))
    ]
    found = combine(rows)
    assert found["shown"] == pytest.approx(0.5) and found["harmful"] == pytest.approx((1 + 2) / 15)
    assert found["cases"] == 30 and found["similar"] == pytest.approx((10 * 1 + 5 * 0.5) / 15)
