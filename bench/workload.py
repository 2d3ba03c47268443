"""Simulated typing of real functions: the keys, their times, and the change that each makes to the text.

The same arguments give the same keys. A function's body is removed from a file and typed again: letter by letter, with
the indentation that editors insert after a line end, typing errors that are deleted a key or two later, longer
pauses at line ends and sometimes before a word. No suggestion is accepted. Knows nothing of the server.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Files of this repository: they are always there, and the shipped model was not trained on them.
ROOT = Path(__file__).parent.parent / "codeclippy_ls"
FILES = (
    "text.py",
    "settings.py",
    "commands.py",
    "tasks/edit_context.py",
    "server/transport.py",
    "prompts/token_prompts.py",
    "diffs/matching.py",
    "engine/generation/kv_cache.py",
)
_SLIP, _THINK = 0.04, 0.05  # of letters, of words
_LINE, _THOUGHT = 4.0, 6.0  # times the usual wait
_SPREAD = 0.35  # of the logarithm of waits


@dataclass(frozen=True, slots=True)
class Key:
    """A key, ``wait`` times the usual time after the last: deletes characters before the cursor, then inserts text."""

    wait: float
    removed: int
    text: str


@dataclass(frozen=True, slots=True)
class Typing:
    """Keys typed between ``before`` and ``after``, the text around the cursor."""

    name: str
    before: str
    after: str
    keys: tuple[Key, ...]

    @property
    def prefixes(self) -> list[str]:
        """The text before the cursor, after each key."""
        found, text = [], self.before
        for key in self.keys:
            text = text[: len(text) - key.removed] + key.text
            found.append(text)
        return found


def make_typings(count: int, seed: int = 0, each: int = 80, files: Sequence[Path] = ()) -> list[Typing]:
    """Make typings with ``count`` keys together, each the first ``each`` keys of another function."""
    rng, found = random.Random(seed), list[Typing]()
    functions = [
        (path, *span)
        for path in files or [ROOT / name for name in FILES if (ROOT / name).exists()]
        for span in find_functions(path.read_text(encoding="utf-8"))
    ]
    rng.shuffle(functions)
    for path, name, start, end in functions:
        if count <= 0:
            break
        text = path.read_text(encoding="utf-8")
        keys = tuple(make_keys(text[start:end], rng))[: min(each, count)]
        found.append(Typing(f"{path.name}:{name}", text[:start], text[end:], keys))
        count -= len(keys)
    return found


def find_functions(text: str) -> list[tuple[str, int, int]]:
    """Find functions of 5 to 25 lines; return names and spans of bodies, from the end of the header or docstring."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            last = body[-1].end_lineno if body else None
            if last is not None and 4 <= last - body[0].lineno < 25 and body[0].lineno > node.lineno:
                found.append((node.name, starts[body[0].lineno - 1] - 1, starts[last] - 1))
    return found


def make_keys(text: str, rng: random.Random) -> list[Key]:
    """Make the keys that produce a text."""
    found: list[Key] = []
    offset = 0
    while offset < len(text):
        letter = text[offset]
        if letter == "\n":
            indented = len(text) - len(text[offset + 1 :].lstrip(" "))  # inserted by the editor
            found.append(Key(_draw_wait(rng), 0, text[offset:indented]))
            offset = indented
            continue
        word = letter.isalnum() and not text[offset - 1 : offset].isalnum()
        pause = _THOUGHT if word and rng.random() < _THINK else 1.0
        if found and found[-1].text[:1] == "\n":
            pause = _LINE
        if letter.isalpha() and rng.random() < _SLIP:
            found += _make_slip(text[offset + 1 : offset + 1 + rng.randint(0, 1)].partition("\n")[0], rng)
        found.append(Key(_draw_wait(rng) * pause, 0, letter))
        offset += 1
    return found


def _make_slip(more: str, rng: random.Random) -> list[Key]:
    """Make a wrong letter, perhaps one more key, and their deletion."""
    wrong = rng.choice("etaoinshrdlu") + more
    return [*(Key(_draw_wait(rng), 0, letter) for letter in wrong), *(Key(_draw_wait(rng), 1, "") for _ in wrong)]


def _draw_wait(rng: random.Random) -> float:
    return rng.lognormvariate(0.0, _SPREAD)
