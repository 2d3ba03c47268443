"""Context that a prompt shows beside the text around the cursor: the outline of a long file, snippets of other files.

A model repeats what it sees, so a snippet must be useful: it resembles the text around the cursor, or it defines a name
that is used there, and it is not in the file already. Knows text only; all of it has LF line ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from codeclippy_ls.syntax.languages import Language, find_language, language_of_file, write_comment
from codeclippy_ls.syntax.outline import find_definitions, find_imports, find_open_scopes
from codeclippy_ls.text import indent_width, to_lf

_WORD = re.compile(r"[^\W\d]\w{2,}")
IMPORT_REACH = 20_000  # characters at the file's start in which imports are looked for
SCOPE_REACH = 60_000  # characters before the shown text in which scope headers are looked for
_NEAR_BEFORE, _NEAR_AFTER = 3000, 1000  # characters around the cursor that snippets are compared with
_SNIPPET_LINES, _STEP_LINES = 24, 12
_DEFINITION_LINES = 10
_MIN_SIMILARITY = 0.22  # Jaccard index of words
_MAX_COPIED = 0.34  # share of a snippet's lines that the file has already
MAX_FILE = 400_000  # characters of another file that are read
_MAX_PARSED = 100_000  # of them, and of the file itself, in which definitions are looked for
_MAX_IMPORT_LINES = 80


@dataclass(frozen=True, slots=True)
class OpenFile:
    """Another file that the editor has open.

    Attributes:
        path: short, for models.
        text: with any line ends.
        language: its LSP id.
        edited_line: where the user changed it last; -1 if she did not.
        file: its path on the disk, if it has one.
    """

    path: str
    text: str
    language: str = ""
    edited_line: int = -1
    file: str = ""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A part of another file."""

    path: str
    text: str


def extract_outline(skipped: str, shown: str, limit: int, language: str) -> str:
    """Extract the imports, and the headers of the scopes around the shown part of a file.

    Args:
        skipped: text before the shown part.
        limit: characters of the outline; imports are dropped first.
        language: LSP's id.
    """
    known = find_language(language)
    depth = indent_width(next((line for line in shown.split("\n") if line.strip()), ""))
    tail = skipped[-SCOPE_REACH:]
    lines = tail.split("\n")
    headers = [lines[row] for row in find_open_scopes(tail, known)] if depth else []
    scopes = "\n".join(header for header in headers if indent_width(header) < depth)[-limit:]
    kept: list[str] = []
    room = limit - len(scopes)
    for line in _find_imports(skipped[:IMPORT_REACH], known):
        if (room := room - len(line) - 1) < 0:
            break
        kept.append(line)
    return "".join(line + "\n" for line in (*kept, *([scopes] if scopes else [])))


@lru_cache(maxsize=16)
def _find_imports(start: str, language: Language | None) -> tuple[str, ...]:
    """Find the lines of the imports in the whole lines of a text."""
    lines = start.split("\n")[:-1]
    spans = find_imports("\n".join(lines), language)
    found = [line for first, last in spans for line in lines[first : last + 1]]
    return tuple(found[:_MAX_IMPORT_LINES])


def select_snippets(prefix: str, suffix: str, others: Sequence[OpenFile], limit: int) -> tuple[Snippet, ...]:
    """Select snippets of other files for a cursor, the most relevant last; ``limit`` characters together.

    Definitions of names that are used around the cursor rank before snippets that are only similar (Jaccard index of
    their words, as in Zhang et al. 2023, RepoCoder).
    """
    near = _extract_words(prefix[-_NEAR_BEFORE:] + suffix[:_NEAR_AFTER])
    # Without the cursor's line, which is seldom complete.
    own = prefix[-_MAX_PARSED:].rpartition("\n")[0] + "\n" + suffix[:_MAX_PARSED].partition("\n")[2]
    mine = {line.strip() for line in own.split("\n") if len(line.strip()) > 8}
    found: list[tuple[float, Snippet]] = []
    for other in others:
        defined_here = _find_definition_lines(own, _find_language(other)).keys()
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
    """Format a snippet with its path as a comment; empty if the language has none, or the snippet would end it."""
    lines = (f"Path: {snippet.path}", *snippet.text.split("\n"))
    return write_comment(lines, find_language(language))


def _extract_words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text))


@lru_cache(maxsize=24)
def _split_lines(text: str) -> tuple[str, ...]:
    return tuple(to_lf(text[:MAX_FILE]).split("\n"))


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


def _find_language(file: OpenFile) -> Language | None:
    return find_language(file.language) or language_of_file(file.path)


@lru_cache(maxsize=24)
def _find_definition_lines(text: str, language: Language | None) -> dict[str, tuple[int, int]]:
    return find_definitions(to_lf(text[:_MAX_PARSED]), language)


def _find_definitions(other: OpenFile, wanted: Iterable[str]) -> list[tuple[float, Snippet]]:
    """Find the definitions of wanted names at the top of another file, with the lines that follow."""
    defined, found = _find_definition_lines(other.text, _find_language(other)), []
    for name in wanted:
        if (span := defined.get(name)) is None:
            continue
        lines = _split_lines(other.text)[span[0] : min(span[1] + 1, span[0] + _DEFINITION_LINES)]
        found.append((len(name) / 100, Snippet(other.path, "\n".join(lines).rstrip())))
    return found


def _measure_copied(text: str, mine: set[str]) -> float:
    lines = [line.strip() for line in text.split("\n") if len(line.strip()) > 8]
    return sum(line in mine for line in lines) / max(1, len(lines))


def _is_inside(one: Snippet, other: Snippet) -> bool:
    return one.path == other.path and (one.text in other.text or other.text in one.text)
