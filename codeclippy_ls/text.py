"""Documents, coordinates and edits of plain text.

Two coordinates, converted only here and named from-to. An *offset* counts code points from the start of the
document. A *position* is LSP's: a zero-based line and a column in units of the negotiated encoding. Lines end at LF,
CRLF and CR only (LSP 3.17, "Text Documents"), unlike ``str.splitlines``.

Knows nothing of who sends text or why: no LSP transport, no disk, no models.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import AnyStr, Literal, NamedTuple

from codeclippy_ls.line_diff import find_changes

Encoding = Literal["utf-8", "utf-16", "utf-32"]

_LINE_END = re.compile(r"\r\n|\r|\n")
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNIT = {"utf-8": 1, "utf-16": 2, "utf-32": 4}
_CODEC = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}


class Position(NamedTuple):
    """A zero-based line and a column counted in units of the negotiated encoding."""

    line: int
    character: int


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the code points ``[start, end)`` of a document by ``text``."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """One content change of ``didChange``: a range in the client's units, or the whole text if it is ``None``."""

    text: str
    start: Position | None = None
    end: Position | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A frozen text with its line table.

    Attributes:
        version: the client's number, or ``None``.
        language: LSP's id.
        notebook: URI of the notebook that it is a cell of, or nothing.
    """

    uri: str
    text: str
    version: int | None = None
    language: str = ""
    notebook: str = ""
    starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        starts = (0, *(match.end() for match in _LINE_END.finditer(self.text)))
        object.__setattr__(self, "starts", starts)

    @property
    def file_uri(self) -> str:
        """URI of the file that people know it by: a cell's is the notebook's."""
        return self.notebook or self.uri

    @property
    def line_count(self) -> int:
        """Number of lines; a final line end opens one more, empty line."""
        return len(self.starts)

    @property
    def eol(self) -> str:
        """The document's line end: that of its first line, LF without one."""
        match = _LINE_END.search(self.text)
        return match.group() if match else "\n"

    def line_at(self, offset: int) -> int:
        """Return the line of an offset; a line's start belongs to that line."""
        return bisect_right(self.starts, offset) - 1

    def line_span(self, line: int) -> tuple[int, int]:
        """Return offsets ``[start, end)`` of a line's content, without its line end."""
        start = self.starts[line]
        if line + 1 == len(self.starts):
            return start, len(self.text)
        end = self.starts[line + 1] - 1
        if self.text[end] == "\n" and end > start and self.text[end - 1] == "\r":
            end -= 1
        return start, end

    def line(self, line: int) -> str:
        """Return a line's content, without its line end."""
        start, end = self.line_span(line)
        return self.text[start:end]


def offset_at(document: Document, position: Position, encoding: Encoding) -> int:
    """Convert an LSP position to an offset.

    A line past the end is the document's end, a column past the end of a line is the line's end, and a column inside
    a character (a surrogate pair, a UTF-8 sequence) is that character's start.
    """
    if position.line < 0:
        return 0
    if position.line >= document.line_count:
        return len(document.text)
    start, end = document.line_span(position.line)
    column = max(position.character, 0)
    line = document.text[start:end]
    if encoding == "utf-32" or line.isascii():
        return start + min(column, end - start)
    # No character is smaller than one unit, so text after `column` code points cannot matter.
    head = line[:column].encode(_CODEC[encoding], "replace")[: column * _UNIT[encoding]]
    return start + len(head.decode(_CODEC[encoding], "ignore"))


def position_at(document: Document, offset: int, encoding: Encoding) -> Position:
    """Convert an offset to an LSP position; inside a line end it is the end of the line's content."""
    offset = min(max(offset, 0), len(document.text))
    line = document.line_at(offset)
    start, end = document.line_span(line)
    head = document.text[start : min(offset, end)]
    if encoding == "utf-32" or head.isascii():
        return Position(line, len(head))
    return Position(line, len(head.encode(_CODEC[encoding], "replace")) // _UNIT[encoding])


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """Apply edits that all refer to ``text`` itself.

    Raises:
        ValueError: two edits overlap, or one lies outside the text.
    """
    pieces: list[str] = []
    done = 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        if not done <= edit.start <= edit.end <= len(text):
            raise ValueError(f"edit [{edit.start}, {edit.end}) overlaps another or leaves the text")
        pieces += text[done : edit.start], edit.text
        done = edit.end
    pieces.append(text[done:])
    return "".join(pieces)


def compute_minimal_edits(before: str, after: str) -> list[Edit]:
    """Compute edits that turn ``before`` into ``after``, by line and then trimmed to the difference.

    Small edits keep the editor's cursors, folds and marks where they are. Linear in the number of lines.
    """
    old, new = split_lines(before), split_lines(after)
    starts = [0]
    for line in old:
        starts.append(starts[-1] + len(line))
    return [
        trim_edit(before, starts[change.start], starts[change.end], "".join(new[change.new_start : change.new_end]))
        for change in find_changes(old, new)
    ]


def trim_edit(text: str, start: int, end: int, replacement: str) -> Edit:
    """Trim an edit by the common start and end of the replaced and the new text.

    It never begins or ends inside a CRLF of ``text``, where no position can point.
    """
    old = text[start:end]
    head = common_prefix_length(old, replacement)
    tail = common_prefix_length(old[head:][::-1], replacement[head:][::-1])
    if _splits_crlf(text, start + head):
        head -= 1 if head else 0
    if _splits_crlf(text, end - tail):
        tail -= 1 if tail else 0
    return Edit(start + head, end - tail, replacement[head : len(replacement) - tail])


def common_prefix_length(one: AnyStr, other: AnyStr) -> int:
    """Return the length of the common prefix, by bisection: a loop over characters is too slow for long lines."""
    known, limit = 0, min(len(one), len(other))
    while known < limit:
        middle = (known + limit + 1) // 2
        if one[known:middle] == other[known:middle]:
            known = middle
        else:
            limit = middle - 1
    return known


def _splits_crlf(text: str, offset: int) -> bool:
    return text[offset - 1 : offset + 1] == "\r\n" if offset else False


def split_lines(text: str) -> list[str]:
    """Split a text into lines with their line ends; only LF, CRLF and CR end a line."""
    found, start = [], 0
    for match in _LINE_END.finditer(text):
        found.append(text[start : match.end()])
        start = match.end()
    if start < len(text):
        found.append(text[start:])
    return found


def to_lf(text: str) -> str:
    """Convert all line ends to LF, the form that prompts and diffs are built in."""
    return _LINE_END.sub("\n", text) if "\r" in text else text


def with_eol(text: str, eol: str) -> str:
    """Convert LF line ends to another style."""
    return text if eol == "\n" else to_lf(text).replace("\n", eol)


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which no encoding can carry, by U+FFFD (one UTF-16 unit as well)."""
    return _SURROGATE.sub("\ufffd", text)


class Documents:
    """The open documents of one client. Owned by the loop thread; all others receive frozen values.

    After a bad change a document is *desynced*: ``get`` returns ``None`` until it is opened again or replaced whole,
    because a suggestion for the wrong text is worse than no suggestion.
    """

    def __init__(self, encoding: Encoding = "utf-16") -> None:
        self.encoding: Encoding = encoding
        self._open: dict[str, Document] = {}
        self._desynced: set[str] = set()
        # Texts with lone surrogates, as the editor has them; the documents have U+FFFD in their place.
        self._raw: dict[str, str] = {}

    def open(self, uri: str, text: str, version: int | None, language: str, notebook: str = "") -> Document:
        """Add a document, also in place of one that is open already."""
        self._desynced.discard(uri)
        return self._store(Document(uri, self._keep_raw(uri, text), version, language, notebook))

    def _store(self, document: Document) -> Document:
        self._open.pop(document.uri, None)  # the newest is the last
        self._open[document.uri] = document
        return document

    def change(self, uri: str, version: int | None, changes: Sequence[Change]) -> Document:
        """Apply the changes in order, each to the result of the one before.

        Raises:
            KeyError: the document is not open.
            ValueError: a change cannot be applied; the document is desynced from here on.
        """
        document = self._open[uri]
        for change in changes:
            if change.start is None or change.end is None:
                self._desynced.discard(uri)
                text = self._keep_raw(uri, change.text)
            else:
                text = self._splice(document, change)
            document = Document(uri, text, version, document.language, document.notebook)
        if not changes:
            document = replace(document, version=version)
        return self._store(document)

    def _splice(self, document: Document, change: Change) -> str:
        assert change.start is not None and change.end is not None
        start = offset_at(document, change.start, self.encoding)
        end = offset_at(document, change.end, self.encoding)
        if start > end or min(*change.start, *change.end) < 0:
            self.mark_desynced(document.uri)
            raise ValueError(f"the change's range {change.start}-{change.end} runs backwards or is negative")
        raw = self._raw.get(document.uri)
        if raw is None and _SURROGATE.search(change.text) is None:
            return document.text[:start] + change.text + document.text[end:]
        raw = document.text if raw is None else raw
        return self._keep_raw(document.uri, raw[:start] + change.text + raw[end:])

    def _keep_raw(self, uri: str, text: str) -> str:
        """Return a document's text with U+FFFD for lone surrogates, and keep those for changes to come.

        Two halves that a change brings together are one character to an editor that counts UTF-16.
        """
        if self.encoding == "utf-16" and _SURROGATE.search(text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        self._raw.pop(uri, None)
        if _SURROGATE.search(text) is None:
            return text
        self._raw[uri] = text
        return replace_surrogates(text)

    def mark_desynced(self, uri: str) -> Document | None:
        """Mark a document's text as uncertain; return it as it was known last, if it is open."""
        self._desynced.add(uri)
        return self._open.get(uri)

    def close(self, uri: str) -> None:
        """Remove a document; closing one that is not open is no error."""
        self._open.pop(uri, None)
        self._desynced.discard(uri)
        self._raw.pop(uri, None)

    def get(self, uri: str) -> Document | None:
        """Return the current document; ``None`` if it is not open or desynced."""
        return None if uri in self._desynced else self._open.get(uri)

    def latest(self, limit: int) -> list[Document]:
        """Return the documents that were opened or changed last, the latest first."""
        found = (self._open[uri] for uri in reversed(self._open) if uri not in self._desynced)
        return list(islice(found, limit))

    def is_desynced(self, uri: str) -> bool:
        """Return whether a bad change made the document's text uncertain."""
        return uri in self._desynced

    def __len__(self) -> int:
        return len(self._open)


def indent_width(line: str) -> int:
    """Return the columns of leading white space; a tab counts as eight, as in Python."""
    expanded = line.expandtabs(8)
    return len(expanded) - len(expanded.lstrip(" "))


def find_common_indent(lines: Sequence[str]) -> str:
    """Return the white space that all lines with text begin with."""
    texts = [line for line in lines if line.strip()]
    common = min((line[: len(line) - len(line.lstrip(" \t"))] for line in texts), key=len, default="")
    while not all(line.startswith(common) for line in texts):
        common = common[:-1]
    return common


def remove_indent(lines: Sequence[str], indent: str) -> list[str]:
    """Return lines without the indentation that they have in common."""
    return [line.removeprefix(indent) for line in lines]
