"""Kinds of edits of documentation, type hints, names and parameters of a definition. See `edit_kinds`."""

from __future__ import annotations

import ast
import random
import re

from training.edit_kinds import NEW_NAMES, WORD, Draft, choose, collect_names, find_docstring, is_function
from training.snippets import Snippet


def split_docstring(snippet: Snippet) -> tuple[str, str] | None:
    """Return the snippet without its docstring, and with only the first line of it."""
    statement = find_docstring(snippet)
    if statement is None or statement.end_lineno is None or not isinstance(statement.value, ast.Constant):
        return None
    summary = str(statement.value.value).strip().split("\n\n")[0].strip().split("\n")[0].strip()
    if (
        not 8 <= len(summary) <= 90
        or " " not in summary
        or '"' in summary
        or "\\" in summary
        or not summary[0].isalpha()
        or summary.endswith((",", ":"))
    ):
        return None
    summary = summary[0].upper() + summary[1:] + ("" if summary.endswith((".", "!", "?", "`")) else ".")
    last = statement.end_lineno
    if not snippet.get_line(last + 1).strip():
        last += 1
    indent = " " * statement.col_offset
    without = snippet.replace_lines(statement.lineno, last, [])
    return without, snippet.replace_lines(statement.lineno, last, [f'{indent}"""{summary}"""'])


def add_docstring(snippet: Snippet, rng: random.Random) -> Draft | None:
    pair = split_docstring(snippet)
    if pair is None or rng.random() > 0.1 + estimate_predictability(*pair):
        return None
    name = getattr(snippet.node, "name", "")
    common = "|".join(["Add a docstring"] * 6 + ["add docstring", "add a docstring", "Write a docstring", "docstring"])
    kind = "class" if isinstance(snippet.node, ast.ClassDef) else "function"
    other = (
        f"|Document this {kind}|document {name}|Add a docstring to {name}"
        f"|Add a docstring to `{name}`|Explain what {name} does"
    )
    return Draft(*pair, choose(rng, common + other))


def estimate_predictability(without: str, documented: str) -> float:
    """Return the share of the docstring's longer words whose first letters occur in the code."""
    text = documented.split('"""')[1].lower() if '"""' in documented else ""
    words, code = [w for w in re.findall(r"[a-z]+", text) if len(w) > 3], without.lower()
    return sum(word[:5] in code for word in words) / max(1, len(words))


def remove_docstring(snippet: Snippet, rng: random.Random) -> Draft | None:
    pair = split_docstring(snippet)
    message = choose(rng, "Remove the docstring|remove docstring|Delete the docstring|drop the docstring|no docstring")
    return pair and Draft(pair[1], pair[0], message)


SIMPLE_HINT = re.compile(
    r"(Optional\[)?(str|int|float|bool|bytes|object|None|Any|list|dict|set|tuple|Path|type)\b[\w\[\], .|]{0,22}"
)


def find_hint_removals(snippet: Snippet, rng: random.Random) -> list[tuple[int, int, str]] | None:
    """Find the replacements that remove all annotations of a signature; None if a hint is hard to guess."""
    node = snippet.function
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    hints = [a.annotation for a in arguments if a is not None and a.annotation is not None]
    hints += [node.returns] if node.returns is not None else []
    if not hints or (rng.random() < 0.85 and not all(SIMPLE_HINT.fullmatch(snippet.get_source(h)) for h in hints)):
        return None
    changes = []
    for argument in arguments:
        if argument is None or argument.annotation is None:
            continue
        start, end = snippet.get_span(argument)
        default = re.match(r" = ", snippet.source[end:])
        changes.append((start + len(argument.arg), end + (3 if default else 0), "=" if default else ""))
    if node.returns is not None:
        start, end = snippet.get_span(node.returns)
        changes.append((snippet.source.rindex("->", 0, start) - 1, end, ""))
    return changes


def add_type_hints(snippet: Snippet, rng: random.Random) -> Draft | None:
    changes = find_hint_removals(snippet, rng) if is_function(snippet) else None
    common = "|".join(["Add type hints"] * 5 + ["add type hints", "add types", "Add type annotations", "type hints"])
    common += "|annotate"
    other = f"|Annotate {snippet.function.name}|Add type hints to {snippet.function.name}" if changes else ""
    return Draft(snippet.replace(*changes), snippet.source, choose(rng, common + other)) if changes else None


def remove_type_hints(snippet: Snippet, rng: random.Random) -> Draft | None:
    changes = find_hint_removals(snippet, rng) if is_function(snippet) else None
    message = choose(
        rng, "Remove type hints|remove the type hints|Remove type annotations|strip annotations|no type hints"
    )
    return Draft(snippet.source, snippet.replace(*changes), message) if changes else None


def rename_word(source: str, old: str, new: str) -> str | None:
    """Rename every word `old`; None if it also is an attribute or a keyword or is next to a quote."""
    if re.search(rf"\.{old}\b|\b{old}=[^=]|[\"'{{]{old}\b|\b{old}[\"']", source):
        return None
    return re.sub(rf"\b{old}\b", new, source)


def rename_local(snippet: Snippet, rng: random.Random, names: list[str], noun: str) -> Draft | None:
    words = set(WORD.findall(snippet.source))
    if not names:
        return None
    old, new = rng.choice(names), rng.choice(NEW_NAMES)
    if rng.random() < 0.3:
        new = (
            f"{old}_{rng.choice(NEW_NAMES)}"
            if rng.random() < 0.5
            else f"{rng.choice(['new', 'old', 'raw', 'my', 'all'])}_{old}"
        )
    after = (
        rename_word(snippet.source, old, new) if new not in words and len(old) > 1 and not old.startswith("_") else None
    )
    messages = f"Rename {old} to {new}|rename {old} to {new}|rename `{old}` to `{new}`|Rename the {noun} {old} to {new}"
    messages += f"|call {old} {new} instead|{old} -> {new}|rename {noun} {old} to {new}|change {old} to {new}"
    return Draft(snippet.source, after, choose(rng, messages)) if after else None


def rename_variable(snippet: Snippet, rng: random.Random) -> Draft | None:
    return rename_local(snippet, rng, collect_names(snippet)[1], "variable") if is_function(snippet) else None


def rename_parameter(snippet: Snippet, rng: random.Random) -> Draft | None:
    return rename_local(snippet, rng, collect_names(snippet)[0], "parameter") if is_function(snippet) else None


# fmt: off
VERBS = (
    "get", "set", "load", "save", "read", "write", "parse", "build", "make", "create", "update", "check",
    "find", "compute", "fetch", "handle", "process", "run",
)
# fmt: on


def rename_definition(snippet: Snippet, rng: random.Random) -> Draft | None:
    old = getattr(snippet.node, "name", "")
    if not old or old.startswith("__") or f'"{old}"' in snippet.source:
        return None
    is_class = isinstance(snippet.node, ast.ClassDef)
    verb = rng.choice(VERBS)
    new = rng.choice(["My", "Base", "Simple", "Default"]) + old if is_class else f"{verb}_{old.split('_', 1)[-1]}"
    after = re.sub(rf"\b{old}\b", new, snippet.source)
    noun = "class" if is_class else "function"
    messages = (
        f"Rename {old} to {new}|rename {old} to {new}|rename the {noun} to {new}"
        f"|Rename this {noun} to {new}|call it {new}"
    )
    return Draft(snippet.source, after, choose(rng, messages)) if new not in snippet.source else None


DEFAULTS = ("None", "None", "False", "True", "0", "1", '""', "10", "()")


def find_parameter_list_end(snippet: Snippet) -> int | None:
    """Return the offset behind the last parameter of a one-line signature without stars and keyword-only ones."""
    arguments = snippet.function.args
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or not arguments.args:
        return None
    last = arguments.args[-1]
    end = snippet.get_span(arguments.defaults[-1] if arguments.defaults else last)[1]
    return end if last.lineno == snippet.function.lineno and snippet.source[end] == ")" else None


def add_parameter(snippet: Snippet, rng: random.Random) -> Draft | None:
    end = find_parameter_list_end(snippet) if is_function(snippet) else None
    name, default = (
        rng.choice([*NEW_NAMES, *["verbose", "timeout", "strict", "limit", "encoding", "default"] * 3]),
        rng.choice(DEFAULTS),
    )
    if end is None or name in set(WORD.findall(snippet.source)):
        return None
    required = not snippet.function.args.defaults and rng.random() < 0.4
    after = snippet.replace((end, end, f", {name}" if required else f", {name}={default}"))
    messages = (
        f"Add a parameter {name}|add parameter {name}|add argument {name}|add a {name} parameter"
        f"|Add an argument `{name}`"
    )
    messages = (
        messages
        if required
        else "|".join(f"{form} with default {default}|{form}={default}" for form in messages.split("|"))
    )
    return Draft(snippet.source, after, choose(rng, messages))


def remove_parameter(snippet: Snippet, rng: random.Random) -> Draft | None:
    draft = add_parameter(snippet, rng)
    found = re.search(r"(?:parameter|argument) `?(\w+)|a (\w+) parameter", draft.message) if draft else None
    if draft is None or found is None:
        return None
    name = found.group(1) or found.group(2)
    messages = (
        f"Remove the parameter {name}|remove parameter {name}|drop {name}"
        f"|remove the unused parameter|remove argument {name}"
    )
    return Draft(draft.after, draft.before, choose(rng, messages))
