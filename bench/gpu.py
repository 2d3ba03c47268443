"""The decoder's speed on one GPU, at the model families' dimensions, in one command of under ten minutes.

    python -m bench.gpu [--sizes 125M 350M ...] [--seconds 540] [--device cuda]

The weights are random, made on the device in bfloat16: only times count. Next to each figure is the hardware's limit,
measured in the same run: decoding a token cannot take less than reading the weights at the rate of a copy, a prompt not
less than its products at the rate of a large matrix product. ``eager`` is a token without CUDA graphs, ``generate`` a
keystroke by transformers' own, if it is installed, for the smaller sizes. A keystroke is 256 new tokens of prompt and
16 decoded ones. Needs torch, and nothing of the project but ``bench`` and ``codeclippy_ls.engine``.
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

PROMPT, NEW_PROMPT, DECODED = 512, 256, 16  # tokens
VERIFIED, BATCHES = (1, 2, 4, 8, 16, 32, 64), (1, 2, 4, 8)


def make_codegen(hidden_size: int, num_layers: int, num_heads: int) -> dict[str, Any]:
    """Make a CodeGen configuration."""
    return {
        "model_type": "codegen",
        "vocab_size": 51200,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "n_inner": None,
        "rotary_dim": min(64, hidden_size // num_heads),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    }


SIZES: dict[str, dict[str, Any]] = {
    "toy": make_codegen(64, 2, 4),
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
    "350M": make_codegen(1024, 20, 16),
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
    "2B": make_codegen(2560, 32, 32),
    "6B": make_codegen(4096, 33, 16),
    "16B": make_codegen(6144, 34, 24),
}
SMALL = ("toy", "125M", "350M", "1.3B")  # for which generate is measured as well


def make_config(name: str) -> SimpleNamespace:
    """Make a size's configuration, as `architectures.parse_config` reads it."""
    config = SimpleNamespace(max_position_embeddings=2048, **SIZES[name])
    config.get_text_config = lambda: config
    return config


def build_decoder(name: str, device: str, formats: WeightFormats) -> Transformer:
    """Build a decoder of that size with random weights."""
    config = make_config(name)
    parsed = parse_config(config)
    assert parsed is not None, f"{name} is not supported"
    dtype = formats.dtype
    weights = {
        key: torch.randn(shape, device=device, dtype=dtype).mul_(0.02)
        for key, shape in compute_weight_shapes(parsed).items()
    }
    return Transformer(config, weights, formats)


class Clock:
    """Times calls on a device, which runs asynchronously."""

    def __init__(self, device: str) -> None:
        self._synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None

    def measure_ms(self, run: Callable[[], object], rounds: int = 7) -> float:
        """Return the median milliseconds of some rounds, after one that warms up."""
        run()
        times = []
        for _ in range(rounds):
            self._synchronize()
            started = time.perf_counter()
            run()
            self._synchronize()
            times.append(time.perf_counter() - started)
        return 1000 * statistics.median(times)


def measure_limits(clock: Clock, device: str, dtype: torch.dtype, is_small: bool) -> tuple[float, float]:
    """Return the bytes read and written per second by a copy, and the operations per second of a matrix product."""
    nbytes, size = (1 << 22, 512) if is_small else (1 << 30, 8192)
    source = torch.empty(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * nbytes / clock.measure_ms(lambda: target.copy_(source)) * 1000
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return bandwidth, 2 * size**3 / clock.measure_ms(lambda: left @ right) * 1000


def _prefill(decoder: Transformer, count: int) -> KVCache:
    cache = decoder.new_cache()
    for start in range(0, count, 256):
        decoder.forward([ModelInput([5] * min(256, count - start), cache, int(start + 256 >= count))])
    return cache


def measure_decoder(decoder: Transformer, clock: Clock) -> dict[str, Any]:
    """Return the milliseconds of everything that an editor needs."""
    cache = _prefill(decoder, PROMPT)
    copies = [cache.copy(PROMPT) for _ in range(max(BATCHES))]

    def run_pass(caches: list[KVCache], count: int) -> None:
        decoder.forward([ModelInput([5] * count, one, count) for one in caches])
        for one in caches:
            one.crop(PROMPT)

    def decode(count: int) -> None:
        token = 5
        for _ in range(count):
            token = int(decoder.forward([ModelInput([token], cache)])[0][-1].argmax())
        cache.crop(PROMPT)

    def run_keystroke() -> None:
        decoder.forward([ModelInput([5] * NEW_PROMPT, cache)])
        for _ in range(DECODED):
            int(decoder.forward([ModelInput([5], cache)])[0][-1].argmax())
        cache.crop(PROMPT)

    return {
        "token_ms": clock.measure_ms(lambda: decode(DECODED)) / DECODED,
        "prefill_ms": clock.measure_ms(lambda: _prefill(decoder, PROMPT), 3),
        "keystroke_ms": clock.measure_ms(run_keystroke, 5),
        "checked_ms": {count: clock.measure_ms(partial(run_pass, [cache], count)) for count in VERIFIED},
        "batch_ms": {count: clock.measure_ms(partial(run_pass, copies[:count], 1)) for count in BATCHES},
    }


def measure_eager(decoder: Transformer, clock: Clock) -> float:
    """Return the milliseconds of a token without CUDA graphs."""
    cache = _prefill(decoder, PROMPT)
    graph_runner, decoder.graph_runner = decoder.graph_runner, None
    try:

        def decode() -> None:
            for _ in range(DECODED):
                int(decoder.forward([ModelInput([5], cache)])[0][-1].argmax())
            cache.crop(PROMPT)

        return clock.measure_ms(decode, 3) / DECODED
    finally:
        decoder.graph_runner = graph_runner


def measure_generate(name: str, clock: Clock, device: str, dtype: torch.dtype) -> float | None:
    """Return the milliseconds of a keystroke by transformers' ``generate``; ``None`` if it is not installed."""
    try:
        from transformers import AutoModelForCausalLM, CodeGenConfig, GPTNeoConfig, GPTNeoXConfig
    except ImportError:
        return None
    kinds = {"codegen": CodeGenConfig, "gpt_neo": GPTNeoConfig, "gpt_neox": GPTNeoXConfig}
    options = {key: value for key, value in SIZES[name].items() if key not in ("model_type", "attention_layers")}
    options["n_positions" if SIZES[name]["model_type"] == "codegen" else "max_position_embeddings"] = 2048
    with torch.device(device):
        module = AutoModelForCausalLM.from_config(kinds[SIZES[name]["model_type"]](**options), dtype=dtype).eval()
    ids = torch.full((1, PROMPT + NEW_PROMPT), 5, device=device)

    def run_keystroke() -> None:
        module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=DECODED,
            min_new_tokens=DECODED,
            do_sample=False,
            pad_token_id=0,
        )

    return clock.measure_ms(run_keystroke, 2)


def measure_size(
    name: str, clock: Clock, device: str, formats: WeightFormats, bandwidth: float, peak: float
) -> dict[str, Any]:
    """Return one size's figures with their limits."""
    decoder = build_decoder(name, device, formats)
    found = measure_decoder(decoder, clock)
    found["parameters"], found["bytes"] = decoder.num_parameters, decoder.nbytes
    found["passes"] = str(decoder.graph_runner or "eager")
    found["eager_token_ms"] = measure_eager(decoder, clock)
    # Of the embedding one row is read, unless it is the LM head as well.
    table = 0 if SIZES[name]["tie_word_embeddings"] else decoder.vocab_size * SIZES[name]["hidden_size"]
    found["token_limit_ms"] = 1000 * (decoder.nbytes - table * formats.dtype.itemsize) / bandwidth
    found["prefill_limit_ms"] = 1000 * 2 * decoder.num_parameters * PROMPT / peak
    found["token_ratio"] = found["token_ms"] / found["token_limit_ms"]
    found["prefill_ratio"] = found["prefill_ms"] / found["prefill_limit_ms"]
    del decoder
    gc.collect()
    if name in SMALL:
        found["generate_ms"] = measure_generate(name, clock, device, formats.dtype)
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[name for name in SIZES if name != "toy"])
    parser.add_argument("--seconds", type=float, default=540, help="time after which no further size is started")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    started = time.monotonic()
    cuda = options.device.startswith("cuda")
    formats = WeightFormats("bfloat16", "bfloat16") if cuda else WeightFormats("float32", "float32")
    clock = Clock(options.device)
    bandwidth, peak = measure_limits(clock, options.device, formats.dtype, not cuda)
    machine = torch.cuda.get_device_name() if cuda else "CPU"
    print(
        f"{machine}, torch {torch.__version__}, {formats}: {bandwidth / 1e9:.0f} GB/s copied, {peak / 1e12:.1f} TFLOP/s"
    )
    print(
        f"{'size':>6} {'token':>8} {'limit':>8} {'ratio':>6} {'eager':>8} {'prefill':>9} {'limit':>8} {'ratio':>6} "
        f"{'keystroke':>10} {'generate':>9}"
    )
    found: dict[str, Any] = {}
    for name in options.sizes:
        if time.monotonic() - started > options.seconds:
            print(f"{name:>6} skipped: the time is up")
            continue
        one = found[name] = measure_size(name, clock, options.device, formats, bandwidth, peak)
        generate = f"{one['generate_ms']:9.1f}" if one.get("generate_ms") else f"{'-':>9}"
        print(
            f"{name:>6} {one['token_ms']:8.2f} {one['token_limit_ms']:8.2f} {one['token_ratio']:6.1f} "
            f"{one['eager_token_ms']:8.2f} {one['prefill_ms']:9.1f} {one['prefill_limit_ms']:8.1f} "
            f"{one['prefill_ratio']:6.1f} {one['keystroke_ms']:10.1f} {generate}   passes: {one['passes']}",
            flush=True,
        )
    print(json.dumps({"machine": machine, "copied": bandwidth, "multiplied": peak, "sizes": found}))


if __name__ == "__main__":
    main()
