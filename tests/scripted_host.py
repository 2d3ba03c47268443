"""A real host process over a scripted engine, for what no model does on command.

``python -m tests.scripted_host --at PATH SCRIPT.json``; the script's keys are those of ``tests.scripted_server``, and
``hang`` (true: the next step never ends).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from codeclippy_ls.engine.engine import Engine, Generation, Status, Ticket
from codeclippy_ls.host.place import Place
from codeclippy_ls.host.service import run
from tests.scripted_server import FileHost

PATIENCE = 1.5


class HangingHost(FileHost):
    """Hangs where the script says so."""

    def start(self, ticket: Ticket) -> Iterator[Generation | None]:
        """Steps, or one that does not end."""
        if self.script().get("hang"):
            time.sleep(600)
        yield from super().start(ticket)


def main() -> None:
    at, script = Path(sys.argv[2]), Path(sys.argv[3])

    def open_engine(watch: Callable[[str, Status], None]) -> Engine:
        return Engine(lambda: HangingHost(script), {}, watch, patience=PATIENCE)

    run(Place(at.parent, at.name), open_engine)


if __name__ == "__main__":
    main()
