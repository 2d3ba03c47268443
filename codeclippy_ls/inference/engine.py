"""The `Engine` protocol: what every engine does, wherever its models run, and the state of a model in it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import Priority, Request
from codeclippy_ls.inference.spec import ModelSpec


class ModelState(enum.Enum):
    """State of one of the engine's models."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model's state.

    Attributes:
        reason: a sentence for the user if the model failed.
        info: the metadata of a model that is ready.
        percentage: how far a model that is loading for the first time has been prepared.
    """

    state: ModelState
    reason: str = ""
    info: Any = None
    percentage: int = 0


STEP_TIMEOUT = 120.0  # seconds for one step, far more than the slowest takes; loading has no limit

StatusListener = Callable[[str, ModelStatus], None]


class Engine(Protocol):
    """Runs requests on models. Used on the loop's thread."""

    @property
    def failure(self) -> str | None:
        """Reason why this engine can never work again; ``None`` while it works, or may work after `load`."""

    def status(self, model: str = "default") -> ModelStatus:
        """Return the current status of a model."""

    def submit(self, request: Request, priority: Priority = Priority.KEYSTROKE) -> RequestHandle:
        """Queue a request. Its handle is resolved exactly once, whatever happens."""

    def load(self, model: str = "default") -> RequestHandle:
        """Load a model, also again after a failure. The handle's generation is empty."""

    def cancel(self, key: Hashable, priority: Priority) -> None:
        """Cancel the waiting and running requests of a priority that have this key."""

    def set_model(self, model: str, spec: ModelSpec) -> None:
        """Let requests for ``model`` run on another spec."""

    def close(self) -> None:
        """Stop taking requests and resolve the waiting ones."""

    def join(self, timeout: float | None = None) -> bool:
        """Wait until everything that runs in this process has ended; return False after ``timeout`` seconds."""


class LocalEngine(Engine, Protocol):
    """An engine that holds models in this process."""

    @property
    def failed_model(self) -> str:
        """Name of the model that was loaded or run when the engine failed; empty if none was."""

    def unload(self, model: str) -> None:
        """Release a model's memory. The next request for it loads it again."""
