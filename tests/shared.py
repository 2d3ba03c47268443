"""Find reference data that is kept beside a developer's checkout. Without it, the tests that need it are skipped."""

from __future__ import annotations

import os
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


def gguf_files() -> list[Path]:
    """Return the GGUF files that ``CODECLIPPY_TEST_GGUF`` names; skip the test if it names none."""
    paths = [Path(path) for path in os.environ.get("CODECLIPPY_TEST_GGUF", "").split(os.pathsep) if path]
    if not paths:
        pytest.skip("CODECLIPPY_TEST_GGUF names no GGUF file")
    return paths
