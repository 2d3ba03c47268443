"""A program in a real terminal (tmux): type into it, read it, and draw it as a picture."""

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


class Terminal:
    """A tmux session of its own server, 90 x 18 cells unless told otherwise; skips the test without tmux."""

    def __init__(
        self, command: str, folder: Path, environment: dict[str, str], size: tuple[int, int] = (90, 18)
    ) -> None:
        if shutil.which("tmux") is None:
            pytest.skip("tmux is not installed; `make editors` installs it where it can be had")
        self.size = size
        self._name = f"codeclippy-{uuid.uuid4().hex[:8]}"
        given = [argument for key, value in environment.items() for argument in ("-e", f"{key}={value}")]
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
            *given,
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

    def keys(self, *keys: str) -> None:
        """Send keys by tmux's names (`Enter`, `C-x`, `M-Right`)."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type text as it stands."""
        self._tmux("send-keys", "-l", text)

    def screen(self) -> str:
        """What is drawn, without colours."""
        return self._tmux("capture-pane", "-p")

    def until(self, holds: Callable[[], bool], what: str, seconds: float = 40.0) -> None:
        """Wait for something; fails with the screen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if holds():
                return
            time.sleep(0.1)
        pytest.fail(f"waited in vain for {what}:\n{self.screen()}")

    def until_drawn(self, text: str, seconds: float = 40.0) -> None:
        """Wait for a text on the screen."""
        self.until(lambda: text in self.screen(), f"{text!r} on the screen", seconds)

    def picture(self, file: Path, title: str) -> None:
        """Draw the screen as an SVG; needs rich."""
        draw(self._tmux("capture-pane", "-e", "-p"), self.size[0], file, title)

    def close(self) -> None:
        """End the session and what runs in it."""
        subprocess.run(["tmux", "-L", self._name, "kill-server"], capture_output=True, check=False)


def draw(captured: str, width: int, file: Path, title: str) -> None:
    """Draw what tmux captured, colours and all, as an SVG; needs rich."""
    console = pytest.importorskip("rich.console", reason="rich is not installed; `make test-editors` installs it")
    text = pytest.importorskip("rich.text")
    drawn = console.Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    drawn.print(text.Text.from_ansi(captured.rstrip("\n")), highlight=False, no_wrap=True, crop=True)
    # The fonts would be asked for from the web each time somebody looks at the picture.
    svg = re.sub(r"@font-face \{.*?\}", "", drawn.export_svg(title=title), flags=re.DOTALL)
    file.write_text(re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL), encoding="utf-8")
