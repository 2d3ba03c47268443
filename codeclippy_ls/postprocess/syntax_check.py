"""Whether a suggestion leaves the code around it whole, and the head of it that does.

Python is asked by parsing the top-level statement around the cursor, with and without the suggestion; other languages,
and Python that does not parse for other reasons, by their brackets and quotes. Knows no model and no LSP.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from functools import cached_property

from codeclippy_ls.text import indent_width

_OPENING = {"(": ")", "[": "]", "{": "}"}
_CLOSING = {closing: opening for opening, closing in _OPENING.items()}
_REACH = 40_000  # characters looked at on either side of the cursor
_MOST_PARSED = 24_000  # characters: eight milliseconds, and a suggestion may need a dozen parses
_MOST_HEADS = 6
_CODE_BEGINS = re.compile(r"\n(?:def|class|@|import|from|function|const|let|export|public|static|func|fn|pub)\b")
_CONTINUES = re.compile(r"(?:else|elif|except|finally|case)\b|[)\]}]|\s|#|$")  # the statement of the line above
_HASH_COMMENTS = frozenset(
    {"python", "shellscript", "sh", "yaml", "toml", "ruby", "perl", "r", "julia", "makefile", "dockerfile"}
)
_BRACKETED = frozenset(
    {
        "javascript",
        "javascriptreact",
        "typescript",
        "typescriptreact",
        "java",
        "c",
        "cpp",
        "csharp",
        "go",
        "kotlin",
        "dart",
        "swift",
        "css",
        "scss",
        "less",
    }
)
# What may stand in place of a line: a statement, heads of what is indented below, openers; inside brackets, items.
_LINES = ("pass", "if x:", "else:", "except x:", "x = (", "x = [", "x = {", "def x(")
_ITEMS = ("", "x,", "x: x,", "x=x,", "x(", "x in x", "x: (")
_MEMBER = re.compile(r"([ \t]*)(?:async[ \t]+def|def|class)\b")
_NEAR_LINES = 16  # after the cursor, in which a bracket that nothing opens is the cursor's affair
_DELIMITER = re.compile(r"""([\"'])(?:\1\||\|\1)\1""")
_LAST_WORD = re.compile(r"\w+\Z")
_STRING_PREFIXES = frozenset({"r", "f", "b", "u", "rb", "br", "fr", "rf", "t", "tr", "rt", "return", "in", "and", "or"})
_WORD_END, _WORD_START = re.compile(r"\w\Z"), re.compile(r"\w")


def find_longest_valid_prefix(text: str, prefix: str, suffix: str, language: str) -> str:
    """The longest head of a suggestion that breaks nothing, or nothing.

    A head is the suggestion without closing brackets at its end, or without its last lines. All texts are in LF.
    """
    if not text or (_WORD_END.search(text) and _WORD_START.match(suffix)):  # two words would become one
        return ""
    if _DELIMITER.search(prefix[-2:] + "|" + suffix[:2]):  # inside the three quotes of a long string
        return ""
    around = _Around(prefix, suffix, language)
    return next((head for head in _heads(text) if head.strip() and not around.broken_by(head)), "")


def _heads(text: str) -> list[str]:
    found = [text]
    head = text
    while head and head[-1] in _CLOSING:
        head = head[:-1].rstrip(" \t")
        found.append(head)
    lines = text.split("\n")
    found += ["\n".join(lines[:count]).rstrip() for count in range(len(lines) - 1, 0, -1)]
    return found if len(found) <= _MOST_HEADS else [*found[: _MOST_HEADS - 1], found[-1]]


def breaks_syntax(text: str, prefix: str, suffix: str, language: str) -> bool:
    """Whether the code is worse off with the suggestion than it was without."""
    return _Around(prefix, suffix, language).broken_by(text)


def introduces_syntax_error(before: str, after: str, language: str) -> bool:
    """Return whether a text that was valid no longer is.

    By the language's own parser if that is light, else by brackets and quotes if these must pair up. Nothing is known
    of other languages.
    """
    if language in _BRACKETED:
        return _scan(before, "", language) == ("", []) and _scan(after, "", language) != ("", [])
    whole = _WHOLE.get(language)
    return whole is not None and not whole(after) and whole(before)


def has_open_delimiter(prefix: str, language: str) -> bool:
    """Whether a bracket or a string is open where a text ends."""
    quote, left = _scan(_code(prefix), "", language)
    return quote not in ("", "#") or any(bracket in _OPENING for bracket in left)


class _Around:
    """The code around a cursor; what does not depend on a suggestion is found out once, and only where it is asked."""

    def __init__(self, prefix: str, suffix: str, language: str) -> None:
        self.suffix, self.language = suffix, language
        self.quote, self.open_before = _scan(_code(prefix), "", language)
        self.before, self.after = _statement(prefix, suffix) if language == "python" else ("", "")
        if len(self.before) + len(self.after) > _MOST_PARSED:
            self.before, self.after = _member(self.before, self.after)

    def broken_by(self, text: str) -> bool:
        """Whether a suggestion breaks it."""
        if self._meets_string(text):
            return True
        told = self._told_by_parser(text)
        return not _balanced(text, self.quote, self.open_before, self.suffix, self.language) if told is None else told

    def _meets_string(self, text: str) -> bool:
        """Return whether a word of the suggestion would stand right before a string of the suffix.

        Only a string's prefix may.
        """
        if self.language != "python" or self.quote or self.suffix[:1] not in ("'", '"'):
            return False
        word = _LAST_WORD.search(text)
        return word is not None and word.group().lower() not in _STRING_PREFIXES and not _scan(text, "", "python")[0]

    def _told_by_parser(self, text: str) -> bool | None:
        """Return what Python's parser says, or ``None`` if it cannot say.

        It cannot if the code does not parse for other reasons, is too long to be parsed between two keystrokes, or the
        cursor is in a long string, in which statements are not found.
        """
        if self.language != "python" or len(self.quote) == 3 or len(self.before) + len(self.after) > _MOST_PARSED:
            return None
        if is_valid_python(self.before + text + self.after):
            return False
        rest, _, following = self.after.partition("\n")
        if not rest.strip() and text.rstrip().endswith(":"):  # a head whose body is still to be written
            depth = indent_width((self.before + text).rpartition("\n")[2])
            if is_valid_python(f"{self.before}{text}\n{' ' * (depth + 1)}pass\n{following}"):
                return False
        return True if self._could_be_whole else None

    @cached_property
    def _could_be_whole(self) -> bool:
        """Whether it parses as it is, or with some other line in place of the cursor's: then that line is to blame."""
        above, _, line = self.before.rpartition("\n")
        blanks, following = line[: len(line) - len(line.lstrip())], self.after.partition("\n")[2]
        opened_here = _scan(line, "", self.language)[1]
        inside = sum(bracket in _OPENING for bracket in self.open_before) > sum(b in _OPENING for b in opened_here)
        others = (f"{above}\n{blanks}{other}\n{following}" for other in (_ITEMS if inside else _LINES))
        return any(map(is_valid_python, (self.before + self.after, *others)))


def _code(prefix: str) -> str:
    """As much of the prefix as is looked at, from where code certainly begins."""
    if len(prefix) <= _REACH:
        return prefix
    found = _CODE_BEGINS.search(prefix, len(prefix) - _REACH)
    return prefix[found.start() + 1 if found else len(prefix) - _REACH :]


def _statement(prefix: str, suffix: str) -> tuple[str, str]:
    """The parts, before and after the cursor, of the top-level statements that it stands in."""
    start = len(prefix)
    while start > 0 and len(prefix) - start < _REACH:
        start = prefix.rfind("\n", 0, start - 1) + 1 if start > 1 else 0
        if prefix[start] != "@" and not _CONTINUES.match(prefix, start):
            break
    end, begun, decorated = 0, 0, False
    while (end := suffix.find("\n", end) + 1) and end < _REACH:
        if _CONTINUES.match(suffix, end):
            continue
        begun += not decorated
        decorated = suffix[end] == "@"
        if begun == 2:  # one statement more than the cursor's: it may stand in a decorator of that
            break
    return prefix[start:], suffix[: end or len(suffix)]


def _member(before: str, after: str) -> tuple[str, str]:
    """Of a long class, the method that the cursor stands in, at the left margin; all of it where that is not found."""
    lines = before.split("\n")
    depth = indent_width(lines[-1]) if lines[-1].strip() else 1 << 20
    for start in range(len(lines) - 1, -1, -1):
        if not lines[start].strip():
            continue
        head = _MEMBER.match(lines[start])
        if head is not None and head[1] and (indent_width(head[1]) < depth or start == len(lines) - 1):
            break
        depth = min(depth, indent_width(lines[start]) + 1)
    else:
        return before, after
    margin = head[1]
    rest = after.split("\n")
    end = next(
        (
            index
            for index, line in enumerate(rest)
            if index and line.strip() and line.strip()[0] not in ")]}" and indent_width(line) <= indent_width(margin)
        ),
        len(rest),
    )
    mine = lines[start:]
    if any(line.strip() and not line.startswith(margin) for line in (*mine, *rest[1:end])):
        return before, after
    cut = len(margin)
    return ("\n".join(line[cut:] for line in mine), "\n".join([rest[0], *(line[cut:] for line in rest[1:end])]) + "\n")


def is_valid_python(code: str) -> bool:
    """Whether it is Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in the user's strings
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


_WHOLE = {"python": is_valid_python, "json": _json}


def _balanced(text: str, quote: str, outer: list[str], suffix: str, language: str) -> bool:
    """Whether the suggestion closes what it opens, and no more than is open around it.

    What is open around it is what stands open at the end of the prefix and is not closed in the suffix.
    """
    still, inner = _scan(text, quote, language)
    if quote and quote != "#":  # inside a string: more of it, or its end where that is missing
        closed_below = (suffix if len(quote) > 1 else suffix.partition("\n")[0]).count(quote) % 2  # the others pair up
        if language == "python" and text.count("{") != text.count("}"):
            return False  # half of what a formatted string has between braces
        if quote in text:
            return not still and not closed_below
        strict = language == "python" or language in _BRACKETED  # elsewhere it may be an apostrophe
        return bool(closed_below) or quote not in ("'", '"') or not strict
    if len(still) == 3:
        return suffix.count(still) % 2 == 1  # the start of a long string that ends below
    if still and not still.startswith("#"):
        return False  # an unclosed string
    _, following = _scan(suffix[:_REACH], "", language)
    closed = [bracket for bracket in inner if bracket in _CLOSING]
    opened = [bracket for bracket in inner if bracket in _OPENING]
    needed = [bracket for bracket in following if bracket in _CLOSING]
    waiting = [bracket for bracket in outer if bracket in _OPENING]
    spare = waiting[: max(0, len(waiting) - len(needed))]
    if closed:
        inside = waiting[len(waiting) - len(closed) :] if len(closed) <= len(waiting) else []
        return not opened and len(closed) <= len(spare) and [_OPENING[b] for b in reversed(inside)] == closed
    if opened:
        return len(needed) - len(waiting) >= len(opened)
    _, near = _scan("\n".join(suffix.split("\n", _NEAR_LINES)[:_NEAR_LINES]), "", language)
    return sum(bracket in _CLOSING for bracket in near) <= len(waiting)  # what closes there is opened nowhere


def _scan(text: str, quote: str, language: str) -> tuple[str, list[str]]:
    """The string or comment that is open at the end, and the brackets that match nothing: closers, then openers."""
    comment = "#" if language in _HASH_COMMENTS else "//"
    quotes = "\"\"\"|'''|[\"']" if language == "python" else "[\"'`]"
    interesting = re.compile(rf"\\.|{quotes}|{comment}|/\*|\*/|[()\[\]{{}}]|\n")
    left: list[str] = []
    for match in interesting.finditer(text):
        found = match.group()
        if quote:
            ends = "\n" if quote in ("#", "'", '"') else "*/" if quote == "/*" else quote
            if found in (quote, ends) and not (found == quote == "#"):
                quote = ""
        elif found in (comment, "/*"):
            quote = "#" if found == comment else ("/*" if comment == "//" else "")
        elif found[0] in "\"'`":
            quote = found
        elif found in _OPENING:
            left.append(found)
        elif found in _CLOSING:
            if left and left[-1] == _CLOSING[found]:
                left.pop()
            else:
                left.append(found)
    return quote, left
