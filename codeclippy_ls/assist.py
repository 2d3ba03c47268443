"""The two jobs, joined from prompts, constraints, the engine and diffs: ``complete`` at a cursor, ``edit`` by message.

Takes frozen documents and answers with frozen values in offsets; stale or worthless results are dropped here. Knows
no LSP types, no torch and no transport.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from codeclippy_ls import constrain, diffs, prompts
from codeclippy_ls.engine.engine import Engine, Generation, Lane, Reason, Request, State, Status
from codeclippy_ls.engine.errors import EngineError
from codeclippy_ls.engine.spec import ModelSpec
from codeclippy_ls.engine.worker import LocalHost
from codeclippy_ls.prompts import Context, Edited, Job
from codeclippy_ls.prompts.build import family_of
from codeclippy_ls.settings import Settings
from codeclippy_ls.text import Document, Edit, apply, lines, minimal_edits, to_lf, with_eol

COMPLETE, EDIT = "complete", "edit"
_OPENERS = (":", "{", "(", "[", "=>", "->", " do", " then", "\\")
_SCOPE = re.compile(
    r"\s*(?:(?:export|default|public|private|protected|static|async|pub|abstract|final|inline)\s+)*"
    r"(?:def|class|function|fn|func|fun|interface|struct|enum|impl|trait|module|namespace|sub)\b"
)
_MOST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Text to insert at ``offset``, in the document's own end-of-line style."""

    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class Suggestions:
    """What to show; ``complete`` is false where asking again may bring more (loading, out of time)."""

    items: tuple[Suggestion, ...] = ()
    complete: bool = True
    generation: Generation | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """Edits to ``document``, offsets in its text, and the diff they came from."""

    document: Document
    edits: tuple[Edit, ...]
    diff: str
    generation: Generation

    @property
    def after(self) -> str:
        """The document's text with the edits applied."""
        return apply(self.document.text, self.edits)


@dataclass(frozen=True, slots=True)
class Refusal:
    """No edit, and a sentence that says why; ``cancelled`` where nobody needs to be told."""

    reason: str
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Marker:
    """A comment that holds a message: its line and the message."""

    line: int
    message: str


def open_engine(settings: Settings, watch: Callable[[str, Status], None] | None = None) -> Engine:
    """An engine for the models the settings name; nothing is loaded yet."""

    def host() -> LocalHost:
        return LocalHost(settings.model.cache_megabytes << 20)

    specs = {COMPLETE: _spec(settings, settings.model.complete)}
    specs[EDIT] = _spec(settings, settings.model.edit) if settings.model.edit else specs[COMPLETE]
    return Engine(host, specs, watch)


def _spec(settings: Settings, name: str) -> ModelSpec:
    model = settings.model
    return ModelSpec(name, model.device, model.dtype, model.threads)


@dataclass
class Assistant:
    """Joins one engine and the settings in force. Belongs to the loop thread."""

    engine: Engine
    settings: Settings = field(default_factory=Settings)
    _shown: dict[str, tuple[str, str, str]] = field(default_factory=dict, repr=False)

    async def complete(
        self, document: Document, offset: int, *, automatic: bool = False, selected: Edit | None = None,
        candidates: int = 1,
    ) -> Suggestions:
        """Suggestions at an offset; empty while the model loads, and where there is nothing worth showing.

        Args:
            automatic: asked by typing rather than by a key: the cheap gates apply.
            selected: what the completion list's selected item would insert; a suggestion continues that text.
            candidates: how many to make.

        Raises:
            EngineError: the engine failed; the message is for the user.
        """
        settings = self.settings.completion
        if not settings.enabled or len(document.text) > settings.max_file_kilobytes * 1024:
            return Suggestions()
        prefix, suffix = document.text[:offset], document.text[offset:]
        if selected is not None:
            prefix, suffix = document.text[: selected.start] + selected.text, document.text[selected.end :]
        if automatic and _inside_word(prefix, suffix):
            return Suggestions()
        if (again := self._typed_through(document.uri, prefix, suffix)) and candidates == 1:
            return Suggestions((Suggestion(again, offset),))
        if self.engine.status(COMPLETE).state in (State.ABSENT, State.LOADING):
            return Suggestions(complete=False)
        multiline = settings.multiline and _wants_block(prefix, suffix)
        generation = await self._completion(document.uri, prefix, suffix, multiline, candidates)
        found: dict[str, None] = {}
        for candidate in generation.candidates:
            text = _without_healed(candidate.text, generation.prompt.heal)
            text = prompts.trim(text, to_lf(prefix[-4000:]), to_lf(suffix[:4000]), multiline)
            if text:
                found[with_eol(text, document.eol)] = None
        if found:
            self._shown[document.uri] = (prefix, suffix, next(iter(found)))
        items = tuple(Suggestion(text, offset) for text in found)
        return Suggestions(items, generation.reason is not Reason.TIME, generation)

    async def _completion(self, uri: str, prefix: str, suffix: str, multiline: bool, candidates: int) -> Generation:
        settings, family = self.settings.completion, self.settings.model.family
        context = Context(prefix, suffix)
        start = to_lf(prefix[-4000:])

        def build(model: Any, window: int) -> prompts.Prompt:
            nonlocal healed
            reserve = min(settings.max_tokens + 8, window // 2)
            prompt = prompts.completion_prompt(model, context, window, reserve, family)
            healed = len(prompt.heal)
            return replace(prompt, constraint=constrain.heal(model.tokenizer, prompt.heal))

        healed = 0

        def done(text: str) -> bool:
            return prompts.ended(text[healed:], start, multiline)

        sampling = {
            "max_tokens": settings.max_tokens, "temperature": settings.temperature, "top_p": settings.top_p,
            "candidates": candidates if settings.temperature > 0 else 1, "seconds": settings.time_budget_ms / 1000,
        }
        request = Request(build, sampling, COMPLETE, key=uri, done=done)
        return await self.engine.submit(request, Lane.KEYSTROKE).result()

    def _typed_through(self, uri: str, prefix: str, suffix: str) -> str:
        """The rest of the suggestion last shown in this document, where what was typed since is its head."""
        if (shown := self._shown.get(uri)) is None:
            return ""
        before, after, text = shown
        typed = prefix[len(before) :]
        good = suffix == after and prefix.startswith(before) and text.startswith(typed) and len(typed) < len(text)
        return text[len(typed) :] if good else ""

    def changed(self, uri: str) -> None:
        """The document changed: what is being made for its cursor is stale."""
        self.engine.cancel(uri, Lane.KEYSTROKE)

    def forget(self, uri: str) -> None:
        """Drop what was kept for a document that closes."""
        self._shown.pop(uri, None)

    async def prepare(self) -> None:
        """Load the model for completion; where no other is set for edits and it writes no diffs, the shipped one does.

        Raises:
            EngineError: it cannot be loaded; the message is for the user.
        """
        await self.engine.prepare(COMPLETE).result()
        model = self.engine.status(COMPLETE).model
        try:
            family = family_of(model, self.settings.model.family)
        except ValueError as error:
            raise EngineError(str(error)) from error
        if not self.settings.model.edit and Job.EDIT not in family.jobs:
            self.engine.use(EDIT, _spec(self.settings, ""))

    def edits_possible(self) -> bool:
        """Whether the model for edits writes diffs, as far as is known: one that still loads may."""
        status = self.engine.status(EDIT)
        if not self.settings.edit.enabled or status.state is State.FAILED:
            return False
        if status.model is None:
            return True
        # A family named in the settings is meant for the model of completion, unless one is set for edits.
        wanted = self.settings.model.family if status.model.name else ""
        try:
            return Job.EDIT in family_of(status.model, wanted).jobs
        except ValueError:
            return False

    async def edit(
        self, document: Document, message: str, span: tuple[int, int] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Proposal | Refusal:
        """An edit of the document by message, as edits that apply to this very text, or why there is none.

        Args:
            span: first and last line to edit, the last included; the whole document where it is ``None``.
            on_text: called with the diff's text as it grows.
        """
        marker = marker_at(document, span, self.settings.edit.comment_marker) if not message.strip() else None
        message = message.strip() or (marker.message if marker else "")
        if not message:
            return Refusal("an edit needs a message that says what to change")
        shown = _shown_part(document, span, marker)
        try:
            generation = await self._diff(document, shown, message, on_text)
        except EngineError as error:
            return Refusal(str(error))
        if generation.reason in (Reason.CANCELLED, Reason.SUPERSEDED):
            return Refusal(f"the edit was {generation.reason.value}", cancelled=True)
        return _proposal(document, shown, marker, generation)

    async def _diff(
        self, document: Document, shown: Shown, message: str, on_text: Callable[[str], None] | None
    ) -> Generation:
        settings, family = self.settings.edit, self.settings.model.family
        name = document.uri.rsplit("/", 1)[-1]

        def build(model: Any, window: int) -> prompts.Prompt:
            reserve = min(settings.max_tokens, window // 2)
            edited = Edited(shown.lines, shown.first, shown.last, name, message)
            prompt = prompts.edit_prompt(model, edited, window, reserve, family)
            start, end = prompt.lines
            state = constrain.diff(model.tokenizer, shown.lines[start:end], model.ends | prompt.ends)
            return replace(prompt, constraint=state)

        sampling = {"max_tokens": settings.max_tokens, "temperature": settings.temperature,
                    "seconds": settings.time_budget_ms / 1000}
        ticket = self.engine.submit(Request(build, sampling, EDIT, key=document.uri), Lane.EDIT)
        try:
            async for piece in ticket.pieces():
                if on_text is not None:
                    on_text(piece)
            return await ticket.result()
        finally:
            ticket.cancel()  # no effect once it is answered


@dataclass(frozen=True, slots=True)
class Shown:
    """The lines of a document that an edit is about; a marker's own line is left out.

    Attributes:
        numbers: the document's line number of each of them.
        first, last: the selection within ``lines``, kept whole where a window must be cut.
    """

    lines: tuple[str, ...]
    numbers: tuple[int, ...]
    first: int
    last: int


def _shown_part(document: Document, span: tuple[int, int] | None, marker: Marker | None) -> Shown:
    count = document.line_count
    if span is None:
        first, last = 0, count - 1
    elif span[0] == span[1]:
        first, last = scope(document, span[0])
    else:
        first, last = max(span[0], 0), min(span[1], count - 1)
    if last == count - 1 and not document.line(last):
        last -= 1  # what follows the final line end is no line of the text
    numbers = tuple(line for line in range(first, last + 1) if marker is None or line != marker.line)
    texts = tuple(document.line(line) for line in numbers)
    if span is not None and span[0] != span[1]:
        return Shown(texts, numbers, 0, max(len(texts) - 1, 0))
    place = sum(number < span[0] for number in numbers) if span else 0
    place = min(place, max(len(texts) - 1, 0))
    return Shown(texts, numbers, place, place)


def _proposal(document: Document, shown: Shown, marker: Marker | None, generation: Generation) -> Proposal | Refusal:
    """The generation's diff, rewritten from what was done and read again like any other diff."""
    start, end = generation.prompt.lines
    state = generation.prompt.constraint
    for token in generation.candidates[0].tokens:
        state = state.step(token)
    if generation.reason is not Reason.END:  # cut off: the hunk under way may lack its other half
        state = replace(state, body=(), changed=False)
    diff = state.diff()
    if not diff:
        unfinished = "" if generation.reason is Reason.END else f" within the {generation.reason.value} budget"
        return Refusal(f"the model proposed no change{unfinished}")
    part = Document(document.uri, "".join(line + "\n" for line in shown.lines[start:end]))
    edits, problems = diffs.read(diff, part, whole=True)
    if fatal := [problem for problem in problems if problem.fatal]:
        return Refusal(f"the model's diff was refused: {fatal[0].reason}")
    moved = _mapped(document, shown.numbers[start:end], apply(part.text, edits), marker)
    if not moved:
        return Refusal("the model proposed no change")
    return Proposal(document, moved, diff, generation)


def _mapped(document: Document, numbers: tuple[int, ...], after: str, marker: Marker | None) -> tuple[Edit, ...]:
    """Edits that bring the lines from the first to the last of ``numbers`` to ``after``; the marker's line goes."""
    start, end = _line_range(document, numbers[0], numbers[-1]) if numbers else (len(document.text),) * 2
    before = document.text[start:end]
    if before and before[-1] not in "\r\n":
        after = after.removesuffix("\n")
    changes = minimal_edits(before, _in_style_of(before, after, document.eol))
    edits = tuple(Edit(edit.start + start, edit.end + start, edit.text) for edit in changes)
    if edits and marker and not numbers[:1] <= (marker.line,) <= numbers[-1:]:
        edits += (Edit(*_line_range(document, marker.line, marker.line), ""),)
    return edits


def _line_range(document: Document, first: int, last: int) -> tuple[int, int]:
    """Offsets of whole lines, the last one's line end included."""
    end = document.starts[last + 1] if last + 1 < document.line_count else len(document.text)
    return document.starts[first], end


def _in_style_of(before: str, after: str, eol: str) -> str:
    """The new lines, each with the line end it had where it is an old line, else in the document's style."""
    old, new = lines(before), lines(after)
    matcher = difflib.SequenceMatcher(None, [to_lf(line) for line in old], new, autojunk=False)
    result: list[str] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        result += old[i1:i2] if tag == "equal" else [with_eol(line, eol) for line in new[j1:j2]]
    return "".join(result)


def marker_at(document: Document, span: tuple[int, int] | None, marker: str) -> Marker | None:
    """The message in a comment on one of the lines, as in ``# clippy: add a docstring``; any comment sign will do."""
    if not marker.strip():
        return None
    pattern = re.compile(r"\s*(?:#+|//+|--|;+|%+|/\*+|<!--|\"|')\s*" + re.escape(marker.strip()) + r"\s*(\S.*)")
    first, last = span or (0, document.line_count - 1)
    for line in range(max(first, 0), min(last, document.line_count - 1) + 1):
        if match := pattern.fullmatch(document.line(line)):
            return Marker(line, re.sub(r"\s*(?:\*/|-->)?\s*$", "", match[1]))
    return None


def scope(document: Document, line: int) -> tuple[int, int]:
    """First and last line of the function or class around a line, by indentation; the whole document outside of one."""
    count = document.line_count
    line = min(max(line, 0), count - 1)
    while line + 1 < count and not document.line(line).strip():
        line += 1
    start, depth = line, prompts.indentation(document.line(line)) + 1
    while start >= 0:
        text = document.line(start)
        if text.strip() and prompts.indentation(text) < depth:
            if _SCOPE.match(text):
                break
            depth = prompts.indentation(text)
        start -= 1
    if start < 0:
        return _around(document, line)
    return _decorated(document, start), _scope_end(document, start)


def _scope_end(document: Document, start: int) -> int:
    depth, end = prompts.indentation(document.line(start)), start
    for line in range(start + 1, document.line_count):
        text = document.line(line)
        if text.strip():
            if prompts.indentation(text) <= depth and text.strip()[0] not in ")]}{":
                break
            end = line
    return end


def _decorated(document: Document, start: int) -> int:
    while start > 0 and document.line(start - 1).lstrip().startswith("@"):
        start -= 1
    return start


def _around(document: Document, line: int) -> tuple[int, int]:
    if document.line_count <= _MOST_SHOWN:
        return 0, document.line_count - 1
    first = max(0, line - _MOST_SHOWN // 2)
    return first, min(first + _MOST_SHOWN, document.line_count) - 1


def _inside_word(prefix: str, suffix: str) -> bool:
    return bool(suffix[:1].isalnum() or suffix[:1] == "_")


def _wants_block(prefix: str, suffix: str) -> bool:
    """Whether more than a line fits here: on an empty line, after one that opens a block."""
    line = re.split(r"[\r\n]", prefix[-2000:])[-1]
    rest = re.split(r"[\r\n]", suffix[:2000], maxsplit=1)[0]
    if line.strip() or rest.strip():
        return False
    return prefix[-4000:].rstrip().endswith(_OPENERS)


def _without_healed(text: str, heal: str) -> str:
    return text[len(heal) :] if text.startswith(heal) else ""
