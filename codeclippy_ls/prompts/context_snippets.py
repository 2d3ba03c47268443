"""Context that a prompt shows beside the text around the cursor: the outline of a long file, snippets of other files.

A model repeats what it sees, so a snippet must be useful: it resembles the text around the cursor, or it defines a name
that is used there, and it is not in the file already. Knows text only; all of it has LF line ends.
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
SCOPE_REACH = 60_000  # characters before the shown text in which scope headers are looked for
_NEAR_BEFORE, _NEAR_AFTER = 3000, 1000  # characters around the cursor that snippets are compared with
_SNIPPET_LINES, _STEP_LINES = 24, 12
_DEFINITION_LINES = 10
_MIN_SIMILARITY = 0.22  # Jaccard index of words
_MAX_COPIED = 0.34  # share of a snippet's lines that the file has already
_MAX_FILE = 400_000  # characters of another file that are read
_COMMENT_PREFIXES = {
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
    """Another file that the editor has open: a short path, and its text with any line ends."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Snippet:
    """A part of another file."""

    path: str
    text: str


def extract_outline(skipped: str, shown: str, limit: int) -> str:
    """Extract the imports, and the headers of the scopes around the shown part of a file.

    Args:
        skipped: text before the shown part.
        limit: characters of the outline; imports are dropped first.
    """
    depth = indent_width(next((line for line in shown.split("\n") if line.strip()), ""))
    headers: list[str] = []
    for line in reversed(skipped[-SCOPE_REACH:].split("\n")):
        if not depth:
            break
        if line.strip() and (columns := indent_width(line)) < depth and line.strip()[0] not in ")]}#":
            depth = columns
            headers += [line] if SCOPE_PATTERN.match(line) else []
    scopes = "\n".join(reversed(headers))[-limit:]
    kept: list[str] = []
    room = limit - len(scopes)
    for line in _find_imports(skipped[:IMPORT_REACH]):
        if (room := room - len(line) - 1) < 0:
            break
        kept.append(line)
    return "".join(line + "\n" for line in (*kept, *([scopes] if scopes else [])))


@lru_cache(maxsize=16)
def _find_imports(start: str) -> tuple[str, ...]:
    """Find import lines at the left margin, with the lines up to where their brackets close."""
    found: list[str] = []
    depth = 0
    for line in start.split("\n")[:-1]:
        if depth > 0 or _IMPORT.match(line):
            found.append(line)
            depth = max(0, depth + sum(map(line.count, "([{")) - sum(map(line.count, ")]}")))
            if len(found) > 80:
                break
    return tuple(found)


def select_snippets(prefix: str, suffix: str, others: Sequence[OpenFile], limit: int) -> tuple[Snippet, ...]:
    """Select snippets of other files for a cursor, the most relevant last; ``limit`` characters together.

    Definitions of names that are used around the cursor rank before snippets that are only similar (Jaccard index of
    their words, as in Zhang et al. 2023, RepoCoder).
    """
    near = _extract_words(prefix[-_NEAR_BEFORE:] + suffix[:_NEAR_AFTER])
    own = prefix[-100_000:] + suffix[:100_000]
    mine = {line.strip() for line in own.split("\n") if len(line.strip()) > 8}
    defined_here = {match[2] for match in _DEFINITION.finditer(own)}
    found: list[tuple[float, Snippet]] = []
    for other in others:
        found += [(2.0 + score, snippet) for score, snippet in _find_definitions(other, near - defined_here)]
        if (similar := _find_most_similar(other, near)) is not None and similar[0] >= _MIN_SIMILARITY:
            found.append(similar)
    kept: list[Snippet] = []
    for _, snippet in sorted(found, key=lambda item: -item[0]):
        size = len(snippet.text) + len(snippet.path) + 8
        if (
            size > limit
            or _measure_copied(snippet.text, mine) > _MAX_COPIED
            or any(_is_inside(snippet, one) for one in kept)
        ):
            continue
        kept.append(snippet)
        limit -= size
    return tuple(reversed(kept))


def format_as_comment(snippet: Snippet, language: str) -> str:
    """Format a snippet with its path as comment lines, which no language reads as code."""
    prefix = _COMMENT_PREFIXES.get(language, "//")
    lines = (f"Path: {snippet.path}", *snippet.text.split("\n"))
    return "".join(f"{prefix} {line}".rstrip() + "\n" for line in lines)


def _extract_words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text))


@lru_cache(maxsize=24)
def _split_lines(text: str) -> tuple[str, ...]:
    return tuple(to_lf(text[:_MAX_FILE]).split("\n"))


@lru_cache(maxsize=24)
def _split_windows(text: str) -> tuple[tuple[int, frozenset[str]], ...]:
    """Return the first line and the words of every window of a text."""
    lines = _split_lines(text)
    starts = range(0, max(1, len(lines) - _STEP_LINES), _STEP_LINES)
    return tuple((start, _extract_words("\n".join(lines[start : start + _SNIPPET_LINES]))) for start in starts)


def _find_most_similar(other: OpenFile, near: frozenset[str]) -> tuple[float, Snippet] | None:
    scored = [(len(words & near) / len(words | near), -start) for start, words in _split_windows(other.text) if words]
    if not scored:
        return None
    score, start = max(scored)
    lines = _split_lines(other.text)[-start : -start + _SNIPPET_LINES]
    return score, Snippet(other.path, "\n".join(lines).strip("\n"))


@lru_cache(maxsize=24)
def _find_definition_lines(text: str) -> dict[str, int]:
    """Find names defined at the left margin, with the line of their first definition."""
    found: dict[str, int] = {}
    for number, line in enumerate(_split_lines(text)):
        if (match := _DEFINITION.match(line)) and not match[1]:
            found.setdefault(match[2], number)
    return found


def _find_definitions(other: OpenFile, wanted: Iterable[str]) -> list[tuple[float, Snippet]]:
    """Find the definitions of wanted names at the left margin of another file, with the lines that follow."""
    defined, found = _find_definition_lines(other.text), []
    for name in wanted:
        if (start := defined.get(name)) is None:
            continue
        lines = _split_lines(other.text)[start : start + _DEFINITION_LINES]
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


def _measure_copied(text: str, mine: set[str]) -> float:
    lines = [line.strip() for line in text.split("\n") if len(line.strip()) > 8]
    return sum(line in mine for line in lines) / max(1, len(lines))


def _is_inside(one: Snippet, other: Snippet) -> bool:
    return one.path == other.path and (one.text in other.text or other.text in one.text)
