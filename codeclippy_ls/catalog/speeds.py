"""The time of a token on this machine: as measured when a model was loaded, or estimated from what is known.

Both are kept in one file of the user's cache: the memory's bandwidth, measured once, and the speed of each model at its
best load. The file is only a help: what cannot be read is measured again, what cannot be written is not kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codeclippy_ls.catalog.machine import Machine, find_gpu, find_memory_bytes, measure_bandwidth
from codeclippy_ls.catalog.prepared_cache import find_cache_folder, identify

_MAX_RECORDS = 200
_MAX_FILE_BYTES = 1 << 20
_VERSION = 1  # of the file; another decoder may have another speed
# A pass reads at 80 % of the bandwidth (0.5 billion parameters on two cores, 10.7 of 13.2 GB/s), and has calls to make.
_SHARE_OF_BANDWIDTH, _CALL_SECONDS = 0.8, 0.001
_WEIGHT_BYTES = {"cpu": 1, "cuda": 2, "mps": 2}  # int8 on CPUs, bfloat16 or float16 on GPUs
_MIN_COMPARABLE_WEIGHTS = 100_000_000  # of a smaller model, a token's time is that of its calls


@dataclass(frozen=True, slots=True)
class RecordedSpeed:
    """A model's speed at its best load; ``num_weights`` are those that a token reads."""

    device: str
    num_weights: int
    token_seconds: float


@dataclass(frozen=True, slots=True)
class TokenTime:
    """Seconds for a token that is written; an estimate if this very model was not measured. 0 is unknown."""

    seconds: float = 0.0
    is_measured: bool = False

    def describe(self) -> str:
        """Describe it to the user, by two digits; empty if it is unknown."""
        if not self.seconds:
            return ""
        return f"{'' if self.is_measured else 'about '}{float(f'{1000 * self.seconds:.2g}'):g} ms a token"


def identify_model(path: Path) -> str:
    """Return a name for a model's file or folder as it is now.

    Raises:
        OSError: it cannot be looked up.
    """
    weights = [*path.glob("*.safetensors"), *path.glob("*.bin")] if path.is_dir() else [path]
    return identify(sorted(weights))


def record_speed(path: Path, speed: RecordedSpeed) -> None:
    """Keep a model's speed for the next list of models: the best one, as other programs only make a load slower."""
    with contextlib.suppress(OSError):
        content = _read()
        models = content["models"]
        old_device, _, old_seconds = models.pop(name := identify_model(path), ("", 0, 0.0))
        seconds = min(speed.token_seconds, old_seconds) if old_device == speed.device else speed.token_seconds
        models[name] = [speed.device, speed.num_weights, seconds]
        content["models"] = dict(list(models.items())[-_MAX_RECORDS:])
        _write(content)


class SpeedEstimator:
    """Estimates the time of a token of any model from what this machine has shown.

    Args:
        device: ``auto``, or that of the settings.
    """

    def __init__(self, device: str = "auto") -> None:
        content = _read()
        self.machine = _examine_machine(content)
        self._records = {name: RecordedSpeed(*values) for name, values in content["models"].items()}
        self.device = _resolve_device(device, self.machine)

    def estimate(self, num_weights: int, path: Path | None = None) -> TokenTime:
        """Return the time of a token of a model with so many weights; ``path`` is its file or folder if it is here."""
        own = self._find_record(path)
        if own is not None and own.device == self.device:
            return TokenTime(own.token_seconds, True)
        if not num_weights:
            return TokenTime()
        others = [
            record
            for record in self._records.values()
            if record.device == self.device and record.num_weights >= _MIN_COMPARABLE_WEIGHTS
        ]
        if others:
            nearest = min(others, key=lambda record: abs(record.num_weights - num_weights))
            return TokenTime(nearest.token_seconds * num_weights / nearest.num_weights)
        bandwidth = self.machine.bandwidth
        if self.device == "cuda" and self.machine.gpu is not None:
            bandwidth = self.machine.gpu.bandwidth
        if not bandwidth:
            return TokenTime()
        nbytes = num_weights * _WEIGHT_BYTES[self.device]
        return TokenTime(_CALL_SECONDS + nbytes / (bandwidth * _SHARE_OF_BANDWIDTH))

    def _find_record(self, path: Path | None) -> RecordedSpeed | None:
        try:
            return self._records.get(identify_model(path)) if path is not None and self._records else None
        except OSError:
            return None


def _resolve_device(device: str, machine: Machine) -> str:
    """Return ``cpu``, ``cuda`` or ``mps``, as a model would run."""
    kind = device.partition(":")[0]
    if kind in _WEIGHT_BYTES:
        return kind
    if machine.gpu is None:
        return "cpu"
    return "cuda" if machine.gpu.bandwidth else "mps"


def _examine_machine(content: Mapping[str, Any]) -> Machine:
    """Return the machine; its bandwidth is measured if it is not known yet."""
    bandwidth = content["bandwidth"]
    if not bandwidth and (bandwidth := measure_bandwidth()):
        _write({**content, "bandwidth": bandwidth})
    return Machine(find_memory_bytes(), bandwidth, find_gpu())


def _read() -> dict[str, Any]:
    """Read the file; what is not as it was written counts as unknown."""
    nothing: dict[str, Any] = {"version": _VERSION, "bandwidth": 0.0, "models": {}}
    try:
        if _find_file().stat().st_size > _MAX_FILE_BYTES:
            return nothing
        content = json.loads(_find_file().read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            return nothing
        models = {
            str(name): [str(device), int(num_weights), float(seconds)]
            for name, (device, num_weights, seconds) in content["models"].items()
            if int(num_weights) > 0 and 0 < float(seconds) < 1e4
        }
        bandwidth = float(content["bandwidth"])
        return {"version": _VERSION, "bandwidth": bandwidth if 1e8 < bandwidth < 1e14 else 0.0, "models": models}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return nothing


def _write(content: Mapping[str, Any]) -> None:
    """Replace the file by renaming a new one."""
    file = _find_file()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".speeds-")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
        Path(name).replace(file)


def _find_file() -> Path:
    return find_cache_folder() / "speeds.json"
