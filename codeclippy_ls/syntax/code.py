"""The code around an offset: comments, the end of a statement, an opened block.

Without a grammar only what a line says is known: its comment prefix and its last characters.
"""

from __future__ import annotations

import re

from tree_sitter import Node

from codeclippy_ls.syntax.languages import Language
from codeclippy_ls.syntax.tree import SyntaxTree

OPENERS = (":", "{", "(", "[", "=>", "->", " do", " then", "\\")
_REACH = 4_000  # characters before the cursor in which the code above is looked for
# Kinds of nodes, which grammars name in their own ways.
_COMMENT = re.compile(r"comment")
_ATTRIBUTE = re.compile(r"(?:jsx_)?attribute")
_PROSE = re.compile(r"comment|string(?!_interpolation)|heredoc|^text$|paragraph|^inline$")
_STATEMENT = re.compile(r"(_statement|_declaration|_definition|_item|declaration|statement)$")
_CLOSED = re.compile(r"[)\]}'\"]\Z|\b(?:pass|break|continue)\Z")


def is_comment_line(line: str, language: Language | None) -> bool:
    """Return whether a line is only a comment, by the language's prefix."""
    prefix = language.comment.rstrip(";") or language.comment[:1] if language is not None else ""
    return bool(prefix) and line.lstrip().startswith(prefix)


def find_comment(tree: SyntaxTree, byte: int) -> tuple[int, int] | None:
    """Return the bytes of the comment around a byte; the value of a tag's attribute counts as one, too."""
    nodes = list(tree.ancestors(byte + 1))
    comments = [node for node in nodes if _COMMENT.search(node.type) and node.is_named]
    if not comments and any(_ATTRIBUTE.fullmatch(node.type) for node in nodes):
        comments = nodes[:1]
    return (comments[-1].start_byte, comments[-1].end_byte) if comments else None


def is_prose(tree: SyntaxTree, byte: int) -> bool:
    """Return whether the character before a byte belongs to a comment or a string."""
    return any(_PROSE.search(node.type) for node in tree.ancestors(byte))


def ends_statement(tree: SyntaxTree, prefix: str) -> bool:
    """Return whether the cursor stands right behind a statement that is complete.

    Python's could nearly always go on, so it must end with a bracket, a quote or a keyword of its own; other languages'
    with the character that ends statements.
    """
    byte = len(prefix.encode("utf-8", "replace"))
    line = prefix.rpartition("\n")[2]
    if tree.language.id == "python":
        if not _CLOSED.search(line):
            return False
    elif not line.endswith((";", "}")):
        return False
    for node in tree.ancestors(byte):
        if node.end_byte != byte or _COMMENT.search(node.type):
            return False
        if _STATEMENT.search(node.type):
            before = tree.source[tree.source.rfind(b"\n", 0, node.start_byte) + 1 : node.start_byte].rstrip()
            begins = not before or before.endswith((b";", b"{", b"}", b":"))
            return begins and not node.has_error and not node.is_missing
    return False


def opens_block(tree: SyntaxTree | None, prefix: str, language: Language | None) -> bool:
    """Return whether the code before the cursor's empty line opens a block.

    Comments and a docstring may stand between.
    """
    lines = prefix[-_REACH:].split("\n")[:-1]
    at = len(lines) - 1
    while at >= 0 and (not lines[at].strip() or is_comment_line(lines[at], language)):
        at -= 1
    if at < 0:
        return False
    head = "\n".join(lines[: at + 1]).rstrip()
    if tree is not None:
        end = len(prefix[: len(prefix) - len("\n".join(lines[at + 1 :])) - 1].rstrip().encode("utf-8", "replace"))
        for node in tree.ancestors(end):
            if _COMMENT.search(node.type):
                return False
            if node.type == "string" and _is_docstring(node):
                return True
    return head.endswith(OPENERS)


def _is_docstring(node: Node) -> bool:
    """Return whether a Python string is the first statement of a block."""
    statement = node.parent
    block = statement.parent if statement is not None else None
    if statement is None or block is None or statement.type != "expression_statement" or block.type != "block":
        return False
    first = next((child for child in block.named_children if child.type != "comment"), None)
    return first is not None and first.start_byte == statement.start_byte and block.named_child_count == 1
