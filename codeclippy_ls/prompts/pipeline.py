"""The prompt pipeline for token ids and for text: fit prefix, suffix and snippets into a budget, fill a template.

A `Renderer` measures and cuts text in its units, token ids or bytes, and turns parts into them; the pipeline knows
neither a tokenizer nor a service. The budget is shared out before anything is encoded: first the answer, then snippets,
then suffix and prefix in proportion. The prefix begins at a line start that moves in coarse steps, and the suffix's
length moves in coarse steps too, so that from one keystroke to the next the prompt's head, and with it its KV cache,
stays the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from codeclippy_ls.families import Control, Family, Slot, Template
from codeclippy_ls.prompts.context import CompletionContext, EditTarget
from codeclippy_ls.prompts.context_snippets import Snippet, extract_outline, format_as_comment
from codeclippy_ls.prompts.truncation import find_aligned_start, fit_lines
from codeclippy_ls.text import to_lf

_SUFFIX_SHARE = 0.25
_OUTLINE_SHARE = 0.125  # of a long file's prefix, for its imports and the scopes around the shown text
_SNIPPET_SHARE = 0.35  # of the budget, at most for snippets of other files
_WORD = re.compile(r"(?:(?<=\S) )?\w{1,64}\Z")
_PLAIN_TAGS = ("<NME>", "<BEF>", "<MSG>", "<DFF>")
_NEW_FILE = "ADDFILE"
# For a model that follows instructions.
_INSTRUCTION: Template = (
    "Change the file ",
    Slot.NAME,
    " as asked: ",
    Slot.MESSAGE,
    "\n\nAnswer with a unified diff of the file, with three lines of context, and nothing else.\n\n```\n",
    Slot.DOCUMENT,
    "```",
)

Units = list[int]  # token ids, or the bytes of a text


class Renderer(Protocol):
    """Measures and cuts text in token ids or in bytes.

    Attributes:
        reach: characters per unit that are encoded at most; a prompt shows no more.
        suffix_step: units by which the suffix's length moves.
        outline_reach: characters per unit that an outline is made of.
    """

    reach: int
    suffix_step: int
    outline_reach: int

    def encode(self, text: str) -> Units:
        """Encode text that follows other text."""

    def decode(self, units: Units) -> str:
        """Decode units, of which the first and last may be part of a character."""

    def encode_control(self, part: Control) -> Units:
        """Encode a control token; empty if it is left out.

        Raises:
            ValueError: the token is required and the vocabulary lacks it.
        """

    def has_token(self, token: str) -> bool:
        """Return whether a control token can be written."""

    def accepts(self, text: str) -> bool:
        """Return whether a snippet's text may be shown."""


@dataclass(frozen=True, slots=True)
class FittedCompletion:
    """Parts of a completion prompt in order, and its prefix and suffix as they were fitted."""

    parts: list[Control | Units]
    prefix: Units
    suffix: Units


def require_completion(family: Family) -> None:
    """Raise ValueError if a family cannot complete."""
    if not family.supports_completion:
        raise ValueError(f"{family.name} writes diffs and completes nothing; set another model for completion")


def fit_completion(
    renderer: Renderer,
    family: Family,
    template: Template,
    context: CompletionContext,
    prefix: str,
    suffix: str,
    budget: int,
    suffix_limit: int | None = None,
) -> FittedCompletion:
    """Fit snippets, prefix and suffix into a budget of units, and fill the template with them.

    Args:
        prefix, suffix: of ``context``, less the text that is not shown.
        suffix_limit: if the template has the suffix behind the prefix, each key typed there costs the suffix again: so
            many units of it are shown then.
    """
    before_all, before_prefix = _fit_snippets(renderer, family, context, int(budget * _SNIPPET_SHARE))
    budget -= _measure(renderer, before_all) + _measure(renderer, before_prefix)
    limit = suffix_limit if suffix_limit is not None and _ends_with_suffix(template) else budget
    fitted_prefix, fitted_suffix = fit_prefix_suffix(
        renderer, prefix, suffix, budget, context.skipped_lines, limit, context.language_id
    )
    slots: dict[Slot, list[Control | Units]] = {
        Slot.PREFIX: [*before_prefix, fitted_prefix],
        Slot.SUFFIX: [fitted_suffix],
    }
    parts = before_all
    for part in template:
        if isinstance(part, Slot):
            parts += slots[part]
        elif isinstance(part, Control) and renderer.encode_control(part):
            parts.append(part)
    return FittedCompletion(parts, fitted_prefix, fitted_suffix)


def _ends_with_suffix(template: Template) -> bool:
    return [part for part in template if isinstance(part, Slot)][-1] is Slot.SUFFIX


def _fit_snippets(
    renderer: Renderer, family: Family, context: CompletionContext, limit: int
) -> tuple[list[Control | Units], list[Control | Units]]:
    """Fit snippets into ``limit`` units; return the parts before everything and the parts before the prefix.

    Families that were trained on several files at once have a token or a line that begins one, with its path; for
    others snippets become comments.
    """
    separator = Control(family.file_token) if family.file_token and renderer.has_token(family.file_token) else None
    own_path = context.path or context.name
    own: list[Control | Units] = []
    if separator is not None and own_path:
        own = [separator, renderer.encode(f"{own_path}\n")]
    elif family.file_head and own_path and context.snippets:
        own = [renderer.encode(f"{family.file_head.format(path=own_path)}\n")]
    head = _make_repository_head(renderer, family, context) if separator is not None else []
    used = _measure(renderer, own) + _measure(renderer, head)
    shown: list[Control | Units] = []
    for snippet in reversed(context.snippets):  # the most relevant is the last, and the first to get room
        text = _format_snippet(snippet, context.language_id, family, separator is not None)
        if not text or not renderer.accepts(text):
            continue
        parts: list[Control | Units] = [*([separator] if separator is not None else []), renderer.encode(text)]
        size = _measure(renderer, parts)
        if used + size <= limit:
            used += size
            shown = [*parts, *shown]
    own = own if separator is not None or shown else []
    return ([*head, *shown, *own], []) if separator is not None else ([], [*shown, *own])


def _make_repository_head(renderer: Renderer, family: Family, context: CompletionContext) -> list[Control | Units]:
    """Make the parts that name the repository, if snippets of it are shown and the family knows it."""
    token = family.repository_token
    if not (token and context.repository and context.snippets and renderer.has_token(token)):
        return []
    name = f"{context.repository}\n"
    return [Control(token), renderer.encode(name)] if renderer.accepts(name) else []


def _format_snippet(snippet: Snippet, language: str, family: Family, separated: bool) -> str:
    if separated:
        return f"{snippet.path}\n{snippet.text}\n"
    if family.file_head:
        return f"{family.file_head.format(path=snippet.path)}\n{snippet.text}\n"
    return format_as_comment(snippet, language)


def _measure(renderer: Renderer, parts: Sequence[Control | Units]) -> int:
    return sum(len(renderer.encode_control(part) if isinstance(part, Control) else part) for part in parts)


def fit_prefix_suffix(
    renderer: Renderer,
    prefix: str,
    suffix: str,
    budget: int,
    skipped_lines: int,
    suffix_limit: int,
    language: str,
) -> tuple[Units, Units]:
    """Fit prefix and suffix into ``budget`` units together; ``skipped_lines`` precede the prefix."""
    reach = budget * renderer.reach
    clipped, before = prefix[:-reach], to_lf(prefix[-reach:])
    after, units = renderer.encode(to_lf(suffix[: min(reach, suffix_limit * renderer.reach)])), renderer.encode(before)
    after = after[:suffix_limit]
    minimum = min(int(budget * _SUFFIX_SHARE), suffix_limit)
    # The rest that a short prefix leaves goes to the suffix, in steps, so that typing does not move the suffix's end.
    step = renderer.suffix_step
    after = after[: max(minimum, (budget - len(units)) // step * step - step)]
    room = budget - max(minimum, len(after)) if suffix else budget
    if len(units) > room or clipped:
        limit = int(room * _OUTLINE_SHARE)
        units, shown = _fit_tail(renderer, skipped_lines + clipped.count("\n"), before, units, room - limit)
        skipped = to_lf(clipped) + before[: len(before) - len(shown)]
        outline = extract_outline(skipped, shown, limit * renderer.outline_reach, language)
        units = renderer.encode(outline)[:limit] + units if outline else units
    return units, after


def _fit_tail(renderer: Renderer, skipped_lines: int, before: str, units: Units, room: int) -> tuple[Units, str]:
    """Cut ``before`` to its longest end that fits and begins at an aligned line; return it as units and as text.

    ``before`` itself begins after ``skipped_lines`` line ends.
    """
    kept = renderer.decode(units[-room:]) if len(units) > room else before
    start = find_aligned_start(before, len(before) - len(kept), skipped_lines)
    if start is None:
        return units[-room:], kept
    return renderer.encode(before[start:])[-room:], before[start:]


def find_partial_word(prefix: str) -> str:
    """Find the word that the prefix ends in, with the space that most tokenizers join to it."""
    match = _WORD.search(prefix[-80:])
    return match.group() if match else ""


def fit_edit(
    target: EditTarget, family: Family, count_tokens: Callable[[str], int], room: int, reserve: int
) -> tuple[str, tuple[int, int]]:
    """Fit the document into ``room`` tokens less ``reserve``: all of it, else the lines around the selection.

    Returns:
        The text of the document's slot, and the shown lines ``[start, end)``.

    Raises:
        ValueError: the selection does not fit; the message is for the user.
    """
    start, end = fit_lines(count_tokens, target.lines, target.first, target.last, room, reserve)
    if target.is_new:
        return f"{_NEW_FILE if family.edit_template is not None else ''}\n", (start, end)
    return "\n".join(target.lines[start:end]) + "\n", (start, end)


def format_edit_slots(target: EditTarget) -> dict[Slot, str]:
    """Format the file's name and the message; the message becomes one line."""
    return {Slot.NAME: target.name or "file", Slot.MESSAGE: " ".join(target.message.split())}


def format_instruction(slots: dict[Slot, str]) -> str:
    """Format the request for an edit to a model that follows instructions."""
    return "".join(slots[part] if isinstance(part, Slot) else str(part) for part in _INSTRUCTION)


def reject_marker_text(family: Family, target: EditTarget) -> None:
    """Raise ValueError if the text contains tags that the family's template has as plain text."""
    assert family.edit_template is not None
    texts = "\n".join(target.lines), target.message, target.name
    if any(tag in part for part in family.edit_template if isinstance(part, str) for tag in _PLAIN_TAGS):
        if tag := next((tag for tag in _PLAIN_TAGS for text in texts if tag in text), None):
            raise ValueError(f"the text contains {tag}, which {family.name} models would take for their own marker")
