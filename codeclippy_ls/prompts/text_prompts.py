"""Prompts as text, for a service that has the tokenizer at its side: control tokens in their own spelling.

Such a service reads a control token wherever one is spelled. So a prompt is refused where the user's text, wherever it
touches the template, spells one that the template did not put there; of what is shown beside, such a passage is left
out. Tokens that begin every text are left to the service, which puts them itself. Sizes are estimates, on the safe
side. Nothing holds the answer to the prompt's last word, so the word stays where it is. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from codeclippy_ls.prompts.build import (
    NEW_FILE,
    CompletionContext,
    EditTarget,
    find_partial_word,
    instruction,
    reject_marker_text,
)
from codeclippy_ls.prompts.context_snippets import Snippet, extract_outline, format_as_comment
from codeclippy_ls.prompts.families import FAMILIES, Control, Family, Slot, Template, detect_served_family
from codeclippy_ls.prompts.truncation import find_aligned_start, fit_lines
from codeclippy_ls.text import replace_surrogates, to_lf

# Code has three to four characters a token with the vocabularies of today; what is dense in signs has fewer, and a
# letter of another script is two or three bytes.
_BYTES_PER_TOKEN = 2
_SUFFIX_SHARE = 0.25
_HEAD_SHARE = 0.125
_BESIDE_SHARE = 0.25
_SUFFIX_STEP = 256  # bytes, so that typing does not move the suffix's end
_MOST_STOPS = 4  # of OpenAI's interface
_LEAST_REPEATED = 2  # letters of a begun word that an answer repeats
# Of a model of which nothing is known, these are markup more often than control tokens.
_MARKUP = frozenset({"<s>", "</s>", "<bos>", "<eos>", "<NME>", "<BEF>", "<MSG>", "<DFF>", "<filename>"})
_CHAT = (
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|start|>",
    "<|message|>",
    "<|channel|>",
)
_CLOSED = re.compile(r"```[^\n]*\n(?:.*\n)?```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model behind a service: its name there, its window in tokens, and how it is asked.

    Attributes:
        chat: whether it follows instructions, by the service's own chat template.
        infill: how a hole is asked for: by our ``template``, as the service's ``suffix``, or not (``none``); ``auto``
            is the template where the family has one.
    """

    name: str
    window: int
    chat: bool = False
    infill: str = "auto"


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A prompt as text, or with ``chat`` a user's message, and what ends the answer.

    Attributes:
        suffix: what follows the hole, where the service makes the prompt.
        stop: texts that end the answer.
        spelled: control tokens that are no part of any answer.
        begun: the word that the prompt ends in.
        heal: nothing: no text is cut from the prompt.
        lines: of an edit, the document's lines ``[start, end)`` that the prompt shows.
        grammar: of an edit's answer, for services that hold a model to one.
    """

    text: str
    family: Family
    suffix: str | None = None
    chat: bool = False
    stop: tuple[str, ...] = ()
    spelled: tuple[str, ...] = ()
    begun: str = ""
    heal: str = ""
    lines: tuple[int, int] = (0, 0)
    grammar: str = ""


def estimate_tokens(text: str) -> int:
    """About the most tokens that a text has."""
    return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)


def build_text_completion_prompt(
    served: RemoteModel, context: CompletionContext, reserve: int, wanted: str = ""
) -> TextPrompt:
    """The prompt for the cursor.

    Args:
        reserve: tokens kept for the answer.

    Raises:
        ValueError: the family does not complete, the text spells a control token, or the window is too small.
    """
    family = detect_served_family(served.name, wanted)
    if not family.continues:
        raise ValueError(f"{family.name} writes diffs and completes nothing; set another model for completion")
    template = _template(family, served.infill)
    room = (served.window - min(reserve, served.window // 2) - len(template)) * _BYTES_PER_TOKEN
    if room < 64:
        raise ValueError(f"a window of {served.window} tokens leaves no room for a prompt")
    spelled = _spelled(family)
    front, beside = _beside(family, context, spelled, int(room * _BESIDE_SHARE))
    room -= _size(_joined((*front, *beside)))
    holed = Slot.SUFFIX in template or served.infill == "suffix"
    before, after = _shared(context, context.suffix if holed else "", room)
    slots = {Slot.PREFIX: "".join(beside) + before, Slot.SUFFIX: after}
    text = _guarded((*front, *_filled(template, slots)), family, spelled)
    suffix = None
    if served.infill == "suffix":
        suffix = _guarded((after,), family, spelled)
    return TextPrompt(
        text or "\n",
        family,
        suffix,
        stop=family.ends[:_MOST_STOPS],
        spelled=spelled,
        begun=find_partial_word(before).strip(),
    )


def build_text_edit_prompt(served: RemoteModel, edited: EditTarget, reserve: int, wanted: str = "") -> TextPrompt:
    """The prompt for a diff, by the family's template, or as a message for a model that follows instructions.

    Raises:
        ValueError: the model writes no diffs, the text spells a control token, or the selection does not fit.
    """
    family = detect_served_family(served.name, wanted)
    if family.edit is None and not served.chat:
        raise ValueError(
            f"{served.name} is not known to write diffs; set a diff model of the endpoint, or one that "
            "follows instructions, as the model for edits"
        )
    if family.edit is not None:
        reject_marker_text(family, edited)
    fixed = {Slot.NAME: edited.name or "file", Slot.MESSAGE: " ".join(edited.message.split())}
    spelled = _spelled(family) if family.edit is not None else tuple(dict.fromkeys((*_spelled(family), *_CHAT)))

    def filled(document: str) -> tuple[str | Control, ...]:
        slots = {**fixed, Slot.DOCUMENT: document}
        return _filled(family.edit, slots) if family.edit is not None else (instruction(slots),)

    room = served.window - sum(estimate_tokens(_text(part)) for part in filled("")) - 4
    start, end = fit_lines(
        estimate_tokens, edited.lines, edited.first, edited.last, room, min(reserve, served.window // 2)
    )
    new = NEW_FILE if family.edit is not None else ""
    shown = f"{new}\n" if edited.new else "\n".join(edited.lines[start:end]) + "\n"
    text = _guarded(filled(shown), family, spelled)
    chat = family.edit is None
    return TextPrompt(
        text, family, chat=chat, stop=() if chat else family.ends[:_MOST_STOPS], spelled=spelled, lines=(start, end)
    )


def continued(text: str, prompt: TextPrompt) -> str:
    """What an answer adds at the cursor: without control tokens, and nothing where it begins the last word anew."""
    text = cut_at_control_token(text, prompt)
    return "" if len(prompt.begun) >= _LEAST_REPEATED and text.startswith(prompt.begun) else text


def cut_at_control_token(text: str, prompt: TextPrompt) -> str:
    """An answer up to the first control token that a service spelled in it."""
    found = [at for token in prompt.spelled if (at := text.find(token)) >= 0]
    return text[: min(found)] if found else text


def closed(text: str, prompt: TextPrompt) -> bool:
    """Whether an answer in a fence is at its end."""
    return prompt.chat and _CLOSED.search(text) is not None


def _template(family: Family, infill: str) -> Template:
    if infill == "template" and family.infill is None:
        raise ValueError(f'setting "model.endpointFim": {family.name} models have no template for infilling')
    return family.infill if family.infill is not None and infill in ("auto", "template") else (Slot.PREFIX,)


def _filled(template: Template, slots: dict[Slot, str]) -> tuple[str | Control, ...]:
    """The parts of a template; what stands at the beginning of every text is left to the service."""
    return tuple(
        slots[part] if isinstance(part, Slot) else part
        for part in template
        if not (isinstance(part, Control) and part.optional)
    )


def _text(part: str | Control) -> str:
    return part.token if isinstance(part, Control) else part


@lru_cache(maxsize=64)
def _spelled(family: Family) -> tuple[str, ...]:
    """The control tokens that a model of a family may read in a text; of an unknown model, those of all families."""
    rows = (family,) if family is not FAMILIES[-1] else FAMILIES
    parts = [part for row in rows for template in (row.infill or (), row.edit or (), row.start) for part in template]
    found = [part.token for part in parts if isinstance(part, Control)]
    found += [token for row in rows for token in (*row.markers, *row.ends, row.file) if token]
    plain = len(rows) > 1
    return tuple(
        token for token in dict.fromkeys(found) if not plain or (token.startswith("<") and token not in _MARKUP)
    )


@lru_cache(maxsize=64)
def _pattern(spelled: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(token) for token in sorted(spelled, key=len, reverse=True)))


def _guarded(parts: Sequence[str | Control], family: Family, spelled: tuple[str, ...]) -> str:
    """The text of parts; refused where it spells another control token than they put there."""
    text = replace_surrogates("".join(_text(part) for part in parts))
    meant = [part.token for part in parts if isinstance(part, Control)]
    found = _pattern(spelled).findall(text) if spelled else []
    for token in found:
        if not meant or token != meant.pop(0):
            of = f"{family.name} models" if family is not FAMILIES[-1] else "a served model"
            raise ValueError(f"the text holds {token}, which {of} would take for their own marker")
    return text


def _beside(
    family: Family, context: CompletionContext, spelled: tuple[str, ...], most: int
) -> tuple[list[str | Control], list[str]]:
    """What goes before everything, and what goes before the prefix, at most so many bytes together."""
    named = bool(family.file and context.name)
    front: list[str | Control] = [Control(family.file), f"{context.name}\n"] if named else []
    used = _size(_joined(front))
    shown: list[list[str | Control]] = []
    for snippet in reversed(context.passages):  # the most relevant is the last, and the first to have room
        parts = _render_snippet(family, snippet, context.language)
        user = "".join(part for part in parts if isinstance(part, str))
        if spelled and _pattern(spelled).search(user):
            continue
        if used + _size(_joined(parts)) <= most:
            used += _size(_joined(parts))
            shown.insert(0, parts)
    flat = [part for parts in shown for part in parts]
    return ([*flat, *front], []) if family.file else ([], [_text(part) for part in flat])


def _render_snippet(family: Family, snippet: Snippet, language: str) -> list[str | Control]:
    if family.file:
        return [Control(family.file), f"{snippet.path}\n{snippet.text}\n"]
    return [format_as_comment(snippet, language)]


def _joined(parts: Iterable[str | Control]) -> str:
    return "".join(_text(part) for part in parts)


def _shared(context: CompletionContext, suffix: str, room: int) -> tuple[str, str]:
    """The parts of prefix and suffix that fit ``room`` bytes together."""
    prefix = to_lf(context.prefix)
    after = to_lf(suffix[:room])
    least = int(room * _SUFFIX_SHARE)
    spare = (room - _size(prefix[-room:])) // _SUFFIX_STEP * _SUFFIX_STEP - _SUFFIX_STEP
    after = _start(after, max(least, spare))
    room -= max(least, _size(after)) if suffix else 0
    if len(prefix) <= room and _size(prefix) <= room:
        return prefix, after
    most = int(room * _HEAD_SHARE)
    kept = _end(prefix, room - most)
    start = find_aligned_start(prefix, len(prefix) - len(kept), context.skipped)
    shown = kept if start is None else prefix[start:]
    head = _start(extract_outline(prefix[: len(prefix) - len(shown)], shown, most), most)
    return head + shown, after


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _start(text: str, most: int) -> str:
    return text[:most].encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


def _end(text: str, most: int) -> str:
    return text[-most:].encode("utf-8", "replace")[-most:].decode("utf-8", "ignore") if most > 0 else ""
