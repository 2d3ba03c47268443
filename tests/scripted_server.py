"""The real server on stdin and stdout over a scripted engine, for editors that must be shown a certain text.

``python -m tests.scripted_server SCRIPT.json``: the file is read again for every job, so a test may change it while
the editor runs. Its keys, all optional: ``complete`` (the text of a suggestion), ``edit`` (hunks, or a list of several
ways to do it; the first blank is put before them), ``delay`` (seconds a job takes), ``load_delay`` (seconds that
loading takes), ``fail_load`` (why it fails), ``crash`` (true: the process dies at the next job).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codeclippy_ls.engine.engine import Generation, Lane, Ticket
from codeclippy_ls.server import transport
from codeclippy_ls.server.server import Server
from tests.scripted import ScriptedHost


class FileHost(ScriptedHost):
    """Says what the file says at the moment."""

    def __init__(self, script: Path) -> None:
        super().__init__()
        self.file = script

    def script(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        return found

    def load(self, name: str, spec: Any) -> Any:
        script = self.script()
        self.fail_load = script.get("fail_load", "")
        time.sleep(script.get("load_delay", 0))
        return super().load(name, spec)

    def start(self, ticket: Ticket) -> Iterator[Generation | None]:
        script = self.script()
        if script.get("crash"):
            os._exit(9)
        is_edit = ticket.lane is Lane.EDIT
        hunks = script.get("edit", "")
        ways = [hunks] if isinstance(hunks, str) else hunks
        self.says = [" " + way for way in ways] if is_edit else script.get("complete", "")
        ready = time.monotonic() + script.get("delay", 0)
        for step in super().start(ticket):
            while time.monotonic() < ready and ticket.stopping is None:
                time.sleep(0.005)
                yield None
            yield step


async def serve(script: Path, streams: tuple[int, int]) -> int:
    """One session on the guarded streams."""
    return await transport.serve_stdio(Server(engine=FileHost(script).open).serve, *streams)


def main() -> None:
    streams = transport.guard_stdio()
    code = asyncio.run(serve(Path(sys.argv[1]), streams))
    os._exit(code)


if __name__ == "__main__":
    main()
