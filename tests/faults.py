"""Faults of an engine, by name: in a step, or in a model that the real worker runs.

Imports torch only for faults in a model.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import Generation
from tests import checkpoints

if TYPE_CHECKING:
    from torch import Tensor

    from codeclippy_ls.engine.generation.kv_cache import ModelInput
    from codeclippy_ls.engine.worker import ModelWorker

FLOOD_DELTAS = 5_000  # number of pieces of text that `flood` emits


def sleep(handle: RequestHandle) -> Iterator[Generation | None]:
    """Take a long step, during which nothing can be cancelled."""
    time.sleep(0.2)
    yield None


def hang(handle: RequestHandle) -> Iterator[Generation | None]:
    """Hang in a step."""
    time.sleep(600)
    yield None


def error(handle: RequestHandle) -> Iterator[Generation | None]:
    """Raise an exception."""
    yield None
    raise RuntimeError("a fault that the test asked for")


def leave(handle: RequestHandle) -> Iterator[Generation | None]:
    """Raise SystemExit, as a library does that ends the process."""
    yield None
    raise SystemExit("a library exits")


def die(handle: RequestHandle) -> Iterator[Generation | None]:
    """End the process at once."""
    yield None
    os._exit(9)


def flood(handle: RequestHandle) -> Iterator[Generation | None]:
    """Emit a great number of deltas, each a line, and as many log messages."""
    for number in range(FLOOD_DELTAS):
        handle.emit(f"line {number}\n")
        logging.getLogger("codeclippy_ls").warning("a flood of messages: %s", number)
        if number % 1000 == 0:
            yield None


def stray(handle: RequestHandle) -> Iterator[Generation | None]:
    """Write to stdout from Python, through the file descriptor, and from a child process."""
    for _ in range(20):
        print("stray print", flush=True)
        os.write(1, b"Content-Length: 9\r\n\r\nstray\xff\n")
    os.system("echo stray child; head -c 100")
    yield None


def ask(handle: RequestHandle) -> Iterator[Generation | None]:
    """Ask a question on stdin, as a library does before it runs a checkpoint's code."""
    try:
        answer = input("may I? ")
    except EOFError:
        answer = ""
    assert not answer, "it read a message of the client"
    yield None


STEP_FAULTS: dict[str, Callable[[RequestHandle], Iterator[Generation | None]]] = {
    "sleep": sleep,
    "hang": hang,
    "error": error,
    "leave": leave,
    "die": die,
    "flood": flood,
    "stray": stray,
    "ask": ask,
}
MODEL_FAULTS = ("memory", "device", "nan", "endless")


def faulty_worker(fault: str) -> ModelWorker:
    """Make a worker of which every model has a fault."""
    import torch

    from codeclippy_ls.engine.generation.kv_cache import PrefixCache
    from codeclippy_ls.engine.loading.model import Model
    from codeclippy_ls.engine.loading.tokenizer import Tokenizer
    from codeclippy_ls.engine.worker import ModelWorker

    class CountingKVCache:
        """A KV cache that stores nothing but its length."""

        length = nbytes = 0

        def crop(self, length: int) -> None:
            self.length = length

        def copy(self, length: int) -> CountingKVCache:
            return self

    class FaultyRunner:
        """Fails, or never generates a stop token."""

        architecture, context_length, vocab_size, num_parameters, nbytes = "gpt_neo", 2048, checkpoints.VOCAB_SIZE, 0, 0
        device, dtype = torch.device("cpu"), "float32"
        new_cache = CountingKVCache

        def forward(self, inputs: Sequence[ModelInput]) -> list[Tensor]:
            if fault == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if fault == "device":
                raise torch.AcceleratorError("CUDA error: device-side assert triggered\nmore of it")
            outputs = [torch.full((model_input.num_logits, self.vocab_size), float("nan")) for model_input in inputs]
            if fault == "endless":
                for logits in outputs:
                    logits.zero_()[:, 40 + time.monotonic_ns() % 60] = 9.0  # a letter, a different one each time
            return outputs

    class FaultyWorker(ModelWorker):
        def __init__(self) -> None:
            super().__init__()
            model = Model(FaultyRunner(), Tokenizer(checkpoints.make_tokenizer_json()), "faulty")
            self._models = {name: (model, PrefixCache(0)) for name in ("complete", "edit")}

    return FaultyWorker()
