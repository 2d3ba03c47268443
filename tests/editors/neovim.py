"""Drive a real Neovim: type into it, and read its screen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.editor import TIMEOUT
from tests.editors.conftest import CLIENTS, ROOT, require_installed

BINARIES = {"0.11": ROOT / "nvim-0.11" / "bin" / "nvim", "0.12": ROOT / "nvim-0.12" / "nvim"}


class Nvim:
    """A Neovim process with only the client on its runtime path.

    Args:
        version: `0.11` or `0.12`.
        folder: an empty folder for all files that it writes.
        command: the command that starts the server.
        options: more `init_options` for the server.
        columns: width of the user interface, which has 24 rows.
        notifier: install a `vim.notify` that the test reads; otherwise the command line shows messages.
        home: the user's home folder.
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
        home: Path | None = None,
    ) -> None:
        pynvim = pytest.importorskip("pynvim", reason="pynvim is not installed; `make test-editors` installs it")
        binary = require_installed(BINARIES[version], f"Neovim {version}")
        init = folder / "init.lua"
        self.write_init(init, command, options or {})
        note = folder / "state" / "codeclippy-ls" / "model-offer"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()  # no test gets the offer of a better model
        own = [f"XDG_{kind}_HOME={folder / kind.lower()}" for kind in ("CONFIG", "DATA", "STATE", "CACHE")]
        arguments = [
            "env",
            *own,
            *([f"HOME={home}"] if home is not None else []),
            f"NVIM_LOG_FILE={folder / 'nvim.log'}",
            str(binary),
            "--embed",
            "--headless",
            "-u",
            str(init),
        ]
        self.rpc = pynvim.attach("child", argv=arguments)
        self.rpc.ui_attach(columns, 24, rgb=True, ext_linegrid=True)
        self.exec_lua("_G.test_messages = {}")
        if notifier:
            self.install_notifier()

    def install_notifier(self) -> None:
        """Replace `vim.notify`, and record its messages from now on."""
        self.exec_lua("vim.notify = function(text) table.insert(_G.test_messages, text) end")

    @staticmethod
    def write_init(init: Path, command: list[str], options: dict[str, Any]) -> None:
        """Write a user's configuration: the runtime path, the command of the server, and the lines from the docs."""
        config = json.dumps({"cmd": command, "init_options": options})
        init.write_text(
            f"vim.opt.runtimepath:prepend({json.dumps(str(CLIENTS / 'neovim'))})\n"
            "vim.opt.swapfile, vim.opt.shadafile = false, 'NONE'\n"
            "vim.opt.completeopt = { 'menuone', 'noselect' }\n"
            f"vim.lsp.config('codeclippy', vim.json.decode({json.dumps(config)}))\n"
            "vim.lsp.enable('codeclippy')\n"
        )

    def exec_lua(self, code: str, *arguments: Any) -> Any:
        """Run Lua code; return its result."""
        self.assert_not_blocked()
        return self.rpc.exec_lua(code, *arguments)

    def assert_not_blocked(self) -> None:
        """Assert that no prompt waits for a key; until it is answered, Neovim runs no Lua code, either."""
        mode = self.rpc.api.get_mode()
        assert not (mode["blocking"] and mode["mode"].startswith("r")), f"a prompt blocks the user:\n{mode}"

    def press(self, keys: str) -> None:
        """Press keys in the notation of Vim."""
        self.rpc.input(keys)

    def open(self, path: Path, text: str | bytes, attached: bool = True) -> None:
        """Write a file and edit it; wait until the server is attached."""
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self.rpc.command(f"edit {path}")
        if attached:
            self.wait_until(
                lambda: self.exec_lua("return require('codeclippy').client() ~= nil"), "the server to attach"
            )

    def set_cursor(self, line: int, column: int) -> None:
        """Move the cursor to a line (from 1) and a byte (from 0)."""
        self.rpc.current.window.cursor = (line, column)

    def wait_until_ready(self) -> None:
        """Wait for the model."""
        self.wait_until(
            lambda: self.exec_lua("return require('codeclippy.status').state()") == "ready", "the model to be ready"
        )

    def get_text(self) -> str:
        """Return the text of the buffer, with newlines between the lines."""
        return "\n".join(self.rpc.current.buffer[:])

    def get_screen(self) -> str:
        """Return the text on the screen."""
        rows: list[str] = self.exec_lua(
            "local out = {} for r = 1, vim.o.lines do local s = {} for c = 1, vim.o.columns do "
            "s[#s + 1] = vim.fn.screenstring(r, c) end out[r] = (table.concat(s):gsub('%s+$', '')) end return out"
        )
        return "\n".join(rows)

    def has_ghost_text(self) -> bool:
        """Return true if a suggestion is drawn."""
        drawn: int = self.exec_lua(
            "local progress = vim.api.nvim_create_namespace('codeclippy.progress') "
            "return #vim.tbl_filter(function(mark) return mark[4].virt_text ~= nil and mark[4].ns_id ~= progress end, "
            "vim.api.nvim_buf_get_extmarks(0, -1, 0, -1, { details = true }))"
        )
        return drawn > 0

    def get_messages(self) -> list[str]:
        """Return the messages that the notifier has got."""
        found: list[str] = self.exec_lua("return _G.test_messages")
        return found

    def get_message_history(self) -> str:
        """Return the output of `:messages`."""
        found: str = self.exec_lua("return vim.api.nvim_exec2('messages', { output = true }).output")
        return found

    def wait_until(self, condition: Callable[[], Any], description: str, seconds: float = TIMEOUT) -> None:
        """Wait until a condition holds; fail the test with the screen if it does not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.assert_not_blocked()
            if condition():
                return
            time.sleep(0.05)
        pytest.fail(f"timed out waiting for {description}:\n{self.get_screen()}\nmessages: {self.get_messages()}")

    def wait_for_screen(self, text: str) -> None:
        """Wait until a text is on the screen."""
        self.wait_until(lambda: text in self.get_screen(), f"{text!r} on the screen")

    def close(self) -> None:
        """Exit without saving, which ends the server, too, and close the pipes to the process; once."""
        if not (transports := self.rpc._session.loop._to_close):
            return
        with contextlib.suppress(Exception):
            self.rpc.input("<Esc><Esc>:qa!<CR>")
        # pynvim closes its event loop before the loop has closed the pipes.
        process = transports[-1]
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end and process.get_returncode() is None:
            self._run_loop()
        self._run_loop()
        with contextlib.suppress(Exception):
            self.rpc.close()

    def _run_loop(self) -> None:
        with contextlib.suppress(RuntimeError):  # pynvim stops the loop when the process exits
            self.rpc.loop.run_until_complete(asyncio.sleep(0.05))
