"""Prompts as text, for a service that has the tokenizer: control tokens in their own spelling, sizes in bytes.

Such a service reads a control token wherever one is spelled. So a prompt is refused if the user's text, also together
with the template around it, spells a token that the template did not put there; snippets that do are dropped. BOS
tokens are left to the service, which adds them. Sizes are estimates, on the safe side. Nothing holds the answer to the
prompt's last word, so the word stays where it is. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from codeclippy_ls.families import (
    FAMILIES,
    MARKUP_TOKENS,
    Control,
    EditFormat,
    Family,
    Slot,
    Template,
    detect_served_family,
    list_control_tokens,
    select_edit_format,
)
from codeclippy_ls.prompts.context import CompletionContext, EditTarget
from codeclippy_ls.prompts.control_tokens import CHAT_TOKENS, RefusedTextError, find_control_tokens
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
from codeclippy_ls.text import replace_surrogates, to_lf

# Code has three to four characters per token with today's vocabularies; text full of punctuation has fewer, and a
# letter of another script is two or three bytes.
_BYTES_PER_TOKEN = 2
_MIN_BUDGET = 64  # bytes of a prompt
_MAX_STOP_STRINGS = 4  # of OpenAI's API
_MIN_REPEATED = 2  # letters of a partial word that an answer repeats


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model behind a service: its name there, its context length in tokens, and how to prompt it.

    Attributes:
        is_chat: it follows instructions, by the service's own chat template.
        listed_tokens: control tokens that the service lists.
        fim_mode: how to request fill-in-the-middle: by our ``template``, as the service's ``suffix``, or not
            (``none``); ``auto`` is the template if the family has one.
    """

    name: str
    context_length: int
    is_chat: bool = False
    fim_mode: str = "auto"
    listed_tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A prompt as text, or with ``is_chat`` a user's message, and the strings that end the answer.

    Attributes:
        suffix: the text after the middle, if the service makes the prompt.
        stop: strings that end the answer.
        control_tokens: tokens that are no part of any answer.
        partial_word: the word that the prompt ends in.
        healing_prefix: empty: no text is cut from the prompt.
        line_range: of an edit, the document's lines ``[start, end)`` that the prompt shows.
        grammar: of an edit's answer, for services that support one.
        edit_format: of an edit.
        answer_start: the text that the answer begins with, if the service can continue an answer.
        num_copied: tokens of the shown lines, if the answer repeats them; the limit of tokens does not count them.
    """

    text: str
    family: Family
    suffix: str | None = None
    is_chat: bool = False
    stop: tuple[str, ...] = ()
    control_tokens: tuple[str, ...] = ()
    partial_word: str = ""
    healing_prefix: str = ""
    line_range: tuple[int, int] = (0, 0)
    grammar: str = ""
    edit_format: EditFormat = EditFormat.DIFF
    answer_start: str = ""
    num_copied: int = 0


class _TextRenderer:
    """Renders a prompt as UTF-8; see `pipeline.Renderer`."""

    reach = 1
    suffix_step = 256
    outline_reach = 1

    def __init__(self, remote: RemoteModel, family: Family) -> None:
        self._remote, self._family = remote, family

    def encode(self, text: str) -> list[int]:
        return list(replace_surrogates(text).encode())

    def decode(self, units: list[int]) -> str:
        return bytes(units).decode("utf-8", "ignore")

    def encode_control(self, part: Control) -> list[int]:
        return [] if part.optional else list(part.token.encode())

    def has_token(self, token: str) -> bool:
        return True

    def accepts(self, text: str) -> bool:
        return not find_control_tokens(text, self._family, self._remote.listed_tokens)


def estimate_tokens(text: str) -> int:
    """Estimate the number of tokens of a text, on the high side."""
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)


def build_text_completion_prompt(
    remote: RemoteModel, context: CompletionContext, reserve: int, configured: str = ""
) -> TextPrompt:
    """Build the prompt for a cursor.

    Args:
        reserve: tokens kept for the answer.
        configured: family named in the settings.

    Raises:
        RefusedTextError: the text spells a control token.
        ValueError: the family does not complete, or the window is too small.
    """
    family = detect_served_family(remote.name, configured)
    require_completion(family)
    template = _select_template(family, remote.fim_mode)
    answer = min(reserve, remote.context_length // 2)
    budget = (remote.context_length - answer - len(template)) * _BYTES_PER_TOKEN
    if budget < _MIN_BUDGET:
        raise ValueError(f"a window of {remote.context_length} tokens leaves no room for a prompt")
    renderer = _TextRenderer(remote, family)
    suffix = context.suffix if Slot.SUFFIX in template or remote.fim_mode == "suffix" else ""
    prefix, suffix = to_lf(context.prefix), to_lf(suffix[:budget])
    fitted = fit_completion(renderer, family, template, context, prefix, suffix, budget)
    parts = [part if isinstance(part, Control) else renderer.decode(part) for part in fitted.parts]
    return TextPrompt(
        _join_checked(parts, family, remote) or "\n",
        family,
        _join_checked((renderer.decode(fitted.suffix),), family, remote) if remote.fim_mode == "suffix" else None,
        stop=family.stop_tokens[:_MAX_STOP_STRINGS],
        control_tokens=_collect_answer_tokens(family),
        partial_word=find_partial_word(renderer.decode(fitted.prefix)).strip(),
    )


def build_text_edit_prompt(
    remote: RemoteModel, target: EditTarget, reserve: int, configured: str = "", edit_format: str = "auto"
) -> TextPrompt:
    """Build the prompt for an edit, in the model's own format: by chat, or by the family's template.

    Raises:
        RefusedTextError: the text spells a control token.
        ValueError: the model makes no edits, or the selection does not fit.
    """
    family = detect_served_family(remote.name, configured)
    chosen = select_edit_format(family, remote.is_chat, edit_format)
    if chosen is None:
        raise ValueError(
            f"{remote.name} is not known to make edits; set a diff model of the endpoint, or one that "
            "follows instructions, as the model for edits"
        )
    if chosen is EditFormat.DIFF:
        return _build_diff_prompt(remote, family, target, reserve)
    return _build_rewrite_prompt(remote, family, chosen, target, reserve)


def _build_diff_prompt(remote: RemoteModel, family: Family, target: EditTarget, reserve: int) -> TextPrompt:
    is_chat = family.edit_template is None
    if family.edit_template is not None:
        reject_marker_text(family, target)
    fixed = format_edit_slots(target)

    def fill(document: str) -> Sequence[str | Control]:
        slots = {**fixed, Slot.DOCUMENT: document}
        if family.edit_template is None:
            return (format_instruction(slots),)
        return _fill_template(family.edit_template, slots)

    room = remote.context_length - sum(estimate_tokens(_spell(part)) for part in fill("")) - 4
    document, line_range = fit_edit(target, family, estimate_tokens, room, min(reserve, remote.context_length // 2))
    return TextPrompt(
        _join_checked(fill(document), family, remote),
        family,
        is_chat=is_chat,
        stop=() if is_chat else family.stop_tokens[:_MAX_STOP_STRINGS],
        control_tokens=_collect_edit_tokens(family, is_chat),
        line_range=line_range,
    )


def _build_rewrite_prompt(
    remote: RemoteModel, family: Family, edit_format: EditFormat, target: EditTarget, reserve: int
) -> TextPrompt:
    is_chat = edit_format is EditFormat.REWRITE
    request = format_rewrite(target)
    parts = (request.message,) if is_chat else format_window(target, family)
    count = estimate_tokens("\n".join(target.lines))
    used = sum(estimate_tokens(_spell(part)) for part in parts) + count
    if used + min(reserve, remote.context_length // 4) > remote.context_length:
        raise ValueError(
            f"the selection is too long for the model (about {count} tokens, which the answer repeats; "
            f"{remote.context_length} fit together); select fewer lines"
        )
    return TextPrompt(
        _join_checked(parts, family, remote),
        family,
        is_chat=is_chat,
        stop=() if is_chat else family.stop_tokens[:_MAX_STOP_STRINGS],
        control_tokens=_collect_edit_tokens(family, is_chat),
        line_range=(0, len(target.lines)),
        edit_format=edit_format,
        answer_start=request.answer_start if is_chat else "",
        num_copied=count,
    )


def _collect_edit_tokens(family: Family, is_chat: bool) -> tuple[str, ...]:
    tokens = _collect_answer_tokens(family)
    return tuple(dict.fromkeys((*tokens, *CHAT_TOKENS))) if is_chat else tokens


def extract_completion(text: str, prompt: TextPrompt) -> str:
    """Extract the text that an answer adds at the cursor; empty if the answer begins the last word anew."""
    text = cut_at_control_token(text, prompt)
    return "" if len(prompt.partial_word) >= _MIN_REPEATED and text.startswith(prompt.partial_word) else text


def cut_at_control_token(text: str, prompt: TextPrompt) -> str:
    """Cut an answer at the first control token that the service spelled in it."""
    found = [at for token in prompt.control_tokens if (at := text.find(token)) >= 0]
    return text[: min(found)] if found else text


def _select_template(family: Family, fim_mode: str) -> Template:
    if fim_mode == "template" and family.fim_template is None:
        raise ValueError(f'setting "model.endpointFim": {family.name} models have no template for fill-in-the-middle')
    if family.fim_template is not None and fim_mode in ("auto", "template"):
        return family.fim_template
    return (Slot.PREFIX,)


def _fill_template(template: Template, slots: dict[Slot, str]) -> list[str | Control]:
    """Fill a template without its optional control tokens, which are the service's to add.

    Text of the template itself counts as control tokens: some families' are plain text.
    """
    return [
        slots[part] if isinstance(part, Slot) else Control(part) if isinstance(part, str) else part
        for part in template
        if not (isinstance(part, Control) and part.optional)
    ]


def _spell(part: str | Control) -> str:
    return part.token if isinstance(part, Control) else part


@lru_cache(maxsize=64)
def _collect_answer_tokens(family: Family) -> tuple[str, ...]:
    """Collect the tokens that end an answer if a model spells them; of an unknown model, those of all families.

    Tokens that are common markup count only for a known family.
    """
    if family is not FAMILIES[-1]:
        return family.control_tokens
    return tuple(token for token in list_control_tokens() if token.startswith("<") and token not in MARKUP_TOKENS)


def _join_checked(parts: Iterable[str | Control], family: Family, remote: RemoteModel) -> str:
    """Join parts to a text.

    Raises:
        RefusedTextError: the text spells a control token that is not one of the parts.
    """
    parts = list(parts)
    text = replace_surrogates("".join(map(_spell, parts)))
    controls = "\n".join(part.token for part in parts if isinstance(part, Control))
    expected = find_control_tokens(controls, family, remote.listed_tokens)
    for token in find_control_tokens(text, family, remote.listed_tokens):
        if not expected or token != expected.pop(0):
            models = f"{family.name} models" if token in family.control_tokens else "a served model"
            raise RefusedTextError(f"the text contains {token}, which {models} could take for a control token")
    return text
