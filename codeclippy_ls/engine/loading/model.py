"""`Model`: a causal language model with its tokenizer, and the `Runner` protocol of its implementations.

Knows token ids only. Belongs to the engine thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch

from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.drafting import PassCost
from codeclippy_ls.engine.generation.kv_cache import KVCache, ModelInput
from codeclippy_ls.engine.generation.threads import ThreadCountTuner
from codeclippy_ls.engine.loading.measurements import SpeedMeter
from codeclippy_ls.engine.loading.tokenizer import Tokenizer
from codeclippy_ls.engine.loading.transformers_module import ModuleRunner
from codeclippy_ls.inference.errors import NonFiniteError
from codeclippy_ls.inference.speed import Speed


class Runner(Protocol):
    """Runs tokens through weights: `Transformer` or `ModuleRunner`.

    Attributes:
        architecture: transformers' ``model_type``.
        context_length: maximum number of tokens of prompt and output together.
        vocab_size: number of ids that can be both read and generated.
        nbytes: memory of the weights.
        dtype: the number format, as text.
    """

    architecture: str
    context_length: int
    vocab_size: int
    num_parameters: int
    nbytes: int
    device: torch.device
    dtype: str

    def new_cache(self) -> KVCache:
        """Create an empty KV cache."""

    def forward(self, inputs: Sequence[ModelInput]) -> list[torch.Tensor]:
        """Return each input's logits: (num_logits, vocab_size), float32, on the CPU."""


class Model:
    """A causal language model with its tokenizer.

    Attributes:
        name: the folder or hub name from the settings; empty is the shipped model.
        chat: the chat template's text before and after a user's message; ``None`` without a template.
        stop_token_ids: ids that end a text, from the checkpoint's configuration.
        pass_cost: cost of a pass over n tokens, in passes over one.
        speed: of prompts and tokens, as measured when it was loaded.
        thread_tuner: chooses the number of CPU threads of a pass.
        module: transformers' module, if that runs the model.
        architecture, context_length, num_parameters, nbytes, device, dtype: the runner's.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        name: str,
        chat: tuple[str, str] | None = None,
        stop_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.runner = runner
        self.tokenizer = tokenizer
        self.name = name
        self.chat = chat
        self.stop_token_ids = stop_token_ids
        self.pass_cost = PassCost()
        self.speed = Speed()
        self.thread_tuner = ThreadCountTuner(torch.get_num_threads())
        self._num_layers = runner.num_layers if isinstance(runner, Transformer) else 1
        self._speed_meter: SpeedMeter | None = None
        self._on_speed: Callable[[Speed], None] = lambda speed: None
        self.module: Any = runner.module if isinstance(runner, ModuleRunner) else None
        self.architecture, self.context_length = runner.architecture, runner.context_length
        self.num_parameters, self.nbytes = runner.num_parameters, runner.nbytes
        self.device, self.dtype = runner.device, runner.dtype
        if isinstance(runner, Transformer) and runner.device.type == "cpu":
            runner.after_layer = partial(_yield_core, self.thread_tuner)

    def watch_speed(self, on_speed: Callable[[Speed], None]) -> None:
        """Call ``on_speed`` once, with the speed in use, as soon as enough passes have run."""
        self._speed_meter, self._on_speed = SpeedMeter(), on_speed

    def new_cache(self) -> KVCache:
        """Create an empty KV cache."""
        return self.runner.new_cache()

    def release_cuda_graphs(self) -> None:
        """Release the memory of captured CUDA graphs, which only make passes faster."""
        if isinstance(self.runner, Transformer) and self.runner.graph_runner is not None:
            self.runner.graph_runner.clear()

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> list[torch.Tensor]:
        """Run each input on top of its KV cache, and extend the cache.

        Args:
            inputs: of different KV caches; each has at least one token, and fits into the context length.

        Returns:
            For each input the logits of its last ``num_logits`` tokens: (num_logits, vocab_size), float32, on the CPU.

        Raises:
            NonFiniteError: the logits contain NaN or infinity.
        """
        num_tokens = sum(len(one.token_ids) for one in inputs)
        self.thread_tuner.start_pass(self._num_layers, self._estimate_cost(num_tokens))
        if torch.get_num_threads() != self.thread_tuner.count:
            torch.set_num_threads(self.thread_tuner.count)
        started, thread_started = time.perf_counter(), time.thread_time()
        outputs = self.runner.forward(inputs)
        thread_seconds = time.thread_time() - thread_started
        # A sum is finite only if every term is.
        sums = [logits.sum() for logits in outputs if len(logits)]
        if sums and not math.isfinite(float(sums[0] if len(sums) == 1 else torch.stack(sums).sum())):
            raise NonFiniteError(
                f"{self.name or 'the shipped model'} produced NaN or infinite logits; its weights are damaged: "
                "download it again or choose another model"
            )
        if self._speed_meter is not None and len(inputs) == 1:
            self._meter_speed(num_tokens, len(outputs[0]), thread_seconds)
        if len(inputs) == 1 and len(outputs[0]) == num_tokens:
            seconds = time.perf_counter() - started
            self.pass_cost.update(num_tokens, seconds)
            if num_tokens == 1:
                self.thread_tuner.update(seconds)
        return outputs

    def _meter_speed(self, num_tokens: int, num_logits: int, seconds: float) -> None:
        assert self._speed_meter is not None
        if (speed := self._speed_meter.add(num_tokens, num_logits, seconds)) is not None:
            self._speed_meter = None
            self._on_speed(speed)

    def _estimate_cost(self, num_tokens: int) -> float:
        """Estimate the time of a pass, in passes over one token."""
        if num_tokens <= PassCost.LENGTHS[-1]:
            return self.pass_cost(num_tokens)
        return (
            num_tokens * self.speed.prefill_seconds / self.speed.token_seconds if self.speed.token_seconds else math.inf
        )


def _yield_core(tuner: ThreadCountTuner) -> None:
    """Run the rest of a pass with one thread if others want the cores."""
    if tuner.finish_layer():
        torch.set_num_threads(1)
