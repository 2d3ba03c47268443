"""A real host process with a scripted engine, for faults that no model has on demand.

``python -m tests.scripted_host --at PATH SCRIPT.json``; the script's keys are those of ``tests.scripted_server``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.host.address import HostAddress
from codeclippy_ls.host.engine_host import run_host
from codeclippy_ls.inference.engine import ModelStatus
from tests.scripted_server import FileWorker

STEP_TIMEOUT = 1.5


def main() -> None:
    at, script = Path(sys.argv[2]), Path(sys.argv[3])

    def open_engine(on_status: Callable[[str, ModelStatus], None]) -> ThreadEngine:
        return ThreadEngine(lambda: FileWorker(script), {}, on_status, step_timeout=STEP_TIMEOUT)

    raise SystemExit(run_host(HostAddress(at.parent, at.name), open_engine))


if __name__ == "__main__":
    main()
