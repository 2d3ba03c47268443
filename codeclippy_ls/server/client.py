"""`Client`: what the client supports, and how it is told about progress, messages and status.

An error answer of the client to any of this is logged and never fails the work that it belongs to.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from codeclippy_ls.server.convert import get_capability
from codeclippy_ls.syntax.languages import LANGUAGES

if TYPE_CHECKING:
    from pygls.protocol import LanguageServerProtocol

log = logging.getLogger(__name__)

STATUS_NOTIFICATION = "codeclippy/status"
READY_NOTIFICATION = "codeclippy/suggestionReady"  # after an answer without a suggestion, or with a part of one
OFFER_NOTIFICATION = "codeclippy/modelOffer"
STATUS_OPTION = "statusNotification"  # the client's option that asks for it
# The client's option that says that it tells a workspace's settings, under `workspace`, from the user's.
SEPARATION_OPTION = "separateSettings"
OFFER_OPTION = "modelOffers"  # the client's option that says that it shows offers of a better model with buttons
TOKEN_OPTION = "token"  # the client's proof, if it came over a port
CLIENT_OPTIONS = frozenset({STATUS_OPTION, SEPARATION_OPTION, OFFER_OPTION, TOKEN_OPTION})  # which are no settings
EDIT_COMMAND = "codeclippy.edit"
REPLACE_EDIT_COMMAND = "codeclippy.replaceLastEdit"
RELOAD_COMMAND = "codeclippy.reloadModel"
CONTEXT_COMMAND = "codeclippy.showContext"
METRICS_COMMAND = "codeclippy.showMetrics"
LIST_MODELS_COMMAND = "codeclippy.listModels"
USE_MODEL_COMMAND = "codeclippy.useModel"
GET_MODEL_COMMAND = "codeclippy.getModel"
_PROGRESS_TIMEOUT = 2.0  # seconds for a client to accept a progress token; work waits no longer

_ProgressValue = types.WorkDoneProgressBegin | types.WorkDoneProgressReport | types.WorkDoneProgressEnd


class Progress:
    """Progress of one piece of work, shown to the user; without a token it does nothing."""

    def __init__(self, client: Client, token: types.ProgressToken | None) -> None:
        self._client = client
        self._token = token

    def begin(self, title: str, message: str, cancellable: bool) -> None:
        """Show the work."""
        self._send(types.WorkDoneProgressBegin(title=title, message=message, cancellable=cancellable))

    def report(self, message: str, percentage: int | None = None) -> None:
        """Show how far the work is."""
        self._send(types.WorkDoneProgressReport(message=message, percentage=percentage))

    def end(self, message: str = "") -> None:
        """Show that the work is done; later calls do nothing."""
        self._send(types.WorkDoneProgressEnd(message=message or None))
        if self._token is not None:
            self._client.cancel_callbacks.pop(str(self._token), None)
        self._token = None

    def _send(self, value: _ProgressValue) -> None:
        if self._token is not None:
            self._client.notify(types.PROGRESS, types.ProgressParams(token=self._token, value=value))


class Client:
    """The client of one session. Belongs to the loop thread.

    Attributes:
        cancel_callbacks: by progress token, called when the user cancels that work.
    """

    def __init__(
        self, protocol: LanguageServerProtocol, capabilities: types.ClientCapabilities, options: object
    ) -> None:
        self._protocol = protocol
        self.cancel_callbacks: dict[str, Callable[[], object]] = {}
        self.supports_progress = bool(get_capability(capabilities, "window.work_done_progress"))
        self.supports_change_annotations = (
            get_capability(capabilities, "workspace.workspace_edit.change_annotation_support") is not None
        )
        self.supports_inline_completion = get_capability(capabilities, "text_document.inline_completion") is not None
        self.supports_show_document = bool(get_capability(capabilities, "window.show_document.support"))
        self.supports_text_document_content = (
            get_capability(capabilities, "workspace.text_document_content") is not None
        )
        self.supports_configuration = bool(get_capability(capabilities, "workspace.configuration"))
        formats = get_capability(capabilities, "text_document.completion.completion_item.documentation_format") or ()
        self.supports_markdown = types.MarkupKind.Markdown in formats
        self._can_watch_files = bool(
            get_capability(capabilities, "workspace.did_change_watched_files.dynamic_registration")
        )
        resolvable = get_capability(capabilities, "text_document.code_action.resolve_support.properties") or ()
        keeps_data = bool(get_capability(capabilities, "text_document.code_action.data_support"))
        self.supports_command_resolve = keeps_data and "command" in resolvable
        self._wants_status = isinstance(options, dict) and options.get(STATUS_OPTION) is True
        self.separates_settings = isinstance(options, dict) and options.get(SEPARATION_OPTION) is True
        self.shows_offers = isinstance(options, dict) and options.get(OFFER_OPTION) is True
        self._shown_keys: set[str] = set()
        self._num_questions = 0
        self._message_time = -math.inf

    async def begin_progress(
        self,
        title: str,
        message: str = "",
        cancel: Callable[[], object] | None = None,
        token: types.ProgressToken | None = None,
    ) -> Progress:
        """Begin to show a piece of work; ``cancel`` is called when the user cancels it.

        Args:
            token: of the request that started the work; without one the client is asked for progress, if it can.
        """
        if token is None and self.supports_progress:
            token = await self._create_token(cancel)
        elif token is not None and cancel is not None:
            self.cancel_callbacks[str(token)] = cancel
        progress = Progress(self, token)
        progress.begin(title, message, cancellable=cancel is not None)
        return progress

    async def _create_token(self, cancel: Callable[[], object] | None) -> str | None:
        """Create a progress token; ``None`` if the client refuses it."""
        token = str(uuid.uuid4())  # a token must not be used twice
        if cancel is not None:
            self.cancel_callbacks[token] = cancel
        try:
            create = types.WorkDoneProgressCreateParams(token=token)
            await asyncio.wait_for(self.request(types.WINDOW_WORK_DONE_PROGRESS_CREATE, create), _PROGRESS_TIMEOUT)
        except (JsonRpcException, asyncio.TimeoutError) as error:
            log.warning("the client shows no progress: %s", type(error).__name__)
            self.cancel_callbacks.pop(token, None)
            return None
        except asyncio.CancelledError:
            self.cancel_callbacks.pop(token, None)
            raise
        return token

    async def ask(self, message: str, *actions: str) -> str:
        """Ask the user to choose an action; return its title, or an empty text if she closed the question.

        Raises:
            JsonRpcException: the client cannot ask.
        """
        items = [types.MessageActionItem(title) for title in actions]
        params = types.ShowMessageRequestParams(types.MessageType.Info, message, items)
        self._num_questions += 1
        try:
            answer = await self.request(types.WINDOW_SHOW_MESSAGE_REQUEST, params)
        finally:
            self._num_questions -= 1
            self._message_time = asyncio.get_running_loop().time()
        return getattr(answer, "title", None) or ""

    def has_shown_nothing(self, seconds: float) -> bool:
        """Return whether no question waits for the user, and no message was shown for so long."""
        return not self._num_questions and asyncio.get_running_loop().time() - self._message_time >= seconds

    async def request(self, method: str, params: object) -> Any:
        """Send a request and await its result.

        Raises:
            JsonRpcException: the client answered with an error.
        """
        return await self._protocol.send_request_async(method, params)

    async def watch_files(self) -> bool:
        """Ask the client to report changes of source files; return whether it does."""
        if not self._can_watch_files:
            return False
        patterns = sorted(
            {f"**/*{suffix}" for language in LANGUAGES for suffix in language.suffixes if suffix[0] == "."}
        )
        options = types.DidChangeWatchedFilesRegistrationOptions([types.FileSystemWatcher(one) for one in patterns])
        registration = types.Registration("files", types.WORKSPACE_DID_CHANGE_WATCHED_FILES, options)
        try:
            await self.request(types.CLIENT_REGISTER_CAPABILITY, types.RegistrationParams([registration]))
        except JsonRpcException as error:
            log.warning("the client reports no changes of files: %s", error.message)
            return False
        return True

    def notify(self, method: str, params: object) -> None:
        """Send a notification."""
        self._protocol.notify(method, params)

    def show_message(
        self, message: str, kind: types.MessageType = types.MessageType.Info, key: str | None = None
    ) -> None:
        """Show a message to the user.

        Args:
            key: `show_message_once` shows no further message with this key.
        """
        if key is not None:
            self._shown_keys.add(key)
        self._message_time = asyncio.get_running_loop().time()
        self.notify(types.WINDOW_SHOW_MESSAGE, types.ShowMessageParams(type=kind, message=f"Code Clippy: {message}"))

    def show_message_once(
        self, message: str, kind: types.MessageType = types.MessageType.Warning, key: str | None = None
    ) -> None:
        """Show a message the first time only: a failure at every keystroke must not pop up at each.

        Args:
            key: identifies the message if its text varies.
        """
        if (key or message) not in self._shown_keys:
            self.show_message(message, kind, key or message)

    def reset_once(self, key: str) -> None:
        """Let `show_message_once` show the message with this key again."""
        self._shown_keys.discard(key)

    def send_suggestion_ready(self, uri: str) -> None:
        """Tell a client that wants the server's state that a request for a suggestion would now be answered."""
        if self._wants_status:
            self.notify(READY_NOTIFICATION, {"uri": uri})

    def send_offer(self, params: dict[str, Any]) -> None:
        """Offer a model to a client that shows offers."""
        self._message_time = asyncio.get_running_loop().time()
        self.notify(OFFER_NOTIFICATION, params)

    def send_status(self, state: str, message: str = "") -> None:
        """Send the server's state, if the client asked for it in its ``initializationOptions``."""
        if self._wants_status:
            self.notify(STATUS_NOTIFICATION, {"state": state, "message": message})
