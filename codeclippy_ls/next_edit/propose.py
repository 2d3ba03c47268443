"""The next edit: the nearest of those that the last edits ask for, if it leaves the code whole.

Nothing that undoes what the user did, nothing that changes white space only, nothing that breaks the syntax tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codeclippy_ls.next_edit.history import EditHistory, RecentEdit, widen_to_words
from codeclippy_ls.next_edit.renames import find_renames
from codeclippy_ls.next_edit.repeats import find_repeats
from codeclippy_ls.syntax.tree import SyntaxTree
from codeclippy_ls.text import Edit


@dataclass(frozen=True, slots=True)
class NextEdit:
    """An edit that probably comes next.

    Attributes:
        kind: ``rename`` or ``repeat``.
        places: how many such edits there are, this one included.
    """

    edit: Edit
    kind: str
    places: int


def propose(text: str, tree: SyntaxTree | None, history: EditHistory, cursor: int) -> NextEdit | None:
    """Propose the next edit of a text, the nearest one below the cursor first; None if nothing is sure."""
    edits = [widen_to_words(edit, text) for edit in history.edits]
    edits = [edit for edit in edits if edit.original != edit.updated]
    if not edits or not (edits[-1].original + edits[-1].updated).strip():
        return None
    for kind, found in _find_all(text, tree, edits):
        sound = [edit for edit in found if _is_new(edit, text, edits)]
        for edit in sorted(sound, key=lambda edit: (edit.start < cursor, edit.start)):
            if _keeps_code(text, tree, edit):
                return NextEdit(edit, kind, len(sound))
    return None


def _find_all(text: str, tree: SyntaxTree | None, edits: Sequence[RecentEdit]) -> Sequence[tuple[str, Sequence[Edit]]]:
    renames = find_renames(tree, text, edits) if tree is not None else None
    return [("rename", renames)] if renames is not None else [("repeat", find_repeats(tree, text, edits))]


def _is_new(edit: Edit, text: str, edits: Sequence[RecentEdit]) -> bool:
    """Return whether an edit changes something, and not where or back to what the user has just changed."""
    old = text[edit.start : edit.end]
    if old == edit.text or not (old + edit.text).strip():
        return False
    if any(edit.start < recent.end and edit.end > recent.start for recent in edits):
        return False
    return not any((old, edit.text) == (recent.updated, recent.original) for recent in edits)


def _keeps_code(text: str, tree: SyntaxTree | None, edit: Edit) -> bool:
    """Return whether the tree has no more errors with an edit than without it."""
    if tree is None:
        return True
    is_plain = len(tree.source) == len(text)
    start = edit.start if is_plain else len(text[: edit.start].encode("utf-8", "replace"))
    end = start + len(text[edit.start : edit.end].encode("utf-8", "replace"))
    inserted = edit.text.encode("utf-8", "replace")
    after = tree.edited(start, end, inserted)
    return after.count_errors(0, len(after.source)) <= tree.count_errors(0, len(tree.source))
