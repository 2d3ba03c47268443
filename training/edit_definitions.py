"""Kinds of synthetic edits: imports, decorators, members of classes, comments and idioms. See `edit_kinds`."""

from __future__ import annotations

import ast
import random
import re

from training.edit_kinds import WORD, Draft, choose, docstring_of, is_function
from training.snippets import Snippet


def comment_lines(snippet: Snippet) -> list[int]:
    """Numbers of the lines that hold nothing but a comment of words."""
    lines = snippet.source.split("\n")
    return [i for i, line in enumerate(lines, 1) if re.fullmatch(r"\s+# [A-Z][\w ,.'()-]{8,70}", line)]


def add_comment(snippet: Snippet, rng: random.Random) -> Draft | None:
    if len(numbers := comment_lines(snippet)) != 1 or docstring_of(snippet):
        return None
    before = snippet.lines_replaced(numbers[0], numbers[0], [])
    return Draft(
        before, snippet.source, choose(rng, "Add a comment|add a comment|explain this with a comment|comment this")
    )


def remove_comments(snippet: Snippet, rng: random.Random) -> Draft | None:
    numbers = set(comment_lines(snippet))
    if not numbers or len(numbers) > 4:
        return None
    after = "\n".join(line for i, line in enumerate(snippet.source.split("\n"), 1) if i not in numbers)
    forms = (
        "Remove the comment|remove comment|delete the comment"
        if len(numbers) == 1
        else "Remove the comments|remove comments|no comments"
    )
    return Draft(snippet.source, after, choose(rng, forms))


UNUSED = (
    "import os|import sys|import re|import json|import logging|import time|from pathlib import Path"
    "|import math|import random|import itertools|from typing import Any"
)


def imports_of(snippet: Snippet) -> list[tuple[int, str]]:
    """Number and text of each one-line import at the top of a module's head."""
    found = [n for n in snippet.tree.body if isinstance(n, (ast.Import, ast.ImportFrom)) and n.lineno == n.end_lineno]
    return [(n.lineno, snippet.line(n.lineno)) for n in found]


def remove_unused_import(snippet: Snippet, rng: random.Random) -> Draft | None:
    found, new = imports_of(snippet), choose(rng, UNUSED)
    name = new.split()[-1]
    if not found or name in set(WORD.findall(snippet.source)):
        return None
    at = rng.choice(found)[0]
    before = snippet.lines_replaced(at, at - 1, [new])
    forms = (
        f"Remove the unused import|remove unused import|remove unused imports"
        f"|remove import of {name}|drop {name}|remove {new}"
    )
    return Draft(before, snippet.source, choose(rng, forms))


def add_import(snippet: Snippet, rng: random.Random) -> Draft | None:
    found = [(i, line) for i, line in imports_of(snippet) if re.fullmatch(r"import \w+|from [\w.]+ import \w+", line)]
    if not found or len(snippet.tree.body) < 2:
        return None
    number, line = rng.choice(found)
    name, before = line.split()[-1], snippet.lines_replaced(number, number, [])
    forms = f"{line}|add {line}|Import {name}|add import for {name}|Add `{line}`"
    if name in set(WORD.findall(before)):
        forms += "|Add the missing import|add missing import|fix the missing import"
    return Draft(before, snippet.source, choose(rng, forms))


def sort_imports(snippet: Snippet, rng: random.Random) -> Draft | None:
    found = [(i, line) for i, line in imports_of(snippet) if line.startswith("import ")]
    runs = [(i, line) for i, line in found if i - found[0][0] == found.index((i, line))]
    if not 3 <= len(runs) <= 8 or [line for _, line in runs] != sorted(line for _, line in runs):
        return None
    shuffled = [line for _, line in runs]
    rng.shuffle(shuffled)
    before = snippet.lines_replaced(runs[0][0], runs[-1][0], shuffled)
    return Draft(before, snippet.source, choose(rng, "Sort the imports|sort imports|order the imports alphabetically"))


def change_decorator(snippet: Snippet, rng: random.Random) -> Draft | None:
    if not is_function(snippet) or len(snippet.function.decorator_list) != 1:
        return None
    node = snippet.function.decorator_list[0]
    text, without = f"@{snippet.text(node)}", snippet.lines_replaced(node.lineno, node.end_lineno or node.lineno, [])
    if len(text) > 30 or "\n" in text:
        return None
    if rng.random() < 0.35:
        return Draft(
            snippet.source, without, choose(rng, f"Remove the decorator|remove {text}|remove the {text} decorator")
        )
    forms = f"Add {text}|add the {text} decorator|decorate with {text}|add decorator {text}"
    forms += {
        "@property": "|make it a property|Make this a property",
        "@staticmethod": "|make it static|make this a static method",
    }.get(text, "")
    return Draft(without, snippet.source, choose(rng, forms))


def make_async(snippet: Snippet, rng: random.Random) -> Draft | None:
    if not is_function(snippet) or "await" in snippet.source or "yield" in snippet.source:
        return None
    start = snippet.span(snippet.function)[0]
    if not snippet.source.startswith("def ", start):
        return None
    name = snippet.function.name
    return Draft(
        snippet.source,
        snippet.replaced((start, start, "async ")),
        choose(rng, f"Make it async|make {name} async|make this function async|async def"),
    )


def add_member(snippet: Snippet, rng: random.Random) -> Draft | None:
    """A class without one of its short methods, and with it; or the other way round."""
    methods = [n for n in getattr(snippet.node, "body", []) if isinstance(n, ast.FunctionDef) and not n.decorator_list]
    short = [n for n in methods if (n.end_lineno or 0) - n.lineno <= 7]
    if not isinstance(snippet.node, ast.ClassDef) or len(methods) < 2 or not short:
        return None
    node = rng.choice(short)
    first, last = node.lineno, node.end_lineno or 0
    if not snippet.line(first - 1).strip():
        first -= 1
    without = snippet.lines_replaced(first, last, [])
    if rng.random() < 0.3:
        return Draft(
            snippet.source,
            without,
            choose(rng, f"Remove {node.name}|remove the method {node.name}|delete method {node.name}|drop {node.name}"),
        )
    document, signature = ast.get_docstring(node), snippet.line(node.lineno).strip().removeprefix("def ").rstrip(":")
    forms = (
        f"Add a method {node.name}|add method {node.name}|add {node.name}|implement {signature}"
        f"|add a method {signature}"
    )
    if document and len(document) < 80 and "\n" not in document:
        purpose = document[0].lower() + document[1:].rstrip(".")
        forms = (
            f"Add a method {node.name}: {purpose}|add {node.name}, {purpose}|add a method to {purpose}"
            if rng.random() < 0.8
            else forms
        )
    return Draft(without, snippet.source, choose(rng, forms))


def attributes(snippet: Snippet) -> list[str]:
    """The attributes that `__init__` sets from parameters of the same name."""
    return re.findall(r"\n        self\.(\w+) = \1\n", snippet.source.replace("\n", "\n\n"))


def add_repr(snippet: Snippet, rng: random.Random) -> Draft | None:
    names = attributes(snippet) if isinstance(snippet.node, ast.ClassDef) else []
    if not 1 <= len(names) <= 4 or "__repr__" in snippet.source:
        return None
    fields = ", ".join(f"{n}={{self.{n}!r}}" for n in names)
    body = f'return f"{getattr(snippet.node, "name", "")}({fields})"'
    after = snippet.source + f"\n    def __repr__(self):\n        {body}\n"
    return Draft(snippet.source, after, choose(rng, "Add a __repr__ method|add __repr__|add repr|implement __repr__"))


def add_attribute(snippet: Snippet, rng: random.Random) -> Draft | None:
    """One parameter of `__init__` that is kept as an attribute."""
    names = attributes(snippet)
    if not names or not re.search(rf", {names[-1]}\):", snippet.source):
        return None
    name, new = (
        names[-1],
        rng.choice(
            ["name", "size", "value", "color", "index", "label", "owner", "limit", "timeout", "state", "parent"]
        ),
    )
    if new in set(WORD.findall(snippet.source)):
        return None
    after = snippet.source.replace(f", {name}):", f", {name}, {new}):", 1)
    after = re.sub(rf"( +)self\.{name} = {name}\n", rf"\g<0>\1self.{new} = {new}\n", after, count=1)
    return Draft(
        snippet.source,
        after,
        choose(rng, f"Add an attribute {new}|add attribute {new}|add {new} to __init__|store {new} too"),
    )


def modern_super(snippet: Snippet, rng: random.Random) -> Draft | None:
    name = getattr(snippet.node, "name", "")
    if not isinstance(snippet.node, ast.ClassDef) or "super()." not in snippet.source:
        return None
    before = snippet.source.replace("super().", f"super({name}, self).")
    return Draft(
        before,
        snippet.source,
        choose(rng, "Use super() without arguments|use modern super()|simplify super()|super(...) -> super()"),
    )


def idiom(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Comparisons a linter would flag, and the idiom."""
    rules = (
        (r"\bif not (\w+):", r"if len(\1) == 0:", "Simplify the condition|simplify the empty check|use truthiness"),
        (r"\bif (\w+):", r"if \1 == True:", "Simplify the condition|remove == True|compare to True the right way"),
        (r"\b(\w+) is None", r"\1 == None", "Use is None|use `is None`|compare to None with is"),
        (r"\b(\w+) is not None", r"\1 != None", "Use is not None|use `is not None`|compare to None with is not"),
        (r"\b(\w+) not in (\w+)", r"not \1 in \2", "Use not in|use `not in`"),
        (r"\bisinstance\((\w+), (\w+)\)", r"type(\1) == \2", "Use isinstance|use isinstance instead of type"),
        (r"\b(\w+) \+= (\w+)\n", r"\1 = \1 + \2\n", "Use +=|use augmented assignment|simplify the assignment"),
        (r"\breturn (\w+)\[-1\]", r"return \1[len(\1) - 1]", "Simplify the index|use a negative index|use [-1]"),
    )
    pattern, old, messages = rng.choice(rules)
    before = re.sub(pattern, old, snippet.source, count=1)
    return Draft(before, snippet.source, choose(rng, messages)) if before != snippet.source else None


def swap_quotes(snippet: Snippet, rng: random.Random) -> Draft | None:
    single = re.findall(r"(?<!['\w])'[^'\"\\\n]*'(?!')", snippet.source)
    if (
        not 1 <= len(single) <= 4
        or '"' in snippet.source.replace('"""', "")
        or "#" in snippet.source
        or "n't" in snippet.source
    ):
        return None
    after = re.sub(r"(?<!['\w])'([^'\"\\\n]*)'(?!')", r'"\1"', snippet.source)
    return Draft(
        snippet.source, after, choose(rng, "Use double quotes|use double quotes for strings|single -> double quotes")
    )
