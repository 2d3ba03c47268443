"""Suggestions at a cursor: from the cache if possible, otherwise from the engine, cleaned up and ranked.

Belongs to the loop thread, like all its state. Knows documents as frozen values; no LSP and no model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from codeclippy_ls.assist import attribution, copying, triggers
from codeclippy_ls.assist.context import ChosenContext, ContextChooser, Cursor, FindIndex, OpenFiles
from codeclippy_ls.assist.copying import Guess, find_guess
from codeclippy_ls.assist.debounce import AdaptiveDebounce
from codeclippy_ls.assist.metrics import Metrics
from codeclippy_ls.assist.suggestion_cache import Suggestion, SuggestionCache
from codeclippy_ls.inference.engine import Engine, ModelState
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation, Priority, Request, Sampling
from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.inference.speed import MIN_TYPING_SECONDS
from codeclippy_ls.postprocess.cleanup import CursorContext, clean_up, list_steps_skipped_by_key
from codeclippy_ls.postprocess.fit import fit
from codeclippy_ls.postprocess.unfinished import cut_unfinished
from codeclippy_ls.prompts.context import CompletionContext
from codeclippy_ls.prompts.context_snippets import OpenFile
from codeclippy_ls.secret_files import is_secret_uri
from codeclippy_ls.settings import Settings
from codeclippy_ls.syntax.languages import find_language
from codeclippy_ls.syntax.tree import DocumentTrees, SyntaxTree
from codeclippy_ls.tasks.completion import CompletionTask
from codeclippy_ls.tasks.model_info import ModelInfo
from codeclippy_ls.text import Document, Edit, to_lf, with_eol
from codeclippy_ls.uris import parse_name

# Key of the requests that only read a prompt: whatever the document, the place where the user was last counts.
_READING = "reading ahead"

JoinAbove = Callable[[Document], str]


@dataclass(frozen=True, slots=True)
class Suggestions:
    """The suggestions for one request.

    Attributes:
        complete: false if another request may bring more (the model loads, or time ran out).
        notice: a sentence that explains to the user why there are none; to be shown once.
    """

    items: tuple[Suggestion, ...] = ()
    complete: bool = True
    notice: str = ""
    generation: Generation | None = None


@dataclass(frozen=True, slots=True)
class _Cursor(Cursor):
    """The place of a suggestion, and the copied rest of its line."""

    multiline: bool = False
    guess: Guess | None = None


@dataclass
class Suggester:
    """Makes suggestions with an engine and caches them.

    Attributes:
        open_files: given a document, returns the other open files, most recently used first.
        find_index: given a document, returns the index of its workspace folder, if there is one.
        join_above: given a document, returns the text of the notebook's cells above it.
        on_ready: called with a document's URI when there is a suggestion for which the time was too short before.
        metrics: what became of the suggestions that were shown.
    """

    engine: Engine
    open_files: OpenFiles
    find_index: FindIndex
    join_above: JoinAbove
    on_ready: Callable[[str], None] = lambda uri: None
    metrics: Metrics = field(default_factory=Metrics)
    _cache: SuggestionCache = field(default_factory=SuggestionCache, repr=False)
    _debounce: AdaptiveDebounce = field(default_factory=AdaptiveDebounce, repr=False)
    _change_counts: dict[str, int] = field(default_factory=dict, repr=False)
    _trees: DocumentTrees = field(default_factory=DocumentTrees, repr=False)
    _chooser: ContextChooser = field(init=False, repr=False)
    _prefetches: set[asyncio.Task[None]] = field(default_factory=set, repr=False)
    _prefetched: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)  # newest prefix and suffix

    def __post_init__(self) -> None:
        self._chooser = ContextChooser(lambda document: self.open_files(document), self.find_index, self._trees)

    async def complete(
        self,
        settings: Settings,
        document: Document,
        offset: int,
        *,
        automatic: bool,
        patient: bool,
        hurried: bool,
        selected: Edit | None,
        candidates: int,
    ) -> Suggestions:
        """See `Assistant.complete`."""
        options = settings.completion
        if (notice := triggers.find_refusal(settings, document)) is not None:
            return Suggestions(notice=notice)
        prefix, suffix = document.text[:offset], document.text[offset:]
        if selected is not None:
            prefix, suffix = document.text[: selected.start] + selected.text, document.text[selected.end :]
            if self._cache.is_inserted(document.uri, prefix, suffix):
                return Suggestions()  # the selected item is our own suggestion: nothing to add
        cached = self._cache.find(document.uri, prefix, suffix)
        if cached is not None and (automatic or candidates == 1):
            self._start_prefetch(settings, document, prefix, suffix, cached)
            return Suggestions((replace(cached, offset=offset),))
        changes = self._change_counts.get(document.uri, 0)
        tree = await self._parse(document, prefix, suffix)
        if automatic and not triggers.should_request(tree, to_lf(prefix), to_lf(suffix), selected is not None):
            return Suggestions()
        if self.engine.status(ModelRole.COMPLETE).state in (ModelState.ABSENT, ModelState.LOADING):
            return Suggestions(complete=False)
        multiline = triggers.expects_lines(options, document.language, tree, to_lf(prefix), to_lf(suffix), automatic)
        cursor = _Cursor(document, prefix, suffix, multiline)
        if automatic and options.debounce and await self._is_overtaken(document.uri, changes):
            return Suggestions(complete=False)
        seconds = self._limit_seconds(settings, patient, hurried)
        return await self._request(settings, cursor, offset, automatic, candidates, seconds)

    def _limit_seconds(self, settings: Settings, patient: bool, hurried: bool) -> float:
        """Return the time limit of a request."""
        options = settings.completion
        model: ModelInfo | None = self.engine.status(ModelRole.COMPLETE).info
        seconds = options.time_budget_ms / 1000
        if model is not None and not hurried and seconds >= MIN_TYPING_SECONDS:
            seconds = max(seconds, model.speed.typing_seconds)
        return max(seconds, options.invoked_budget_ms / 1000 if patient else 0.0)

    async def _request(
        self,
        settings: Settings,
        cursor: _Cursor,
        offset: int,
        automatic: bool,
        candidates: int,
        seconds: float,
    ) -> Suggestions:
        """Request suggestions from the engine, which may take that many seconds."""
        uri, started = cursor.document.uri, time.monotonic()
        self.engine.cancel(uri, Priority.BACKGROUND)  # a prefetch after another suggestion
        self.engine.cancel(_READING, Priority.BACKGROUND)
        self._prefetched.pop(uri, None)
        cursor, files = await self._add_guess(settings, cursor)
        generation = await self._generate(settings, cursor, files, Priority.KEYSTROKE, seconds, candidates)
        self._debounce.record_latency(time.monotonic() - started)
        items = await self._process(settings, cursor, generation.candidates, automatic)
        in_time = generation.finish_reason is not FinishReason.TIME
        if not in_time:
            self._start_ahead(settings, cursor.document, self._continue(settings, cursor))
        if items and in_time:
            self._cache.put(uri, cursor.prefix, cursor.suffix, items[0])
            self._start_prefetch(settings, cursor.document, cursor.prefix, cursor.suffix, items[0])
        items = tuple(replace(item, offset=offset) for item in items[:candidates])
        return Suggestions(items, in_time, generation=generation)

    async def _generate(
        self,
        settings: Settings,
        cursor: _Cursor,
        files: Sequence[OpenFile],
        priority: Priority,
        seconds: float | None = None,
        candidates: int = 1,
        reads_only: bool = False,
    ) -> Generation:
        options, document = settings.completion, cursor.document
        name, prefix = parse_name(document.file_uri), self.join_above(document) + cursor.prefix
        chosen = await self._choose_context(settings, replace(cursor, prefix=prefix), files)
        context = CompletionContext(
            prefix,
            cursor.suffix,
            name,
            document.language,
            chosen.snippets,
            path=chosen.path,
            repository=chosen.repository,
        )
        model: ModelInfo | None = self.engine.status(ModelRole.COMPLETE).info
        if model is not None and model.context_length:
            context = context.clip(
                model.context_length
            )  # a large file need not be sent to another process at each keystroke
        task = CompletionTask(
            context,
            options.max_tokens,
            cursor.multiline,
            settings.model.family,
            options.disabled_filters,
            is_secret_uri(document.file_uri),
            cursor.guess.text if cursor.guess is not None and not reads_only else "",
        )
        sampling = Sampling(
            max_tokens=0 if reads_only else options.max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            candidates=candidates if options.temperature > 0 else 1,
            greedy_first=True,
            seconds=seconds,
        )
        request = Request(task, sampling, ModelRole.COMPLETE, key=_READING if reads_only else document.uri)
        return await self.engine.submit(request, priority).result()

    async def _process(
        self, settings: Settings, cursor: _Cursor, candidates: Sequence[Candidate], automatic: bool
    ) -> tuple[Suggestion, ...]:
        """Turn candidates into suggestions: cleaned up, without duplicates, the best first.

        Those that nobody asked for must be good enough for the settings.
        """
        suggestions: dict[str, Suggestion] = {}
        for candidate, confidence in copying.rank(candidates, cursor.guess):
            if automatic and confidence < settings.completion.min_confidence:
                continue
            suggestion = await self._clean_up(settings, cursor, candidate, automatic)
            if suggestion.text:
                suggestions.setdefault(suggestion.text, replace(suggestion, confidence=confidence))
        return tuple(suggestions.values())

    async def _clean_up(self, settings: Settings, cursor: _Cursor, candidate: Candidate, automatic: bool) -> Suggestion:
        """Clean up a candidate; the suggestion's text is empty if nothing of it is worth showing."""
        document, disabled = cursor.document, settings.completion.disabled_filters
        context = CursorContext(to_lf(cursor.prefix), to_lf(cursor.suffix), cursor.multiline, document.language)
        if not automatic:
            disabled = (*disabled, *list_steps_skipped_by_key(context))
        answer = candidate.answer
        # Parsing takes milliseconds: not on the loop.
        # Of 108 lines that the shipped model had not ended after 48 tokens none was right (bench/LOG.md).
        if candidate.finish_reason in (FinishReason.TIME, FinishReason.LENGTH):
            answer = await asyncio.to_thread(cut_unfinished, to_lf(answer), context, self._trees, document.uri)
        text = clean_up(answer, context, disabled)
        text, replaces = await asyncio.to_thread(fit, text, context, self._trees, document.uri, disabled)
        source = self.find_source(settings, ModelRole.COMPLETE, text) if text else ""
        if source and settings.completion.copied_code == "hide":
            text = ""
        return Suggestion(with_eol(text, document.eol), len(cursor.prefix), source, replaces)

    def find_source(self, settings: Settings, role: ModelRole, text: str) -> str:
        """Return the package that a text of the shipped model copies, unless the settings ignore copied code."""
        model: ModelInfo | None = self.engine.status(role).info
        if settings.completion.copied_code == "show" or model is None or model.name:
            return ""
        return attribution.find_source(text)

    async def _is_overtaken(self, uri: str, changes: int) -> bool:
        """Debounce; return True if the document has changed since ``changes`` were counted."""
        if delay := self._debounce.delay(time.monotonic()):
            await asyncio.sleep(delay)
        return self._change_counts.get(uri, 0) != changes

    async def choose_context(self, settings: Settings, cursor: Cursor) -> ChosenContext:
        """See `Assistant.choose_context`."""
        files = self._chooser.list_open_files(settings, cursor.document)
        return await self._choose_context(settings, cursor, files)

    async def _choose_context(self, settings: Settings, cursor: Cursor, files: Sequence[OpenFile]) -> ChosenContext:
        """Choose the parts of other files that a prompt shows; the same ones while the cursor stays where it is."""
        model: ModelInfo | None = self.engine.status(ModelRole.COMPLETE).info
        limit = 0
        if model is not None and model.context_length:
            limit = model.speed.limit_snippets(model.speed.limit_prompt(model.context_length))
        # Parsing and asking the index take milliseconds, of many open files once a few hundred: not on the loop.
        return await asyncio.to_thread(self._chooser.choose, settings, cursor, files, limit)

    async def _add_guess(self, settings: Settings, cursor: _Cursor) -> tuple[_Cursor, Sequence[OpenFile]]:
        """Add the copied rest of the line, if one line is wanted and a model on this machine can score it.

        Returns:
            The cursor, and the other open files that may be shown.
        """
        files = self._chooser.list_open_files(settings, cursor.document)
        if cursor.multiline or settings.model.endpoint:
            return cursor, files
        texts = (to_lf(file.text) for file in files)
        guess = await asyncio.to_thread(find_guess, to_lf(cursor.prefix), to_lf(cursor.suffix), texts)
        return replace(cursor, guess=guess), files

    async def _parse(self, document: Document, prefix: str, suffix: str) -> SyntaxTree | None:
        """Parse a text of a document off the loop, from the tree of its last one."""
        language = find_language(document.language)
        return await asyncio.to_thread(self._trees.parse, document.uri, to_lf(prefix + suffix), language)

    def _start_prefetch(
        self, settings: Settings, document: Document, prefix: str, suffix: str, shown: Suggestion
    ) -> None:
        """Prefetch the suggestion that would follow the shown one, unless that was done already."""
        following = prefix + shown.text, suffix[shown.replaces :]
        # The same for every key that is typed through what is shown.
        if self._prefetched.get(document.uri) == following:
            return
        self._prefetched[document.uri] = following
        self._start_ahead(settings, document, self._prefetch(settings, document, *following))

    def _start_ahead(self, settings: Settings, document: Document, work: Coroutine[Any, Any, None]) -> None:
        """Run work that nobody has asked for, if the settings allow it for this document."""
        is_ready = self.engine.status(ModelRole.COMPLETE).state is ModelState.READY
        allowed = settings.completion.prefetch and not settings.model.endpoint  # an endpoint's time belongs to others
        if not (allowed and is_ready) or triggers.find_refusal(settings, document) is not None:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._prefetches.add(task)
        task.add_done_callback(self._prefetches.discard)

    async def _continue(self, settings: Settings, cursor: _Cursor) -> None:
        """Make the whole of a suggestion whose time was up, and report it if the document has not changed since."""
        uri = cursor.document.uri
        changes = self._change_counts.get(uri, 0)
        if await self._generate_ahead(settings, cursor) and self._change_counts.get(uri, 0) == changes:
            self.on_ready(uri)

    async def _generate_ahead(self, settings: Settings, cursor: _Cursor) -> bool:
        """Make a suggestion in the background, and keep it if it is good enough; return whether it was."""
        cursor, files = await self._add_guess(settings, cursor)
        try:
            generation = await self._generate(settings, cursor, files, Priority.BACKGROUND)
        except EngineError:
            return False  # reported when the user requests it
        items = await self._process(settings, cursor, generation.candidates, automatic=True)
        if items:
            self._cache.put(cursor.document.uri, cursor.prefix, cursor.suffix, items[0])
        return bool(items)

    def read_ahead(self, settings: Settings, document: Document, offset: int) -> None:
        """See `Assistant.read_ahead`."""
        self._start_ahead(settings, document, self._read(settings, document, offset))

    async def _read(self, settings: Settings, document: Document, offset: int) -> None:
        cursor = _Cursor(document, document.text[:offset], document.text[offset:], multiline=False)
        with suppress(EngineError):
            files = self._chooser.list_open_files(settings, document)
            await self._generate(settings, cursor, files, Priority.BACKGROUND, reads_only=True)

    async def _prefetch(self, settings: Settings, document: Document, prefix: str, suffix: str) -> None:
        tree = await self._parse(document, prefix, suffix)
        if triggers.is_statement_complete(tree, to_lf(prefix), to_lf(suffix)):
            prefix = with_eol(triggers.press_enter(to_lf(prefix)), document.eol)
        if self._cache.find(document.uri, prefix, suffix) is not None:
            return
        lines = to_lf(prefix), to_lf(suffix)
        multiline = triggers.expects_lines(settings.completion, document.language, tree, *lines, automatic=True)
        cursor = _Cursor(document, prefix, suffix, multiline)
        await self._generate_ahead(settings, cursor)

    @property
    def is_typing(self) -> bool:
        """See `Assistant.is_typing`."""
        return self._debounce.is_typing(time.monotonic())

    def cancel(self, uri: str) -> None:
        """See `Assistant.cancel_completion`."""
        self.engine.cancel(uri, Priority.KEYSTROKE)

    def record_change(self, uri: str, document: Document | None) -> None:
        """See `Assistant.record_change`."""
        self.engine.cancel(uri, Priority.KEYSTROKE)
        self.engine.cancel(_READING, Priority.BACKGROUND)
        self._debounce.record_keystroke(time.monotonic())
        self._change_counts[uri] = self._change_counts.get(uri, 0) + 1
        if document is not None:
            self.metrics.record_change(document)

    def forget_document(self, uri: str) -> None:
        """Drop all state of a document that was closed."""
        self.engine.cancel(uri, Priority.BACKGROUND)
        self._cache.remove(uri)
        self._change_counts.pop(uri, None)
        self._chooser.forget(uri)
        self._trees.forget(uri)
        self._prefetched.pop(uri, None)
        self.metrics.record_closed(uri)

    def forget_suggestions(self) -> None:
        """Drop all suggestions: another model makes the next ones."""
        self._cache.clear()
        self._prefetched.clear()

    def close(self) -> None:
        """Cancel all prefetches."""
        for task in self._prefetches:
            task.cancel()
