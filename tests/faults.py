"""What goes wrong in engines, by name: in a step, or in a model under the engine's own code.

Nobody who names none waits for torch.
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

PIECES = 5_000  # of a flood


def sleep(ticket: RequestHandle) -> Iterator[Generation | None]:
    """A step that takes its time, in which nothing can be cancelled."""
    time.sleep(0.2)
    yield None


def hang(ticket: RequestHandle) -> Iterator[Generation | None]:
    """A step that does not end."""
    time.sleep(600)
    yield None


def error(ticket: RequestHandle) -> Iterator[Generation | None]:
    """An exception."""
    yield None
    raise RuntimeError("a fault of the test's")


def leave(ticket: RequestHandle) -> Iterator[Generation | None]:
    """A library ends the process as Python does it."""
    yield None
    raise SystemExit("a library exits")


def die(ticket: RequestHandle) -> Iterator[Generation | None]:
    """The process is no more."""
    yield None
    os._exit(9)


def flood(ticket: RequestHandle) -> Iterator[Generation | None]:
    """Text in very many pieces, each of which is a line, and as many messages to the log."""
    for number in range(PIECES):
        ticket.emit(f"line {number}\n")
        logging.getLogger("codeclippy_ls").warning("a flood of messages: %s", number)
        if number % 1000 == 0:
            yield None


def stray(ticket: RequestHandle) -> Iterator[Generation | None]:
    """Output on stdout by Python, by the descriptor, and by a program that is started."""
    for _ in range(20):
        print("stray print", flush=True)
        os.write(1, b"Content-Length: 9\r\n\r\nstray\xff\n")
    os.system("echo stray child; head -c 100")
    yield None


def ask(ticket: RequestHandle) -> Iterator[Generation | None]:
    """A question on stdin, as a library asks whether it may run a checkpoint's code."""
    try:
        answer = input("may I? ")
    except EOFError:
        answer = ""
    assert not answer, "it read what the client said"
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
    """What runs models, with one that has a fault, whatever is asked for."""
    import torch

    from codeclippy_ls.engine.generation.kv_cache import PrefixCache
    from codeclippy_ls.engine.loading.model import Model
    from codeclippy_ls.engine.loading.tokenizer import Tokenizer
    from codeclippy_ls.engine.worker import ModelWorker

    class Keys:
        """No keys; only how many there would be."""

        length = nbytes = 0

        def crop(self, length: int) -> None:
            self.length = length

        def copy(self, length: int) -> Keys:
            return self

    class Runner:
        """A model that fails, or never ends."""

        architecture, context_length, vocab_size, num_parameters, nbytes = "gpt_neo", 2048, checkpoints.VOCABULARY, 0, 0
        device, dtype, stop_token_ids = torch.device("cpu"), "float32", frozenset({0})
        new_cache = Keys

        def forward(self, inputs: Sequence[ModelInput]) -> list[Tensor]:
            if fault == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if fault == "device":
                raise torch.AcceleratorError("CUDA error: device-side assert triggered\nmore of it")
            found = [torch.full((one.num_logits, self.vocab_size), float("nan")) for one in inputs]
            if fault == "endless":
                for logits in found:
                    logits.zero_()[:, 40 + time.monotonic_ns() % 60] = 9.0  # some letter, another one each time
            return found

    class Broken(ModelWorker):
        def __init__(self) -> None:
            super().__init__()
            made = Model(Runner(), Tokenizer(checkpoints.definition()), "faulty")
            self._models = {name: (made, PrefixCache(0)) for name in ("complete", "edit")}

    return Broken()
