"""The attacks of `bench.attack`, a few of each, in every run of the tests."""

from __future__ import annotations

import pytest

from bench.attack import attack_changes, attack_diffs


@pytest.mark.parametrize("seed", [1, 2])
def test_attacks_are_held(seed: int) -> None:
    """Each change leaves the editor's text, and each damaged diff is read or refused."""
    assert attack_changes(3000, seed) == 3000
    assert attack_diffs(500, seed) == 500
