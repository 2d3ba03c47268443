"""A capture that needs no GPU: like a CUDA graph it repeats the same operations on the same memory, whatever the Python
code around them would do now, and refuses what a graph cannot contain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

SYNCHRONIZING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")


class Tape(TorchDispatchMode):
    """Records the operations of a function, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in str(func) for word in SYNCHRONIZING):
            raise RuntimeError(f"{func} waits for the device")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Run all operations again; each result takes the place of the recorded one."""
        replayed: dict[int, Any] = {}

        def replace(value: Any) -> Any:
            return replayed.get(id(value), value) if isinstance(value, torch.Tensor) else value

        for func, args, kwargs, result in self.calls:
            again = func(*tree_map(replace, args), **tree_map(replace, kwargs))
            pairs = zip(result, again, strict=True) if isinstance(result, (tuple, list)) else [(result, again)]
            replayed.update({id(old): new for old, new in pairs if isinstance(old, torch.Tensor)})


def capture_on_tape(run: Callable[[], None]) -> Callable[[], None]:
    """Capture a function; see `cuda_graphs.Capture`."""
    tape = Tape()
    with tape:
        run()
    return tape.replay
