"""Measurements of a prepared model on this machine, kept beside it: the next start need not measure again.

Measuring takes 1.2 s for half a billion parameters, as long as everything else of a second start. Small files in the
model's entry of the cache, one per machine and number of threads; `SpeedMeter` replaces them by what the model does in
use. Knows no models.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from codeclippy_ls.engine.generation.threads import count_cores
from codeclippy_ls.inference.speed import Speed

_MIN_CHUNK = 32  # tokens of a pass that tells how fast prompts are read
_TOKEN_PASSES, _CHUNK_PASSES = 64, 4  # until the speed in use is known
_MAX_SECONDS = 100.0  # of anything that is measured; more is nonsense


@dataclass(frozen=True, slots=True)
class Measurements:
    """Measurements of a model that works.

    Attributes:
        thread_seconds: of a pass over one token, by number of threads.
        pass_seconds: of passes over several tokens, by their number.
    """

    speed: Speed = field(default_factory=Speed)
    thread_seconds: Mapping[int, float] = field(default_factory=dict)
    pass_seconds: Mapping[int, float] = field(default_factory=dict)


def locate_measurements(entry: Path, *conditions: object) -> Path:
    """Return the file in an entry for this machine and everything else that the measurements depend on."""
    parts = (_read_processor_name(), count_cores(), torch.__version__, torch.backends.cpu.get_cpu_capability())
    digest = hashlib.sha256("\n".join(map(str, (*parts, *conditions))).encode()).hexdigest()
    return entry / f"measured-{digest[:12]}.json"


def read_measurements(path: Path) -> Measurements | None:
    """Read measurements; ``None`` if there are none, or none that can be true."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        speed = Speed(*_read_seconds(values["speed"]).values())
        threads, passes = _read_seconds(values["thread_seconds"]), _read_seconds(values["pass_seconds"])
        return Measurements(speed, _number_keys(threads), _number_keys(passes))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_measurements(path: Path, measurements: Measurements) -> None:
    """Write measurements; without them the next start measures again."""
    temporary = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(asdict(measurements)), encoding="utf-8")
        temporary.replace(path)


def _read_seconds(values: dict[str, Any]) -> dict[str, float]:
    seconds = {name: float(value) for name, value in values.items()}
    if not all(0 < value < _MAX_SECONDS for value in seconds.values()):
        raise ValueError("no times")
    return seconds


def _number_keys(values: dict[str, float]) -> dict[int, float]:
    return {int(name): value for name, value in values.items()}


def _read_processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class SpeedMeter:
    """Takes the speed of a model from the passes that it runs.

    The lower quartile counts: passes beside other programs, and behind long texts, take longer.
    """

    def __init__(self) -> None:
        self._tokens: list[float] = []
        self._chunks: list[float] = []

    def add(self, num_tokens: int, num_logits: int, seconds: float) -> Speed | None:
        """Add the time of a pass; return the speed as soon as there have been enough."""
        if num_tokens == num_logits == 1:
            self._tokens.append(seconds)
        elif num_tokens >= _MIN_CHUNK and num_logits <= 1:
            self._chunks.append(seconds / num_tokens)
        if len(self._tokens) < _TOKEN_PASSES or len(self._chunks) < _CHUNK_PASSES:
            return None
        return Speed(*(statistics.quantiles(part, n=4)[0] for part in (self._chunks, self._tokens)))
