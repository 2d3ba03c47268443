"""Kinds of edits of imports, decorators, class members, comments and idioms. See `edit_kinds`."""

from __future__ import annotations

import ast
import random
import re
import sys

from training.edit_kinds import WORD, Draft, choose, is_function
from training.snippets import Snippet


def find_comment_lines(snippet: Snippet) -> list[int]:
    """Find the numbers of the lines that are only a comment in words."""
    lines = snippet.source.split("\n")
    return [i for i, line in enumerate(lines, 1) if re.fullmatch(r"\s+# [A-Z][\w ,.'()-]{8,70}", line)]


def remove_comments(snippet: Snippet, rng: random.Random) -> Draft | None:
    numbers = set(find_comment_lines(snippet))
    if not numbers or len(numbers) > 4:
        return None
    after = "\n".join(line for i, line in enumerate(snippet.source.split("\n"), 1) if i not in numbers)
    messages = (
        "Remove the comment|remove comment|delete the comment"
        if len(numbers) == 1
        else "Remove the comments|remove comments|no comments"
    )
    return Draft(snippet.source, after, choose(rng, messages))


UNUSED_IMPORTS = (
    "import os|import sys|import re|import json|import logging|import time|from pathlib import Path"
    "|import math|import random|import itertools|from typing import Any"
)


def find_imports(snippet: Snippet) -> list[tuple[int, str]]:
    """Find the line number and text of each one-line import."""
    found = [n for n in snippet.tree.body if isinstance(n, (ast.Import, ast.ImportFrom)) and n.lineno == n.end_lineno]
    return [(n.lineno, snippet.get_line(n.lineno)) for n in found]


def remove_unused_import(snippet: Snippet, rng: random.Random) -> Draft | None:
    found, new = find_imports(snippet), choose(rng, UNUSED_IMPORTS)
    name = new.split()[-1]
    if not found or name in set(WORD.findall(snippet.source)):
        return None
    at = rng.choice(found)[0]
    before = snippet.replace_lines(at, at - 1, [new])
    messages = (
        f"Remove the unused import|remove unused import|remove unused imports"
        f"|remove import of {name}|drop {name}|remove {new}"
    )
    return Draft(before, snippet.source, choose(rng, messages))


def add_import(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Add a missing import. If its position is not the sorted one, the message names the import before it."""
    found = find_imports(snippet)
    plain = [i for i, (_, line) in enumerate(found) if re.fullmatch(r"import \w+|from [\w.]+ import \w+", line)]
    if not plain or len(snippet.tree.body) < 2:
        return None
    at = rng.choice(plain)
    number, line = found[at]
    name, before = line.split()[-1], snippet.replace_lines(number, number, [])
    messages = f"{line}|add {line}|Add `{line}`|add the import {line}"
    messages += f"|Import {name}|add import for {name}|import {name}" if line.startswith("import ") else ""
    messages += f"|Import {name} from {line.split()[1]}|add {name} from {line.split()[1]}" if "from " in line else ""
    known = line.split()[1].split(".")[0] in sys.stdlib_module_names
    if known and name in set(WORD.findall(before)):
        messages += (
            f"|Add the missing import|add missing import|fix the missing import|NameError: name '{name}' is not defined"
        )
    above, below = (found[i][1] if 0 <= i < len(found) else None for i in (at - 1, at + 1))
    if (above is not None and above > line) or (below is not None and below < line):
        if above is None or snippet.source.count(above) != 1:
            return None
        messages = f"Add `{line}` after `{above}`|add {line} after {above}|{line}, after {above}"
    return Draft(before, snippet.source, choose(rng, messages))


def sort_imports(snippet: Snippet, rng: random.Random) -> Draft | None:
    found = [(i, line) for i, line in find_imports(snippet) if line.startswith("import ")]
    runs = [(i, line) for i, line in found if i - found[0][0] == found.index((i, line))]
    if not 3 <= len(runs) <= 8 or [line for _, line in runs] != sorted(line for _, line in runs):
        return None
    shuffled = [line for _, line in runs]
    rng.shuffle(shuffled)
    before = snippet.replace_lines(runs[0][0], runs[-1][0], shuffled)
    return Draft(before, snippet.source, choose(rng, "Sort the imports|sort imports|order the imports alphabetically"))


def change_decorator(snippet: Snippet, rng: random.Random) -> Draft | None:
    if not is_function(snippet) or len(snippet.function.decorator_list) != 1:
        return None
    node = snippet.function.decorator_list[0]
    text, without = (
        f"@{snippet.get_source(node)}",
        snippet.replace_lines(node.lineno, node.end_lineno or node.lineno, []),
    )
    if len(text) > 30 or "\n" in text:
        return None
    if rng.random() < 0.35:
        return Draft(
            snippet.source, without, choose(rng, f"Remove the decorator|remove {text}|remove the {text} decorator")
        )
    messages = f"Add {text}|add the {text} decorator|decorate with {text}|add decorator {text}"
    messages += {
        "@property": "|make it a property|Make this a property",
        "@staticmethod": "|make it static|make this a static method",
    }.get(text, "")
    return Draft(without, snippet.source, choose(rng, messages))


def make_async(snippet: Snippet, rng: random.Random) -> Draft | None:
    if not is_function(snippet) or "await" in snippet.source or "yield" in snippet.source:
        return None
    start = snippet.get_span(snippet.function)[0]
    if not snippet.source.startswith("def ", start):
        return None
    name = snippet.function.name
    return Draft(
        snippet.source,
        snippet.replace((start, start, "async ")),
        choose(rng, f"Make it async|make {name} async|make this function async|async def"),
    )


def add_member(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Add or remove a short method of a class."""
    methods = [n for n in getattr(snippet.node, "body", []) if isinstance(n, ast.FunctionDef) and not n.decorator_list]
    short = [n for n in methods if (n.end_lineno or 0) - n.lineno <= 7]
    if not isinstance(snippet.node, ast.ClassDef) or len(methods) < 2 or not short:
        return None
    node = rng.choice(short)
    first, last = node.lineno, node.end_lineno or 0
    if not snippet.get_line(first - 1).strip():
        first -= 1
    elif last < (snippet.node.end_lineno or 0) and not snippet.get_line(last + 1).strip():
        last += 1
    without = snippet.replace_lines(first, last, [])
    if rng.random() < 0.4:
        return Draft(
            snippet.source,
            without,
            choose(rng, f"Remove {node.name}|remove the method {node.name}|delete method {node.name}|drop {node.name}"),
        )
    signature = snippet.get_line(node.lineno).strip().removeprefix("def ").rstrip(":")
    body = node.body[0]
    if node is not methods[-1] or len(node.body) > 1 or body.lineno != body.end_lineno or body.lineno == node.lineno:
        return None
    if node.end_lineno != getattr(snippet.node, "end_lineno", 0):
        return None
    text = snippet.get_source(body)
    does = f"that returns {text[7:]}" if text.startswith("return ") else f"with the body `{text}`"
    messages = f"Add a method {signature} {does}|add method {signature} {does}|add {signature}: {text}"
    messages += (
        f"|implement {signature}: {text}|add a method {node.name} {does}" if signature.endswith("(self)") else ""
    )
    return Draft(
        without,
        snippet.source,
        rng.choice(messages.split("|")) if "|" not in signature + text else messages.split("|")[0],
    )


def find_init_attributes(snippet: Snippet) -> list[str]:
    """Find the attributes that `__init__` sets from parameters of the same name."""
    return re.findall(r"\n        self\.(\w+) = \1\n", snippet.source.replace("\n", "\n\n"))


def add_repr(snippet: Snippet, rng: random.Random) -> Draft | None:
    names = find_init_attributes(snippet) if isinstance(snippet.node, ast.ClassDef) else []
    if not 1 <= len(names) <= 4 or "__repr__" in snippet.source:
        return None
    fields = ", ".join(f"{n}={{self.{n}!r}}" for n in names)
    body = f'return f"{getattr(snippet.node, "name", "")}({fields})"'
    after = snippet.source + f"\n    def __repr__(self):\n        {body}\n"
    return Draft(snippet.source, after, choose(rng, "Add a __repr__ method|add __repr__|add repr|implement __repr__"))


def add_attribute(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Add a parameter of `__init__` that becomes an attribute."""
    names = find_init_attributes(snippet)
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


def modernize_super(snippet: Snippet, rng: random.Random) -> Draft | None:
    name = getattr(snippet.node, "name", "")
    if not isinstance(snippet.node, ast.ClassDef) or "super()." not in snippet.source:
        return None
    before = snippet.source.replace("super().", f"super({name}, self).")
    return Draft(
        before,
        snippet.source,
        choose(rng, "Use super() without arguments|use modern super()|simplify super()|super(...) -> super()"),
    )


def use_idiom(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Replace code that a linter would flag with the idiom."""
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
    """Change the quotes of all strings, in either direction."""
    one, other = ("'", '"') if rng.random() < 0.6 else ('"', "'")
    source = snippet.source
    if other in source.replace(other * 3, "") or one * 3 in source or "#" in source or "\\" in source:
        return None
    if other * 3 in source and one in "".join(source.split(other * 3)[1::2]):
        return None
    pattern = rf"(?<!\w){one}([^'\"\n]*){one}"
    if not 1 <= len(re.findall(pattern, source)) <= 8 or one in re.sub(pattern, "", source):
        return None
    after = re.sub(pattern, rf"{other}\1{other}", source)
    messages = {
        '"': "Use double quotes|use double quotes for strings|single -> double quotes|double quotes",
        "'": "Use single quotes|use single quotes for strings|double -> single quotes|single quotes",
    }
    return Draft(source, after, choose(rng, messages[other]))
