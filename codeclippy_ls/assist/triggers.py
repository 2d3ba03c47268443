"""Whether to ask for a suggestion, and for how much: cheap rules over the text around a cursor. Pure.

A gate says only what is not worth asking *by itself*, while somebody types; a request by key passes them all but the
switches.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from textwrap import dedent
from urllib.parse import unquote, urlsplit

from codeclippy_ls.postprocess.syntax_check import has_open_delimiter, is_valid_python
from codeclippy_ls.settings import CompletionSettings
from codeclippy_ls.text import indent_width

_OPENERS = (":", "{", "(", "[", "=>", "->", " do", " then", "\\")
_DOCSTRING = re.compile(r"(\"\"\"|''').*?\1\Z", re.DOTALL)
_COMMENTS = re.compile(r"(?:\n[ \t]*(?:#|//|--|;+|\*)[^\n]*)+\Z")
_STATEMENT_ENDS = re.compile(r"[)\]}'\"]\Z|\b(?:pass|break|continue)\Z")
_MOST_LINES = 12  # of one statement
_REACH = 4000  # characters looked at on either side of the cursor
# Languages whose statements end with a sign.
_SIGNED = frozenset(
    {
        "javascript",
        "javascriptreact",
        "typescript",
        "typescriptreact",
        "java",
        "c",
        "cpp",
        "csharp",
        "rust",
        "php",
        "dart",
        "kotlin",
        "swift",
        "css",
        "scss",
        "less",
        "objective-c",
    }
)


def switched_off(uri: str, language: str, settings: CompletionSettings) -> str:
    """The setting that turns suggestions off for a document, or nothing."""
    if not settings.enabled:
        return "completion.enabled"
    if language in settings.disabled_languages:
        return "completion.disabledLanguages"
    path = unquote(urlsplit(uri).path)
    if any(fnmatch(path, pattern) or fnmatch(path.rpartition("/")[2], pattern) for pattern in settings.disabled_paths):
        return "completion.disabledPaths"
    return ""


def inside_word(prefix: str, suffix: str) -> bool:
    """Whether the cursor stands before a letter: what is suggested there is seldom what is meant."""
    return bool(suffix[:1].isalnum() or suffix[:1] == "_")


def finished(prefix: str, suffix: str, language: str) -> bool:
    """Whether the cursor stands right behind a statement that is whole, with nothing after it on its line.

    Python is asked by parsing; other languages by the sign that ends their statements. Where neither can tell, nothing
    counts as finished.
    """
    if suffix[:_REACH].partition("\n")[0].strip():
        return False
    lines = prefix[-_REACH:].split("\n")
    line = lines[-1]
    if language in _SIGNED:
        return line.endswith((";", "}")) and sum(map(line.count, "([{")) <= sum(map(line.count, ")]}"))
    if language != "python" or not _STATEMENT_ENDS.search(line) or line.lstrip().startswith("#"):
        return False
    starts = range(len(lines) - 1, max(len(lines) - 1 - _MOST_LINES, -1), -1)
    whole = any(is_valid_python(dedent("\n".join(lines[start:]))) for start in starts if lines[start].strip())
    return whole and not has_open_delimiter(prefix, language)


def wants_block(prefix: str, suffix: str) -> bool:
    """Whether more than a line fits here: on an empty line after one that opens a block.

    A docstring and comments may stand between, where what follows the cursor is no part of that block yet.
    """
    before, after = prefix[-_REACH:], suffix[:_REACH]
    line, (rest, _, following) = re.split(r"[\r\n]", before)[-1], after.partition("\n")
    if line.strip() or rest.strip():
        return False
    head = before.rstrip()
    if head.endswith(_OPENERS) and not _ends_in_comment(head):
        return True
    following_line = next((other for other in following.split("\n") if other.strip()), "")
    if following_line and indent_width(following_line) >= max(indent_width(line), 1):
        return False
    opened = _DOCSTRING.sub("", _COMMENTS.sub("", head)).rstrip()
    return opened != head and opened.endswith(_OPENERS)


def after_enter(prefix: str, eol: str) -> str:
    """The text up to where the cursor stands after a line end, indented as editors do: like the line before."""
    line = re.split(r"[\r\n]", prefix[-_REACH:])[-1]
    return prefix + eol + line[: len(line) - len(line.lstrip())]


def _ends_in_comment(head: str) -> bool:
    return head.rpartition("\n")[2].lstrip().startswith(("#", "//", "--"))
