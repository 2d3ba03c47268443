"""Find the installed editors, and make the servers that they start.

Editors are installed by the scripts in ``tests/editors/install/`` into ``EDITORS_ROOT`` (default: a folder in the
user's cache). A test is skipped if its editor is not installed. Screenshots go to ``EDITOR_SHOTS``, default
``EDITORS_ROOT/shots``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.editors.hosts import Hosts

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
ROOT = Path(os.environ.get("EDITORS_ROOT") or CACHE / "codeclippy-editors")
SHOTS = Path(os.environ.get("EDITOR_SHOTS") or ROOT / "shots")
REPOSITORY = Path(__file__).parent.parent.parent
CLIENTS = REPOSITORY / "editors"
REAL_SERVER = [str(Path(sys.executable).parent / "codeclippy-ls")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder with `editors`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.editors)


def require_installed(path: Path, editor: str) -> Path:
    """Return a file of an installed editor; skip the test if it is missing."""
    if not path.exists():
        pytest.skip(f"{editor} is not installed ({path} is missing); `make editors` installs it if possible")
    return path


@dataclass(frozen=True)
class Script:
    """A scripted server, whose script may change while the editor runs (see ``tests/scripted_server.py``)."""

    file: Path

    @property
    def command(self) -> list[str]:
        """The command that starts the server, from any folder."""
        program = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from tests.scripted_server import main; main()"
        return [sys.executable, "-c", program, str(self.file)]

    def find_folders(self) -> set[Path]:
        """Return the current folders of the servers that run (Linux only)."""
        processes = Path("/proc").glob("[0-9]*")
        running = [process for process in processes if self._is_server(process)]
        return {(process / "cwd").readlink() for process in running}

    def _is_server(self, process: Path) -> bool:
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes().split(b"\0")[:-1]
            return [argument.decode() for argument in arguments[: len(self.command)]] == self.command
        return False

    def set(self, **keys: Any) -> None:
        """Replace the script."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(keys))
        new.replace(self.file)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Make a script without suggestions."""
    script = Script(tmp_path / "script.json")
    script.set()
    return script


@pytest.fixture(scope="session")
def shots() -> Path:
    """Return the folder for screenshots."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    return SHOTS


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Isolate the engine hosts of this test; they exit once their folder is deleted and no client is connected."""
    with tempfile.TemporaryDirectory(dir=os.environ["XDG_RUNTIME_DIR"], ignore_cleanup_errors=True) as folder:
        made = Hosts(Path(folder), REAL_SERVER)
        yield made
        for process in made.list_running():  # suspended by a test that failed before it killed it
            os.kill(process, signal.SIGCONT)


@pytest.fixture
def report(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> Callable[[str, float], None]:
    """Print how long something took; no test asserts it."""

    def record(description: str, seconds: float) -> None:
        record_property(description, round(seconds, 2))
        with capsys.disabled():
            print(f"\n{request.node.name}: {description}: {seconds:.1f} s")

    return record
