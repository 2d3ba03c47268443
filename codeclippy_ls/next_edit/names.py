"""Names in a syntax tree: where one is used, where it is bound, and how far a binding reaches.

Grammars name these nodes in their own ways, but with the same words and fields. Positions are bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tree_sitter import Node

from codeclippy_ls.syntax.outline import is_scope_node

NAME = re.compile(r"[^\W\d]\w*")
_NOT_CODE = re.compile(r"comment|string|char|regex|heredoc|text|content")
_FUNCTION = re.compile(
    r"(?:\w+_)?(?:function|method|constructor|init|subroutine|func|fun)_(?:definition|declaration|item|expression|"
    r"literal|statement|definition_statement|signature)|(?:singleton_)?method|function|"
    r"lambda(?:_expression|_literal)?|closure_expression|arrow_function|anonymous_\w*function\w*|(?:do_)?block_argument|"
    r"\w*comprehension|generator_expression"
)
_CLASS = re.compile(r"(?:^|_)(?:class|interface|struct|trait|impl|object|protocol|record|enum)(?:_|$)")
_DECLARING = re.compile(
    r"defin|declar|parameter|_item$|_spec|alias|method|function|class|assign|let_|binding|module|named_expr"
)
_TARGETS = re.compile(r"variable_name|pattern|tuple|list|target|parenthesized|declarator|expression_list|variable_list")
_ASSIGNING = re.compile(
    r"assign|for|let|short_var|range_clause|binding|with_item|as_pattern|declarator|declaration|const"
)
_PARAMETERS = re.compile(r"parameter|lambda_parameters|formal")
_IMPORT = re.compile(r"(?:^|_)(?:imports?|use|using|include)(?:_|$)")
_LABELED = re.compile(r"argument$|_argument_|keyed_element|field_initializer|label|field_pattern")
_NOT_BOUND = ("value", "type", "default_value", "return_type", "body", "right", "iterable", "condition")


def list_names(root: Node, name: str) -> Iterator[Node]:
    """Yield the leaves that are a name in code, in the order of the text."""
    wanted = name.encode()
    stack = [root]
    while stack:
        node = stack.pop()
        if node.child_count:
            if wanted in (node.text or b""):
                stack += reversed(node.children)
        elif node.is_named and node.text == wanted and not _NOT_CODE.search(node.type) and not _is_label(node):
            yield node


def _is_label(node: Node) -> bool:
    """Return whether a name is that of an argument or a field in a call or a literal: another's name."""
    parent = node.parent
    if parent is None or not _LABELED.search(parent.type):
        return False
    if "label" in parent.type:
        return True
    is_first = parent.child_count > 1 and parent.children[0] == node
    return is_first or _find_field(node) in ("name", "key", "field", "label")


def is_member(node: Node, source: bytes) -> bool:
    """Return whether a name is looked up in something: behind a dot, an arrow or two colons."""
    head = source[max(0, node.start_byte - 3) : node.start_byte].rstrip()
    return head.endswith((b".", b"->", b"::")) and not head.endswith(b"..")


def _find_field(node: Node) -> str:
    """Return the field of its parent that a node is, or nothing."""
    parent = node.parent
    for index, child in enumerate(parent.children if parent is not None else ()):
        if child == node:
            return (parent.field_name_for_child(index) if parent is not None else None) or ""
    return ""


def is_binding(node: Node) -> bool:
    """Return whether a name is bound here: the name of a definition, a parameter, a target of an assignment."""
    field, parent = _find_field(node), node.parent
    if parent is None or field in _NOT_BOUND:
        return False
    if field in ("name", "alias") and _DECLARING.search(parent.type) and "call" not in parent.type:
        return True
    while parent is not None:
        if _PARAMETERS.search(parent.type):
            return field not in _NOT_BOUND
        if field in ("left", "pattern", "declarator", "name", "alias") and _ASSIGNING.search(parent.type):
            return True
        if not _TARGETS.search(parent.type):
            return False
        node, parent = parent, parent.parent
        field = _find_field(node)
        if field in _NOT_BOUND:
            return False
    return False


def is_imported(node: Node) -> bool:
    """Return whether a name is bound by an import."""
    found = node.parent
    while found is not None and not is_function(found):
        if _IMPORT.search(found.type):
            return True
        found = found.parent
    return False


def is_function(node: Node) -> bool:
    """Return whether a node is a function, with or without a name, or a comprehension, which has names of its own."""
    return node.is_named and node.child_count > 1 and _FUNCTION.fullmatch(node.type) is not None


def find_reach(node: Node) -> Node:
    """Return the function, class or file in which a bound name can be used; of a parameter it is its function."""
    field, parent = _find_field(node), node.parent
    start = parent
    if parent is not None and field == "name" and (is_function(parent) or is_scope_node(parent)):
        start = parent.parent  # the name of a function belongs to what is around the function
    while start is not None:
        if is_function(start) or is_class(start) or start.parent is None:
            return start
        start = start.parent
    return node


def is_class(node: Node) -> bool:
    """Return whether a node is a class or the like."""
    return node.parent is not None and is_scope_node(node) and _CLASS.search(node.type) is not None


def find_class(node: Node) -> Node | None:
    """Return the innermost class around a node."""
    found = node.parent
    while found is not None and not is_class(found):
        found = found.parent
    return found
