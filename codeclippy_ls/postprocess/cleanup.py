"""Clean-up of a model's answer: a pipeline of small named steps, each of which may shorten it to nothing.

A suggestion that repeats the text after the cursor, or the same text again and again, is worse than no suggestion.
Each step takes the text and the cursor's context, and can be disabled by its name. All texts have LF line ends. Knows
no model and no LSP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

from codeclippy_ls.families import list_control_tokens
from codeclippy_ls.text import indent_width

_UNPRINTABLE = re.compile("[\ufffd\u202a-\u202e\u2066-\u2069]")
# Control tokens that models spell out beside their family's own: of chats, and of other versions of a family.
_OTHER_CONTROL_TOKENS = (
    r"<\|(?:im_start|eot_id|fim_\w+|file_sep|repo_name)\|>"
    r"|<fim[_-]pad>|<(?:file_sep|repo_name|reponame|filename|gh_stars|EOT)>"
)
# They may also be code: an index or a type parameter, if they follow a name.
_CODE_LIKE_TOKENS = frozenset({"[PREFIX]", "[SUFFIX]", "<s>"})
_OPENING = {"(": ")", "[": "]", "{": "}"}
_MAX_STATEMENT_LINES = 8  # of one statement whose brackets are open
_CLOSING = {closing: opening for opening, closing in _OPENING.items()}
_CLOSING_ONLY = re.compile(r"[ \t]*[)\]}\"'`]+[ \t]*[:;,{]?")
_NOT_TRIVIAL = re.compile(r"\w|[)\]}:;]")


def _compile_control_tokens() -> re.Pattern[str]:
    """Compile a pattern of all families' control tokens as text."""
    patterns = []
    for token in list_control_tokens():
        # SentencePiece writes a space as U+2581; decoded text may have either or neither in front.
        spelled = re.escape(token.removeprefix("\u2581"))
        before = "\u2581?" if token.startswith("\u2581") else ""
        patterns.append(rf"(?<![\w)\]]){spelled}" if token in _CODE_LIKE_TOKENS else before + spelled)
    return re.compile("|".join((*patterns, _OTHER_CONTROL_TOKENS)))


_CONTROL_TOKEN = _compile_control_tokens()


@dataclass(frozen=True, slots=True)
class CursorContext:
    """Text before and after a cursor; ``multiline`` allows more than one line to be suggested there."""

    prefix: str
    suffix: str
    multiline: bool


def clean_up(text: str, prefix: str, suffix: str, multiline: bool, disabled: Collection[str] = ()) -> str:
    """Return the part of an answer to show at a cursor between ``prefix`` and ``suffix``; may be empty.

    Args:
        multiline: more than one line may be suggested here.
        disabled: names of steps to skip.
    """
    context = CursorContext(prefix, suffix, multiline)
    for name, step in STEPS.items():
        if text and name not in disabled:
            text = step(text, context)
    return text if text.strip() else ""


def is_finished(text: str, prefix: str, multiline: bool, disabled: Collection[str] = ()) -> bool:
    """Return whether generation can stop, because any further text would be cut."""
    repeats = multiline and "repetition" not in disabled and _ends_in_repetition(text)
    if "scope" in disabled:
        return repeats
    if "indentation" not in disabled:
        text = match_indentation(text, CursorContext(prefix, "", multiline))
    if multiline:
        return len(cut_to_block(text, prefix)) < len(text.rpartition("\n")[0]) or repeats
    return len(cut_to_line(text)) < len(text.rpartition("\n")[0] or text)


def count_replaced(text: str, suffix: str) -> int:
    """Count the characters after the cursor that a suggestion replaces: closing punctuation that it contains itself.

    Editors close brackets and quotes as they are opened, so that a cursor often precedes nothing but these. A
    suggestion that continues after them (``a, b):`` before ``)``) replaces them if it has them in the same order.
    """
    rest = suffix.partition("\n")[0]
    match = _CLOSING_ONLY.match(rest)
    if match is None or rest[match.end() :].strip() or "\n" in text:
        return 0
    unmatched = iter(_find_unmatched(text))
    wanted = [character for character in match.group() if not character.isspace()]
    return match.end() if all(any(character == other for other in unmatched) for character in wanted) else 0


def _find_unmatched(text: str) -> list[str]:
    """Find closing brackets that close nothing, the last quote of an odd number, and punctuation at the end."""
    found, open_brackets = [], list[str]()
    odd_quotes = {quote: text.rfind(quote) for quote in "\"'`" if text.count(quote) % 2}
    for index, character in enumerate(text):
        if character in _OPENING:
            open_brackets.append(character)
        elif character in _CLOSING and open_brackets and open_brackets[-1] == _CLOSING[character]:
            open_brackets.pop()
        elif (
            character in _CLOSING
            or odd_quotes.get(character) == index
            or (character in ":;,{" and not text[index + 1 :].strip())
        ):
            found.append(character)
    return found


def cut_at_unprintable(text: str, context: CursorContext) -> str:
    """Cut the text at a character that could not be decoded or that reorders the displayed text.

    The latter are bidirectional controls (CVE-2021-42574).
    """
    return _UNPRINTABLE.split(text, maxsplit=1)[0]


def cut_at_control_token(text: str, context: CursorContext) -> str:
    """Cut the text at a control token that the model spelled out, unless the file contains that token."""
    for match in _CONTROL_TOKEN.finditer(text):
        if match.group() not in context.prefix and match.group() not in context.suffix:
            return text[: match.start()]
    return text


def drop_duplicate_space(text: str, context: CursorContext) -> str:
    """Drop spaces at the start if the cursor's line has text that ends in a space."""
    typed = context.prefix.rpartition("\n")[2]
    return text.lstrip(" ") if typed.endswith(" ") and typed.strip() else text


def limit_to_scope(text: str, context: CursorContext) -> str:
    """Cut the text at the end of the line, or of the block."""
    return cut_to_block(text, context.prefix) if context.multiline else cut_to_line(text)


def cut_to_line(text: str) -> str:
    """Cut the text after the cursor's line, or after the line that closes the brackets opened there.

    If the rest of the line is empty, keep the next line, so that Enter is suggested with it.
    """
    lines = text.split("\n")
    last = 0 if lines[0].strip() or len(lines) == 1 else 1
    depth = sum(map(_count_open_brackets, lines[: last + 1]))
    while depth > 0 and last + 1 < len(lines) and last < _MAX_STATEMENT_LINES:
        last += 1
        depth += _count_open_brackets(lines[last])
    return "\n".join(lines[: last + 1])


def _count_open_brackets(line: str) -> int:
    """Count opening less closing brackets; those in strings count as well, which costs a line at worst."""
    return sum(line.count(opening) - line.count(closing) for opening, closing in _OPENING.items())


def cut_to_block(text: str, prefix: str) -> str:
    """Cut the text at the first line that is indented less than the cursor's line."""
    depth = indent_width(prefix.rpartition("\n")[2])
    kept: list[str] = []
    for index, line in enumerate(text.split("\n")):
        if index and line.strip() and indent_width(line) < depth:
            break
        kept.append(line)
    return "\n".join(kept)


def cut_repetition(text: str, context: CursorContext | None = None) -> str:
    """Cut the text where it repeats itself: after two of three equal lines, or after one of four equal units."""
    lines = text.split("\n")
    for index in range(2, len(lines)):
        if lines[index].strip() and lines[index] == lines[index - 1] == lines[index - 2]:
            return "\n".join(lines[: index - 1])
    match = re.search(r"(\S.{2,39}?)\1{3,}", text, re.DOTALL)
    return text[: match.start() + len(match[1])] if match else text


def _ends_in_repetition(text: str) -> bool:
    """Return whether the text ends in a repetition for `cut_repetition`; called per token, so it does not search."""
    *_, third, second, last, rest = ["", "", "", "", *text.split("\n")][-4:]
    if not rest and last.strip() and third == second == last:
        return True
    units = range(3, min(40, len(text) // 4) + 1)
    return any(text.endswith(text[-unit:] * 4) and text[-unit:].strip() for unit in units)


def drop_overlap(text: str, context: CursorContext) -> str:
    """Drop an end of the text that follows the cursor already."""
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
    """Drop closing brackets at the end that directly follow the cursor already."""
    after = context.suffix.split("\n", 1)[0].strip()
    while after and text and text[-1] in _CLOSING and after[0] == text[-1]:
        if text.count(text[-1]) <= text.count(_CLOSING[text[-1]]):
            break
        text, after = text[:-1], after[1:].lstrip()
    return text


def match_indentation(text: str, context: CursorContext) -> str:
    """Indent the lines after the first by tabs or by spaces, as the file does."""
    first, newline, others = text.partition("\n")
    if not others:
        return text
    tabs, steps = _collect_indents(f"{context.prefix}\n{context.suffix}")
    if tabs and not steps:
        own = _collect_indents(f"\n{others}")[1]
        # Four if that divides all: from the widths alone, eight spaces could be one level or two.
        if unit := next((unit for unit in (4, 2) if not any(step % unit for step in own)), 0):
            others = re.sub(r"^ +", lambda match: "\t" * (len(match.group()) // unit), others, flags=re.M)
    elif steps and not tabs:
        others = re.sub(r"^\t+", lambda match: " " * (min(steps) * len(match.group())), others, flags=re.M)
    return first + newline + others


@lru_cache(maxsize=8)  # the file is the same for every token of an answer
def _collect_indents(text: str) -> tuple[int, frozenset[int]]:
    """Count the lines that begin with a tab, and collect the widths of those that begin with two spaces or more."""
    widths = frozenset(map(len, re.findall(r"^( {2,})\S", text, re.M)))
    return len(re.findall(r"^\t+\S", text, re.M)), widths


def strip_trailing_whitespace(text: str, context: CursorContext) -> str:
    """Strip white space at the end; a line end stays if only that is missing before the suffix."""
    return text.rstrip(" \t\n") if not context.suffix.strip("\n") or "\n" in text else text.rstrip(" \t")


def drop_duplicate_text(text: str, context: CursorContext) -> str:
    """Drop the text if the suffix begins with it."""
    return "" if context.suffix.lstrip(" ").startswith(text.strip(" ")) else text


def drop_duplicate_line(text: str, context: CursorContext) -> str:
    """Drop a line that equals the line before or after the cursor."""
    line = (context.prefix.rpartition("\n")[2] + text).strip()
    before = [other.strip() for other in context.prefix.split("\n")[:-1] if other.strip()][-1:]
    after = [other.strip() for other in context.suffix.split("\n")[1:] if other.strip()][:1]
    return "" if len(line) > 2 and "\n" not in line and line in (*before, *after) else text


def drop_trivial(text: str, context: CursorContext) -> str:
    """Drop text without a word and without an end of anything: a lone quote, comma or comment character."""
    return text if _NOT_TRIVIAL.search(text) else ""


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
