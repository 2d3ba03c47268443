"""What this client can show, and how it is told: progress, messages, status. Belongs to the loop thread.

A client's error answer to any of this is logged and never fails the work it belongs to.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from codeclippy_ls.server.convert import supports

log = logging.getLogger(__name__)

STATUS = "codeclippy/status"
EDIT_COMMAND = "codeclippy.edit"
NEXT_COMMAND = "codeclippy.replaceLastEdit"
RELOAD_COMMAND = "codeclippy.reloadModel"
FIGURES_COMMAND = "codeclippy.showMetrics"
_PATIENCE_SECONDS = 2.0  # for a client to say that it will show progress; work does not wait for longer


class Progress:
    """One piece of work shown to the user; does nothing where the client shows none."""

    def __init__(self, client: Client, token: str | None) -> None:
        self._client = client
        self._token = token

    def report(self, message: str, percentage: int | None = None) -> None:
        """Say how far it is."""
        self._send(types.WorkDoneProgressReport(message=message, percentage=percentage))

    def end(self, message: str = "") -> None:
        """Say that it is done, once; later calls do nothing."""
        self._send(types.WorkDoneProgressEnd(message=message or None))
        if self._token is not None:
            self._client.cancels.pop(self._token, None)
        self._token = None

    def begin(self, title: str, message: str, cancellable: bool) -> None:
        """Show it."""
        self._send(types.WorkDoneProgressBegin(title=title, message=message, cancellable=cancellable))

    def _send(self, value: Any) -> None:
        if self._token is not None:
            self._client.protocol.notify(types.PROGRESS, types.ProgressParams(token=self._token, value=value))


class Client:
    """The other side of one session, by its capabilities."""

    def __init__(self, protocol: Any, capabilities: Any, options: Any) -> None:
        self.protocol = protocol
        self.cancels: dict[str, Callable[[], object]] = {}
        window = supports(capabilities, ["window", "work_done_progress"])
        self.shows_progress = bool(window)
        edit = ("workspace", "workspace_edit")
        self.annotates = supports(capabilities, [*edit, "change_annotation_support"]) is not None
        self.draws_ghost_text = supports(capabilities, ["text_document", "inline_completion"]) is not None
        self.applies = bool(supports(capabilities, ["workspace", "apply_edit"]))
        self.shows_documents = bool(supports(capabilities, ["window", "show_document", "support"]))
        self.asks_content = supports(capabilities, ["workspace", "text_document_content"]) is not None
        self.configures = bool(supports(capabilities, ["workspace", "configuration"]))
        resolve = supports(capabilities, ["text_document", "code_action", "resolve_support", "properties"]) or ()
        carries = bool(supports(capabilities, ["text_document", "code_action", "data_support"]))
        self.resolves_commands = carries and "command" in resolve
        self._wants_status = isinstance(options, dict) and options.get("statusNotification") is True
        self._told: set[str] = set()

    async def progress(self, title: str, message: str = "", cancel: Callable[[], object] | None = None) -> Progress:
        """Begin to show a piece of work; ``cancel`` is called when the user cancels it."""
        if not self.shows_progress:
            return Progress(self, None)
        token = str(uuid.uuid4())  # a token cannot be used again
        if cancel is not None:
            self.cancels[token] = cancel
        try:
            create = types.WorkDoneProgressCreateParams(token=token)
            await asyncio.wait_for(self.request(types.WINDOW_WORK_DONE_PROGRESS_CREATE, create), _PATIENCE_SECONDS)
        except (JsonRpcException, asyncio.TimeoutError) as error:
            log.warning("the client shows no progress: %s", type(error).__name__)
            self.cancels.pop(token, None)
            return Progress(self, None)
        except asyncio.CancelledError:
            self.cancels.pop(token, None)
            raise
        progress = Progress(self, token)
        progress.begin(title, message, cancellable=cancel is not None)
        return progress

    async def request(self, method: str, params: Any) -> Any:
        """Send a request and await its result.

        Raises:
            JsonRpcException: the client answered with an error.
        """
        return await self.protocol.send_request_async(method, params)

    def say(self, message: str, kind: types.MessageType = types.MessageType.Info, key: str | None = None) -> None:
        """A message that the user should see; what it is about, its ``key``, need not be said once more."""
        if key is not None:
            self._told.add(key)
        params = types.ShowMessageParams(type=kind, message=f"Code Clippy: {message}")
        self.protocol.notify(types.WINDOW_SHOW_MESSAGE, params)

    def say_once(
        self, message: str, kind: types.MessageType = types.MessageType.Warning, key: str | None = None
    ) -> None:
        """A message that is shown the first time only: what fails at every keystroke must not pop up at each.

        Args:
            key: what it is about, where its text varies.
        """
        if (key or message) not in self._told:
            self.say(message, kind, key or message)

    def forget(self, key: str) -> None:
        """Let a message be said again."""
        self._told.discard(key)

    def status(self, state: str, message: str = "") -> None:
        """The server's state, for clients that asked for it in their ``initializationOptions``."""
        if self._wants_status:
            self.protocol.notify(STATUS, {"state": state, "message": message})
