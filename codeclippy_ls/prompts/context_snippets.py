"""What a prompt shows beside the text around the cursor: the head of a long file, and passages of other files.

A model repeats what it sees, so that a passage must earn its place: it is like the cursor's surroundings, or it defines
a name that is used there, and it is not in the file already. Knows text only; all of it is in LF.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from codeclippy_ls.text import indent_width, to_lf

_IMPORT = re.compile(
    r"(?:import|from|use|using|package|require|#include|#import|namespace|open|library)\b|(?:const|let|var)\b.*\brequire\("
)
SCOPE_PATTERN = re.compile(
    r"\s*(?:(?:export|default|public|private|protected|static|async|pub|abstract|final|inline)\s+)*"
    r"(?:def|class|function|fn|func|fun|interface|struct|enum|impl|trait|module|namespace|sub)\b"
)
_DEFINITION = re.compile(
    r"^([ \t]*)(?:(?:export|default|public|static|async|pub|abstract|final)\s+)*"
    r"(?:def|class|function|fn|func|fun|interface|struct|enum|trait)\s+(\w{3,})",
    re.M,
)
_WORD = re.compile(r"[^\W\d]\w{2,}")
IMPORT_REACH = 20_000  # characters at the file's start in which imports are looked for
SCOPE_REACH = 60_000  # characters before the window in which heads are looked for
_NEAR_BEFORE, _NEAR_AFTER = 3000, 1000  # characters that are the cursor's surroundings
_PASSAGE_LINES, _STEP_LINES = 24, 12
_DEFINITION_LINES = 10
_LEAST_ALIKE = 0.22  # share of words that two passages have in common
_MOST_COPIED = 0.34  # share of a passage's lines that the file has already
_MOST_OTHER = 400_000  # characters of another file that are looked at
_COMMENT_SIGNS = {
    **dict.fromkeys(
        (
            "python",
            "shellscript",
            "sh",
            "yaml",
            "toml",
            "ruby",
            "perl",
            "r",
            "julia",
            "makefile",
            "dockerfile",
            "elixir",
            "nix",
            "cmake",
            "gdscript",
        ),
        "#",
    ),
    **dict.fromkeys(("lua", "sql", "haskell", "elm", "ada", "vhdl"), "--"),
    **dict.fromkeys(("lisp", "elisp", "emacs-lisp", "clojure", "scheme", "racket"), ";;"),
    **dict.fromkeys(("tex", "latex", "matlab", "erlang", "prolog"), "%"),
}


@dataclass(frozen=True, slots=True)
class OpenFile:
    """Another file that the editor has open: its path, as short as tells it, and its text in any end-of-line style."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Snippet:
    """A part of another file."""

    path: str
    text: str


def extract_outline(skipped: str, shown: str, most: int) -> str:
    """What a window that begins in the middle of a file still needs: imports, and the heads of the scopes around it.

    Args:
        skipped: what stands before the window.
        shown: the window.
        most: characters; imports give way first.
    """
    depth = indent_width(next((line for line in shown.split("\n") if line.strip()), ""))
    heads: list[str] = []
    for line in reversed(skipped[-SCOPE_REACH:].split("\n")):
        if not depth:
            break
        if line.strip() and (columns := indent_width(line)) < depth and line.strip()[0] not in ")]}#":
            depth = columns
            heads += [line] if SCOPE_PATTERN.match(line) else []
    scopes = "\n".join(reversed(heads))[-most:]
    kept: list[str] = []
    room = most - len(scopes)
    for line in _imports(skipped[:IMPORT_REACH]):
        if (room := room - len(line) - 1) < 0:
            break
        kept.append(line)
    return "".join(line + "\n" for line in (*kept, *([scopes] if scopes else [])))


@lru_cache(maxsize=16)
def _imports(start: str) -> tuple[str, ...]:
    """The lines at the left margin that import, with those up to where their brackets close."""
    found: list[str] = []
    depth = 0
    for line in start.split("\n")[:-1]:
        if depth > 0 or _IMPORT.match(line):
            found.append(line)
            depth = max(0, depth + sum(map(line.count, "([{")) - sum(map(line.count, ")]}")))
            if len(found) > 80:
                break
    return tuple(found)


def select_snippets(prefix: str, suffix: str, others: Sequence[OpenFile], most: int) -> tuple[Snippet, ...]:
    """Passages of other files worth showing at a cursor, the most relevant last; ``most`` characters together.

    Definitions of names that are used around the cursor come before passages that are merely alike (Jaccard index of
    their words, as in Zhang et al. 2023, RepoCoder).
    """
    near = _words(prefix[-_NEAR_BEFORE:] + suffix[:_NEAR_AFTER])
    own = prefix[-100_000:] + suffix[:100_000]
    mine = {line.strip() for line in own.split("\n") if len(line.strip()) > 8}
    defined_here = {match[2] for match in _DEFINITION.finditer(own)}
    found: list[tuple[float, Snippet]] = []
    for other in others:
        found += [(2.0 + score, snippet) for score, snippet in _definitions(other, near - defined_here)]
        if (alike := _most_alike(other, near)) is not None and alike[0] >= _LEAST_ALIKE:
            found.append(alike)
    kept: list[Snippet] = []
    for _, snippet in sorted(found, key=lambda item: -item[0]):
        size = len(snippet.text) + len(snippet.path) + 8
        if size > most or _copied(snippet.text, mine) > _MOST_COPIED or any(_inside(snippet, one) for one in kept):
            continue
        kept.append(snippet)
        most -= size
    return tuple(reversed(kept))


def format_as_comment(snippet: Snippet, language: str) -> str:
    """A passage as comment lines with its path, which no language takes for code."""
    sign = _COMMENT_SIGNS.get(language, "//")
    lines = (f"Path: {snippet.path}", *snippet.text.split("\n"))
    return "".join(f"{sign} {line}".rstrip() + "\n" for line in lines)


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text))


@lru_cache(maxsize=24)
def _lines(text: str) -> tuple[str, ...]:
    return tuple(to_lf(text[:_MOST_OTHER]).split("\n"))


@lru_cache(maxsize=24)
def _windows(text: str) -> tuple[tuple[int, frozenset[str]], ...]:
    """The first line and the words of every window of a text."""
    lines = _lines(text)
    starts = range(0, max(1, len(lines) - _STEP_LINES), _STEP_LINES)
    return tuple((start, _words("\n".join(lines[start : start + _PASSAGE_LINES]))) for start in starts)


def _most_alike(other: OpenFile, near: frozenset[str]) -> tuple[float, Snippet] | None:
    scored = [(len(words & near) / len(words | near), -start) for start, words in _windows(other.text) if words]
    if not scored:
        return None
    score, start = max(scored)
    lines = _lines(other.text)[-start : -start + _PASSAGE_LINES]
    return score, Snippet(other.path, "\n".join(lines).strip("\n"))


@lru_cache(maxsize=24)
def _defined(text: str) -> dict[str, int]:
    """Names that are defined at the left margin, with the number of the line where that is done first."""
    found: dict[str, int] = {}
    for number, line in enumerate(_lines(text)):
        if (match := _DEFINITION.match(line)) and not match[1]:
            found.setdefault(match[2], number)
    return found


def _definitions(other: OpenFile, wanted: Iterable[str]) -> list[tuple[float, Snippet]]:
    """The heads of what is defined at the left margin of another file and wanted, with the lines that follow."""
    defined, found = _defined(other.text), []
    for name in wanted:
        if (start := defined.get(name)) is None:
            continue
        lines = _lines(other.text)[start : start + _DEFINITION_LINES]
        end = next(
            (
                index
                for index, line in enumerate(lines)
                if index and line.strip() and not indent_width(line) and line.strip()[0] not in ")]}"
            ),
            len(lines),
        )
        found.append((len(name) / 100, Snippet(other.path, "\n".join(lines[:end]).rstrip())))
    return found


def _copied(text: str, mine: set[str]) -> float:
    lines = [line.strip() for line in text.split("\n") if len(line.strip()) > 8]
    return sum(line in mine for line in lines) / max(1, len(lines))


def _inside(one: Snippet, other: Snippet) -> bool:
    return one.path == other.path and (one.text in other.text or other.text in one.text)
