"""Type while the engine host is killed and stopped: is every key answered once, and how long does each wait?

    python -m bench.host_soak [--rounds 2]

One server with `model.engine` `auto`. A round types for some seconds, kills the host, stops it and lets it go on, and
stops it until it is replaced. Prints a JSON object. Linux only (``/proc``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.editor import Editor, process

_TEXT = "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return "
_KEY_SECONDS = 0.15
_OPTIONS = {"model": {"engine": "auto"}, "completion": {"debounce": False}}


def find_hosts(folder: str) -> list[int]:
    """Return the ids of the engine hosts whose files are in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"host" in (words := path.read_bytes().split(b"\0")) and any(folder.encode() in word for word in words):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


class Keys:
    """Types keys into one document, and notes how long each answer takes."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.buffer = editor.open(_TEXT)
        self.seconds: dict[str, list[float]] = {}
        self._pending: list[asyncio.Task[None]] = []

    async def type(self, phase: str, seconds: float) -> None:
        """Type for some seconds; a key is a change and a request."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            end = len(self.buffer.text)
            if end > len(_TEXT) + 20:
                self.editor.type(self.buffer, len(_TEXT), "", end)
            else:
                self.editor.type(self.buffer, end, "total"[(end - len(_TEXT)) % 5])
            self._pending.append(asyncio.ensure_future(self._request(phase, len(self.buffer.text))))
            await asyncio.sleep(_KEY_SECONDS)

    async def _request(self, phase: str, offset: int) -> None:
        started = time.monotonic()
        await self.editor.ghost(self.buffer, offset)
        self.seconds.setdefault(phase, []).append(time.monotonic() - started)

    async def finish(self) -> int:
        """Wait for all answers; return the number of keys."""
        await asyncio.gather(*self._pending)
        return len(self._pending)


async def run_soak(rounds: int, folder: str) -> dict[str, Any]:
    """Type, kill and stop; return the counts and, by phase, the waiting times in seconds."""
    os.environ["XDG_RUNTIME_DIR"] = folder
    async with process() as (editor, _):
        await editor.start({}, _OPTIONS)
        keys = Keys(editor)
        for _ in range(rounds):
            await keys.type("quiet", 5)
            os.kill(find_hosts(folder)[0], signal.SIGKILL)
            await keys.type("killed", 8)
            stopped = find_hosts(folder)[0]
            os.kill(stopped, signal.SIGSTOP)
            await keys.type("stopped", 5)
            os.kill(stopped, signal.SIGCONT)
            await keys.type("continued", 8)
            os.kill(find_hosts(folder)[0], signal.SIGSTOP)
            await keys.type("stopped until replaced", 20)
        count = await keys.finish()
        messages = [message for message in editor.unread if message.get("method") == "window/showMessage"]
        editor.unread.clear()
        await editor.stop()
    figures = {phase: _summarize(seconds) for phase, seconds in keys.seconds.items()}
    return {"keys": count, "answered": sum(map(len, keys.seconds.values())), "messages": len(messages), **figures}


def _summarize(seconds: list[float]) -> dict[str, float]:
    ranked = sorted(seconds)
    return {
        "keys": len(ranked),
        "median": round(ranked[len(ranked) // 2], 3),
        "p99": round(ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))], 3),
        "max": round(ranked[-1], 3),
    }


def main() -> None:
    """Run the soak in a folder of its own, and end the hosts that it leaves."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cc-", ignore_cleanup_errors=True) as folder:
        try:
            print(json.dumps(asyncio.run(run_soak(parsed.rounds, folder)), indent=2))
        finally:
            for host in find_hosts(folder):
                os.kill(host, signal.SIGKILL)


if __name__ == "__main__":
    main()
