"""`Edits`: edits of one client's documents: made, shown on request, applied, and replaced by the next best.

An edit reaches the document by ``workspace/applyEdit``, with the version of the text that it was made for or rebased
onto; otherwise nothing is applied and the user is told why.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.proposals import Proposal, describe_written
from codeclippy_ls.assist.rebase import rebase
from codeclippy_ls.server import convert
from codeclippy_ls.server.client import Client
from codeclippy_ls.settings import Settings
from codeclippy_ls.text import Document, Documents, compute_minimal_edits
from codeclippy_ls.uris import parse_name

log = logging.getLogger(__name__)

DIFF_SCHEME = "codeclippy-diff"
_APPLY, _NEXT, _DISCARD = "Apply", "Next", "Discard"
_UNASKED = ""  # the client can neither show a diff nor ask
_MAX_DIFFS = 16
_MAX_FILE_NAME = 80


@dataclass(frozen=True, slots=True)
class _AppliedEdit:
    """The newest edit of a document.

    Attributes:
        text: the document's text after the edit.
        alternatives: what else was proposed, next best first.
        label: what the user asked for.
    """

    text: str
    alternatives: tuple[Proposal, ...]
    label: str


class Edits:
    """Edits of one client's documents. Belongs to the loop thread."""

    def __init__(self, client: Client, documents: Documents) -> None:
        self._client = client
        self._documents = documents
        self._applied: dict[str, _AppliedEdit] = {}
        self._diffs: dict[str, str] = {}
        self._folder: Path | None = None

    async def make(
        self, assistant: Assistant, settings: Settings, document: Document, message: str, lines: tuple[int, int] | None
    ) -> None:
        """Make an edit and have the client apply it, or tell the user why there is none."""
        task = asyncio.current_task()
        cancel = task.cancel if task is not None else None
        title = convert.add_prefix(message or "edit")
        progress = await self._client.begin_progress(title, "writing", cancel=cancel)
        written = ""

        def on_text(delta: str) -> None:
            nonlocal written
            written += delta
            if "\n" in delta:
                progress.report(describe_written(written))

        try:
            result = await assistant.edit(document, message, lines, on_text)
        finally:
            progress.end()
        if isinstance(result, Proposal):
            await self._offer(result, message or "edit", settings)
        elif not result.cancelled:
            self._client.show_message(result.describe(), key=result.reason)

    def has_alternative(self, document: Document) -> bool:
        """Return whether another proposal can replace the document's last edit, which must be unchanged."""
        last = self._applied.get(document.uri)
        return last is not None and bool(last.alternatives) and last.text == document.text

    async def replace_last(self, document: Document) -> None:
        """Replace the document's last edit with the next best proposal."""
        if not self.has_alternative(document):
            self._client.show_message(
                "no other edit: there was only one proposal, or the document has changed since the edit"
            )
            return
        last = self._applied[document.uri]
        following, *rest = last.alternatives

        def compute_proposal() -> Proposal:
            # The replaced proposal goes to the end, so that repeating the command comes back to it.
            back = tuple(compute_minimal_edits(following.document.text, last.text))
            edits = tuple(compute_minimal_edits(document.text, following.after))
            alternatives = (*rest, Proposal(following.document, back, ""))
            return replace(following, document=document, edits=edits, alternatives=alternatives)

        await self._apply(await asyncio.to_thread(compute_proposal), last.label, confirm=False)

    def forget_document(self, uri: str) -> None:
        """Drop the last edit of a document that was closed."""
        self._applied.pop(uri, None)

    def diff_text(self, uri: str) -> str | None:
        """Return the text of a diff that is or was shown."""
        return self._diffs.get(uri)

    def close(self) -> None:
        """Remove the diffs' files."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _offer(self, proposal: Proposal, label: str, settings: Settings) -> None:
        """Apply the best proposal; if the user wants to see diffs, show one after the other until one is chosen."""
        proposals = [replace(one, alternatives=()) for one in (proposal, *proposal.alternatives)]
        chosen, answer = 0, _UNASKED
        if settings.edit.show_diff:
            while (answer := await self._ask(proposals, chosen, label)) == _NEXT:
                chosen = (chosen + 1) % len(proposals)
            if answer not in (_APPLY, _UNASKED):
                return
        alternatives = (*proposals[chosen + 1 :], *proposals[:chosen])
        confirm = settings.edit.confirm and answer == _UNASKED
        await self._apply(replace(proposals[chosen], alternatives=alternatives), label, confirm)

    async def _ask(self, proposals: list[Proposal], index: int, label: str) -> str:
        """Show a proposal's diff and ask the user to apply it, to see the next one, or to discard it."""
        proposal = proposals[index]
        name = parse_name(proposal.document.uri)
        await self.show_text(await asyncio.to_thread(proposal.patch, name), f"{name}.diff")
        count = f" ({index + 1} of {len(proposals)})" if len(proposals) > 1 else ""
        actions = [_APPLY, *([_NEXT] if len(proposals) > 1 else []), _DISCARD]
        try:
            answer = await self._client.ask(f"{convert.add_prefix(label)}: apply this edit to {name}?{count}", *actions)
        except JsonRpcException as error:
            log.warning("the client cannot ask the user: %s", error)
            return _UNASKED if not self._client.supports_show_document else _DISCARD
        return answer or _DISCARD

    async def show_text(self, text: str, name: str) -> None:
        """Show a text, such as a diff: as a document that the client requests, else as a file, if it shows any."""
        if not self._client.supports_show_document:
            return
        number = len(self._diffs)
        if self._client.supports_text_document_content:
            uri = f"{DIFF_SCHEME}:/{number}/{name}"
        else:
            self._folder = self._folder or Path(tempfile.mkdtemp(prefix="codeclippy-"))
            file = self._folder / f"{number}-{Path(name).name[-_MAX_FILE_NAME:]}"
            file.write_text(text, encoding="utf-8", newline="")
            file.chmod(0o400)
            uri = file.as_uri()
        self._diffs[uri] = text
        for old in list(self._diffs)[:-_MAX_DIFFS]:
            self._diffs[old] = ""
        try:
            await self._client.request(types.WINDOW_SHOW_DOCUMENT, types.ShowDocumentParams(uri, take_focus=False))
        except JsonRpcException as error:
            log.warning("the client does not show the document: %s", error)

    async def _apply(self, proposal: Proposal, label: str, confirm: bool) -> None:
        """Have the client apply a proposal to the current document: all of its edits or nothing."""
        document = self._documents.get(proposal.document.uri)
        current: Proposal | None = proposal
        if document is not None and document != proposal.document:
            current = rebase(proposal, document)
        if document is None or current is None:
            self._client.show_message(
                "no edit: the document changed at the place of the edit while it was being written; nothing was applied"
            )
            return
        edit = convert.to_workspace_edit(
            current, label, self._documents.encoding, self._client.supports_change_annotations, confirm
        )
        params = types.ApplyWorkspaceEditParams(edit=edit, label=convert.add_prefix(label))
        try:
            result: types.ApplyWorkspaceEditResult = await self._client.request(types.WORKSPACE_APPLY_EDIT, params)
        except JsonRpcException as error:
            self._client.show_message(f"the editor could not apply the edit: {error.message}")
            return
        if result.applied:
            self._applied[document.uri] = _AppliedEdit(current.after, current.alternatives, label)
        elif result.failure_reason != "discarded":  # by the user, who knows
            reason = f": {result.failure_reason}" if result.failure_reason else ""
            self._client.show_message(f"the edit was not applied{reason}")
