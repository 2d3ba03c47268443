"""Lines that a model wrote anew, in place of the old ones: white space of the file, and nothing changed but the change.

Models end, indent and separate lines in their own way. What differs from the old lines in white space alone is as it
was. Lines have no line ends here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from codeclippy_ls.line_diff import LineChange, find_changes
from codeclippy_ls.text import find_common_indent, remove_indent

_ASKS_SPACE = re.compile(r"\b(?:blank|empty|spac\w*|format\w*|indent\w*|pep ?8|black|prettier|newlines?)\b", re.I)
_COMMENT = r"(?:#|//|--|;|%|/\*|<!--|\{/\*|\(\*)"
# What stands in place of code that was there: dots, or a comment that the rest stays.
_DOTS = re.compile(rf"\s*{_COMMENT}[#/;%*-]*\s*(?:\.\.\.|\u2026)|\s*(?:\.\.\.|\u2026)\s*\Z")
_COMMENT_LINE = re.compile(rf"\s*{_COMMENT}")
_WORDS = re.compile(
    r"\b(?:rest|remain(?:s|ing|der)?|existing|previous|other|unchanged|same|omitted|original|here)\b", re.I
)


def restore_lines(old: Sequence[str], written: Sequence[str], indent: str, message: str) -> list[str]:
    """Return written lines as they stand in the file.

    Args:
        old: the lines that they replace.
        indent: of all old lines; the model was shown them without it.
        message: may ask for blank lines or another indentation, which are taken as they are then.
    """
    head, tail = _count_blank_ends(old)
    body = old[head : len(old) - tail]
    first, last = _count_blank_ends(written)
    lines = [line.rstrip() if not line.strip() else line for line in written[first : len(written) - last]]
    shown = [line.removeprefix(indent) for line in body]
    lines = _fit_indentation(remove_indent(lines, find_common_indent(lines)), shown)
    lines = [indent + line if line.strip() else line for line in lines]
    return [*old[:head], *_keep_old(body, lines, bool(_ASKS_SPACE.search(message))), *old[len(old) - tail :]]


def _count_blank_ends(lines: Sequence[str]) -> tuple[int, int]:
    """Count the blank lines at the start and, of the others, at the end."""
    texts = [at for at, line in enumerate(lines) if line.strip()]
    return (texts[0], len(lines) - 1 - texts[-1]) if texts else (0, len(lines))


def _fit_indentation(lines: Sequence[str], old: Sequence[str]) -> list[str]:
    """Indent lines by the file's step: tabs or spaces, and how many of them."""
    step = find_step(old)
    own = find_step(lines)
    if not step or not own or step == own:
        return [*lines]
    if "\t" in (step, own):
        return [_replace_step(line, own, step) for line in lines]
    # Another number of spaces: certain only if a line that differs in nothing else says so, and none says otherwise.
    here, there = _measure_unique(lines), _measure_unique(old)
    pairs = [(here[text], there[text]) for text in here.keys() & there.keys() if here[text] and there[text]]
    scaled = any(depth * len(step) == wanted * len(own) for depth, wanted in pairs)
    if not scaled or any(depth == wanted for depth, wanted in pairs):
        return [*lines]
    return [" " * (_measure(line) * len(step) // len(own)) + line.lstrip(" ") for line in lines]


def find_step(lines: Sequence[str]) -> str:
    """Return the text of one step of indentation; empty if nothing is indented."""
    indents = [line[: len(line) - len(line.lstrip(" \t"))] for line in lines if line.strip()]
    if any(indent.startswith("\t") for indent in indents):
        return "\t"
    widths = sorted({len(indent) for indent in indents if indent})
    return " " * min((b - a for a, b in zip([0, *widths], widths, strict=False) if b - a > 1), default=0)


def _replace_step(line: str, own: str, step: str) -> str:
    rest = line.lstrip(" \t")
    spaces = line[: len(line) - len(rest)]
    times = spaces.count("\t") + spaces.count(" ") // len(own) if own != "\t" else spaces.count("\t")
    left = spaces.count(" ") % len(own) if own != "\t" else spaces.count(" ")
    return step * times + " " * left + rest


def _measure(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _measure_unique(lines: Sequence[str]) -> dict[str, int]:
    """Return the indentation of the lines whose text occurs once."""
    counts = Counter(line.strip() for line in lines)
    return {line.strip(): _measure(line) for line in lines if line.strip() and counts[line.strip()] == 1}


def _keep_old(old: Sequence[str], new: Sequence[str], asks_space: bool) -> list[str]:
    """Return the new lines, with the old ones where only white space at their end or blank lines differ."""
    changes = find_changes([line.rstrip() for line in old], [line.rstrip() for line in new])
    result: list[str] = []
    at = 0
    for change in (*changes, LineChange(len(old), len(old), len(new), len(new))):
        result += old[at : change.start]
        removed, added = old[change.start : change.end], new[change.new_start : change.new_end]
        is_blank = not any(line.strip() for line in (*removed, *added))
        result += removed if is_blank and not asks_space else added
        at = change.end
    return result


def find_placeholder(old: Sequence[str], new: Sequence[str]) -> str:
    """Find a written line that stands in place of code that was there; empty if there is none.

    Dots in a comment always do, alone if they replace something. Words do if their change removes more than it adds.
    """
    for change in find_changes([line.strip() for line in old], [line.strip() for line in new]):
        removed = [line for line in old[change.start : change.end] if line.strip()]
        added = [line for line in new[change.new_start : change.new_end] if line.strip()]
        dots = next((line for line in added if _DOTS.match(line) and (removed or line.strip()[0] not in ".\u2026")), "")
        words = next((line for line in added if _COMMENT_LINE.match(line) and _WORDS.search(line)), "")
        words = words if len(removed) > len(added) else ""
        if dots or words:
            return dots or words
    return ""
