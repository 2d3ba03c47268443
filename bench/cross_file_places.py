"""Places in the trees of packages whose next line uses names that another file of the package defines.

What is defined where is read by `syntax/declarations`; which of it a line uses, by names alone, so that the places do
not favour what the index can resolve. Knows no model.
"""

from __future__ import annotations

import builtins
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from codeclippy_ls.index.files import list_files, read_source
from codeclippy_ls.syntax.code import is_prose
from codeclippy_ls.syntax.declarations import Declaration, list_declarations
from codeclippy_ls.syntax.import_names import list_imports
from codeclippy_ls.syntax.languages import language_of_file
from codeclippy_ls.syntax.outline import find_scope_name
from codeclippy_ls.syntax.tree import SyntaxTree, parse

_USED = re.compile(r"\.?[^\W\d]\w*\b(?!\s*=[^=])")
_STRING = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`|#.*|//.*")
_MIN_NAME, _MAX_DEFINITIONS = 4, 3
_MIN_LINE, _MAX_LINE = 10, 110  # characters
_MIN_BEFORE = 12  # lines of the file before a place
_ORACLE_LINES, _ORACLE_NAMES = 12, 3
# Names that every program has: their definition in some file says nothing.
_COMMON = {name for type in (str, bytes, dict, list, set, tuple, int, float, object, Exception) for name in dir(type)}
_COMMON |= set(dir(builtins)) | {
    *("self", "args", "kwargs", "name", "value", "path", "data", "length", "push", "slice", "splice", "concat", "some"),
    *("every", "find", "forEach", "then", "catch", "finally", "Promise", "Object", "Array", "Error", "Math", "JSON"),
    *("String", "Number", "Boolean", "console", "undefined", "default", "return", "async", "await", "const", "open"),
    *("function", "index", "type", "items", "keys", "values", "filter", "toString", "stderr", "stdout", "delete"),
    *("export", "import", "props", "children", "state", "error", "message", "options", "config", "result", "parent"),
    *("close", "read", "write", "start", "stop", "send", "next", "event", "target", "source", "text", "request"),
    *("response", "info", "warning", "unlink", "verify"),
}


@dataclass(frozen=True)
class Definition:
    """A definition in a file of a package."""

    path: str
    declaration: Declaration
    lines: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class CrossFilePlace:
    """A cursor whose text up to the end of the line is known.

    Attributes:
        folder: the package's tree.
        path: of the file, relative to it.
        line: the text that stands there.
        wanted: the names in it that other files define; empty at a place that needs none.
        definitions: of these.
    """

    folder: Path
    path: str
    prefix: str
    line: str
    suffix: str
    wanted: tuple[str, ...]
    definitions: tuple[Definition, ...]


def find_places(
    folders: Sequence[Path], suffixes: Sequence[str], count: int, seed: int, needed: bool
) -> list[CrossFilePlace]:
    """Find ``count`` places, as many in each tree, the same for a seed.

    Args:
        needed: places whose line uses a name that another file defines; else such whose line uses none.
    """
    chance = random.Random(f"{seed}/{needed}")
    found: list[list[CrossFilePlace]] = []
    for folder in folders:
        places = list(_list_places(folder, suffixes, needed))
        chance.shuffle(places)
        found.append(places)
    chosen: list[CrossFilePlace] = []
    while len(chosen) < count and any(found):
        for places in found:
            if places and len(chosen) < count:
                chosen.append(places.pop())
    return chosen


def move_to_name(place: CrossFilePlace) -> CrossFilePlace:
    """Return a place with the cursor right before the first wanted name, as in CrossCodeEval."""
    found = re.search(rf"\b{re.escape(place.wanted[0])}\b", place.line) if place.wanted else None
    start = found.start() if found is not None else 0
    return replace(place, prefix=place.prefix + place.line[:start], line=place.line[start:])


def _list_places(folder: Path, suffixes: Sequence[str], needed: bool) -> Iterable[CrossFilePlace]:
    texts = _read_tree(folder, suffixes)
    defined: dict[str, list[Definition]] = {}
    own: dict[str, set[str]] = {}
    trees: dict[str, SyntaxTree] = {}
    for path, text in texts.items():
        if (tree := parse(text, language_of_file(path))) is None:
            continue
        trees[path] = tree
        declarations = list_declarations(tree)
        own[path] = {one.name for one in declarations}
        lines = text.split("\n")
        for one in declarations:
            last = min(one.end_line + 1, one.line + _ORACLE_LINES)
            defined.setdefault(one.name, []).append(Definition(path, one, tuple(lines[one.line : last])))
    for path, tree in trees.items():
        imported = {one.alias.partition(".")[0] for one in list_imports(tree)}
        lines = texts[path].split("\n")
        for number in range(_MIN_BEFORE, len(lines)):
            line = lines[number].strip()
            if not _is_code(line) or not lines[number][:1].isspace() or not _is_in_code(tree, lines, number):
                continue
            names = [name for name in _list_used(line) if len(name.lstrip(".")) >= _MIN_NAME]
            wanted = [name for name in names if _is_wanted(name, path, own[path], imported, defined)]
            if bool(wanted) != needed or (not needed and any(name.lstrip(".") in defined for name in names)):
                continue
            bare = tuple(dict.fromkeys(name.lstrip(".") for name in wanted))
            definitions = tuple(one for name in bare[:_ORACLE_NAMES] for one in defined[name][:1])
            indent = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
            before = "\n".join(lines[:number]) + "\n" + indent
            after = "\n" + "\n".join(lines[number + 1 :])
            yield CrossFilePlace(folder, path, before, line, after, bare, definitions)


def _is_in_code(tree: SyntaxTree, lines: Sequence[str], number: int) -> bool:
    """Return whether a line is in a function, and neither in a text nor in an import."""
    start = len("\n".join(lines[:number]).encode("utf-8", "replace")) + 1
    byte = start + len(lines[number]) - len(lines[number].lstrip()) + 1
    is_import = any("import" in node.type for node in tree.ancestors(byte))
    return not is_import and not is_prose(tree, byte) and bool(find_scope_name(tree, byte))


def _list_used(line: str) -> list[str]:
    """List the names that a line uses; those that are taken of something begin with a dot."""
    return list(dict.fromkeys(_USED.findall(_STRING.sub("", line))))


def _is_wanted(name: str, path: str, own: set[str], imported: set[str], defined: dict[str, list[Definition]]) -> bool:
    """Return whether another file defines what a name stands for, as far as names alone tell it."""
    bare = name.lstrip(".")
    found = defined.get(bare, ())
    if bare in _COMMON or bare in own or not found or len(found) > _MAX_DEFINITIONS:
        return False
    if any(one.path == path for one in found):
        return False
    is_member = all(one.declaration.parent for one in found)
    return name.startswith(".") if is_member else bare in imported or name.startswith(".")


def _read_tree(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    paths = [path for path in list_files(folder) if path.endswith(tuple(suffixes)) and not _is_test(path)]
    read = ((path, read_source(folder, path)) for path in paths)
    return {path: found[0] for path, found in read if found is not None and len(found[0]) < 100_000}


def _is_test(path: str) -> bool:
    return re.search(r"(?:^|/)(?:tests?|__tests__|fixtures?)/|\.test\.|\.spec\.|(?:^|/)test_", path) is not None


def _is_code(line: str) -> bool:
    is_long_enough = _MIN_LINE <= len(line) <= _MAX_LINE
    return is_long_enough and not re.match(r"(?:import|from|export \*|export \{|#|//|\*|/\*|\"|'|@|[})\]])", line)
