"""Shared by all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

# No test may reach out; a hub name in a setting must fail at once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Toy models on a shared machine: a second OpenMP thread waits for the first and makes everything slower.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def own_hosts() -> Iterator[None]:
    """Engine hosts of the tests' own, which end when their folder is gone and nobody is connected any more."""
    folder = tempfile.mkdtemp(prefix="cc-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield
    shutil.rmtree(folder, ignore_errors=True)
