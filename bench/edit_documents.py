"""Make documents and messages of every kind that an editor may send, from a seed.

Parts of real files, and everything that breaks diff tools: no lines, equal lines, lines that look like a diff, every
line ending, characters that some tools take for a line ending. Knows nothing of models.
"""

from __future__ import annotations

import random
import sysconfig
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

_MAX_LINES, _MAX_CHARACTERS = 120, 3600
_LOOKALIKES = (
    "@@ -1 +1 @@",
    "@@ -1,3 +1,4 @@ def f():",
    " @@ -0,0 +1 @@",
    "--- a/f",
    "+++ b/f",
    "-",
    "+",
    " ",
    "- x",
    "+ x",
    "\\",
    "\\ No newline at end of file",
    "diff --git a/f b/f",
    "index 000..111 100644",
    "<NME> f",
    "<BEF> ",
    "<MSG> x",
    "<DFF>",
    "<|endoftext|>",
    "<|SUF|>",
    "ADDFILE",
    "```diff",
    "```",
    "=======",
    "<<<<<<< HEAD",
    ">>>>>>> x",
    "Index: f",
    "***",
)
_SEPARATORS = "\f\v\x1c\x1d\x1e\x85\u2028\u2029\x1b\x01\x7f\u00a0\ufeff\u200b\u202e\u2066"
_EMOJI = ("😀", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "日本語", "한글", "ß", "İ", "ﬁ", "é")
_WORDS = ("add", "a", "docstring", "rename", "x", "to", "fix", "the", "bug", "remove", "print", "type", "hints", "über")


@lru_cache(maxsize=1)
def find_sources(limit: int = 3000) -> tuple[Path, ...]:
    """Return files of the installed packages, the same for the same environment."""
    every = sorted(
        path
        for path in Path(sysconfig.get_path("purelib")).rglob("*")
        if path.suffix in (".py", ".js", ".md", ".css") and path.is_file()
    )
    rare = [path for path in every if path.suffix != ".py"]
    return (*(every[:: max(len(every) // limit, 1)]), *rare)


@lru_cache(maxsize=512)
def _lines(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8", errors="replace").replace("\r", "").split("\n")[:3000])


def cut_real_lines(rng: random.Random) -> list[str]:
    """Cut lines out of a real file."""
    found = _lines(rng.choice(find_sources()))
    start = rng.randrange(max(len(found) - 5, 1))
    return list(found[start : start + rng.choice((3, 10, 30, 60, _MAX_LINES))])


def make_one_line(rng: random.Random) -> list[str]:
    """Make a single line."""
    return [rng.choice(("x", "", " ", "x = 1", "\t", "é", *_LOOKALIKES))]


def make_equal_lines(rng: random.Random) -> list[str]:
    """Repeat a few different lines many times."""
    few = [rng.choice(("", "}", "    pass", "x = 1", "end", "\tx")) for _ in range(rng.randint(1, 3))]
    return [rng.choice(few) for _ in range(rng.randint(2, _MAX_LINES))]


def make_long_lines(rng: random.Random) -> list[str]:
    """Insert a line that fills much of the model's context into real lines."""
    lines = cut_real_lines(rng)[:10]
    line = rng.choice(("x, " * 700, "a" * 1500, "[" * 300 + "]" * 300, '"' + "é" * 500 + '"', "word " * 300))
    lines.insert(rng.randrange(len(lines) + 1), line)
    return lines


def make_lookalikes(rng: random.Random) -> list[str]:
    """Make lines that look like those of a diff, a prompt or a merge conflict."""
    return [rng.choice(_LOOKALIKES) + rng.choice(("", "", " x")) for _ in range(rng.randint(1, 30))]


def make_blank_lines(rng: random.Random) -> list[str]:
    """Make lines of nothing but whitespace."""
    return [rng.choice(("", "", " ", "    ", "\t", " \t ")) for _ in range(rng.randint(1, 40))]


def indent_with_tabs(rng: random.Random) -> list[str]:
    """Indent real lines with tabs."""
    return [line.replace("    ", "\t") for line in cut_real_lines(rng)]


def insert_randomly(rng: random.Random, characters: Sequence[str]) -> list[str]:
    """Insert some of the characters anywhere in real lines."""
    lines = []
    for line in cut_real_lines(rng)[:40]:
        for _ in range(rng.choice((0, 0, 1, 2))):
            at = rng.randrange(len(line) + 1)
            line = line[:at] + rng.choice(characters) + line[at:]
        lines.append(line)
    return lines


def insert_separators(rng: random.Random) -> list[str]:
    """Insert form feeds and other characters at which some tools end lines, or which they do not show."""
    return insert_randomly(rng, _SEPARATORS)


def insert_emoji(rng: random.Random) -> list[str]:
    """Insert characters of several code points or bytes."""
    return insert_randomly(rng, _EMOJI)


def insert_combining(rng: random.Random) -> list[str]:
    """Insert letters with combining marks, which some tokenizers normalize to one code point."""
    letters = ("é", "ü", "ñ", "Å", "각", "e\u0301\u0323")
    return [unicodedata.normalize("NFD", line) for line in insert_randomly(rng, letters)]


def insert_marker(rng: random.Random) -> list[str]:
    """Insert a comment with a message for the model into real lines."""
    lines = cut_real_lines(rng)[:40]
    lines.insert(rng.randrange(len(lines) + 1), "    # clippy: make it faster")
    return lines


KINDS: dict[str, Callable[[random.Random], list[str]]] = {
    "real": cut_real_lines,
    "empty": lambda rng: [],
    "one line": make_one_line,
    "equal lines": make_equal_lines,
    "long lines": make_long_lines,
    "lookalikes": make_lookalikes,
    "blank lines": make_blank_lines,
    "tabs": indent_with_tabs,
    "separators": insert_separators,
    "emoji": insert_emoji,
    "combining": insert_combining,
    "marked": insert_marker,
}


def make_text(rng: random.Random) -> tuple[str, str]:
    """Return a kind and a text of that kind, with any line endings, with or without the final one."""
    kind = rng.choices(list(KINDS), [6] + [1] * (len(KINDS) - 1))[0]
    lines = KINDS[kind](rng)[:_MAX_LINES]
    while sum(map(len, lines)) > _MAX_CHARACTERS:
        del lines[len(lines) // 2 :]
    style = rng.choices(("\n", "\r\n", "\r", "mixed"), (12, 4, 1, 3))[0]
    ends = [rng.choice(("\n", "\r\n", "\r")) if style == "mixed" else style for _ in lines]
    if lines and rng.random() < 0.25:
        ends[-1] = ""
    return kind, "".join(line + end for line, end in zip(lines, ends, strict=True))


def make_message(rng: random.Random) -> str:
    """Make an instruction: some words, sometimes with odd characters, rarely very many."""
    count = rng.choices((1, 4, 8, 400), (4, 10, 5, 1))[0]
    odd = rng.random() < 0.2
    pool = (*_WORDS, *_LOOKALIKES, *_EMOJI, "\n", "\u2028") if odd else _WORDS
    return " ".join(rng.choice(pool) for _ in range(count))
