"""The words of docs/style.md: names that the field has better ones for, and constructions that read badly.

A name is banned as a whole identifier, a phrase in docstrings, comments, docs and the clients' sources. Words that are
right in one place (a person's turn, the size of a tensor) are not banned: this list only has what is always wrong.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Identifiers with a better name in the field's vocabulary.
NAMES = {
    *("Feed", "KeyValues", "Seats", "Ticket", "EngineFace", "LocalHost", "ModelFacts", "Lane", "Ask", "CompletionAsk"),
    *("EditAsk", "Chooser", "Graphs", "Shape", "Layout", "LAYOUTS", "Stored", "Lookup", "Trust", "Cost", "Ground"),
    *(
        "Served",
        "Fault",
        "Figures",
        "Memory",
        "Pace",
        "Passage",
        "Shown",
        "ShownDiff",
        "Rows",
        "Fan",
        "Choice",
        "Other",
    ),
    *("common_length", "best_length", "rises", "voiced", "melted", "exactly", "roughly", "lean", "chooser", "ticket"),
    *("shape_of", "window_of", "ends_of", "facts_of", "surroundings", "spoilt", "fitting", "survives_exit", "say_once"),
    *("asks_content", "draws_ghost_text", "least_confidence", "filters_off", "endpoint_infill", "leastConfidence"),
    *("filtersOff", "endpointInfill", "oneshot", "facts", "lane", "hole", "Hole", "holes", "cure", "PATIENCE"),
    *("plain_completion", "plain_edit", "PlainPrompt", "without_control", "recognise", "gates", "pace", "asks"),
}
PREFIXES = ("_MOST", "MOST_", "_LEAST", "LEAST_", "_LONGEST", "LONGEST_", "_SHORTEST")
# Constructions to drop, as regular expressions over prose.
PHRASES = (
    r"as like as not",
    r"\bby (?:itself|themselves)\b",
    r"\bmeanwhile\b",
    r"\baffairs? of\b",
    r"'s affair\b",
    r"\bso (?:many|long) (?:tokens|characters|lines|seconds|of)\b",
    r"\bcures?\b",
    r"\bnobody's\b",
    r"\bthe engine's face\b",
    r"\bface of (?:a|an|the)\b",
    r"\bblanks?\b(?! line)",
    r"\bwhere there (?:is|are) (?:no|none|one)\b",
    r"\bgives way\b",
    r"\btickets?\b",
    r"\bholes?\b",
    r"\bhouse\b",
)
# First words of a docstring that say a clause instead of an action or a thing.
OPENERS = {"Whether", "What", "Where", "Who", "Whoever", "Whatever", "Which", "How", "Why"}
# Those of a function, which begins with a verb.
ARTICLES = {"The", "A", "An", "This", "That", "All", "Each", "Every", "No", "None", "It", "Its", "Their"}
SKIPPED = ("codeclippy_ls/samples/", "tests/cases/", "tests/test_vocabulary.py", "training/snippets.py")


@lru_cache
def files(*patterns: str) -> tuple[Path, ...]:
    """Return the tracked files, without samples and cases."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return tuple(ROOT / name for name in listed if not name.startswith(SKIPPED) and (ROOT / name).is_file())


def python_prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each docstring and comment of a Python file with its line number."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if (text := ast.get_docstring(node, clean=False)) is not None:
                yield node.body[0].lineno, text
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@lru_cache
def prose() -> tuple[tuple[Path, int, str], ...]:
    """Return all prose with its file and line: docstrings, comments, docs, and the clients' sources as they are."""
    found = [(path, line, text) for path in files("*.py") for line, text in python_prose(path)]
    for path in files("*.md", "editors/*.ts", "editors/*.lua", "editors/*.el", "editors/vscode/package.json"):
        if path.name not in {"CHANGELOG.md", "LOG.md", "package-lock.json"}:
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [(path, number, line) for number, line in enumerate(lines, 1)]
    return tuple(found)


def test_names_are_the_fields() -> None:
    """Also of parameters and local variables."""
    found = []
    for path in files("*.py"):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type == tokenize.NAME and (token.string in NAMES or token.string.startswith(PREFIXES)):
                found.append(f"{path.relative_to(ROOT)}:{token.start[0]} {token.string}")
    assert not found, "\n".join(found)


def test_prose_is_plain() -> None:
    """In docstrings, comments, docs and the clients."""
    pattern = re.compile("|".join(PHRASES), re.IGNORECASE)
    found = []
    for path, line, text in prose():
        found += [f"{path.relative_to(ROOT)}:{line} {match[0]}" for match in pattern.finditer(text)]
    assert not found, "\n".join(found)


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    """A public function's begins with a verb; a property's and a class's may begin with a noun."""
    found = []
    for path in files("*.py"):
        in_tests = path.is_relative_to(ROOT / "tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first = (ast.get_docstring(node) or "").split(" ")[0].rstrip(":,.")
            noun = isinstance(node, ast.ClassDef) or any("property" in ast.unparse(one) for one in node.decorator_list)
            banned = OPENERS if noun or in_tests else OPENERS | ARTICLES
            if first in banned and not (in_tests and node.name.startswith("test_")):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {first}")
    assert not found, "\n".join(found)
