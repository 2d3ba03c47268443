"""Find the code that is missing from lines that a model wrote anew. Pure.

A diff says what it removes. Lines that are written anew may lack code because the model was lazy, or lost its way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from codeclippy_ls.syntax.languages import Language, find_language
from codeclippy_ls.syntax.outline import list_definitions, split_statements
from codeclippy_ls.tasks.edit_context import EditContext

# Messages that ask for definitions to go, or for other ones in their place.
_ASKS_REMOVAL = re.compile(
    r"\b(?:remov|delet|drop|renam|inlin|merg|combin|mov|extract|split|call(?:ed)?\b|nam(?:e|ed)\b|get rid|unused|"
    r"replac|join|unif|dedup)\w*",
    re.IGNORECASE,
)
# Messages that ask for another form, in which methods and inner functions may be superfluous.
_ASKS_FORM = re.compile(
    r"\b(?:turn|convert|simplif|shorten|refactor|rewrit|us(?:e|ing)\b|mak|clean|into|dataclass|instead)\w*",
    re.IGNORECASE,
)
# `snake_case`, `__dunder__`, `camelCase`, `ValueError`: no words of prose.
_CODE_NAME = re.compile(r"\b(?:[A-Za-z]+_\w+|_\w+|[a-z]+[A-Z]\w*|[A-Z][a-z]+[A-Z]\w+)\b")
_ASSIGNED = re.compile(r"(?:export\s+)?(?:const\s+|let\s+|var\s+)?(\w+)\s*(?::[^=]*)?=(?!=)")


def find_rewrite_problem(old: Sequence[str], new: Sequence[str], message: str, context: EditContext) -> str:
    """Return why lines cannot take the place of the old ones, as the end of a sentence; empty if they can."""
    if not any(line.strip() for line in new) and any(line.strip() for line in old):
        return "" if _ASKS_REMOVAL.search(message) else "it is empty."
    language = find_language(context.language)
    if value := _find_lost_value(old, new, language):
        return f"it loses {value}, which it still uses."
    before, after = list_definitions("\n".join(old), language), list_definitions("\n".join(new), language)
    lost = list((Counter(before) - Counter(after)).keys())
    if not lost or _ASKS_REMOVAL.search(message):
        return ""
    is_inner = not set(lost) & set(_list_outer(old, before))
    if is_inner and _ASKS_FORM.search(message) and len(after) >= len(before) - len(lost):
        return ""
    return f"it loses {lost[0]}, which nobody asked to remove."


def count_missing_names(old: Sequence[str], new: Sequence[str], message: str) -> int:
    """Count the names of code in a message that neither the old lines have nor the new ones."""
    known = set(re.findall(r"\w+", "\n".join((*old, *new))))
    return len({name for name in _CODE_NAME.findall(message) if name not in known})


def _find_lost_value(old: Sequence[str], new: Sequence[str], language: Language | None) -> str:
    """Find a name that the old lines assign at their outermost level, and the new ones use without assigning it."""
    statements = split_statements("\n".join(old), language) or []
    names = [match[1] for one in statements if one.kind == "other" and (match := _ASSIGNED.match(old[one.first]))]
    for name in names:
        uses = [line for line in new if re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", line)]
        if uses and not any(_may_bind(line, name) for line in uses):
            return name
    return ""


def _may_bind(line: str, name: str) -> bool:
    """Return whether a line that has a name may give it a value."""
    behind = line.partition(name)[2].replace("==", "")
    return "=" in behind or not {"import", "as", "for"}.isdisjoint(line.split())


def _list_outer(lines: Sequence[str], names: Sequence[str]) -> list[str]:
    """List the names that are defined at the outermost indentation of some lines."""
    depth = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    heads = [line for line in lines if line.strip() and len(line) - len(line.lstrip()) == depth]
    return [name for name in names if any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", head) for head in heads)]
