"""Twelve places at which a good model has something to say: in each editor its text is shown, whole, and accepted.

The text that is expected is that of ``codeclippy-ls complete``: the model's, cleaned up. Editors ask for it by key.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.editors.code_server import Window
from tests.editors.conftest import REAL_SERVER
from tests.editors.emacs import Emacs, quote
from tests.editors.neovim import Nvim

CURSOR = "|"
PLACES = {
    "body at the end of a file": "def mean(values):\n    |",
    "body in the middle": (
        "def area(width, height):\n    |\n\n\n"
        "def volume(width, height, depth):\n    return area(width, height) * depth\n"
    ),
    "loop": "def total(prices):\n    result = 0\n    for price in prices:\n        |\n    return result\n",
    "call with a closed bracket": "import os\n\nhome = os.path.join(|)\n",
    "import": "import json\nfrom pathlib import |\n\nprint(Path('.').resolve())\n",
    "string": 'def greet(name):\n    return f"Hello, |"\n',
    "body of a constructor": "class Point:\n    def __init__(self, x, y):\n        |\n",
    "body of a method": (
        "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        |\n\n"
        "    def pop(self):\n        return self.items.pop()\n"
    ),
    "expression": "def is_even(number):\n    return number % |\n",
    "attribute": 'ages = {"Ann": 31, "Bob": 27}\nfor name, age in ages.|:\n    print(name, age)\n',
    "comprehension with a closed bracket": "numbers = [1, 2, 3]\nsquares = [number ** 2 for |]\n",
    "statement at the end of a file": "import sys\n\n\ndef main():\n    print(sys.argv)\n\n\nif __name__ == |",
}
PATIENT = {"completion": {"invokedBudgetMs": 60000}}

Accept = Callable[[Path, str, str, str], str]


def find_expected(path: Path, model: str, name: str) -> str:
    """Return the text that the model has for a place, cleaned up; empty if it has none."""
    prefix, _, suffix = PLACES[name].partition(CURSOR)
    path.write_text(prefix + suffix, encoding="utf-8")
    line, column = prefix.count("\n") + 1, len(prefix) - prefix.rfind("\n")
    command = [*REAL_SERVER, "complete", f"{path}:{line}:{column}", f"--model={model}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    return done.stdout.removesuffix("\n")


def check_places(ask: Accept, folder: Path, model: str) -> list[str]:
    """Accept at each place, and return what is wrong; the editor's text must be that of the command line."""
    problems = []
    for number, name in enumerate(PLACES):
        path = folder / f"place{number}.py"
        expected = find_expected(path, model, name)
        if not expected:
            problems.append(f"{name}: no suggestion")
            continue
        prefix, _, suffix = PLACES[name].partition(CURSOR)
        try:
            found = ask(path, prefix, suffix, expected)
        except (AssertionError, pytest.fail.Exception) as error:
            problems.append(f"{name}: {str(error)[:200]}")
            continue
        # Closing brackets of the editor may be replaced by those of the suggestion.
        if not found.startswith(prefix + expected) or not suffix.rstrip().endswith(
            found[len(prefix + expected) :].rstrip()
        ):
            problems.append(f"{name}: {found!r} instead of {prefix + expected!r}")
    return problems


def ask_neovim(nvim: Nvim, path: Path, prefix: str, suffix: str, expected: str) -> str:
    """Accept and accept in Neovim; return the text of the buffer."""
    nvim.press("<Esc><Esc>")
    nvim.open(path, prefix + suffix)
    nvim.wait_until_ready()
    column = len(prefix) - prefix.rfind("\n") - 1
    nvim.exec_lua("vim.bo.modified = false")
    nvim.set_cursor(prefix.count("\n") + 1, column)
    nvim.press("i" if suffix[:1] not in ("", "\n") else "A")
    nvim.press("<M-Bslash>")
    last = expected.rstrip().rpartition("\n")[2].strip()
    nvim.wait_until(lambda: nvim.has_ghost_text() and last in nvim.get_screen(), f"{expected!r}", 60)
    nvim.press("<Tab>")
    nvim.wait_until(lambda: expected in nvim.get_text(), "the text", 20)
    text = nvim.get_text()
    nvim.press("<Esc>:set nomodified<CR>")
    return text


def ask_emacs(emacs: Emacs, path: Path, prefix: str, suffix: str, expected: str) -> str:
    """Accept and accept in Emacs; return the text of the buffer."""
    emacs.open(path, prefix + suffix)
    emacs.wait_until_ready()
    emacs.eval_lisp(f"(progn (goto-char {len(prefix) + 1}) nil)")
    emacs.press("M-n")
    emacs.wait_until(
        lambda: emacs.eval_lisp(f"(equal (codeclippy--remaining-text) {quote(expected)})"), f"{expected!r}", 60
    )
    emacs.press("Tab")
    emacs.wait_until(lambda: expected in emacs.get_text(), "the text", 20)
    text = emacs.get_text()
    emacs.eval_lisp("(progn (set-buffer-modified-p nil) (kill-buffer) nil)")
    return text


def ask_vscode(window: Window, path: Path, prefix: str, suffix: str, expected: str) -> str:
    """Accept and accept in VS Code; return the text of the file."""
    window.name = path.stem
    file = window.open(prefix + suffix)
    column = len(prefix) - prefix.rfind("\n") - 1
    last = expected.rstrip().rpartition("\n")[2].strip()
    window.run("askAt", line=prefix.count("\n") + 1, column=column, expected=last)
    with contextlib.suppress(AssertionError):
        window.run("save")
    return file.read_text(encoding="utf-8")
