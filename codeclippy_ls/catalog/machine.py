"""`Machine`: memory, GPU and memory bandwidth, without torch. Bandwidth is measured once and kept in the cache.

A token of a model reads all of its weights, so the bandwidth of the memory that they are in says how long it takes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_BLOCK_BYTES = 32 << 20  # that a thread reads: more than the caches that a few cores share
_REPEATS = 4
_MAX_THREADS = 8  # as many as the decoder takes


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU that the installed torch can use.

    Attributes:
        bandwidth: bytes that can be read in a second, by its clock and bus; 0 is unknown.
    """

    name: str
    memory_bytes: int = 0
    bandwidth: float = 0.0


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine, as far as models are concerned.

    Attributes:
        memory_bytes: of the system, or what its limit leaves to us; 0 is unknown.
        bandwidth: bytes of main memory that can be read in a second; 0 is unknown.
    """

    memory_bytes: int = 0
    bandwidth: float = 0.0
    gpu: Gpu | None = None

    def describe(self) -> str:
        """Describe it to the user."""
        parts = [f"{self.memory_bytes / 2**30:.0f} GiB of memory"] if self.memory_bytes else []
        if self.gpu is not None:
            parts.append(f"{self.gpu.name} with {self.gpu.memory_bytes / 2**30:.0f} GiB")
        return ", ".join(parts) or "this machine"


def find_memory_bytes() -> int:
    """Return the bytes of memory that this process may use at most; 0 if the system does not say."""
    found = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(limit).read_text(encoding="ascii")))
    return min((size for size in found if size > 0), default=0)


def measure_bandwidth() -> float:
    """Measure how many bytes can be read in a second by half of the cores, in about 0.2 s; 0 if it cannot be done.

    The C library searches for a byte that is not there. That is as fast as memory is, and frees Python's lock.
    """
    try:
        search = (ctypes.CDLL(None) if sys.platform != "win32" else ctypes.CDLL("msvcrt")).memchr
        search.argtypes, search.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p
        num_threads = min(max(_count_cores() // 2, 2), _count_cores(), _MAX_THREADS)
        blocks = [ctypes.create_string_buffer(b"\1" * _BLOCK_BYTES, _BLOCK_BYTES) for _ in range(num_threads)]
        seconds = min(_time_search(search, blocks) for _ in range(_REPEATS))
    except (OSError, AttributeError, MemoryError, RuntimeError):
        return 0.0
    return num_threads * _BLOCK_BYTES / seconds


def _time_search(search: Any, blocks: list[Any]) -> float:
    """Return the seconds in which all threads read their blocks: of the clock, or of one after the other on one core.

    The second is what counts if other programs want the cores.
    """
    threads = [threading.Thread(target=search, args=(ctypes.addressof(block), 0, _BLOCK_BYTES)) for block in blocks]
    started, used = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(min(time.perf_counter() - started, time.process_time() - used), 1e-6)


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_gpu() -> Gpu | None:
    """Return the GPU that models would run on; ``None`` without one, or if the installed torch cannot use it.

    NVIDIA's driver is asked by its own library, as importing torch takes seconds.
    """
    if sys.platform == "darwin" and os.uname().machine == "arm64":
        return Gpu("Apple GPU", find_memory_bytes())  # with the system's memory, so of the bandwidth that is measured
    spec = find_spec("torch")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not any((Path(folder) / "lib" / name).exists() for folder in folders for name in _CUDA_LIBRARIES):
        return None
    for name in ("libnvidia-ml.so.1", "nvml.dll"):
        with contextlib.suppress(OSError, AttributeError):
            return _ask_nvml(ctypes.CDLL(name))
    return None


_CUDA_LIBRARIES = ("libtorch_cuda.so", "torch_cuda.dll")
_NVML_MEMORY_CLOCK = 2


def _ask_nvml(nvml: Any) -> Gpu | None:
    """Ask NVIDIA's library for the first GPU: two transfers in each clock, over all lines of the bus."""
    handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    memory, clock, width = (ctypes.c_ulonglong * 3)(), ctypes.c_uint(), ctypes.c_uint()
    if nvml.nvmlInit_v2():
        return None
    try:
        if nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
            return None
        nvml.nvmlDeviceGetName(handle, name, 96)
        nvml.nvmlDeviceGetMemoryInfo(handle, memory)
        nvml.nvmlDeviceGetMaxClockInfo(handle, _NVML_MEMORY_CLOCK, ctypes.byref(clock))
        nvml.nvmlDeviceGetMemoryBusWidth(handle, ctypes.byref(width))
    finally:
        nvml.nvmlShutdown()
    return Gpu(name.value.decode("utf-8", "replace"), int(memory[0]), 2e6 * clock.value * width.value / 8)
