"""pygls' protocol, guarded: every request is answered exactly once, whatever comes in and whatever fails.

Replaces in pygls: reading messages, the checks of the life cycle, how results and errors are sent, and document
synchronization, which goes to our own text store. Knows nothing of completion or edits.
"""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import re
import uuid
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from cattrs.errors import BaseValidationError
from lsprotocol import types
from pygls.capabilities import ServerCapabilitiesBuilder
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer
from pygls.protocol import LanguageServerProtocol, default_converter, lsp_method

from codeclippy_ls.framing import FrameError, OversizedError, Writer, encode_frame, read_frame
from codeclippy_ls.notebooks import Cell, Notebooks
from codeclippy_ls.text import Change, Encoding, Position, replace_surrogates

if TYPE_CHECKING:
    from concurrent.futures import Future

    from cattrs import Converter

log = logging.getLogger(__name__)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
NOT_INITIALIZED = -32002
CANCELLED = -32800
CURSOR_NOTIFICATION = "codeclippy/cursor"
INLINE_EDIT_REQUEST = "textDocument/copilotInlineEdit"


_SYNC_METHODS = ("textDocument/did", "notebookDocument/did")  # notifications
_MAX_ERROR_MESSAGE = 300

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class CursorNotification:
    """Our own notification: the cursor rests at a place."""

    params: types.TextDocumentPositionParams
    method: str = CURSOR_NOTIFICATION
    jsonrpc: str = "2.0"


@dataclass(frozen=True, slots=True)
class InlineEditRequest:
    """A request of GitHub's language server: what is to be edited next?"""

    id: int | str
    params: types.TextDocumentPositionParams
    method: str = INLINE_EDIT_REQUEST
    jsonrpc: str = "2.0"


class GuardedServer(LanguageServer):
    """The calls of `GuardedProtocol` on its server, before it reads the next message."""

    def initialize(self, params: types.InitializeParams, encoding: Encoding) -> None:
        """Create the session; ``encoding`` is the negotiated position encoding."""
        raise NotImplementedError

    def refine_capabilities(self, capabilities: types.ServerCapabilities) -> None:
        """Change the capabilities that are announced, once the session exists."""
        raise NotImplementedError

    @property
    def notebooks(self) -> Notebooks:
        """The open notebooks."""
        raise NotImplementedError

    def open_document(self, uri: str, text: str, version: int, language: str, notebook: str = "") -> None:
        """Handle an opened document, or an opened cell of a notebook."""
        raise NotImplementedError

    def change_document(self, uri: str, version: int | None, changes: list[Change]) -> None:
        """Handle changes of a document, in order."""
        raise NotImplementedError

    def close_document(self, uri: str) -> None:
        """Handle a closed document."""
        raise NotImplementedError

    def handle_oversized(self, method: str, uri: str) -> None:
        """Handle a notification about a document that was too long to be read."""
        raise NotImplementedError

    def handle_unreadable(self, method: str, params: Any) -> None:
        """Handle a notification whose params do not have the protocol's form."""
        raise NotImplementedError


class GuardedProtocol(LanguageServerProtocol):
    """One client's protocol. Belongs to the loop thread."""

    _server: GuardedServer

    def __init__(self, server: GuardedServer, converter: Converter) -> None:
        super().__init__(server, converter)
        self.exit_code: int | None = None
        self._initializing = False

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> int:
        """Read messages until ``exit`` or the end of the stream; return the process's exit code."""
        self.set_writer(writer)
        while self.exit_code is None:
            try:
                body = await read_frame(reader)
            except OversizedError as error:
                self._receive_oversized(error)
                continue
            except (FrameError, ConnectionError) as error:
                log.error("cannot read the client's messages: %s", error)
                return 1
            if body is None:
                return 0 if self._shutdown else 1
            self.receive(body)
            # Let the request's handler take its snapshot before the next message, which may change the text.
            await asyncio.sleep(0)
        return self.exit_code

    def _receive_oversized(self, error: OversizedError) -> None:
        """Handle a message that was read past, by what its ends say of it."""
        log.error("%s; it is left out", error)
        text = b"\n".join((error.head, error.tail)).decode("utf-8", "replace")
        method, uri, id = (_find_value(text, name) for name in ("method", "uri", "id"))
        if isinstance(method, str) and method.startswith(_SYNC_METHODS):
            if isinstance(uri, str) and self._lifecycle_error(method) is None:
                self._server.handle_oversized(method, uri)
        elif method is not None and id is not None:
            self._send_error(id, INVALID_REQUEST, str(error))
        elif id in self._request_futures and not (future := self._request_futures.pop(id)).done():
            future.set_exception(JsonRpcException(str(error), INVALID_REQUEST))

    def receive(self, body: bytes) -> None:
        """Handle one message. A message that cannot be handled is answered with an error, by its id if it has one."""
        try:
            message = json.loads(body)
        except (ValueError, RecursionError) as error:
            self._send_error(None, PARSE_ERROR, f"not JSON: {error}")
            return
        if not isinstance(message, dict) or message.get("jsonrpc") != self.VERSION:
            self._send_error(None, INVALID_REQUEST, 'a message is one JSON object with "jsonrpc": "2.0"')
            return
        id, method = message.get("id"), message.get("method")
        if method is None and id is None and "error" in message:
            log.warning("the client could not read a message")  # answering an answer would never end
            return
        if "id" in message and (isinstance(id, bool) or not isinstance(id, (int, str))):
            self._send_error(None, INVALID_REQUEST, "an id is a number or a string")
        elif method is None:
            self._receive_response(message)
        elif not isinstance(method, str):
            self._send_error(id, INVALID_REQUEST, "a method is a string")
        elif "id" in message:
            self._receive_request(id, method, message)
        else:
            self._receive_notification(method, message)

    def _receive_request(self, id: Any, method: str, message: dict[str, Any]) -> None:
        if (error := self._lifecycle_error(method)) is not None:
            self._send_error(id, *error)
        elif not self._is_known(method):
            self._send_error(id, METHOD_NOT_FOUND, f"{method} is not supported")
        elif id in self._request_futures:
            self._send_error(id, INVALID_REQUEST, "this id is in use")
        else:
            try:
                request = self._converter.structure(message, self._type_of(method))
            except Exception as problem:
                log.warning("bad params for %s: %s", method, _describe(problem))
                self._send_error(id, INVALID_PARAMS, f"the params of {method} do not have the protocol's form")
                return
            self._initializing |= method == types.INITIALIZE
            self.handle_message(request)

    def _receive_notification(self, method: str, message: dict[str, Any]) -> None:
        if method == types.EXIT:
            self.exit_code = 0 if self._shutdown else 1
        elif self._lifecycle_error(method) is None and (self._is_known(method) or method == types.CANCEL_REQUEST):
            try:
                self.handle_message(self._converter.structure(message, self._type_of(method)))
            except Exception as error:
                log.warning("bad params for %s: %s", method, _describe(error))
                self._server.handle_unreadable(method, message.get("params"))

    def _receive_response(self, message: dict[str, Any]) -> None:
        id = message.get("id")
        future = self._request_futures.get(id) if id is not None else None
        if future is None or future.done() or id not in self._result_types:
            log.debug("the client answered an unknown request")
            return
        result_type = self._result_types.pop(id, None)
        error = message.get("error")
        try:
            if isinstance(error, dict):
                failure = types.ResponseError(int(error.get("code", INTERNAL_ERROR)), str(error.get("message", "")))
                self._handle_response(id, error=failure)
            else:
                result = self._converter.structure(message, result_type).result if result_type else None
                self._handle_response(id, result)
        except Exception as problem:
            log.warning("a response cannot be read: %s", _describe(problem))
            future = self._request_futures.pop(id, None)
            if future is not None and not future.done():
                future.set_exception(JsonRpcException("the client's response cannot be read", INVALID_PARAMS))

    def _lifecycle_error(self, method: str) -> tuple[int, str] | None:
        """Return the error for a message that is not allowed at this point of the life cycle, or ``None``."""
        if self._shutdown:
            return INVALID_REQUEST, "the server is shutting down"
        if method == types.INITIALIZE:
            return (INVALID_REQUEST, "the server is initialized already") if self._initializing else None
        return None if self._initializing else (NOT_INITIALIZED, "the server is not initialized")

    def _is_known(self, method: str) -> bool:
        return method in self.fm.builtin_features or method in self.fm.features

    def _type_of(self, method: str) -> Any:
        own = {CURSOR_NOTIFICATION: CursorNotification, INLINE_EDIT_REQUEST: InlineEditRequest}
        return own.get(method) or self.get_message_type(method)

    def _send_error(self, id: Any, code: int, message: str) -> None:
        self._send_data({"jsonrpc": self.VERSION, "id": id, "error": {"code": code, "message": message}})

    # Called by pygls to handle a message and to answer it.

    def _handle_notification(self, method_name: str, params: Any) -> None:
        if method_name == types.CANCEL_REQUEST:
            self._handle_cancel_notification(params.id)
            return
        key = str(uuid.uuid4())
        try:
            callback = partial(self._finish_notification, key=key)
            self._execute_handler(key, self._get_handler(method_name), callback, (params,))
        except Exception:
            log.exception("handling %s failed", method_name)

    def _finish_notification(self, future: Future[Any], *, key: str) -> None:
        """Drop a notification's future, which pygls would keep forever."""
        self._request_futures.pop(key, None)
        if not future.cancelled() and (error := future.exception()) is not None:
            log.error("handling a notification failed", exc_info=error)

    def _handle_request(self, msg_id: Any, method_name: str, params: Any) -> None:
        self._ctx_msg_id.set(msg_id)
        callback = partial(self._send_handler_result, msg_id=msg_id)
        try:
            self._execute_handler(msg_id, self._get_handler(method_name), callback, (params,))
        except Exception as error:
            log.exception("handling %s failed", method_name)
            self._send_error(msg_id, *_to_error(error))

    def _handle_cancel_notification(self, msg_id: Any) -> None:
        future = self._request_futures.get(msg_id)
        if future is not None:
            future.cancel()

    def _send_handler_result(self, future: Future[Any], *, msg_id: Any) -> None:
        self._request_futures.pop(msg_id, None)
        if future.cancelled():
            self._send_error(msg_id, CANCELLED, "cancelled")
        elif (error := future.exception()) is not None:
            if not isinstance(error, JsonRpcException):
                log.error("request %r failed", msg_id, exc_info=error)
            self._send_error(msg_id, *_to_error(error))
        else:
            self._send_response(msg_id, result=future.result())

    def _send_data(self, data: Any) -> None:
        if self.writer is None:
            return
        try:
            body = self._encode(data)
        except Exception:
            log.exception("a message cannot be written as JSON")
            id = getattr(data, "id", None)
            if id is None or hasattr(data, "method"):
                return
            failure = {"code": INTERNAL_ERROR, "message": "the result cannot be written as JSON"}
            body = self._encode({"jsonrpc": self.VERSION, "id": id, "error": failure})
        self.writer.write(encode_frame(body))

    def _encode(self, data: Any) -> bytes:
        # NaN is not JSON, and a lone surrogate is not UTF-8: clients drop a message that contains one.
        text = json.dumps(data, default=self._serialize_message, allow_nan=False, ensure_ascii=False)
        return replace_surrogates(text).encode()

    # Built-in methods of pygls that are replaced.

    @lsp_method(types.INITIALIZE)
    def lsp_initialize(self, params: types.InitializeParams) -> Generator[Any, Any, types.InitializeResult]:
        """Create the session and announce the capabilities, all before the next message is read."""
        encoding: Any = ServerCapabilitiesBuilder.choose_position_encoding(params.capabilities)
        self._server.initialize(params, getattr(encoding, "value", encoding))
        result: types.InitializeResult = yield from super().lsp_initialize(params)
        self._server.refine_capabilities(result.capabilities)
        return result

    @lsp_method(types.SHUTDOWN)
    def lsp_shutdown(self, *arguments: Any) -> Generator[Any, Any, None]:
        """Cancel the requests under way, over a copy of the table: pygls fails if an answer changes it."""
        self._shutdown = True  # for messages that are read while the handler runs
        current = self.msg_id
        if (handler := self.fm.features.get(types.SHUTDOWN)) is not None:
            yield handler, arguments, None
        for id, future in list(self._request_futures.items()):
            if id != current and not future.done():
                future.cancel()

    @lsp_method(types.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: types.DidOpenTextDocumentParams) -> None:
        """Pass an opened document on."""
        self._open(params.text_document)

    def _open(self, item: types.TextDocumentItem, notebook: str = "") -> None:
        self._server.open_document(item.uri, item.text, item.version, str(item.language_id), notebook)

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        """Pass changes on, in order."""
        self._change(params.text_document, params.content_changes)

    def _change(
        self,
        document: types.VersionedTextDocumentIdentifier,
        changes: Sequence[types.TextDocumentContentChangeEvent],
    ) -> None:
        self._server.change_document(document.uri, document.version, [_to_change(change) for change in changes])

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: types.DidCloseTextDocumentParams) -> None:
        """Pass a closed document on."""
        self._server.close_document(params.text_document.uri)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_OPEN)
    def lsp_notebook_document__did_open(self, params: types.DidOpenNotebookDocumentParams) -> None:
        """Pass an opened notebook on, and its cells."""
        notebook = params.notebook_document
        self._server.notebooks.open(notebook.uri, _to_cells(notebook.cells))
        for item in params.cell_text_documents:
            self._open(item, notebook.uri)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_CHANGE)
    def lsp_notebook_document__did_change(self, params: types.DidChangeNotebookDocumentParams) -> None:
        """Pass changes of a notebook's cells on: their order, their kinds, and then their texts."""
        uri, cells = params.notebook_document.uri, params.change.cells
        if cells is None:
            return
        if cells.structure is not None:
            self._change_structure(uri, cells.structure)
        self._server.notebooks.update(uri, _to_cells(cells.data))
        for content in cells.text_content or ():
            self._change(content.document, content.changes)

    def _change_structure(self, uri: str, structure: types.NotebookDocumentCellChangeStructure) -> None:
        array = structure.array
        try:
            self._server.notebooks.splice(uri, array.start, array.delete_count, _to_cells(array.cells))
        except (KeyError, IndexError) as error:
            log.warning("the order of a notebook's cells is not known any more: %s", error)
            self._server.notebooks.close(uri)
        # First what is closed: a cell whose language changes is closed and opened by the same URI.
        for identifier in structure.did_close or ():
            self._server.close_document(identifier.uri)
        for item in structure.did_open or ():
            self._open(item, uri)

    @lsp_method(types.NOTEBOOK_DOCUMENT_DID_CLOSE)
    def lsp_notebook_document__did_close(self, params: types.DidCloseNotebookDocumentParams) -> None:
        """Pass a closed notebook on, and its cells."""
        uri = params.notebook_document.uri
        cells = [cell.uri for cell in self._server.notebooks.list_cells(uri)]
        self._server.notebooks.close(uri)
        for cell in dict.fromkeys((*cells, *(identifier.uri for identifier in params.cell_text_documents))):
            self._server.close_document(cell)


def _to_change(change: types.TextDocumentContentChangeEvent) -> Change:
    if isinstance(change, types.TextDocumentContentChangeWholeDocument):
        return Change(change.text)
    start, end = change.range.start, change.range.end
    return Change(change.text, Position(start.line, start.character), Position(end.line, end.character))


def _to_cells(cells: Sequence[types.NotebookCell] | None) -> list[Cell]:
    return [Cell(cell.document, cell.kind == types.NotebookCellKind.Code) for cell in cells or ()]


def _to_error(error: BaseException) -> tuple[int, str]:
    """Return code and message for the client: short, without traceback or path."""
    if isinstance(error, JsonRpcException):
        return error.code or INTERNAL_ERROR, str(error.message or "failed")[:_MAX_ERROR_MESSAGE]
    return INTERNAL_ERROR, f"internal error ({type(error).__name__}); see the server's log"


def make_converter() -> Converter:
    """Return pygls' converter, which takes numbers and strings only for what they are.

    It would read ``"0"``, ``true`` and ``0.5`` as the line 0. Booleans stay lenient: clients' capabilities are sloppy.
    """
    converter = default_converter()
    for kind, hook in ((int, _structure_integer), (float, _structure_number), (str, _structure_string)):
        converter.register_structure_hook(kind, hook)
    # Classes derived from these would take their hooks.
    converter.register_structure_hook(bool, lambda value, _: bool(value))
    for kind in vars(types).values():
        if isinstance(kind, enum.EnumMeta):
            converter.register_structure_hook(kind, _structure_enumeration)
    return converter


def _structure_enumeration(value: Any, kind: Any) -> Any:
    if isinstance(value, bool):
        raise TypeError("not a member")
    return kind(value)


def _structure_integer(value: Any, _: Any) -> int:
    if isinstance(value, float) and value.is_integer():  # JSON has only numbers
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("not an integer")
    return value


def _structure_number(value: Any, _: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("not a number")
    return float(value)


def _structure_string(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def _find_value(text: str, name: str) -> str | int | None:
    """Return the first value of this name, a string or an integer, in a piece of JSON; never one inside a string."""
    match = re.search(rf'(?<!\\)"{name}"\s*:\s*("(?:[^"\\]|\\.)*"|-?\d{{1,15}}(?!\d))', text)
    try:
        value = json.loads(match[1]) if match is not None else None
    except ValueError:
        return None
    return value if isinstance(value, (str, int)) else None


def _describe(error: BaseException) -> str:
    """Describe what is wrong with a message's form, without its content: the log contains no source text."""
    if isinstance(error, BaseValidationError):
        return f"{type(error).__name__} of {getattr(error.cl, '__name__', error.cl)}"
    return type(error).__name__


def catch_system_exit(
    handler: Callable[..., Coroutine[Any, Any, _Result]],
) -> Callable[..., Coroutine[Any, Any, _Result]]:
    """Wrap a handler so that a library's ``sys.exit`` in it is an error like any other, not the server's end."""

    async def guarded(*args: Any) -> _Result:
        try:
            return await handler(*args)
        except SystemExit as error:
            raise RuntimeError("a library tried to end the process") from error

    guarded.__annotations__.clear()  # pygls decides by them whether to pass the server as the first argument
    return guarded
