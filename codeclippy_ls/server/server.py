"""`Server`: one client's connection, and its session once the client is initialized.

Binds the features and commands to the session. Knows no feature, no document and no model.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from platform import python_version
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from codeclippy_ls import __version__
from codeclippy_ls.engines import open_engine
from codeclippy_ls.framing import Writer
from codeclippy_ls.notebooks import Notebooks
from codeclippy_ls.server.client import CLIENT_OPTIONS, TOKEN_OPTION, Client
from codeclippy_ls.server.features import COMMANDS, FEATURES, Handler, refine_capabilities
from codeclippy_ls.server.loop_watch import LoopWatch, is_alive
from codeclippy_ls.server.protocol import (
    NOT_INITIALIZED,
    GuardedProtocol,
    GuardedServer,
    catch_system_exit,
    make_converter,
)
from codeclippy_ls.server.session import OpenEngine, Session
from codeclippy_ls.settings import Source, parse, split_workspace
from codeclippy_ls.text import Change, Documents, Encoding
from codeclippy_ls.user_config import read_user_settings

log = logging.getLogger(__name__)

_PARENT_CHECK_SECONDS = 1.0
# Notifications of changes, and the param that says of what.
_CHANGES = {types.TEXT_DOCUMENT_DID_CHANGE: "textDocument", types.NOTEBOOK_DOCUMENT_DID_CHANGE: "notebookDocument"}
# Cells of all notebooks in all languages: prose, too, so that the order of cells is known.
_NOTEBOOK_SYNC = types.NotebookDocumentSyncOptions([types.NotebookDocumentFilterWithNotebook(notebook="*")])


class Server(GuardedServer):
    """One client's server. Belongs to the loop thread.

    Args:
        overrides: options from the command line, which take precedence over the client's.
        token: if the client came over a port, the secret that it must send to choose what is loaded and contacted;
            with an empty one nobody can. ``None``: the client started the server, or the server was told to connect.
        engine: makes the engine; tests pass one that needs no model.
        watch: watches this process's loop, if it serves only this client.
    """

    protocol: GuardedProtocol

    def __init__(
        self,
        overrides: Mapping[str, Any] | None = None,
        engine: OpenEngine = open_engine,
        token: str | None = None,
        watch: LoopWatch | None = None,
    ) -> None:
        super().__init__(
            "codeclippy-ls",
            __version__,
            notebook_document_sync=_NOTEBOOK_SYNC,
            protocol_cls=GuardedProtocol,
            converter_factory=make_converter,
        )
        self._overrides = dict(overrides or {})
        self._open_engine = engine
        self._token = token
        self._watch = watch
        self._session: Session | None = None
        self._reader: asyncio.StreamReader | None = None
        for method, (handler, options) in FEATURES.items():
            self.protocol.fm.feature(method, options)(self._bind(handler))
        for name, handler in COMMANDS.items():
            self.protocol.fm.command(name)(self._bind_command(handler))

    @property
    def session(self) -> Session:
        """The client's session.

        Raises:
            JsonRpcException: the client is not initialized.
        """
        if self._session is None:
            raise JsonRpcException("the server is not initialized", NOT_INITIALIZED)
        return self._session

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> int:
        """Serve a client until it leaves; return the exit code. The engine is closed, waiting requests are answered."""
        self._reader = reader
        try:
            return await self.protocol.serve(reader, writer)
        finally:
            if self._session is not None:
                self._session.close()
            # One turn of the loop, so that cancelled requests send their answers.
            await asyncio.sleep(0)

    def join(self, timeout: float) -> bool:
        """Wait until the closed session's engine has ended; return False after ``timeout`` seconds."""
        return self._session is None or self._session.assistant.join(timeout)

    # Called by the protocol.

    def initialize(self, params: types.InitializeParams, encoding: Encoding) -> None:
        """Create the session. The client's options are the user's, except for those under ``workspace``.

        They change what the user's own file says, and the command line changes both. Whoever came over a port must
        prove it.
        """
        options = params.initialization_options
        client = Client(self.protocol, params.capabilities, options)
        name = params.client_info.name if params.client_info is not None else "an unnamed client"
        log.info("codeclippy-ls %s, Python %s, %s, for %.60r", __version__, python_version(), sys.platform, name)
        if isinstance(options, dict):
            options = {key: value for key, value in options.items() if key not in CLIENT_OPTIONS}
        options, workspace = split_workspace(options)
        source = Source.START if self._trusts(params.initialization_options) else Source.STRANGER
        base, file_problems = read_user_settings()
        settings, problems = parse(options, base, source)
        settings, _ = parse(self._overrides, settings)
        # A stranger must not have folders read that she names.
        folders = _list_folders(params) if source is Source.START else None
        problems = [*file_problems, *problems]
        documents = Documents(encoding)
        self._session = Session(client, documents, settings, problems, self._open_engine, workspace, folders, base)
        # From inside a container the editor's process cannot be seen, and its absence means nothing.
        if params.process_id and is_alive(params.process_id):
            self._session.run_in_background(self._watch_parent(params.process_id))
            if self._watch is not None:
                self._watch.client_process = params.process_id

    def refine_capabilities(self, capabilities: types.ServerCapabilities) -> None:
        """Adapt the announced capabilities to the client."""
        refine_capabilities(self.session, capabilities)

    @property
    def notebooks(self) -> Notebooks:
        """The session's notebooks."""
        return self.session.notebooks

    def open_document(self, uri: str, text: str, version: int, language: str, notebook: str = "") -> None:
        """Pass an opened document on to the session."""
        self.session.open_document(uri, text, version, language, notebook)

    def change_document(self, uri: str, version: int | None, changes: list[Change]) -> None:
        """Pass changes of a document on to the session."""
        self.session.change_document(uri, version, changes)

    def close_document(self, uri: str) -> None:
        """Pass a closed document on to the session."""
        self.session.close_document(uri)

    def handle_oversized(self, method: str, uri: str) -> None:
        """Stop following a document whose text, or a change of it, was too long to be read."""
        if self._session is not None and method != types.TEXT_DOCUMENT_DID_CLOSE:
            self._session.leave_document(uri)

    def handle_unreadable(self, method: str, params: Any) -> None:
        """Handle a notification with unreadable params: after such a change a text is unknown, or all of a notebook."""
        if self._session is None or method not in _CHANGES or not isinstance(params, dict):
            return
        identifier = params.get(_CHANGES[method])
        uri = identifier.get("uri") if isinstance(identifier, dict) else None
        if not isinstance(uri, str):
            return
        for changed in (uri, *(cell.uri for cell in self.notebooks.list_cells(uri))):
            if self._session.documents.get(changed) is not None:
                self._session.mark_desynced(changed)
        self.notebooks.close(uri)

    def _trusts(self, options: Any) -> bool:
        """Return whether the client may choose what is loaded and contacted."""
        if self._token is None:
            return True
        sent = options.get(TOKEN_OPTION) if isinstance(options, dict) else None
        if not self._token or not isinstance(sent, str):
            return False
        # In constant time, so that nobody can guess it letter by letter.
        return hmac.compare_digest(sent.encode("utf-8", "replace"), self._token.encode("utf-8", "replace"))

    async def _watch_parent(self, process_id: int) -> None:
        """End the session when the editor's process is gone, even if its end of the stream stays open."""
        while is_alive(process_id):  # noqa: ASYNC110 - nothing reports another process's end
            await asyncio.sleep(_PARENT_CHECK_SECONDS)
        log.warning("the editor's process has ended")
        if self._reader is not None:
            self._reader.feed_eof()

    def _bind(self, handler: Handler) -> Callable[[Any], Awaitable[Any]]:
        """Bind a feature's handler to this server's session."""

        async def handle(params: Any) -> Any:
            return await handler(self.session, params)

        return catch_system_exit(handle)

    def _bind_command(self, handler: Handler) -> Callable[..., Awaitable[Any]]:
        """Bind a command's handler to this server's session; it gets its arguments as a list, unchecked."""

        async def handle(*arguments: Any) -> Any:
            return await handler(self.session, list(arguments))

        return catch_system_exit(handle)


def _list_folders(params: types.InitializeParams) -> list[str]:
    """List the URIs of the folders that a client has open."""
    if params.workspace_folders:
        return [folder.uri for folder in params.workspace_folders]
    return [params.root_uri] if params.root_uri else []
