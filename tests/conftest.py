"""Shared by all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

# No test may reach out; a hub name in a setting must fail at once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Toy models on a shared machine: a second OpenMP thread waits for the first and makes everything slower.
os.environ["OMP_NUM_THREADS"] = "1"

from codeclippy_ls.model_choices.offers import note_offer
from codeclippy_ls.server.server import Server
from tests import leaks
from tests.editor import Editor, in_process
from tests.leaks import no_host_is_left, nothing_is_left, nothing_is_left_by_modules
from tests.left_out import pytest_deselected, pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown
from tests.quick import pytest_addoption, pytest_collection_modifyitems, pytest_ignore_collect
from tests.scripted import ScriptedWorker

__all__ = [  # fixtures of every test, and hooks
    "no_host_is_left",
    "nothing_is_left",
    "nothing_is_left_by_modules",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_deselected",
    "pytest_ignore_collect",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
]
leaks.track_watchdog()


@pytest.fixture
def worker() -> ScriptedWorker:
    """A worker that says what a test scripts."""
    return ScriptedWorker()


@pytest.fixture
def server(worker: ScriptedWorker) -> Server:
    """A server over that engine."""
    return Server(engine=worker.open)


@pytest.fixture
async def editor(server: Server) -> AsyncIterator[Editor]:
    """A session with the server, not yet initialized."""
    async with in_process(server) as session:
        yield session


@pytest.fixture(scope="session", autouse=True)
def no_offers() -> Iterator[None]:
    """Let the note of the one offer of a better model be there: no test gets a message that it does not expect."""
    with tempfile.TemporaryDirectory(prefix="cc-state-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", folder)
        note_offer("tests")
        yield


@pytest.fixture(scope="session", autouse=True)
def own_hosts(no_host_is_left: None) -> Iterator[None]:
    """Engine hosts of the tests' own, which end when their folder is gone and nobody is connected any more."""
    folder = tempfile.mkdtemp(prefix="cc-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a home of its own."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for kind, place in (
        ("CACHE", ".cache"),
        ("CONFIG", ".config"),
        ("DATA", ".local/share"),
        ("STATE", ".local/state"),
    ):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(folder / place))
    for name in ("OLLAMA_MODELS", "LLAMA_CACHE", "HF_HUB_CACHE", "HF_HOME", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return folder
