"""The outline of a text: its imports, its definitions, and the functions and classes around a place, by kinds of nodes.

Grammars name these kinds in their own ways, but with the same words. Without a grammar nothing is found. Lines count
from 0; texts have LF line ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from tree_sitter import Node

from codeclippy_ls.syntax.languages import BlockStyle, Language
from codeclippy_ls.syntax.tree import SyntaxTree, parse

_IMPORT = re.compile(r"(?:^|_)(?:imports?|include|use|using|package|extern_crate)(?:_|$)")
_IMPORTING_CALLS = {b"require", b"require_relative", b"import", b"alias", b"use"}  # where an import is a call
_SCOPE = re.compile(
    r"(?:\w+_)?(?:function|method|constructor|class|interface|struct|enum|trait|impl|object|module|mod|namespace|"
    r"protocol|record|type)_(?:definition|declaration|item|specifier|spec)|(?:class|module|(?:singleton_)?method|function)"
)
_CLASS = re.compile(r"(?:\w+_)?(?:class|interface|struct|enum|trait|impl|object|protocol|record)(?:_|$)")
_NAMESPACE = re.compile(r"(?:internal_)?(?:namespace|module|mod)(?:_(?:definition|declaration|item))?$")
_WRAPPER = re.compile(r"(?:decorated_definition|(?:export_|template_|ambient_)(?:statement|declaration))$")
# Between the root and what is defined at the top: conditional parts of C, bodies of namespaces.
_CONTAINER = re.compile(
    r"preproc_(?:if|else)|linkage_|declaration_list$|declarations$|(?:statement_block|body_statement)$|"
    r"decorated_definition|(?:export_|template_|ambient_)(?:statement|declaration)"
)
_FUNCTION_VALUE = re.compile(r"arrow_function|function_expression")
_MAX_CALL_ROWS = 3
_MAX_ENDS = 6  # blocks that `end` closes
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def find_imports(text: str, language: Language | None) -> list[tuple[int, int]]:
    """Return the first and last line of each import at the top of a text."""
    tree = parse(text, language)
    if tree is None:
        return []
    nodes = [node for node in list_top_nodes(tree.tree.root_node) if _is_import(node)]
    return [(node.start_point.row, _last_row(node)) for node in nodes]


def find_definitions(text: str, language: Language | None) -> dict[str, tuple[int, int]]:
    """Return the names that are defined at the top of a text, each with the lines of its first definition."""
    tree = parse(text, language)
    found: dict[str, tuple[int, int]] = {}
    for node in list_top_nodes(tree.tree.root_node) if tree is not None else ():
        if is_scope_node(node) and (name := find_name_node(node)) is not None:
            found.setdefault((name.text or b"").decode("utf-8", "replace"), (node.start_point.row, _last_row(node)))
    return found


class Statement(NamedTuple):
    """A statement at the top of a text: ``import``, ``definition``, ``comment`` or ``other``, its name and lines."""

    kind: str
    name: str
    first: int
    last: int


def split_statements(text: str, language: Language | None) -> list[Statement] | None:
    """Split a text into its statements; ``None`` if it has syntax errors, or there is no grammar."""
    tree = parse(text, language)
    if tree is None or tree.tree.root_node.has_error:
        return None
    return [_describe_statement(node) for node in tree.tree.root_node.named_children]


def _describe_statement(node: Node) -> Statement:
    scope = next(filter(is_scope_node, node.named_children), None) if _WRAPPER.match(node.type) else node
    kind, name = "other", ""
    if scope is not None and is_scope_node(scope):
        found = find_name_node(scope)
        kind, name = "definition", (found.text or b"").decode("utf-8", "replace") if found is not None else ""
    elif _is_import(node):
        kind = "import"
    elif "comment" in node.type:
        kind = "comment"
    return Statement(kind, name, node.start_point.row, _last_row(node))


def find_import_place(text: str, language: Language | None) -> tuple[int, bool]:
    """Return the line at which another import belongs, and whether it follows one.

    Without imports it is the line of the first statement that is neither a comment nor a docstring.
    """
    imports = find_imports(text, language)
    if imports:
        return imports[-1][1] + 1, True
    tree = parse(text, language)
    for node in tree.tree.root_node.named_children if tree is not None else ():
        is_docstring = node.type == "expression_statement" and node.named_children[0].type == "string"
        if "comment" not in node.type and not is_docstring:
            return _first_row(node), False
    return 0, False


def list_definitions(text: str, language: Language | None) -> list[str]:
    """List the names of all functions, methods, classes and the like in a text, in order, the nested ones too."""
    tree = parse(text, language)
    found: list[str] = []
    stack = [tree.tree.root_node] if tree is not None else []
    while stack:
        node = stack.pop()
        if is_scope_node(node) and (name := find_name_node(node)) is not None:
            found.append((name.text or b"").decode("utf-8", "replace"))
        stack += reversed(node.named_children)
    return found


@lru_cache(maxsize=16)
def find_open_scopes(text: str, language: Language | None) -> tuple[int, ...]:
    """Return the lines of the heads of functions and classes that are open where a text ends, the outermost first."""
    tree = parse(text.rstrip(), language)
    if tree is None:
        return ()
    byte = len(tree.source)
    closed = _close_blocks(tree)
    rows = [_head_row(node) for node in closed.ancestors(byte) if is_scope_node(node)]
    return tuple(sorted(rows))


def find_scope(tree: SyntaxTree | None, line: int) -> tuple[int, int] | None:
    """Return the lines of the innermost function or class around a line with text, with its decorators."""
    if tree is None:
        return None
    if tree.tree.root_node.has_error:
        tree = _close_blocks(tree)
    lines = tree.source.split(b"\n")
    scopes = list(_list_scopes_at(tree, lines, line))
    if tree.language.style is BlockStyle.INDENTATION:
        # A comment below a block's last statement belongs to the block by its columns alone.
        column = _column(lines[line])
        above = next((row for row in range(line - 1, -1, -1) if lines[row].strip()), None)
        others = _list_scopes_at(tree, lines, above) if above is not None else ()
        scopes += [node for node in others if _column(lines[node.start_point.row]) < column]
    if not scopes:
        return None
    scope = max(scopes, key=lambda node: node.start_byte)
    return _first_row(scope), max(_last_row(scope), line)


def find_class(tree: SyntaxTree | None, line: int) -> tuple[int, int] | None:
    """Return the lines of the innermost class, or what a language has in its place, around a line with text."""
    if tree is None:
        return None
    nodes = _list_scopes_at(tree, tree.source.split(b"\n"), line)
    found = next((node for node in nodes if _CLASS.match(node.type)), None)
    return None if found is None else (_first_row(found), _last_row(found))


def find_statements(tree: SyntaxTree | None, line: int, limit: int) -> tuple[int, int] | None:
    """Return the lines of the whole statements at the top of a text around a line, as many as ``limit`` lines hold."""
    if tree is None:
        return None
    spans = [(node.start_point.row, _last_row(node)) for node in tree.tree.root_node.named_children]
    at = next((index for index, (_, last) in enumerate(spans) if last >= line), None)
    if at is None or spans[at][1] - spans[at][0] >= limit:
        return None
    first = last = at
    while True:
        if last + 1 < len(spans) and spans[last + 1][1] - spans[first][0] < limit:
            last += 1
        elif first and spans[last][1] - spans[first - 1][0] < limit:
            first -= 1
        else:
            return min(spans[first][0], line), spans[last][1]


def _list_scopes_at(tree: SyntaxTree, lines: list[bytes], row: int) -> Iterator[Node]:
    byte = sum(len(line) + 1 for line in lines[:row]) + _column(lines[row]) + 1
    for node in tree.ancestors(byte):
        if is_scope_node(node) or (_WRAPPER.match(node.type) and any(map(is_scope_node, node.named_children))):
            yield next(filter(is_scope_node, node.named_children)) if _WRAPPER.match(node.type) else node


def _column(line: bytes) -> int:
    return len(line) - len(line.lstrip())


def list_top_nodes(node: Node) -> Iterator[Node]:
    """Yield the nodes at the top of a text: statements, also in conditional parts and in namespaces."""
    for child in node.named_children:
        if _CONTAINER.match(child.type) or _NAMESPACE.match(child.type):
            yield from list_top_nodes(child)
        else:
            yield child


def _is_import(node: Node) -> bool:
    if _IMPORT.search(node.type):
        return True
    if node.end_point.row - node.start_point.row > _MAX_CALL_ROWS:
        return False
    return any(function.text in _IMPORTING_CALLS for function in _list_called(node))


def _list_called(node: Node) -> Iterator[Node]:
    """Yield the functions that a statement calls: of an expression, or of the value of a variable."""
    stack = [node]
    while stack:
        node = stack.pop()
        if "call" in node.type and node.named_child_count:
            yield node.named_children[0]
        elif not is_scope_node(node):
            stack += node.named_children


def is_scope_node(node: Node) -> bool:
    """Return whether a node is a function, a method, a class or the like, or a variable whose value is a function."""
    if not node.is_named or node.parent is None:
        return False
    if node.type.endswith("_specifier"):  # C's, which also stand for a type that is only named
        return _SCOPE.fullmatch(node.type) is not None and node.child_by_field_name("body") is not None
    return _SCOPE.fullmatch(node.type) is not None or find_function_value(node) is not None


def find_function_value(node: Node) -> Node | None:
    """Return the declarator of ``const f = () => ...``."""
    if node.type not in ("lexical_declaration", "variable_declaration"):
        return None
    for child in node.named_children:
        value = child.child_by_field_name("value")
        if value is not None and _FUNCTION_VALUE.fullmatch(value.type):
            return child
    return None


def find_name_node(node: Node) -> Node | None:
    """Return the node of a definition's name."""
    node = find_function_value(node) or node
    if (name := node.child_by_field_name("name")) is not None:
        return name
    inner = node.child_by_field_name("declarator")  # C
    while inner is not None and (deeper := inner.child_by_field_name("declarator")) is not None:
        inner = deeper
    if inner is None:  # Go's types
        return next((found for child in node.named_children if (found := child.child_by_field_name("name"))), None)
    return inner


def _head_row(node: Node) -> int:
    name = find_name_node(node)
    return (name if name is not None else node).start_point.row


def _first_row(node: Node) -> int:
    """Return the first line of a definition with its decorators and attributes."""
    while node.parent is not None and _WRAPPER.match(node.parent.type):
        node = node.parent
    while (before := node.prev_named_sibling) is not None and before.type == "attribute_item":
        node = before
    return node.start_point.row


def _last_row(node: Node) -> int:
    """Return the last line of a node that has text."""
    return node.start_point.row + (node.text or b"").rstrip().count(b"\n")


def _close_blocks(tree: SyntaxTree) -> SyntaxTree:
    """Return the tree of a text with what closes the blocks that are open at its end."""
    end = len(tree.source)
    if tree.language.style is BlockStyle.KEYWORDS:
        closed = [tree, *(tree.edited(end, end, b"\nend" * count) for count in range(1, _MAX_ENDS))]
        return min(closed, key=lambda one: one.count_errors(0, len(one.source)))
    stack: list[str] = []
    for leaf in tree.leaves(0, end):
        if leaf.is_missing:
            continue
        if leaf.type in _CLOSING:
            stack.append(_CLOSING[leaf.type])
        elif stack and leaf.type == stack[-1]:
            stack.pop()
    return tree.edited(end, end, "".join(f"\n{closing}" for closing in reversed(stack)).encode()) if stack else tree


def find_scope_name(tree: SyntaxTree | None, byte: int) -> str:
    """Return the name of the innermost function or class around a byte; empty outside of one.

    With those around it, so that methods of two classes differ. In a language whose blocks are indented, lines at the
    end of a block that are still empty belong to it.
    """
    if tree is None:
        return ""
    if tree.language.style is BlockStyle.INDENTATION:
        byte = len(tree.source[:byte].rstrip())
    names = [find_name_node(node) for node in tree.ancestors(byte) if is_scope_node(node)]
    return ".".join((name.text or b"").decode("utf-8", "replace") for name in reversed(names) if name is not None)
