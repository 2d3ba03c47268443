"""Prompts as token ids: control tokens by id, user text through an encoder that has no control tokens.

The window is shared out before anything is encoded: first the output, then suffix and prefix in proportion. The
prefix begins at a line start that moves in coarse steps, and the suffix's length moves in coarse steps too, so that
from one keystroke to the next the prompt's head, and with it its KV cache, stays the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from codeclippy_ls.prompts.context_snippets import (
    IMPORT_REACH,
    SCOPE_REACH,
    Snippet,
    extract_outline,
    format_as_comment,
)
from codeclippy_ls.prompts.families import FAMILIES, Control, Family, Part, Slot, Template, detect_family
from codeclippy_ls.prompts.truncation import CHARACTERS_PER_TOKEN, find_aligned_start, fit_lines
from codeclippy_ls.text import to_lf

_SLACK = 4096  # characters kept beyond that: a word that is cut off, and what suggestions are trimmed by
_SUFFIX_SHARE = 0.25
_HEAD_SHARE = 0.125  # of a long file's prefix, for its imports and the scopes around the window
_BESIDE_SHARE = 0.25  # of the window, for passages of other files
_SUFFIX_STEP = 64  # tokens
_WORD = re.compile(r"(?:(?<=\S) )?\w{1,64}\Z")
_HEAL = re.compile(r"\s{1,64}\Z| ?\w{1,40}\Z")
_PLAIN_TAGS = ("<NME>", "<BEF>", "<MSG>", "<DFF>")
NEW_FILE = "ADDFILE"
# What a model that follows instructions is asked; it answers in a fence, of which the first line is given.
_INSTRUCTION: Template = (
    "Change the file ",
    Slot.NAME,
    " as asked: ",
    Slot.MESSAGE,
    "\n\nAnswer with a unified diff of the file, with three lines of context, and nothing else.\n\n```\n",
    Slot.DOCUMENT,
    "```",
)
_FENCE = "```diff\n"
_CLOSING_FENCES = ("```", "``", "`")


class Tokenizer(Protocol):
    """What prompts need of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Ids of text that starts a prompt."""

    def encode_continuation(self, text: str) -> list[int]:
        """Ids of text that follows other tokens."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""

    def control_token_to_id(self, token: str) -> int | None:
        """A control token's id."""

    def encode_template(self, text: str) -> list[int]:
        """Ids of a template's own text, with its control tokens."""

    def token_to_id(self, token: str) -> int | None:
        """A token's id by exact name, whether it was added as a control token or belongs to the vocabulary."""


class PromptModel(Protocol):
    """What prompts need to know of a loaded model."""

    name: str
    architecture: str
    tokenizer: Any
    chat: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class CompletionContext:
    """The text around a cursor, in any end-of-line style, the file's name and language, and what is shown beside it.

    ``skipped`` lines of the prefix were left out, somewhere no prompt reaches.
    """

    prefix: str
    suffix: str
    name: str = ""
    language: str = ""
    passages: tuple[Snippet, ...] = ()
    skipped: int = 0

    def within(self, window: int) -> CompletionContext:
        """This without what no prompt of a window of so many tokens can show: any such prompt is the same."""
        reach = window * CHARACTERS_PER_TOKEN + _SLACK
        head, tail = 2 * IMPORT_REACH, reach + 2 * SCOPE_REACH  # twice: they are counted with one character a line end
        prefix, skipped = self.prefix, self.skipped
        if len(prefix) > head + tail:
            prefix, skipped = prefix[:head] + prefix[-tail:], skipped + prefix[head:-tail].count("\n")
        return replace(self, prefix=prefix, suffix=self.suffix[:reach], skipped=skipped)


@dataclass(frozen=True, slots=True)
class EditTarget:
    """The document to edit, as lines ``[first, last]`` around which a window may be cut, and what is asked.

    ``new`` is for a document without any text: a file is to be written.
    """

    lines: tuple[str, ...]  # without line ends
    first: int
    last: int
    name: str
    message: str
    new: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids with what ends the answer.

    Attributes:
        heal: text cut from the prefix, which the answer must begin with (token healing).
        lines: of an edit, the document's lines ``[start, end)`` that the prompt shows.
        opening: of an edit, what the diff begins with.
    """

    tokens: tuple[int, ...]
    ends: frozenset[int]
    family: Family
    heal: str = ""
    lines: tuple[int, int] = (0, 0)
    opening: str = " @@ -"
    constraint: Any = field(default=None, compare=False)


def resolve_family(view: PromptModel, wanted: str = "") -> Family:
    """The model's row in the table; raises ValueError where the family named in the settings does not fit."""
    return detect_family(view.architecture, view.name, _lookup(view.tokenizer), wanted)


def build_completion_prompt(
    view: PromptModel, context: CompletionContext, window: int, reserve: int, wanted: str = ""
) -> Prompt:
    """The prompt for the cursor: a hole where the family can fill one, else a continuation of the prefix.

    Args:
        window: tokens that prompt and answer may have together.
        reserve: tokens kept for the answer.

    Raises:
        ValueError: the family does not complete, or the window is too small for its control tokens.
    """
    family = resolve_family(view, wanted)
    if not family.continues:
        raise ValueError(f"{family.name} writes diffs and completes nothing; set another model for completion")
    tokenizer: Tokenizer = view.tokenizer
    # A family that fills holes is asked to even at the end of a file: it was trained with empty suffixes.
    template: Template = family.infill or (*family.start, Slot.PREFIX)
    budget = window - reserve - sum(isinstance(part, Control) for part in template)
    if budget < 16:
        raise ValueError(f"a window of {window} tokens leaves no room for a prompt")
    front, beside = _beside(family, tokenizer, context, int(budget * _BESIDE_SHARE))
    budget -= len(front) + len(beside)
    prefix, suffix = context.prefix, context.suffix if family.infill else ""
    # Models that fill holes have seen them begin anywhere, but seldom inside a word.
    heal = find_partial_word(prefix) if family.infill else _find_healing_prefix(prefix)
    prefix = prefix[: len(prefix) - len(heal)]
    if not prefix:
        prefix, heal = context.prefix, ""
    before, after = _shared(tokenizer, prefix, suffix, budget, context.skipped)
    tokens = [*front, *_fill(template, tokenizer, {Slot.PREFIX: [*beside, *before], Slot.SUFFIX: after})]
    tokens = tokens or _beginning(family, tokenizer)
    return Prompt(tuple(tokens), _ends(family, tokenizer), family, heal=to_lf(heal))


def _beside(family: Family, tokenizer: Tokenizer, context: CompletionContext, most: int) -> tuple[list[int], list[int]]:
    """Ids that go before everything, and ids that go before the prefix, at most so many together.

    Families that were trained on several files at once have a token that begins one, with its path and a line end;
    others get passages as comments.
    """
    begin = _lookup(tokenizer)(family.file) if family.file else None
    front = [begin, *tokenizer.encode_continuation(f"{context.name}\n")] if begin is not None and context.name else []
    shown: list[int] = []
    for snippet in reversed(context.passages):  # the most relevant is the last, and the first to have room
        if begin is None:
            ids = tokenizer.encode_continuation(format_as_comment(snippet, context.language))
        else:
            ids = [begin, *tokenizer.encode_continuation(f"{snippet.path}\n{snippet.text}\n")]
        if len(front) + len(shown) + len(ids) <= most:
            shown = [*ids, *shown]
    return ([*shown, *front], []) if begin is not None else ([], shown)


def edits(family: Family, chat: bool) -> bool:
    """Whether a model writes diffs: by its training, or because it follows instructions."""
    return family.edit is not None or chat


def markers(tokenizer: Tokenizer) -> tuple[tuple[str, int], ...]:
    """The control tokens of the vocabulary, with their ids, that families are recognised by."""
    names = {name for family in FAMILIES for name in (*family.markers, *(token for token, _ in family.ids))}
    return tuple((name, id) for name in sorted(names) if (id := _lookup(tokenizer)(name)) is not None)


def build_edit_prompt(view: PromptModel, edited: EditTarget, window: int, reserve: int, wanted: str = "") -> Prompt:
    """The prompt for a diff: the whole document where it fits, else the lines around the selection, re-based to 1.

    Args:
        reserve: tokens kept for the answer; less where the selection would not fit otherwise.

    Raises:
        ValueError: the model writes no diffs, the text holds the family's plain-text markers, or the selection
            does not fit the window.
    """
    family = resolve_family(view, wanted)
    if not edits(family, view.chat is not None):
        raise ValueError(
            f"{family.name} models write no diffs; set a diff model or one that follows instructions for edits"
        )
    if family.edit is not None:
        reject_marker_text(family, edited)
    message = " ".join(edited.message.split())
    fixed = {Slot.NAME: edited.name or "file", Slot.MESSAGE: message}
    tokenizer: Tokenizer = view.tokenizer

    def filled(document: str) -> list[int]:
        slots = {**fixed, Slot.DOCUMENT: document}
        if family.edit is not None:
            return _fill_text(family.edit, tokenizer, slots)
        assert view.chat is not None
        before, after = view.chat
        asked = instruction(slots)
        return [
            *tokenizer.encode_template(before),
            *tokenizer.encode_continuation(asked),
            *tokenizer.encode_template(after),
            *tokenizer.encode_continuation(_FENCE),
        ]

    frame = len(filled("")) + 4
    start, end = fit_lines(
        lambda text: len(tokenizer.encode_continuation(text)),
        edited.lines,
        edited.first,
        edited.last,
        window - frame,
        reserve,
    )
    new = NEW_FILE if family.edit is not None else ""
    tokens = filled(f"{new}\n" if edited.new else "\n".join(edited.lines[start:end]) + "\n")
    ends = _ends(family, tokenizer)
    if family.edit is None:
        ends |= {id for text in _CLOSING_FENCES if (id := tokenizer.token_to_id(text)) is not None}
    opening = " @@ -" if family.edit is not None else "@@ -"
    return Prompt(tuple(tokens), ends, family, lines=(start, end), opening=opening)


def reject_marker_text(family: Family, edited: EditTarget) -> None:
    """Refuse text that holds what the family takes for its own markers, where these are plain text."""
    assert family.edit is not None
    texts = "\n".join(edited.lines), edited.message, edited.name
    if any(tag in part for part in family.edit if isinstance(part, str) for tag in _PLAIN_TAGS):
        if tag := next((tag for tag in _PLAIN_TAGS for text in texts if tag in text), None):
            raise ValueError(f"the text holds {tag}, which {family.name} models would take for their own marker")


def instruction(slots: dict[Slot, str]) -> str:
    """What a model that follows instructions is asked for an edit."""
    return "".join(slots[part] if isinstance(part, Slot) else str(part) for part in _INSTRUCTION)


def find_partial_word(prefix: str) -> str:
    """The word that the prefix ends in, with the blank that most tokenizers join to it."""
    match = _WORD.search(prefix[-80:])
    return match.group() if match else ""


def _find_healing_prefix(prefix: str) -> str:
    """The end of the prefix that lies inside a token, as like as not: a begun word, blanks, a line end and indent."""
    match = _HEAL.search(prefix[-128:])
    heal = match.group() if match else ""
    # Never the second half of a CRLF: what is left would count as a line end of its own.
    return heal[1:] if heal[:1] == "\n" and prefix[-len(heal) - 1 : -len(heal)] == "\r" else heal


def _shared(tokenizer: Tokenizer, prefix: str, suffix: str, budget: int, skipped: int) -> tuple[list[int], list[int]]:
    """Ids of prefix and suffix that fit ``budget`` together; ``skipped`` lines stand before the prefix."""
    reach = budget * CHARACTERS_PER_TOKEN
    before = to_lf(prefix[-reach:])
    after = tokenizer.encode_continuation(to_lf(suffix[:reach])) if suffix else []
    tokens = tokenizer.encode_continuation(before)
    floor = int(budget * _SUFFIX_SHARE)
    # What a short prefix leaves goes to the suffix, in steps, so that typing does not move the suffix's end.
    spare = (budget - len(tokens)) // _SUFFIX_STEP * _SUFFIX_STEP - _SUFFIX_STEP
    after = after[: max(floor, spare)]
    room = budget - max(floor, len(after)) if suffix else budget
    clipped = prefix[:-reach]
    if len(tokens) > room or clipped:
        most = int(room * _HEAD_SHARE)
        tokens, shown = _tail(tokenizer, skipped + clipped.count("\n"), before, tokens, room - most)
        head = extract_outline(to_lf(clipped) + before[: len(before) - len(shown)], shown, most * 3)
        tokens = [*tokenizer.encode_continuation(head)[:most], *tokens] if head else tokens
    return tokens, after


def _tail(tokenizer: Tokenizer, skipped: int, before: str, tokens: Sequence[int], room: int) -> tuple[list[int], str]:
    """Ids and text of the longest end of ``before`` that fits, from a line whose number is a multiple of a step.

    ``before`` itself begins after ``skipped`` line ends.
    """
    kept = tokenizer.decode(tokens[-room:]) if len(tokens) > room else before
    cut = len(before) - len(kept)
    coarse = find_aligned_start(before, cut, skipped)
    if coarse is None:
        return list(tokens[-room:]), kept
    return tokenizer.encode_continuation(before[coarse:])[-room:], before[coarse:]


def _fill(template: Template, tokenizer: Tokenizer, slots: dict[Slot, list[int]]) -> list[int]:
    """The ids of a template whose slots are encoded already."""
    tokens: list[int] = []
    for part in template:
        tokens += slots[part] if isinstance(part, Slot) else _control(part, tokenizer)
    return tokens


def _fill_text(template: Template, tokenizer: Tokenizer, slots: dict[Slot, str]) -> list[int]:
    """The ids of a template; what stands between two control tokens is encoded in one piece, as in training."""
    tokens: list[int] = []
    pending = ""
    for part in (*template, None):
        if part is None or isinstance(part, Control):
            encode = tokenizer.encode_continuation if tokens else tokenizer.encode
            tokens += encode(pending) if pending else []
            pending = ""
            tokens += _control(part, tokenizer) if part is not None else []
        else:
            pending += slots[part] if isinstance(part, Slot) else part
    return tokens


def _control(part: Part, tokenizer: Tokenizer) -> list[int]:
    assert isinstance(part, Control)
    id = _lookup(tokenizer)(part.token)
    if id is None and not part.optional:
        raise ValueError(f"the model's vocabulary has no token {part.token!r}")
    return [] if id is None else [id]


def _lookup(tokenizer: Tokenizer) -> Any:
    """Control tokens by name. Some vocabularies hold theirs as plain entries (Code Llama's), not as added tokens."""

    def find(token: str) -> int | None:
        found = tokenizer.control_token_to_id(token)
        return found if found is not None else tokenizer.token_to_id(token)

    return find


def _ends(family: Family, tokenizer: Tokenizer) -> frozenset[int]:
    found = (_lookup(tokenizer)(token) for token in family.ends)
    return frozenset(id for id in found if id is not None)


def _beginning(family: Family, tokenizer: Tokenizer) -> list[int]:
    """What a continuation of nothing starts from: the end token, or a line end."""
    return sorted(_ends(family, tokenizer))[:1] or tokenizer.encode("\n")
