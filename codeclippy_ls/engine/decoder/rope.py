"""Scaled rotary frequencies: how models with long contexts turn slower than their base says.

The formulas are those of transformers' ``modeling_rope_utils``, its reference for each type. Pure; knows no tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Difference of a rotary embedding from that of its base alone.

    Attributes:
        divisors: of the frequencies, (rotary_dim / 2,); empty if they stay.
        amplitude: factor of cosine and sine.
        max_length: tokens up to which this holds; 0 for any number.
    """

    divisors: tuple[float, ...] = ()
    amplitude: float = 1.0
    max_length: int = 0


def parse_rope_scaling(rope: Mapping[str, Any], rotary_dim: int, context_length: int) -> RopeScaling:
    """Parse a configuration's ``rope_parameters``.

    Raises:
        KeyError: the type is unknown, or a parameter is missing.
        TypeError, ValueError, ZeroDivisionError: a parameter has no usable value.
    """
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return RopeScaling()
    base, pairs = float(rope["rope_theta"]), rotary_dim // 2
    frequencies = [base ** (-2 * pair / rotary_dim) for pair in range(pairs)]
    scaling = _KINDS[kind](rope, frequencies, context_length)
    if len(scaling.divisors) != pairs or not all(divisor > 0 for divisor in scaling.divisors):
        raise ValueError("each frequency needs a divisor")
    return scaling


def _scale_linearly(rope: Mapping[str, Any], frequencies: list[float], context_length: int) -> RopeScaling:
    return RopeScaling((float(rope["factor"]),) * len(frequencies))


def _scale_as_llama3(rope: Mapping[str, Any], frequencies: list[float], context_length: int) -> RopeScaling:
    """Slow down only what turns less than ``high_freq_factor`` times within the original context."""
    factor, low, high = float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original = float(rope["original_max_position_embeddings"])
    divisors = []
    for frequency in frequencies:
        turns = original * frequency / (2 * math.pi)
        share = min(max((turns - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / ((1 - share) / factor + share))
    return RopeScaling(tuple(divisors))


def _scale_by_yarn(rope: Mapping[str, Any], frequencies: list[float], context_length: int) -> RopeScaling:
    if rope.get("mscale") or rope.get("mscale_all_dim"):
        raise ValueError("scales of DeepSeek's own")
    original = float(rope["original_max_position_embeddings"])
    factor, size = float(rope["factor"]), 2 * len(frequencies)
    base = float(rope["rope_theta"])

    def find_dimension(turns: float) -> float:
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = find_dimension(rope.get("beta_fast") or 32), find_dimension(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    divisors = []
    for pair in range(len(frequencies)):
        share = min(max((pair - low) / ((high - low) or 0.001), 0.0), 1.0)  # of the slowed frequency
        divisors.append(1 / (share / factor + 1 - share))
    amplitude = rope.get("attention_factor")
    if amplitude is None:
        amplitude = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    return RopeScaling(tuple(divisors), float(amplitude))


def _scale_by_longrope(rope: Mapping[str, Any], frequencies: list[float], context_length: int) -> RopeScaling:
    """Take the divisors for texts within the original context: those for longer ones would change all keys."""
    original = int(rope["original_max_position_embeddings"])
    short, long = (tuple(float(value) for value in rope[name]) for name in ("short_factor", "long_factor"))
    amplitude = rope.get("attention_factor")
    if amplitude is None:
        factor = rope.get("factor") or context_length / original
        amplitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return RopeScaling(short, float(amplitude), 0 if short == long else original)


_KINDS: dict[str, Callable[[Mapping[str, Any], list[float], int], RopeScaling]] = {
    "linear": _scale_linearly,
    "llama3": _scale_as_llama3,
    "yarn": _scale_by_yarn,
    "longrope": _scale_by_longrope,
}
ROPE_TYPES = frozenset({"default", *_KINDS})
