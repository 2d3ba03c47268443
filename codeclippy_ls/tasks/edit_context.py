"""The lines that an edit is about: a selection, the function around a cursor, a comment with a message. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from codeclippy_ls.syntax.languages import Language, find_language, language_of_file
from codeclippy_ls.syntax.outline import find_scope
from codeclippy_ls.syntax.tree import parse
from codeclippy_ls.text import Document
from codeclippy_ls.uris import parse_name

_MAX_LINES = 60  # around a cursor outside of a function


@dataclass(frozen=True, slots=True)
class Marker:
    """A comment with a message: its line and the message."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class EditContext:
    """The lines of a document that an edit is about; a marker's own line is left out.

    Attributes:
        line_numbers: the document's line number of each of them.
        first, last: the selection within ``lines``; it is shown whole even if the rest is cut to fit.
        is_new: the document has no text yet, so that the edit is the text of a new file.
    """

    lines: tuple[str, ...]
    line_numbers: tuple[int, ...]
    first: int
    last: int
    is_new: bool = False


def is_new_document(document: Document, marker: Marker | None) -> bool:
    """Return whether a document is empty, except for a comment that describes its content."""
    count = document.line_count
    return not any(document.line(line).strip() for line in range(count) if marker is None or line != marker.line)


def select_edit_context(document: Document, span: tuple[int, int] | None, marker: Marker | None) -> EditContext:
    """Select the lines to show the model for a span: the span itself, or the function around a cursor.

    A span of nothing but the comment with the message counts as a cursor: the message is about the code around it, and
    an edit of no line at all could not be located.
    """
    if is_new_document(document, marker):
        return EditContext((), (), 0, 0, is_new=True)
    count = document.line_count
    end = count - 1 if document.line(count - 1) else count - 2  # an empty last line does not count
    first, last = (0, end) if span is None else (max(span[0], 0), min(span[1], end))
    at = first
    only_marker = marker is not None and at == last == marker.line
    is_cursor = span is not None and (span[0] == span[1] or only_marker or at > last)
    if is_cursor:
        first, last = find_enclosing_scope(document, at)
        last = min(last, end)
    numbers = tuple(line for line in range(first, last + 1) if marker is None or line != marker.line)
    texts = tuple(document.line(line) for line in numbers)
    if not is_cursor:
        return EditContext(texts, numbers, 0, max(len(texts) - 1, 0) if span else 0)
    index = min(sum(number < at for number in numbers), max(len(texts) - 1, 0))
    return EditContext(texts, numbers, index, index)


def find_marker(document: Document, span: tuple[int, int] | None, marker: str) -> Marker | None:
    """Find a message in a comment on one of the lines, as in ``# clippy: add a docstring``, in any comment syntax."""
    if not marker.strip():
        return None
    pattern = re.compile(r"\s*(?:#+|//+|--|;+|%+|/\*+|<!--)\s*" + re.escape(marker.strip()) + r"\s*(\S.*)")
    first, last = span or (0, document.line_count - 1)
    for line in range(max(first, 0), min(last, document.line_count - 1) + 1):
        if match := pattern.fullmatch(document.line(line)):
            if message := match[1].rstrip().removesuffix("*/").removesuffix("-->").rstrip():
                return Marker(line, message)
    return None


def find_enclosing_scope(document: Document, line: int) -> tuple[int, int]:
    """Find the function or class around a line by the syntax tree, as its first and last line.

    Outside of one, and in a language without a grammar, it is the whole document, or the nearest lines of a long one.
    """
    count = document.line_count
    line = min(max(line, 0), count - 1)
    while line + 1 < count and not document.line(line).strip():
        line += 1
    tree = parse("\n".join(map(document.line, range(count))), find_language_of(document))
    scope = find_scope(tree, line)
    return _find_nearest_lines(document, line) if scope is None else (scope[0], min(scope[1], count - 1))


def find_language_of(document: Document) -> Language | None:
    """Find the language of a document by its id, or by the file's name if the client has sent none."""
    if document.language:
        return find_language(document.language)
    return language_of_file(parse_name(document.file_uri))


def _find_nearest_lines(document: Document, line: int) -> tuple[int, int]:
    if document.line_count <= _MAX_LINES:
        return 0, document.line_count - 1
    first = max(0, line - _MAX_LINES // 2)
    return first, min(first + _MAX_LINES, document.line_count) - 1
