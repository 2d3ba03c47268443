"""Resolve imports to definitions in the files of an index, by the rules of each language as far as they are cheap.

Python: packages, relative imports, names that an ``__init__`` passes on, submodules. JavaScript and TypeScript:
relative paths, the ``paths`` of ``tsconfig.json``, index files, names that a file passes on. Go: packages of the module
in ``go.mod``, and of the own folder. Rust and Java: modules by their files' names. All others, and what these rules do
not find: by name.
"""

from __future__ import annotations

import json
import posixpath
import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from codeclippy_ls.index.files import read_lines
from codeclippy_ls.syntax.declarations import Declaration

_SCRIPTS = ("javascript", "typescript", "typescriptreact")
_SCRIPT_ENDS = (".ts", ".tsx", ".js", ".jsx", ".mts", ".mjs", ".cjs", ".d.ts")
_PYTHON_ENDS = (".py", ".pyi", "/__init__.py", "/__init__.pyi")
# Languages whose definitions see each other: one group for each.
_GROUPS = {"typescript": "javascript", "typescriptreact": "javascript", "c": "cpp", "kotlin": "java", "scala": "java"}
_MAX_PASSED_ON = 5  # files that pass a name on
_MAX_BY_NAME = 12  # definitions of a name that are looked at
_COLUMNS = "d.file, f.path, d.name, d.kind, d.parent, d.line, d.end_line, d.signature, d.doc, d.bases"
_SELECT = f"SELECT {_COLUMNS} FROM declaration d JOIN file f ON f.id = d.file"


@dataclass(frozen=True, slots=True)
class Located:
    """A definition, and the file that it is in."""

    file: int
    path: str
    declaration: Declaration


@dataclass(frozen=True, slots=True)
class Module:
    """The files that an import names; with several, as in Go, they share their names."""

    files: tuple[tuple[int, str], ...]


class Resolver:
    """Finds definitions for one file. One thread at a time.

    Args:
        folder: the real path of the indexed folder.
        path: of the file that asks, relative to it.
        language: its LSP id.
    """

    def __init__(self, database: sqlite3.Connection, folder: Path, path: str, language: str) -> None:
        self._database, self._folder, self.path, self._language = database, folder, path, language
        self._group = _GROUPS.get(language, language)

    def resolve(self, module: str, name: str, origin: str = "", depth: int = _MAX_PASSED_ON) -> list[Located] | Module:
        """Return the definitions that an import names, or the module if it names one; an empty list if it is unknown.

        Args:
            origin: the file that has the import, if it is another one.
        """
        origin = origin or self.path
        if not name:
            return self._find_submodule(module, origin) or []
        # A file of Java is a class.
        found = self._find_module(f"{module}.{name}" if self._language == "java" else module, origin)
        located = self._find_passed_on(found.files, name, depth)
        if located:
            return located
        if self._language == "python":
            inner = f"{module}{name}" if module.endswith(".") else f"{module}.{name}"
            return self._find_submodule(inner, origin) or []
        return []

    def _find_submodule(self, module: str, origin: str) -> Module | None:
        found = self._find_module(module, origin)
        return found if found.files else None

    def _find_passed_on(self, files: Sequence[tuple[int, str]], name: str, depth: int) -> list[Located]:
        """Find a name in files, or in the files that these have it from."""
        for file, _ in files:
            if located := self.find_in_file(file, name):
                return located
        if not depth:
            return []
        for file, path in files:
            query = "SELECT module, name FROM import WHERE file = ? AND (alias = ? OR (alias = '' AND name = '*'))"
            for module, original in self._database.execute(query, (file, name)).fetchall():
                wanted = name if original in ("*", "") else original
                found = self.resolve(module, wanted, path, depth - 1) if original or module else []
                if isinstance(found, list) and found:
                    return found
        return []

    def find_in_file(self, file: int, name: str, parent: str = "") -> list[Located]:
        """Find what a file defines by a name, at its top or as a member of a class."""
        if name == "default" and self._language in _SCRIPTS:
            return self._find_default(file)
        query = f"{_SELECT} WHERE d.file = ? AND d.parent = ? AND d.name = ?"
        return self._read(query, (file, parent, name))

    def _find_default(self, file: int) -> list[Located]:
        """Find what a script exports as default: the definition that is named like the file, or the only one."""
        found = [one for one in self.list_top(file) if one.declaration.kind != "type"]
        stem = posixpath.basename(found[0].path).partition(".")[0].replace("-", "").lower() if found else ""
        named = [one for one in found if one.declaration.name.lower() == stem]
        return named or found[:1]

    def list_top(self, file: int) -> list[Located]:
        """List what a file defines at its top."""
        query = f"{_SELECT} WHERE d.file = ? AND d.parent = '' ORDER BY d.line"
        return self._read(query, (file,))

    def list_members(self, owner: Located) -> list[Located]:
        """List the members of a class; of a language whose methods stand outside of it, also those in its folder."""
        query = f"{_SELECT} WHERE d.file = ? AND d.parent = ? ORDER BY d.line"
        found = self._read(query, (owner.file, owner.declaration.name))
        if self._language == "go":
            others = self._find_folder(posixpath.dirname(owner.path)).files
            for file, _ in others[:40]:
                found += self._read(query, (file, owner.declaration.name)) if file != owner.file else []
        return found

    def find_by_name(self, name: str, is_member: bool = False) -> list[Located]:
        """Find definitions of a name anywhere, the nearest file first; none if there are too many to tell."""
        condition = "d.parent != ''" if is_member else "d.parent = ''"
        query = f"SELECT {_COLUMNS}, f.language FROM declaration d JOIN file f ON f.id = d.file "
        query += f"WHERE d.name = ? AND {condition} LIMIT ?"
        rows = self._database.execute(query, (name, _MAX_BY_NAME + 1)).fetchall()
        if len(rows) > _MAX_BY_NAME:
            return []
        same = [row for row in rows if _GROUPS.get(row[-1], row[-1]) == self._group and row[1] != self.path]
        return [_locate(row[:-1]) for row in sorted(same, key=lambda row: self.measure_distance(row[1]))]

    def find_in_folder(self, names: Iterable[str]) -> list[Located]:
        """Find names in the other files of the own folder, which see each other without imports in some languages."""
        wanted = list(names)[:200]
        marks = ",".join("?" * len(wanted))
        query = (
            f"SELECT {_COLUMNS} FROM file f JOIN declaration d ON d.file = f.id "
            f"WHERE f.folder = ? AND f.path != ? AND d.parent = '' AND d.name IN ({marks})"
        )
        return self._read(query, (posixpath.dirname(self.path), self.path, *wanted))

    def measure_distance(self, path: str) -> int:
        """Return how many folders lie between the own file and another one."""
        mine, other = self.path.split("/")[:-1], path.split("/")[:-1]
        same = len(posixpath.commonprefix([mine, other]))
        return len(mine) + len(other) - 2 * same

    # Modules to files.

    def _find_module(self, module: str, origin: str) -> Module:
        if self._language == "python":
            return self._find_python(module, origin)
        if self._language in _SCRIPTS:
            return self._find_script(module, origin)
        if self._language == "go":
            return self._find_go(module)
        if self._language in ("rust", "java"):
            return self._find_by_path(re.split(r"::|\.", module))
        return Module(())

    def _find_python(self, module: str, origin: str) -> Module:
        names = module.lstrip(".")
        parts = [part for part in names.split(".") if part]
        level = len(module) - len(names)
        if not level:
            return self._find_by_path(parts)
        folder = posixpath.dirname(origin)
        for _ in range(level - 1):
            folder = posixpath.dirname(folder)
        return self._find_paths(_join(folder, "/".join(parts)), _PYTHON_ENDS)

    def _find_script(self, module: str, origin: str) -> Module:
        targets = [_join(posixpath.dirname(origin), module)] if module.startswith(".") else []
        targets += [] if targets else _apply_tsconfig(self._folder, posixpath.dirname(origin), module)
        for target in targets:
            # TypeScript names the file that will be made of it.
            stem, end = posixpath.splitext(target)
            written = [stem] if end in (".js", ".jsx", ".mjs", ".cjs") else []
            for base in (target, *written):
                ends = ("", *_SCRIPT_ENDS, *(f"/index{end}" for end in _SCRIPT_ENDS))
                if (found := self._find_paths(base, ends)).files:
                    return found
        return Module(())

    def _find_go(self, module: str) -> Module:
        for root, name in _list_go_modules(self._folder, posixpath.dirname(self.path)):
            if module == name or module.startswith(f"{name}/"):
                return self._find_folder(_join(root, module[len(name) + 1 :]))
        return Module(())

    def _find_folder(self, folder: str) -> Module:
        query = "SELECT id, path FROM file WHERE folder = ? AND language = ?"
        return Module(tuple(self._database.execute(query, (folder, self._language)).fetchall()))

    def _find_paths(self, base: str, ends: Sequence[str]) -> Module:
        marks = ",".join("?" * len(ends))
        paths = [(base + end).lstrip("/") for end in ends]
        rows = self._database.execute(f"SELECT id, path FROM file WHERE path IN ({marks})", paths).fetchall()
        return Module(tuple(sorted(rows, key=lambda row: paths.index(row[1]))[:1]))

    def _find_by_path(self, parts: Sequence[str]) -> Module:
        """Find the file whose path ends like a module's; of several the nearest."""
        parts = [part for part in parts if part not in ("crate", "self", "super", "")]
        if not parts:
            return Module(())
        tail = "/".join(parts)
        rows = self._database.execute("SELECT id, path FROM file WHERE stem = ?", (parts[-1],)).fetchall()
        found = [(id, path) for id, path in rows if f"/{_strip_end(path)}".endswith(f"/{tail}")]
        found.sort(key=lambda row: (self.measure_distance(row[1]), row[1]))
        return Module(tuple(found[:1]))

    def _read(self, query: str, values: Sequence[Any]) -> list[Located]:
        return [_locate(row) for row in self._database.execute(query, values).fetchall()]


def _locate(row: Sequence[Any]) -> Located:
    file, path, name, kind, parent, line, end_line, signature, doc, bases = row
    declaration = Declaration(name, kind, parent, line, end_line, signature, doc, tuple(bases.split()))
    return Located(file, path, declaration)


def _join(folder: str, path: str) -> str:
    joined = posixpath.normpath(posixpath.join(folder, path)) if folder or path else ""
    return "" if joined == "." else joined


def _strip_end(path: str) -> str:
    base = path[: path.rindex(".")] if "." in posixpath.basename(path) else path
    folder, _, name = base.rpartition("/")
    return folder if name in ("__init__", "index", "mod") else base


def _apply_tsconfig(folder: Path, start: str, module: str) -> list[str]:
    """Return the paths that the nearest ``tsconfig.json`` with ``paths`` gives a module."""
    for parent in _list_parents(start):
        for name in ("tsconfig.json", "tsconfig.base.json", "jsconfig.json"):
            base, table = _read_tsconfig(folder / parent / name, _time_of(folder / parent / name))
            found = [
                _join(_join(parent, base), target.replace("*", module[len(head) : len(module) - len(tail)]))
                for pattern, targets in table
                for head, star, tail in [pattern.partition("*")]
                if (module.startswith(head) and module.endswith(tail) if star else module == pattern)
                for target in targets
            ]
            if found:
                return found
    return []


@lru_cache(maxsize=64)
def _read_tsconfig(path: Path, time: int) -> tuple[str, list[tuple[str, list[str]]]]:
    """Read ``baseUrl`` and ``paths``; comments and trailing commas are allowed there."""
    if not time:
        return "", []
    text = "\n".join(read_lines(path))
    text = re.sub(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', lambda match: match[1] or "", text, flags=re.S)
    try:
        options = json.loads(re.sub(r",(\s*[}\]])", r"\1", text))["compilerOptions"]
        table = options.get("paths", {})
        pairs = [(str(key), [str(one) for one in value]) for key, value in table.items()]
        return str(options.get("baseUrl", ".")), sorted(pairs, key=lambda pair: -len(pair[0]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", []


def _list_go_modules(folder: Path, start: str) -> list[tuple[str, str]]:
    """List the folders with a ``go.mod`` around a folder, with the names of their modules."""
    found = []
    for parent in _list_parents(start):
        path = folder / parent / "go.mod"
        if name := _read_go_module(path, _time_of(path)):
            found.append((parent, name))
    return found


@lru_cache(maxsize=64)
def _read_go_module(path: Path, time: int) -> str:
    match = re.search(r"^module\s+\"?([^\s\"]+)", "\n".join(read_lines(path)), re.M) if time else None
    return match[1] if match else ""


def _list_parents(folder: str) -> list[str]:
    found = [folder]
    while found[-1]:
        found.append(posixpath.dirname(found[-1]))
    return found[:12]


def _time_of(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
