"""The option ``--quick``: test files that need no model, and few examples of each law. Hooks for ``conftest.py``.

Which files those are is read from their imports, so that a new file needs no mark: importing it does not bring torch,
nowhere does it import torch itself, and it takes nothing from the helpers that make models or start servers. Nothing is
imported to find that out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("codeclippy_ls", "tests", "bench", "training")
HEAVY = {"torch", "transformers"}
# Helpers that start processes.
SLOW_HELPERS = {"tests.editor.process", "tests.transports", "tests.services"}
EXAMPLES = 10
_LAW = "_hypothesis_internal_use_settings"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.addoption("--quick", action="store_true", help="only test files that need no model and start no server")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave a file out."""
    is_test = collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    return True if config.getoption("--quick") and is_test and not is_quick(collection_path) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Try few examples of each law, whatever its own settings say; Hypothesis has no public way to override those."""
    if config.getoption("--quick"):
        from hypothesis import settings

        for item in items:
            function = getattr(item, "obj", None)
            if (own := getattr(function, _LAW, None)) is not None:
                setattr(function, _LAW, settings(own, max_examples=min(own.max_examples, EXAMPLES)))


def is_quick(path: Path) -> bool:
    """Return whether a test file needs no model and starts no server."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    everywhere = {name for node in ast.walk(tree) for name in _imported(node)}
    if everywhere & (HEAVY | SLOW_HELPERS) or any(_makes_model(node) for node in ast.walk(tree)):
        return False
    return not any(_brings_heavy(file) for file in _files_of(everywhere))


@cache
def _brings_heavy(path: Path) -> bool:
    """Return whether importing a file of ours, and what that imports in turn, brings a heavy library."""
    seen, waiting = set[Path](), [path]
    while waiting:
        if (file := waiting.pop()) not in seen:
            seen.add(file)
            names = _imported_at_once(file)
            if names & HEAVY:
                return True
            waiting += _files_of(names)
    return False


@cache
def _imported_at_once(path: Path) -> frozenset[str]:
    """The modules that are imported when a file is."""

    def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for statement in body:
            yield statement
            if isinstance(statement, ast.If) and "TYPE_CHECKING" not in ast.unparse(statement.test):
                yield from statements(statement.body + statement.orelse)
            elif isinstance(statement, (ast.Try, ast.With)):
                yield from statements(statement.body)

    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(name for statement in statements(tree.body) for name in _imported(statement))


def _imported(node: ast.AST) -> Iterator[str]:
    """Modules, and for names taken from one both the module and the name in it, which may be a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _makes_model(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr in _model_makers()
        and isinstance(node.value, ast.Name)
        and node.value.id == "checkpoints"
    )


@cache
def _model_makers() -> frozenset[str]:
    """List the functions of ``tests.checkpoints`` that import a heavy library, or call one that does."""
    tree = ast.parse((ROOT / "tests" / "checkpoints.py").read_text(encoding="utf-8"))
    functions = {node.name: list(ast.walk(node)) for node in tree.body if isinstance(node, ast.FunctionDef)}
    found = {name for name, nodes in functions.items() if any(HEAVY & set(_imported(node)) for node in nodes)}
    while more := {
        name
        for name, nodes in functions.items()
        if name not in found and any(isinstance(node, ast.Name) and node.id in found for node in nodes)
    }:
        found |= more
    return frozenset(found)


def _files_of(names: set[str] | frozenset[str]) -> list[Path]:
    """The files of our modules and of the packages around them."""
    found = []
    for name in names:
        parts = name.split(".")
        if parts[0] in OURS:
            for count in range(1, len(parts) + 1):
                place = ROOT.joinpath(*parts[:count])
                found += [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]
    return found
