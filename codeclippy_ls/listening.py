"""Listen for connections without running out of descriptors, and with one line a minute in the log if too many come.

If a process has no descriptors left, asyncio tries to accept again each second and logs each failure with a traceback.
That fills the disk of a server that somebody floods with connections, and its sessions can open no file. Knows no
protocol.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
import time
from typing import Any

_PERIOD = 60.0  # seconds between two lines
# Those after which asyncio tries again.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_DEFAULT_LIMIT = 1024  # descriptors, if the system does not say
_DESCRIPTORS_PER_CONNECTION = 4  # its own, one to the engine host, and room for the files that the process opens


class ConnectionLimit:
    """The number of connections at a time, as far as descriptors allow. Belongs to the loop thread."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._open = 0
        self._limit = max(4, _read_descriptor_limit() // _DESCRIPTORS_PER_CONNECTION)
        self._last_logged = -_PERIOD

    def acquire(self) -> bool:
        """Count a new connection; return False if it is one too many."""
        if self._open >= self._limit:
            self._log_once_a_minute(f"a connection is refused, because {self._open} are open")
            return False
        self._open += 1
        return True

    def release(self) -> None:
        """Count the end of a connection."""
        self._open -= 1

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Log connections that cannot be accepted for want of descriptors without a traceback; all else as before."""

        def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if isinstance(error, OSError) and error.errno in _EXHAUSTED and "socket" in context:
                self._log_once_a_minute(f"no connection can be accepted: {error.strerror}")
            else:
                loop.default_exception_handler(context)

        loop.set_exception_handler(handle)

    def _log_once_a_minute(self, message: str) -> None:
        now = time.monotonic()
        if now - self._last_logged >= _PERIOD:
            self._last_logged = now
            self._log.warning("%s", message)


def _read_descriptor_limit() -> int:
    if sys.platform == "win32":
        return _DEFAULT_LIMIT
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else _DEFAULT_LIMIT
