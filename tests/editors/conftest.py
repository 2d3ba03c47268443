"""Where the real editors are, and the servers they start.

Editors are installed by the scripts in ``tests/editors/install/`` into ``EDITORS_ROOT`` (default: a folder of the
user's cache); a test whose editor is not there skips with the reason. Screenshots go to ``EDITOR_SHOTS``, default
``EDITORS_ROOT/shots``.
"""

from __future__ import annotations

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
    """All tests of this folder carry the marker `editors`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.editors)


def installed(path: Path, editor: str) -> Path:
    """A file of an installed editor; skips the test where it is absent."""
    if not path.exists():
        pytest.skip(f"{editor} is not installed ({path} is missing); `make editors` installs it where it can be had")
    return path


@dataclass(frozen=True)
class Script:
    """A scripted server: what it says may be changed while the editor runs (see ``tests/scripted_server.py``)."""

    file: Path

    @property
    def command(self) -> list[str]:
        """How an editor starts it; works from any folder."""
        program = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from tests.scripted_server import main; main()"
        return [sys.executable, "-c", program, str(self.file)]

    def says(self, **keys: Any) -> None:
        """Replace the script."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(keys))
        new.replace(self.file)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """A script that suggests nothing yet."""
    made = Script(tmp_path / "script.json")
    made.says()
    return made


@pytest.fixture(scope="session")
def shots() -> Path:
    """The folder for screenshots."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    return SHOTS


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """The engine hosts of this test alone; they end when their folder is gone and nobody is connected any more."""
    with tempfile.TemporaryDirectory(dir=os.environ["XDG_RUNTIME_DIR"], ignore_cleanup_errors=True) as folder:
        made = Hosts(Path(folder), REAL_SERVER)
        yield made
        for process in made.running():  # one that a test has stopped and not killed, because it failed
            os.kill(process, signal.SIGCONT)


@pytest.fixture
def report(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> Callable[[str, float], None]:
    """Prints how long something took: a figure to look at, not one that a test asserts."""

    def say(what: str, seconds: float) -> None:
        record_property(what, round(seconds, 2))
        with capsys.disabled():
            print(f"\n{request.node.name}: {what}: {seconds:.1f} s")

    return say
