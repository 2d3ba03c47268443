"""Decide whether to request a suggestion, and of how many lines: cheap rules over the text around the cursor. Pure.

The rules apply to automatic requests, made while the user types. A request by key skips all but the settings that
disable suggestions.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from textwrap import dedent
from urllib.parse import unquote, urlsplit

from codeclippy_ls.postprocess.syntax_check import has_open_delimiter, is_valid_python
from codeclippy_ls.settings import CompletionSettings
from codeclippy_ls.text import indent_width

_BLOCK_OPENERS = (":", "{", "(", "[", "=>", "->", " do", " then", "\\")
_DOCSTRING = re.compile(r"(\"\"\"|''').*?\1\Z", re.DOTALL)
_COMMENTS = re.compile(r"(?:\n[ \t]*(?:#|//|--|;+|\*)[^\n]*)+\Z")
_STATEMENT_ENDS = re.compile(r"[)\]}'\"]\Z|\b(?:pass|break|continue)\Z")
_MAX_STATEMENT_LINES = 12  # of one statement
_REACH = 4000  # characters considered on either side of the cursor
# Languages whose statements end with a semicolon or a brace.
_SEMICOLON_LANGUAGES = frozenset(
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


def find_disabling_setting(uri: str, language: str, settings: CompletionSettings) -> str:
    """Return the name of the setting that disables suggestions for a document, or an empty string."""
    if not settings.enabled:
        return "completion.enabled"
    if language in settings.disabled_languages:
        return "completion.disabledLanguages"
    path = unquote(urlsplit(uri).path)
    if any(fnmatch(path, pattern) or fnmatch(path.rpartition("/")[2], pattern) for pattern in settings.disabled_paths):
        return "completion.disabledPaths"
    return ""


def should_request(prefix: str, suffix: str, language: str, continues_item: bool) -> bool:
    """Return whether an automatic request is worth the engine's time.

    Args:
        continues_item: the suggestion continues the selected item of the completion list.
    """
    if is_inside_word(prefix, suffix):
        return False
    return continues_item or not is_statement_complete(prefix, suffix, language)


def is_inside_word(prefix: str, suffix: str) -> bool:
    """Return whether a letter, digit or underscore follows the cursor: suggestions there are seldom right."""
    return bool(suffix[:1].isalnum() or suffix[:1] == "_")


def is_statement_complete(prefix: str, suffix: str, language: str) -> bool:
    """Return whether the cursor is right behind a complete statement, with nothing after it on its line.

    Python is parsed; for languages with semicolons and braces the last character decides. For all others the answer is
    no.
    """
    if suffix[:_REACH].partition("\n")[0].strip():
        return False
    lines = prefix[-_REACH:].split("\n")
    line = lines[-1]
    if language in _SEMICOLON_LANGUAGES:
        return line.endswith((";", "}")) and sum(map(line.count, "([{")) <= sum(map(line.count, ")]}"))
    if language != "python" or not _STATEMENT_ENDS.search(line) or line.lstrip().startswith("#"):
        return False
    starts = range(len(lines) - 1, max(len(lines) - 1 - _MAX_STATEMENT_LINES, -1), -1)
    complete = any(is_valid_python(dedent("\n".join(lines[start:]))) for start in starts if lines[start].strip())
    return complete and not has_open_delimiter(prefix, language)


def expects_block(prefix: str, suffix: str) -> bool:
    """Return whether more than one line fits here: the cursor is on an empty line after one that opens a block.

    A docstring and comments may be in between, unless the line that follows the cursor already belongs to that block.
    """
    before, after = prefix[-_REACH:], suffix[:_REACH]
    line, (line_rest, _, lines_below) = re.split(r"[\r\n]", before)[-1], after.partition("\n")
    if line.strip() or line_rest.strip():
        return False
    head = before.rstrip()
    if head.endswith(_BLOCK_OPENERS) and not _ends_in_comment(head):
        return True
    next_line = next((other for other in lines_below.split("\n") if other.strip()), "")
    if next_line and indent_width(next_line) >= max(indent_width(line), 1):
        return False
    opener = _DOCSTRING.sub("", _COMMENTS.sub("", head)).rstrip()
    return opener != head and opener.endswith(_BLOCK_OPENERS)


def press_enter(prefix: str, eol: str) -> str:
    """Return the text before the cursor after Enter, with the indentation of the line before, as editors insert it."""
    line = re.split(r"[\r\n]", prefix[-_REACH:])[-1]
    return prefix + eol + line[: len(line) - len(line.lstrip())]


def _ends_in_comment(head: str) -> bool:
    return head.rpartition("\n")[2].lstrip().startswith(("#", "//", "--"))
