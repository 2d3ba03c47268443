"""A real Emacs in a terminal that a test types into and whose screen it reads."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.editors.conftest import CLIENTS, ROOT
from tests.editors.terminal import draw

VERSIONS = ("28", "30")
CLIENT = CLIENTS / "emacs" / "codeclippy.el"
INIT = Path(__file__).parent / "emacs" / "init.el"
PATIENCE = float(os.environ.get("EDITOR_PATIENCE", "60"))  # seconds for anything; a busy machine is slow
WIDTH, HEIGHT = 100, 28


def binary(version: str) -> str:
    """The program of a version; skips the test where it is absent."""
    own = ROOT / "emacs-30" / "emacs"
    found = shutil.which("emacs") if version == "28" else str(own) if own.exists() else None
    said = subprocess.run([found, "--version"], capture_output=True, text=True).stdout if found else ""
    if found is None or f"Emacs {version}." not in said:
        pytest.skip(f"Emacs {version} is not installed; `make editors` installs it where it can be had")
    return found


def quoted(text: str | Path) -> str:
    """A string as Emacs Lisp reads it."""
    return json.dumps(str(text), ensure_ascii=False)


def batch(version: str, home: Path, *arguments: str) -> str:
    """Run Emacs without a terminal, with nothing of a user's; fails with its output, else returns it."""
    home.mkdir(exist_ok=True)
    command = [binary(version), "-q", "--batch", *arguments]
    environment = {**os.environ, "HOME": str(home), "LANG": "C.UTF-8"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return "\n".join(line for line in said.splitlines() if not line.startswith("Loading /"))


class Emacs:
    """One editor process in tmux.

    Args:
        version: `28` or `30`.
        folder: a fresh folder for everything it writes; a short path, as it holds sockets.
        command: how it starts the server.
    """

    def __init__(self, version: str, folder: Path, command: list[str]) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed; `make editors` installs it where it can be had")
        program = binary(version)
        self.folder = folder
        self._socket, self._terminal = folder / "eval", ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        (folder / "home").mkdir()
        environment = {
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "TEST_CLIENT": str(CLIENT.parent),
            "TEST_COMMAND": json.dumps(command),
            "TEST_SOCKET": str(self._socket),
        }
        given = [f"{name}={value}" for name, value in environment.items()]
        self._tmux(
            "new-session",
            "-d",
            "-x",
            str(WIDTH),
            "-y",
            str(HEIGHT),
            "env",
            *given,
            program,
            "-nw",
            "-q",
            "-l",
            str(INIT),
        )
        self._tmux("set", "-g", "status", "off")
        self._tmux("set", "-s", "escape-time", "0")
        self.until(self._socket.exists, "the editor to start")

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run([*self._terminal, *arguments], capture_output=True, text=True, timeout=30)
        return done.stdout

    def lisp(self, form: str) -> Any:
        """Evaluate a form in the buffer the user is in, answer its value as JSON has it."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self._socket))
            connection.sendall(form.replace("\n", " ").encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer = json.loads(stream.readline())
        assert "error" not in answer, f"{form}: {answer['error']}"
        return answer["value"]

    def keys(self, *keys: str) -> None:
        """Press keys, in tmux's notation: `C-g`, `M-f`, `Tab`."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type a text."""
        self._tmux("send-keys", "-l", text)

    def command(self, name: str) -> None:
        """Run a command by its name, as M-x does, without typing it."""
        self.lisp(
            f"(progn (run-at-time 0 nil (lambda () (with-current-buffer (window-buffer (selected-window))"
            f" (call-interactively #'{name})))) nil)"
        )

    def meta_x(self, name: str) -> None:
        """Run a command as a user does: by its name behind M-x."""
        self.keys("M-x")
        self.type(name)
        self.keys("Enter")

    def open(self, path: Path, text: str | bytes, mode: bool = True) -> None:
        """Write a file and visit it; the cursor is at its end. `mode`: with ghost text, once the server has it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self.lisp(f"(progn (switch-to-buffer (find-file-noselect {quoted(path)})) (goto-char (point-max)) nil)")
        if mode:
            self.lisp("(progn (codeclippy-mode 1) nil)")
            self.until(lambda: self.lisp("(and codeclippy--opened t)"), "the server to know the file")

    def ready(self) -> None:
        """Wait for the model."""
        self.until(lambda: self.state() == "ready", "the model to be ready")

    def state(self) -> str:
        """The client's state."""
        return str(self.lisp("(car (codeclippy-state))"))

    def server(self) -> int:
        """The process of the client's server."""
        return int(self.lisp("(process-id (jsonrpc--process codeclippy--connection))"))

    def text(self) -> str:
        """The text of the buffer the user is in."""
        return str(self.lisp("(buffer-substring-no-properties (point-min) (point-max))"))

    def screen(self) -> str:
        """What is drawn."""
        return self._tmux("capture-pane", "-p")

    def notes(self) -> str:
        """Everything that was said to the user."""
        return str(self.lisp("(with-current-buffer (messages-buffer) (buffer-string))"))

    def until(self, holds: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
        """Wait for something; fails with the screen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if holds():
                return
            time.sleep(0.05)
        notes = self.notes()[-2000:] if self._socket.exists() else ""
        pytest.fail(f"waited in vain for {what}:\n{self.screen()}\nnotes: {notes}")

    def until_drawn(self, *texts: str) -> None:
        """Wait for texts on the screen."""
        self.until(lambda: all(text in self.screen() for text in texts), f"{texts!r} on the screen")

    def until_text(self, text: str, what: str) -> None:
        """Wait for the buffer to be a text."""
        self.until(lambda: self.text() == text, f"{what}: {text!r}")

    def reset(self) -> None:
        """Leave whatever a test was in: prompts, windows, previews, changed buffers, eglot."""
        self.keys("C-g")
        self.lisp(
            "(progn (when (> (minibuffer-depth) 0) (run-at-time 0 nil #'top-level))"
            " (dolist (buffer (buffer-list)) (when (or (buffer-file-name buffer)"
            ' (string-prefix-p "*codeclippy edit" (buffer-name buffer))'
            ' (equal (buffer-name buffer) "*Completions*"))'
            " (with-current-buffer buffer (set-buffer-modified-p nil)"
            " (when (and (fboundp 'eglot-current-server) (eglot-current-server))"
            " (ignore-errors (eglot-shutdown (eglot-current-server)))))"
            " (kill-buffer buffer))) (delete-other-windows) (message nil) nil)"
        )

    def shot(self, path: Path, title: str) -> None:
        """Write the screen as an image."""
        draw(self._tmux("capture-pane", "-e", "-p"), WIDTH, path, title)

    def close(self) -> None:
        """Leave without saving; the server goes with it."""
        with contextlib.suppress(Exception):
            self.lisp("(progn (run-at-time 0 nil (lambda () (kill-emacs 0))) nil)")
            time.sleep(0.5)
        self._tmux("kill-server")
