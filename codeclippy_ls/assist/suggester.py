"""Suggestions at a cursor: what is known already, what is not worth asking, what is asked, what of it is kept.

Belongs to the loop thread, like all that it remembers. Knows documents as frozen values, no LSP and no model.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from codeclippy_ls.assist import attribution, triggers
from codeclippy_ls.assist.debounce import AdaptiveDebounce
from codeclippy_ls.assist.metrics import Metrics
from codeclippy_ls.assist.suggestion_cache import Suggestion, SuggestionCache
from codeclippy_ls.inference.engine import Engine, ModelState
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation, Priority, Request, Sampling
from codeclippy_ls.inference.spec import SHIPPED_FOLDER, ModelRole
from codeclippy_ls.postprocess.cleanup import clean_up, count_replaced
from codeclippy_ls.postprocess.syntax_check import find_longest_valid_prefix
from codeclippy_ls.prompts.context import CompletionContext
from codeclippy_ls.prompts.context_snippets import OpenFile, Snippet, select_snippets
from codeclippy_ls.settings import Settings
from codeclippy_ls.tasks.completion import CompletionTask
from codeclippy_ls.text import Document, Edit, to_lf, with_eol

_REACH = 4000  # characters on either side of the cursor that the clean-up looks at
_PASSAGE_CHARACTERS = 3000  # of other files, at most; a small window takes less
_PASSAGE_STEP = 16  # lines that the cursor may move before they are chosen anew: each choice costs the whole KV cache


@dataclass(frozen=True, slots=True)
class Suggestions:
    """What to show; ``complete`` is false where asking again may bring more (loading, out of time).

    ``notice`` says why there is nothing where the user should know, once.
    """

    items: tuple[Suggestion, ...] = ()
    complete: bool = True
    notice: str = ""
    generation: Generation | None = None


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Where a suggestion goes: the texts around it, as they are in the document."""

    document: Document
    prefix: str
    suffix: str
    multiline: bool


@dataclass
class Suggester:
    """Makes suggestions with an engine, and remembers them.

    Attributes:
        others: the other files that are open, the one used last first.
        figures: what became of what was shown.
    """

    engine: Engine
    others: Callable[[str], Sequence[OpenFile]] = field(default=lambda uri: ())
    figures: Metrics = field(default_factory=Metrics)
    _memory: SuggestionCache = field(default_factory=SuggestionCache, repr=False)
    _pace: AdaptiveDebounce = field(default_factory=AdaptiveDebounce, repr=False)
    _changes: dict[str, int] = field(default_factory=dict, repr=False)
    _passages: dict[str, tuple[object, tuple[Snippet, ...]]] = field(default_factory=dict, repr=False)
    _ahead: set[asyncio.Task[None]] = field(default_factory=set, repr=False)
    _target: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)  # what was last made ahead

    async def complete(
        self,
        settings: Settings,
        document: Document,
        offset: int,
        *,
        automatic: bool,
        selected: Edit | None,
        candidates: int,
    ) -> Suggestions:
        """What `Assistant.complete` says."""
        wanted = settings.completion
        if triggers.switched_off(document.uri, document.language, wanted):
            return Suggestions()
        if len(document.text) > wanted.max_file_kilobytes * 1024:
            return Suggestions(
                notice=f"files above {wanted.max_file_kilobytes} kB get no suggestions; "
                'the setting "completion.maxFileKilobytes" says so'
            )
        prefix, suffix = document.text[:offset], document.text[offset:]
        if selected is not None:
            prefix, suffix = document.text[: selected.start] + selected.text, document.text[selected.end :]
            if self._memory.stands(document.uri, prefix, suffix):
                return Suggestions()  # the list's item is our own: there is nothing to add to it
        cursor = _Cursor(document, prefix, suffix, wanted.multiline and triggers.wants_block(prefix, suffix))
        known = self._memory.find(document.uri, prefix, suffix)
        if known is not None and (automatic or candidates == 1):
            self._look_ahead(settings, cursor, known)
            return Suggestions((replace(known, offset=offset),))
        if automatic and _not_worth_asking(cursor, selected):
            return Suggestions()
        if self.engine.status(ModelRole.COMPLETE).state in (ModelState.ABSENT, ModelState.LOADING):
            return Suggestions(complete=False)
        if automatic and wanted.debounce and await self._overtaken(document.uri):
            return Suggestions(complete=False)
        return await self._asked(settings, cursor, offset, automatic, candidates)

    async def _asked(
        self, settings: Settings, cursor: _Cursor, offset: int, automatic: bool, candidates: int
    ) -> Suggestions:
        """From the engine."""
        uri, started = cursor.document.uri, time.monotonic()
        self.engine.cancel(uri, Priority.BACKGROUND)  # what would have followed another suggestion
        self._target.pop(uri, None)
        generation = await self._generation(settings, cursor, Priority.KEYSTROKE, candidates)
        self._pace.answered(time.monotonic() - started)
        items = await self._items(settings, cursor, generation.candidates)
        whole = generation.finish_reason is not FinishReason.TIME  # one that was cut off is not the last word
        if automatic:
            items = tuple(item for item in items if item.confidence >= settings.completion.min_confidence)
        if items and whole:
            self._memory.keep(uri, cursor.prefix, cursor.suffix, items[0])
            self._look_ahead(settings, cursor, items[0])
        return Suggestions(tuple(replace(item, offset=offset) for item in items), whole, generation=generation)

    async def _generation(self, settings: Settings, cursor: _Cursor, lane: Priority, candidates: int = 1) -> Generation:
        wanted = settings.completion
        name = cursor.document.uri.rsplit("/", 1)[-1]
        context = CompletionContext(
            cursor.prefix, cursor.suffix, name, cursor.document.language, self._shown_beside(settings, cursor)
        )
        if (facts := self.engine.status(ModelRole.COMPLETE).info) is not None and facts.context_length:
            context = context.clip(facts.context_length)  # a large file need not cross a process's border at each key
        ask = CompletionTask(
            context, wanted.max_tokens, cursor.multiline, settings.model.family, wanted.disabled_filters
        )
        sampling = Sampling(
            max_tokens=wanted.max_tokens,
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            candidates=candidates if wanted.temperature > 0 else 1,
            greedy_first=True,
            seconds=wanted.time_budget_ms / 1000,
        )
        return await self.engine.submit(
            Request(ask, sampling, ModelRole.COMPLETE, key=cursor.document.uri), lane
        ).result()

    async def _items(
        self, settings: Settings, cursor: _Cursor, candidates: Sequence[Candidate]
    ) -> tuple[Suggestion, ...]:
        """What is worth showing, the likeliest text first, each once.

        By the whole text's probability: ranked by the mean per token, fewer of the first were right (`bench.suggest`).
        """
        found: dict[str, Suggestion] = {}
        for candidate in sorted(candidates, key=lambda one: -one.logprob * max(1, len(one.token_ids))):
            item = await self._item(settings, cursor, candidate)
            if item.text:
                found.setdefault(item.text, item)
        return tuple(found.values())

    async def _item(self, settings: Settings, cursor: _Cursor, candidate: Candidate) -> Suggestion:
        """A candidate after the clean-up; its text is empty where nothing of it is left."""
        document, off = cursor.document, settings.completion.disabled_filters
        before, after = to_lf(cursor.prefix[-_REACH:]), to_lf(cursor.suffix[:_REACH])
        text = clean_up(candidate.answer, before, after, cursor.multiline, off)
        replaces = count_replaced(text, after) if text and "closingBrackets" not in off else 0
        if text and "syntaxCheck" not in off:
            # Parsing takes milliseconds: not on the loop.
            rest = to_lf(cursor.suffix[replaces:])
            text = await asyncio.to_thread(
                find_longest_valid_prefix, text, to_lf(cursor.prefix), rest, document.language
            )
        if replaces and count_replaced(text, after) != replaces:
            text = ""  # a head of it would leave a bracket out
        source = self.copied(settings, ModelRole.COMPLETE, text) if text else ""
        if source and settings.completion.copied_code == "hide":
            text = ""
        return Suggestion(
            with_eol(text, document.eol), len(cursor.prefix), source, replaces, math.exp(min(0.0, candidate.logprob))
        )

    def copied(self, settings: Settings, job: str, text: str) -> str:
        """The package whose passage a text of the shipped model copies, where anybody wants to know."""
        model = self.engine.status(job).info
        if settings.completion.copied_code == "show" or model is None or model.name:
            return ""
        known = attribution.shipped(SHIPPED_FOLDER)
        return known.source(text) if known is not None else ""

    async def _overtaken(self, uri: str) -> bool:
        """Wait as long as pays; whether a key came meanwhile."""
        if not (delay := self._pace.delay(time.monotonic())):
            return False
        before = self._changes.get(uri, 0)
        await asyncio.sleep(delay)
        return self._changes.get(uri, 0) != before

    def _shown_beside(self, settings: Settings, cursor: _Cursor) -> tuple[Snippet, ...]:
        """Passages of other files, the same while the cursor stays where it is and the others are not edited."""
        uri = cursor.document.uri
        others = self.others(uri) if settings.completion.context == "open" else ()
        place = (cursor.prefix.count("\n") // _PASSAGE_STEP, tuple((other.path, len(other.text)) for other in others))
        if others and self._passages.get(uri, (None, ()))[0] != place:
            found = select_snippets(to_lf(cursor.prefix), to_lf(cursor.suffix), others, _PASSAGE_CHARACTERS)
            self._passages[uri] = (place, found)
        return self._passages[uri][1] if others else ()

    def _look_ahead(self, settings: Settings, cursor: _Cursor, shown: Suggestion) -> None:
        """Make what would follow a suggestion once it is accepted, where nothing else is to do."""
        wanted = settings.completion.prefetch and not settings.model.endpoint  # a service's time is not ours to spend
        if not wanted or self.engine.status(ModelRole.COMPLETE).state is not ModelState.READY:
            return
        prefix, suffix = cursor.prefix + shown.text, cursor.suffix[shown.replaces :]
        if triggers.finished(prefix, suffix, cursor.document.language):
            prefix = triggers.after_enter(prefix, cursor.document.eol)
        uri = cursor.document.uri
        if self._target.get(uri) != (prefix, suffix) and self._memory.find(uri, prefix, suffix) is None:
            self._target[uri] = (prefix, suffix)  # the same for every key that is typed through what is shown
            multiline = settings.completion.multiline and triggers.wants_block(prefix, suffix)
            task = asyncio.get_running_loop().create_task(
                self._make_ahead(settings, _Cursor(cursor.document, prefix, suffix, multiline))
            )
            self._ahead.add(task)
            task.add_done_callback(self._ahead.discard)

    async def _make_ahead(self, settings: Settings, cursor: _Cursor) -> None:
        try:
            generation = await self._generation(settings, cursor, Priority.BACKGROUND)
        except EngineError:
            return  # whoever asks for it will be told
        items = await self._items(settings, cursor, generation.candidates)
        if items and generation.finish_reason is not FinishReason.TIME:
            if items[0].confidence >= settings.completion.min_confidence:
                self._memory.keep(cursor.document.uri, cursor.prefix, cursor.suffix, items[0])

    def changed(self, uri: str, document: Document | None) -> None:
        """A document has a new text, or is lost: what is being made for its cursor is stale."""
        self.engine.cancel(uri, Priority.KEYSTROKE)
        self._pace.key(time.monotonic())
        self._changes[uri] = self._changes.get(uri, 0) + 1
        if document is not None:
            self.figures.changed(document)

    def forget(self, uri: str) -> None:
        """Drop what was kept for a document that closes."""
        self.engine.cancel(uri, Priority.BACKGROUND)
        self._memory.forget(uri)
        self._changes.pop(uri, None)
        self._passages.pop(uri, None)
        self._target.pop(uri, None)
        self.figures.closed(uri)

    def close(self) -> None:
        """Drop what is being made ahead."""
        for task in self._ahead:
            task.cancel()


def _not_worth_asking(cursor: _Cursor, selected: Edit | None) -> bool:
    if triggers.inside_word(cursor.prefix, cursor.suffix):
        return True
    return selected is None and triggers.finished(cursor.prefix, cursor.suffix, cursor.document.language)
