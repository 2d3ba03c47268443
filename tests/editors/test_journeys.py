"""The journey of a new user in each editor, with a scripted engine (see ``tests/editors/journeys.py``)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.editors.code_server import USER, Window, drive, make_profile, serve, set_command
from tests.editors.conftest import REAL_SERVER, Script
from tests.editors.emacs import VERSIONS, Emacs
from tests.editors.journeys import DIFF, Journey, play_emacs, play_neovim, play_vscode
from tests.editors.neovim import BINARIES, Nvim
from tests.editors.places import PATIENT, ask_emacs, ask_neovim, ask_vscode, check_places

Start = Callable[[str], Journey]


@pytest.fixture
def start(tmp_path: Path, shots: Path, script: Script) -> Start:
    """Return a function that starts a journey."""

    def starter(editor: str) -> Journey:
        def prepare(body: str) -> None:
            script.set(complete=body, edit=DIFF)

        return Journey(editor, tmp_path, shots, script.command, prepare, is_scripted=True)

    return starter


def test_vscode_from_an_empty_profile(start: Start) -> None:
    """The walkthrough opens; one notification says where the server was looked for, and installs it from the wheel."""
    calls = play_vscode(start("VS Code")).splitlines()
    torch, server = [line for line in calls if line.startswith("pip")]
    assert " torch==" in torch and "download.pytorch.org/whl/cpu" in torch
    assert " -c " in server and server.endswith(".whl")


@pytest.mark.parametrize("version", sorted(BINARIES))
def test_neovim_with_the_lines_of_the_readme(start: Start, version: str) -> None:
    """A missing server is said once, `:help` says how to get it, and `:CodeClippy` what it can do."""
    play_neovim(start(f"Neovim {version}"), version)


@pytest.mark.parametrize("version", VERSIONS)
def test_emacs_with_the_line_of_the_readme(start: Start, version: str) -> None:
    play_emacs(start(f"Emacs {version}"), version)


@pytest.fixture
def model() -> str:
    """Return the model that has something to say at the twelve places."""
    name = os.environ.get("CODECLIPPY_JOURNEY_MODEL", "")
    if not name:
        pytest.skip("CODECLIPPY_JOURNEY_MODEL names no model")
    return name


@pytest.mark.parametrize("version", sorted(BINARIES))
def test_twelve_places_in_neovim(model: str, tmp_path: Path, version: str) -> None:
    nvim = Nvim(version, tmp_path, [*REAL_SERVER, f"--model={model}"], PATIENT)
    with contextlib.closing(nvim):
        assert check_places(partial(ask_neovim, nvim), tmp_path, model) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_twelve_places_in_emacs(model: str, tmp_path: Path, version: str) -> None:
    with tempfile.TemporaryDirectory(prefix="clippy", ignore_cleanup_errors=True) as folder:
        emacs = Emacs(version, Path(folder), [*REAL_SERVER, f"--model={model}"])
        with contextlib.closing(emacs):
            emacs.eval_lisp("(progn (setq codeclippy-settings '(:completion (:invokedBudgetMs 60000))) nil)")
            assert check_places(partial(ask_emacs, emacs), tmp_path, model) == []


def test_twelve_places_in_vscode(model: str, tmp_path: Path, shots: Path) -> None:
    profile = tmp_path / "profile"
    command = [*REAL_SERVER, f"--model={model}"]
    make_profile(profile, USER)
    set_command(profile, command, **{"codeclippy.completion.invokedBudgetMs": 60000})
    with serve(profile) as port, drive(port, shots) as driver:
        window = Window(driver, tmp_path / "project", profile / "command.json", "first")
        assert check_places(partial(ask_vscode, window), tmp_path, model) == []
