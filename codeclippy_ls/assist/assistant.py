"""The assistant: one engine and the settings in force, asked for suggestions and edits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from codeclippy_ls import prompts
from codeclippy_ls.assist import copies
from codeclippy_ls.assist.asks import CompletionAsk, EditAsk
from codeclippy_ls.assist.facts import facts_of
from codeclippy_ls.assist.proposals import Proposal, Refusal, proposal_from
from codeclippy_ls.assist.regions import Shown, marker_at, shown_part
from codeclippy_ls.engine.engine import Engine, Generation, Lane, Reason, Request, State, Status
from codeclippy_ls.engine.errors import EngineError
from codeclippy_ls.engine.spec import SHIPPED, ModelSpec
from codeclippy_ls.engine.worker import LocalHost
from codeclippy_ls.prompts import Context
from codeclippy_ls.settings import Settings
from codeclippy_ls.text import Document, Edit, to_lf, with_eol, without_surrogates

COMPLETE, EDIT = "complete", "edit"
_JOIN_SECONDS = 10.0
_OPENERS = (":", "{", "(", "[", "=>", "->", " do", " then", "\\")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Text to insert at ``offset``, in the document's own end-of-line style; ``source`` is whose passage it copies."""

    text: str
    offset: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Suggestions:
    """What to show; ``complete`` is false where asking again may bring more (loading, out of time).

    ``notice`` says why there is nothing where the user should know, once.
    """

    items: tuple[Suggestion, ...] = ()
    complete: bool = True
    notice: str = ""
    generation: Generation | None = None


def open_engine(settings: Settings, watch: Callable[[str, Status], None] | None = None) -> Engine:
    """An engine for the models the settings name; nothing is loaded yet."""

    def host() -> LocalHost:
        return LocalHost(settings.model.cache_megabytes << 20, facts_of)

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
    _shown: dict[str, tuple[str, str, Suggestion]] = field(default_factory=dict, repr=False)

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
        if not settings.enabled:
            return Suggestions()
        if len(document.text) > settings.max_file_kilobytes * 1024:
            return Suggestions(notice=f"files above {settings.max_file_kilobytes} kB get no suggestions; "
                                      'the setting "completion.maxFileKilobytes" says so')
        prefix, suffix = document.text[:offset], document.text[offset:]
        if selected is not None:
            prefix, suffix = document.text[: selected.start] + selected.text, document.text[selected.end :]
        if automatic and _inside_word(prefix, suffix):
            return Suggestions()
        if selected is not None and self._is_shown(document.uri, prefix, suffix):
            return Suggestions()  # the list's item is our own: there is nothing to add to it
        if (again := self._typed_through(document.uri, prefix, suffix)) and candidates == 1:
            return Suggestions((replace(again, offset=offset),))
        if self.engine.status(COMPLETE).state in (State.ABSENT, State.LOADING):
            return Suggestions(complete=False)
        multiline = settings.multiline and _wants_block(prefix, suffix)
        generation = await self._completion(document.uri, prefix, suffix, multiline, candidates)
        found: dict[str, Suggestion] = {}
        for candidate in generation.candidates:
            text = prompts.trim(candidate.answer, to_lf(prefix[-4000:]), to_lf(suffix[:4000]), multiline)
            # Parsing takes milliseconds: not on the loop.
            text = await asyncio.to_thread(prompts.fitting, text, to_lf(prefix), to_lf(suffix), document.language)
            source = self._copied(COMPLETE, text)
            if text and not (source and settings.copies == "hide"):
                found[text] = Suggestion(with_eol(text, document.eol), offset, source)
        items = tuple(found.values())
        if items and generation.reason is not Reason.TIME:  # one that was cut off is not the last word
            self._shown[document.uri] = (prefix, suffix, items[0])
        return Suggestions(items, generation.reason is not Reason.TIME, generation=generation)

    def _copied(self, job: str, text: str) -> str:
        """The package whose passage a text of the shipped model copies, where anybody wants to know."""
        model = self.engine.status(job).model
        if self.settings.completion.copies == "show" or model is None or model.name:
            return ""
        known = copies.shipped(SHIPPED)
        return known.source(text) if known is not None else ""

    async def _completion(self, uri: str, prefix: str, suffix: str, multiline: bool, candidates: int) -> Generation:
        settings, family = self.settings.completion, self.settings.model.family
        ask = CompletionAsk(Context(prefix, suffix), settings.max_tokens, multiline, family)
        sampling = {
            "max_tokens": settings.max_tokens, "temperature": settings.temperature, "top_p": settings.top_p,
            "candidates": candidates if settings.temperature > 0 else 1, "seconds": settings.time_budget_ms / 1000,
        }
        return await self.engine.submit(Request(ask, sampling, COMPLETE, key=uri), Lane.KEYSTROKE).result()

    def _is_shown(self, uri: str, prefix: str, suffix: str) -> bool:
        before, after, last = self._shown.get(uri, ("", "", Suggestion("", 0)))
        return bool(last.text) and (prefix, suffix) == (before + last.text, after)

    def _typed_through(self, uri: str, prefix: str, suffix: str) -> Suggestion | None:
        """The rest of the suggestion last shown in this document, where what was typed since is its head."""
        if (shown := self._shown.get(uri)) is None:
            return None
        before, after, last = shown
        typed, text = prefix[len(before) :], last.text
        good = suffix == after and prefix.startswith(before) and text.startswith(typed) and len(typed) < len(text)
        return replace(last, text=text[len(typed) :]) if good else None

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
            writes_diffs = model.writes_diffs(self.settings.model.family)
        except ValueError as error:
            raise EngineError(str(error)) from error
        if not self.settings.model.edit and not writes_diffs:
            self.engine.use(EDIT, _spec(self.settings, ""))
        elif self.engine.status(EDIT).state is State.FAILED:
            self.engine.use(EDIT, _spec(self.settings, self.settings.model.edit or self.settings.model.complete))

    async def close(self) -> None:
        """Close the engine and wait for its thread: torch aborts a process that ends while one of its threads runs."""
        self.engine.close()
        await asyncio.to_thread(self.engine.join, _JOIN_SECONDS)

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
            return bool(status.model.writes_diffs(wanted))
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
        message = without_surrogates(message.strip() or (marker.message if marker else ""))
        if not message:
            return Refusal("an edit needs a message that says what to change")
        shown = shown_part(document, span, marker)
        try:
            if not self.settings.model.edit and self.engine.status(COMPLETE).state is not State.READY:
                await self.prepare()  # only then is it known which model writes diffs
            generation = await self._diff(document, shown, message, on_text)
        except EngineError as error:
            return Refusal(str(error))
        if generation.reason in (Reason.CANCELLED, Reason.SUPERSEDED):
            return Refusal(f"the edit was {generation.reason.value}", cancelled=True)
        made = await asyncio.to_thread(proposal_from, document, shown, marker, generation)  # parsing takes time
        return made if isinstance(made, Refusal) else self._own(made)

    def _own(self, made: Proposal) -> Proposal | Refusal:
        """The best of a proposal and its others that copies nobody's passage, or marked where that is wanted."""
        found = [replace(one, others=(), source=self._copied(EDIT, "\n".join(edit.text for edit in one.edits)))
                 for one in (made, *made.others)]
        kept = [one for one in found if not one.source or self.settings.completion.copies != "hide"]
        if not kept:
            return Refusal(f"what the model wrote copies a passage of {found[0].source}, which it was trained on; the "
                           'setting "completion.copies" shows such edits')
        return replace(kept[0], others=tuple(kept[1:]))

    async def _diff(
        self, document: Document, shown: Shown, message: str, on_text: Callable[[str], None] | None
    ) -> Generation:
        settings, family = self.settings.edit, self.settings.model.family
        name = without_surrogates(document.uri.rsplit("/", 1)[-1])
        ask = EditAsk(name, shown, message, settings.max_tokens, family)
        sampling = {"max_tokens": settings.max_tokens, "temperature": settings.temperature,
                    "seconds": settings.time_budget_ms / 1000, "spread": True,
                    "candidates": settings.candidates if settings.temperature > 0 else 1}
        ticket = self.engine.submit(Request(ask, sampling, EDIT, key=document.uri), Lane.EDIT)
        try:
            async for piece in ticket.pieces():
                if on_text is not None:
                    on_text(piece)
            return await ticket.result()
        finally:
            ticket.cancel()  # no effect once it is answered


def _inside_word(prefix: str, suffix: str) -> bool:
    return bool(suffix[:1].isalnum() or suffix[:1] == "_")


def _wants_block(prefix: str, suffix: str) -> bool:
    """Whether more than a line fits here: on an empty line, after one that opens a block."""
    line = re.split(r"[\r\n]", prefix[-2000:])[-1]
    rest = re.split(r"[\r\n]", suffix[:2000], maxsplit=1)[0]
    if line.strip() or rest.strip():
        return False
    return prefix[-4000:].rstrip().endswith(_OPENERS)
