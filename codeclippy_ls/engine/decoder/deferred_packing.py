"""Pack the layers of a model in the background, after it has begun to work: see `linear.Int8Linear`.

The thread runs at a lower priority where the system has one for threads, and ends when the model is released or the
main thread has ended: torch aborts a process that exits while one of its threads runs. Packing lets other threads run,
and changes no result.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress

from codeclippy_ls.engine.decoder.linear import Int8Linear

PACKING_THREAD = "codeclippy-pack"
_NICENESS = 10


def start_packing(layers: Sequence[Int8Linear]) -> threading.Thread | None:
    """Pack layers on a thread of their own; return it, or ``None`` if there are none."""
    if not layers:
        return None
    # The LM head first: it is in memory twice while it is packed, and by then the others have not been read yet.
    largest = max(layers, key=lambda layer: layer.nbytes)
    references = [weakref.ref(layer) for layer in (largest, *layers)]  # packing it again does nothing
    thread = threading.Thread(target=_pack, args=(references,), name=PACKING_THREAD, daemon=False)
    thread.start()
    return thread


def _pack(references: list[weakref.ref[Int8Linear]]) -> None:
    with suppress(OSError, AttributeError):  # on Linux a thread has a priority of its own
        if hasattr(os, "gettid"):
            os.setpriority(os.PRIO_PROCESS, os.gettid(), _NICENESS)
    for reference in references:
        if not threading.main_thread().is_alive():
            return
        if (layer := reference()) is not None:
            layer.pack()
            _return_free_memory()
        del layer


def _return_free_memory() -> None:
    """Return what packing has freed to the system: glibc keeps it, up to the size of the model."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
