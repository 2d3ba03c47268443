"""Define kinds of synthetic edits, and helpers that several kinds share.

A kind is a function `(snippet, rng) -> Draft | None`; None means that the snippet is not suitable. Most kinds work
backwards: the text from the corpus is the result of the edit, and the text before it is derived. A kind chooses one of
several phrasings of its message; `edits` varies how it is typed. The kinds are in `edit_signatures` (documentation,
types, names, parameters), `edit_statements`, `edit_definitions` (modules and classes), `edit_exact` and `edit_bugs`.
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
    """A snippet before and after an edit, and the message."""

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
    """Choose one of the messages, which are separated by bars."""
    return rng.choice(messages.split("|"))


def is_function(snippet: Snippet) -> bool:
    """Return True if the snippet is a function or method."""
    return isinstance(snippet.node, (ast.FunctionDef, ast.AsyncFunctionDef))


def find_docstring(snippet: Snippet) -> ast.Expr | None:
    """Find the docstring statement of a function or class."""
    node = snippet.node
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return None
    first = node.body[0]
    documented = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return first if documented and len(node.body) > 1 and first.lineno > node.lineno else None  # type: ignore[return-value]


def collect_names(snippet: Snippet) -> tuple[list[str], list[str], set[str]]:
    """Collect the parameters (without self), the assigned local names, and all words of the source."""
    node = snippet.function
    parameters = [a.arg for a in [*node.args.args, *node.args.kwonlyargs] if a.arg not in ("self", "cls")]
    stored = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    declared = {name for n in ast.walk(node) if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names}
    locals_ = sorted(set(stored) - set(parameters) - declared)
    return parameters, locals_, set(WORD.findall(snippet.source))


def find_simple_statements(snippet: Snippet) -> list[ast.stmt]:
    """Find the simple statements of a function that are one line each."""
    simple = (ast.Assign, ast.Expr, ast.Return, ast.AugAssign, ast.Raise, ast.Assert)
    body = [
        n for n in ast.walk(snippet.node) if isinstance(n, simple) and n.lineno == n.end_lineno and n.col_offset >= 4
    ]
    return [n for n in body if snippet.get_line(n.lineno).strip() == snippet.get_source(n)]


def negate(test: str) -> str | None:
    """Negate a simple condition, in the form a person would write; None if it is not simple."""
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
