"""Values to LSP types: suggestions to items, edits to versioned workspace edits. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from lsprotocol import types

from codeclippy_ls.assist.proposals import Proposal
from codeclippy_ls.assist.suggestion_cache import Suggestion
from codeclippy_ls.text import Document, Edit, Encoding, Position, offset_at, position_at

ACCEPTED_COMMAND = "codeclippy.didAcceptSuggestion"
# Long or multi-line labels broke clients (Helix), and nobody reads them.
_LABEL = 60


def title(text: str) -> str:
    """What the user sees of a piece of work."""
    return f"Code Clippy: {text}"


def to_position(position: Position) -> types.Position:
    """Our position as LSP's."""
    return types.Position(position.line, position.character)


def from_position(document: Document, position: types.Position, encoding: Encoding) -> int:
    """The offset of an LSP position."""
    return offset_at(document, Position(position.line, position.character), encoding)


def to_range(document: Document, start: int, end: int, encoding: Encoding) -> types.Range:
    """Two offsets as an LSP range."""
    return types.Range(
        to_position(position_at(document, start, encoding)), to_position(position_at(document, end, encoding))
    )


def completion_item(document: Document, suggestion: Suggestion, encoding: Encoding, order: int) -> types.CompletionItem:
    """A suggestion as an item of the completion list.

    The item replaces the word before the cursor by that word and the suggestion, and filters by it, because clients
    filter items by the symbol at point and drop those that do not begin with it. Closing signs after the cursor that
    the suggestion brings along are replaced, too.
    """
    start = word_start(document, suggestion.offset)
    text = document.text[start : suggestion.offset] + suggestion.text
    first, _, rest = text.strip().partition("\n")
    first = first.rstrip()
    label = first if len(first) <= _LABEL else first[: _LABEL - 1] + "…"
    return types.CompletionItem(
        label=label + (" …" if rest and len(label) < _LABEL else ""),
        kind=types.CompletionItemKind.Text,
        detail=f"Code Clippy, as in {suggestion.source}" if suggestion.source else "Code Clippy",
        documentation=text if rest or label != first else None,
        # Below what a language's own server is sure of.
        sort_text=f"~{order:02}",
        filter_text=text.lstrip().partition("\n")[0].rstrip("\r") or label,
        insert_text_format=types.InsertTextFormat.PlainText,
        # The lines have their indentation already; some clients would add the cursor's to it.
        insert_text_mode=types.InsertTextMode.AsIs,
        text_edit=types.TextEdit(to_range(document, start, suggestion.offset + suggestion.replaces, encoding), text),
        command=accepted(document),
    )


def accepted(document: Document) -> types.Command:
    """What a client runs when an item is accepted: it is counted."""
    return types.Command(title=title("accepted"), command=ACCEPTED_COMMAND, arguments=[{"uri": document.uri}])


def word_start(document: Document, offset: int) -> int:
    """Offset of the start of the word that ends at ``offset``."""
    match = re.search(r"\w*\Z", document.text[max(0, offset - 200) : offset])
    return offset - len(match.group()) if match else offset


def inline_item(
    document: Document, suggestion: Suggestion, selected: Edit | None, encoding: Encoding
) -> types.InlineCompletionItem:
    """A suggestion as ghost text; over a selected list item it repeats that item's text, or it would not be drawn."""
    if selected is None:
        range = to_range(document, suggestion.offset, suggestion.offset + suggestion.replaces, encoding)
        return types.InlineCompletionItem(insert_text=suggestion.text, range=range, command=accepted(document))
    range = to_range(document, selected.start, selected.end + suggestion.replaces, encoding)
    return types.InlineCompletionItem(
        insert_text=selected.text + suggestion.text, range=range, command=accepted(document)
    )


def workspace_edit(proposal: Proposal, label: str, encoding: Encoding, annotate: bool, confirm: bool) -> Any:
    """A proposal as a versioned edit of its document; where the client can preview, with an annotation per hunk."""
    document = proposal.document
    annotations: dict[str, types.ChangeAnnotation] = {}
    edits: list[Any] = []
    for number, edit in enumerate(proposal.edits, 1):
        range = to_range(document, edit.start, edit.end, encoding)
        if not annotate:
            edits.append(types.TextEdit(range, edit.text))
            continue
        key = f"hunk-{number}"
        where = f"line {range.start.line + 1}" + (f", as in {proposal.source}" if proposal.source else "")
        annotations[key] = types.ChangeAnnotation(f"{label} ({where})", needs_confirmation=confirm)
        edits.append(types.AnnotatedTextEdit(annotation_id=key, range=range, new_text=edit.text))
    change = types.TextDocumentEdit(
        types.OptionalVersionedTextDocumentIdentifier(uri=document.uri, version=document.version), edits
    )
    return types.WorkspaceEdit(document_changes=[change], change_annotations=annotations or None)


def path_from(uri: str, other: str) -> str:
    """Another file's path as it is written from a file's folder; its name alone where that is far away."""
    (scheme, _, path, *_), (other_scheme, _, other_path, *_) = urlsplit(uri), urlsplit(other)
    path, other_path = unquote(path), unquote(other_path)
    if scheme == other_scheme and path.startswith("/") and other_path.startswith("/"):
        found = posixpath.relpath(other_path, posixpath.dirname(path))
        if not found.startswith("../../../"):
            return found
    return other_path.rpartition("/")[2]


def selected_lines(document: Document, range: types.Range, encoding: Encoding) -> tuple[int, int]:
    """First and last line that a range covers; a selection that ends at a line's start does not cover that line."""
    start, end = from_position(document, range.start, encoding), from_position(document, range.end, encoding)
    first, last = document.line_at(start), document.line_at(end)
    if last > first and end == document.starts[last]:
        last -= 1
    return first, last


def supports(capabilities: Any, path: Sequence[str]) -> Any:
    """A capability by its path of attributes, ``None`` where any part of it was not announced."""
    for name in path:
        capabilities = getattr(capabilities, name, None)
        if capabilities is None:
            return None
    return capabilities
