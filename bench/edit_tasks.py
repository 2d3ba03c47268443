"""Instructed edits with tests: a file, a place in it, a message as a person would write it, and a test of the result.

The tasks were written for this project: ``bench/instructed`` has one text for each file, with four tasks. Half of the
files are for searching how to ask a model (``search``), the other half for the figures (``kept``). A test runs in a
process of its own, in an empty folder, with a time limit. It fails before the edit. Knows no model.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "instructed"
_SECONDS = 20.0
_LANGUAGES = {".py": "python", ".js": "javascript"}


@dataclass(frozen=True, slots=True)
class InstructedTask:
    """One instructed edit.

    Attributes:
        name: the file's stem and the task's name.
        path: the file's name.
        before: its text.
        line: of the cursor, from 0; ``None`` if the whole file is selected.
        always: the start of the test, which passes before the edit, too.
        test: a program that fails, unless the edit is right.
        half: ``search`` or ``kept``.
    """

    name: str
    path: str
    before: str
    line: int | None
    message: str
    always: str
    test: str
    half: str

    @property
    def language(self) -> str:
        """The LSP id of the file's language."""
        return _LANGUAGES[Path(self.path).suffix]

    @property
    def span(self) -> tuple[int, int] | None:
        """The first and last selected line; a cursor is a span of one line."""
        return None if self.line is None else (self.line, self.line)


def read_tasks(half: str = "", folder: Path = FOLDER) -> list[InstructedTask]:
    """Read the tasks of one half, or all of them."""
    tasks = [task for path in sorted(folder.glob("*.txt")) for task in _parse_tasks(path.read_text(encoding="utf-8"))]
    return [task for task in tasks if half in ("", task.half)]


def _parse_tasks(text: str) -> Iterator[InstructedTask]:
    """Parse the text of one file: sections that begin with ``===``."""
    head, *sections = text.split("\n=== ")
    _, path, half = head.partition("\n")[0].removeprefix("=== ").split()
    before = head.partition("\n")[2] + "\n"
    always = ""
    for section in sections:
        title, _, body = section.partition("\n")
        body = body.rstrip("\n") + "\n"
        if title == "always":
            always = body
            continue
        _, name, place = title.split(" ", 2)
        message, _, test = body.partition("\n--- test\n")
        line = None
        if place != "whole":
            wanted = place.removeprefix("at: ")
            line = next(number for number, row in enumerate(before.split("\n")) if wanted in row)
        yield InstructedTask(f"{Path(path).stem}/{name}", path, before, line, message, always, always + test, half)


def can_run(task: InstructedTask) -> bool:
    """Return whether the task's language can be run here."""
    return task.language == "python" or shutil.which("node") is not None


def passes_test(task: InstructedTask, text: str) -> bool:
    """Run the task's test on a text of its file, in an empty folder."""
    is_python = task.language == "python"
    command = [sys.executable, "-B", "-s", "check.py"] if is_python else ["node", "check.js"]
    with tempfile.TemporaryDirectory(prefix="edit-") as folder:
        Path(folder, task.path).write_text(text, encoding="utf-8")
        Path(folder, command[-1]).write_text(task.test, encoding="utf-8")
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": folder}
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0
