"""The protocol between the host and its clients: pygls' JSON-RPC over our frames, and plain data to and from JSON.

Requests: ``handshake``, ``load``, ``submit``, ``ping``. Notifications: ``cancel`` to the host; ``delta``, ``status``
and ``failed`` from it. No text is ever logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import Any

from cattrs import Converter
from pygls.exceptions import JsonRpcException, JsonRpcMethodNotFound
from pygls.protocol import JsonRPCProtocol

from codeclippy_ls.framing import FrameError, StreamWriter, encode_frame, read_frame
from codeclippy_ls.inference.engine import ModelState, ModelStatus
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.requests import Generation, Sampling, Task
from codeclippy_ls.inference.spec import ModelSpec
from codeclippy_ls.tasks.completion import CompletionTask
from codeclippy_ls.tasks.edit import ContextDiff, EditTask
from codeclippy_ls.tasks.model_info import ModelInfo

log = logging.getLogger(__name__)

_FAILED = 1  # code of an error whose message is for the user
_INTERNAL_ERROR = -32603
_CANCELLED = -32800

JsonObject = dict[str, Any]
Notifications = Mapping[str, Callable[[JsonObject], None]]

_CONVERTER = Converter()
# The kinds of tasks, each with the type of its answers.
_TASK_KINDS: dict[str, tuple[type[Task], type[object]]] = {
    "complete": (CompletionTask, str),
    "edit": (EditTask, ContextDiff),
}


class Peer(JsonRPCProtocol):
    """One end of a connection. Belongs to the loop thread.

    Args:
        requests: coroutines that answer the other end's requests, by method.
        notifications: functions that take the other end's notifications, by method.
    """

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        requests: Mapping[str, Callable[[JsonObject], Awaitable[object]]],
        notifications: Notifications,
    ) -> None:
        super().__init__(self, Converter())  # type: ignore[arg-type]  # pygls does not use its server here
        self.frames = StreamWriter(writer)
        self.set_writer(self.frames)
        self._requests, self._notifications = requests, notifications

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Handle messages until the other end is gone."""
        try:
            while (body := await read_frame(reader)) is not None:
                self._handle_message(json.loads(body))
                await asyncio.sleep(0)
        except (FrameError, OSError) as error:
            log.info("a connection ended: %s", type(error).__name__)
        except Exception as error:  # a malformed message ends the connection
            log.warning("a connection is closed: %s", type(error).__name__)
        finally:
            self.frames.close()

    def _handle_message(self, message: object) -> None:
        if not isinstance(message, dict):
            raise ValueError("a message must be an object")
        id, method, error = message.get("id"), message.get("method"), message.get("error")
        if method is None:
            failure = _make_error(int(error["code"]), str(error["message"])) if error else None
            if id in self._request_futures:
                self._handle_response(id, message.get("result"), failure)
        elif id is not None:
            self._handle_request(id, method, message.get("params"))
        elif method in self._notifications:
            self._notifications[method](message["params"])

    def _get_handler(self, feature_name: str) -> Callable[[JsonObject], Awaitable[object]]:
        if (handler := self._requests.get(feature_name)) is None:
            raise JsonRpcMethodNotFound.of(feature_name)
        return handler

    def _send_handler_result(self, future: Future[Any], *, msg_id: str | int) -> None:
        self._request_futures.pop(msg_id, None)
        if future.cancelled():
            self._send_response(msg_id, error=_make_error(_CANCELLED, "cancelled"))
        elif isinstance(error := future.exception(), EngineError):
            self._send_response(msg_id, error=_make_error(_FAILED, str(error)))
        elif error is not None:
            log.error("a request failed", exc_info=error)
            self._send_response(msg_id, error=_make_error(_INTERNAL_ERROR, type(error).__name__))
        else:
            self._send_response(msg_id, result=future.result())

    def _send_data(self, data: object) -> None:
        # In ASCII, since UTF-8 cannot encode a lone surrogate.
        self.frames.write(encode_frame(json.dumps(data, default=self._serialize_message).encode("ascii")))

    def _report_server_error(self, error: Exception, source: object) -> None:
        log.warning("%s", type(error).__name__)


def _make_error(code: int, message: str) -> Any:
    return JsonRpcException(message, code).to_response_error()


def _encode(value: object) -> JsonObject:
    encoded: JsonObject = _CONVERTER.unstructure(value)
    return encoded


def encode_spec(spec: ModelSpec) -> JsonObject:
    """Convert a spec to JSON."""
    return _encode(spec)


def decode_spec(data: JsonObject) -> ModelSpec:
    """Read a spec from JSON."""
    return _CONVERTER.structure(data, ModelSpec)


def encode_sampling(sampling: Sampling) -> JsonObject:
    """Convert sampling parameters to JSON."""
    return _encode(sampling)


def decode_sampling(data: JsonObject) -> Sampling:
    """Read sampling parameters from JSON."""
    return _CONVERTER.structure(data, Sampling)


def encode_task(task: Task) -> JsonObject:
    """Convert a task to JSON, with its kind."""
    kind = next(kind for kind, (task_type, _) in _TASK_KINDS.items() if type(task) is task_type)
    return {"kind": kind, **_encode(task)}


def decode_task(data: JsonObject) -> Task:
    """Read a task from JSON."""
    task_type, _ = _TASK_KINDS[data["kind"]]
    return _CONVERTER.structure(data, task_type)


def encode_generation(generation: Generation) -> JsonObject:
    """Convert a generation to JSON."""
    return _encode(generation)


def decode_generation(data: JsonObject, task: Task) -> Generation:
    """Read the generation that answers a task from JSON."""
    answer_type = next(answer_type for task_type, answer_type in _TASK_KINDS.values() if type(task) is task_type)
    for candidate in data["candidates"]:
        candidate["answer"] = _CONVERTER.structure(candidate["answer"], answer_type)
    return _CONVERTER.structure(data, Generation)


def encode_status(spec: ModelSpec, status: ModelStatus) -> JsonObject:
    """Convert a spec's status to JSON."""
    return {"spec": encode_spec(spec), **_encode(status)}


def decode_status(data: JsonObject) -> tuple[ModelSpec, ModelStatus]:
    """Read a spec and its status from JSON."""
    info = _CONVERTER.structure(data["info"], ModelInfo) if data["info"] else None
    return decode_spec(data["spec"]), ModelStatus(
        ModelState(data["state"]), data["reason"], info, data.get("percentage", 0)
    )
