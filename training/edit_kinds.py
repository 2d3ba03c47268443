"""What a kind of synthetic edit is, and what several kinds share.

A kind is a function `(snippet, rng) -> Draft | None`; None says that the snippet does not lend itself. Most kinds work
backwards: what stands in the corpus is the *after*, and the *before* is derived from it. Messages are chosen by the
kind, one of several phrasings; how they are typed is varied in `edits`. The kinds: `edit_signatures` (documentation,
types, names, parameters), `edit_statements`, `edit_definitions` (modules and classes), `edit_bugs`.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from training.snippets import Snippet


@dataclass(frozen=True)
class Draft:
    """Two versions of a snippet and what was asked for."""

    before: str
    after: str
    message: str


Kind = Callable[[Snippet, random.Random], Draft | None]


WORD = re.compile(r"[A-Za-z_]\w*")


# fmt: off
NEW_NAMES = (
    "result", "value", "item", "entry", "total", "count", "index", "node", "key", "name", "path", "data",
    "text", "line", "words", "length", "size", "start", "end", "first", "last", "current", "previous", "buffer",
    "output", "lines", "numbers", "values", "items", "items_by_name", "user", "config", "options", "params",
    "response", "request", "message", "error", "source", "target", "left", "right", "row", "column", "width",
    "height", "message_text", "max_value", "min_value", "is_valid", "found", "ok",
)
# fmt: on


def choose(rng: random.Random, messages: str) -> str:
    """One of the phrasings, which are separated by bars."""
    return rng.choice(messages.split("|"))


def is_function(snippet: Snippet) -> bool:
    """Whether the snippet is a function or method."""
    return isinstance(snippet.node, (ast.FunctionDef, ast.AsyncFunctionDef))


def find_docstring(snippet: Snippet) -> ast.Expr | None:
    """The docstring statement of a function or class."""
    node = snippet.node
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return None
    first = node.body[0]
    documented = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return first if documented and len(node.body) > 1 and first.lineno > node.lineno else None  # type: ignore[return-value]


def collect_names(snippet: Snippet) -> tuple[list[str], list[str], set[str]]:
    """Parameters (without self), local variables assigned by name, and every word of the source."""
    node = snippet.function
    parameters = [a.arg for a in [*node.args.args, *node.args.kwonlyargs] if a.arg not in ("self", "cls")]
    stored = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    declared = {name for n in ast.walk(node) if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names}
    locals_ = sorted(set(stored) - set(parameters) - declared)
    return parameters, locals_, set(WORD.findall(snippet.source))


def find_simple_statements(snippet: Snippet) -> list[ast.stmt]:
    """Simple statements of one line that stand alone on their line, inside a function."""
    simple = (ast.Assign, ast.Expr, ast.Return, ast.AugAssign, ast.Raise, ast.Assert)
    body = [
        n for n in ast.walk(snippet.node) if isinstance(n, simple) and n.lineno == n.end_lineno and n.col_offset >= 4
    ]
    return [n for n in body if snippet.get_line(n.lineno).strip() == snippet.get_source(n)]


def negate(test: str) -> str | None:
    """The opposite of a simple condition, in the form a person writes it."""
    pairs = ((" is not ", " is "), (" not in ", " in "), (" == ", " != "), (" <= ", " > "), (" >= ", " < "))
    if re.search(r" (and|or|if) |\blambda\b|\n", test):
        return None
    for one, other in pairs:
        for old, new in ((one, other), (other, one)):
            if test.count(old) == 1 and not test.startswith("not "):
                return test.replace(old, new)
    if re.search(r"[<>=!]", test):
        return None
    return test[4:] if test.startswith("not ") else f"not {test}"
