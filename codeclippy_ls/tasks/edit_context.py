"""The lines that an edit is about: a selection, the function around a cursor, a comment with a message. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from codeclippy_ls.syntax.code import find_comment
from codeclippy_ls.syntax.languages import Language, find_language, language_of_file
from codeclippy_ls.syntax.outline import find_scope
from codeclippy_ls.syntax.tree import SyntaxTree, parse
from codeclippy_ls.text import Document
from codeclippy_ls.uris import parse_name

_MAX_LINES = 60  # around a cursor outside of a function
_SIGNS = re.compile(r"(?:#+|//+|--|;+|%+|/\*+|<!--|\{/\*)\s*")  # that begin a comment


@dataclass(frozen=True, slots=True)
class Marker:
    """A comment with a message: its line, the message, and whether nothing else is on that line."""

    line: int
    message: str
    is_alone: bool = True

    @property
    def left_out(self) -> tuple[int, ...]:
        """The lines that a model is not shown: a marker behind code is shown with its code."""
        return (self.line,) if self.is_alone else ()


@dataclass(frozen=True, slots=True)
class EditContext:
    """The lines of a document that an edit is about; the line of a marker alone is left out.

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
    left_out = marker.left_out if marker is not None else ()
    return not any(document.line(line).strip() for line in range(document.line_count) if line not in left_out)


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
    left_out = marker.left_out if marker is not None else ()
    numbers = tuple(line for line in range(first, last + 1) if line not in left_out)
    texts = tuple(document.line(line) for line in numbers)
    if not is_cursor:
        return EditContext(texts, numbers, 0, max(len(texts) - 1, 0) if span else 0)
    index = min(sum(number < at for number in numbers), max(len(texts) - 1, 0))
    return EditContext(texts, numbers, index, index)


def find_marker(document: Document, span: tuple[int, int] | None, marker: str) -> Marker | None:
    """Find a message in a comment on one of the lines, as in ``# clippy: add a docstring``.

    On a line of its own it may have the signs of any language; behind code, the syntax tree says what is a comment.
    """
    marker = marker.strip()
    first, last = span or (0, document.line_count - 1)
    lines = range(max(first, 0), min(last, document.line_count - 1) + 1)
    marked = [line for line in lines if marker and marker in document.line(line)]
    if not marked:
        return None
    language = find_language_of(document)
    tree = None
    for line in marked:
        text = document.line(line)
        signs, _, rest = text.lstrip().partition(marker)
        if _begins_comment(signs, language) and (message := _strip_end(rest)):
            return Marker(line, message)
        tree = tree or parse(_join_lines(document), language)
        if tree is not None and (found := _find_in_comment(tree, line, text, marker)) is not None:
            return found
    return None


def _begins_comment(signs: str, language: Language | None) -> bool:
    own = language.comment if language is not None else ""
    return _SIGNS.fullmatch(signs) is not None or (bool(own) and signs.rstrip() == own)


def _strip_end(text: str) -> str:
    """Return a message without the end of its comment."""
    message = text.strip()
    for end in ("*/}", "*/", "-->"):
        message = message.removesuffix(end).rstrip()
    return message


def _find_in_comment(tree: SyntaxTree, line: int, text: str, marker: str) -> Marker | None:
    """Find a message in a comment that shares its line with code, or in one of several lines."""
    start = tree.line_start(line)
    source = text.encode("utf-8", "replace")
    at = source.find(marker.encode())
    while at >= 0:
        if (comment := find_comment(tree, start + at)) is not None:
            first, last = max(comment[0] - start, 0), min(comment[1] - start, len(source))
            before = source[first:at].decode("utf-8", "replace")
            message = _strip_end(source[at:last].decode("utf-8", "replace")[len(marker) :])
            if message and not any(map(str.isalnum, before)):
                others = source[:first] + source[last:]
                return Marker(line, message, b"".join(others.split()) in (b"", b"{}"))  # a comment of JSX is in braces
        at = source.find(marker.encode(), at + 1)
    return None


def _join_lines(document: Document) -> str:
    """Return the text with LF line ends, line by line as the document counts them."""
    return "\n".join(map(document.line, range(document.line_count)))


def find_enclosing_scope(document: Document, line: int) -> tuple[int, int]:
    """Find the function or class around a line by the syntax tree, as its first and last line.

    Outside of one, and in a language without a grammar, it is the whole document, or the nearest lines of a long one.
    """
    count = document.line_count
    line = min(max(line, 0), count - 1)
    while line + 1 < count and not document.line(line).strip():
        line += 1
    tree = parse(_join_lines(document), find_language_of(document))
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
