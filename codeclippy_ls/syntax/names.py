"""Names that a change brings in and that nothing else in the text has: undefined, unused, or another library's."""

from __future__ import annotations

import builtins
from collections import Counter

from tree_sitter import Node

from codeclippy_ls.syntax.languages import Language
from codeclippy_ls.syntax.tree import parse

# Kinds of leaves that name something, in all grammars of the table.
_NAMES = frozenset({"identifier", "property_identifier", "field_identifier", "type_identifier", "constant"})
_RECEIVERS = frozenset({b"self", b"this", b"cls"})
_KNOWN: dict[str, frozenset[bytes]] = {
    "python": frozenset(name.encode() for name in dir(builtins)),
    "javascript": frozenset(
        b"Array ArrayBuffer Boolean Date Error Infinity Intl JSON Map Math NaN Number Object Promise Proxy RangeError "
        b"RegExp Set String Symbol SyntaxError TypeError URL URLSearchParams WeakMap console document fetch globalThis "
        b"clearTimeout isNaN parseFloat parseInt process require setInterval setTimeout structuredClone undefined "
        b"window".split()
    ),
}
_KNOWN["typescript"] = _KNOWN["typescriptreact"] = _KNOWN["javascript"]


def count_lonely_names(before: str, after: str, language: Language | None) -> int:
    """Count the names that occur once in a text and did not before it was changed.

    Names of the language itself do not count, nor attributes of anything but the own object. Nothing is known without a
    grammar, and of languages whose own names are not listed.
    """
    known = _KNOWN.get(language.id) if language is not None else None
    old, new = parse(before, language), parse(after, language)
    if known is None or old is None or new is None:
        return 0
    had = {leaf.text for leaf in old.leaves(0, len(old.source))}
    leaves = [leaf for leaf in new.leaves(0, len(new.source)) if leaf.type in _NAMES]
    counts = Counter(leaf.text for leaf in leaves)
    return sum(counts[leaf.text] == 1 and leaf.text not in had | known and not _is_foreign(leaf) for leaf in leaves)


def _is_foreign(leaf: Node) -> bool:
    """Return whether a name is an attribute of another object, an argument by name, or part of an import."""
    parent = leaf.parent
    if parent is None:
        return False
    if parent.type in ("attribute", "member_expression"):
        receiver = parent.named_children[0]
        return receiver.id != leaf.id and receiver.text not in _RECEIVERS
    is_key = parent.type in ("keyword_argument", "pair", "dotted_name", "aliased_import", "import_specifier")
    return is_key and parent.named_children[0].id == leaf.id
