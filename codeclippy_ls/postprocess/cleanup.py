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
from codeclippy_ls.syntax.languages import is_closing_line
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
_LETTER, _WORD = re.compile(r"[^\W\d_]"), re.compile(r"[^\W\d_]{2}")
_NAME = re.compile(r"\b[^\W\d]")  # not a hexadecimal number's letters
_UNITS = 6  # equal pieces in a row; four of them stand in good code: `(int, int, int, int)`
_FENCE = re.compile(r"[ \t]*```[\w+-]*[ \t]*\n")
_REASONING = ("<think>", "</think>")
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
    """A cursor: the text before and after it, and whether more than one line may be suggested there."""

    prefix: str
    suffix: str
    multiline: bool
    language: str = ""

    @property
    def line(self) -> str:
        """The cursor's line up to the cursor."""
        return self.prefix.rpartition("\n")[2]

    @property
    def rest(self) -> str:
        """The cursor's line behind the cursor."""
        return self.suffix.partition("\n")[0]


def clean_up(text: str, context: CursorContext, disabled: Collection[str] = ()) -> str:
    """Return the part of an answer that is worth showing at a cursor; empty if there is none.

    Args:
        disabled: names of steps that are left out.
    """
    for name, step in STEPS.items():
        if text and name not in disabled:
            text = step(text, context)
    return text if text.strip() else ""


def list_steps_skipped_by_key(context: CursorContext) -> tuple[str, ...]:
    """Return the steps that are left out for those who ask by key.

    They are shown a lone bracket, too, and a line like its neighbour, if they have begun it.
    """
    return ("trivial", "duplicateLine") if context.line.strip() else ("trivial",)


def is_finished(text: str, prefix: str, multiline: bool, disabled: Collection[str] = ()) -> bool:
    """Return whether whatever may still come would be cut away, so that generation can stop here."""
    context = CursorContext(prefix, "", multiline)
    if "wrapping" not in disabled:
        text = drop_wrapping(text, context)
    repeats = multiline and "repetition" not in disabled and _ends_in_repetition(text)
    if "scope" in disabled:
        return repeats
    if "indentation" not in disabled:
        text = match_indentation(text, context)
    if multiline:
        return len(cut_to_block(text, prefix)) < len(text.rpartition("\n")[0]) or repeats
    return len(cut_to_line(text)) < len(text.rpartition("\n")[0] or text)


def drop_wrapping(text: str, context: CursorContext) -> str:
    """Drop a model's reasoning, and the Markdown fence that it put around the code."""
    head, tag, rest = text.partition(_REASONING[0])
    if tag and not head.strip():
        text = rest.partition(_REASONING[1])[2].lstrip("\n")
    if context.language != "markdown" and (fence := _FENCE.match(text)) is not None:
        text = text[fence.end() :].partition("\n```")[0]
    return text


def drop_repeated_line_start(text: str, context: CursorContext) -> str:
    """Drop the start of the cursor's line, if the model wrote it again."""
    start, answer = context.line.strip(), text.lstrip(" \t")
    if len(start) < 3 or not _NAME.search(start) or not answer.startswith(start):
        return text
    rest = answer[len(start) :]
    if not rest.strip():
        return text  # a word twice
    return rest.lstrip(" ") if context.line.endswith(" ") else rest


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
    """Drop space at the start that stands before the cursor already: a typed space, or the line's indentation."""
    if context.line and not context.line.strip():
        answer = text.lstrip(" \t")
        return text if answer.startswith("\n") else answer
    return text.lstrip(" ") if context.line.endswith(" ") else text


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
    """Count the brackets that a line opens and does not close; in strings, too, which costs a line at worst."""
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
    """Cut where the text repeats itself: the second of three equal lines, or six times the same at its end.

    Rows of numbers, rulers and closing brackets repeat in good code, too; so there must be a name, or a word.
    """
    lines = text.split("\n")
    for index in range(2, len(lines)):
        if _NAME.search(lines[index]) and lines[index] == lines[index - 1] == lines[index - 2]:
            return "\n".join(lines[: index - 1])
    unit = _find_repeated_unit(text)
    end = len(text)
    while unit and text.endswith(unit, 0, end - len(unit)):
        end -= len(unit)
    return text[:end]


def _find_repeated_unit(text: str) -> str:
    """Return the piece that a text repeats at its end, or nothing."""
    for length in range(3, min(40, len(text) // _UNITS) + 1):
        unit = text[-length:]
        if text.endswith(unit * _UNITS) and _WORD.search(unit) and len(set(unit.strip())) > 1:
            return unit
    return ""


def _ends_in_repetition(text: str) -> bool:
    """Return whether the text ends in what `cut_repetition` cuts away. Asked after every token, so without a search."""
    *_, third, second, last, rest = ["", "", "", "", *text.split("\n")][-4:]
    if not rest and _NAME.search(last) and third == second == last:
        return True
    return bool(_find_repeated_unit(text))


def drop_overlap(text: str, context: CursorContext) -> str:
    """Drop an end that stands behind the cursor already: the rest of the line, or the lines that follow."""
    rest = context.rest.strip()
    if _LETTER.search(rest) and "\n" not in text.strip("\n") and text.rstrip().endswith(rest):
        return text.rstrip()[: -len(rest)]
    following = [line.rstrip() for line in context.suffix.partition("\n")[2].lstrip("\n").split("\n", 1)][:1]
    if following and _LETTER.search(following[0]) and len(following[0].strip()) > 2:
        lines = text.split("\n")
        for index in range(1, len(lines)):
            if lines[index].rstrip() == following[0] and _goes_on_as_the_file(lines[index:], context.suffix):
                return "\n".join(lines[:index])
    return text


def _goes_on_as_the_file(lines: list[str], suffix: str) -> bool:
    """Return whether lines are those that follow the cursor's line, the last perhaps unfinished."""
    following = suffix.partition("\n")[2].lstrip("\n")
    return following.startswith("\n".join(lines).rstrip())


def match_indentation(text: str, context: CursorContext) -> str:
    """Indent the lines after the first with tabs or with spaces, as the file does."""
    first, newline, others = text.partition("\n")
    if not others or (re.search(r"^\t", others, re.M) and re.search(r"^ ", others, re.M)):
        return text  # both, on purpose
    tabs, steps = _indents(f"{context.prefix}\n{context.suffix}")
    if tabs and not steps:
        own = _indents(f"\n{others}")[1]
        # Four if that fits: from the widths alone, eight spaces could be one level or two.
        if unit := next((unit for unit in (4, 2) if not any(step % unit for step in own)), 0):
            others = re.sub(
                rf"^(?: {{{unit}}})+", lambda match: "\t" * (len(match.group()) // unit), others, flags=re.M
            )
    elif steps and not tabs:
        others = re.sub(r"^\t+", lambda match: " " * (min(steps) * len(match.group())), others, flags=re.M)
    return first + newline + others


@lru_cache(maxsize=8)  # of the file, which is the same for every token of an answer
def _indents(text: str) -> tuple[int, frozenset[int]]:
    """Count the lines that begin with a tab, and collect the widths of those that begin with two spaces or more."""
    widths = frozenset(map(len, re.findall(r"^( {2,})\S", text, re.M)))
    return len(re.findall(r"^\t+\S", text, re.M)), widths


def strip_trailing_whitespace(text: str, context: CursorContext) -> str:
    """Strip white space at the end; a line end stays if only that is missing before the suffix."""
    return text.rstrip(" \t\n") if not context.suffix.strip("\n") or "\n" in text else text.rstrip(" \t")


def drop_duplicate_text(text: str, context: CursorContext) -> str:
    """Return nothing if the text behind the cursor begins with the answer."""
    there = _LETTER.search(text) and context.suffix.lstrip(" ").startswith(text.strip(" "))
    return "" if there else text


def drop_duplicate_line(text: str, context: CursorContext) -> str:
    """Return nothing if a whole-line suggestion is just the line before or after the cursor again.

    A closing line, a row without letters and one that ends with a comma may well be like their neighbours.
    """
    line = (context.line + text).strip()
    before = [other.strip() for other in context.prefix.split("\n")[:-1] if other.strip()][-1:]
    after = [other.strip() for other in context.suffix.split("\n")[1:] if other.strip()][:1]
    is_row = not _LETTER.search(line) or line.endswith(",") or is_closing_line(line)
    return "" if not is_row and len(line) > 2 and "\n" not in line and line in (*before, *after) else text


def drop_trivial(text: str, context: CursorContext) -> str:
    """Return nothing if the answer has neither a word nor an end of something: a lone quote or comma."""
    return text if _NOT_TRIVIAL.search(text) or len(text.strip()) > 2 else ""


STEPS: dict[str, Callable[[str, CursorContext], str]] = {
    "wrapping": drop_wrapping,
    "unprintable": cut_at_unprintable,
    "controlTokens": cut_at_control_token,
    "lineStart": drop_repeated_line_start,
    "duplicateSpace": drop_duplicate_space,
    "indentation": match_indentation,  # before the block's end is looked for by its columns
    "scope": limit_to_scope,
    "repetition": cut_repetition,
    "overlap": drop_overlap,
    "trailingWhitespace": strip_trailing_whitespace,
    "duplicateText": drop_duplicate_text,
    "duplicateLine": drop_duplicate_line,
    "trivial": drop_trivial,
}
