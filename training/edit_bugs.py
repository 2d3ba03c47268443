"""Kinds of edits that fix a bug: a bug is put into code of the corpus, and the edit removes it.

Same interface as `edit_kinds`. Half of the messages are "Fix the bug" or the like; the others say what is wrong.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable

from training.edit_kinds import Draft, Kind, choose, collect_names, is_function, negate
from training.snippets import Snippet, parse

COMMON_MESSAGES = (
    "Fix the bug|Fix the bug|Fix the bug|fix the bug|fix bug|Fix bug|fix it|fix this|find and fix the bug|Fix the error"
)


def make_substitution(
    pattern: str, wrong: str | Callable[[re.Match[str]], str], messages: str, parses: bool = True
) -> Kind:
    """Make a kind that breaks a random match of a pattern; `parses` says if the broken code still parses."""

    def kind(snippet: Snippet, rng: random.Random) -> Draft | None:
        code = [m for m in re.finditer(pattern, snippet.source) if is_code(snippet.source, m.start())]
        if not code or not is_function(snippet):
            return None
        match = rng.choice(code)
        broken = match.expand(wrong) if isinstance(wrong, str) else wrong(match)
        before = snippet.source[: match.start()] + broken + snippet.source[match.end() :]
        if before == snippet.source or (parse(before) is not None) != parses:
            return None
        exact = describe_fix(snippet.source, before, match, broken) if parses else None
        if exact is not None and rng.random() < EXACT_MESSAGE_SHARE:
            return Draft(before, snippet.source, rng.choice(exact))
        return Draft(before, snippet.source, choose(rng, rng.choice([COMMON_MESSAGES, messages])))

    return kind


EXACT_MESSAGE_SHARE = 0.4  # share of messages that state the fix: a reader cannot know which operator is right


def describe_fix(after: str, before: str, match: re.Match[str], broken: str) -> list[str] | None:
    """Make messages with the wrong code, widened until it is unique in the text, and the right code."""
    start, end, longer = match.start(), match.end(), len(broken) - len(match.group())
    first = after.rfind("\n", 0, start) + 1
    last = after.find("\n", end - match.group().endswith("\n"))
    first += len(after[first:last]) - len(after[first:last].lstrip())
    while before.count(before[start : end + longer]) > 1 and (start > first or end < last):
        start = max(first, after.rfind(" ", 0, max(first, start - 1)) + 1) if start > first else start
        space = after.find(" ", end + 1, last)
        end = (last if space < 0 else space) if end < last else end
    wrong, right = before[start : end + longer].strip(), after[start:end].strip()
    if "\n" in wrong or len(right) > 70 or wrong == right or not wrong or not right:
        return None
    messages = [f"`{wrong}` should be `{right}`", f"Change `{wrong}` to `{right}`", f"fix `{wrong}`: use `{right}`"]
    return [*messages, f"{wrong} should be {right}", f"use {right} instead of {wrong}"]


def is_code(source: str, offset: int) -> bool:
    """Return True, approximately, if an offset is not in a comment, a docstring or a string of its line."""
    line = source[source.rfind("\n", 0, offset) + 1 : offset]
    return (
        source.count('"""', 0, offset) % 2 == 0
        and "#" not in line
        and line.count('"') % 2 == 0
        and line.count("'") % 2 == 0
    )


def misspell(match: re.Match[str]) -> str:
    """Swap two letters in the middle of a word."""
    word = match.group()
    at = 1 + sum(map(ord, word)) % max(1, len(word) - 2)
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def negate_condition(snippet: Snippet, rng: random.Random) -> Draft | None:
    tests = [
        n.test for n in ast.walk(snippet.tree) if isinstance(n, (ast.If, ast.While)) and n.lineno == n.test.end_lineno
    ]
    pairs = [(test, negate(snippet.get_source(test))) for test in tests]
    found = [(test, opposite) for test, opposite in pairs if opposite and "|" not in opposite]
    if not found or not is_function(snippet):
        return None
    test, opposite = rng.choice(found)
    before = snippet.replace((*snippet.get_span(test), opposite or ""))
    messages = rng.choice(
        [
            COMMON_MESSAGES,
            "Fix the condition|fix the condition|the condition is the wrong way round|fix the negated condition",
            f"The condition `{opposite}` is the wrong way round|negate `{opposite}`|fix the condition {opposite}"
            f"|{opposite} should be {snippet.get_source(test)}|Change the condition to {snippet.get_source(test)}",
        ]
    )
    return Draft(before, snippet.source, choose(rng, messages))


def misspell_name(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Misspell one use of a name of the function."""
    if not is_function(snippet):
        return None
    parameters, local, _ = collect_names(snippet)
    names = [n for n in parameters + local if len(n) > 3]
    loads = [
        n for n in ast.walk(snippet.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and n.id in names
    ]
    if not loads:
        return None
    node = rng.choice(loads)
    wrong = (
        re.sub(r".+", misspell, node.id)
        if rng.random() < 0.6
        else node.id[:-1]
        if rng.random() < 0.5
        else node.id + "s"
    )
    start, end = snippet.get_span(node)
    if wrong == node.id or wrong in names or snippet.source[start:end] != node.id:
        return None
    messages = rng.choice(
        [
            COMMON_MESSAGES,
            f"Fix the typo|fix typo|fix the NameError|NameError: name '{wrong}' is not defined|fix the misspelled name",
        ]
    )
    return Draft(snippet.replace((start, end, wrong)), snippet.source, choose(rng, messages))


def return_wrong_variable(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Return another name than the right one."""
    if not is_function(snippet):
        return None
    parameters, local, _ = collect_names(snippet)
    returns = [
        n
        for n in ast.walk(snippet.tree)
        if isinstance(n, ast.Return) and isinstance(n.value, ast.Name) and n.value.id in local
    ]
    others = [
        n for n in parameters if returns and isinstance(returns[-1].value, ast.Name) and n != returns[-1].value.id
    ]
    if not returns or not others or returns[-1].value is None:
        return None
    before = snippet.replace((*snippet.get_span(returns[-1].value), rng.choice([*others, "None"])))
    messages = rng.choice(
        [
            COMMON_MESSAGES,
            "Fix the return value|fix the wrong return value|return the right variable|it returns the wrong thing",
        ]
    )
    return Draft(before, snippet.source, choose(rng, messages))


def drop_return(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Drop the `return` of the last statement."""
    last = snippet.function.body[-1] if is_function(snippet) else None
    if (
        not isinstance(last, ast.Return)
        or not isinstance(last.value, (ast.Call, ast.BinOp, ast.Name))
        or last.lineno != last.end_lineno
    ):
        return None
    before = snippet.replace((*snippet.get_span(last), snippet.get_source(last.value)))
    messages = rng.choice(
        [COMMON_MESSAGES, "Add the missing return|fix the missing return|it returns None|return the result"]
    )
    return Draft(before, snippet.source, choose(rng, messages))


def drop_self(snippet: Snippet, rng: random.Random) -> Draft | None:
    """Make a method without `self` among its parameters, or one use of an attribute without `self.`."""
    node = snippet.function if is_function(snippet) else None
    if node is None or not node.args.args or node.args.args[0].arg != "self":
        return None
    if rng.random() < 0.4:
        start, end = snippet.get_span(node.args.args[0])
        before = snippet.source[:start] + snippet.source[end:].removeprefix(", ")
        return Draft(
            before,
            snippet.source,
            choose(
                rng, rng.choice([COMMON_MESSAGES, "Add the missing self|fix the missing self parameter|missing self"])
            ),
        )
    uses = list(re.finditer(r"\bself\.", snippet.source))
    if not uses:
        return None
    match = rng.choice(uses)
    before = snippet.source[: match.start()] + snippet.source[match.end() :]
    return Draft(
        before,
        snippet.source,
        choose(
            rng,
            rng.choice([COMMON_MESSAGES, "Add the missing self|fix the missing self.|fix the NameError|missing self"]),
        ),
    )


def choose_next(values: str) -> Callable[[re.Match[str]], str]:
    """Replace each operator by its neighbour in the list."""
    words = values.split()
    return lambda match: match.group().replace(match.group(1), words[(words.index(match.group(1)) + 1) % len(words)])


SYNTAX_MESSAGES = "Fix the syntax error|fix syntax error|fix the SyntaxError|fix syntax|it does not parse"
BUGS: dict[str, tuple[float, Kind]] = {
    "bug: condition": (3.0, negate_condition),
    "bug: misspelled name": (2.5, misspell_name),
    "bug: wrong variable": (6.0, return_wrong_variable),
    "bug: missing return": (2.5, drop_return),
    "bug: missing self": (2.0, drop_self),
    "bug: missing colon": (
        1.2,
        make_substitution(r"(?<=[\w)\]]):\n", "\n", f"{SYNTAX_MESSAGES}|add the missing colon", parses=False),
    ),
    "bug: bracket": (
        1.0,
        make_substitution(
            r"\)(?=:?\n)", "", f"{SYNTAX_MESSAGES}|close the bracket|fix the unclosed parenthesis", parses=False
        ),
    ),
    "bug: assignment": (
        8.0,
        make_substitution(
            r"(?<=if )(\w+(?:\.\w+)?) == ", r"\1 = ", f"{SYNTAX_MESSAGES}|use == to compare", parses=False
        ),
    ),
    "bug: keyword": (
        1.0,
        make_substitution(
            r"\b(?:return|import|while|class|raise|yield|else|elif)\b",
            misspell,
            f"{SYNTAX_MESSAGES}|fix the typo",
            parses=False,
        ),
    ),
    "bug: range": (
        15.0,
        make_substitution(
            r"range\(len\((\w+)\)\)", r"range(len(\1) + 1)", "Fix the off-by-one error|fix off-by-one|fix IndexError"
        ),
    ),
    "bug: range start": (
        12.0,
        make_substitution(
            r"range\((\w+(?:\(\w+\))?)\)", r"range(1, \1)", "Fix the off-by-one error|fix off-by-one|fix the range"
        ),
    ),
    "bug: index": (
        20.0,
        make_substitution(
            r"\b(len\(\w+\)) - 1", r"\1", "Fix the off-by-one error|fix off-by-one|fix IndexError|fix the index"
        ),
    ),
    "bug: first or last": (
        4.0,
        make_substitution(r"\[(0|-1)\]", choose_next("0 -1"), "Fix the index|fix the index|wrong index"),
    ),
    "bug: comparison": (
        8.0,
        make_substitution(
            r" (<|>|<=|>=) ",
            choose_next("< > <= >="),
            "Fix the comparison|fix the comparison|wrong comparison operator",
        ),
    ),
    "bug: operator": (
        5.0,
        make_substitution(
            r" ([+*/-]) (?=\w)", choose_next("+ - * /"), "Fix the operator|fix the wrong operator|fix the arithmetic"
        ),
    ),
    "bug: augmented": (
        10.0,
        make_substitution(
            r" ([+-])= ", choose_next("+ -"), "Fix the operator|fix the counter|it counts in the wrong direction"
        ),
    ),
    "bug: and, or": (
        5.0,
        make_substitution(
            r" (and|or) ", choose_next("and or"), "Fix the condition|fix the condition|fix the logic|and/or mixed up"
        ),
    ),
    "bug: boolean": (
        5.0,
        make_substitution(
            r"return (True|False)\b", choose_next("True False"), "Fix the return value|returns the wrong boolean"
        ),
    ),
    "bug: minimum": (
        10.0,
        make_substitution(
            r"\b(min|max)\(", choose_next("min max"), "Fix the bug|use the right function|min and max are mixed up"
        ),
    ),
    "bug: append": (
        3.0,
        make_substitution(r"\.(append)\(", lambda _: ".extend(", "Use append|fix the list|append instead of extend"),
    ),
    "bug: mutable default": (
        4.0,
        make_substitution(r"(?<=\w)=None(?=[,)])", "=[]", "Fix the mutable default argument|fix the mutable default"),
    ),
    "bug: call": (
        1.0,
        make_substitution(r"(?<=\w)\(\)(?=\n)", "", "Call the method|fix the missing call|add the missing parentheses"),
    ),
}
