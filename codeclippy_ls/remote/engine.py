"""`RemoteEngine`: the engine whose models a service runs; each request is a task of the loop.

A model is ready once the service has listed it. If the service is unreachable or rejects the credentials, the models'
statuses carry the reason, and the next request after a pause asks for the list again, so that nobody has to restart
anything. An edit is tried a second time if that may help and none of its text was shown. A keystroke never is, since
the next one follows anyway. After failures, keystrokes are refused at once, without the service, for a growing while.
Belongs to the loop thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping

from codeclippy_ls.inference.client_engine import ClientEngine
from codeclippy_ls.inference.engine import ModelState, ModelStatus, StatusListener
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import FinishReason, Generation, Priority
from codeclippy_ls.inference.spec import ModelRole, ModelSpec
from codeclippy_ls.remote.endpoint import parse_endpoint, read_key
from codeclippy_ls.remote.errors import ErrorKind, RemoteError
from codeclippy_ls.remote.events import JsonObject
from codeclippy_ls.remote.generation import RemoteGeneration
from codeclippy_ls.remote.http_client import HttpClient
from codeclippy_ls.remote.models import PROPERTIES, find_properties_path, select_model
from codeclippy_ls.settings import ModelSettings
from codeclippy_ls.tasks.model_info import ModelInfo

log = logging.getLogger(__name__)

READ_TIMEOUT = 30.0  # seconds without a byte
PAUSES = (1.0, 2.0, 5.0, 15.0, 30.0)  # seconds without requests for keystrokes, after each failure in a row
_MAX_RETRY_DELAY = 10.0  # seconds that an edit waits for its second try
# HTTP statuses of services that have no list of models or do not show it to this key, or whose list fails.
_NO_LIST = frozenset({403, 404, 405, 500, 501})
# Concurrent requests; further ones wait only for those of the same priority.
_MAX_CONCURRENT = {Priority.KEYSTROKE: 4, Priority.EDIT: 2, Priority.BACKGROUND: 1}


class RemoteEngine(ClientEngine[str]):
    """One client of a service. Statuses are kept by role, since a role decides whether a model follows instructions.

    Args:
        specs: the models, by the name that requests use; only the specs' names count.
        read_timeout: seconds without a byte after which a request fails.
        pauses: seconds without requests for keystrokes, after each failure in a row.
    """

    def __init__(
        self,
        settings: ModelSettings,
        specs: Mapping[str, ModelSpec],
        on_status: StatusListener | None = None,
        read_timeout: float = READ_TIMEOUT,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        super().__init__(specs, on_status)
        self._settings = settings
        self._read_timeout, self._pauses = read_timeout, pauses
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by request id
        self._semaphores = {priority: asyncio.Semaphore(limit) for priority, limit in _MAX_CONCURRENT.items()}
        self._client: HttpClient | None = None
        self._listing: asyncio.Task[None] | None = None  # asks for the models
        self._closing: asyncio.Task[None] | None = None
        self._failures = 0  # in a row
        self._paused_until = 0.0
        self._pause_error: EngineError | None = None
        self._minimal_params: set[Priority] = set()  # whose requests go without optional fields

    def set_model(self, model: str, spec: ModelSpec) -> None:
        """Let requests for ``model`` run on another of the service's models; a service has no shipped model."""
        if spec.name:
            self._specs[model] = spec
            self._set_status(model, ModelStatus(ModelState.ABSENT))

    def close(self) -> None:
        """Cancel the requests under way and disconnect."""
        super().close()
        if self._listing is not None:
            self._listing.cancel()
        if self._client is not None:
            self._closing = asyncio.get_running_loop().create_task(self._client.close())

    def _status_key(self, model: str) -> str:
        return model

    def _refusal(self, priority: Priority) -> EngineError | None:
        error = super()._refusal(priority)
        is_paused = self._pause_error is not None and time.monotonic() < self._paused_until
        return self._pause_error if error is None and is_paused and priority is not Priority.EDIT else error

    # Requests.

    def _start(self, id: int, handle: RequestHandle) -> None:
        self._run(id, handle, self._generate)

    def _start_load(self, handle: RequestHandle) -> None:
        async def load(handle: RequestHandle) -> Generation:
            await self._ensure_models()
            return Generation(FinishReason.END)

        self._run(self._register(handle), handle, load)

    def _run(self, id: int, handle: RequestHandle, work: Callable[[RequestHandle], Awaitable[Generation]]) -> None:
        """Run the work of a request as a task that resolves its handle once, whatever happens."""

        async def run() -> None:
            try:
                handle.resolve(await work(handle))
            except EngineError as error:
                handle.resolve(error)
            except Exception as error:
                log.exception("a request to the endpoint failed")
                handle.resolve(EngineError(f"the request failed ({type(error).__name__}); see the server's log"))
            finally:
                self._handles.pop(id, None)
                self._tasks.pop(id, None)

        self._tasks[id] = asyncio.get_running_loop().create_task(run())

    def _abort(self, id: int) -> None:
        """Cancel a request's task, which closes its connections."""
        if (task := self._tasks.pop(id, None)) is not None:
            task.cancel()

    async def _generate(self, handle: RequestHandle) -> Generation:
        """Run a request; an edit has a second try if that may help and none of its text was shown."""
        async with self._semaphores[handle.priority]:
            for is_last_try in (False, True):
                generation = None
                try:
                    info = await self._model_info(handle.request.model)
                    generation = await self._make_generation(info, handle)
                    result = await self._run_with_supported_params(generation, info, handle)
                    self._on_success()
                    return result
                except RemoteError as error:
                    self._on_failure(error)
                    has_emitted = generation is not None and generation.has_emitted
                    delay = error.retry_after if error.retry_after is not None else self._pauses[0]
                    if (
                        is_last_try
                        or has_emitted
                        or handle.priority is not Priority.EDIT
                        or not error.retryable
                        or delay > _MAX_RETRY_DELAY
                    ):
                        raise
                await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    async def _run_with_supported_params(
        self, generation: RemoteGeneration, info: ModelInfo, handle: RequestHandle
    ) -> Generation:
        """Run a generation; if the service refuses it, try without optional fields, and remember if that helps.

        It is remembered by priority, since edits have one field more, the grammar.
        """
        try:
            return await generation.run()
        except RemoteError as error:
            if error.kind is not ErrorKind.REFUSED or handle.priority in self._minimal_params:
                raise
        generation = await self._make_generation(info, handle, minimal_params=True)
        result = await generation.run()
        self._minimal_params.add(handle.priority)
        return result

    async def _make_generation(
        self, info: ModelInfo, handle: RequestHandle, minimal_params: bool = False
    ) -> RemoteGeneration:
        minimal_params = minimal_params or handle.priority in self._minimal_params
        arguments = self._open_client(), info, handle, self._settings.endpoint_fim, minimal_params
        # Building the prompt takes milliseconds, most of them to look for secrets: not on the loop.
        return await asyncio.to_thread(RemoteGeneration, *arguments)

    # The service.

    async def _model_info(self, model: str) -> ModelInfo:
        """Return a model's metadata; asks the service for it if nothing is known or the model failed."""
        if self.status(model).state is not ModelState.READY:
            await self._ensure_models()
        info: ModelInfo = self.status(model).info
        return info

    async def _ensure_models(self) -> None:
        """Ask the service for its models, once for all that wait for the answer."""
        if self._listing is None or self._listing.done():
            self._listing = asyncio.get_running_loop().create_task(self._load_models())
            # Retrieve the exception even if all who waited are gone.
            self._listing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._listing)

    async def _load_models(self) -> None:
        """Ask the service for its models, and set each role's status."""
        for model in self._specs:
            if self.status(model).state is ModelState.ABSENT:
                self._set_status(model, ModelStatus(ModelState.LOADING))
        try:
            client = self._open_client()
            listed = await self._list_models(client)
            for model, spec in self._specs.items():
                for_edits_only = model == ModelRole.EDIT and bool(self._settings.edit)
                context_length = self._settings.endpoint_context_length
                info = select_model(listed, spec.name, context_length, for_edits_only, client.endpoint.url)
                self._set_status(model, ModelStatus(ModelState.READY, info=info))
        except Exception as error:
            reason = str(error) if isinstance(error, EngineError) else f"the endpoint failed ({type(error).__name__})"
            self._set_all_failed(reason)
            raise

    async def _list_models(self, client: HttpClient) -> JsonObject:
        """Return the service's list of models; an empty one if it has none, but the settings name all models."""
        try:
            listed = await client.get("/models")
            return {**listed, PROPERTIES: await self._read_properties(client, find_properties_path(listed))}
        except RemoteError as error:
            if error.status in _NO_LIST and all(spec.name for spec in self._specs.values()):
                return {}
            raise

    async def _read_properties(self, client: HttpClient, path: str) -> JsonObject:
        """Read what a service tells of its model beside the list, its control tokens among it; often nothing."""
        if not path:
            return {}
        try:
            return await client.get(path, from_root=True)
        except RemoteError as error:
            log.info("the service lists no control tokens: %s", error.kind.value)
            return {}

    def _open_client(self) -> HttpClient:
        if self._client is None:
            try:
                endpoint = parse_endpoint(self._settings.endpoint)
                key = read_key(self._settings.endpoint_key_variable, os.environ)
            except ValueError as error:
                raise RemoteError(str(error), ErrorKind.DENIED) from error
            self._client = HttpClient(endpoint, key, self._read_timeout)
        return self._client

    def _on_success(self) -> None:
        self._failures, self._pause_error, self._paused_until = 0, None, 0.0

    def _on_failure(self, error: RemoteError) -> None:
        """Pause the requests for keystrokes; if no model answers at all, show that in the statuses."""
        if error.kind in (ErrorKind.REFUSED, ErrorKind.GARBLED, ErrorKind.SLOW):
            return
        pause = self._pauses[min(self._failures, len(self._pauses) - 1)]
        self._failures += 1
        self._pause_error = error
        self._paused_until = time.monotonic() + max(pause, error.retry_after or 0.0)
        if error.permanent:
            self._set_all_failed(str(error))

    def _set_all_failed(self, reason: str) -> None:
        for model in self._specs:
            self._set_status(model, ModelStatus(ModelState.FAILED, reason))
