"""Kinds of edits of the statements in a function. See `edit_kinds`."""

from __future__ import annotations

import ast
import random
import re

from training.edit_kinds import (
    NEW_NAMES,
    Draft,
    choose,
    collect_names,
    find_docstring,
    find_simple_statements,
    is_function,
    negate,
)
from training.snippets import Snippet


def use_f_string(snippet: Snippet, rng: random.Random) -> Draft | None:
    found = [n for n in ast.walk(snippet.tree) if isinstance(n, ast.JoinedStr) and n.lineno == n.end_lineno]
    for node in found:
        text = snippet.get_source(node)
        fields = re.findall(r"\{([A-Za-z_][\w.]*)\}", text)
        if not re.fullmatch(r"f(\"|')[^{}%\\\"']*(\{[A-Za-z_][\w.]*\}[^{}%\\\"']*)+\1", text):
            continue
        style = rng.random()
        if style < 0.5:
            old = re.sub(r"\{[\w.]+\}", "{}", text[1:]) + f".format({', '.join(fields)})"
        else:
            values = f"({', '.join(fields)})" if len(fields) > 1 else fields[0]
            old = re.sub(r"\{[\w.]+\}", "%s", text[1:]) + f" % {values}"
        messages = "Use an f-string|use f-strings|use f-string|convert to f-string|Use an f-string instead of "
        messages += "format" if style < 0.5 else "%"
        return Draft(snippet.replace((*snippet.get_span(node), old)), snippet.source, choose(rng, messages))
    return None


def print_to_logging(snippet: Snippet, rng: random.Random) -> Draft | None:
    found = (
        [n for n in find_simple_statements(snippet) if re.fullmatch(r"print\([^,]*\)", snippet.get_source(n))]
        if is_function(snippet)
        else []
    )
    if not found:
        return None
    log, level = rng.choice(["logger", "logging", "log"]), rng.choice(["info", "debug", "info", "warning"])
    changes = [(snippet.get_span(n)[0], snippet.get_span(n)[0] + 5, f"{log}.{level}") for n in found]
    messages = (
        f"Use {log}.{level} instead of print|replace print with {log}.{level}|print -> {log}.{level}"
        f"|change print to {log}.{level}"
    )
    return Draft(snippet.source, snippet.replace(*changes), choose(rng, messages))


EXCEPTIONS = [
    "ValueError",
    "KeyError",
    "TypeError",
    "OSError",
    "Exception",
    "IndexError",
    "AttributeError",
    "RuntimeError",
    "ImportError",
]


HANDLERS = (
    ("return None", "return None"),
    ("pass", "ignore it"),
    ("raise", "raise again"),
    ("return False", "return False"),
)


def wrap_in_try(snippet: Snippet, rng: random.Random) -> Draft | None:
    found = (
        [
            n
            for n in find_simple_statements(snippet)
            if re.search(r"[(\[]", snippet.get_source(n)) and not isinstance(n, ast.Raise)
        ]
        if is_function(snippet)
        else []
    )
    if not found:
        return None
    node, error = rng.choice(found), rng.choice(EXCEPTIONS)
    indent, (action, words) = " " * node.col_offset, rng.choice(HANDLERS)
    lines = [
        f"{indent}try:",
        f"    {indent}{snippet.get_source(node)}",
        f"{indent}except {error}:",
        f"    {indent}{action}",
    ]
    after = snippet.replace_lines(node.lineno, node.lineno, lines)
    target = re.match(r"(?:return |await |\w+ = )*(\w[\w.]*)", snippet.get_source(node))
    name = target.group(1) if target else "it"
    if sum(bool(re.search(rf"\b{re.escape(name)}\b", snippet.get_source(n))) for n in found) > 1 or name == "it":
        name = f"`{snippet.get_source(node)}`"
        if "|" in name or len(name) > 70 or snippet.source.count(name[1:-1]) > 1:
            return None
    messages = f"Catch {error} and {words}|catch {error}, {words}|wrap {name} in try/except {error} and {words}"
    messages += f"|handle {error} from {name} and {words}|on {error}, {words}"
    unambiguous = len(found) == 1
    return Draft(
        snippet.source,
        after,
        choose(rng, messages if unambiguous else messages.split("|")[2] + "|" + messages.split("|")[3]),
    )


def add_guard(snippet: Snippet, rng: random.Random) -> Draft | None:
    if not is_function(snippet) or not (parameters := collect_names(snippet)[0]):
        return None
    name = rng.choice(parameters)
    document = find_docstring(snippet)
    before_line = document.end_lineno + 1 if document and document.end_lineno else snippet.function.body[0].lineno
    indent = " " * snippet.function.body[0].col_offset
    if not indent or snippet.function.body[0].lineno <= snippet.function.lineno:
        return None
    test, words = rng.choice(
        [(f"{name} is None", "is None"), (f"not {name}", "is empty"), (f"{name} < 0", "is negative")]
    )
    if rng.random() < 0.5:
        action, messages = (
            "return None",
            f"Return None if {name} {words}|return early if {name} {words}|guard against {name} being None",
        )
        messages = messages if words == "is None" else messages.rsplit("|", 1)[0]
        action = "return" if "early" in (message := choose(rng, messages)) else action
    else:
        error = rng.choice(["ValueError", "ValueError", "TypeError"])
        detail = {
            "is None": "must not be None",
            "is empty": "must not be empty",
            "is negative": "must not be negative",
        }[words]
        action = f'raise {error}("{name} {detail}")'
        message = choose(
            rng,
            f"Raise {error} if {name} {words}|raise a {error} when {name} {words}"
            f"|check that {name} {detail[5:]} ({error})",
        )
    after = snippet.replace_lines(before_line, before_line - 1, [f"{indent}if {test}:", f"{indent}    {action}"])
    return Draft(snippet.source, after, message)


def change_constant(snippet: Snippet, rng: random.Random) -> Draft | None:
    found = [
        n
        for n in ast.walk(snippet.node)
        if isinstance(n, ast.Constant) and type(n.value) in (int, str) and n.lineno == n.end_lineno
    ]
    found = [n for n in found if re.fullmatch(r"\d+|([\"'])[\w ./:-]{1,20}\1", snippet.get_source(n))]
    if not found:
        return None
    node = rng.choice(found)
    old = snippet.get_source(node)
    if snippet.source.count(old) > 1:
        return None
    words = old[1:-1].split(" ")
    new = (
        str(rng.choice([0, 1, 2, 3, 5, 10, 16, 20, 50, 60, 100, 128, 255, 256, 500, 1000, 1024]))
        if old.isdigit()
        else ""
    )
    new = new or f"{old[0]}{' '.join([*words[:-1], rng.choice(NEW_NAMES)])}{old[0]}"
    messages = (
        f"Change {old} to {new}|change {old} to {new}|use {new} instead of {old}"
        f"|replace {old} with {new}|{old} -> {new}"
    )
    return (
        Draft(snippet.source, snippet.replace((*snippet.get_span(node), new)), choose(rng, messages))
        if new != old
        else None
    )


def invert_if(snippet: Snippet, rng: random.Random) -> Draft | None:
    for node in ast.walk(snippet.node):
        if not isinstance(node, ast.If) or not node.orelse or isinstance(node.orelse[0], ast.If):
            continue
        last_body, last = node.body[-1].end_lineno or 0, node.orelse[-1].end_lineno or 0
        test, lines = negate(snippet.get_source(node.test)), snippet.source.split("\n")
        middle = node.orelse[0].lineno - 1
        first = lines[node.lineno - 1].lstrip()
        if (
            test is None
            or not first.startswith("if ")
            or last - node.lineno > 9
            or lines[middle - 1].strip() != "else:"
            or last_body != middle - 1
        ):
            continue
        start, indent = node.body[0].lineno, " " * node.col_offset
        new = [f"{indent}if {test}:", *lines[middle:last], f"{indent}else:", *lines[start - 1 : last_body]]
        message = choose(
            rng,
            "Invert the condition|invert the if|swap the branches|Swap if and else"
            "|negate the condition and swap the branches",
        )
        return Draft(snippet.source, snippet.replace_lines(node.lineno, last, new), message)
    return None


def convert_comprehension(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Convert a loop to a list comprehension, or the other way round."""
    for node in find_simple_statements(snippet) if is_function(snippet) else []:
        value = node.value if isinstance(node, (ast.Assign, ast.Return)) else None
        if not isinstance(value, ast.ListComp) or len(value.generators) != 1 or len(value.generators[0].ifs) > 1:
            continue
        loop, indent = value.generators[0], " " * node.col_offset
        name = snippet.get_source(node.targets[0]) if isinstance(node, ast.Assign) else "result"
        lines = [
            f"{indent}{name} = []",
            f"{indent}for {snippet.get_source(loop.target)} in {snippet.get_source(loop.iter)}:",
        ]
        deeper = indent + "    "
        if loop.ifs:
            lines.append(f"{deeper}if {snippet.get_source(loop.ifs[0])}:")
            deeper += "    "
        lines.append(f"{deeper}{name}.append({snippet.get_source(value.elt)})")
        lines += [f"{indent}return {name}"] if isinstance(node, ast.Return) else []
        other = snippet.replace_lines(node.lineno, node.lineno, lines)
        if rng.random() < 0.5:
            return Draft(
                other,
                snippet.source,
                choose(
                    rng,
                    "Use a list comprehension|use a comprehension"
                    "|simplify with a list comprehension|loop -> list comprehension",
                ),
            )
        return Draft(
            snippet.source,
            other,
            choose(
                rng,
                "Use a loop instead of a comprehension|use a for loop|expand the comprehension"
                "|list comprehension -> loop",
            ),
        )
    return None


def use_with(snippet: Snippet, rng: random.Random) -> Draft | None:
    for node in ast.walk(snippet.node):
        if not isinstance(node, ast.With) or len(node.items) != 1 or (node.end_lineno or 0) - node.lineno > 6:
            continue
        item, lines = node.items[0], snippet.source.split("\n")
        call = snippet.get_source(item.context_expr)
        if (
            not isinstance(item.optional_vars, ast.Name)
            or "open" not in call
            or "return" in "\n".join(lines[node.lineno - 1 : node.end_lineno])
        ):
            continue
        indent, name = " " * node.col_offset, item.optional_vars.id
        body = [line[4:] for line in lines[node.body[0].lineno - 1 : node.end_lineno]]
        before = snippet.replace_lines(
            node.lineno, node.end_lineno or 0, [f"{indent}{name} = {call}", *body, f"{indent}{name}.close()"]
        )
        return Draft(
            before,
            snippet.source,
            choose(rng, "Use a with statement|use with|use a context manager|Use `with` to open the file"),
        )
    return None


def toggle_debug_print(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Add or remove a print of a variable after its assignment."""
    found = (
        [n for n in find_simple_statements(snippet) if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)]
        if is_function(snippet)
        else []
    )
    if not found or "print(" in snippet.source:
        return None
    node = rng.choice(found)
    name, indent = snippet.get_source(node.targets[0]), " " * node.col_offset
    shown = rng.choice([name, f'"{name}", {name}', f'f"{{{name}=}}"', f'"{name}:", {name}'])
    other = snippet.replace_lines(node.lineno + 1, node.lineno, [f"{indent}print({shown})"])
    if rng.random() < 0.6:
        return Draft(
            other,
            snippet.source,
            choose(rng, "Remove the print|remove debug prints|remove print statements|delete the debug print"),
        )
    plain = snippet.replace_lines(node.lineno + 1, node.lineno, [f"{indent}print({name})"])
    unique = sum(snippet.get_source(n.targets[0]) == name for n in found) == 1
    return (
        Draft(snippet.source, plain, choose(rng, f"Print {name}|print {name}|add a print of {name}|show {name}"))
        if unique
        else None
    )


def add_return(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Add a missing `return` of a name at the end."""
    last = snippet.function.body[-1] if is_function(snippet) else None
    if not isinstance(last, ast.Return) or not isinstance(last.value, ast.Name) or len(snippet.function.body) < 2:
        return None
    name, before = (
        snippet.get_source(last.value),
        snippet.replace_lines(last.lineno, last.end_lineno or last.lineno, []),
    )
    _, local, _ = collect_names(snippet)
    messages = f"Return {name}|return {name}|return {name} at the end" + (
        "|Add the missing return|return the result" if name in local else ""
    )
    return Draft(before, snippet.source, choose(rng, messages))


def use_enumerate(snippet: Snippet, rng: random.Random) -> Draft | None:
    found = re.search(r"( +)for (\w+), (\w+) in enumerate\((\w+)\):\n", snippet.source)
    if not found:
        return None
    indent, index, item, items = found.groups()
    loop = f"{indent}for {index} in range(len({items})):\n{indent}    {item} = {items}[{index}]\n"
    before = snippet.source.replace(found.group(), loop, 1)
    return Draft(
        before,
        snippet.source,
        choose(rng, "Use enumerate|use enumerate instead of range(len())|simplify the loop with enumerate"),
    )
