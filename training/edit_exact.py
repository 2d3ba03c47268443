"""Kinds of edits whose message contains all that the result needs: names, values, whole lines.

Same interface as `edit_kinds`. A reader of the text and the message can write exactly the expected result. Code that a
message quotes is unique in the snippet.
"""

from __future__ import annotations

import ast
import random
import re

from training.edit_kinds import NEW_NAMES, WORD, Draft, collect_names, find_simple_statements, is_function, negate
from training.edit_signatures import find_hint_removals, split_docstring
from training.snippets import Snippet

Node = ast.expr | ast.stmt | ast.arg


def find_unique(snippet: Snippet, nodes: list[Node], max_chars: int = 60) -> list[tuple[Node, str]]:
    """Find the nodes of one line whose source is unique in the snippet, with their source."""
    short = [(n, snippet.get_source(n)) for n in nodes if getattr(n, "lineno", 0) == getattr(n, "end_lineno", 1)]
    return [(n, t) for n, t in short if 3 < len(t) <= max_chars and snippet.source.count(t) == 1]


def add_docstring_text(snippet: Snippet, rng: random.Random) -> Draft | None:
    pair = split_docstring(snippet)
    if pair is None:
        return None
    found = re.search(r'"""(.*?)"""', pair[1])
    text = found.group(1) if found else ""
    name = getattr(snippet.node, "name", "")
    messages = [
        f'Add the docstring "{text}"',
        f"Add a docstring: {text}",
        f"docstring: {text}",
        f'Document it: "{text}"',
    ]
    messages += [f'Add a docstring to {name} that says "{text}"', f"add docstring: {text}"]
    return Draft(*pair, rng.choice(messages)) if text else None


def annotate(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Add the type hints that the message lists."""
    changes = find_hint_removals(snippet, rng) if is_function(snippet) else None
    node = snippet.function if is_function(snippet) else None
    if not changes or node is None:
        return None
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    hinted = [f"{a.arg}: {ast.unparse(a.annotation)}" for a in every if a is not None and a.annotation is not None]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    listed = f"{', '.join(hinted)}{returns}".strip()
    if len(listed) > 100 or len(hinted) > 4:
        return None
    messages = [f"Annotate {listed}", f"Add the type hints {listed}", f"add type hints: {listed}", f"types: {listed}"]
    if not hinted:
        hint = returns.removeprefix(" -> ")
        messages = [f"Add the return type {hint}", f"annotate the return type as {hint}", f"it returns {hint}"]
    return Draft(snippet.replace(*changes), snippet.source, rng.choice(messages))


def add_comment(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Add a comment; the message has its words and its position."""
    lines = snippet.source.split("\n")
    found = [i for i, line in enumerate(lines) if re.fullmatch(r"\s+# [A-Z][\w ,.'()-]{8,60}", line)]
    found = [i for i in found if not lines[i - 1].lstrip().startswith("#")]
    found = [i for i in found if len(b := lines[i + 1].strip()) > 3 and b[0] != "#" and snippet.source.count(b) == 1]
    if not found:
        return None
    at = rng.choice(found)
    text, below = lines[at].strip()[2:], lines[at + 1].strip()
    if len(below) > 60:
        return None
    messages = [
        f'Add the comment "{text}" above `{below}`',
        f'comment `{below}` with "{text}"',
        f"above `{below}`: # {text}",
    ]
    if sum(line.lstrip().startswith("#") for line in lines) == 1 and rng.random() < 0.4:
        return Draft(snippet.source, snippet.replace_lines(at + 1, at + 1, []), "Remove the comment")
    return Draft(snippet.replace_lines(at + 1, at + 1, []), snippet.source, rng.choice(messages))


def change_condition(snippet: Snippet, rng: random.Random) -> Draft | None:
    tests: list[Node] = [n.test for n in ast.walk(snippet.node) if isinstance(n, (ast.If, ast.While))]
    if not is_function(snippet) or not (found := find_unique(snippet, tests)):
        return None
    node, old = rng.choice(found)
    words = [*collect_names(snippet)[0], *collect_names(snippet)[1]]
    operators = list(re.finditer(r" (==|!=|<=|>=|<|>|and|or) ", old))
    choice, new = rng.random(), None
    if operators and choice < 0.4:
        match = rng.choice(operators)
        pool = ["and", "or"] if match[1] in ("and", "or") else ["==", "!=", "<", "<=", ">", ">="]
        new = f"{old[: match.start(1)]}{rng.choice([o for o in pool if o != match[1]])}{old[match.end(1) :]}"
    elif choice < 0.7 and words and " or " not in old and " if " not in old:
        new = f"{old} and {rng.choice(['', 'not '])}{rng.choice(words)}"
    else:
        new = negate(old)
    if new is None:
        return None
    messages = [f"Change the condition `{old}` to `{new}`", f"Change {old} to {new}", f"{old} -> {new}"]
    messages += [f"check {new} instead of {old}", f"the condition should be {new} instead of {old}"]
    if len(tests) == 1:
        messages += [f"Change the condition to {new}", f"the condition should be `{new}`", f"condition: {new}"] * 2
    return Draft(snippet.source, snippet.replace((*snippet.get_span(node), new)), rng.choice(messages))


def change_call(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Replace every call of a function or method with a call of another one."""
    calls = [n.func for n in ast.walk(snippet.node) if isinstance(n, ast.Call)]
    names = {
        f.attr if isinstance(f, ast.Attribute) else f.id for f in calls if isinstance(f, (ast.Attribute, ast.Name))
    }
    defined = set(re.findall(r"\b(?:def|class) (\w+)", snippet.source)) | {"super"}
    names = {n for n in names if len(n) > 2 and not n.startswith("__") and n[:2].islower() and n not in defined}
    if not is_function(snippet) or not names:
        return None
    old = rng.choice(sorted(names))
    verb, rest = rng.choice(NEW_VERBS), old.split("_", 1)[-1] if "_" in old else rng.choice(NEW_NAMES)
    new = rng.choice([f"{verb}_{rest}", f"{old}_{rng.choice(NEW_NAMES)}", verb])
    if new in set(WORD.findall(snippet.source)) or re.search(rf"\b{old}\b(?!\()", snippet.source):
        return None
    messages = [f"Call {new} instead of {old}", f"use {new} instead of {old}", f"replace {old} with {new}"]
    messages += [f"Use `{new}` instead of `{old}`", f"{old}() -> {new}()", f"Rename {old} to {new}"]
    return Draft(snippet.source, re.sub(rf"\b{old}\b(?=\()", new, snippet.source), rng.choice(messages))


NEW_VERBS = ("get", "load", "read", "write", "build", "make", "create", "update", "check", "find", "fetch", "process")


def change_default(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Change the default of a parameter, or add one."""
    if not is_function(snippet):
        return None
    arguments = snippet.function.args
    paired = list(zip(arguments.args[::-1], arguments.defaults[::-1], strict=False))
    new = rng.choice(["None", "True", "False", "0", "1", "10", "100", '""', "()", "-1", "5"])
    if paired and rng.random() < 0.6:
        argument, default = rng.choice(paired)
        old = snippet.get_source(default)
        if old == new or len(old) > 30 or "\n" in old:
            return None
        changed = snippet.replace((*snippet.get_span(default), new))
        messages = [f"Change the default of {argument.arg} to {new}", f"default {argument.arg} to {new}"]
        messages += [f"make {argument.arg} {new} by default", f"{argument.arg}={new}", f"Set {argument.arg}={new}"]
        return Draft(snippet.source, changed, rng.choice(messages))
    plain = arguments.args[: len(arguments.args) - len(arguments.defaults)]
    if not plain or plain[-1].arg in ("self", "cls") or arguments.posonlyargs:
        return None
    end, separator = snippet.get_span(plain[-1])[1], " = " if plain[-1].annotation else "="
    name = plain[-1].arg
    messages = [
        f"Give {name} the default {new}",
        f"make {name} optional with default {new}",
        f"default {name} to {new}",
    ]
    return Draft(snippet.source, snippet.replace((end, end, f"{separator}{new}")), rng.choice(messages))


def remove_statement(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Remove a line, or add it after the line that the message names."""
    lines = snippet.source.split("\n")
    simple: list[Node] = (
        [n for n in find_simple_statements(snippet) if not isinstance(n, ast.Return)] if is_function(snippet) else []
    )
    found = [(n, t) for n, t in find_unique(snippet, simple) if t[:3] not in ('"""', "'''")]
    if not found:
        return None
    node, text = rng.choice(found)
    without, above = snippet.replace_lines(node.lineno, node.lineno, []), lines[node.lineno - 2].strip()
    if not is_valid(without):
        return None
    if rng.random() < 0.5 or snippet.source.count(above) != 1 or not 3 < len(above) <= 60:
        messages = [
            f"Remove `{text}`",
            f"Remove the line `{text}`",
            f"delete {text}",
            f"drop the line {text}",
            f"remove {text}",
        ]
        return Draft(snippet.source, without, rng.choice(messages))
    messages = [f"Add `{text}` after `{above}`", f"insert {text} after {above}", f"after `{above}`, add `{text}`"]
    return Draft(without, snippet.source, rng.choice(messages))


def is_valid(source: str) -> bool:
    """Return True if the source is still valid Python."""
    try:
        return bool(ast.parse(source).body)
    except SyntaxError:
        return False


def change_return(snippet: Snippet, rng: random.Random) -> Draft | None:
    if not is_function(snippet):
        return None
    returns = [n for n in ast.walk(snippet.node) if isinstance(n, ast.Return) and n.value is not None]
    found = find_unique(snippet, list(returns))
    if not found:
        return None
    node, text = rng.choice(found)
    old = text.removeprefix("return ")
    words = [n for n in [*collect_names(snippet)[0], *collect_names(snippet)[1]] if n != old]
    new = rng.choice(
        [*words, "None", "True", "False", "[]", f"list({old})", f"str({old})", f"({old}, None)", f"bool({old})"]
    )
    if new == old or (", " in old and new.endswith(")")):
        return None
    messages = [f"Return {new} instead of {old}", f"return {new} instead of {old}", f"`return {old}` -> `return {new}`"]
    messages += [f"Return {new}", f"return `{new}`", f"it should return {new}"] * (2 if len(returns) == 1 else 0)
    return Draft(snippet.source, snippet.replace((*snippet.get_span(node), f"return {new}")), rng.choice(messages))


# fmt: off
EXCEPTIONS = (
    "ValueError", "TypeError", "KeyError", "RuntimeError", "OSError", "NotImplementedError", "AttributeError",
    "IndexError",
)
# fmt: on


def change_exception(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Change the exception that is raised or caught."""
    found = list(re.finditer(r"\b(except|raise) (\w+(?:Error|Exception))\b", snippet.source))
    if not found or not is_function(snippet):
        return None
    match = rng.choice(found)
    keyword, old, new = match[1], match[2], rng.choice(EXCEPTIONS)
    if old == new or snippet.source.count(f"{keyword} {old}") != 1:
        return None
    verb = "Raise" if keyword == "raise" else "Catch"
    messages = [
        f"{verb} {new} instead of {old}",
        f"{verb.lower()} {new} instead of {old}",
        f"{verb.lower()} a {new}, not {old}",
    ]
    messages += (
        [f"{verb} {new}", f"{keyword} {old} -> {keyword} {new}"]
        if len(found) == 1
        else [f"{keyword} {old} -> {keyword} {new}"]
    )
    return Draft(
        snippet.source, snippet.source[: match.start(2)] + new + snippet.source[match.end(2) :], rng.choice(messages)
    )


def remove_prints(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Remove prints that are in the corpus."""
    found = (
        [n for n in find_simple_statements(snippet) if re.match(r"print\(", snippet.get_source(n))]
        if is_function(snippet)
        else []
    )
    if not 1 <= len(found) <= 4:
        return None
    gone = {n.lineno for n in found}
    after = "\n".join(line for i, line in enumerate(snippet.source.split("\n"), 1) if i not in gone)
    one = ["Remove the print", "remove the print statement", "delete the print", "drop the print"]
    many = ["Remove the prints", "remove all prints", "remove print statements", "delete the print statements"]
    left = snippet.source.count("print(") > len(found)
    return (
        Draft(snippet.source, after, rng.choice(one if len(found) == 1 else many))
        if is_valid(after) and not left
        else None
    )


def accept_variadic(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Add `**kwargs` or `*args` to the end of a one-line signature."""
    node = snippet.function if is_function(snippet) else None
    if node is None or node.args.vararg or node.args.kwarg or node.args.kwonlyargs or not node.args.args:
        return None
    last = node.args.args[-1]
    end = snippet.get_span(node.args.defaults[-1] if node.args.defaults else last)[1]
    if last.lineno != node.lineno or snippet.source[end] != ")":
        return None
    new = rng.choice(["**kwargs", "**kwargs", "*args", "*args, **kwargs", "**options"])
    messages = [f"Accept {new}", f"accept {new}", f"Add {new}", f"add {new} to the parameters", f"take {new} too"]
    return Draft(snippet.source, snippet.replace((end, end, f", {new}")), rng.choice(messages))


def add_assert(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Add an assertion as the first statement."""
    if not is_function(snippet) or not (parameters := collect_names(snippet)[0]):
        return None
    first, indent = snippet.function.body[0], " " * snippet.function.body[0].col_offset
    if first.lineno <= snippet.function.lineno or isinstance(first, ast.Expr):
        return None
    name = rng.choice(parameters)
    test, words = rng.choice(
        [("is not None", "is not None"), ("> 0", "is positive"), (">= 0", "is not negative"), ("", "holds")]
    )
    line = f"{indent}assert {name} {test}".rstrip()
    messages = [
        f"Assert that {name} {words}",
        f"assert {name} {words} at the start",
        f"Add `{line.strip()}` at the start",
    ]
    messages = [messages[2], f"assert {name} at the start", f"Assert {name} first"] if not test else messages
    return Draft(snippet.source, snippet.replace_lines(first.lineno, first.lineno - 1, [line]), rng.choice(messages))


def change_attribute(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Rename an attribute of `self` everywhere."""
    names = sorted(set(re.findall(r"\bself\.([a-z_]\w{2,})\b(?!\()", snippet.source)))
    new = rng.choice(NEW_NAMES)
    if not names or new in set(WORD.findall(snippet.source)):
        return None
    old = rng.choice(names)
    new = (
        rng.choice([new, f"_{old}", f"{old}_{new}"]) if not old.startswith("_") else rng.choice([new, old.lstrip("_")])
    )
    if re.search(rf"\bself\.{new}\b", snippet.source):
        return None
    messages = [f"Rename self.{old} to self.{new}", f"rename the attribute {old} to {new}", f"self.{old} -> self.{new}"]
    messages += [f"call the attribute {new} instead of {old}", f"Rename the attribute {old} to {new}"]
    return Draft(snippet.source, re.sub(rf"\bself\.{old}\b", f"self.{new}", snippet.source), rng.choice(messages))
