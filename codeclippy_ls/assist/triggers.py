"""Decide whether to request a suggestion, and of how many lines: cheap rules over the text around the cursor. Pure.

The rules apply to automatic requests, made while the user types. A request by key skips all but the settings that
disable suggestions.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from codeclippy_ls.settings import CompletionSettings, Settings
from codeclippy_ls.syntax.code import OPENERS, ends_statement, is_comment_line, opens_block
from codeclippy_ls.syntax.languages import Language, find_language
from codeclippy_ls.syntax.tree import SyntaxTree
from codeclippy_ls.text import Document, indent_width
from codeclippy_ls.uris import parse_name, parse_path


def find_disabling_setting(uri: str, language: str, settings: CompletionSettings) -> str:
    """Return the name of the setting that disables suggestions for a document, or an empty string."""
    return find_excluding_setting(uri, language, settings) if settings.enabled else "completion.enabled"


def find_excluding_setting(uri: str, language: str, settings: CompletionSettings) -> str:
    """Return the name of the setting that keeps a document from every model, or an empty string.

    Such a document gets neither suggestions nor edits, and is not shown beside another one. Case does not matter, as it
    does not on many disks.
    """
    if language in settings.disabled_languages:
        return "completion.disabledLanguages"
    names = parse_path(uri).lower(), parse_name(uri).lower()
    if any(fnmatchcase(name, pattern.lower()) for pattern in settings.disabled_paths for name in names):
        return "completion.disabledPaths"
    return ""


def find_refusal(settings: Settings, document: Document) -> str | None:
    """Return why a document gets no suggestions: a sentence, or nothing if the user knows; ``None`` if it gets some."""
    options = settings.completion
    if find_disabling_setting(document.file_uri, document.language, options):
        return ""
    if len(document.text) > options.max_file_kilobytes * 1024:
        return (
            f"no suggestions in files above {options.max_file_kilobytes} kB; to change the limit, set "
            '"completion.maxFileKilobytes"'
        )
    return None


def should_request(tree: SyntaxTree | None, prefix: str, suffix: str, continues_item: bool) -> bool:
    """Return whether an automatic request is worth the engine's time.

    Args:
        continues_item: the suggestion continues the selected item of the completion list.
    """
    if is_inside_word(prefix, suffix):
        return False
    return continues_item or not is_statement_complete(tree, prefix, suffix)


def is_inside_word(prefix: str, suffix: str) -> bool:
    """Return whether a letter, digit or underscore follows the cursor: suggestions there are seldom right."""
    return bool(suffix[:1].isalnum() or suffix[:1] == "_")


def is_statement_complete(tree: SyntaxTree | None, prefix: str, suffix: str) -> bool:
    """Return whether the cursor is right behind a complete statement, with nothing after it on its line.

    Args:
        tree: of the whole text; without a grammar the answer is no.
    """
    return tree is not None and not suffix.partition("\n")[0].strip() and ends_statement(tree, prefix)


def is_empty_line(prefix: str, suffix: str) -> bool:
    """Return whether nothing but white space stands on the cursor's line."""
    return not prefix.rpartition("\n")[2].strip() and not suffix.partition("\n")[0].strip()


def expects_block(tree: SyntaxTree | None, language: Language | None, prefix: str, suffix: str) -> bool:
    """Return whether more than one line fits here: the cursor is on an empty line after one that opens a block.

    A docstring and comments may be in between, unless the line that follows the cursor already belongs to that block.
    """
    line, lines_below = prefix.rpartition("\n")[2], suffix.partition("\n")[2]
    if not is_empty_line(prefix, suffix) or not opens_block(tree, prefix, language):
        return False
    above = next((other for other in reversed(prefix.split("\n")[:-1]) if other.strip()), "")
    if above.rstrip().endswith(OPENERS) and not is_comment_line(above, language):
        return True
    next_line = next((other for other in lines_below.split("\n") if other.strip()), "")
    return not next_line or indent_width(next_line) < max(indent_width(line), 1)


def expects_lines(
    settings: CompletionSettings, language: str, tree: SyntaxTree | None, prefix: str, suffix: str, automatic: bool
) -> bool:
    """Return whether more than one line fits: on any empty line for those who ask by key, else in a new block."""
    if not settings.multiline:
        return False
    if not automatic and is_empty_line(prefix, suffix):
        return True
    return expects_block(tree, find_language(language), prefix, suffix)


def press_enter(prefix: str) -> str:
    """Return the text before the cursor after Enter, with the indentation of the line before, as editors insert it."""
    line = prefix.rpartition("\n")[2]
    return prefix + "\n" + line[: len(line) - len(line.lstrip())]
