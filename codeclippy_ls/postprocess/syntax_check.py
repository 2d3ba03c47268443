"""Syntax check of suggestions: find the longest prefix of one that keeps the code around it valid.

For Python the top-level statement around the cursor is parsed, with and without the suggestion. For other languages,
and for Python that does not parse for other reasons, brackets and quotes are matched. Knows no model and no LSP.
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
_MAX_PARSED = 24_000  # characters: eight milliseconds, and a suggestion may need a dozen parses
_MAX_CANDIDATES = 6
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
# Replacements for the cursor's line: a statement, headers of a block, opening brackets; inside brackets, items.
_LINES = ("pass", "if x:", "else:", "except x:", "x = (", "x = [", "x = {", "def x(")
_ITEMS = ("", "x,", "x: x,", "x=x,", "x(", "x in x", "x: (")
_MEMBER = re.compile(r"([ \t]*)(?:async[ \t]+def|def|class)\b")
_NEAR_LINES = 16  # after the cursor, in which an unmatched closing bracket belongs to the cursor
_DELIMITER = re.compile(r"""([\"'])(?:\1\||\|\1)\1""")
_LAST_WORD = re.compile(r"\w+\Z")
_STRING_PREFIXES = frozenset({"r", "f", "b", "u", "rb", "br", "fr", "rf", "t", "tr", "rt", "return", "in", "and", "or"})
_WORD_END, _WORD_START = re.compile(r"\w\Z"), re.compile(r"\w")


def find_longest_valid_prefix(text: str, prefix: str, suffix: str, language: str) -> str:
    """Find the longest prefix of a suggestion that introduces no syntax error; empty if there is none.

    Candidates are the suggestion without closing brackets at its end, and without its last lines. All texts have LF
    line ends.
    """
    if not text or (_WORD_END.search(text) and _WORD_START.match(suffix)):  # two words would become one
        return ""
    if _DELIMITER.search(prefix[-2:] + "|" + suffix[:2]):  # inside the three quotes of a long string
        return ""
    code = _SurroundingCode(prefix, suffix, language)
    return next((head for head in _list_prefixes(text) if head.strip() and not code.is_broken_by(head)), "")


def _list_prefixes(text: str) -> list[str]:
    found = [text]
    head = text
    while head and head[-1] in _CLOSING:
        head = head[:-1].rstrip(" \t")
        found.append(head)
    lines = text.split("\n")
    found += ["\n".join(lines[:count]).rstrip() for count in range(len(lines) - 1, 0, -1)]
    return found if len(found) <= _MAX_CANDIDATES else [*found[: _MAX_CANDIDATES - 1], found[-1]]


def breaks_syntax(text: str, prefix: str, suffix: str, language: str) -> bool:
    """Return whether a suggestion introduces a syntax error into the code."""
    return _SurroundingCode(prefix, suffix, language).is_broken_by(text)


def introduces_syntax_error(before: str, after: str, language: str) -> bool:
    """Return whether a text that was valid no longer is.

    By the language's own parser if that is light, else by brackets and quotes if these must pair up. Nothing is known
    of other languages.
    """
    if language in _BRACKETED:
        return _scan(before, "", language) == ("", []) and _scan(after, "", language) != ("", [])
    is_valid = _VALIDATORS.get(language)
    return is_valid is not None and not is_valid(after) and is_valid(before)


def has_open_delimiter(prefix: str, language: str) -> bool:
    """Return whether a bracket or a string is open at the end of a text."""
    quote, unmatched = _scan(_clip_to_code(prefix), "", language)
    return quote not in ("", "#") or any(bracket in _OPENING for bracket in unmatched)


class _SurroundingCode:
    """The code around a cursor; results that do not depend on the suggestion are computed once, if needed."""

    def __init__(self, prefix: str, suffix: str, language: str) -> None:
        self.suffix, self.language = suffix, language
        self.quote, self.open_before = _scan(_clip_to_code(prefix), "", language)
        self.before, self.after = _find_statement(prefix, suffix) if language == "python" else ("", "")
        if len(self.before) + len(self.after) > _MAX_PARSED:
            self.before, self.after = _find_method(self.before, self.after)

    def is_broken_by(self, text: str) -> bool:
        """Return whether a suggestion introduces a syntax error."""
        if self._meets_string(text):
            return True
        is_broken = self._check_by_parser(text)
        if is_broken is not None:
            return is_broken
        return not _is_balanced(text, self.quote, self.open_before, self.suffix, self.language)

    def _meets_string(self, text: str) -> bool:
        """Return whether a word of the suggestion would directly precede a string of the suffix.

        Only a string's prefix may.
        """
        if self.language != "python" or self.quote or self.suffix[:1] not in ("'", '"'):
            return False
        word = _LAST_WORD.search(text)
        return word is not None and word.group().lower() not in _STRING_PREFIXES and not _scan(text, "", "python")[0]

    def _check_by_parser(self, text: str) -> bool | None:
        """Return whether a suggestion is broken by Python's parser, or ``None`` if it cannot decide.

        It cannot if the code does not parse for other reasons, is too long to be parsed between two keystrokes, or the
        cursor is in a long string, in which statements are not found.
        """
        if self.language != "python" or len(self.quote) == 3 or len(self.before) + len(self.after) > _MAX_PARSED:
            return None
        if is_valid_python(self.before + text + self.after):
            return False
        rest, _, following = self.after.partition("\n")
        if not rest.strip() and text.rstrip().endswith(":"):  # a header whose body is still to be written
            depth = indent_width((self.before + text).rpartition("\n")[2])
            if is_valid_python(f"{self.before}{text}\n{' ' * (depth + 1)}pass\n{following}"):
                return False
        return True if self._could_be_valid else None

    @cached_property
    def _could_be_valid(self) -> bool:
        """True if it parses as it is or with another line in place of the cursor's, so that this line is to blame."""
        above, _, line = self.before.rpartition("\n")
        indent, following = line[: len(line) - len(line.lstrip())], self.after.partition("\n")[2]
        opened_here = _scan(line, "", self.language)[1]
        inside = sum(bracket in _OPENING for bracket in self.open_before) > sum(b in _OPENING for b in opened_here)
        others = (f"{above}\n{indent}{other}\n{following}" for other in (_ITEMS if inside else _LINES))
        return any(map(is_valid_python, (self.before + self.after, *others)))


def _clip_to_code(prefix: str) -> str:
    """Clip the prefix to the part that is checked, from a line that certainly begins code."""
    if len(prefix) <= _REACH:
        return prefix
    found = _CODE_BEGINS.search(prefix, len(prefix) - _REACH)
    return prefix[found.start() + 1 if found else len(prefix) - _REACH :]


def _find_statement(prefix: str, suffix: str) -> tuple[str, str]:
    """Find the top-level statements around the cursor, as the parts before and after it."""
    start = len(prefix)
    while start > 0 and len(prefix) - start < _REACH:
        start = prefix.rfind("\n", 0, start - 1) + 1 if start > 1 else 0
        if prefix[start] != "@" and not _CONTINUES.match(prefix, start):
            break
    end, statements, decorated = 0, 0, False
    while (end := suffix.find("\n", end) + 1) and end < _REACH:
        if _CONTINUES.match(suffix, end):
            continue
        statements += not decorated
        decorated = suffix[end] == "@"
        if statements == 2:  # one statement after the cursor's, which may be a decorator of it
            break
    return prefix[start:], suffix[: end or len(suffix)]


def _find_method(before: str, after: str) -> tuple[str, str]:
    """Find the cursor's method in a long class and dedent it to the left margin; return all if there is none."""
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
    own_lines = lines[start:]
    if any(line.strip() and not line.startswith(margin) for line in (*own_lines, *rest[1:end])):
        return before, after
    cut = len(margin)
    return (
        "\n".join(line[cut:] for line in own_lines),
        "\n".join([rest[0], *(line[cut:] for line in rest[1:end])]) + "\n",
    )


def is_valid_python(code: str) -> bool:
    """Return whether Python can parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in the user's strings
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _is_valid_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


_VALIDATORS = {"python": is_valid_python, "json": _is_valid_json}


def _is_balanced(text: str, quote: str, outer: list[str], suffix: str, language: str) -> bool:
    """Return whether the suggestion closes the brackets it opens, and no more than are open around it.

    Those open around it are open at the end of the prefix and not closed in the suffix.
    """
    open_quote, inner = _scan(text, quote, language)
    if quote and quote != "#":  # inside a string: more of it, or its missing end
        closed_below = (suffix if len(quote) > 1 else suffix.partition("\n")[0]).count(quote) % 2  # the others pair up
        if language == "python" and text.count("{") != text.count("}"):
            return False  # half of a replacement field of an f-string
        if quote in text:
            return not open_quote and not closed_below
        strict = language == "python" or language in _BRACKETED  # elsewhere it may be an apostrophe
        return bool(closed_below) or quote not in ("'", '"') or not strict
    if len(open_quote) == 3:
        return suffix.count(open_quote) % 2 == 1  # the start of a long string that ends below
    if open_quote and not open_quote.startswith("#"):
        return False  # an unclosed string
    _, following = _scan(suffix[:_REACH], "", language)
    closed = [bracket for bracket in inner if bracket in _CLOSING]
    opened = [bracket for bracket in inner if bracket in _OPENING]
    needed = [bracket for bracket in following if bracket in _CLOSING]
    unclosed = [bracket for bracket in outer if bracket in _OPENING]
    spare = unclosed[: max(0, len(unclosed) - len(needed))]
    if closed:
        inside = unclosed[len(unclosed) - len(closed) :] if len(closed) <= len(unclosed) else []
        return not opened and len(closed) <= len(spare) and [_OPENING[b] for b in reversed(inside)] == closed
    if opened:
        return len(needed) - len(unclosed) >= len(opened)
    _, near = _scan("\n".join(suffix.split("\n", _NEAR_LINES)[:_NEAR_LINES]), "", language)
    return sum(bracket in _CLOSING for bracket in near) <= len(unclosed)  # more closing brackets there match nothing


def _scan(text: str, quote: str, language: str) -> tuple[str, list[str]]:
    """Return the string or comment that is open at the end, and the unmatched brackets, closing ones first."""
    comment = "#" if language in _HASH_COMMENTS else "//"
    quotes = "\"\"\"|'''|[\"']" if language == "python" else "[\"'`]"
    interesting = re.compile(rf"\\.|{quotes}|{comment}|/\*|\*/|[()\[\]{{}}]|\n")
    unmatched: list[str] = []
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
            unmatched.append(found)
        elif found in _CLOSING:
            if unmatched and unmatched[-1] == _CLOSING[found]:
                unmatched.pop()
            else:
                unmatched.append(found)
    return quote, unmatched
