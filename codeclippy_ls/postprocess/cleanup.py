"""What is kept of a model's answer: a pipe of small named filters, each of which may shorten it to nothing.

A suggestion that repeats what already stands after the cursor, or that says the same thing again and again, is worse
than none. Every filter takes the text and the place it is meant for, and can be switched off by its name. All texts
are in LF. Knows no model and no LSP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

from codeclippy_ls.text import indent_width

_UNPRINTABLE = re.compile("[\ufffd\u202a-\u202e\u2066-\u2069]")
# Control tokens of the families, as text: what a model writes that was shown them as plain text in its training.
_CONTROL = re.compile(
    r"<\|(?:endoftext|im_end|im_start|eot_id|end_of_text|fim_\w+|file_sep(?:arator)?|repo_name|SUF|PRE|MID)\|>"
    r"|<fim[_-](?:prefix|middle|suffix|pad)>|<(?:file_sep|repo_name|reponame|filename|gh_stars|PRE|SUF|MID|EOT)>"
    r"|<(?:NME|BEF|MSG|DFF)>"
)
_OPENING = {"(": ")", "[": "]", "{": "}"}
_MOST_LINES = 8  # of one statement whose brackets are open
_CLOSING = {closing: opening for opening, closing in _OPENING.items()}
_CLOSERS_ONLY = re.compile(r"[ \t]*[)\]}\"'`]+[ \t]*[:;,{]?")
_WORTH = re.compile(r"\w|[)\]}:;]")


@dataclass(frozen=True, slots=True)
class CursorContext:
    """A cursor: the text before and after it, and whether more than one line may be suggested there."""

    prefix: str
    suffix: str
    multiline: bool


def clean_up(text: str, prefix: str, suffix: str, multiline: bool, off: Collection[str] = ()) -> str:
    """The part of an answer worth showing at a cursor between ``prefix`` and ``suffix``; empty where none is.

    Args:
        multiline: whether more than one line may be suggested here.
        off: names of filters that are not applied.
    """
    context = CursorContext(prefix, suffix, multiline)
    for name, filter in STEPS.items():
        if text and name not in off:
            text = filter(text, context)
    return text if text.strip() else ""


def is_finished(text: str, prefix: str, multiline: bool, off: Collection[str] = ()) -> bool:
    """Whether whatever may still come would be cut away: generation can stop here."""
    goes_round = multiline and "repetition" not in off and _ends_in_repetition(text)
    if "scope" in off:
        return goes_round
    if "indentation" not in off:
        text = match_indentation(text, CursorContext(prefix, "", multiline))
    if multiline:
        return len(cut_to_block(text, prefix)) < len(text.rpartition("\n")[0]) or goes_round
    return len(cut_to_line(text)) < len(text.rpartition("\n")[0] or text)


def count_replaced(text: str, suffix: str) -> int:
    """How many characters after the cursor a suggestion takes the place of: closing signs that it brings along.

    Editors close brackets and quotes as they are opened, so that a cursor often stands before nothing but these. A
    suggestion that goes on behind them (``a, b):`` before ``)``) replaces them, where it holds them in their order.
    """
    rest = suffix.partition("\n")[0]
    match = _CLOSERS_ONLY.match(rest)
    if match is None or rest[match.end() :].strip() or "\n" in text:
        return 0
    signs = iter(_find_unmatched(text))
    wanted = [sign for sign in match.group() if not sign.isspace()]
    return match.end() if all(any(sign == other for other in signs) for sign in wanted) else 0


def _find_unmatched(text: str) -> list[str]:
    """Closing brackets that close nothing in the text, the last quote of an odd number, and a sign at its end."""
    found, open_ = [], list[str]()
    odd = {quote: text.rfind(quote) for quote in "\"'`" if text.count(quote) % 2}
    for index, sign in enumerate(text):
        if sign in _OPENING:
            open_.append(sign)
        elif sign in _CLOSING and open_ and open_[-1] == _CLOSING[sign]:
            open_.pop()
        elif sign in _CLOSING or odd.get(sign) == index or (sign in ":;,{" and not text[index + 1 :].strip()):
            found.append(sign)
    return found


def cut_at_unprintable(text: str, context: CursorContext) -> str:
    """Cut the text at a character that could not be decoded or that reorders what a reader sees.

    The latter are bidirectional controls (CVE-2021-42574).
    """
    return _UNPRINTABLE.split(text, maxsplit=1)[0]


def cut_at_control_token(text: str, context: CursorContext) -> str:
    """The text up to a control token that the model spelled out, unless the file is about such tokens."""
    for match in _CONTROL.finditer(text):
        if match.group() not in context.prefix and match.group() not in context.suffix:
            return text[: match.start()]
    return text


def drop_duplicate_space(text: str, context: CursorContext) -> str:
    """The text without a blank at its start where one stands before the cursor already, behind text on its line."""
    typed = context.prefix.rpartition("\n")[2]
    return text.lstrip(" ") if typed.endswith(" ") and typed.strip() else text


def limit_to_scope(text: str, context: CursorContext) -> str:
    """The rest of the line, or the block."""
    return cut_to_block(text, context.prefix) if context.multiline else cut_to_line(text)


def cut_to_line(text: str) -> str:
    """The rest of the cursor's line, with the lines up to where the brackets that it opens are closed.

    Where the rest is empty, also the next line, so that Enter is suggested with it.
    """
    lines = text.split("\n")
    last = 0 if lines[0].strip() or len(lines) == 1 else 1
    depth = sum(map(_bracket_balance, lines[: last + 1]))
    while depth > 0 and last + 1 < len(lines) and last < _MOST_LINES:
        last += 1
        depth += _bracket_balance(lines[last])
    return "\n".join(lines[: last + 1])


def _bracket_balance(line: str) -> int:
    """How many brackets more a line opens than it closes; those in strings count, which costs a line at worst."""
    return sum(line.count(opening) - line.count(closing) for opening, closing in _OPENING.items())


def cut_to_block(text: str, prefix: str) -> str:
    """The text up to where its block ends: the first line that is indented less than the cursor's line."""
    depth = indent_width(prefix.rpartition("\n")[2])
    kept: list[str] = []
    for index, line in enumerate(text.split("\n")):
        if index and line.strip() and indent_width(line) < depth:
            break
        kept.append(line)
    return "\n".join(kept)


def cut_repetition(text: str, context: CursorContext | None = None) -> str:
    """The text up to where it repeats itself: the second of three equal lines, or a unit four times in a row."""
    lines = text.split("\n")
    for index in range(2, len(lines)):
        if lines[index].strip() and lines[index] == lines[index - 1] == lines[index - 2]:
            return "\n".join(lines[: index - 1])
    match = re.search(r"(\S.{2,39}?)\1{3,}", text, re.DOTALL)
    return text[: match.start() + len(match[1])] if match else text


def _ends_in_repetition(text: str) -> bool:
    """Whether the text ends in what `cut_repetition` cuts away: asked after every token, so without a search."""
    *_, third, second, last, rest = ["", "", "", "", *text.split("\n")][-4:]
    if not rest and last.strip() and third == second == last:
        return True
    units = range(3, min(40, len(text) // 4) + 1)
    return any(text.endswith(text[-unit:] * 4) and text[-unit:].strip() for unit in units)


def drop_overlap(text: str, context: CursorContext) -> str:
    """The text without an end that stands after the cursor already."""
    suffix = context.suffix
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


def drop_surplus_closing_brackets(text: str, context: CursorContext) -> str:
    """The text without closing brackets at its end that stand right after the cursor already."""
    after = context.suffix.split("\n", 1)[0].strip()
    while after and text and text[-1] in _CLOSING and after[0] == text[-1]:
        if text.count(text[-1]) <= text.count(_CLOSING[text[-1]]):
            break
        text, after = text[:-1], after[1:].lstrip()
    return text


def match_indentation(text: str, context: CursorContext) -> str:
    """The text with its lines after the first indented by tabs where the file is, by blanks where the file is."""
    first, newline, others = text.partition("\n")
    if not others:
        return text
    tabs, steps = _indents(f"{context.prefix}\n{context.suffix}")
    if tabs and not steps:
        own = _indents(f"\n{others}")[1]
        # Four where that fits: from the widths alone, eight blanks could be one level or two.
        if unit := next((unit for unit in (4, 2) if not any(step % unit for step in own)), 0):
            others = re.sub(r"^ +", lambda match: "\t" * (len(match.group()) // unit), others, flags=re.M)
    elif steps and not tabs:
        others = re.sub(r"^\t+", lambda match: " " * (min(steps) * len(match.group())), others, flags=re.M)
    return first + newline + others


@lru_cache(maxsize=8)  # of the file, which is the same for every token of an answer
def _indents(text: str) -> tuple[int, frozenset[int]]:
    """How many lines begin with a tab, and the widths of those that begin with two blanks or more."""
    widths = frozenset(map(len, re.findall(r"^( {2,})\S", text, re.M)))
    return len(re.findall(r"^\t+\S", text, re.M)), widths


def strip_trailing_whitespace(text: str, context: CursorContext) -> str:
    """The text without white space at its end; a line end stays where it is all that is missing before the suffix."""
    return text.rstrip(" \t\n") if not context.suffix.strip("\n") or "\n" in text else text.rstrip(" \t")


def drop_duplicate_text(text: str, context: CursorContext) -> str:
    """Nothing, where the suffix begins with the text."""
    return "" if context.suffix.lstrip(" ").startswith(text.strip(" ")) else text


def drop_duplicate_line(text: str, context: CursorContext) -> str:
    """Nothing, where a whole-line suggestion is just the line before or after the cursor again."""
    line = (context.prefix.rpartition("\n")[2] + text).strip()
    before = [other.strip() for other in context.prefix.split("\n")[:-1] if other.strip()][-1:]
    after = [other.strip() for other in context.suffix.split("\n")[1:] if other.strip()][:1]
    return "" if len(line) > 2 and "\n" not in line and line in (*before, *after) else text


def drop_trivial(text: str, context: CursorContext) -> str:
    """Nothing, where there is neither a word nor the end of anything in it: a lone quote, comma or comment sign."""
    return text if _WORTH.search(text) else ""


STEPS: dict[str, Callable[[str, CursorContext], str]] = {
    "unprintable": cut_at_unprintable,
    "controlTokens": cut_at_control_token,
    "duplicateSpace": drop_duplicate_space,
    "indentation": match_indentation,  # before the block's end is looked for by its columns
    "scope": limit_to_scope,
    "repetition": cut_repetition,
    "overlap": drop_overlap,
    "closingBrackets": drop_surplus_closing_brackets,
    "trailingWhitespace": strip_trailing_whitespace,
    "duplicateText": drop_duplicate_text,
    "duplicateLine": drop_duplicate_line,
    "trivial": drop_trivial,
}
