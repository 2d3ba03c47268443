"""Models as the engine uses them: a checkpoint becomes a `Runner` on some device in some number format, and is tried.

A checkpoint is a folder in the Hugging Face layout, or the name of a hub repository that the user asked for. No
remote code is ever run and no free pickle is read: safetensors first, else ``torch.load(weights_only=True)``, kept as
safetensors for the next start. What `layouts` describes is run by our own decoder, straight from the files; anything
else, and what the files do not hold under the usual names, by way of transformers. Knows token ids only. Everything
here belongs to the engine thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch

from codeclippy_ls.engine.decoder.architectures import ModelConfig, parse_config
from codeclippy_ls.engine.decoder.linear import (
    FLOAT_FORMATS,
    WeightFormats,
    choose_fastest_formats,
    list_available_formats,
)
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.drafting import PassCost
from codeclippy_ls.engine.generation.kv_cache import KVCache, ModelInput
from codeclippy_ls.engine.generation.threads import ThreadCountTuner, count_cores, list_thread_counts
from codeclippy_ls.engine.loading.chat_template import read_chat_template
from codeclippy_ls.engine.loading.checkpoint import ensure_safetensors, find_checkpoint
from codeclippy_ls.engine.loading.config import (
    read_config,
    read_context_length,
    read_generation_config,
    read_stop_token_ids,
    read_transformers_config,
)
from codeclippy_ls.engine.loading.tokenizer import Tokenizer, brief, read_tokenizer
from codeclippy_ls.engine.loading.transformers_module import ModuleRunner, load_module
from codeclippy_ls.engine.loading.weights import open_if_complete
from codeclippy_ls.inference.errors import EngineError, ModelError, NonFiniteError
from codeclippy_ls.inference.spec import ModelSpec

BALANCED = "balanced"  # the device that is all GPUs together, in accelerate's word
_MEASURING = 0.08  # seconds at most for the cost of longer passes; what is left open is learned while working
_TWICE = 1_500_000_000  # parameters up to which a second form of the weights, for many tokens, is worth its memory


class Runner(Protocol):
    """Runs tokens through weights.

    Attributes:
        architecture: transformers' ``model_type``.
        context_length: the most tokens that the positions reach.
        vocab_size: how many ids can be both read and written.
        num_parameters: numbers in the weights; ``nbytes`` is the memory that they take.
        dtype: the number format, in words.
    """

    architecture: str
    context_length: int
    vocab_size: int
    num_parameters: int
    nbytes: int
    device: torch.device
    dtype: str

    def new_cache(self) -> KVCache:
        """An empty KV cache."""

    def forward(self, inputs: Sequence[ModelInput]) -> list[torch.Tensor]:
        """Return each input's logits: (num_logits, vocab_size), float32, on the CPU."""


class Model:
    """A causal language model with its tokenizer.

    Args:
        runner: what runs it, or one of transformers' modules, which then runs itself.
        stop_token_ids: where a runner does not know them.

    Attributes:
        name: the folder or hub name it was asked for by.
        stop_token_ids: ids that end a text, from the checkpoint's configuration.
        chat: what its chat template puts before and after a user's message, where it has one.
        pass_cost: cost of a pass over n tokens, in passes over one.
        module: transformers' module, where that is what runs.
        thread_tuner: chooses how many CPU threads a pass takes.
        architecture, context_length, num_parameters, nbytes, device, dtype: the runner's.
    """

    def __init__(
        self,
        runner: Any,
        tokenizer: Tokenizer,
        name: str,
        chat: tuple[str, str] | None = None,
        stop_token_ids: frozenset[int] | None = None,
    ) -> None:
        self.runner: Runner = ModuleRunner(runner, name) if isinstance(runner, torch.nn.Module) else runner
        self.tokenizer = tokenizer
        self.name = name
        self.chat = chat
        self.stop_token_ids: frozenset[int] = (
            getattr(self.runner, "stop_token_ids", frozenset()) if stop_token_ids is None else stop_token_ids
        )
        self.pass_cost = PassCost()
        self.module: Any = getattr(self.runner, "module", None)
        self.architecture, self.context_length = self.runner.architecture, self.runner.context_length
        self.num_parameters, self.nbytes = self.runner.num_parameters, self.runner.nbytes
        self.device, self.dtype = self.runner.device, self.runner.dtype
        self.thread_tuner = ThreadCountTuner(torch.get_num_threads())

    def new_cache(self) -> KVCache:
        """An empty KV cache."""
        return self.runner.new_cache()

    def spare(self) -> None:
        """Give up memory that only makes passes faster."""
        if (graph_runner := getattr(self.runner, "graph_runner", None)) is not None:
            graph_runner.clear()

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> list[torch.Tensor]:
        """Read tokens after what their caches hold, and extend these.

        Args:
            inputs: of different caches; each has a token at least, and with its cache not more than the window.

        Returns:
            For each input the logits of its last ``num_logits`` tokens: (num_logits, vocab_size), float32, on the CPU.

        Raises:
            NonFiniteError: the logits hold NaN or infinity.
        """
        if torch.get_num_threads() != self.thread_tuner.count:
            torch.set_num_threads(self.thread_tuner.count)
        started = time.perf_counter()
        found = self.runner.forward(inputs)
        # A sum is finite only if every term is.
        sums = [logits.sum() for logits in found if len(logits)]
        if sums and not math.isfinite(float(sums[0] if len(sums) == 1 else torch.stack(sums).sum())):
            raise NonFiniteError(f"{self.name or 'the shipped model'} produced NaN scores; its weights are damaged")
        if len(inputs) == 1 and len(found[0]) == len(inputs[0].token_ids):
            taken = time.perf_counter() - started
            self.pass_cost.update(len(inputs[0].token_ids), taken)
            if len(inputs[0].token_ids) == 1:
                self.thread_tuner.update(taken)
        return found


def load(spec: ModelSpec, native: bool = True) -> Model:
    """Load a checkpoint and try it on a few tokens.

    Args:
        lean: whether our own decoder runs it where it can; else transformers' module does.

    Raises:
        ModelError: it cannot be had, read or trusted; the message says which and what to do.
    """
    torch.set_num_threads(min(spec.threads, count_cores()) if spec.threads > 0 else list_thread_counts()[0])
    folder = find_checkpoint(spec.name)
    config = read_config(folder)
    device = pick_device("auto" if spec.device == BALANCED else spec.device)
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))  # of the engine's thread
    dtype = pick_dtype(spec.dtype, device)
    read_context_length(config, spec.name)  # refused before the weights are read
    ends = read_stop_token_ids(config, read_generation_config(folder).get("eos_token_id"))
    model_config = parse_config(config) if native and device.type != "mps" and spec.device != BALANCED else None
    try:
        runner: Runner = (
            _load_native(folder, config, model_config, device, pick_weight_formats(spec.dtype, device, model_config))
            if model_config
            else _load_transformers(folder, config, device, dtype, spec)
        )
        model = Model(runner, read_tokenizer(folder, runner.vocab_size), spec.name, read_chat_template(folder), ends)
        _try(model, folder)
        if spec.threads <= 0 and device.type == "cpu":
            model.thread_tuner.calibrate(measure_pass_seconds(runner, list_thread_counts()))
        _measure(model)
    except EngineError:
        raise
    except Exception as error:
        raise ModelError(f"the model in {folder} does not run on {device}: {brief(error)}") from error
    return model


def _load_native(
    folder: Path, config: Any, model_config: ModelConfig, device: torch.device, formats: WeightFormats
) -> Transformer:
    """Our own decoder: straight from the files, or over the weights of a module that is let go of then."""
    with ExitStack() as stack:
        if (stored := open_if_complete(ensure_safetensors(folder), model_config, device, stack)) is not None:
            return Transformer(config, stored, formats)
    module = load_module(folder, read_transformers_config(folder), FLOAT_FORMATS.get(formats.decode, torch.float32))
    return Transformer(config, module.to(device).state_dict(), formats)


def _load_transformers(
    folder: Path, config: Any, device: torch.device, dtype: torch.dtype, spec: ModelSpec
) -> ModuleRunner:
    if spec.dtype == "int8":
        raise ModelError(f'setting "dtype": {spec.dtype!r} cannot be used for the model in {folder}; try "auto"')
    if isinstance(config, SimpleNamespace):
        config = read_transformers_config(folder)
    if spec.device == BALANCED:
        if find_spec("accelerate") is None:
            raise ModelError(
                f'setting "device": {BALANCED!r} needs the package accelerate; install "codeclippy-ls[split]"'
            )
        return ModuleRunner(load_module(folder, config, dtype, BALANCED), spec.name)
    return ModuleRunner(load_module(folder, config, dtype).to(device), spec.name)


def _try(model: Model, folder: Path) -> None:
    """Read two tokens at once, and again by way of a cropped cache: the engine's work rests on both being the same.

    Encoders, recurrent models and models without layers load as well, and would write nonsense.
    """
    cache = model.new_cache()
    last = min(model.tokenizer.vocab_size, 4) - 1
    at_once = model.forward([ModelInput((0, 1), cache)])[0][0]
    cache.crop(1)
    model.forward([ModelInput((last,), cache)])
    cache.crop(1)
    again = model.forward([ModelInput((1,), cache)])[0][0]
    differs = float((again - at_once).norm() / ((at_once - at_once.mean()).norm() + 1e-6))
    # In float32 the two differ by less than 1e-6, without a cache by 0.1 and more; other formats round in deep models.
    if cache.length != 2 or differs > (0.01 if model.dtype == "float32" else 0.5):
        raise ModelError(
            f"the model in {folder} ({model.architecture}) does not continue a text from what it has read "
            "of it; choose a causal language model with attention"
        )


def measure_pass_seconds(runner: Runner, threads: Sequence[int]) -> dict[int, float]:
    """Seconds of a pass over one token by each number of threads, of a few passes the fastest."""
    deadline = time.perf_counter() + 3 * _MEASURING
    found: dict[int, float] = {}
    for count in threads:
        torch.set_num_threads(count)
        cache, taken = runner.new_cache(), []
        for _ in range(4):  # the first wakes them up
            started = time.perf_counter()
            runner.forward([ModelInput((1,), cache)])
            taken.append(time.perf_counter() - started)
            if time.perf_counter() > deadline and len(taken) > 1:
                break
        found[count] = min(taken[1:])
    return found


def _measure(model: Model) -> None:
    """Run passes of a few lengths, so that the first keystroke finds everything warm and the cost of drafts known."""
    deadline = time.perf_counter() + _MEASURING
    cache = model.new_cache()
    model.pass_cost = PassCost()  # the first passes of all were slow
    for tokens in PassCost.LENGTHS:
        if tokens < model.context_length:
            one = ModelInput([1] * tokens, cache, tokens)
            if time.perf_counter() > deadline:
                return
            model.runner.forward([one])
            for _ in range(2):
                cache.crop(0)
                model.forward([one])
            cache.crop(0)


def pick_device(wanted: str) -> torch.device:
    """The device asked for, or the best there is: CUDA, then MPS, then the CPU.

    Raises:
        ModelError: the device asked for is not there.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.zeros(1, device=wanted).item()
        return torch.device(wanted)
    except Exception as error:  # each backend has its own kinds, ModuleNotFoundError among them
        raise ModelError(f'setting "device": {wanted!r} cannot be used here ({brief(error)}); try "auto"') from error


def pick_weight_formats(wanted: str, device: torch.device, config: ModelConfig) -> WeightFormats:
    """The number format asked for, or the fastest here, of our own decoder.

    Raises:
        ModelError: the format does not exist, or not on this device.
    """
    if wanted == "auto":
        best = choose_fastest_formats(device.type, config.hidden_size)
        return best if config.num_parameters <= _TWICE else WeightFormats(best.decode, best.decode)
    if wanted == "int8" and wanted not in list_available_formats(device.type):
        raise ModelError(f'setting "dtype": {wanted!r} cannot be used on {device}; try "auto"')
    return WeightFormats(wanted, wanted)


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The floating format asked for, or bfloat16 where the hardware computes in it, else float32.

    Raises:
        ModelError: the name is none of float32, bfloat16, float16, int8; the last is float32 here.
    """
    if wanted != "auto":
        if wanted not in (*FLOAT_FORMATS, "int8"):
            raise ModelError(f'setting "dtype": {wanted!r} is none of auto, {", ".join(FLOAT_FORMATS)}, int8')
        return FLOAT_FORMATS.get(wanted, torch.float32)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32
