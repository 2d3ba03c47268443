"""The journey of a new user in each editor, with a scripted engine (see ``tests/editors/journeys.py``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.editors.conftest import Script
from tests.editors.emacs import VERSIONS
from tests.editors.journeys import DIFF, Journey, play_emacs, play_neovim, play_vscode
from tests.editors.neovim import BINARIES

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
