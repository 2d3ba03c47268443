"""The work of the engine thread: models with their prefix caches, and requests as iterators of steps.

Imports torch only when it is used, on the engine thread. Knows no queue and no documents.
"""

from __future__ import annotations

import gc
import importlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from codeclippy_ls.inference.errors import DeviceError, EngineError
from codeclippy_ls.inference.requests import Generation, Priority
from codeclippy_ls.inference.spec import ModelSpec

if TYPE_CHECKING:
    from codeclippy_ls.engine.generation.kv_cache import PrefixCache
    from codeclippy_ls.engine.loading.model import Model
    from codeclippy_ls.inference.handles import RequestHandle


# Two engines in one process, one for each TCP client, must not import transformers at the same time: its modules load
# parts of each other when first used, and two threads that do so find half-initialized modules.
_LOAD_LOCK = threading.Lock()
_LOAD_SECONDS = 180.0  # for importing, warming up and converting a small model
_MIN_BYTES_PER_SECOND = 5e6  # of reading and converting weights


class Worker(Protocol):
    """Loads models and runs requests. Made and used on the engine thread only.

    Attributes:
        load_deadline: time (`time.monotonic`) by which the load under way must be done, or it hangs; read by any
            thread. ``None`` while nothing is loaded, or a download may take as long as it takes.
        report: is told the share of a model that is prepared, while `load` does that for the first time.
    """

    load_deadline: float | None
    report: Callable[[float], None]

    def load(self, name: str, spec: ModelSpec) -> Any:
        """Load a model and return its metadata, as plain data.

        Raises:
            EngineError: it cannot be loaded; the message says why.
        """

    def unload(self, name: str) -> None:
        """Release a loaded model."""

    def start(self, handle: RequestHandle) -> Iterator[Generation | None]:
        """Return the request's steps: each yields ``None``, the last one the generation."""


class ModelWorker:
    """Models on this machine, each with its prefix cache.

    Args:
        cache_bytes: limit of each model's prefix cache.
        describe: collects a loaded model's metadata, as plain data; called on the engine thread.
    """

    def __init__(self, cache_bytes: int = 512 << 20, describe: Callable[[Model], Any] = lambda model: None) -> None:
        self.load_deadline: float | None = None
        self.report: Callable[[float], None] = lambda share: None
        self._cache_bytes = cache_bytes
        self._describe = describe
        self._loaded: dict[ModelSpec, tuple[Model, PrefixCache]] = {}
        self._models: dict[str, tuple[Model, PrefixCache]] = {}

    def load(self, name: str, spec: ModelSpec) -> Any:
        """Load a model, or share it if its spec is already loaded under another name."""
        with _LOAD_LOCK:
            _import_loader()
            from codeclippy_ls.engine.generation.kv_cache import PrefixCache
            from codeclippy_ls.engine.loading.checkpoint import find_checkpoint
            from codeclippy_ls.engine.loading.loader import load

            if spec not in self._loaded:
                self.load_deadline = time.monotonic() + _limit_seconds(find_checkpoint(spec.name))
                try:
                    self._loaded[spec] = load(spec, report=self.report), PrefixCache(self._cache_bytes)
                finally:
                    self.load_deadline = None
        self._models[name] = self._loaded[spec]
        return self._describe(self._loaded[spec][0])

    def unload(self, name: str) -> None:
        """Release a model and its prefix cache, unless another name shares them."""
        released = self._models.pop(name, None)
        if released is not None and not any(kept is released for kept in self._models.values()):
            self._loaded = {spec: kept for spec, kept in self._loaded.items() if kept is not released}
            del released
            gc.collect()
            _release_device_memory()

    def start(self, handle: RequestHandle) -> Iterator[Generation | None]:
        """Return the request's steps; out of memory, clear the caches and retry once at half the context length."""
        model, cache = self._models[handle.request.model]
        try:
            yield from self._generate(handle, model, cache, model.context_length)
        except (RuntimeError, MemoryError) as error:
            _raise_if_device_lost(error)
            if not _is_out_of_memory(error):
                raise
            self._clear_caches()
            try:
                yield from self._generate(handle, model, cache, model.context_length // 2)
            except (RuntimeError, MemoryError) as second_error:
                _raise_if_device_lost(second_error)
                self._clear_caches()
                if not _is_out_of_memory(second_error):
                    raise
                raise EngineError(
                    'out of memory; choose a smaller model, or another device by the setting "model.device"'
                ) from second_error

    def _generate(
        self, handle: RequestHandle, model: Model, cache: PrefixCache, context_length: int
    ) -> Iterator[Generation | None]:
        from codeclippy_ls.engine.generation_job import Deadline, GenerationJob

        started = time.monotonic()
        if handle.cancel_reason is not None:
            return
        try:
            prompt = handle.request.task.build_prompt(model, _limit_context(handle, model, context_length))
        except ValueError as error:  # its message is for the user
            raise EngineError(str(error)) from error
        num_tokens = len(prompt.token_ids)
        if not 0 < num_tokens < context_length:
            raise EngineError(f"the prompt has {num_tokens} tokens, but the context length is {context_length}")
        is_keystroke = handle.priority is Priority.KEYSTROKE
        budget = handle.request.sampling.seconds
        # A user who types has been waiting since the request was submitted; an edit's budget is for generating.
        budget_start = handle.submitted_at if is_keystroke else started
        deadline = Deadline(math.inf if budget is None else budget_start + budget)
        prefix = cache.acquire(prompt.token_ids, model.new_cache)
        num_cached, first_token_seconds = len(prefix.token_ids), 0.0
        job, is_consistent = GenerationJob(handle, model, prompt, prefix, deadline), True
        try:
            for _ in job.run():
                if handle.cancel_reason is not None:
                    return
                if job.is_prefilled and not first_token_seconds:
                    first_token_seconds = time.monotonic() - started
                yielded_at = time.monotonic()
                yield None
                if not is_keystroke:  # time in which other jobs ran does not count
                    deadline.at += time.monotonic() - yielded_at
        except BaseException as error:
            is_consistent = isinstance(error, GeneratorExit)  # otherwise the KV cache and the tokens may differ
            raise
        finally:
            # Keep the prefilled tokens, also of a cancelled job, and the output's: the suggestion may be accepted.
            if is_consistent:
                cache.release(prefix)
        candidates = job.make_candidates()
        yield Generation(
            candidates[0].finish_reason,
            candidates,
            prompt_tokens=num_tokens,
            cached_tokens=num_cached,
            first_token_seconds=first_token_seconds,
            seconds=time.monotonic() - started,
        )

    def _clear_caches(self) -> None:
        for model, cache in self._models.values():
            cache.clear()
            model.release_cuda_graphs()
        _release_device_memory()


def _import_loader() -> None:
    """Import the loader with torch, without collecting garbage: that takes a tenth of the 1.5 s, and finds nothing."""
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("codeclippy_ls.engine.loading.loader")
    finally:
        if is_enabled:
            gc.enable()


def _limit_context(handle: RequestHandle, model: Model, context_length: int) -> int:
    """Return the tokens of prompt and output together: what is read while somebody types must not take long."""
    if handle.priority is Priority.EDIT:
        return context_length
    return model.speed.limit_prompt(context_length)


def _limit_seconds(path: Path) -> float:
    """Return how long loading a model may take: with the slowest disk, and still some time on top of that."""
    files = path.iterdir() if path.is_dir() else iter((path,))
    size = sum(file.stat().st_size for file in files if file.is_file())
    return _LOAD_SECONDS + size / _MIN_BYTES_PER_SECOND


def _release_device_memory() -> None:
    """Return free device memory, so that other processes can use it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _raise_if_device_lost(error: BaseException) -> None:
    """Raise `DeviceError` after a device-side assert or fault: every later call in this process fails, too."""
    import torch

    if isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError):
        raise DeviceError(str(error).partition("\n")[0]) from error


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; on a CPU torch has no exception class for that."""
    import torch

    types = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, types) or "can't allocate memory" in str(error)
