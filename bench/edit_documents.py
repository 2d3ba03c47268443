"""Documents and messages of every kind that an editor may hand over, by seed.

Cuts of real files, and everything that tools for diffs stumble over: no lines, equal lines, lines that look like a
diff's own, every end of line, characters that some take for one. Knows nothing of models.
"""

from __future__ import annotations

import random
import sysconfig
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

_MOST_LINES, _MOST_CHARACTERS = 120, 3600
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
def sources(most: int = 3000) -> tuple[Path, ...]:
    """Files of the packages beside this one, the same for the same environment."""
    every = sorted(
        path
        for path in Path(sysconfig.get_path("purelib")).rglob("*")
        if path.suffix in (".py", ".js", ".md", ".css") and path.is_file()
    )
    rare = [path for path in every if path.suffix != ".py"]
    return (*(every[:: max(len(every) // most, 1)]), *rare)


@lru_cache(maxsize=512)
def _lines(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8", errors="replace").replace("\r", "").split("\n")[:3000])


def real(chance: random.Random) -> list[str]:
    """Lines of a real file."""
    found = _lines(chance.choice(sources()))
    start = chance.randrange(max(len(found) - 5, 1))
    return list(found[start : start + chance.choice((3, 10, 30, 60, _MOST_LINES))])


def one_line(chance: random.Random) -> list[str]:
    """A single line."""
    return [chance.choice(("x", "", " ", "x = 1", "\t", "é", *_LOOKALIKES))]


def equal_lines(chance: random.Random) -> list[str]:
    """Few different lines, many times."""
    few = [chance.choice(("", "}", "    pass", "x = 1", "end", "\tx")) for _ in range(chance.randint(1, 3))]
    return [chance.choice(few) for _ in range(chance.randint(2, _MOST_LINES))]


def long_lines(chance: random.Random) -> list[str]:
    """A line that fills much of the window among others."""
    made = real(chance)[:10]
    line = chance.choice(("x, " * 700, "a" * 1500, "[" * 300 + "]" * 300, '"' + "é" * 500 + '"', "word " * 300))
    made.insert(chance.randrange(len(made) + 1), line)
    return made


def lookalikes(chance: random.Random) -> list[str]:
    """Lines of a diff, of a prompt, of a conflict."""
    return [chance.choice(_LOOKALIKES) + chance.choice(("", "", " x")) for _ in range(chance.randint(1, 30))]


def blank_lines(chance: random.Random) -> list[str]:
    """Nothing but blanks."""
    return [chance.choice(("", "", " ", "    ", "\t", " \t ")) for _ in range(chance.randint(1, 40))]


def tabs(chance: random.Random) -> list[str]:
    """Indented by tabs."""
    return [line.replace("    ", "\t") for line in real(chance)]


def sprinkled(chance: random.Random, signs: Sequence[str]) -> list[str]:
    """Real lines with signs put in anywhere."""
    made = []
    for line in real(chance)[:40]:
        for _ in range(chance.choice((0, 0, 1, 2))):
            at = chance.randrange(len(line) + 1)
            line = line[:at] + chance.choice(signs) + line[at:]
        made.append(line)
    return made


def separators(chance: random.Random) -> list[str]:
    """Form feeds and other characters that some tools end lines at, or do not show."""
    return sprinkled(chance, _SEPARATORS)


def emoji(chance: random.Random) -> list[str]:
    """Characters of several code points or bytes."""
    return sprinkled(chance, _EMOJI)


def combining(chance: random.Random) -> list[str]:
    """Letters with marks of their own, which some tokenizers melt into one."""
    letters = ("é", "ü", "ñ", "Å", "각", "e\u0301\u0323")
    return [unicodedata.normalize("NFD", line) for line in sprinkled(chance, letters)]


def marked(chance: random.Random) -> list[str]:
    """With a comment that holds a message."""
    made = real(chance)[:40]
    made.insert(chance.randrange(len(made) + 1), "    # clippy: make it faster")
    return made


KINDS: dict[str, Callable[[random.Random], list[str]]] = {
    "real": real,
    "empty": lambda chance: [],
    "one line": one_line,
    "equal lines": equal_lines,
    "long lines": long_lines,
    "lookalikes": lookalikes,
    "blank lines": blank_lines,
    "tabs": tabs,
    "separators": separators,
    "emoji": emoji,
    "combining": combining,
    "marked": marked,
}


def text(chance: random.Random) -> tuple[str, str]:
    """A kind of document and one of that kind, in some style of line ends, with or without the last."""
    kind = chance.choices(list(KINDS), [6] + [1] * (len(KINDS) - 1))[0]
    lines = KINDS[kind](chance)[:_MOST_LINES]
    while sum(map(len, lines)) > _MOST_CHARACTERS:
        del lines[len(lines) // 2 :]
    style = chance.choices(("\n", "\r\n", "\r", "mixed"), (12, 4, 1, 3))[0]
    ends = [chance.choice(("\n", "\r\n", "\r")) if style == "mixed" else style for _ in lines]
    if lines and chance.random() < 0.25:
        ends[-1] = ""
    return kind, "".join(line + end for line, end in zip(lines, ends, strict=True))


def message(chance: random.Random) -> str:
    """What is asked for: words, or odd signs among them, seldom very many."""
    count = chance.choices((1, 4, 8, 400), (4, 10, 5, 1))[0]
    odd = chance.random() < 0.2
    pool = (*_WORDS, *_LOOKALIKES, *_EMOJI, "\n", "\u2028") if odd else _WORDS
    return " ".join(chance.choice(pool) for _ in range(count))
