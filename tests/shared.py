"""Find reference data that is kept beside a developer's checkout. Without it, the tests that need it are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parent.parent.parent / "shared"


def tokenizer_folder(name: str) -> Path:
    """Return a published tokenizer's folder; skip the test if it is absent."""
    folder = SHARED / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"the reference tokenizer {name!r} is not on this machine")
    return folder


def capabilities(name: str) -> Path:
    """Return the file with a real editor's recorded ``initialize`` params; skip the test if it is absent."""
    path = SHARED / "editors" / "capabilities" / f"{name}-initialize.json"
    if not path.is_file():
        pytest.skip(f"the recorded capabilities of {name} are not on this machine")
    return path


def benchmark(name: str) -> Path:
    """Return a published benchmark's file; skip the test if it is absent."""
    path = SHARED / "eval" / name
    if not path.is_file():
        pytest.skip(f"the benchmark {name} is not on this machine")
    return path
