"""Drive a program in a real terminal (tmux): type into it, read its screen, and save it as a picture."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.editor import TIMEOUT


class Terminal:
    """A session of its own tmux server; skips the test if tmux is not installed."""

    def __init__(
        self, command: str, folder: Path, environment: dict[str, str], size: tuple[int, int] = (90, 18)
    ) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed; `make editors` installs it if possible")
        self.size = size
        self._name = f"codeclippy-{uuid.uuid4().hex[:8]}"
        variables = [argument for key, value in environment.items() for argument in ("-e", f"{key}={value}")]
        width, height = size
        self._tmux(
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            str(width),
            "-y",
            str(height),
            "-c",
            str(folder),
            *variables,
            command,
            ";",
            "set",
            "-g",
            "default-terminal",
            "tmux-256color",
            ";",
            "set",
            "-ga",
            "terminal-overrides",
            ",*:Tc",
            ";",
            "set",
            "-g",
            "status",
            "off",
            ";",
            "set",
            "-s",
            "escape-time",
            "0",
        )

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(["tmux", "-L", self._name, *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    def press(self, *keys: str) -> None:
        """Press keys in the notation of tmux (`Enter`, `C-x`, `M-Right`)."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type a text."""
        self._tmux("send-keys", "-l", text)

    def get_screen(self) -> str:
        """Return the text on the screen, without colours."""
        return self._tmux("capture-pane", "-p")

    def get_cursor(self) -> tuple[int, int]:
        """Return the column and the row of the cursor, from 0."""
        column, row = self._tmux("display-message", "-p", "#{cursor_x} #{cursor_y}").split()
        return int(column), int(row)

    def wait_until(self, condition: Callable[[], bool], description: str, seconds: float = TIMEOUT) -> None:
        """Wait until a condition holds; fail the test with the screen if it does not."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.1)
        pytest.fail(f"timed out waiting for {description}:\n{self.get_screen()}")

    def wait_for_screen(self, text: str, seconds: float = TIMEOUT) -> None:
        """Wait until a text is on the screen."""
        self.wait_until(lambda: text in self.get_screen(), f"{text!r} on the screen", seconds)

    def save_picture(self, file: Path, title: str) -> None:
        """Save the screen as an SVG; needs rich."""
        draw(self._tmux("capture-pane", "-e", "-p"), self.size[0], file, title)

    def close(self) -> None:
        """End the session and the programs in it."""
        subprocess.run(["tmux", "-L", self._name, "kill-server"], capture_output=True, check=False)


def draw(captured: str, width: int, file: Path, title: str) -> None:
    """Draw a screen that tmux has captured, with its colours, as an SVG; needs rich."""
    console = pytest.importorskip("rich.console", reason="rich is not installed; `make test-editors` installs it")
    text = pytest.importorskip("rich.text")
    drawn = console.Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    drawn.print(text.Text.from_ansi(captured.rstrip("\n")), highlight=False, no_wrap=True, crop=True)
    # A viewer of the picture would download the fonts each time.
    svg = re.sub(r"@font-face \{.*?\}", "", drawn.export_svg(title=title), flags=re.DOTALL)
    file.write_text(re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL), encoding="utf-8")
