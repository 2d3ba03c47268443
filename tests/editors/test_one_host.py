"""Two real editors at the same time: their servers share one engine host and one model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.editor import TIMEOUT
from tests.editors.emacs import Emacs
from tests.editors.hosts import UNFINISHED, Hosts
from tests.editors.neovim import Nvim


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    """Close the editors at the end of the test."""
    with ExitStack() as stack:
        yield stack


def wait_until(condition: Callable[[], Any], description: str) -> None:
    """Wait until a condition on another process holds."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, description
        time.sleep(0.05)


def test_two_editors_share_one_engine_host_and_model(
    hosts: Hosts, cleanup: ExitStack, report: Callable[[str, float], None], tmp_path: Path
) -> None:
    """By default. If the host is killed while idle, the next request starts another one. One editor goes on when the
    other exits, an editor that comes back finds the model loaded, and the host exits after the last one."""

    def neovim(name: str, **model: Any) -> Nvim:
        folder = tmp_path / name
        folder.mkdir()
        nvim = Nvim("0.12", folder, hosts.command, {"model": model} if model else None)
        cleanup.callback(nvim.close)
        began = time.monotonic()
        nvim.open(folder / "add.py", f"{UNFINISHED}\n")
        nvim.press("GA")
        nvim.wait_until(nvim.has_ghost_text, "ghost text")
        report(f"{name}, from opening a file to a suggestion", time.monotonic() - began)
        return nvim

    nvim = neovim("neovim")
    host = hosts.get_only()
    folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="clippy", ignore_cleanup_errors=True)))
    emacs = Emacs("30", folder, hosts.command)
    cleanup.callback(emacs.close)
    emacs.open(tmp_path / "emacs" / "add.py", UNFINISHED[:-1])
    emacs.wait_until_ready()
    emacs.type(" ")
    emacs.wait_until(lambda: emacs.eval_lisp("codeclippy--visible"), "ghost text")
    assert hosts.get_only() == host and hosts.list_torch_processes() == [host]
    (model,) = hosts.get_model_statuses()
    assert model["state"] == "ready"

    messages = emacs.get_messages()
    host, when = hosts.kill()  # while it is idle
    emacs.type("total = ")
    nvim.press("total = ")
    emacs.wait_until(lambda: emacs.eval_lisp("codeclippy--visible"), "ghost text")
    nvim.wait_until(nvim.has_ghost_text, "ghost text")
    report("from the kill to a suggestion in both editors", time.monotonic() - when)
    killed, host = host, hosts.get_only()
    assert host != killed and hosts.list_torch_processes() == [host]
    assert emacs.get_messages() == messages and not nvim.get_messages()

    nvim.close()
    emacs.press("Tab")
    emacs.type("\nother = ")
    emacs.wait_until(lambda: emacs.eval_lisp("codeclippy--visible"), "ghost text")
    assert hosts.get_only() == host
    emacs.close()

    again = neovim("again", idleMinutes=0)  # for the host, from now on
    assert hosts.get_only() == host and not again.get_messages()
    again.close()
    wait_until(lambda: not hosts.list_running(), "the host did not exit after the last client")
