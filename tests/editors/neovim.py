"""A real Neovim that a test types into and whose screen it reads."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.editors.conftest import CLIENTS, ROOT, installed

BINARIES = {"0.11": ROOT / "nvim-0.11" / "bin" / "nvim", "0.12": ROOT / "nvim-0.12" / "nvim"}
PATIENCE = 40.0  # seconds for anything; a busy machine is slow


class Nvim:
    """One editor process with only the client on its runtime path.

    Args:
        version: `0.11` or `0.12`.
        folder: a fresh folder for everything it writes.
        command: how it starts the server.
        options: further `init_options` of the server.
        columns: how wide its user interface is; 24 rows are high.
        notifier: whether the user has one, which the test reads; else Neovim's command line shows what is said.
    """

    def __init__(
        self,
        version: str,
        folder: Path,
        command: list[str],
        options: dict[str, Any] | None = None,
        *,
        columns: int = 100,
        notifier: bool = True,
    ) -> None:
        pynvim = pytest.importorskip("pynvim", reason="pynvim is not installed; `make test-editors` installs it")
        binary = installed(BINARIES[version], f"Neovim {version}")
        init = folder / "init.lua"
        self.write_init(init, command, options or {})
        own = [f"XDG_{kind}_HOME={folder / kind.lower()}" for kind in ("CONFIG", "DATA", "STATE", "CACHE")]
        arguments = [
            "env",
            *own,
            f"NVIM_LOG_FILE={folder / 'nvim.log'}",
            str(binary),
            "--embed",
            "--headless",
            "-u",
            str(init),
        ]
        self.rpc = pynvim.attach("child", argv=arguments)
        self.rpc.ui_attach(columns, 24, rgb=True, ext_linegrid=True)
        self.lua("_G.notes = {}")
        if notifier:
            self.take_notes()

    def take_notes(self) -> None:
        """Have a notifier from now on."""
        self.lua("vim.notify = function(text) table.insert(_G.notes, text) end")

    @staticmethod
    def write_init(init: Path, command: list[str], options: dict[str, Any]) -> None:
        """A user's configuration: the runtime path, the server's command, and what the README says."""
        config = json.dumps({"cmd": command, "init_options": options})
        init.write_text(
            f"vim.opt.runtimepath:prepend({json.dumps(str(CLIENTS / 'neovim'))})\n"
            "vim.opt.swapfile, vim.opt.shadafile = false, 'NONE'\n"
            "vim.opt.completeopt = { 'menuone', 'noselect' }\n"
            f"vim.lsp.config('codeclippy', vim.json.decode({json.dumps(config)}))\n"
            "vim.lsp.enable('codeclippy')\n"
        )

    def lua(self, code: str, *arguments: Any) -> Any:
        """Run Lua, answer what it returns."""
        self.assert_free()
        return self.rpc.exec_lua(code, *arguments)

    def assert_free(self) -> None:
        """Nothing has to be answered before the next key; Neovim would run no Lua until it is, either."""
        mode = self.rpc.api.get_mode()
        assert not (mode["blocking"] and mode["mode"].startswith("r")), f"a prompt blocks the user:\n{mode}"

    def keys(self, keys: str) -> None:
        """Type keys, in Vim's notation."""
        self.rpc.input(keys)

    def open(self, path: Path, text: str | bytes, attached: bool = True) -> None:
        """Write a file and edit it; wait for the server."""
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self.rpc.command(f"edit {path}")
        if attached:
            self.until(lambda: self.lua("return require('codeclippy').client() ~= nil"), "the server to attach")

    def at(self, line: int, column: int) -> None:
        """The cursor to a line (from 1) and byte (from 0)."""
        self.rpc.current.window.cursor = (line, column)

    def ready(self) -> None:
        """Wait for the model."""
        self.until(lambda: self.lua("return require('codeclippy.status').state()") == "ready", "the model to be ready")

    def text(self) -> str:
        """The buffer's text, lines joined by newlines."""
        return "\n".join(self.rpc.current.buffer[:])

    def screen(self) -> str:
        """What is drawn, row by row."""
        rows: list[str] = self.lua(
            "local out = {} for r = 1, vim.o.lines do local s = {} for c = 1, vim.o.columns do "
            "s[#s + 1] = vim.fn.screenstring(r, c) end out[r] = (table.concat(s):gsub('%s+$', '')) end return out"
        )
        return "\n".join(rows)

    def has_ghost(self) -> bool:
        """Whether any suggestion is drawn."""
        drawn: int = self.lua(
            "return #vim.tbl_filter(function(mark) return mark[4].virt_text ~= nil end, "
            "vim.api.nvim_buf_get_extmarks(0, -1, 0, -1, { details = true }))"
        )
        return drawn > 0

    def notes(self) -> list[str]:
        """Everything that was said to the user."""
        found: list[str] = self.lua("return _G.notes")
        return found

    def messages(self) -> str:
        """Neovim's own list of what was said."""
        found: str = self.lua("return vim.api.nvim_exec2('messages', { output = true }).output")
        return found

    def until(self, holds: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
        """Wait for something; fails with the screen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.assert_free()
            if holds():
                return
            time.sleep(0.05)
        pytest.fail(f"waited in vain for {what}:\n{self.screen()}\nnotes: {self.notes()}")

    def until_drawn(self, text: str) -> None:
        """Wait for a text on the screen."""
        self.until(lambda: text in self.screen(), f"{text!r} on the screen")

    def close(self) -> None:
        """Leave without saving; the server goes with it."""
        with contextlib.suppress(Exception):
            self.rpc.input("<Esc><Esc>:qa!<CR>")
            time.sleep(0.3)
        with contextlib.suppress(Exception):
            self.rpc.close()
