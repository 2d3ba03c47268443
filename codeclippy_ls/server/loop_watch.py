"""`LoopWatch`: ends the process if its event loop hangs, so that the client starts another one.

Two watchers count seconds in which the loop has not turned: a thread, and the handler of an interval timer's signal,
which Python runs on the hanging thread. A pattern without an end holds the interpreter's lock, so that no thread can
run, but looks for signals; a call that waits in the system lets threads run. Seconds are counted one by one: a process
that was suspended for an hour misses one. Knows no LSP.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import sys
import threading
import traceback
from types import FrameType

log = logging.getLogger(__name__)

TICK = 1.0  # seconds
HANG_TICKS = 10  # without a turn of the loop, after which it hangs
LEFT_TICKS = 3  # the same if nobody is there any more whom the loop could serve
EXIT_CODE = 70
_LOG_SECONDS = 1.0  # for the log to take a message: stderr may be a pipe that nobody reads
_MAX_FRAMES = 30


class _Count:
    """Counts a watcher's ticks since the loop last turned."""

    def __init__(self) -> None:
        self._beats = -1
        self.missed = 0

    def tick(self, beats: int) -> int:
        self.missed = self.missed + 1 if beats == self._beats else 0
        self._beats = beats
        return self.missed


class LoopWatch:
    """Watches the running loop, which must be the main thread's, until `stop`.

    Attributes:
        client_process: id of the client's process, once it is known; the watch notices its end.
        input: descriptor of the client's messages, if they come over one; the watch notices its end.
    """

    def __init__(self) -> None:
        self.client_process: int | None = None
        self.input: int | None = None
        self._beats = 0
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._beating = asyncio.get_running_loop().create_task(self._beat())
        self._signal_count = _Count()
        self._start_timer()
        threading.Thread(target=self._watch, name="codeclippy-loop-watch", daemon=True).start()

    def stop(self) -> None:
        """Stop watching; the process is about to exit."""
        self._stopped.set()
        self._beating.cancel()
        if sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, 0)

    async def _beat(self) -> None:
        while True:
            self._beats += 1
            await asyncio.sleep(TICK)

    def _start_timer(self) -> None:
        if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGALRM, self._on_signal)
            signal.setitimer(signal.ITIMER_REAL, TICK, TICK)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._check(self._signal_count, frame)

    def _watch(self) -> None:
        count = _Count()
        while not self._stopped.wait(TICK):
            self._check(count, None)

    def _check(self, count: _Count, frame: FrameType | None) -> None:
        missed = count.tick(self._beats)
        if missed < LEFT_TICKS or self._stopped.is_set():
            return
        if missed >= HANG_TICKS:
            self._end(f"the event loop has not turned for {missed * TICK:g} s", frame)
        elif self._is_client_gone():
            self._end("the client is gone, and the event loop hangs", frame)

    def _is_client_gone(self) -> bool:
        if self.input is not None and hasattr(select, "poll"):
            poll = select.poll()
            poll.register(self.input, 0)  # the end is reported in any case, unread bytes before it or not
            if poll.poll(0):
                return True
        return self.client_process is not None and not is_alive(self.client_process)

    def _end(self, reason: str, frame: FrameType | None) -> None:
        """Log where the loop hangs, by files, lines and functions, and end the process."""
        frame = frame or sys._current_frames().get(self._loop_thread)
        rows = traceback.extract_stack(frame)[-_MAX_FRAMES:] if frame is not None else []
        place = " > ".join(f"{os.path.basename(row.filename)}:{row.lineno} {row.name}" for row in rows)  # noqa: PTH119
        message = f"{reason}; this process ends, so that the client starts another one. It hangs at: {place}"
        # On a thread of its own: the one that hangs may hold the log's lock, and nobody may read what is logged.
        writer = threading.Thread(target=_write, args=(message,), daemon=True)
        writer.start()
        writer.join(_LOG_SECONDS)
        os._exit(EXIT_CODE)


def _write(message: str) -> None:
    log.critical("%s", message)
    for handler in logging.getLogger().handlers:
        handler.close()  # which waits until it is written


def is_alive(process_id: int) -> bool:
    """Return whether a process exists; True if that cannot be asked without harm."""
    if os.name != "posix":
        return True
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
