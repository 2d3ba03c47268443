"""Convert values to LSP types: suggestions to items, edits to versioned workspace edits. Pure."""

from __future__ import annotations

import re
from typing import Any

from lsprotocol import types

from codeclippy_ls.assist.proposals import Proposal
from codeclippy_ls.assist.suggestion_cache import Suggestion
from codeclippy_ls.text import Document, Edit, Encoding, Position, offset_at, position_at

ACCEPT_COMMAND = "codeclippy.didAcceptSuggestion"
_MAX_LABEL = 60  # longer and multi-line labels broke clients (Helix)
_MAX_WORD = 200


def add_prefix(text: str) -> str:
    """Return a title that tells the user whose work it is."""
    return f"Code Clippy: {text}"


def to_position(position: Position) -> types.Position:
    """Convert a position to LSP's type."""
    return types.Position(position.line, position.character)


def to_offset(document: Document, position: types.Position, encoding: Encoding) -> int:
    """Convert an LSP position to an offset."""
    return offset_at(document, Position(position.line, position.character), encoding)


def to_range(document: Document, start: int, end: int, encoding: Encoding) -> types.Range:
    """Convert two offsets to an LSP range."""
    return types.Range(
        to_position(position_at(document, start, encoding)), to_position(position_at(document, end, encoding))
    )


def to_completion_item(
    document: Document, suggestion: Suggestion, encoding: Encoding, rank: int, markdown: bool
) -> types.CompletionItem:
    """Convert a suggestion to an item of the completion list.

    The item replaces the word before the cursor with that word and the suggestion, and filters by it, because clients
    filter items by the word at the cursor and drop those that do not begin with it. Closing brackets after the cursor
    that the suggestion contains are replaced, too.
    """
    start = find_word_start(document, suggestion.offset)
    text = document.text[start : suggestion.offset] + suggestion.text
    first, _, rest = text.strip().partition("\n")
    first = first.rstrip()
    label = first if len(first) <= _MAX_LABEL else first[: _MAX_LABEL - 1] + "…"
    return types.CompletionItem(
        label=label + (" …" if rest and len(label) < _MAX_LABEL else ""),
        kind=types.CompletionItemKind.Text,
        detail=f"Code Clippy, as in {suggestion.source}" if suggestion.source else "Code Clippy",
        documentation=types.MarkupContent(types.MarkupKind.Markdown, _fence(text, document.language))
        if markdown
        else text,
        # Below the items of the language's own server.
        sort_text=f"~{rank:02}",
        filter_text=text.lstrip().partition("\n")[0].rstrip("\r") or label,
        insert_text_format=types.InsertTextFormat.PlainText,
        # The lines are indented already; some clients would add the cursor's indentation.
        insert_text_mode=types.InsertTextMode.AsIs,
        text_edit=types.TextEdit(to_range(document, start, suggestion.offset + suggestion.replaces, encoding), text),
        command=make_accept_command(document),
    )


def _fence(text: str, language: str) -> str:
    """Return a text as a block of code in Markdown; its fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def to_inline_item(
    document: Document, suggestion: Suggestion, selected: Edit | None, encoding: Encoding
) -> types.InlineCompletionItem:
    """Convert a suggestion to ghost text; over a selected list item it repeats that item's text, or is not drawn."""
    if selected is None:
        range = to_range(document, suggestion.offset, suggestion.offset + suggestion.replaces, encoding)
        text = suggestion.text
    else:
        range = to_range(document, selected.start, selected.end + suggestion.replaces, encoding)
        text = selected.text + suggestion.text
    return types.InlineCompletionItem(insert_text=text, range=range, command=make_accept_command(document))


def make_accept_command(document: Document) -> types.Command:
    """Make the command that a client runs when it accepts an item, so that it is counted."""
    return types.Command(title=add_prefix("accepted"), command=ACCEPT_COMMAND, arguments=[{"uri": document.uri}])


def find_word_start(document: Document, offset: int) -> int:
    """Return the start of the word that ends at ``offset``."""
    start = offset
    while start > max(0, offset - _MAX_WORD) and (
        document.text[start - 1].isalnum() or document.text[start - 1] == "_"
    ):
        start -= 1
    return start


def to_workspace_edit(
    proposal: Proposal, label: str, encoding: Encoding, annotate: bool, confirm: bool
) -> types.WorkspaceEdit:
    """Convert a proposal to a versioned edit of its document.

    Args:
        annotate: whether to add an annotation per hunk, for clients that preview edits.
        confirm: whether the client shall ask for confirmation.
    """
    document = proposal.document
    annotations: dict[str, types.ChangeAnnotation] = {}
    edits: list[types.TextEdit | types.AnnotatedTextEdit | types.SnippetTextEdit] = []
    for number, edit in enumerate(proposal.edits, 1):
        range = to_range(document, edit.start, edit.end, encoding)
        if not annotate:
            edits.append(types.TextEdit(range, edit.text))
            continue
        key = f"hunk-{number}"
        details = f"line {range.start.line + 1}" + (f", as in {proposal.source}" if proposal.source else "")
        annotations[key] = types.ChangeAnnotation(f"{label} ({details})", needs_confirmation=confirm)
        edits.append(types.AnnotatedTextEdit(annotation_id=key, range=range, new_text=edit.text))
    change = types.TextDocumentEdit(
        types.OptionalVersionedTextDocumentIdentifier(uri=document.uri, version=document.version), edits
    )
    return types.WorkspaceEdit(document_changes=[change], change_annotations=annotations or None)


def to_lines(document: Document, range: types.Range, encoding: Encoding) -> tuple[int, int]:
    """Return the first and last line of a range; a selection that ends at a line's start does not include that line."""
    start, end = to_offset(document, range.start, encoding), to_offset(document, range.end, encoding)
    first, last = document.line_at(start), document.line_at(end)
    if last > first and end == document.starts[last]:
        last -= 1
    return first, last


def get_capability(capabilities: types.ClientCapabilities, path: str) -> Any:
    """Return a capability by its dotted path of attributes; ``None`` if any part of it was not announced."""
    value: Any = capabilities
    for name in path.split("."):
        value = getattr(value, name, None)
        if value is None:
            return None
    return value
