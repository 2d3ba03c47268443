"""`FallbackEngine`: the engine that is shared by all editors, and one of this process while that cannot be used.

Requests go to one of the two. When the shared engine cannot be reached, the models that it had are loaded here; when it
is back and has loaded them as well, requests go there again, and after a while the memory here is released. Knows
nothing of processes and models. Belongs to the loop thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Hashable, Mapping

from codeclippy_ls.inference.engine import Engine, ModelState, ModelStatus, StatusListener
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import Generation, Priority, Request, Task
from codeclippy_ls.inference.spec import ModelSpec

_KEEP_SECONDS = 60.0  # that the own engine keeps its models after the shared one is back: it may vanish again

OpenShared = Callable[[StatusListener, Callable[[bool], None]], Engine]
OpenOwn = Callable[[Mapping[str, ModelSpec], StatusListener], Engine]


class FallbackEngine:
    """Two engines; one is in use at a time.

    Args:
        specs: the models, by the name that requests use.
        open_shared: opens the preferred engine; its second argument is to be told when it cannot be used, or can again.
        open_own: opens the engine that takes its place.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        open_shared: OpenShared,
        open_own: OpenOwn,
        on_status: StatusListener | None = None,
    ) -> None:
        self._specs = dict(specs)
        self._open_own = open_own
        self._on_status = on_status
        self._is_reachable = True
        self._uses_own = False
        self._own: Engine | None = None
        self._closed_engines: list[Engine] = []
        self._loads: dict[str, list[RequestHandle]] = {}  # handles of the models that are to be loaded
        self._requests: weakref.WeakSet[RequestHandle] = weakref.WeakSet()  # to the own engine
        self._tasks: set[asyncio.Task[None]] = set()
        self._release: asyncio.Task[None] | None = None
        self.shared = open_shared(self._on_shared_status, self._on_reachable)

    @property
    def failure(self) -> str | None:
        """Reason why the engine in use can never work again."""
        return self._engine.failure

    @property
    def uses_own(self) -> bool:
        """True if requests go to the engine of this process."""
        return self._uses_own

    def status(self, model: str = "default") -> ModelStatus:
        """Return the status of a model in the engine that is in use."""
        return self._engine.status(model)

    def submit(self, request: Request, priority: Priority = Priority.KEYSTROKE) -> RequestHandle:
        """Submit a request to the engine that is in use."""
        handle = self._engine.submit(request, priority)
        if self._uses_own:
            self._requests.add(handle)
        return handle

    def load(self, model: str = "default") -> RequestHandle:
        """Load a model; if the engine is exchanged during that, the other one loads it."""
        handle = RequestHandle(Request(Task(), model=model), Priority.KEYSTROKE, asyncio.get_running_loop())
        self._loads.setdefault(model, []).append(handle)
        self._start_load(model)
        return handle

    def cancel(self, key: Hashable, priority: Priority) -> None:
        """Cancel the requests of a priority that have this key."""
        for engine in self._engines():
            engine.cancel(key, priority)

    def set_model(self, model: str, spec: ModelSpec) -> None:
        """Let requests for ``model`` run on another spec, in both engines."""
        self._specs[model] = spec
        for engine in self._engines():
            engine.set_model(model, spec)

    def close(self) -> None:
        """Close both engines."""
        for task in self._tasks:
            task.cancel()
        for handles in self._loads.values():
            for handle in handles:
                handle.cancel()
        self._loads.clear()
        for engine in self._engines():
            engine.close()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until everything that runs in this process has ended; return False after ``timeout`` seconds."""
        return all(engine.join(timeout) for engine in (*self._closed_engines, *self._engines()))

    @property
    def _engine(self) -> Engine:
        return self._own if self._uses_own and self._own is not None else self.shared

    def _engines(self) -> list[Engine]:
        return [self.shared] if self._own is None else [self.shared, self._own]

    def _run(self, work: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)
        return work

    # Loading.

    def _start_load(self, model: str) -> None:
        engine = self._engine
        handle = engine.load(model)
        self._run(asyncio.get_running_loop().create_task(self._finish_load(engine, model, handle)))

    async def _finish_load(self, engine: Engine, model: str, handle: RequestHandle) -> None:
        """Resolve the handles of a model that an engine has loaded, unless another engine is in use now."""
        outcome: Generation | EngineError
        try:
            outcome = await handle.result()
        except EngineError as error:
            outcome = error
        if engine is self._engine:
            for waiting in self._loads.pop(model, ()):
                waiting.resolve(outcome)

    # The exchange of the engines.

    def _on_reachable(self, reachable: bool) -> None:
        self._is_reachable = reachable
        if not reachable and not self._uses_own:
            self._use_own()
        elif reachable and self._uses_own:
            for model in self._specs:
                if self.status(model).state in (ModelState.READY, ModelState.LOADING):
                    self.shared.load(model)

    def _use_own(self) -> None:
        """Let the engine of this process load what the shared one had, and serve."""
        had = {model for model in self._specs if self.status(model).state in (ModelState.READY, ModelState.LOADING)}
        if self._release is not None:
            self._release.cancel()
            self._release = None
        self._uses_own = True
        if self._own is None:
            self._own = self._open_own(self._specs, self._on_own_status)
        for model in {*had, *self._loads}:
            self._start_load(model)
        self._report()

    def _use_shared(self) -> None:
        self._uses_own = False
        for model in self._loads:
            self._start_load(model)
        self._report()
        self._release = self._run(asyncio.get_running_loop().create_task(self._release_own()))

    async def _release_own(self) -> None:
        """Close the engine of this process after a while, when its last request is done."""
        await asyncio.sleep(_KEEP_SECONDS)
        for handle in list(self._requests):
            with contextlib.suppress(EngineError):
                await handle.result()
        if self._own is not None:
            self._own.close()
            self._closed_engines.append(self._own)
            self._own = None

    def _is_shared_ready(self) -> bool:
        """Return whether the shared engine has every model that the own one has."""
        return self._is_reachable and all(
            self.shared.status(model).state is ModelState.READY
            for model in self._specs
            if self.status(model).state is ModelState.READY
        )

    def _on_shared_status(self, model: str, status: ModelStatus) -> None:
        if not self._uses_own:
            self._tell(model, status)
        elif status.state is ModelState.READY and self._is_shared_ready():
            self._use_shared()

    def _on_own_status(self, model: str, status: ModelStatus) -> None:
        """Pass a status on, from any thread."""
        if self._uses_own:
            self._tell(model, status)

    def _report(self) -> None:
        for model in self._specs:
            self._tell(model, self.status(model))

    def _tell(self, model: str, status: ModelStatus) -> None:
        if self._on_status is not None:
            self._on_status(model, status)
