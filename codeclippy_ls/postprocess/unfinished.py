"""Shorten an answer that a limit cut off, of time or tokens, to its last complete line, statement or word.

The end of a cut line may be valid and wrong: ``return sum(values) / len``. So only whole lines stay; of
a cut line, statements that end with a character of their own, and in comments, strings and languages without a grammar,
whole words. All texts are in LF. Knows no model and no LSP.
"""

from __future__ import annotations

from codeclippy_ls.postprocess.cleanup import CursorContext
from codeclippy_ls.syntax.code import ends_statement, is_prose
from codeclippy_ls.syntax.languages import find_language
from codeclippy_ls.syntax.tree import DocumentTrees

_STATEMENT_ENDS = (";", "}")


def cut_unfinished(text: str, context: CursorContext, trees: DocumentTrees, document: str) -> str:
    """Return the head of an answer that was cut by a limit; empty if nothing of it can stand.

    Args:
        document: key of the document whose tree is kept.
    """
    whole, _, cut = text.rpartition("\n")
    if whole.strip():
        return whole
    base = trees.parse(document, context.prefix + context.suffix, find_language(context.language))
    words = text[: len(text) - len(cut)] + cut.rpartition(" ")[0].rstrip()
    if base is None:  # without a grammar nothing tells code from prose
        return words
    start = len(context.prefix.encode("utf-8", "replace"))
    tree = base.edited(start, start, text.encode("utf-8", "replace"))
    if is_prose(tree, start + len(text.encode("utf-8", "replace"))):
        return words
    ends = text.rstrip().endswith(_STATEMENT_ENDS) and ends_statement(tree, context.prefix + text.rstrip())
    return text if ends else ""
