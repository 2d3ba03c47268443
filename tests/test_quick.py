"""Which test files ``make quick`` runs."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import pytest

from tests.quick import SLOW_HELPERS, is_quick

TESTS = Path(__file__).parent


@pytest.mark.parametrize("name", ["architecture", "settings", "docs", "editors_table", "server", "diffs", "quick"])
def test_files_without_a_model_are_quick(name: str) -> None:
    assert is_quick(TESTS / f"test_{name}.py")


@pytest.mark.parametrize("name", ["models", "engine", "host", "kills", "assist", "cli", "remote", "bench_gpu"])
def test_files_with_a_model_or_a_server_process_are_not(name: str) -> None:
    """At once, in a function, by a helper, or by a program of ours that imports torch."""
    assert not is_quick(TESTS / f"test_{name}.py")


@pytest.mark.parametrize("name", sorted(SLOW_HELPERS))
def test_slow_helpers_exist(name: str) -> None:
    """A module, or a function of one."""
    pkgutil.resolve_name(name)


@pytest.mark.parametrize(
    ("source", "quick"),
    [
        ("import json", True),
        ("def test_it():\n    import torch", False),
        ("from typing import TYPE_CHECKING\nfrom tests.editor import in_process", True),
        ("from tests.editor import process", False),
        ("from tests import checkpoints\nTEXT = checkpoints.make_tokenizer_json()", True),
        ("from tests import checkpoints\ndef test_it():\n    checkpoints.save_checkpoint(None)", False),
        ("import bench.gpu", False),
    ],
)
def test_imports_decide(source: str, quick: bool, tmp_path: Path) -> None:
    path = tmp_path / "test_new.py"
    path.write_text(source)
    assert is_quick(path) == quick
