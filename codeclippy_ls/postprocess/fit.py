"""Fit an answer between prefix and suffix: what it replaces behind the cursor, and its head that breaks nothing.

Editors close brackets and quotes as they are opened, so a cursor often stands before nothing but these. An answer that
goes on behind them (``a, b):`` before ``)``) replaces those that it writes itself; the others stay. All texts are in
LF. Knows no model and no LSP.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from codeclippy_ls.postprocess.cleanup import CursorContext
from codeclippy_ls.syntax.insertion import InsertionCheck
from codeclippy_ls.syntax.languages import find_language
from codeclippy_ls.syntax.tree import DocumentTrees

_CLOSING_PIECE = re.compile(r"[ \t]*(?:[)\]}\"'`>]|</[\w.:-]*>)")
_LINE_END = re.compile(r"[ \t]*[:;,{][ \t]*$")
_CLOSING_TAG = re.compile(r"</([\w.:-]*)>")
_WORD = re.compile(r"\w")
_WORD_END, _WORD_START = re.compile(r"\w\Z"), re.compile(r"\w")
_MAX_HEADS, _MAX_OPTIONS = 8, 6
_OPENING, _CLOSING = "([{", ")]}"
_QUOTES = ("'", '"', "`")


def fit(
    text: str, context: CursorContext, trees: DocumentTrees, document: str, disabled: Collection[str] = ()
) -> tuple[str, int]:
    """Return the longest head of an answer that leaves the code intact, and the characters that it replaces.

    A head is the answer without closing characters at its end, or without its last lines. In a language without a
    grammar everything is intact.

    Args:
        document: key of the document whose tree is kept.
        disabled: "closingBrackets" replaces nothing, "syntaxCheck" takes the answer as it is.
    """
    if not text.strip():
        return "", 0
    options = [0] if "closingBrackets" in disabled else _list_options(context.rest)
    if "syntaxCheck" in disabled:
        return _keep_closing(text, _match_brackets(text, context, options), context)
    base = trees.parse(document, context.prefix + context.suffix, find_language(context.language))
    check = InsertionCheck(base, context.prefix, context.suffix) if base is not None else None
    for head in _list_heads(text):
        replaces, breaks = _match_brackets(head, context, options), False
        if check is not None:
            possible = [end for end in options if _has_characters(head, context.rest[:end])]
            replaces, breaks = check.best(head, possible, replaces)
        if not breaks and (replaces or not _joins_words(head, context.suffix)):
            return _keep_closing(head, replaces, context)
        if check is not None and check.is_exhausted:
            break
    return "", 0


def _list_options(rest: str) -> list[int]:
    """Return the numbers of characters that may be replaced: none, or some of the closing ones the rest begins with."""
    ends, at = [0], 0
    while (match := _CLOSING_PIECE.match(rest, at)) is not None:
        at = match.end()
        ends.append(at)
    if at and (match := _LINE_END.match(rest, at)) is not None:
        ends.append(match.end())
    return ends[:_MAX_OPTIONS]


def _list_heads(text: str) -> list[str]:
    """Return the answer and its shorter heads, the longest first."""
    found = [text]
    head = text
    while head and head[-1] in ")]}\"'`>;,":
        head = head[:-1].rstrip(" \t")
        found.append(head)
    lines = text.split("\n")
    found += ["\n".join(lines[:count]).rstrip() for count in range(len(lines) - 1, 0, -1)]
    found = [head for head in dict.fromkeys(found) if head == text or _WORD.search(head)]
    return found if len(found) <= _MAX_HEADS else [*found[: _MAX_HEADS - 1], found[-1]]


def _match_brackets(head: str, context: CursorContext, options: Sequence[int]) -> int:
    """Return what a head replaces by its own brackets and quotes: the closing characters that it writes unopened."""
    rest = context.rest
    if _completes_triple_quote(head, context):
        return options[min(1, len(options) - 1)]
    surplus = _find_unmatched(head)
    for end in reversed(options):
        left = iter(surplus)
        closing = _split_closing(rest[:end])
        if closing and all(any(one == other for other in left) for one in closing):
            return end
    return 0


def _completes_triple_quote(head: str, context: CursorContext) -> bool:
    """Return whether a head goes on from one quote, which the editor has closed, to three."""
    quote = context.rest[:1]
    return quote in _QUOTES and context.line.endswith(quote) and head.startswith(quote * 2) and head[2:3] != quote


def _split_closing(text: str) -> list[str]:
    """Split closing text into its tags and its other characters."""
    tags = [tag.group() for tag in _CLOSING_TAG.finditer(text)]
    return [*(character for character in _CLOSING_TAG.sub("", text) if not character.isspace()), *tags]


def _find_unmatched(text: str) -> list[str]:
    """Return the closing characters and tags of a text that it does not open, and the last quote of an odd number."""
    found, stack = [], list[str]()
    odd = {quote: text.rfind(quote) for quote in "\"'`" if text.count(quote) % 2}
    for index, character in enumerate(text):
        if character in _OPENING:
            stack.append(character)
        elif character in _CLOSING and stack and _OPENING.index(stack[-1]) == _CLOSING.index(character):
            stack.pop()
        elif character in _CLOSING or odd.get(character) == index or character in ":;,{>":
            found.append(character)
    return found + [
        tag.group()
        for tag in _CLOSING_TAG.finditer(text)
        if text.count(f"<{tag[1]}", 0, tag.start()) <= text.count(tag.group(), 0, tag.start())
    ]


def _has_characters(head: str, characters: str) -> bool:
    """Return whether a head has all characters that it would replace, in their order."""
    left = iter(head)
    return all(character.isspace() or any(character == other for other in left) for character in characters)


def _joins_words(head: str, suffix: str) -> bool:
    return bool(_WORD_END.search(head) and _WORD_START.match(suffix))


def _keep_closing(head: str, replaces: int, context: CursorContext) -> tuple[str, int]:
    """Leave what stands behind the cursor where it is, if a line would only be given the same again."""
    closing = context.rest[:replaces]
    if replaces and "\n" not in head and head.endswith(closing) and len(head) > len(closing):
        return head[: len(head) - len(closing)], 0
    return head, replaces
