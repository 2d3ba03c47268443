"""A recorder that needs no GPU: like a CUDA graph it repeats the same operations over the same memory, whatever the
Python code around them would do now, and refuses what a graph cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")


class Tape(TorchDispatchMode):
    """The operations of a function, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in str(func) for word in WAITS):
            raise RuntimeError(f"{func} waits for the device")
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    def replay(self) -> None:
        """All operations once more; what they make takes the place of what they made before."""
        now: dict[int, Any] = {}

        def mapped(value: Any) -> Any:
            return now.get(id(value), value) if isinstance(value, torch.Tensor) else value

        for func, args, kwargs, found in self.calls:
            again = func(*tree_map(mapped, args), **tree_map(mapped, kwargs))
            pairs = zip(found, again, strict=True) if isinstance(found, (tuple, list)) else [(found, again)]
            now.update({id(old): new for old, new in pairs if isinstance(old, torch.Tensor)})


def taped(run: Callable[[], None]) -> Callable[[], None]:
    """As `engine.graphs.Record`."""
    tape = Tape()
    with tape:
        run()
    return tape.replay
