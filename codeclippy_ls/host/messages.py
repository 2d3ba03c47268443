"""How a host and its clients speak: pygls' JSON-RPC over our frames, and plain data to and from JSON.

Requests: ``hello``, ``prepare``, ``submit``, ``ping``; notifications: ``cancel`` to the host, ``delta``, ``status`` and
``failed`` from it. No text is ever logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
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

FAILED = 1  # the code of an error whose message is for the user
INTERNAL_ERROR = -32603
CANCELLED = -32800

_CONVERTER = Converter()
# Each kind of ask with what its answers are.
_ASKS: dict[str, tuple[type[Any], type[Any]]] = {"complete": (CompletionTask, str), "edit": (EditTask, ContextDiff)}


class Peer(JsonRPCProtocol):
    """One end of a connection. Belongs to the loop thread.

    Args:
        requests: coroutines that answer the other end's requests, by method.
        notifications: functions that take the other end's notifications.
    """

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        requests: Mapping[str, Callable[[Any], Any]],
        notifications: Mapping[str, Callable[[Any], None]],
    ) -> None:
        super().__init__(self, Converter())  # type: ignore[arg-type]  # it asks its server for nothing here
        self.frames = StreamWriter(writer)
        self.set_writer(self.frames)
        self._requests, self._notifications = requests, notifications

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Take messages in until the other end is gone."""
        try:
            while (body := await read_frame(reader)) is not None:
                self._take(json.loads(body))
                await asyncio.sleep(0)
        except (FrameError, OSError) as error:
            log.info("a connection ended: %s", type(error).__name__)
        except Exception as error:  # whoever sends what makes no sense is not listened to
            log.warning("a connection cannot be followed: %s", type(error).__name__)
        finally:
            self.frames.close()

    def _take(self, message: Any) -> None:
        if not isinstance(message, dict):
            raise ValueError("no message")
        id, method, error = message.get("id"), message.get("method"), message.get("error")
        if method is None:
            failure = _failure(int(error["code"]), str(error["message"])) if error else None
            if id in self._request_futures:
                self._handle_response(id, message.get("result"), failure)
        elif id is not None:
            self._handle_request(id, method, message.get("params"))
        elif method in self._notifications:
            self._notifications[method](message.get("params"))

    def _get_handler(self, feature_name: str) -> Any:
        if (handler := self._requests.get(feature_name)) is None:
            raise JsonRpcMethodNotFound.of(feature_name)
        return handler

    def _send_handler_result(self, future: Any, *, msg_id: Any) -> None:
        self._request_futures.pop(msg_id, None)
        if future.cancelled():
            self._send_response(msg_id, error=_failure(CANCELLED, "cancelled"))
        elif isinstance(error := future.exception(), EngineError):
            self._send_response(msg_id, error=_failure(FAILED, str(error)))
        elif error is not None:
            log.error("a request failed", exc_info=error)
            self._send_response(msg_id, error=_failure(INTERNAL_ERROR, type(error).__name__))
        else:
            self._send_response(msg_id, result=future.result())

    def _send_data(self, data: Any) -> None:
        # In ASCII, so that half a character, which is no UTF-8, comes over as it is.
        self.frames.write(encode_frame(json.dumps(data, default=self._serialize_message).encode("ascii")))

    def _report_server_error(self, error: Exception, source: Any) -> None:
        log.warning("%s", type(error).__name__)


def _failure(code: int, message: str) -> Any:
    return JsonRpcException(message, code).to_response_error()


def spec_to(spec: ModelSpec) -> Any:
    """A spec as JSON."""
    return _CONVERTER.unstructure(spec)


def spec_from(found: Any) -> ModelSpec:
    """A spec of JSON."""
    return _CONVERTER.structure(found, ModelSpec)


def sampling_to(sampling: Sampling) -> Any:
    """Convert sampling parameters to JSON."""
    return _CONVERTER.unstructure(sampling)


def sampling_from(found: Any) -> Sampling:
    """Read sampling parameters from JSON."""
    return _CONVERTER.structure(found, Sampling)


def ask_to(ask: Task) -> dict[str, Any]:
    """An ask as JSON, with its kind."""
    kind = next(kind for kind, (made, _) in _ASKS.items() if type(ask) is made)
    return {"kind": kind, **_CONVERTER.unstructure(ask)}


def ask_from(found: dict[str, Any]) -> Task:
    """An ask of JSON."""
    ask: Task = _CONVERTER.structure(found, _ASKS[found["kind"]][0])
    return ask


def generation_to(generation: Generation) -> Any:
    """A generation as JSON."""
    return _CONVERTER.unstructure(generation)


def generation_from(found: dict[str, Any], ask: Task) -> Generation:
    """The generation that answers an ask, of JSON."""
    answer = next(answer for made, answer in _ASKS.values() if type(ask) is made)
    for candidate in found["candidates"]:
        candidate["answer"] = _CONVERTER.structure(candidate["answer"], answer)
    return _CONVERTER.structure(found, Generation)


def status_to(spec: ModelSpec, status: ModelStatus) -> dict[str, Any]:
    """A spec's status as JSON."""
    return {"spec": spec_to(spec), **_CONVERTER.unstructure(status)}


def status_from(found: dict[str, Any]) -> tuple[ModelSpec, ModelStatus]:
    """A spec's status of JSON."""
    model = _CONVERTER.structure(found["info"], ModelInfo) if found["info"] else None
    return spec_from(found["spec"]), ModelStatus(ModelState(found["state"]), found["reason"], model)
