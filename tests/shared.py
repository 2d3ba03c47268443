"""Reference data that lies beside a developer's checkout, where it does: tests that need it skip with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parent.parent.parent / "shared"


def tokenizer_folder(name: str) -> Path:
    """A published tokenizer's folder; skips the test where it is absent."""
    folder = SHARED / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"the reference tokenizer {name!r} is not on this machine")
    return folder


def capabilities(name: str) -> Path:
    """A real editor's recorded ``initialize`` params; skips the test where they are absent."""
    path = SHARED / "editors" / "capabilities" / f"{name}-initialize.json"
    if not path.is_file():
        pytest.skip(f"the recorded capabilities of {name} are not on this machine")
    return path


def benchmark(name: str) -> Path:
    """A published benchmark's file; skips the test where it is absent."""
    path = SHARED / "eval" / name
    if not path.is_file():
        pytest.skip(f"the benchmark {name} is not on this machine")
    return path
