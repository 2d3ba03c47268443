"""pygls' protocol, guarded: every request is answered exactly once, whatever comes in and whatever fails.

Replaces of pygls: reading messages, the life cycle's gates, how results and errors go out, and the handlers of
document synchronisation, which lead to our own text store. Knows nothing of completion or edits.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from cattrs.errors import BaseValidationError
from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.protocol import LanguageServerProtocol, lsp_method

from codeclippy_ls.framing import FrameError, Writer, encode_frame, read_frame
from codeclippy_ls.server.edits import SCHEME
from codeclippy_ls.text import Change, Position, replace_surrogates

log = logging.getLogger(__name__)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
NOT_INITIALIZED = -32002
CANCELLED = -32800


class GuardedProtocol(LanguageServerProtocol):
    """One client's protocol. Belongs to the loop thread."""

    _server: Any  # our server: documents, client, opened, changed, closed, lost_notification

    def __init__(self, server: Any, converter: Any) -> None:
        super().__init__(server, converter)
        self.exit_code: int | None = None
        self._initializing = False

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> int:
        """Read messages until ``exit`` or the end of the stream; returns the process's exit code."""
        self.set_writer(writer)
        while self.exit_code is None:
            try:
                body = await read_frame(reader)
            except (FrameError, ConnectionError) as error:
                log.error("the client's stream cannot be read: %s", error)
                return 1
            if body is None:
                return 0 if self._shutdown else 1
            self.receive(body)
            # Let the request's handler take its snapshot before the next message, which may change the text.
            await asyncio.sleep(0)
        return self.exit_code

    def receive(self, body: bytes) -> None:
        """Take one message in. Answers what cannot be handled with an error, by id where there is one."""
        try:
            message = json.loads(body)
        except (ValueError, RecursionError) as error:
            self._refuse(None, PARSE_ERROR, f"not JSON: {error}")
            return
        if not isinstance(message, dict) or message.get("jsonrpc") != self.VERSION:
            self._refuse(None, INVALID_REQUEST, 'a message is one JSON object with "jsonrpc": "2.0"')
            return
        id, method = message.get("id"), message.get("method")
        if method is None and id is None and "error" in message:
            log.warning("the client could not read a message")  # answering an answer would never end
            return
        if "id" in message and (isinstance(id, bool) or not isinstance(id, (int, str))):
            self._refuse(None, INVALID_REQUEST, "an id is a number or a string")
        elif method is None:
            self._receive_response(message)
        elif not isinstance(method, str):
            self._refuse(id, INVALID_REQUEST, "a method is a string")
        elif "id" in message:
            self._receive_request(id, method, message)
        else:
            self._receive_notification(method, message)

    def _receive_request(self, id: Any, method: str, message: dict[str, Any]) -> None:
        if (gate := self._gate(method)) is not None:
            self._refuse(id, *gate)
        elif not self._is_known(method):
            self._refuse(id, METHOD_NOT_FOUND, f"{method} is not supported")
        elif id in self._request_futures:
            self._refuse(id, INVALID_REQUEST, "this id is in use")
        else:
            try:
                request = self._converter.structure(message, self._type_of(method))
            except Exception as error:
                log.warning("bad params for %s: %s", method, _where(error))
                self._refuse(id, INVALID_PARAMS, f"the params of {method} do not have the protocol's form")
                return
            self._initializing |= method == types.INITIALIZE
            self.handle_message(request)

    def _receive_notification(self, method: str, message: dict[str, Any]) -> None:
        if method == types.EXIT:
            self.exit_code = 0 if self._shutdown else 1
        elif self._gate(method) is None and (self._is_known(method) or method == types.CANCEL_REQUEST):
            try:
                self.handle_message(self._converter.structure(message, self._type_of(method)))
            except Exception as error:
                log.warning("bad params for %s: %s", method, _where(error))
                self._server.lost_notification(method, message.get("params"))

    def _receive_response(self, message: dict[str, Any]) -> None:
        id = message.get("id")
        future = self._request_futures.get(id) if id is not None else None
        if future is None or future.done() or id not in self._result_types:
            log.debug("a response to an unknown request")
            return
        kind = self._result_types.pop(id, None)
        error = message.get("error")
        try:
            if isinstance(error, dict):
                failure = types.ResponseError(int(error.get("code", INTERNAL_ERROR)), str(error.get("message", "")))
                self._handle_response(id, error=failure)
            else:
                self._handle_response(id, self._converter.structure(message, kind).result if kind else None)
        except Exception as problem:
            log.warning("a response that cannot be read: %s", _where(problem))
            future = self._request_futures.pop(id, None)
            if future is not None and not future.done():
                future.set_exception(JsonRpcException("the client's response cannot be read", INVALID_PARAMS))

    def _gate(self, method: str) -> tuple[int, str] | None:
        """Why a message may not be handled at this point of the life cycle."""
        if self._shutdown:
            return INVALID_REQUEST, "the server is shutting down"
        if method == types.INITIALIZE:
            return (INVALID_REQUEST, "the server is initialized already") if self._initializing else None
        return None if self._initializing else (NOT_INITIALIZED, "the server is not initialized")

    def _is_known(self, method: str) -> bool:
        return method in self.fm.builtin_features or method in self.fm.features

    def _type_of(self, method: str) -> Any:
        return self.get_message_type(method)

    def _refuse(self, id: Any, code: int, message: str) -> None:
        self._send_data({"jsonrpc": self.VERSION, "id": id, "error": {"code": code, "message": message}})

    # What pygls calls to handle and to answer.

    def _handle_notification(self, method_name: str, params: Any) -> None:
        if method_name == types.CANCEL_REQUEST:
            self._handle_cancel_notification(params.id)
            return
        key = str(uuid.uuid4())
        try:
            self._execute_handler(key, self._get_handler(method_name), partial(self._notified, key=key), (params,))
        except Exception:
            log.exception("handling %s failed", method_name)

    def _notified(self, future: Any, *, key: str) -> None:
        """Forget a notification's future, which pygls would keep for ever."""
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
            self._refuse(msg_id, *_reply(error))

    def _handle_cancel_notification(self, msg_id: Any) -> None:
        future = self._request_futures.get(msg_id)
        if future is not None:
            future.cancel()

    def _send_handler_result(self, future: Any, *, msg_id: Any) -> None:
        self._request_futures.pop(msg_id, None)
        if future.cancelled():
            self._refuse(msg_id, CANCELLED, "cancelled")
        elif (error := future.exception()) is not None:
            if not isinstance(error, JsonRpcException):
                log.error("request %r failed", msg_id, exc_info=error)
            self._refuse(msg_id, *_reply(error))
        else:
            self._send_response(msg_id, result=future.result())

    def _send_data(self, data: Any) -> None:
        if self.writer is None:
            return
        try:
            body = self._encoded(data)
        except Exception:
            log.exception("a message cannot be written as JSON")
            id = getattr(data, "id", None)
            if id is None or hasattr(data, "method"):
                return
            failure = {"code": INTERNAL_ERROR, "message": "the result cannot be written as JSON"}
            body = self._encoded({"jsonrpc": self.VERSION, "id": id, "error": failure})
        self.writer.write(encode_frame(body))

    def _encoded(self, data: Any) -> bytes:
        # NaN is no JSON, and a lone surrogate no UTF-8: clients drop a message that holds one.
        text = json.dumps(data, default=self._serialize_message, allow_nan=False, ensure_ascii=False)
        return replace_surrogates(text).encode()

    # Built-in methods of pygls that are replaced.

    @lsp_method(types.INITIALIZE)
    def lsp_initialize(self, params: types.InitializeParams) -> Generator[Any, Any, types.InitializeResult]:
        """Negotiate, and hand the position encoding to the text store."""
        result: types.InitializeResult = yield from super().lsp_initialize(params)
        capabilities = result.capabilities
        self._server.documents.encoding = getattr(
            capabilities.position_encoding, "value", capabilities.position_encoding or "utf-16"
        )
        if isinstance(capabilities.code_action_provider, types.CodeActionOptions):
            capabilities.code_action_provider.resolve_provider = self._server.client.resolves_commands
        if self._server.client.draws_ghost_text and capabilities.completion_provider is not None:
            # A list that opens at every blank would stand where the ghost text should be.
            capabilities.completion_provider.trigger_characters = None
        if self._server.client.asks_content:  # pygls does not announce this one
            capabilities.workspace = capabilities.workspace or types.WorkspaceOptions()
            capabilities.workspace.text_document_content = types.TextDocumentContentOptions(schemes=[SCHEME])
        return result

    @lsp_method(types.SHUTDOWN)
    def lsp_shutdown(self, *arguments: Any) -> Generator[Any, Any, None]:
        """Cancel what is under way, over a copy of the table: pygls fails where an answer leaves it meanwhile."""
        self._shutdown = True  # for what is read while the handler runs
        current = self.msg_id
        if (handler := self.fm.features.get(types.SHUTDOWN)) is not None:
            yield handler, arguments, None
        for id, future in list(self._request_futures.items()):
            if id != current and not future.done():
                future.cancel()

    @lsp_method(types.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: types.DidOpenTextDocumentParams) -> None:
        """Take a document in."""
        item = params.text_document
        self._server.opened(item.uri, item.text, item.version, str(item.language_id))

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> None:
        """Apply the changes, in order."""
        changes = [_change(change) for change in params.content_changes]
        self._server.changed(params.text_document.uri, params.text_document.version, changes)

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: types.DidCloseTextDocumentParams) -> None:
        """Forget a document."""
        self._server.closed(params.text_document.uri)


def _change(change: Any) -> Change:
    if (range := getattr(change, "range", None)) is None:
        return Change(change.text)
    start, end = range.start, range.end
    return Change(change.text, Position(start.line, start.character), Position(end.line, end.character))


def _reply(error: BaseException) -> tuple[int, str]:
    """Code and message for the client: short, without traceback or path."""
    if isinstance(error, JsonRpcException):
        return error.code or INTERNAL_ERROR, str(error.message or "failed")[:300]
    return INTERNAL_ERROR, f"internal error ({type(error).__name__}); see the server's log"


def _where(error: BaseException) -> str:
    """What is wrong with a message's form, without its content: a log holds no source text."""
    if isinstance(error, BaseValidationError):
        return f"{type(error).__name__} of {getattr(error.cl, '__name__', error.cl)}"
    return type(error).__name__


def survives_exit(function: Callable[..., Any]) -> Callable[..., Any]:
    """A handler in which a library's ``sys.exit`` is an error like any other rather than the server's end."""

    async def guarded(*args: Any) -> Any:
        try:
            return await function(*args)
        except SystemExit as error:
            raise RuntimeError("a library tried to end the process") from error

    return guarded
