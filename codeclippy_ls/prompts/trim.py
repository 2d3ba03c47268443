"""What is kept of a model's answer: a pipe of small filters over text, each of which may shorten it to nothing.

A suggestion that repeats what already stands after the cursor, or that says the same thing again and again, is worse
than none. Knows no model and no LSP.
"""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile("[\ufffd\u202a-\u202e\u2066-\u2069]")
_OPENING = {"(": ")", "[": "]", "{": "}"}
_MOST_LINES = 8  # of one statement whose brackets are open
_CLOSING = {closing: opening for opening, closing in _OPENING.items()}


def trim(text: str, prefix: str, suffix: str, multiline: bool) -> str:
    """The part of an answer worth showing at a cursor between ``prefix`` and ``suffix``; empty where none is.

    All texts are in LF. ``multiline`` is whether more than one line may be suggested here.
    """
    text = without_second_blank(without_unprintable(text), prefix)
    text = block(text, prefix) if multiline else first_line(text)
    text = without_repetition(text)
    text = without_overlap(text, suffix)
    text = without_surplus_closers(text, suffix)
    text = text.rstrip(" \t\n") if not suffix.strip("\n") or "\n" in text else text.rstrip(" \t")
    if not text.strip() or suffix.lstrip(" ").startswith(text.strip(" ")):  # it stands there already
        return ""
    return "" if repeats_neighbour(text, prefix, suffix) else text


def ended(text: str, prefix: str, multiline: bool) -> bool:
    """Whether whatever may still come would be cut away: generation can stop here."""
    if multiline:
        return len(block(text, prefix)) < len(text.rpartition("\n")[0]) or _goes_round(text)
    return len(first_line(text)) < len(text.rpartition("\n")[0] or text)


def without_second_blank(text: str, prefix: str) -> str:
    """The text without a blank at its start where one stands before the cursor already, behind text on its line."""
    typed = prefix.rpartition("\n")[2]
    return text.lstrip(" ") if typed.endswith(" ") and typed.strip() else text


def without_unprintable(text: str) -> str:
    """The text up to a character that could not be decoded, or that reorders what a reader sees (bidirectional
    controls; CVE-2021-42574)."""
    return _UNPRINTABLE.split(text, maxsplit=1)[0]


def first_line(text: str) -> str:
    """The rest of the cursor's line, with the lines up to where the brackets that it opens are closed.

    Where the rest is empty, also the next line, so that Enter is suggested with it.
    """
    lines = text.split("\n")
    last = 0 if lines[0].strip() or len(lines) == 1 else 1
    depth = sum(map(_depth, lines[: last + 1]))
    while depth > 0 and last + 1 < len(lines) and last < _MOST_LINES:
        last += 1
        depth += _depth(lines[last])
    return "\n".join(lines[: last + 1])


def _depth(line: str) -> int:
    """How many brackets more a line opens than it closes; those in strings count, which costs a line at worst."""
    return sum(line.count(opening) - line.count(closing) for opening, closing in _OPENING.items())


def block(text: str, prefix: str) -> str:
    """The text up to where its block ends: the first line that is indented less than the cursor's line."""
    depth = indentation(prefix.rpartition("\n")[2])
    kept: list[str] = []
    for index, line in enumerate(text.split("\n")):
        if index and line.strip() and indentation(line) < depth:
            break
        kept.append(line)
    return "\n".join(kept)


def indentation(line: str) -> int:
    """Columns of leading white space; a tab counts as eight, as in Python."""
    expanded = line.expandtabs(8)
    return len(expanded) - len(expanded.lstrip(" "))


def without_repetition(text: str) -> str:
    """The text up to where it repeats itself: the second of three equal lines, or a unit four times in a row."""
    lines = text.split("\n")
    for index in range(2, len(lines)):
        if lines[index].strip() and lines[index] == lines[index - 1] == lines[index - 2]:
            return "\n".join(lines[: index - 1])
    match = re.search(r"(\S.{2,39}?)\1{3,}", text, re.DOTALL)
    return text[: match.start() + len(match[1])] if match else text


def _goes_round(text: str) -> bool:
    """Whether the text ends in what `without_repetition` cuts away: asked after every token, so without a search."""
    *_, third, second, last, rest = ["", "", "", "", *text.split("\n")][-4:]
    if not rest and last.strip() and third == second == last:
        return True
    units = range(3, min(40, len(text) // 4) + 1)
    return any(text.endswith(text[-unit:] * 4) and text[-unit:].strip() for unit in units)


def without_overlap(text: str, suffix: str) -> str:
    """The text without an end that stands after the cursor already."""
    rest = suffix.split("\n", 1)[0]
    if rest.strip() and (stripped := text.rstrip()).endswith(rest.strip()) and len(stripped) >= len(rest.strip()):
        first, _, more = text.partition("\n")
        if not more.strip():
            return first.rstrip()[: -len(rest.strip())] if first.rstrip().endswith(rest.strip()) else text
    following = [line for line in suffix.split("\n")[1:] if line.strip()][:1]
    if following and len(following[0].strip()) > 2:
        lines = text.split("\n")
        for index in range(1, len(lines)):
            if lines[index].rstrip() == following[0].rstrip():
                return "\n".join(lines[:index])
    return text


def without_surplus_closers(text: str, suffix: str) -> str:
    """The text without closing brackets at its end that stand right after the cursor already."""
    after = suffix.split("\n", 1)[0].strip()
    while after and text and text[-1] in _CLOSING and after[0] == text[-1]:
        if text.count(text[-1]) <= text.count(_CLOSING[text[-1]]):
            break
        text, after = text[:-1], after[1:].lstrip()
    return text


def repeats_neighbour(text: str, prefix: str, suffix: str) -> bool:
    """Whether a whole-line suggestion is just the line before or after the cursor again."""
    line = (prefix.rpartition("\n")[2] + text).strip()
    before = [other.strip() for other in prefix.split("\n")[:-1] if other.strip()][-1:]
    after = [other.strip() for other in suffix.split("\n")[1:] if other.strip()][:1]
    return len(line) > 2 and "\n" not in line and line in (*before, *after)
