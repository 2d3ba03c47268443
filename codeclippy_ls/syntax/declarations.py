"""The definitions of a file with their signatures: functions, classes with their members, types, constants.

A signature is the definition's text up to its body, as one who calls it must know it; of a type without methods
(a struct, an interface, an enumeration) it is the whole text if that is short. Lines count from 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tree_sitter import Node

from codeclippy_ls.syntax.outline import find_function_value, find_name_node, is_scope_node, list_top_nodes
from codeclippy_ls.syntax.tree import SyntaxTree

_CLASS = re.compile(r"(?:^|_)(?:class|interface|struct|trait|impl|object|protocol|record|enum|module)(?:_|$)")
_WHOLE = re.compile(r"(?:^|_)(?:interface|struct|enum|type|record|union)(?:_|$)")  # shown with its fields
_VARIABLE = re.compile(
    r"assignment$|(?:lexical|variable|const|var|property|static)_declaration$|(?:const|static)_item$|(?:val|var)_definition$"
)
_MEMBER = re.compile(
    r"(?:method|field|property|constructor|function)_(?:declaration|definition|item|signature|elem)$|method$|"
    r"public_field_definition$|(?:method|property)_signature$|function_signature_item$|singleton_method$|"
    r"abstract_method_signature$"
)
_BODIES = ("block", "statement_block", "class_body", "declaration_list", "compound_statement", "body_statement")
_KEPT_DECORATOR = re.compile(
    rb"@(?:\w+\.)*(?:property|classmethod|staticmethod|dataclass|abstractmethod|overload|cached_property)\b"
)
_BASE_LISTS = (
    *("argument_list", "class_heritage", "superclass", "super_interfaces"),
    *("base_list", "base_clause", "base_class_clause", "extends_type_clause"),
)
_NAME = re.compile(r"[^\W\d]\w*")
_ATTRIBUTE = re.compile(r"^[ \t]+self\.([^\W\d]\w*)(?:[ \t]*:[^=\n]+)?[ \t]*=[^=\n][^\n]*", re.M)
_COMMENT_SIGNS = "/*#!-; \t"
_MAX_SIGNATURE, _MAX_VARIABLE, _MAX_DOC = 400, 120, 120  # characters
_MAX_WHOLE = 16  # lines of a type that is shown whole
_MAX_MEMBERS = 60  # of a class
_MAX_COMMENTS = 30  # above a definition, one for each line


@dataclass(frozen=True, slots=True)
class Declaration:
    """A definition.

    Attributes:
        kind: ``class``, ``function``, ``variable``, or ``type`` if its signature has all of it.
        parent: name of the class that it is a member of, or nothing.
        line, end_line: its first and last line.
        signature: without the indentation of its first line; no line end at its end.
        doc: first line of its docstring or of the comment above it.
        bases: names in the list of what a class is derived from.
    """

    name: str
    kind: str
    parent: str
    line: int
    end_line: int
    signature: str
    doc: str = ""
    bases: tuple[str, ...] = ()


def list_declarations(tree: SyntaxTree) -> list[Declaration]:
    """List what is defined at the top of a file, each class followed by its members."""
    found: dict[tuple[str, str], Declaration] = {}
    for node in list_top_nodes(tree.tree.root_node):
        for declaration in _read_top(node):
            # The first one: a property's setter and an overload come after it.
            found.setdefault((declaration.parent, declaration.name), declaration)
    return list(found.values())


def _read_top(node: Node) -> Iterator[Declaration]:
    if node.type == "expression_statement" and node.named_child_count:
        node = node.named_children[0]
    if node.type == "type_declaration":  # Go: several in brackets
        for spec in node.named_children:
            yield from _read_named(spec, "")
    elif is_scope_node(node) or _WHOLE.search(node.type):
        yield from _read_named(node, "")
    elif _VARIABLE.search(node.type):
        yield from _read_variables(node, "")


def _read_named(node: Node, parent: str) -> Iterator[Declaration]:
    """Yield a function, class or type, and a class's members."""
    if node.type == "impl_item":
        if match := _NAME.search(_text(node.child_by_field_name("type"))):
            yield from _read_members(node, match[0])
        return
    name_node = find_name_node(node)
    if name_node is None or not (name := _NAME.search(_text(name_node))):
        return
    is_class = bool(_CLASS.search(node.type))
    if not parent and node.type == "method_declaration":  # Go: the receiver's type
        parent = _find_receiver(node)
    body = _find_body(node)
    is_whole = bool(_WHOLE.search(node.type)) and node.end_point.row - node.start_point.row < _MAX_WHOLE
    kind = "type" if is_whole else "class" if is_class else "function"
    signature = _clip(_dedent(node, _text(node))) if is_whole else _read_signature(node, body)
    row, last = node.start_point.row, node.end_point.row
    yield Declaration(name[0], kind, parent, row, last, signature, _read_doc(node, body), _read_bases(node, body))
    if is_class and body is not None and not parent:
        yield from _read_members(node, name[0])


def _read_members(node: Node, parent: str) -> Iterator[Declaration]:
    body = _find_body(node)
    count = 0
    for child in body.named_children if body is not None else ():
        inner = child
        if child.type == "decorated_definition":
            inner = child.child_by_field_name("definition") or child
        elif child.type == "expression_statement" and child.named_child_count:
            inner = child.named_children[0]
        if is_scope_node(inner) or _MEMBER.search(inner.type):
            found: Iterator[Declaration] = _read_named(inner, parent)
        elif _VARIABLE.search(inner.type):
            found = _read_variables(inner, parent)
        else:
            continue
        for declaration in found:
            yield declaration
            if declaration.name == "__init__":
                yield from _read_attributes(inner, parent)
        if (count := count + 1) >= _MAX_MEMBERS:
            return


def _read_attributes(constructor: Node, parent: str) -> Iterator[Declaration]:
    """Yield the attributes that a Python constructor sets."""
    row = constructor.start_point.row
    text = _text(constructor)
    for match in _ATTRIBUTE.finditer(text):
        line = row + text.count("\n", 0, match.start())
        yield Declaration(match[1], "variable", parent, line, line, match[0].strip()[:_MAX_VARIABLE])


def _read_variables(node: Node, parent: str) -> Iterator[Declaration]:
    """Yield the variables of an assignment or a declaration, each with the first line of its text."""
    signature = _text(node).partition("\n")[0].rstrip().removesuffix(";")[:_MAX_VARIABLE]
    left = node.child_by_field_name("left") or node.child_by_field_name("name")
    names = [left] if left is not None else []
    for child in node.named_children if left is None else ():
        names += child.children_by_field_name("name") or child.children_by_field_name("declarator")
    if find_function_value(node) is not None:
        yield from _read_named(node, parent)
        return
    for name in names:
        if _NAME.fullmatch(text := _text(name)):
            kind, last = "variable", node.end_point.row
            yield Declaration(text, kind, parent, node.start_point.row, last, signature, _read_doc(node, None))


def _find_body(node: Node) -> Node | None:
    """Return the body of a definition; of a variable with a function, that function's."""
    if (declarator := find_function_value(node)) is not None:
        value = declarator.child_by_field_name("value")
        return value.child_by_field_name("body") if value is not None else None
    if (body := node.child_by_field_name("body")) is not None:
        return body
    return next((child for child in node.named_children if child.type in _BODIES), None)


def _read_signature(node: Node, body: Node | None) -> str:
    text = node.text or b""
    if body is not None:
        text = text[: body.start_byte - node.start_byte]
    before = node.parent
    decorators = b""
    if before is not None and before.type == "decorated_definition":
        kept = [child.text for child in before.named_children if child.type == "decorator" and child.text]
        decorators = b"".join(one + b"\n" for one in kept if _KEPT_DECORATOR.match(one) and b"\n" not in one)
    signature = (decorators + text).decode("utf-8", "replace").rstrip().removesuffix("=>").rstrip(" \t\n{;")
    if text.count(b"\n") and body is not None:  # a comment below the head belongs to the body
        lines = signature.split("\n")
        while len(lines) > 1 and lines[-1].lstrip().startswith(("#", "//")):
            lines.pop()
        signature = "\n".join(lines).rstrip()
    return _clip(_dedent(node, signature))


def _dedent(node: Node, text: str) -> str:
    column = _list_wrappers(node)[-1].start_point.column
    first, *rest = text.split("\n")
    return "\n".join([first, *(line[column:] if not line[:column].strip() else line.lstrip() for line in rest)])


def _clip(text: str) -> str:
    return text if len(text) <= _MAX_SIGNATURE else text[:_MAX_SIGNATURE].rpartition("\n")[0] or text[:_MAX_SIGNATURE]


def _read_doc(node: Node, body: Node | None) -> str:
    """Return the first line of a docstring, or of the comment right above."""
    first = body.named_children[0] if body is not None and body.named_child_count else None
    if first is not None and first.type == "expression_statement" and first.named_child_count:
        first = first.named_children[0]
    if first is not None and first.type == "string":
        text = _text(first).lstrip("rRuUbB").strip("\"'").strip()
        return text.partition("\n")[0].strip()[:_MAX_DOC]
    node, doc = _list_wrappers(node)[-1], ""
    for _ in range(_MAX_COMMENTS):
        above = node.prev_named_sibling
        if above is None or "comment" not in above.type or above.end_point.row + 1 < node.start_point.row:
            break
        lines = (line.strip(_COMMENT_SIGNS) for line in _text(above).split("\n"))
        node, doc = above, next((line for line in lines if line), doc)
    return doc[:_MAX_DOC]


def _list_wrappers(node: Node) -> list[Node]:
    """List a node and what only wraps it: decorators, ``export``."""
    found = [node]
    while (parent := found[-1].parent) is not None and parent.type in ("decorated_definition", "export_statement"):
        found.append(parent)
    return found


def _read_bases(node: Node, body: Node | None) -> tuple[str, ...]:
    """Return the names behind a class's name: its parents, as far as a name tells them."""
    found: list[str] = []
    for child in node.named_children:
        if child.type in _BASE_LISTS:
            for part in re.split(r",|\bextends\b|\bimplements\b", _text(child).strip("()<: ")):
                name = part.partition("=")[0].partition("<")[0].partition("[")[0].partition("(")[0].strip()
                if "=" not in part and (match := re.search(r"(?<!\w)[^\W\d]\w*$", name)):
                    found.append(match[0])
    return tuple(dict.fromkeys(found))[:6]


def _find_receiver(node: Node) -> str:
    receiver = node.child_by_field_name("receiver")
    match = re.search(r"(?<!\w)([^\W\d]\w{0,80})(?:\[[^\]]{0,200}\])?\s{0,8}\)$", _text(receiver)) if receiver else None
    return match[1] if match else ""


def _text(node: Node | None) -> str:
    return (node.text or b"").decode("utf-8", "replace") if node is not None else ""
