"""Texts parsed by tree-sitter, kept and parsed again from where they changed.

Offsets outside of this room are characters; inside a tree they are bytes of its UTF-8 source.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tree_sitter import Node, Parser, Point, Query, QueryCursor, Tree

from codeclippy_ls.syntax.languages import Language, load_grammar
from codeclippy_ls.text import common_prefix_length

MAX_BYTES = 400_000  # of a text that is parsed: 150 ms once, then what changes
BRACKETS = "()[]{}"
_MAX_KEPT = 16  # trees of documents


@dataclass(frozen=True, slots=True)
class SyntaxTree:
    """A parsed text."""

    language: Language
    source: bytes
    tree: Tree

    def edited(self, start: int, end: int, inserted: bytes) -> SyntaxTree:
        """Return the tree of the text with the bytes ``[start, end)`` replaced; costs what changes."""
        source = self.source[:start] + inserted + self.source[end:]
        tree = self.tree.copy()
        new_end = start + len(inserted)
        tree.edit(
            start_byte=start,
            old_end_byte=end,
            new_end_byte=new_end,
            start_point=_point(self.source, start),
            old_end_point=_point(self.source, end),
            new_end_point=_point(source, new_end),
        )
        return SyntaxTree(self.language, source, _parser(self.language).parse(source, tree))

    def count_errors(self, start: int, end: int) -> int:
        """Count the broken and the missing nodes that touch the bytes ``[start, end]``."""
        count = 0
        stack = [self.tree.root_node]
        while stack:
            node = stack.pop()
            if node.end_byte < start or node.start_byte > end:
                continue
            count += node.is_error or node.is_missing
            if node.has_error:
                stack += node.children
        return count

    def errors(self) -> Iterator[Node]:
        """Yield the innermost broken nodes."""
        stack = [self.tree.root_node]
        while stack:
            node = stack.pop()
            broken = [child for child in node.children if child.has_error]
            stack += broken
            if node.is_error and not broken:
                yield node

    def brackets(self, start: int, end: int) -> list[Node]:
        """Return the brackets in the bytes ``[start, end]``, outside of strings and comments, from left to right."""
        cursor = QueryCursor(_bracket_query(self.language))
        cursor.set_byte_range(max(0, start), max(0, end))
        found = cursor.captures(self.tree.root_node).get("bracket", [])
        return sorted((node for node in found if not node.is_missing), key=lambda node: node.start_byte)

    def count_mismatched_tags(self, start: int, end: int) -> int:
        """Count the elements of JSX, which begin in the bytes ``[start, end]``, whose two tags differ."""
        cursor = QueryCursor(_element_query(self.language))
        cursor.set_byte_range(max(0, start), max(0, end))
        matches = cursor.matches(self.tree.root_node)
        return sum(names.get("open", [])[0].text != names.get("close", [])[0].text for _, names in matches)

    def leaves(self, start: int, end: int) -> Iterator[Node]:
        """Yield the leaves that touch the bytes ``[start, end]``, from left to right."""
        stack = [self.tree.root_node]
        while stack:
            node = stack.pop()
            if node.end_byte < start or node.start_byte > end:
                continue
            if node.child_count:
                stack += reversed(node.children)
            else:
                yield node

    def line_start(self, row: int) -> int:
        """Return the byte at which a line begins."""
        at = 0
        for _ in range(row):
            at = self.source.index(b"\n", at) + 1
        return at

    def ancestors(self, byte: int) -> Iterator[Node]:
        """Yield the nodes around the character before a byte, the innermost first."""
        node = self.tree.root_node.descendant_for_byte_range(max(0, byte - 1), max(0, byte - 1))
        while node is not None:
            yield node
            node = node.parent


class DocumentTrees:
    """The trees of the documents in use; any thread may ask."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, SyntaxTree] = OrderedDict()
        self._lock = threading.Lock()

    def parse(self, key: str, text: str, language: Language | None) -> SyntaxTree | None:
        """Parse a document's text, from its last tree if there is one.

        Returns:
            None if the language has no grammar here, or the text is too long.
        """
        if language is None or load_grammar(language) is None or len(text) > MAX_BYTES:
            return None
        source = text.encode("utf-8", "replace")
        if len(source) > MAX_BYTES:
            return None
        with self._lock:
            known = self._kept.get(key)
        if known is not None and known.language == language:
            made = known if known.source == source else _reparsed(known, source)
        else:
            made = parse_source(source, language)
        with self._lock:
            self._kept[key] = made
            self._kept.move_to_end(key)
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return made

    def forget(self, key: str) -> None:
        """Drop a document's tree."""
        with self._lock:
            self._kept.pop(key, None)


def parse(text: str, language: Language | None) -> SyntaxTree | None:
    """Parse a text once, or return None if the language has no grammar here or the text is too long."""
    return DocumentTrees().parse("", text, language)


@cache
def _bracket_query(language: Language) -> Query:
    """Return the query for those brackets that are tokens of a language's grammar."""
    grammar = load_grammar(language)
    assert grammar is not None
    tokens = " ".join(f'"{bracket}"' for bracket in BRACKETS if grammar.id_for_node_kind(bracket, False) is not None)
    return Query(grammar, f"[{tokens}] @bracket" if tokens else "")


@cache
def _element_query(language: Language) -> Query:
    grammar = load_grammar(language)
    assert grammar is not None
    tags = "(jsx_opening_element name: (_) @open) (jsx_closing_element name: (_) @close)"
    return Query(grammar, f"(jsx_element {tags})")


def parse_source(source: bytes, language: Language) -> SyntaxTree:
    """Parse the UTF-8 source of a language that has a grammar."""
    return SyntaxTree(language, source, _parser(language).parse(source))


def _parser(language: Language) -> Parser:
    grammar = load_grammar(language)
    assert grammar is not None
    return Parser(grammar)


def _reparsed(known: SyntaxTree, source: bytes) -> SyntaxTree:
    """Return the tree of a source that differs from the known one in one span."""
    start = common_prefix_length(known.source, source)
    most = min(len(known.source), len(source)) - start
    same = common_prefix_length(known.source[::-1][:most], source[::-1][:most])
    return known.edited(start, len(known.source) - same, source[start : len(source) - same])


def _point(source: bytes, byte: int) -> Point:
    return Point(source.count(b"\n", 0, byte), byte - source.rfind(b"\n", 0, byte) - 1)
