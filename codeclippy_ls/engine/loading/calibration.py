"""Run a loaded model's first passes: check its KV cache, measure thread counts and pass costs, and warm up.

A prepared model that has worked on this machine is not run: its measurements are beside it (`measurements`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from codeclippy_ls.engine.generation.drafting import PassCost
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from codeclippy_ls.engine.generation.threads import list_thread_counts
from codeclippy_ls.engine.loading.measurements import (
    Measurements,
    locate_measurements,
    read_measurements,
    write_measurements,
)
from codeclippy_ls.engine.loading.model import Model, Runner
from codeclippy_ls.inference.errors import ModelError
from codeclippy_ls.inference.speed import Speed

_PREFILL_TOKENS = 32  # as slow as 192 but for a fifth, and done in 0.15 s by a model of 0.5 billion parameters
_WARM_UP_SECONDS = 0.08  # limit; the cost of lengths that were not measured by then is learned at run time


def calibrate(model: Model, folder: Path, entry: Path | None, threads: int) -> None:
    """Check that a model works and measure it, or read what was measured at an earlier start.

    Args:
        entry: the model's folder in the cache; ``None`` if it has none.
        threads: number of CPU threads from the settings; 0 measures which number is fastest.

    Raises:
        ModelError: it does not work with a KV cache.
    """
    is_kept = entry is not None and model.device.type == "cpu"
    path = locate_measurements(entry, model.dtype, threads) if entry is not None and is_kept else None
    known = read_measurements(path) if path is not None else None
    if known is None:
        verify_kv_cache(model, folder)
        if threads <= 0 and model.device.type == "cpu":
            counts = list_thread_counts(model.num_parameters)
            model.thread_tuner.calibrate(measure_pass_seconds(model.runner, counts))
        warm_up(model)
        model.speed = measure_speed(model)
        if path is not None:
            _keep_measurements(model, path, model.speed)
    else:
        if threads <= 0:
            model.thread_tuner.calibrate(dict(known.thread_seconds))
        model.pass_cost, model.speed = PassCost(known.pass_seconds), known.speed
    if path is not None:
        model.watch_speed(partial(_keep_measurements, model, path))


def _keep_measurements(model: Model, path: Path, speed: Speed) -> None:
    seconds = model.thread_tuner.seconds_by_count, model.pass_cost.seconds
    write_measurements(path, Measurements(speed, *seconds))


def verify_kv_cache(model: Model, folder: Path) -> None:
    """Reject a model whose logits differ between two tokens in one pass and one at a time over a cropped KV cache.

    The engine relies on these being equal. Encoders, recurrent models and models without layers can be loaded, too, but
    would generate nonsense.
    """
    kv_cache = model.new_cache()
    in_one_pass = model.forward([ModelInput((0, 1), kv_cache)])[0][0]
    kv_cache.crop(1)
    other_token = min(model.tokenizer.vocab_size, 4) - 1
    model.forward([ModelInput((other_token,), kv_cache)])
    kv_cache.crop(1)
    one_at_a_time = model.forward([ModelInput((1,), kv_cache)])[0][0]
    error = float((one_at_a_time - in_one_pass).norm() / ((in_one_pass - in_one_pass.mean()).norm() + 1e-6))
    # In float32 the error is below 1e-6, and 0.1 or more without a cache; other formats round in deep models.
    if kv_cache.length != 2 or error > (0.01 if model.dtype == "float32" else 0.5):
        raise ModelError(
            f"the model in {folder} ({model.architecture}) does not work with a KV cache; choose a causal language "
            "model with attention"
        )


def measure_pass_seconds(runner: Runner, thread_counts: Sequence[int]) -> dict[int, float]:
    """Measure a pass over one token with each number of threads: the minimum of a few passes, in seconds."""
    deadline = time.perf_counter() + 3 * _WARM_UP_SECONDS
    seconds_by_count: dict[int, float] = {}
    for count in thread_counts:
        torch.set_num_threads(count)
        kv_cache, seconds = runner.new_cache(), []
        for _ in range(4):  # the first one wakes the threads up
            started = time.perf_counter()
            runner.forward([ModelInput((1,), kv_cache)])
            seconds.append(time.perf_counter() - started)
            if time.perf_counter() > deadline and len(seconds) > 1:
                break
        seconds_by_count[count] = min(seconds[1:])
    return seconds_by_count


def measure_speed(model: Model) -> Speed:
    """Measure the seconds for a token of a prompt and for a token that is written.

    On a CPU the time of this thread counts, in which other programs do not run: the speed is chosen for good.
    """
    clock = time.thread_time if model.device.type == "cpu" else time.perf_counter
    length = min(_PREFILL_TOKENS, model.context_length - 1)
    kv_cache, prefill, token = model.new_cache(), list[float](), list[float]()
    deadline = time.perf_counter() + _WARM_UP_SECONDS
    while not prefill or (time.perf_counter() < deadline and len(prefill) < 3):
        started = clock()
        model.runner.forward([ModelInput([1] * length, kv_cache, 0)])
        prefill.append(clock() - started)
        started = clock()
        model.runner.forward([ModelInput([1], kv_cache)])
        token.append(clock() - started)
        kv_cache.crop(0)
    return Speed(min(prefill) / length, min(token))


def warm_up(model: Model) -> None:
    """Run passes of a few lengths, so that the first keystroke is fast and the cost of drafts is known."""
    deadline = time.perf_counter() + _WARM_UP_SECONDS
    kv_cache = model.new_cache()
    model.pass_cost = PassCost()  # forget `verify_kv_cache`'s passes: the very first ones are slow
    for length in PassCost.LENGTHS:
        if length < model.context_length:
            model_input = ModelInput([1] * length, kv_cache, length)
            if time.perf_counter() > deadline:
                return
            model.runner.forward([model_input])
            for _ in range(2):
                kv_cache.crop(0)
                model.forward([model_input])
            kv_cache.crop(0)
