"""A renamed name and its other uses, by the syntax tree.

A name that is bound where it was renamed is renamed wherever the binding reaches. One that is not is renamed elsewhere
only after the user has renamed it twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tree_sitter import Node

from codeclippy_ls.next_edit.history import RecentEdit
from codeclippy_ls.next_edit.names import (
    NAME,
    find_class,
    find_reach,
    is_binding,
    is_class,
    is_function,
    is_imported,
    is_member,
    list_names,
)
from codeclippy_ls.syntax.tree import SyntaxTree
from codeclippy_ls.text import Edit

_MIN_RENAMES = 2  # of a use, before the other uses follow
_KEYS = ("property_identifier", "field_identifier")
_IMPLICIT = ("java", "csharp", "kotlin", "swift", "c", "dart", "scala")  # where a member needs no receiver
_SHORTHAND = re.compile(r"(\w+): (\w+)")  # what becomes of a property that had its value's name
_RECEIVERS = (b"self.", b"this.", b"this->", b"@", b"cls.")


def find_renames(tree: SyntaxTree, text: str, edits: Sequence[RecentEdit]) -> list[Edit] | None:
    """Find the uses that are left of the name that the newest edit renamed; None if it renamed none.

    Args:
        edits: widened to words, the newest last.
    """
    edits = [_read_shorthand(edit) for edit in edits]
    newest = edits[-1]
    old, new = newest.original, newest.updated
    if not (NAME.fullmatch(old) and NAME.fullmatch(new)) or old == new:
        return None
    same = [edit for edit in edits if (edit.original, edit.updated) == (old, new)]
    if _was_there(tree, same[0], new):
        return None  # the name is another thing's already: a use was corrected
    renamed = [node for edit in same if (node := _find_leaf(tree, text, edit)) is not None]
    found = _find_reach(tree, renamed, old)
    if found is None:
        return None
    reach, of_members = found
    if of_members:
        uses = [node for node in list_names(reach, old) if _is_own_member(node, tree.source)]
        if tree.language.id in _IMPLICIT:
            uses += [node for node in _list_uses(reach, old) if not is_member(node, tree.source)]
    else:
        uses = [node for node in _list_uses(reach, old) if not is_member(node, tree.source) and node.type not in _KEYS]
    return [_to_edit(text, tree.source, node, new) for node in uses]


def _read_shorthand(edit: RecentEdit) -> RecentEdit:
    """Return an edit of a property's value if it made that of a property that had its value's name."""
    match = _SHORTHAND.fullmatch(edit.updated)
    if match is None or match[1] != edit.original:
        return edit
    return replace(edit, start=edit.start + match.start(2), updated=match[2])


def _was_there(tree: SyntaxTree, first: RecentEdit, new: str) -> bool:
    """Return whether the new name was in the text before."""
    before = first.before
    at = before.find(new)
    while at >= 0:
        match = NAME.match(before, at)
        is_start = at == 0 or not (before[at - 1].isalnum() or before[at - 1] == "_")
        if is_start and match is not None and match.group() == new:
            return True
        at = before.find(new, at + 1)
    return False


def _find_leaf(tree: SyntaxTree, text: str, edit: RecentEdit) -> Node | None:
    start = len(text[: edit.start].encode("utf-8", "replace"))
    node = tree.tree.root_node.descendant_for_byte_range(start, start + len(edit.updated.encode()))
    is_name = node is not None and node.child_count == 0 and node.text == edit.updated.encode()
    return node if is_name else None


def _find_reach(tree: SyntaxTree, renamed: Sequence[Node], old: str) -> tuple[Node, bool] | None:
    """Return the node in which the other uses are those of the renamed name, and whether they are looked up in it.

    None if that is not sure.
    """
    for node in renamed:
        if is_binding(node) and not is_member(node, tree.source) and not is_imported(node):
            reach = find_reach(node)
            is_own = is_class(reach) or node.type in _KEYS
            return ((find_class(node) or reach), True) if is_own else (reach, False)
    for node in renamed:
        if _is_own_member(node, tree.source) and (found := find_class(node)) is not None:
            return found, True
    if len(renamed) < _MIN_RENAMES or is_member(renamed[-1], tree.source):
        return None
    # Uses were renamed: the others follow if the name is bound where all of them can be.
    root = tree.tree.root_node
    bound = [use for use in list_names(root, old) if is_binding(use) and not is_class(find_reach(use))]
    reaches = [reach for use in bound if _holds(reach := find_reach(use), renamed)]
    return (reaches[-1], False) if reaches else None


def _holds(reach: Node, nodes: Sequence[Node]) -> bool:
    return all(reach.start_byte <= node.start_byte < reach.end_byte for node in nodes)


def _is_own_member(node: Node, source: bytes) -> bool:
    """Return whether a name is looked up in the object whose method this is."""
    return source[max(0, node.start_byte - 6) : node.start_byte].endswith(_RECEIVERS)


def _list_uses(reach: Node, old: str) -> Iterator[Node]:
    """Yield the uses of a name, without those of functions inside that bind it anew."""
    stack = [reach]
    wanted = old.encode()
    while stack:
        node = stack.pop()
        if node != reach and is_function(node) and _binds(node, old):
            continue
        if node.child_count and wanted in (node.text or b""):
            stack += reversed(node.children)
        elif not node.child_count:
            yield from list_names(node, old)


def _binds(function: Node, name: str) -> bool:
    """Return whether a function has a parameter of a name."""
    return any(is_binding(use) and find_reach(use) == function for use in list_names(function, name))


def _to_edit(text: str, source: bytes, node: Node, new: str) -> Edit:
    if node.type == "shorthand_property_identifier":  # the property keeps its name
        new = f"{(node.text or b'').decode('utf-8', 'replace')}: {new}"
    start = node.start_byte if len(source) == len(text) else len(source[: node.start_byte].decode("utf-8", "replace"))
    return Edit(start, start + len((node.text or b"").decode("utf-8", "replace")), new)
