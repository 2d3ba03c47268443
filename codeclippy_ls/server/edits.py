"""The edits of one session: made, shown if wanted, applied, and replaced by the next best. Belongs to the loop thread.

An edit reaches the document by ``workspace/applyEdit`` with the version of the text it was made for, or that it was
carried over to; else not at all, and the user is told why.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.proposals import Proposal
from codeclippy_ls.assist.rebase import rebased
from codeclippy_ls.server import convert
from codeclippy_ls.server.client import Client
from codeclippy_ls.text import Document, Documents, compute_minimal_edits

if TYPE_CHECKING:
    from codeclippy_ls.settings import Settings

log = logging.getLogger(__name__)

SCHEME = "codeclippy-diff"
_APPLY, _NEXT, _DISCARD = "Apply", "Next", "Discard"
_MOST_SHOWN = 16


@dataclass(frozen=True, slots=True)
class _Applied:
    """The text an edit left behind, what else was proposed for what it replaced, and what was asked for."""

    text: str
    others: tuple[Proposal, ...]
    label: str


class Edits:
    """Edits of one client's documents."""

    def __init__(self, client: Client, documents: Documents) -> None:
        self._client = client
        self._documents = documents
        self._applied: dict[str, _Applied] = {}
        self._diffs: dict[str, str] = {}
        self._folder: Path | None = None

    async def make(self, assistant: Assistant, document: Document, message: str, lines: tuple[int, int] | None) -> None:
        """Make an edit and have the client apply it, or say why there is none."""
        task = asyncio.current_task()
        assert task is not None
        progress = await self._client.progress(convert.title(message or "edit"), "writing", cancel=task.cancel)
        written = ""

        def on_text(piece: str) -> None:
            nonlocal written
            written += piece
            if "\n" in piece:
                hunks, added = written.count("@@ -"), written.count("\n") - written.count("@@ -")
                progress.report(f"hunk {max(hunks, 1)}, line {added}")

        try:
            result = await assistant.edit(document, message, lines, on_text)
        finally:
            progress.end()
        if isinstance(result, Proposal):
            await self._offer(result, message or "edit", assistant.settings)
        elif not result.cancelled:
            self._client.say(f"no edit: {result.reason}", key=result.reason)

    def another(self, document: Document) -> bool:
        """Whether the last edit of this document can be replaced by another proposal: it stands there unchanged."""
        last = self._applied.get(document.uri)
        return last is not None and bool(last.others) and last.text == document.text

    async def replace_last(self, document: Document, settings: Settings) -> None:
        """Put the next best proposal in the place of the last edit of a document."""
        if not self.another(document):
            self._client.say("no other edit: there was one proposal only, or the document changed since")
            return
        last = self._applied[document.uri]
        following, *rest = last.others
        # The one that is replaced comes last, so that going on comes back to it.
        undone = Proposal(following.document, tuple(compute_minimal_edits(following.document.text, last.text)), "")
        edits = tuple(compute_minimal_edits(document.text, following.after))
        others = (*rest, undone)
        await self._apply(replace(following, document=document, edits=edits), last.label, settings, others, asked=True)

    def forget(self, uri: str) -> None:
        """Drop what was kept for a document that closes."""
        self._applied.pop(uri, None)

    def shown(self, uri: str) -> str | None:
        """The text of a diff that is or was shown."""
        return self._diffs.get(uri)

    def close(self) -> None:
        """Remove the files that were shown."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _offer(self, proposal: Proposal, label: str, settings: Settings) -> None:
        """Apply the best, or show one after the other until one is chosen, where the user wants to see them first."""
        all_of_them = [replace(one, others=()) for one in (proposal, *proposal.others)]
        chosen = 0
        if settings.edit.show_diff:
            answer = _NEXT
            while answer == _NEXT:
                answer = await self._asked(all_of_them, chosen, label)
                chosen = (chosen + 1) % len(all_of_them) if answer == _NEXT else chosen
            if answer != _APPLY:
                return
        others = (*all_of_them[chosen + 1 :], *all_of_them[:chosen])
        await self._apply(all_of_them[chosen], label, settings, others, asked=settings.edit.show_diff)

    async def _asked(self, proposals: list[Proposal], number: int, label: str) -> str:
        """What the user says to a proposal whose diff is shown: to apply it, to see the next one, or neither."""
        proposal = proposals[number]
        name = proposal.document.uri.rsplit("/", 1)[-1]
        await self._show(proposal.patch(name), name)
        which = f" ({number + 1} of {len(proposals)})" if len(proposals) > 1 else ""
        actions = [_APPLY, *([_NEXT] if len(proposals) > 1 else []), _DISCARD]
        params = types.ShowMessageRequestParams(
            type=types.MessageType.Info,
            message=f"{convert.title(label)}: apply this edit to {name}?{which}",
            actions=[types.MessageActionItem(title) for title in actions],
        )
        try:
            answer = await self._client.request(types.WINDOW_SHOW_MESSAGE_REQUEST, params)
        except JsonRpcException as error:
            log.warning("the client asks nothing: %s", error)
            return _APPLY if not self._client.shows_documents else _DISCARD
        return getattr(answer, "title", None) or _DISCARD

    async def _show(self, diff: str, name: str) -> None:
        """Show a diff: as a document that the client asks for, as a file, or not at all where it can show neither."""
        if not self._client.shows_documents:
            return
        number = len(self._diffs)
        if self._client.asks_content:
            uri = f"{SCHEME}:/{number}/{name}.diff"
        else:
            self._folder = self._folder or Path(tempfile.mkdtemp(prefix="codeclippy-"))
            file = self._folder / f"{number}-{Path(name).name[:80]}.diff"
            file.write_text(diff, encoding="utf-8", newline="")
            file.chmod(0o400)
            uri = file.as_uri()
        self._diffs[uri] = diff
        for old in list(self._diffs)[:-_MOST_SHOWN]:
            self._diffs[old] = ""
        try:
            await self._client.request(types.WINDOW_SHOW_DOCUMENT, types.ShowDocumentParams(uri, take_focus=False))
        except JsonRpcException as error:
            log.warning("the client shows no document: %s", error)

    async def _apply(
        self, proposal: Proposal, label: str, settings: Settings, others: tuple[Proposal, ...], *, asked: bool
    ) -> None:
        """Have the client apply a proposal to the document as it is now, all of it or nothing."""
        now = self._documents.get(proposal.document.uri)
        if now is not None and now != proposal.document:
            carried = rebased(replace(proposal, others=others), now)
            proposal, others = (proposal, ()) if carried is None else (carried, carried.others)
            now = None if carried is None else now
        if now is None:
            self._client.say("no edit: the document changed meanwhile where the edit is about; nothing was applied")
            return
        confirm = settings.edit.confirm and not asked
        edit = convert.workspace_edit(proposal, label, self._documents.encoding, self._client.annotates, confirm)
        params = types.ApplyWorkspaceEditParams(edit=edit, label=convert.title(label))
        try:
            result: Any = await self._client.request(types.WORKSPACE_APPLY_EDIT, params)
        except JsonRpcException as error:
            self._client.say(f"the editor could not apply the edit: {error.message}")
            return
        if result.applied:
            self._applied[now.uri] = _Applied(proposal.after, others, label)
        elif result.failure_reason != "discarded":  # by the user, who knows
            self._client.say(f"the edit was not applied{': ' + result.failure_reason if result.failure_reason else ''}")
