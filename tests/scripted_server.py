"""The real server over a scripted engine, for editors that must be shown a certain text, and for engines that fail.

``python -m tests.scripted_server [--hosted] SCRIPT.json [ARGUMENT...]``: the arguments are `codeclippy-ls`'s, and so is
all but the model; ``--hosted`` has the engine in a host's process (``tests.scripted_host``). The file is read again for
every job, so a test may change it while the editor runs. Its keys, all optional: ``complete`` (the text of a
suggestion), ``seen`` (the suggestion is a name, the check sum of so many characters before the cursor), ``edit``
(hunks, or a list of several ways to do it; the first blank is put before them), ``delay`` (seconds a job takes),
``load_delay`` (seconds that loading takes), ``load_error`` (why it fails), ``crash`` (true: the process dies at the
next job), ``fault`` (what else goes wrong, see ``tests.faults``), ``step_timeout`` (seconds that a step may take; read
once).
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from codeclippy_ls import cli
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.host.address import HostAddress, prepare_runtime_folder
from codeclippy_ls.host.client import HostEngine
from codeclippy_ls.host.start import HostConnection, Notifications, connect_or_start
from codeclippy_ls.inference.engine import STEP_TIMEOUT, Engine, ModelStatus
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import Generation, Priority
from codeclippy_ls.model_specs import resolve_model_specs
from codeclippy_ls.server import server
from codeclippy_ls.settings import Settings
from tests import faults
from tests.scripted import ScriptedWorker

_IDLE = 0.2  # seconds that a host of scripts stays without a client


class FileWorker(ScriptedWorker):
    """Says what the file says at the moment."""

    def __init__(self, script: Path) -> None:
        super().__init__()
        self.file = script
        self.step_timeout = self.script().get("step_timeout", STEP_TIMEOUT)

    def script(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        return found

    def load(self, name: str, spec: Any) -> Any:
        script = self.script()
        self.load_error = script.get("load_error", "")
        time.sleep(script.get("load_delay", 0))
        return super().load(name, spec)

    def start(self, handle: RequestHandle) -> Iterator[Generation | None]:
        script = self.script()
        if script.get("crash"):
            os._exit(9)
        if script.get("fault") in faults.MODEL_FAULTS:
            yield from faults.faulty_worker(script["fault"]).start(handle)
            return
        if "fault" in script:
            yield from faults.STEP_FAULTS[script["fault"]](handle)
        is_edit = handle.priority is Priority.EDIT
        hunks = script.get("edit", "")
        ways = [hunks] if isinstance(hunks, str) else hunks
        self.response = [" " + way for way in ways] if is_edit else script.get("complete", "")
        if "seen" in script and not is_edit:
            self.response = partial(seen, length=script["seen"])
        ready = time.monotonic() + script.get("delay", 0)
        for step in super().start(handle):
            while time.monotonic() < ready and handle.cancel_reason is None:
                time.sleep(0.005)
                yield None
            yield step


def seen(text: str, length: int) -> str:
    """The check sum of a text's end, as a name that nothing in the clean-up changes."""
    return f"seen_{zlib.crc32(text[-length:].encode()):08x}"


def opened(script: Path, settings: Settings, on_status: Callable[[str, ModelStatus], None]) -> ThreadEngine:
    """A scripted engine on a thread of this process."""
    return FileWorker(script).open(settings, on_status)


def hosted(script: Path, settings: Settings, on_status: Callable[[str, ModelStatus], None]) -> Engine:
    """A scripted engine in a process of its own."""
    where = HostAddress(prepare_runtime_folder(), script.stem)
    command = [sys.executable, "-m", "tests.scripted_host", "--at", str(where.folder / where.name), str(script)]

    async def find(notifications: Notifications) -> HostConnection:
        return await connect_or_start(where, command, _IDLE, notifications)

    return HostEngine(find, resolve_model_specs(settings), on_status)


def main() -> None:
    arguments = sys.argv[1:]
    make = hosted if arguments[0] == "--hosted" else opened
    script, *rest = arguments[make is hosted :]
    # All else is the command line's: how it is reached, how its streams are guarded, and how it ends.
    server.Server = partial(server.Server, engine=partial(make, Path(script).absolute()))  # type: ignore[assignment, misc]
    raise SystemExit(cli.main(rest))


if __name__ == "__main__":
    main()
