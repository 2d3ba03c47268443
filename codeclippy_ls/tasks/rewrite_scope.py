"""Separate lines that a model wrote anew from what it added around them: imports, examples, other code. Pure.

Models write a function with the imports that it needs, with code of the file again, or with an example of its use.
Imports go to where the file has them. Only where the old lines are nothing but definitions is the rest known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from codeclippy_ls.syntax.languages import Language, find_language
from codeclippy_ls.syntax.outline import Statement, find_imports, list_definitions, split_statements
from codeclippy_ls.tasks.edit_context import EditContext

_ASKS_MORE = re.compile(r"\b(?:examples?|usage|demo|main|script)\b", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d]\w*")
_IMPORT_WORDS = frozenset(re.findall(r"\w+", "import from as const let var require use using include typing type"))


def separate_additions(
    old: Sequence[str], written: Sequence[str], message: str, context: EditContext
) -> tuple[list[str], tuple[str, ...]]:
    """Separate what belongs in place of the old lines from imports for the top of the file; drop what is there already.

    Args:
        old, written: without the indentation that they have in common.
    """
    language = find_language(context.language)
    before = split_statements("\n".join(old), language)
    after = split_statements("\n".join(written), language)
    if not before or not after or any(one.kind not in ("definition", "comment") for one in before):
        return [*written], ()
    own = {one.name for one in before}
    elsewhere = {
        name for lines in (context.above, context.below) for name in list_definitions("\n".join(lines), language)
    }
    after = _unwrap(after, written, own, elsewhere, language)
    if not _ASKS_MORE.search(message):
        after = _drop_surplus(after, written, own, context)
    kept = _choose_statements(after, written, own, elsewhere - own)
    if not any(one.kind == "definition" for one in kept):
        return [*written], ()
    lines = _join_statements(kept, written)
    imports = [written[one.first : one.last + 1] for one in after if one.kind == "import"]
    return lines, _choose_imports(imports, lines, context, language)


def _choose_statements(
    statements: Sequence[Statement], written: Sequence[str], own: set[str], elsewhere: set[str]
) -> list[Statement]:
    """Choose all but imports and the definitions that are elsewhere, with the comments above each, and in its end."""
    kept: list[Statement] = []
    comments: list[Statement] = []
    for one in statements:
        if one.kind == "comment":
            (kept if kept and written[one.first][:1].isspace() else comments).append(one)
            continue
        if one.kind == "other" or (one.kind == "definition" and (one.name in own or one.name not in elsewhere)):
            kept += [*comments, one]
        comments = []
    return kept


def _drop_surplus(
    statements: Sequence[Statement], written: Sequence[str], own: set[str], context: EditContext
) -> list[Statement]:
    """Drop statements behind the definitions, which show their use, and values that the file has already."""
    last = max((at for at, one in enumerate(statements) if one.kind == "definition" and one.name in own), default=0)
    known = {match[0] for line in (*context.above, *context.below) if (match := _WORD.match(line))}

    def is_surplus(at: int, one: Statement) -> bool:
        match = _WORD.match(written[one.first])
        return one.kind == "other" and (at > last or (match is not None and match[0] in known))

    return [one for at, one in enumerate(statements) if not is_surplus(at, one)]


def _unwrap(
    statements: Sequence[Statement],
    lines: Sequence[str],
    own: set[str],
    elsewhere: set[str],
    language: Language | None,
) -> list[Statement]:
    """Take methods out of the class that a model wrote around them, if the file has that class around the old lines."""
    result: list[Statement] = []
    for one in statements:
        inner: list[Statement] = []
        if one.kind == "definition" and one.name in elsewhere and one.name not in own:
            body = lines[one.first + 1 : one.last + 1]
            depth = min((len(line) - len(line.lstrip()) for line in body if line.strip()), default=0)
            found = split_statements("\n".join(line[depth:] for line in body), language) or []
            shift = one.first + 1
            inner = [each._replace(first=each.first + shift, last=each.last + shift) for each in found]
            inner = [each for each in inner if each.kind == "definition" and each.name in own]
        result += inner or [one]
    return result


def _join_statements(kept: Sequence[Statement], written: Sequence[str]) -> list[str]:
    """Join the lines of statements, with the blank lines above each; without indentation that all lines share."""
    lines: list[str] = []
    for one in kept:
        first = one.first
        while lines and first and not written[first - 1].strip():
            first -= 1
        lines += written[first : one.last + 1]
    return lines


def _choose_imports(
    imports: Sequence[Sequence[str]], lines: Sequence[str], context: EditContext, language: Language | None
) -> tuple[str, ...]:
    """Choose the imports that the lines need and the file lacks."""
    used = set(_WORD.findall("\n".join(lines)))
    above = "\n".join(context.above)
    known = {
        word
        for first, last in find_imports(above, language)
        for line in context.above[first : last + 1]
        for word in _WORD.findall(line)
    }
    found: list[str] = []
    for one in imports:
        words = set(_WORD.findall("\n".join(one))) - _IMPORT_WORDS
        if words & used - known:
            found += one
    return tuple(found)
