"""The corpus of the fuzzer, and whatever it is mixed into, keeps its laws."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.fuzz import CORPUS, TARGETS

FILES = sorted(CORPUS.glob("*/*"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_corpus(file: Path) -> None:
    """Run one input, as it is and mixed with bytes of others."""
    target, data = TARGETS[file.parent.name], file.read_bytes()
    target(data)
    source = random.Random(file.name)
    others = [other.read_bytes() for other in FILES if other.parent == file.parent]
    for _ in range(200):
        other, at = source.choice(others), source.randrange(len(data) + 1)
        start = source.randrange(len(other) + 1)
        target(data[:at] + other[start : start + source.randrange(40)] + data[at + source.randrange(20) :])


def test_every_target_has_a_corpus() -> None:
    """Every corpus folder has a target, and the reverse."""
    assert {file.parent.name for file in FILES} == set(TARGETS)
