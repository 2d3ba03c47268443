"""Typing, made up from real functions: what keys are struck, when, and what each does to the text.

The same arguments give the same keys. A function's body is taken out of a file and typed again: letter by letter, with
the indentation that editors put in after a line's end, slips that are noticed a key or two later and taken back,
longer waits at line ends and now and then before a word. Nobody accepts a suggestion. Knows nothing of the server.
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
    """Struck ``wait`` times the usual time after the last: takes characters before the cursor out, puts text in."""

    wait: float
    removed: int
    text: str


@dataclass(frozen=True, slots=True)
class Typing:
    """What is typed between ``before`` and ``after``, the text around the cursor."""

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


def typings(count: int, seed: int = 0, each: int = 80, files: Sequence[Path] = ()) -> list[Typing]:
    """Typings that have so many keys together, each the first ``each`` keys of another function."""
    source, found = random.Random(seed), list[Typing]()
    places = [
        (path, *span)
        for path in files or [ROOT / name for name in FILES if (ROOT / name).exists()]
        for span in functions(path.read_text(encoding="utf-8"))
    ]
    source.shuffle(places)
    for path, name, start, end in places:
        if count <= 0:
            break
        text = path.read_text(encoding="utf-8")
        keys = tuple(struck(text[start:end], source))[: min(each, count)]
        found.append(Typing(f"{path.name}:{name}", text[:start], text[end:], keys))
        count -= len(keys)
    return found


def functions(text: str) -> list[tuple[str, int, int]]:
    """Name and body's span, from the end of the header or docstring, of functions of some lines."""
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


def struck(text: str, source: random.Random) -> list[Key]:
    """The keys that bring a text about."""
    found: list[Key] = []
    place = 0
    while place < len(text):
        letter = text[place]
        if letter == "\n":
            indented = len(text) - len(text[place + 1 :].lstrip(" "))  # what an editor puts in by itself
            found.append(Key(_wait(source), 0, text[place:indented]))
            place = indented
            continue
        word = letter.isalnum() and not text[place - 1 : place].isalnum()
        pause = _THOUGHT if word and source.random() < _THINK else 1.0
        if found and found[-1].text[:1] == "\n":
            pause = _LINE
        if letter.isalpha() and source.random() < _SLIP:
            found += _slip(text[place + 1 : place + 1 + source.randint(0, 1)].partition("\n")[0], source)
        found.append(Key(_wait(source) * pause, 0, letter))
        place += 1
    return found


def _slip(more: str, source: random.Random) -> list[Key]:
    """A wrong letter, perhaps one more key, and all of it taken back."""
    wrong = source.choice("etaoinshrdlu") + more
    return [*(Key(_wait(source), 0, letter) for letter in wrong), *(Key(_wait(source), 1, "") for _ in wrong)]


def _wait(source: random.Random) -> float:
    return source.lognormvariate(0.0, _SPREAD)
