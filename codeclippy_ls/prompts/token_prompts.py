"""Prompts as token ids: control tokens by id, user text through an encoder that has no control tokens.

Knows token ids through the `PromptTokenizer` protocol; knows no threads, no LSP and no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from codeclippy_ls.families import (
    FAMILIES,
    Control,
    EditFormat,
    Family,
    Part,
    Slot,
    Template,
    detect_family,
    select_edit_format,
)
from codeclippy_ls.prompts.context import CompletionContext, EditTarget
from codeclippy_ls.prompts.pipeline import (
    find_partial_word,
    fit_completion,
    fit_edit,
    format_edit_slots,
    format_instruction,
    reject_marker_text,
    require_completion,
)
from codeclippy_ls.prompts.rewriting import format_rewrite, format_window
from codeclippy_ls.prompts.truncation import CHARACTERS_PER_TOKEN
from codeclippy_ls.text import to_lf

_MIN_BUDGET = 16  # tokens of a prompt
_MIN_ANSWER = 64  # tokens that an answer may have beyond those of the lines that it repeats
_HEALING = re.compile(r"\s{1,64}\Z| ?\w{1,40}\Z")
# A model that follows instructions answers in a fence, whose first line is part of the prompt.
_FENCE = "```diff\n"
_CLOSING_FENCES = ("```", "``", "`")


class PromptTokenizer(Protocol):
    """The part of a tokenizer that prompts need."""

    def encode(self, text: str) -> list[int]:
        """Encode text that starts a prompt."""

    def encode_continuation(self, text: str) -> list[int]:
        """Encode text that follows other tokens."""

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids."""

    def control_token_to_id(self, token: str) -> int | None:
        """Return a control token's id."""

    def encode_template(self, text: str) -> list[int]:
        """Encode a template's own text, with its control tokens."""

    def token_to_id(self, token: str) -> int | None:
        """Return a token's id by exact name, whether it was added as a control token or belongs to the vocabulary."""


class PromptModel(Protocol):
    """The part of a loaded model that prompts need."""

    name: str
    architecture: str
    tokenizer: Any
    chat: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids and the tokens that end the answer.

    Attributes:
        healing_prefix: text cut from the prompt's end, which the answer must begin with (token healing).
        line_range: of an edit, the document's lines ``[start, end)`` that the prompt shows.
        diff_prefix: of an edit, the text that the diff begins with.
        edit_format: of an edit.
        num_copied: tokens of the shown lines, if the answer repeats them; the limit of tokens does not count them.
    """

    token_ids: tuple[int, ...]
    stop_token_ids: frozenset[int]
    family: Family
    healing_prefix: str = ""
    line_range: tuple[int, int] = (0, 0)
    diff_prefix: str = " @@ -"
    edit_format: EditFormat = EditFormat.DIFF
    num_copied: int = 0
    constraint: Any = field(default=None, compare=False)


class _TokenRenderer:
    """Renders a prompt as token ids; see `pipeline.Renderer`."""

    reach = CHARACTERS_PER_TOKEN
    suffix_step = 64
    outline_reach = 3

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode_continuation(text) if text else []

    def decode(self, units: list[int]) -> str:
        return self._tokenizer.decode(units)

    def encode_control(self, part: Control) -> list[int]:
        return _encode_control(part, self._tokenizer)

    def has_token(self, token: str) -> bool:
        return _find_id(self._tokenizer, token) is not None

    def accepts(self, text: str) -> bool:
        return True


def resolve_family(model: PromptModel, configured: str = "") -> Family:
    """Return the model's row in the table; raise ValueError if the configured family does not fit."""
    return detect_family(model.architecture, model.name, lambda token: _find_id(model.tokenizer, token), configured)


def build_completion_prompt(
    model: PromptModel,
    context: CompletionContext,
    context_length: int,
    reserve: int,
    configured: str = "",
    suffix_limit: int | None = None,
) -> TokenPrompt:
    """Build the prompt for a cursor: fill-in-the-middle if the family can, else a continuation of the prefix.

    Args:
        context_length: tokens that prompt and answer may have together.
        reserve: tokens kept for the answer.
        configured: family named in the settings.
        suffix_limit: tokens behind the cursor, if each key costs them; see `pipeline.fit_completion`.

    Raises:
        ValueError: the family does not complete, or the window is too small for its control tokens.
    """
    family = resolve_family(model, configured)
    require_completion(family)
    tokenizer: PromptTokenizer = model.tokenizer
    # FIM is used even at the end of a file: the models were trained with empty suffixes.
    template: Template = family.fim_template or (*family.bos_tokens, Slot.PREFIX)
    budget = context_length - reserve - sum(isinstance(part, Control) for part in template)
    if budget < _MIN_BUDGET:
        raise ValueError(f"a window of {context_length} tokens leaves no room for a prompt")
    # FIM models have seen middles begin anywhere, but seldom inside a word.
    prefix = context.prefix
    healing_prefix = find_partial_word(prefix) if family.fim_template else _find_healing_prefix(prefix)
    prefix = prefix[: len(prefix) - len(healing_prefix)]
    if not prefix:
        prefix, healing_prefix = context.prefix, ""
    suffix = context.suffix if family.fim_template else ""
    fitted = fit_completion(_TokenRenderer(tokenizer), family, template, context, prefix, suffix, budget, suffix_limit)
    tokens: list[int] = []
    for part in fitted.parts:
        tokens += _encode_control(part, tokenizer) if isinstance(part, Control) else part
    stop_token_ids = _find_stop_token_ids(family, tokenizer)
    # A continuation of nothing starts from the end token, or a line end.
    tokens = tokens or sorted(stop_token_ids)[:1] or tokenizer.encode("\n")
    return TokenPrompt(tuple(tokens), stop_token_ids, family, healing_prefix=to_lf(healing_prefix))


def collect_control_token_ids(tokenizer: PromptTokenizer) -> tuple[tuple[str, int], ...]:
    """Collect the control tokens of the vocabulary that families are detected by, with their ids."""
    names = {
        name for family in FAMILIES for name in (*family.required_tokens, *(token for token, _ in family.required_ids))
    }
    return tuple((name, id) for name in sorted(names) if (id := _find_id(tokenizer, name)) is not None)


def build_edit_prompt(
    model: PromptModel,
    target: EditTarget,
    context_length: int,
    reserve: int,
    configured: str = "",
    edit_format: str = "auto",
) -> TokenPrompt:
    """Build the prompt for an edit, in the model's own format.

    Args:
        reserve: tokens kept for the answer; fewer if the selection would not fit otherwise.
        configured, edit_format: family and format named in the settings.

    Raises:
        ValueError: the model makes no edits, the text contains the family's plain-text markers, or the selection
            does not fit the window.
    """
    family = resolve_family(model, configured)
    chosen = select_edit_format(family, model.chat is not None, edit_format)
    if chosen is None:
        raise ValueError(
            f"{family.name} models make no edits; set a diff model or one that follows instructions for edits"
        )
    if chosen is EditFormat.DIFF:
        return _build_diff_prompt(model, family, target, context_length, reserve)
    return _build_rewrite_prompt(model, family, chosen, target, context_length, reserve)


def _build_diff_prompt(
    model: PromptModel, family: Family, target: EditTarget, context_length: int, reserve: int
) -> TokenPrompt:
    """Build the prompt for a diff: the whole document if it fits, else the lines around the selection."""
    if family.edit_template is not None:
        reject_marker_text(family, target)
    tokenizer: PromptTokenizer = model.tokenizer
    fixed = format_edit_slots(target)

    def encode(document: str) -> list[int]:
        slots = {**fixed, Slot.DOCUMENT: document}
        if family.edit_template is not None:
            return _encode_template(family.edit_template, tokenizer, slots)
        return _encode_chat(model, format_instruction(slots), _FENCE)

    room = context_length - len(encode("")) - 4
    document, line_range = fit_edit(
        target, family, lambda text: len(tokenizer.encode_continuation(text)), room, reserve
    )
    stop_token_ids = _find_stop_token_ids(family, tokenizer)
    if family.edit_template is None:
        stop_token_ids |= {id for text in _CLOSING_FENCES if (id := tokenizer.token_to_id(text)) is not None}
    diff_prefix = " @@ -" if family.edit_template is not None else "@@ -"
    return TokenPrompt(tuple(encode(document)), stop_token_ids, family, line_range=line_range, diff_prefix=diff_prefix)


def _build_rewrite_prompt(
    model: PromptModel, family: Family, edit_format: EditFormat, target: EditTarget, context_length: int, reserve: int
) -> TokenPrompt:
    """Build the prompt for lines that are written anew: all of them, since the answer stands in their place."""
    tokenizer: PromptTokenizer = model.tokenizer
    count = len(tokenizer.encode_continuation("\n".join(target.lines)))
    if edit_format is EditFormat.REWRITE:
        request = format_rewrite(target)
        token_ids = _encode_chat(model, request.message, request.answer_start)
    else:
        token_ids = _encode_template(tuple(format_window(target, family)), tokenizer, {})
    if len(token_ids) + count + min(reserve, _MIN_ANSWER) > context_length:
        raise ValueError(
            f"the selection is too long for the model ({count} tokens, which the answer repeats; {context_length} fit "
            "together); select fewer lines"
        )
    return TokenPrompt(
        tuple(token_ids),
        _find_stop_token_ids(family, tokenizer),
        family,
        line_range=(0, len(target.lines)),
        edit_format=edit_format,
        num_copied=count,
    )


def _encode_chat(model: PromptModel, message: str, answer_start: str) -> list[int]:
    """Encode a user's message in the chat template, and the text that the answer begins with."""
    assert model.chat is not None
    tokenizer: PromptTokenizer = model.tokenizer
    before, after = model.chat
    return [
        *tokenizer.encode_template(before),
        *tokenizer.encode_continuation(message),
        *tokenizer.encode_template(after),
        *tokenizer.encode_continuation(answer_start),
    ]


def _find_healing_prefix(prefix: str) -> str:
    """Find the end of the prefix that probably lies inside a token: a partial word, spaces, a line end with indent."""
    match = _HEALING.search(prefix[-128:])
    found = match.group() if match else ""
    # Never the second half of a CRLF: the rest would count as a line end of its own.
    return found[1:] if found[:1] == "\n" and prefix[-len(found) - 1 : -len(found)] == "\r" else found


def _encode_template(template: Template, tokenizer: PromptTokenizer, slots: dict[Slot, str]) -> list[int]:
    """Encode a filled template; text between two control tokens is encoded in one piece, as in training."""
    tokens: list[int] = []
    pending = ""
    for part in (*template, None):
        if part is None or isinstance(part, Control):
            encode = tokenizer.encode_continuation if tokens else tokenizer.encode
            tokens += encode(pending) if pending else []
            pending = ""
            tokens += _encode_control(part, tokenizer) if part is not None else []
        else:
            pending += slots[part] if isinstance(part, Slot) else part
    return tokens


def _encode_control(part: Part, tokenizer: PromptTokenizer) -> list[int]:
    assert isinstance(part, Control)
    id = _find_id(tokenizer, part.token)
    if id is None and not part.optional:
        raise ValueError(f"the model's vocabulary has no token {part.token!r}")
    return [] if id is None else [id]


def _find_id(tokenizer: PromptTokenizer, token: str) -> int | None:
    """Find a control token's id. Some vocabularies hold theirs as plain entries (Code Llama's), not as added tokens."""
    found = tokenizer.control_token_to_id(token)
    return found if found is not None else tokenizer.token_to_id(token)


def _find_stop_token_ids(family: Family, tokenizer: PromptTokenizer) -> frozenset[int]:
    found = (_find_id(tokenizer, token) for token in family.stop_tokens)
    return frozenset(id for id in found if id is not None)
