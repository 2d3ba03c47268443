"""Does a text put at an offset leave the code no more broken than it was?

Fillers in place of the text tell how broken the code is whatever stands at the cursor. If it is, the grammar does not
know this file (a dialect, a template), and only brackets can be judged. Only errors near the cursor count: a file may
have others. The number of parses is bounded, and each costs what changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tree_sitter import Node

from codeclippy_ls.syntax.languages import BlockStyle, Language
from codeclippy_ls.syntax.tree import BRACKETS, SyntaxTree, parse

_AROUND = 2_000  # bytes on either side of the cursor in which an error counts
_QUOTES = ('"', "'", "`")
_NEAR_LINES = 3  # to which an error at the cursor spreads
_SINGLE = b"()[]{}<>/ \t\n"  # an error of such characters alone is a bracket without its counterpart
_MAX_BROKEN_BYTES = 250_000  # 40 to 300 ms
_FILLERS = ("x", "x;", "x()", "x: x,", "x {}", '"x"')
_BODIES = {BlockStyle.BRACES: "\n}", BlockStyle.KEYWORDS: "\nend"}
_TEMPLATE_MARKS = (b"{%", b"{{", b"<%", b"<?")
_JSX = ("javascript", "typescriptreact")
_PREPROCESSED = ("c", "cpp")  # no grammar can read what their preprocessor makes of a macro


@dataclass
class InsertionCheck:
    """Judges texts for one cursor. One thread at a time.

    Args:
        base: the tree of the document without the text.
        prefix, suffix: the document before and behind the cursor.
    """

    base: SyntaxTree
    prefix: str
    suffix: str
    _broken_bytes: int = 0

    def best(self, text: str, options: Sequence[int], by_brackets: int) -> tuple[int, bool]:
        """Return the number of characters to replace that breaks least, and whether even that breaks the code.

        Args:
            options: numbers of characters behind the cursor that may be replaced, 0 among them.
            by_brackets: the one that the text's own brackets suggest; it decides among equals.
        """
        if self._is_foreign:
            return by_brackets, False
        if self._splits_delimiter:
            return 0, True
        counts = {end: self._count(text, end) for end in options}
        least = min(counts.values())
        equal = [end for end in options if counts[end] == least]
        replaces = by_brackets if by_brackets in equal else equal[0]
        if not least:
            return replaces, False
        if self.language.id == "python":
            # Python that is broken elsewhere is one error to its grammar; its brackets tell a bit more.
            is_no_worse = least == self._inherent and self._brackets_hold(text, replaces)
            return replaces, least >= self._inherent and not is_no_worse
        if self._inherent:
            return by_brackets, least > self._inherent and not self._brackets_hold(text, by_brackets)
        if self.language.id in _PREPROCESSED:
            return replaces, not self._brackets_hold(text, replaces)
        return replaces, not self._opens_block(text, replaces)

    @property
    def language(self) -> Language:
        """The document's."""
        return self.base.language

    @cached_property
    def _start(self) -> int:
        return len(self.prefix.encode("utf-8", "replace"))

    @cached_property
    def _is_foreign(self) -> bool:
        """True if the text is also another language's: an IPython command or cell in Python, a template of HTML."""
        line = self.prefix.rpartition("\n")[2].lstrip()
        if self.language.style is BlockStyle.TAGS:
            return any(mark in self.base.source for mark in _TEMPLATE_MARKS)
        is_command = line[:1] in ("%", "!", "?") or self.prefix.lstrip().startswith("%%")
        return self.language.id == "python" and is_command

    @cached_property
    def _splits_delimiter(self) -> bool:
        """True if the cursor stands inside of a string's delimiter, such as three quotes."""
        for leaf in self.base.leaves(self._start, self._start):
            if leaf.start_byte < self._start < leaf.end_byte:
                return leaf.type in ("string_start", "string_end")
        return False

    @cached_property
    def _inherent(self) -> int:
        """Errors that are there whatever stands at the cursor; none if the grammar knows the rest of the file.

        In Python an error far away makes one of the whole file: there the cursor's line tells.
        """
        least = self._errors(self.base, self._start, self._start)
        if not least or (self._is_known if self.language.id != "python" else not self._count_without_line()):
            return 0
        brackets = self._missing_brackets
        for filler in dict.fromkeys((*_FILLERS, brackets, f"x{brackets}", f"x {brackets}:")):
            least = min(least, self._count(filler, 0))
            if not least:
                break
        return least

    def _count_without_line(self) -> int:
        """Count the errors that are left without the cursor's line."""
        start = self.base.source.rfind(b"\n", 0, self._start) + 1
        end = self.base.source.find(b"\n", self._start)
        tree = self.base.edited(start, len(self.base.source) if end < 0 else end, b"")
        return self._errors(tree, start, start)

    @cached_property
    def _is_known(self) -> bool:
        """True if the errors away from the cursor can all come from the text that is still missing.

        Those are brackets without a counterpart. Anything else is a dialect, or broken by other edits.
        """
        line, rest = self.prefix.rpartition("\n")[2], self.suffix.partition("\n")[0]
        quotes = ["", *(quote for quote in _QUOTES if (line + rest).count(quote) % 2)]
        brackets = self._missing_brackets
        ends = [brackets, brackets + ",", brackets + ";", ": " + brackets]
        if self.language.style is BlockStyle.KEYWORDS:
            ends = [brackets, " then", " do", " = {"]
        fillers = (quote + rest + end for end in ends for quote in quotes)
        return not self._has_far_errors("", 0) or any(not self._has_far_errors(it, len(rest)) for it in fillers)

    @cached_property
    def _missing_brackets(self) -> str:
        """Brackets that would match those before and behind the cursor that have no counterpart."""
        before, after = list[str](), list[str]()
        for node in self.base.brackets(0, len(self.base.source)):
            unmatched = before if node.end_byte <= self._start else after
            place = BRACKETS.index(node.type)
            if place % 2 and unmatched and unmatched[-1] == BRACKETS[place - 1]:
                unmatched.pop()
            else:
                unmatched.append(node.type)
        inner = max(0, len(before) - len(after))
        closing = [BRACKETS[BRACKETS.index(type) | 1] for type in reversed(before[len(before) - inner :])]
        surplus = after[: max(0, len(after) - len(before))]
        return "".join(closing + [BRACKETS[BRACKETS.index(type) & ~1] for type in reversed(surplus)])

    def _has_far_errors(self, filler: str, replaces: int) -> bool:
        """Return whether there are errors some lines away from the cursor, other than single brackets."""
        tree = self._tree(filler, replaces) if filler else self.base
        source, start, end = tree.source, self._start, self._start + len(filler)
        for _ in range(_NEAR_LINES):
            start = max(0, source.rfind(b"\n", 0, start))
            end = source.find(b"\n", end + 1) if end >= 0 else end
        return any(
            source[node.start_byte : node.end_byte].strip(_SINGLE)
            for node in tree.errors()
            if node.end_byte < start or 0 <= end < node.start_byte
        )

    def _opens_block(self, text: str, replaces: int) -> bool:
        """Return whether only the body of the block is missing that the text opens."""
        body = _BODIES.get(self.language.style)
        if body is None or self.suffix[replaces:].partition("\n")[0].strip():
            return False
        return any(self._count(text + body * depth, replaces) <= self._inherent for depth in (1, 2))

    def _brackets_hold(self, text: str, replaces: int) -> bool:
        """Return whether the brackets match as well as they can whatever stands at the cursor, or better than before.

        The latter is for a bracket that matches one far away.
        """
        if self._unmatched(text, replaces) <= self._inherent_unmatched:
            return True
        return _count_surplus(self._tree(text, replaces).source) < _count_surplus(self.base.source)

    @cached_property
    def _inherent_unmatched(self) -> int:
        fillers = (")", "]", "}") if self.language.id == "python" else ("{", "(")
        return min(self._unmatched(filler, 0) for filler in ("", *fillers))

    def _unmatched(self, text: str, replaces: int) -> int:
        """Count the brackets near the cursor, outside of strings and comments, that match nothing."""
        end = self._start + len(text.encode("utf-8", "replace"))
        return _count_unmatched(self._tree(text, replaces), self._start - _AROUND, end + _AROUND)

    def _tree(self, text: str, replaces: int) -> SyntaxTree:
        replaced = len(self.suffix[:replaces].encode("utf-8", "replace"))
        tree = self.base.edited(self._start, self._start + replaced, text.encode("utf-8", "replace"))
        self._broken_bytes += len(tree.source) if tree.tree.root_node.has_error else 0
        return tree

    @property
    def is_exhausted(self) -> bool:
        """True if trying on would cost too much: at an error a parser tries what it can to the end of the file."""
        return self._broken_bytes > _MAX_BROKEN_BYTES

    def _count(self, text: str, replaces: int) -> int:
        """Count the errors near the cursor with the text in place."""
        return self._errors(self._tree(text, replaces), self._start, self._start + len(text.encode("utf-8", "replace")))

    def _errors(self, tree: SyntaxTree, start: int, end: int) -> int:
        count = tree.count_errors(start - _AROUND, end + _AROUND)
        if self.language.id in _JSX:
            count += tree.count_mismatched_tags(start - _AROUND, end + _AROUND)
        return count + (_wrong_columns(tree.tree.root_node, start, end) if self.language.id == "python" else 0)


def _count_unmatched(tree: SyntaxTree, start: int, end: int) -> int:
    """Count the brackets in the bytes ``[start, end]``, outside of strings and comments, that match nothing."""
    stack: list[str] = []
    surplus = 0
    for node in tree.brackets(start, end):
        place = BRACKETS.index(node.type)
        if not place % 2:
            stack.append(node.type)
        elif stack and stack[-1] == BRACKETS[place - 1]:
            stack.pop()
        else:
            surplus += 1
    return surplus + len(stack)


def _count_surplus(source: bytes) -> int:
    """Count the brackets of each kind that a text has more than of their counterparts, in strings and comments, too."""
    return sum(abs(source.count(pair[:1]) - source.count(pair[1:])) for pair in (b"()", b"[]", b"{}"))


def introduces_error(before: str, after: str, language: Language | None) -> bool:
    """Return whether a text that was free of syntax errors is not any more. Nothing is known without a grammar."""
    trees = parse(before, language), parse(after, language)
    if trees[0] is None or trees[1] is None:
        return False
    return not _count_all(trees[0]) and bool(_count_all(trees[1]))


def _count_all(tree: SyntaxTree) -> int:
    length = len(tree.source)
    if tree.language.id in _PREPROCESSED:
        return _count_unmatched(tree, 0, length)
    wrong = _wrong_columns(tree.tree.root_node, 0, length) if tree.language.id == "python" else 0
    return tree.count_errors(0, length) + wrong


def _wrong_columns(root: Node, start: int, end: int) -> int:
    """Count what Python's grammar accepts and Python does not, in blocks near the bytes ``[start, end]``.

    Statements that begin at another column than the first of their block, and two on one line without a semicolon.
    """
    count = 0
    stack = [root]
    while stack:
        node = stack.pop()
        if node.end_byte < start or node.start_byte > end + 1:
            continue
        if node.type in ("module", "block"):
            column = 0 if node.type == "module" else node.start_point[1]
            row, touched, separated = -1, False, True
            for child in node.children:
                if not child.is_named or child.type == "comment":
                    separated = separated or child.type == ";"
                    continue
                touches = start <= child.end_byte and child.start_byte <= end
                if touched or touches:
                    count += (child.start_point[1] != column) if child.start_point[0] != row else not separated
                row, touched, separated = child.end_point[0], touches, False
        stack += node.children
    return count
