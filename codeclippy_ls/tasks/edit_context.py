"""Which lines an edit is about: a selection, the function around a cursor, a comment that holds a message. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from codeclippy_ls.prompts.context_snippets import SCOPE
from codeclippy_ls.text import Document, indent_width

_MOST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Marker:
    """A comment that holds a message: its line and the message."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class EditContext:
    """The lines of a document that an edit is about; a marker's own line is left out.

    Attributes:
        numbers: the document's line number of each of them.
        first, last: the selection within ``lines``, kept whole where a window must be cut.
        new: whether there is no text yet, so that the edit is the text of a new file.
    """

    lines: tuple[str, ...]
    numbers: tuple[int, ...]
    first: int
    last: int
    new: bool = False


def is_new(document: Document, marker: Marker | None) -> bool:
    """Whether a document holds nothing, but perhaps a comment that says what it should hold."""
    count = document.line_count
    return not any(document.line(line).strip() for line in range(count) if marker is None or line != marker.line)


def select_edit_context(document: Document, span: tuple[int, int] | None, marker: Marker | None) -> EditContext:
    """The lines to show the model for a span: the span itself, or the function around where it is a mere cursor.

    A span that holds nothing but the comment with the message counts as a cursor there: what it asks for is about the
    code around it, and an edit of no line at all would have no place.
    """
    if is_new(document, marker):
        return EditContext((), (), 0, 0, new=True)
    count = document.line_count
    end = count - 1 if document.line(count - 1) else count - 2  # what follows the final line end is no line of the text
    first, last = (0, end) if span is None else (max(span[0], 0), min(span[1], end))
    at = first
    alone = marker is not None and at == last == marker.line
    cursor = span is not None and (span[0] == span[1] or alone or at > last)
    if cursor:
        first, last = scope(document, at)
        last = min(last, end)
    numbers = tuple(line for line in range(first, last + 1) if marker is None or line != marker.line)
    texts = tuple(document.line(line) for line in numbers)
    if not cursor:
        return EditContext(texts, numbers, 0, max(len(texts) - 1, 0) if span else 0)
    place = min(sum(number < at for number in numbers), max(len(texts) - 1, 0))
    return EditContext(texts, numbers, place, place)


def find_marker(document: Document, span: tuple[int, int] | None, marker: str) -> Marker | None:
    """The message in a comment on one of the lines, as in ``# clippy: add a docstring``; any comment sign will do."""
    if not marker.strip():
        return None
    pattern = re.compile(r"\s*(?:#+|//+|--|;+|%+|/\*+|<!--)\s*" + re.escape(marker.strip()) + r"\s*(\S.*)")
    first, last = span or (0, document.line_count - 1)
    for line in range(max(first, 0), min(last, document.line_count - 1) + 1):
        if match := pattern.fullmatch(document.line(line)):
            if message := re.sub(r"\s*(?:\*/|-->)?\s*$", "", match[1]):
                return Marker(line, message)
    return None


def scope(document: Document, line: int) -> tuple[int, int]:
    """First and last line of the function or class around a line, by indentation; the whole document outside of one."""
    count = document.line_count
    line = min(max(line, 0), count - 1)
    while line + 1 < count and not document.line(line).strip():
        line += 1
    start, depth = line, indent_width(document.line(line)) + 1
    while start >= 0:
        text = document.line(start)
        if text.strip() and indent_width(text) < depth:
            if SCOPE.match(text):
                break
            depth = indent_width(text)
        start -= 1
    if start < 0:
        return _around(document, line)
    return _decorated(document, start), _scope_end(document, start)


def _scope_end(document: Document, start: int) -> int:
    depth, end = indent_width(document.line(start)), start
    for line in range(start + 1, document.line_count):
        text = document.line(line)
        if text.strip():
            if indent_width(text) <= depth and text.strip()[0] not in ")]}{":
                break
            end = line
    return end


def _decorated(document: Document, start: int) -> int:
    while start > 0 and document.line(start - 1).lstrip().startswith("@"):
        start -= 1
    return start


def _around(document: Document, line: int) -> tuple[int, int]:
    if document.line_count <= _MOST_SHOWN:
        return 0, document.line_count - 1
    first = max(0, line - _MOST_SHOWN // 2)
    return first, min(first + _MOST_SHOWN, document.line_count) - 1
