"""Texts parsed by tree-sitter, kept and parsed again from where they changed.

Offsets outside of this room are characters; inside a tree they are bytes of its UTF-8 source.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from tree_sitter import Node, Parser, Point, Tree

from codeclippy_ls.syntax.languages import Language, load_grammar

MAX_BYTES = 400_000  # of a text that is parsed: 150 ms once, then what changes
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
            made = SyntaxTree(language, source, _parser(language).parse(source))
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


def _parser(language: Language) -> Parser:
    grammar = load_grammar(language)
    assert grammar is not None
    return Parser(grammar)


def _reparsed(known: SyntaxTree, source: bytes) -> SyntaxTree:
    """Return the tree of a source that differs from the known one in one span."""
    start = _common(known.source, source)
    most = min(len(known.source), len(source)) - start
    same = _common(known.source[::-1][:most], source[::-1][:most])
    return known.edited(start, len(known.source) - same, source[start : len(source) - same])


def _common(one: bytes, other: bytes) -> int:
    """Return the length of the common prefix, by halving."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _point(source: bytes, byte: int) -> Point:
    return Point(source.count(b"\n", 0, byte), byte - source.rfind(b"\n", 0, byte) - 1)
