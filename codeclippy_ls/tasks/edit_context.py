"""The lines that an edit is about: a selection, the function around a cursor, a comment with a message. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from codeclippy_ls.syntax.code import find_comment
from codeclippy_ls.syntax.languages import Language, find_language, language_of_file
from codeclippy_ls.syntax.outline import find_class, find_scope, find_statements
from codeclippy_ls.syntax.tree import SyntaxTree, parse
from codeclippy_ls.text import Document
from codeclippy_ls.uris import parse_name

_MAX_LINES = 60  # around a cursor outside of a function
_MAX_GROWN = 150  # of a class or a file that the message speaks of
_MAX_AROUND = 400  # above and below, for a prompt to choose from
_ASKS_FILE = re.compile(
    r"\b(?:(?:whole|entire|this|current) (?:file|module|script)|everywhere|throughout|(?:in|to) the (?:file|module)\b|"
    r"(?:all|every|each)(?: the| of the)? (?:functions?|class(?:es)?))\b",
    re.IGNORECASE,
)
_ASKS_CLASS = re.compile(
    r"\b(?:(?:the|this|whole|entire) (?:class|struct|interface|component)|(?:all|every|each)(?: the| of the)? methods?|"
    r"(?:add|write|create)(?: an?)?(?: \w+)? (?:method|property|constructor))\b",
    re.IGNORECASE,
)
_RENAMES = re.compile(r"\brenam", re.IGNORECASE)
_WORD = re.compile(r"\w+")
_PLAIN_WORDS = frozenset(re.findall(r"\w+", "a an and as for from in into is it name of or rename the this to with"))
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
        language: LSP's id.
        above, below: the document's other lines, as many of them as a prompt may show.
    """

    lines: tuple[str, ...]
    line_numbers: tuple[int, ...]
    first: int
    last: int
    is_new: bool = False
    language: str = ""
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()


def is_new_document(document: Document, marker: Marker | None) -> bool:
    """Return whether a document is empty, except for a comment that describes its content."""
    left_out = marker.left_out if marker is not None else ()
    return not any(document.line(line).strip() for line in range(document.line_count) if line not in left_out)


def select_edit_context(
    document: Document, span: tuple[int, int] | None, marker: Marker | None, message: str = ""
) -> EditContext:
    """Select the lines that an edit is about: a span, or the code around a cursor that the message speaks of.

    A span of nothing but the comment with the message counts as a cursor: the message is about the code around it, and
    an edit of no line at all could not be located.
    """
    language = find_language_of(document)
    language_id = document.language or (language.id if language is not None else "")
    if is_new_document(document, marker):
        return EditContext((), (), 0, 0, is_new=True, language=language_id)
    count = document.line_count
    end = count - 1 if document.line(count - 1) else count - 2  # an empty last line does not count
    first, last = (0, end) if span is None else (max(span[0], 0), min(span[1], end))
    at = first
    only_marker = marker is not None and at == last == marker.line
    is_cursor = span is not None and (span[0] == span[1] or only_marker or at > last)
    if is_cursor:
        first, last = find_region(document, at, message)
        last = min(last, end)
    left_out = marker.left_out if marker is not None else ()
    numbers = tuple(line for line in range(first, last + 1) if line not in left_out)
    texts = tuple(document.line(line) for line in numbers)
    above, below = (
        tuple(document.line(line) for line in lines if line not in left_out)
        for lines in (range(max(first - _MAX_AROUND, 0), first), range(last + 1, min(last + _MAX_AROUND, count)))
    )
    if is_cursor:
        index = min(sum(number < at for number in numbers), max(len(texts) - 1, 0))
        selected = index, index
    else:
        selected = 0, max(len(texts) - 1, 0) if span else 0
    return EditContext(texts, numbers, *selected, language=language_id, above=above, below=below)


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


def find_region(document: Document, line: int, message: str = "") -> tuple[int, int]:
    """Find the code around a line that a message is about, by the syntax tree, as its first and last line.

    That is the smallest function or class, or more if the message speaks of the class, of the file, or of a name that
    other code uses, too. Outside of one, and in a language without a grammar, it is the whole document, or the nearest
    statements or lines of a long one.
    """
    count = document.line_count
    line = min(max(line, 0), count - 1)
    while line + 1 < count and not document.line(line).strip():
        line += 1
    text = _join_lines(document)
    tree = parse(text, find_language_of(document))
    scope = find_scope(tree, line)
    if scope is None:
        if count <= _MAX_LINES:
            return 0, count - 1
        scope = find_statements(tree, line, _MAX_LINES) or _find_nearest_lines(document, line)
    scope = scope[0], min(scope[1], count - 1)
    if count <= _MAX_GROWN and (_ASKS_FILE.search(message) or _renames_elsewhere(text, scope, message)):
        return 0, count - 1
    found = find_class(tree, line) if _ASKS_CLASS.search(message) else None
    return found if found is not None and found[1] - found[0] < _MAX_GROWN else scope


def _renames_elsewhere(text: str, scope: tuple[int, int], message: str) -> bool:
    """Return whether a message renames something in a scope that code outside of it uses, too."""
    if not _RENAMES.search(message):
        return False
    lines = text.split("\n")
    inside = set(_WORD.findall("\n".join(lines[scope[0] : scope[1] + 1])))
    outside = set(_WORD.findall("\n".join((*lines[: scope[0]], *lines[scope[1] + 1 :]))))
    return bool(set(_WORD.findall(message)) & inside & outside - _PLAIN_WORDS)


def find_language_of(document: Document) -> Language | None:
    """Find the language of a document by its id, or by the file's name if the client has sent none."""
    if document.language:
        return find_language(document.language)
    return language_of_file(parse_name(document.file_uri))


def _find_nearest_lines(document: Document, line: int) -> tuple[int, int]:
    first = max(0, line - _MAX_LINES // 2)
    return first, min(first + _MAX_LINES, document.line_count) - 1
