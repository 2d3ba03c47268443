"""A line on stderr that says what a subcommand waits for: loading a model takes seconds, and so does an edit.

On a terminal one line is updated and removed at the end; elsewhere each kind of work is said once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_DELAY = 0.5  # seconds: what is faster needs no word
_INTERVAL = 0.2  # seconds
_WIDTH = 78


@contextmanager
def show_progress(describe: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Show what ``describe`` returns while the block runs on a loop: the kind of work, and how far it is."""
    task = asyncio.get_running_loop().create_task(_show_repeatedly(describe))
    try:
        yield
    finally:
        task.cancel()
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


async def _show_repeatedly(describe: Callable[[], tuple[str, str]]) -> None:
    await asyncio.sleep(_DELAY)
    last = ""
    while True:
        work, detail = describe()
        if sys.stderr.isatty():
            line = f"codeclippy-ls: {work}{detail} …"[:_WIDTH]
            sys.stderr.write(f"\r\x1b[K{line}")
        elif work != last:
            sys.stderr.write(f"codeclippy-ls: {work} …\n")
        last = work
        sys.stderr.flush()
        await asyncio.sleep(_INTERVAL)
