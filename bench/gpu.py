"""What one GPU makes of the decoder, at the dimensions of the families, in one command of under ten minutes.

    python -m bench.gpu [--sizes 125M 350M ...] [--seconds 540] [--device cuda]

Random weights, made on the device in bfloat16: only times count. Beside each figure stands what the hardware allows,
measured in the same run: a token written cannot take less than reading the weights at the rate of a copy, a prompt no
less than its products at the rate of a large matrix product. ``plain`` is a token where no pass is recorded (a CUDA
graph), ``generate`` a keystroke by transformers' own, where it is installed, for the smaller sizes. A keystroke is 256
new tokens of prompt and 16 written ones. Needs torch, and nothing of the project beside ``bench`` and
``codeclippy_ls.engine``.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from codeclippy_ls.engine.decoder.architectures import compute_weight_shapes, parse_config
from codeclippy_ls.engine.decoder.linear import WeightFormats
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.kv_cache import KVCache, ModelInput

PROMPT, TYPED, WRITTEN = 512, 256, 16
CHECKED, BATCHES = (1, 2, 4, 8, 16, 32, 64), (1, 2, 4, 8)


def codegen(width: int, layers: int, heads: int) -> dict[str, Any]:
    """A CodeGen configuration."""
    return {
        "model_type": "codegen",
        "vocab_size": 51200,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "n_inner": None,
        "rotary_dim": min(64, width // heads),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    }


SIZES: dict[str, dict[str, Any]] = {
    "toy": codegen(64, 2, 4),
    "125M": {
        "model_type": "gpt_neo",
        "vocab_size": 50257,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": None,
        "window_size": 256,
        "attention_layers": ["global", "local"] * 6,
        "attention_types": [[["global", "local"], 6]],
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    },
    "350M": codegen(1024, 20, 16),
    "1.3B": {
        "model_type": "gpt_neox",
        "vocab_size": 50304,
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 8192,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    },
    "2B": codegen(2560, 32, 32),
    "6B": codegen(4096, 33, 16),
    "16B": codegen(6144, 34, 24),
}
SMALL = ("toy", "125M", "350M", "1.3B")  # of which generate is asked as well


def configuration(name: str) -> Any:
    """A size's configuration, as `layouts` reads it."""
    made = SimpleNamespace(max_position_embeddings=2048, **SIZES[name])
    made.get_text_config = lambda: made
    return made


def built(name: str, device: str, choice: WeightFormats) -> Transformer:
    """A decoder of that size over random weights."""
    config = configuration(name)
    shape = parse_config(config)
    assert shape is not None, f"no layout for {name}"
    dtype = choice.dtype
    weights = {
        key: torch.randn(form, device=device, dtype=dtype).mul_(0.02)
        for key, form in compute_weight_shapes(shape).items()
    }
    return Transformer(config, weights, choice)


class Clock:
    """Times calls on a device, which runs behind the program."""

    def __init__(self, device: str) -> None:
        self._wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None

    def milliseconds(self, run: Callable[[], object], rounds: int = 7) -> float:
        """The median of some rounds, after one that warms up."""
        run()
        times = []
        for _ in range(rounds):
            self._wait()
            started = time.perf_counter()
            run()
            self._wait()
            times.append(time.perf_counter() - started)
        return 1000 * statistics.median(times)


def limits(clock: Clock, device: str, dtype: torch.dtype, small: bool) -> tuple[float, float]:
    """Bytes read and written per second by a copy, and operations per second of a matrix product."""
    size, width = (1 << 22, 512) if small else (1 << 30, 8192)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = 2 * size / clock.milliseconds(lambda: target.copy_(source)) * 1000
    one, other = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    return copied, 2 * width**3 / clock.milliseconds(lambda: one @ other) * 1000


def _read(model: Transformer, count: int) -> KVCache:
    cache = model.new_cache()
    for start in range(0, count, 256):
        model.forward([ModelInput([5] * min(256, count - start), cache, int(start + 256 >= count))])
    return cache


def figures(model: Transformer, clock: Clock) -> dict[str, Any]:
    """Milliseconds of all that an editor asks for."""
    cache = _read(model, PROMPT)
    copies = [cache.copy(PROMPT) for _ in range(max(BATCHES))]

    def passed(caches: list[KVCache], count: int) -> None:
        model.forward([ModelInput([5] * count, one, count) for one in caches])
        for one in caches:
            one.crop(PROMPT)

    def written(rows: int) -> None:
        token = 5
        for _ in range(rows):
            token = int(model.forward([ModelInput([token], cache)])[0][-1].argmax())
        cache.crop(PROMPT)

    def keystroke() -> None:
        model.forward([ModelInput([5] * TYPED, cache)])
        for _ in range(WRITTEN):
            int(model.forward([ModelInput([5], cache)])[0][-1].argmax())
        cache.crop(PROMPT)

    return {
        "token_ms": clock.milliseconds(lambda: written(WRITTEN)) / WRITTEN,
        "prefill_ms": clock.milliseconds(lambda: _read(model, PROMPT), 3),
        "keystroke_ms": clock.milliseconds(keystroke, 5),
        "checked_ms": {count: clock.milliseconds(partial(passed, [cache], count)) for count in CHECKED},
        "batch_ms": {count: clock.milliseconds(partial(passed, copies[:count], 1)) for count in BATCHES},
    }


def unrecorded(model: Transformer, clock: Clock) -> float:
    """Milliseconds of a token where each operation is told to the device by itself."""
    cache = _read(model, PROMPT)
    graphs, model.graphs = model.graphs, None
    try:

        def written() -> None:
            for _ in range(WRITTEN):
                int(model.forward([ModelInput([5], cache)])[0][-1].argmax())
            cache.crop(PROMPT)

        return clock.milliseconds(written, 3) / WRITTEN
    finally:
        model.graphs = graphs


def generated(name: str, clock: Clock, device: str, dtype: torch.dtype) -> float | None:
    """Milliseconds of a keystroke by transformers' ``generate``; ``None`` where it is not to be had."""
    try:
        from transformers import AutoModelForCausalLM, CodeGenConfig, GPTNeoConfig, GPTNeoXConfig
    except ImportError:
        return None
    kinds = {"codegen": CodeGenConfig, "gpt_neo": GPTNeoConfig, "gpt_neox": GPTNeoXConfig}
    options = {key: value for key, value in SIZES[name].items() if key not in ("model_type", "attention_layers")}
    options["n_positions" if SIZES[name]["model_type"] == "codegen" else "max_position_embeddings"] = 2048
    with torch.device(device):
        made = AutoModelForCausalLM.from_config(kinds[SIZES[name]["model_type"]](**options), dtype=dtype).eval()
    ids = torch.full((1, PROMPT + TYPED), 5, device=device)

    def keystroke() -> None:
        made.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=WRITTEN,
            min_new_tokens=WRITTEN,
            do_sample=False,
            pad_token_id=0,
        )

    return clock.milliseconds(keystroke, 2)


def row(
    name: str, clock: Clock, device: str, choice: WeightFormats, copied: float, multiplied: float
) -> dict[str, Any]:
    """One size's figures with their limits."""
    model = built(name, device, choice)
    found = figures(model, clock)
    found["parameters"], found["bytes"] = model.num_parameters, model.nbytes
    found["passes"] = str(model.graphs or "as they are")
    found["plain_token_ms"] = unrecorded(model, clock)
    # Of the embedding one row is read, unless it is the head as well.
    table = 0 if SIZES[name]["tie_word_embeddings"] else model.vocab_size * SIZES[name]["hidden_size"]
    found["token_limit_ms"] = 1000 * (model.nbytes - table * choice.dtype.itemsize) / copied
    found["prefill_limit_ms"] = 1000 * 2 * model.num_parameters * PROMPT / multiplied
    found["token_ratio"] = found["token_ms"] / found["token_limit_ms"]
    found["prefill_ratio"] = found["prefill_ms"] / found["prefill_limit_ms"]
    del model
    gc.collect()
    if name in SMALL:
        found["generate_ms"] = generated(name, clock, device, choice.dtype)
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[name for name in SIZES if name != "toy"])
    parser.add_argument("--seconds", type=float, default=540, help="no size is begun after so many")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    started = time.monotonic()
    cuda = options.device.startswith("cuda")
    choice = WeightFormats("bfloat16", "bfloat16") if cuda else WeightFormats("float32", "float32")
    clock = Clock(options.device)
    copied, multiplied = limits(clock, options.device, choice.dtype, not cuda)
    machine = torch.cuda.get_device_name() if cuda else "CPU"
    print(
        f"{machine}, torch {torch.__version__}, {choice}: {copied / 1e9:.0f} GB/s copied, "
        f"{multiplied / 1e12:.1f} TFLOP/s"
    )
    print(
        f"{'size':>6} {'token':>8} {'limit':>8} {'ratio':>6} {'plain':>8} {'prefill':>9} {'limit':>8} {'ratio':>6} "
        f"{'keystroke':>10} {'generate':>9}"
    )
    found: dict[str, Any] = {}
    for name in options.sizes:
        if time.monotonic() - started > options.seconds:
            print(f"{name:>6} left out: the time is up")
            continue
        one = found[name] = row(name, clock, options.device, choice, copied, multiplied)
        slow = f"{one['generate_ms']:9.1f}" if one.get("generate_ms") else f"{'-':>9}"
        print(
            f"{name:>6} {one['token_ms']:8.2f} {one['token_limit_ms']:8.2f} {one['token_ratio']:6.1f} "
            f"{one['plain_token_ms']:8.2f} {one['prefill_ms']:9.1f} {one['prefill_limit_ms']:8.1f} "
            f"{one['prefill_ratio']:6.1f} {one['keystroke_ms']:10.1f} {slow}   passes: {one['passes']}",
            flush=True,
        )
    print(json.dumps({"machine": machine, "copied": copied, "multiplied": multiplied, "sizes": found}))


if __name__ == "__main__":
    main()
