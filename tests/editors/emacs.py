"""Drive a real Emacs in a terminal: type into it, and read its screen."""

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

from tests.editor import TIMEOUT
from tests.editors.conftest import CLIENTS, ROOT
from tests.editors.terminal import draw

VERSIONS = ("28", "30")
CLIENT = CLIENTS / "emacs" / "codeclippy.el"
INIT = Path(__file__).parent / "emacs" / "init.el"
WIDTH, HEIGHT = 100, 28


def find_binary(version: str) -> str:
    """Return the program of a version; skip the test if it is not installed."""
    own = ROOT / "emacs-30" / "emacs"
    found = shutil.which("emacs") if version == "28" else str(own) if own.exists() else None
    output = subprocess.run([found, "--version"], capture_output=True, text=True).stdout if found else ""
    if found is None or f"Emacs {version}." not in output:
        pytest.skip(f"Emacs {version} is not installed; `make editors` installs it if possible")
    return found


def quote(text: str | Path) -> str:
    """Write a string as an Emacs Lisp literal."""
    return json.dumps(str(text), ensure_ascii=False)


def run_batch(version: str, home: Path, *arguments: str) -> str:
    """Run Emacs without a terminal and without a user's configuration; return its output."""
    home.mkdir(exist_ok=True)
    command = [find_binary(version), "-q", "--batch", *arguments]
    environment = {**os.environ, "HOME": str(home), "LANG": "C.UTF-8"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return "\n".join(line for line in output.splitlines() if not line.startswith("Loading /"))


class Emacs:
    """An Emacs process in tmux.

    Args:
        version: `28` or `30`.
        folder: an empty folder for all files that it writes; a short path, as sockets are in it.
        command: the command that starts the server.
    """

    def __init__(self, version: str, folder: Path, command: list[str]) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed; `make editors` installs it if possible")
        program = find_binary(version)
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
        variables = [f"{name}={value}" for name, value in environment.items()]
        self._tmux(
            "new-session",
            "-d",
            "-x",
            str(WIDTH),
            "-y",
            str(HEIGHT),
            "env",
            *variables,
            program,
            "-nw",
            "-q",
            "-l",
            str(INIT),
        )
        self._tmux("set", "-g", "status", "off")
        self._tmux("set", "-s", "escape-time", "0")
        self.wait_until(self._socket.exists, "the editor to start")

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run([*self._terminal, *arguments], capture_output=True, text=True, timeout=TIMEOUT)
        return done.stdout

    def eval_lisp(self, form: str) -> Any:
        """Evaluate a form in the selected buffer; return its value, converted from JSON."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(str(self._socket))
            connection.sendall(form.replace("\n", " ").encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer = json.loads(stream.readline())
        assert "error" not in answer, f"{form}: {answer['error']}"
        return answer["value"]

    def press(self, *keys: str) -> None:
        """Press keys in the notation of tmux: `C-g`, `M-f`, `Tab`."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type a text."""
        self._tmux("send-keys", "-l", text)

    def run_command(self, name: str) -> None:
        """Run a command by its name, without typing it."""
        self.eval_lisp(
            f"(progn (run-at-time 0 nil (lambda () (with-current-buffer (window-buffer (selected-window))"
            f" (call-interactively #'{name})))) nil)"
        )

    def run_with_meta_x(self, name: str) -> None:
        """Run a command by typing its name after M-x."""
        self.press("M-x")
        self.type(name)
        self.press("Enter")

    def open(self, path: Path, text: str | bytes, mode: bool = True) -> None:
        """Write a file and visit it, cursor at the end. `mode`: turn ghost text on, and wait for the server."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self.eval_lisp(f"(progn (switch-to-buffer (find-file-noselect {quote(path)})) (goto-char (point-max)) nil)")
        if mode:
            self.eval_lisp("(progn (codeclippy-mode 1) nil)")
            self.wait_until(lambda: self.eval_lisp("(and codeclippy--opened t)"), "the server to know the file")

    def wait_until_ready(self) -> None:
        """Wait for the model."""
        self.wait_until(lambda: self.get_state() == "ready", "the model to be ready")

    def get_state(self) -> str:
        """Return the state of the client."""
        return str(self.eval_lisp("(car (codeclippy-state))"))

    def get_server_pid(self) -> int:
        """Return the process id of the server."""
        return int(self.eval_lisp("(process-id (jsonrpc--process codeclippy--connection))"))

    def get_text(self) -> str:
        """Return the text of the selected buffer."""
        return str(self.eval_lisp("(buffer-substring-no-properties (point-min) (point-max))"))

    def get_screen(self) -> str:
        """Return the text on the screen."""
        return self._tmux("capture-pane", "-p")

    def get_messages(self) -> str:
        """Return all messages so far."""
        return str(self.eval_lisp("(with-current-buffer (messages-buffer) (buffer-string))"))

    def wait_until(self, condition: Callable[[], Any], description: str, seconds: float = TIMEOUT) -> None:
        """Wait until a condition holds; fail the test with the screen if it does not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.05)
        messages = self.get_messages()[-2000:] if self._socket.exists() else ""
        pytest.fail(f"timed out waiting for {description}:\n{self.get_screen()}\nmessages: {messages}")

    def wait_for_screen(self, *texts: str) -> None:
        """Wait until texts are on the screen."""
        self.wait_until(lambda: all(text in self.get_screen() for text in texts), f"{texts!r} on the screen")

    def wait_for_text(self, text: str, description: str) -> None:
        """Wait until the buffer contains a text, and nothing else."""
        self.wait_until(lambda: self.get_text() == text, f"{description}: {text!r}")

    def reset(self) -> None:
        """Close everything that a test has opened: prompts, windows, previews, changed buffers, eglot."""
        self.press("C-g")
        self.eval_lisp(
            "(progn (when (> (minibuffer-depth) 0) (run-at-time 0 nil #'top-level))"
            " (dolist (buffer (buffer-list)) (when (or (buffer-file-name buffer)"
            ' (string-prefix-p "*codeclippy edit" (buffer-name buffer))'
            ' (equal (buffer-name buffer) "*Completions*"))'
            " (with-current-buffer buffer (set-buffer-modified-p nil)"
            " (when (and (fboundp 'eglot-current-server) (eglot-current-server))"
            " (ignore-errors (eglot-shutdown (eglot-current-server)))))"
            " (kill-buffer buffer))) (delete-other-windows) (message nil) nil)"
        )

    def take_screenshot(self, path: Path, title: str) -> None:
        """Save the screen as an image."""
        draw(self._tmux("capture-pane", "-e", "-p"), WIDTH, path, title)

    def close(self) -> None:
        """Exit without saving; this ends the server, too."""
        with contextlib.suppress(Exception):
            self.eval_lisp("(progn (run-at-time 0 nil (lambda () (kill-emacs 0))) nil)")
            time.sleep(0.5)
        self._tmux("kill-server")
