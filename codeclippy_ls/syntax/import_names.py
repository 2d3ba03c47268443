"""The imports of a file with the names that they bind, for languages whose imports tell where a name is defined."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from tree_sitter import Node, Query, QueryCursor

from codeclippy_ls.syntax.languages import Language, load_grammar
from codeclippy_ls.syntax.tree import SyntaxTree

_QUERIES = {
    "python": "(import_statement) @import (import_from_statement) @import",
    "javascript": "(import_statement) @import (export_statement source: (_)) @import "
    '(variable_declarator value: (call_expression function: (identifier) @f (#eq? @f "require"))) @import',
    "go": "(import_spec) @import",
    "rust": "(use_declaration) @import (mod_item !body) @import",
    "java": "(import_declaration) @import",
}
_QUERIES["typescript"] = _QUERIES["typescriptreact"] = _QUERIES["javascript"]
_WORD = re.compile(r"[^\W\d]\w*")
_MAX_IMPORTS = 400  # of a file
_MAX_DEPTH = 8  # of brackets in an import of Rust


@dataclass(frozen=True, slots=True)
class Import:
    """A name that an import binds.

    Attributes:
        module: the module or file as it is written, such as ``..a.b``, ``./a`` or ``crate::a``.
        name: the name in that module; ``*`` is all of them, and nothing the module itself.
        alias: the name in this file; nothing if it is only passed on, or unknown.
        line: where it stands.
    """

    module: str
    name: str
    alias: str
    line: int = 0


def list_imports(tree: SyntaxTree) -> list[Import]:
    """List what a file imports; nothing in a language whose imports are not read."""
    read = _READERS.get(tree.language.id)
    if read is None:
        return []
    nodes = QueryCursor(_import_query(tree.language)).captures(tree.tree.root_node).get("import", [])
    found: list[Import] = []
    for node in sorted(nodes, key=lambda node: node.start_byte):
        found += read(node)
        if len(found) >= _MAX_IMPORTS:
            break
    return found


@cache
def _import_query(language: Language) -> Query:
    grammar = load_grammar(language)
    assert grammar is not None
    return Query(grammar, _QUERIES[language.id])


def _read_python(node: Node) -> Iterator[Import]:
    row = node.start_point.row
    module = _text(node.child_by_field_name("module_name"))
    for child in node.named_children:
        if child.type == "wildcard_import":
            yield Import(module, "*", "", row)
    for child in node.children_by_field_name("name"):
        name = _text(child.child_by_field_name("name") if child.type == "aliased_import" else child)
        alias = _text(child.child_by_field_name("alias")) if child.type == "aliased_import" else ""
        if module:
            yield Import(module, name, alias or name, row)
        else:
            yield Import(name, "", alias or name, row)


def _read_javascript(node: Node) -> Iterator[Import]:
    row = node.start_point.row
    if node.type == "variable_declarator":
        yield from _read_require(node)
        return
    module = _text(node.child_by_field_name("source")).strip("\"'`")
    if node.type == "export_statement":
        yield from _read_passed_on(node, module)
        return
    clause = next((child for child in node.named_children if child.type == "import_clause"), None)
    for child in clause.named_children if clause is not None else ():
        if child.type == "identifier":
            yield Import(module, "default", _text(child), row)
        elif child.type == "namespace_import":
            yield Import(module, "", _text(child).rpartition(" ")[2], row)
        elif child.type == "named_imports":
            for part in child.named_children:
                name = _text(part.child_by_field_name("name"))
                if name:
                    yield Import(module, name, _text(part.child_by_field_name("alias")) or name, row)


def _read_passed_on(node: Node, module: str) -> Iterator[Import]:
    """Yield what ``export ... from`` passes on."""
    inner = [part for child in node.named_children for part in child.named_children]
    specifiers = [part for part in inner if part.type == "export_specifier"]
    for part in specifiers:
        name = _text(part.child_by_field_name("name"))
        yield Import(module, name, _text(part.child_by_field_name("alias")) or name, node.start_point.row)
    if not specifiers:
        yield Import(module, "*", "", node.start_point.row)


def _read_require(node: Node) -> Iterator[Import]:
    row = node.start_point.row
    match = re.search(r"""require\(\s*["']([^"']+)["']""", _text(node.child_by_field_name("value")))
    names = node.child_by_field_name("name")
    if match is None or names is None:
        return
    if names.type == "identifier":
        yield Import(match[1], "", _text(names), row)
    for part in re.split(r"[{},]", _text(names)) if names.type == "object_pattern" else ():
        name, _, alias = (piece.strip() for piece in part.partition(":"))
        if _WORD.fullmatch(name):
            yield Import(match[1], name, alias or name, row)


def _read_go(node: Node) -> Iterator[Import]:
    path = _text(node.child_by_field_name("path")).strip('"`')
    alias = _text(node.child_by_field_name("name")) or path.rpartition("/")[2].partition(".")[0]
    yield Import(path, "*" if alias == "." else "", "" if alias in (".", "_") else alias, node.start_point.row)


def _read_rust(node: Node) -> Iterator[Import]:
    row = node.start_point.row
    if node.type == "mod_item":
        name = _text(node.child_by_field_name("name"))
        yield Import(f"self::{name}", "", name, row)
        return
    text = re.sub(r"\s+", " ", _text(node.child_by_field_name("argument")))
    for path in _expand(text, _MAX_DEPTH):
        path, _, alias = (part.strip() for part in path.partition(" as "))
        module, _, name = path.rpartition("::")
        if name == "self":
            yield Import(module, "", alias or module.rpartition("::")[2], row)
        elif name:
            yield Import(module, name, "" if name == "*" else alias or name, row)


def _expand(text: str, depth: int) -> list[str]:
    """Expand ``a::{b, c::{d, e}}`` to one path for each name."""
    head, bracket, rest = text.partition("{")
    if not bracket or not depth:
        return [text.strip()]
    parts, level, start = list[str](), 0, 0
    inner = rest.rpartition("}")[0]
    for at, character in enumerate(inner + ","):
        level += (character == "{") - (character == "}")
        if character == "," and not level:
            parts.append(inner[start:at].strip())
            start = at + 1
    return [head.strip() + path for part in parts if part for path in _expand(part, depth - 1)]


def _read_java(node: Node) -> Iterator[Import]:
    match = re.match(r"import\s+(?:static\s+)?([\w.]+?)(\.\*)?\s*;", _text(node))
    if match is None:
        return
    module, _, name = match[1].rpartition(".")
    if match[2]:
        yield Import(match[1], "*", "", node.start_point.row)
    else:
        yield Import(module, name, name, node.start_point.row)


def _text(node: Node | None) -> str:
    return (node.text or b"").decode("utf-8", "replace") if node is not None else ""


_READERS: dict[str, Callable[[Node], Iterator[Import]]] = {
    "python": _read_python,
    "javascript": _read_javascript,
    "typescript": _read_javascript,
    "typescriptreact": _read_javascript,
    "go": _read_go,
    "rust": _read_rust,
    "java": _read_java,
}
