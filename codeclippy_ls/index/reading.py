"""Read a source file for an index: its definitions, its imports, and the words of windows of lines."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from codeclippy_ls.index.files import read_source
from codeclippy_ls.secret_text import find_secret_lines, holds_secret
from codeclippy_ls.syntax.declarations import Declaration, list_declarations
from codeclippy_ls.syntax.import_names import Import, list_imports
from codeclippy_ls.syntax.languages import language_of_file, load_grammar
from codeclippy_ls.syntax.tree import parse_source

WINDOW_LINES = 20
MAX_PARSED = 400_000  # bytes of a file whose definitions are looked for; of a larger one only words are kept
_MAX_WINDOWS = 500  # of a file
_WORD = re.compile(r"\b[^\W\d]\w{3,39}\b")
_RANDOM = re.compile(r"(?:\d\D*){4}")  # of a key or a hash rather than a name


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The part of a file that an index keeps.

    Attributes:
        path: relative to the folder.
        time: of its last change, in nanoseconds.
        language: LSP's id.
        windows: the first line and the words of each window.
    """

    path: str
    time: int
    size: int
    language: str
    declarations: list[Declaration]
    imports: list[Import]
    windows: list[tuple[int, str]]


def read_file(folder: Path, path: str) -> SourceFile | None:
    """Read a file; ``None`` if an index must not have it."""
    found = read_source(folder, path)
    language = language_of_file(path)
    if found is None or language is None:
        return None
    text, status = found
    declarations, imports = list[Declaration](), list[Import]()
    source = text.encode("utf-8", "replace")
    if load_grammar(language) is not None and len(source) <= MAX_PARSED:
        tree = parse_source(source, language)
        declarations, imports = _drop_secrets(list_declarations(tree)), list_imports(tree)
    return SourceFile(path, *identify(status), language.id, declarations, imports, list_windows(text))


def _drop_secrets(declarations: list[Declaration]) -> list[Declaration]:
    """Return definitions without those whose signature or comment holds a secret."""
    texts = [f"{one.signature}\n{one.doc}" for one in declarations]
    if not holds_secret("\n".join(texts)):
        return declarations
    return [one for one, text in zip(declarations, texts, strict=True) if not holds_secret(text)]


def identify(status: os.stat_result) -> tuple[int, int]:
    """Return the time and the size that tell whether a file has changed."""
    return status.st_mtime_ns, status.st_size


def blank_secret_lines(text: str) -> str:
    """Return a text with empty lines in place of those that hold a secret."""
    kept, position = [], 0
    for start, end in find_secret_lines(text):
        kept += [text[position:start], "\n" * text.count("\n", start, end)]
        position = end
    return "".join((*kept, text[position:])) if kept else text


def list_windows(text: str) -> list[tuple[int, str]]:
    """List the windows of a text: the first line, and the words that stand in it, each once."""
    lines = text.split("\n")
    found = []
    for start in range(0, min(len(lines), _MAX_WINDOWS * WINDOW_LINES), WINDOW_LINES):
        if words := extract_words("\n".join(lines[start : start + WINDOW_LINES])):
            found.append((start, " ".join(sorted(words))))
    return found


def extract_words(text: str) -> set[str]:
    """Extract the words of a text that tell something: of four letters at least, and no parts of keys."""
    return {word for word in _WORD.findall(text) if not _RANDOM.search(word)}
