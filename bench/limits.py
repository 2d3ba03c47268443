"""What this machine can do at most, measured in the same run as what is set beside it.

Writing a token cannot be faster than its weights are read, reading a prompt not faster than its products are
multiplied.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from codeclippy_ls.engine.decoder.linear import WeightFormats, build_linear, list_available_formats


def seconds(run: Callable[[], object], least: int = 3, budget: float = 0.4) -> float:
    """The least time of a call, over some calls within a budget."""
    best, spent = float("inf"), 0.0
    while least > 0 or spent < budget:
        started = time.perf_counter()
        run()
        took = time.perf_counter() - started
        best, spent, least = min(best, took), spent + took, least - 1
    return best


def bandwidth(nbytes: int) -> float:
    """Bytes per second at which so many bytes are read again and again, with torch's threads: small ones from a cache.

    By summing, and by multiplying with int8 matrices: whichever is faster.
    """
    nbytes = max(1 << 20, min(nbytes, 1 << 28))
    values = torch.ones(nbytes // 4)
    rates = [values.nbytes / seconds(values.sum)]
    if "int8" in list_available_formats("cpu"):
        width = 1024
        layers = [
            build_linear(torch.ones(width, width), None, WeightFormats("int8", "int8"))
            for _ in range(nbytes // width**2)
        ]
        x = torch.ones(1, width)
        rates.append(len(layers) * width**2 / seconds(lambda: [layer(x) for layer in layers]))
    return max(rates)


@torch.inference_mode()
def peaks(rows: int = 512, width: int = 2048) -> dict[str, float]:
    """Operations per second of a matrix product, by number format."""
    found = {}
    for name in list_available_formats("cpu"):
        layer, x = build_linear(torch.randn(width, width), None, WeightFormats(name, name)), torch.randn(rows, width)
        found[name] = 2 * rows * width**2 / seconds(lambda layer=layer, x=x: layer(x))  # type: ignore[misc]
    return found
