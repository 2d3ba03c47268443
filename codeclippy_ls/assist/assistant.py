"""`Assistant`: suggestions and edits from one engine, with the settings in force."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from codeclippy_ls.assist.context import ChosenContext, Cursor, FindIndex, OpenFiles
from codeclippy_ls.assist.metrics import Metrics
from codeclippy_ls.assist.proposals import Proposal, Refusal, make_proposal
from codeclippy_ls.assist.suggester import JoinAbove, Suggester, Suggestions
from codeclippy_ls.assist.triggers import find_excluding_setting
from codeclippy_ls.inference.engine import Engine, ModelState, ModelStatus
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.requests import FinishReason, Generation, Priority, Request, Sampling
from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.model_specs import resolve_model_spec, resolve_model_specs
from codeclippy_ls.secret_files import is_secret_uri
from codeclippy_ls.settings import Settings
from codeclippy_ls.tasks.edit import EditTask
from codeclippy_ls.tasks.edit_context import EditContext, find_marker, select_edit_context
from codeclippy_ls.tasks.model_info import ModelInfo, shorten_model_name
from codeclippy_ls.text import Document, Edit, replace_surrogates
from codeclippy_ls.uris import parse_name

_JOIN_SECONDS = 10.0


class Assistant:
    """Everything that the server and the command line need from an engine. Belongs to the loop thread.

    The whole of it is here: callers reach neither the engine nor the suggester.

    Args:
        engine: owned by the assistant from here on.
        open_files: given a document, returns the other open files, most recently used first; prompts may show
            snippets of them.
        find_index: given a document, returns the index of its workspace folder, if there is one; prompts may show what
            is in it.
        join_above: given a document, returns the text of the notebook's cells above it.
        on_ready: called with a document's URI when there is a suggestion for which the time was too short before.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        open_files: OpenFiles = lambda document: (),
        join_above: JoinAbove = lambda document: "",
        on_ready: Callable[[str], None] = lambda uri: None,
        find_index: FindIndex = lambda document: None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._suggester = Suggester(engine, open_files, find_index, join_above, on_ready)

    # Models.

    async def load(self) -> None:
        """Load the completion model.

        If it makes no edits and the settings name no model for edits, the shipped model makes the edits.

        Raises:
            EngineError: the model cannot be loaded; the message is for the user.
        """
        await self._engine.load(ModelRole.COMPLETE).result()
        model = self.model_info(ModelRole.COMPLETE)
        try:
            makes_edits = model is not None and model.supports_edits(self._settings.model.family)
        except ValueError as error:
            raise EngineError(str(error)) from error
        if not self._settings.model.edit and not makes_edits:
            self._engine.set_model(ModelRole.EDIT, resolve_model_spec(self._settings, ""))
        elif self.status(ModelRole.EDIT).state is ModelState.FAILED:
            name = self._settings.model.edit or self._settings.model.completion
            self._engine.set_model(ModelRole.EDIT, resolve_model_spec(self._settings, name))

    def status(self, role: ModelRole) -> ModelStatus:
        """Return the status of a role's model."""
        return self._engine.status(role)

    def model_info(self, role: ModelRole) -> ModelInfo | None:
        """Return the metadata of a role's model, once it is loaded."""
        info: ModelInfo | None = self._engine.status(role).info
        return info

    async def load_edit_model(self) -> None:
        """Load the model for edits now; without this the first edit does.

        Raises:
            EngineError: the model cannot be loaded; the message is for the user.
        """
        await self._engine.load(ModelRole.EDIT).result()

    def describe_models(self) -> str:
        """Say which model completes and which one edits, with device and milliseconds a token; empty while unknown."""
        complete = self.model_info(ModelRole.COMPLETE)
        return f"complete by {complete.describe()}; {self._describe_edits(complete)}" if complete is not None else ""

    def _describe_edits(self, complete: ModelInfo) -> str:
        if not self._settings.edit.enabled:
            return "edits are off"
        status = self.status(ModelRole.EDIT)
        if status.state is ModelState.FAILED:
            return f"no edits: {status.reason}"
        if status.info is not None:
            model: ModelInfo = status.info
            return f"edit by {model.describe()}" if self.supports_edits() else f"no edits by {model.short_name}"
        try:
            if not self._settings.model.edit and complete.supports_edits(self._settings.model.family):
                return f"edit by {complete.describe()}"
        except ValueError:
            return "no edits: the family does not fit the model"
        return f"edit by {shorten_model_name(self._settings.model.edit)}, which the first edit loads"

    @property
    def failure(self) -> str | None:
        """Reason why the engine can never work again; ``None`` while it works, or may work after `load`."""
        return self._engine.failure

    def use_models(self, settings: Settings) -> None:
        """Use the models of other settings, which `load` then loads; what the old ones suggested is dropped."""
        self._settings = settings
        for role, spec in resolve_model_specs(settings).items():
            self._engine.set_model(role, spec)
        self._suggester.forget_suggestions()

    def set_settings(self, settings: Settings) -> None:
        """Use new settings from the next request on. A change of the models needs `use_models`."""
        self._settings = settings

    def close(self) -> None:
        """Stop taking requests and resolve those under way; returns at once."""
        self._suggester.close()
        self._engine.close()

    def join(self, timeout: float) -> bool:
        """Wait until the closed engine's thread has ended; return False after ``timeout`` seconds."""
        return self._engine.join(timeout)

    async def aclose(self) -> None:
        """Close and wait for the engine's thread: torch aborts a process that exits while one of its threads runs."""
        self.close()
        await asyncio.to_thread(self.join, _JOIN_SECONDS)

    # Suggestions.

    @property
    def metrics(self) -> Metrics:
        """Counts of suggestions that were shown, accepted and dismissed."""
        return self._suggester.metrics

    async def complete(
        self,
        document: Document,
        offset: int,
        *,
        automatic: bool = False,
        patient: bool = False,
        hurried: bool = False,
        selected: Edit | None = None,
        candidates: int = 1,
    ) -> Suggestions:
        """Return suggestions at an offset; empty while the model loads and if nothing is worth showing.

        Args:
            automatic: requested by typing, not by a key: the cheap rules of `triggers` apply.
            hurried: others wait for the answer, too: unless the settings say otherwise, it must not take long.
            patient: the user asked by key and waits for the answer: `completion.invokedBudgetMs` limits the time.
            selected: what the selected item of the completion list would insert; suggestions continue that text.
            candidates: maximum number of suggestions, if none is cached.

        Raises:
            EngineError: the engine failed; the message is for the user.
        """
        started = time.monotonic()
        suggestions = await self._suggester.complete(
            self._settings,
            document,
            offset,
            automatic=automatic,
            patient=patient,
            hurried=hurried,
            selected=selected,
            candidates=candidates,
        )
        if suggestions.items:
            self.metrics.latencies.append(time.monotonic() - started)
        return suggestions

    async def choose_context(self, document: Document, offset: int) -> ChosenContext:
        """Choose the parts of other files that a prompt for an offset shows, with reasons."""
        cursor = Cursor(document, document.text[:offset], document.text[offset:])
        return await self._suggester.choose_context(self._settings, cursor)

    def record_shown(self, document: Document, suggestions: Suggestions) -> None:
        """Count suggestions that are sent to be shown; the user sees the first."""
        if suggestions.items:
            first = suggestions.items[0]
            self.metrics.record_shown(document, first.offset, first.text, first.replaces)

    def read_ahead(self, document: Document, offset: int) -> None:
        """Let the model read the prompt of a place while nothing else is to do, so that the first key there is fast.

        Does nothing if the settings forbid it, and until the model is loaded. The newest place wins.
        """
        self._suggester.read_ahead(self._settings, document, offset)

    @property
    def is_typing(self) -> bool:
        """A document was changed in the last second: what clients ask for now was not asked for by key."""
        return self._suggester.is_typing

    def cancel_completion(self, uri: str) -> None:
        """Cancel the suggestion that is being made for a document."""
        self._suggester.cancel(uri)

    def record_change(self, uri: str, document: Document | None) -> None:
        """Cancel the suggestion that is being made for a document: its text changed, or is unknown (``None``)."""
        self._suggester.record_change(uri, document)

    def forget_document(self, uri: str) -> None:
        """Drop all state of a document that was closed."""
        self._suggester.forget_document(uri)

    # Edits.

    def supports_edits(self) -> bool:
        """Return whether edits can be offered: the model for edits writes diffs, or may do so once it is loaded."""
        if not self._settings.edit.enabled or self.status(ModelRole.EDIT).state is ModelState.FAILED:
            return False
        model = self.model_info(ModelRole.EDIT)
        if model is None:
            return True
        # The family in the settings is that of the user's model, never of the shipped one.
        family = self._settings.model.family if model.name else ""
        try:
            return model.supports_edits(family)
        except ValueError:
            return False

    async def edit(
        self,
        document: Document,
        message: str,
        lines: tuple[int, int] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Proposal | Refusal:
        """Make an edit of the document by message; return edits that apply to this very text, or why there are none.

        Args:
            message: what to change; if empty, it is read from a comment on the lines.
            lines: first and last line to edit, inclusive; ``None`` is the whole document.
            on_text: called with each new piece of the diff.
        """
        if setting := find_excluding_setting(document.file_uri, document.language, self._settings.completion):
            return Refusal(f'{parse_name(document.file_uri)} is excluded by the setting "{setting}"')
        marker = None
        if not message.strip():
            marker = await asyncio.to_thread(find_marker, document, lines, self._settings.edit.comment_marker)
        message = replace_surrogates(message.strip() or (marker.message if marker else ""))
        if not message:
            return Refusal("an edit needs a message that says what to change")
        context = await asyncio.to_thread(select_edit_context, document, lines, marker, message)
        try:
            if not self._settings.model.edit and self.status(ModelRole.COMPLETE).state is not ModelState.READY:
                await self.load()  # it decides which model writes the diff
            generation = await self._generate_edit(document, context, message, on_text)
        except EngineError as error:
            return Refusal(str(error))
        if generation.finish_reason in (FinishReason.CANCELLED, FinishReason.SUPERSEDED):
            return Refusal(f"the edit was {generation.finish_reason.value}", cancelled=True)
        # Parsing takes time: not on the loop.
        proposal = await asyncio.to_thread(make_proposal, document, context, marker, generation)
        return proposal if isinstance(proposal, Refusal) else self._attribute(proposal)

    def _attribute(self, proposal: Proposal) -> Proposal | Refusal:
        """Attribute copied code in the proposals, and drop those with copied code if the settings hide it."""

        def find_source(one: Proposal) -> str:
            text = "\n".join(edit.text for edit in one.edits)
            return self._suggester.find_source(self._settings, ModelRole.EDIT, text)

        proposals = [
            replace(one, alternatives=(), source=find_source(one)) for one in (proposal, *proposal.alternatives)
        ]
        hides = self._settings.completion.copied_code == "hide"
        kept = [one for one in proposals if not one.source or not hides]
        if not kept:
            return Refusal(
                f"the model's edit copies code of {proposals[0].source}, which the model was trained on; to see such "
                'edits, set "completion.copiedCode" to "mark"'
            )
        return replace(kept[0], alternatives=tuple(kept[1:]))

    async def _generate_edit(
        self, document: Document, context: EditContext, message: str, on_text: Callable[[str], None] | None
    ) -> Generation:
        options, family = self._settings.edit, self._settings.model.family
        name = parse_name(document.file_uri)
        is_secret = is_secret_uri(document.file_uri)
        task = EditTask(name, context, message, options.max_tokens, family, is_secret, options.format)
        sampling = Sampling(
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            candidates=options.candidates if options.temperature > 0 else 1,
            greedy_first=True,
            seconds=options.time_budget_ms / 1000,
        )
        request = Request(task, sampling, ModelRole.EDIT, key=document.uri)
        handle = self._engine.submit(request, Priority.EDIT)
        try:
            async for delta in handle.deltas():
                if on_text is not None:
                    on_text(delta)
            return await handle.result()
        finally:
            handle.cancel()  # no effect once it is resolved
