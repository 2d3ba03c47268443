"""The assistant: one engine and the settings in force, asked for suggestions and edits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from codeclippy_ls.assist.proposals import Proposal, Refusal, proposal_from
from codeclippy_ls.assist.suggester import Suggester, Suggestions
from codeclippy_ls.inference.engine import Engine, ModelState
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.requests import FinishReason, Generation, Priority, Request, Sampling
from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.model_specs import resolve_model_spec
from codeclippy_ls.settings import Settings
from codeclippy_ls.tasks.edit import EditTask
from codeclippy_ls.tasks.edit_context import EditContext, find_marker, select_edit_context
from codeclippy_ls.text import Document, Edit, replace_surrogates

_JOIN_SECONDS = 10.0


@dataclass
class Assistant:
    """Joins one engine and the settings in force. Belongs to the loop thread."""

    engine: Engine
    settings: Settings = field(default_factory=Settings)
    suggester: Suggester = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.suggester = Suggester(self.engine)

    async def complete(
        self,
        document: Document,
        offset: int,
        *,
        automatic: bool = False,
        selected: Edit | None = None,
        candidates: int = 1,
    ) -> Suggestions:
        """Suggestions at an offset; empty while the model loads, and where there is nothing worth showing.

        Args:
            automatic: asked by typing rather than by a key: the cheap gates apply.
            selected: what the completion list's selected item would insert; a suggestion continues that text.
            candidates: most to make, where nothing is known yet.

        Raises:
            EngineError: the engine failed; the message is for the user.
        """
        return await self.suggester.complete(
            self.settings, document, offset, automatic=automatic, selected=selected, candidates=candidates
        )

    def changed(self, uri: str, document: Document | None) -> None:
        """A document has a new text, or is lost: what is being made for its cursor is stale."""
        self.suggester.changed(uri, document)

    def forget(self, uri: str) -> None:
        """Drop what was kept for a document that closes."""
        self.suggester.forget(uri)

    async def prepare(self) -> None:
        """Load the model for completion; where no other is set for edits and it writes no diffs, the shipped one does.

        Raises:
            EngineError: it cannot be loaded; the message is for the user.
        """
        await self.engine.load(ModelRole.COMPLETE).result()
        model = self.engine.status(ModelRole.COMPLETE).info
        try:
            writes_diffs = model.supports_edits(self.settings.model.family)
        except ValueError as error:
            raise EngineError(str(error)) from error
        if not self.settings.model.edit and not writes_diffs:
            self.engine.set_model(ModelRole.EDIT, resolve_model_spec(self.settings, ""))
        elif self.engine.status(ModelRole.EDIT).state is ModelState.FAILED:
            self.engine.set_model(
                ModelRole.EDIT,
                resolve_model_spec(self.settings, self.settings.model.edit or self.settings.model.completion),
            )

    async def close(self) -> None:
        """Close the engine and wait for its thread: torch aborts a process that ends while one of its threads runs."""
        self.suggester.close()
        self.engine.close()
        await asyncio.to_thread(self.engine.join, _JOIN_SECONDS)

    def edits_possible(self) -> bool:
        """Whether the model for edits writes diffs, as far as is known: one that still loads may."""
        status = self.engine.status(ModelRole.EDIT)
        if not self.settings.edit.enabled or status.state is ModelState.FAILED:
            return False
        if status.info is None:
            return True
        # A family named in the settings is meant for the model of completion, unless one is set for edits.
        wanted = self.settings.model.family if status.info.name else ""
        try:
            return bool(status.info.supports_edits(wanted))
        except ValueError:
            return False

    async def edit(
        self,
        document: Document,
        message: str,
        span: tuple[int, int] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Proposal | Refusal:
        """An edit of the document by message, as edits that apply to this very text, or why there is none.

        Args:
            span: first and last line to edit, the last included; the whole document where it is ``None``.
            on_text: called with the diff's text as it grows.
        """
        marker = find_marker(document, span, self.settings.edit.comment_marker) if not message.strip() else None
        message = replace_surrogates(message.strip() or (marker.message if marker else ""))
        if not message:
            return Refusal("an edit needs a message that says what to change")
        shown = select_edit_context(document, span, marker)
        try:
            if not self.settings.model.edit and self.engine.status(ModelRole.COMPLETE).state is not ModelState.READY:
                await self.prepare()  # only then is it known which model writes diffs
            generation = await self._diff(document, shown, message, on_text)
        except EngineError as error:
            return Refusal(str(error))
        if generation.finish_reason in (FinishReason.CANCELLED, FinishReason.SUPERSEDED):
            return Refusal(f"the edit was {generation.finish_reason.value}", cancelled=True)
        made = await asyncio.to_thread(proposal_from, document, shown, marker, generation)  # parsing takes time
        return made if isinstance(made, Refusal) else self._own(made)

    def _own(self, made: Proposal) -> Proposal | Refusal:
        """The best of a proposal and its others that copies nobody's passage, or marked where that is wanted."""

        def copied(one: Proposal) -> str:
            return self.suggester.copied(self.settings, ModelRole.EDIT, "\n".join(edit.text for edit in one.edits))

        found = [replace(one, others=(), source=copied(one)) for one in (made, *made.others)]
        kept = [one for one in found if not one.source or self.settings.completion.copied_code != "hide"]
        if not kept:
            return Refusal(
                f"what the model wrote copies a passage of {found[0].source}, which it was trained on; the "
                'setting "completion.copiedCode" shows such edits'
            )
        return replace(kept[0], others=tuple(kept[1:]))

    async def _diff(
        self, document: Document, shown: EditContext, message: str, on_text: Callable[[str], None] | None
    ) -> Generation:
        settings, family = self.settings.edit, self.settings.model.family
        name = replace_surrogates(document.uri.rsplit("/", 1)[-1])
        ask = EditTask(name, shown, message, settings.max_tokens, family)
        sampling = Sampling(
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            candidates=settings.candidates if settings.temperature > 0 else 1,
            greedy_first=True,
            seconds=settings.time_budget_ms / 1000,
        )
        ticket = self.engine.submit(Request(ask, sampling, ModelRole.EDIT, key=document.uri), Priority.EDIT)
        try:
            async for piece in ticket.deltas():
                if on_text is not None:
                    on_text(piece)
            return await ticket.result()
        finally:
            ticket.cancel()  # no effect once it is answered
