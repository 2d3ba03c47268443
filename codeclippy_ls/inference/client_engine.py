"""`ClientEngine`: what the engines have in common whose models run outside of this process.

Requests under way, handles, superseding by key, the status table and its listener. Knows neither how requests are sent
nor who answers them. Belongs to the loop thread.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from codeclippy_ls.inference.engine import ModelState, ModelStatus, StatusListener
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import FinishReason, Priority, Request, Task
from codeclippy_ls.inference.spec import ModelSpec

StatusKey = TypeVar("StatusKey", bound=Hashable)


class ClientEngine(ABC, Generic[StatusKey]):
    """An engine that sends its requests to another program. ``StatusKey`` is what a model's status is kept by.

    Args:
        specs: the models, by the name that requests use.
        on_status: called when a model's status changes.
    """

    def __init__(self, specs: Mapping[str, ModelSpec], on_status: StatusListener | None) -> None:
        self._specs = dict(specs)
        self._on_status = on_status
        self._statuses: dict[StatusKey, ModelStatus] = {}
        self._request_ids = itertools.count(1)
        self._handles: dict[int, RequestHandle] = {}  # requests under way, by id
        self._closed = False

    @property
    def failure(self) -> str | None:
        """Usually ``None``: the other program may come back, and `load` tries again."""
        return None

    def status(self, model: str = "default") -> ModelStatus:
        """Return the current status of a model."""
        return self._get_status(self._status_key(model))

    def submit(self, request: Request, priority: Priority = Priority.KEYSTROKE) -> RequestHandle:
        """Send a request, as soon as there is somebody to send it to; a refused one is resolved at once."""
        handle = self._make_handle(request, priority)
        if request.key is not None:
            self.cancel(request.key, priority, FinishReason.SUPERSEDED)
        if (error := self._refusal(priority)) is not None:
            handle.resolve(error)
            return handle
        self._start(self._register(handle), handle)
        return handle

    def load(self, model: str = "default") -> RequestHandle:
        """Load a model, also again after a failure. The handle's generation is empty."""
        handle = self._make_handle(Request(Task(), model=model), Priority.EDIT)
        if self._closed:
            handle.resolve(_closed_error())
        else:
            self._start_load(handle)
        return handle

    def cancel(self, key: Hashable, priority: Priority, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """Cancel the requests of a priority that have this key."""
        for handle in list(self._handles.values()):
            if handle.priority is priority and handle.request.key == key:
                handle.cancel(reason)

    @abstractmethod
    def set_model(self, model: str, spec: ModelSpec) -> None:
        """Let requests for ``model`` run on another spec."""

    def close(self) -> None:
        """Cancel the requests under way and take no more."""
        self._closed = True
        for handle in list(self._handles.values()):
            handle.cancel()

    def join(self, timeout: float | None = None) -> bool:
        """Return True: no thread of this process works for this engine."""
        return True

    @abstractmethod
    def _status_key(self, model: str) -> StatusKey:
        """Return the key of a model's status."""

    @abstractmethod
    def _start(self, id: int, handle: RequestHandle) -> None:
        """Begin the work of a registered request."""

    @abstractmethod
    def _start_load(self, handle: RequestHandle) -> None:
        """Begin to load a model, and resolve the handle in the end."""

    @abstractmethod
    def _abort(self, id: int) -> None:
        """Stop the work of a request that was cancelled, and forget what is kept of it."""

    def _refusal(self, priority: Priority) -> EngineError | None:
        """Return the reason why no request of a priority is taken now."""
        return _closed_error() if self._closed else None

    def _make_handle(self, request: Request, priority: Priority) -> RequestHandle:
        return RequestHandle(request, priority, asyncio.get_running_loop(), self._on_cancel)

    def _register(self, handle: RequestHandle) -> int:
        id = next(self._request_ids)
        self._handles[id] = handle
        return id

    def _on_cancel(self, handle: RequestHandle) -> None:
        id = next((id for id, other in self._handles.items() if other is handle), None)
        if id is not None:
            del self._handles[id]
            self._abort(id)

    def _get_status(self, key: StatusKey) -> ModelStatus:
        return self._statuses.get(key, ModelStatus(ModelState.ABSENT))

    def _set_status(self, key: StatusKey, status: ModelStatus) -> None:
        changed = self._get_status(key) != status
        self._statuses[key] = status
        if changed and self._on_status is not None:
            for model in list(self._specs):
                if self._status_key(model) == key:
                    self._on_status(model, status)


def _closed_error() -> EngineError:
    return EngineError("the engine is closed")
