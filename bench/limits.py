"""The maximum that this machine can do, measured in the same run as the figures that are compared with it.

Decoding a token cannot be faster than reading the weights, prefilling a prompt not faster than multiplying its
matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from codeclippy_ls.engine.decoder.linear import WeightFormats, build_linear, list_available_formats


def measure_seconds(run: Callable[[], object], min_calls: int = 3, budget: float = 0.4) -> float:
    """Return the minimum time of a call, over as many calls as fit in a budget of seconds."""
    fastest, spent = float("inf"), 0.0
    while min_calls > 0 or spent < budget:
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
        fastest, spent, min_calls = min(fastest, seconds), spent + seconds, min_calls - 1
    return fastest


def measure_bandwidth(nbytes: int) -> float:
    """Return the bytes per second when ``nbytes`` are read repeatedly by torch's threads: few ones from a cache.

    The faster of summing and of multiplying int8 matrices.
    """
    nbytes = max(1 << 20, min(nbytes, 1 << 28))
    values = torch.ones(nbytes // 4)
    rates = [values.nbytes / measure_seconds(values.sum)]
    if "int8" in list_available_formats("cpu"):
        size, formats = 1024, WeightFormats("int8", "int8")
        layers = [build_linear(torch.ones(size, size), None, formats) for _ in range(nbytes // size**2)]
        x = torch.ones(1, size)
        rates.append(len(layers) * size**2 / measure_seconds(lambda: [layer(x) for layer in layers]))
    return max(rates)


@torch.inference_mode()
def measure_peaks(tokens: int = 512, size: int = 2048) -> dict[str, float]:
    """Return the operations per second of a matrix product, by number format."""
    peaks = {}
    for name in list_available_formats("cpu"):
        layer, x = build_linear(torch.randn(size, size), None, WeightFormats(name, name)), torch.randn(tokens, size)
        peaks[name] = 2 * tokens * size**2 / measure_seconds(lambda layer=layer, x=x: layer(x))  # type: ignore[misc]
    return peaks
