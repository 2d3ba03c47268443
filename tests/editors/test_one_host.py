"""Real editors at the same time: their servers share one host and one model, as long as anybody uses them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.editors.emacs import Emacs
from tests.editors.hosts import HOLE, Hosts
from tests.editors.neovim import Nvim


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    """Closes what is open at the end."""
    with ExitStack() as stack:
        yield stack


def until(holds: Callable[[], Any], what: str) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_two_editors_share_one_engine_host_and_model(
    hosts: Hosts, closing: ExitStack, report: Callable[[str, float], None], tmp_path: Path
) -> None:
    """By default. Killed while idle it is not missed; one editor goes on when the other leaves, one that comes back
    finds the model warm, and at last all of it goes."""

    def neovim(name: str, **model: Any) -> Nvim:
        folder = tmp_path / name
        folder.mkdir()
        nvim = Nvim("0.12", folder, hosts.command, {"model": model} if model else None)
        closing.callback(nvim.close)
        began = time.monotonic()
        nvim.open(folder / "add.py", f"{HOLE}\n")
        nvim.keys("GA")
        nvim.until(nvim.has_ghost, "ghost text")
        report(f"{name}, from opening a file to a suggestion", time.monotonic() - began)
        return nvim

    nvim = neovim("neovim")
    host = hosts.only()
    folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="clippy", ignore_cleanup_errors=True)))
    emacs = Emacs("30", folder, hosts.command)
    closing.callback(emacs.close)
    emacs.open(tmp_path / "emacs" / "add.py", HOLE[:-1])
    emacs.ready()
    emacs.type(" ")
    emacs.until(lambda: emacs.lisp("codeclippy--visible"), "ghost text")
    assert hosts.only() == host and hosts.torches() == [host]
    (model,) = hosts.models()
    assert model["state"] == "ready"

    notes = emacs.notes()
    host, when = hosts.kill()  # while nobody asks it for anything
    emacs.type("total = ")
    nvim.keys("total = ")
    emacs.until(lambda: emacs.lisp("codeclippy--visible"), "ghost text")
    nvim.until(nvim.has_ghost, "ghost text")
    report("killed, to a suggestion in both", time.monotonic() - when)
    killed, host = host, hosts.only()
    assert host != killed and hosts.torches() == [host]
    assert emacs.notes() == notes and not nvim.notes()

    nvim.close()
    emacs.keys("Tab")
    emacs.type("\nother = ")
    emacs.until(lambda: emacs.lisp("codeclippy--visible"), "ghost text")
    assert hosts.only() == host
    emacs.close()

    again = neovim("again", idleMinutes=0)  # which holds from now on
    assert hosts.only() == host and not again.notes()
    again.close()
    until(lambda: not hosts.running(), "the host that nobody uses did not go")
