"""The real server over a scripted engine: shows an editor a certain text, or fails as the script says.

``python -m tests.scripted_server [--hosted] SCRIPT.json [ARGUMENT...]``: takes the arguments of `codeclippy-ls`, and
replaces nothing but the model; with ``--hosted`` the engine runs in a host process (``tests.scripted_host``). The
script is read again for each request, so a test may change it while the editor runs. Its keys, all optional:

- ``complete``: the text of a suggestion
- ``seen``: the suggestion is a name made from the checksum of this many characters before the cursor
- ``edit``: hunks, or a list of alternatives; the initial space is added
- ``cut``: the time limit cuts each suggestion that somebody waits for
- ``read``: a file that the last prompt that was read ahead is written to
- ``delay``, ``load_delay``: seconds that a request or loading takes
- ``load_error``: the reason why loading fails
- ``load_crash``: the process dies when it loads a model of this name
- ``crash``: if true, the process dies at the next request
- ``fault``: another fault (see ``tests.faults``)
- ``fault_model``: name of the only model that has the fault
- ``step_timeout``: seconds that a step may take; read once
- ``tick``, ``hang_ticks``: the loop's watch: seconds of a tick, ticks without a turn; read once
- ``loop_fault``: what the event loop does when a document is opened, instead of turning (see `LOOP_FAULTS`)
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
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
from codeclippy_ls.host.messages import Notifications
from codeclippy_ls.host.start import HostConnection, connect_or_start
from codeclippy_ls.inference.engine import STEP_TIMEOUT, Engine, ModelStatus
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import FinishReason, Generation, Priority
from codeclippy_ls.model_specs import resolve_model_specs
from codeclippy_ls.server import loop_watch, server
from codeclippy_ls.server.session import Session
from codeclippy_ls.settings import Settings
from tests import faults
from tests.scripted import ScriptedWorker

_IDLE_SECONDS = 0.2  # seconds that a scripted host stays without a client


class FileWorker(ScriptedWorker):
    """A worker that follows the script as it is at each request."""

    def __init__(self, script: Path) -> None:
        super().__init__()
        self.file = script
        self.step_timeout = self.read_script().get("step_timeout", STEP_TIMEOUT)

    def read_script(self) -> dict[str, Any]:
        script: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        return script

    def load(self, name: str, spec: Any) -> Any:
        script = self.read_script()
        self.load_error = script.get("load_error", "")
        time.sleep(script.get("load_delay", 0))
        if spec.name == script.get("load_crash"):
            os._exit(9)
        return super().load(name, spec)

    def start(self, handle: RequestHandle) -> Iterator[Generation | None]:
        script = self.read_script()
        if not handle.request.sampling.max_tokens:  # reads ahead: no test's request
            for step in super().start(handle):
                if "read" in script:
                    Path(script["read"]).write_text(self.read_prompts[-1], encoding="utf-8")
                yield step
            return
        is_cut = script.get("cut") and handle.priority is Priority.KEYSTROKE
        self.finish_reason = FinishReason.TIME if is_cut else FinishReason.END
        if script.get("crash"):
            os._exit(9)
        if script.get("fault") in faults.MODEL_FAULTS:
            yield from faults.faulty_worker(script["fault"]).start(handle)
            return
        if "fault" in script and script.get("fault_model", "") in handle.request.model:
            yield from faults.STEP_FAULTS[script["fault"]](handle)
        is_edit = handle.priority is Priority.EDIT
        hunks = script.get("edit", "")
        alternatives = [hunks] if isinstance(hunks, str) else hunks
        self.response = [" " + text for text in alternatives] if is_edit else script.get("complete", "")
        if "seen" in script and not is_edit:
            self.response = partial(checksum_name, length=script["seen"])
        ready = time.monotonic() + script.get("delay", 0)
        for step in super().start(handle):
            while time.monotonic() < ready and handle.cancel_reason is None:
                time.sleep(0.005)
                yield None
            yield step


def checksum_name(text: str, length: int) -> str:
    """Return the checksum of a text's end, as a name that the clean-up does not change."""
    return f"seen_{zlib.crc32(text[-length:].encode()):08x}"


def hang_in_python() -> None:
    """Loop in Python for ever."""
    while True:
        pass


def hang_in_pattern() -> None:
    """Search with a pattern that takes exponential time, and holds the interpreter's lock."""
    re.match(r"(a+)+$", "a" * 64 + "b")


def hang_in_sleep() -> None:
    """Wait in the system."""
    time.sleep(10**6)


def hang_in_open() -> None:
    """Open a FIFO that nobody writes to."""
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(f"{folder}/fifo")
        Path(f"{folder}/fifo").read_bytes()


LOOP_FAULTS: dict[str, Callable[[], None]] = {
    "python": hang_in_python,
    "pattern": hang_in_pattern,
    "sleep": hang_in_sleep,
    "open": hang_in_open,
}


def add_loop_fault(file: Path) -> None:
    """Let sessions hang the loop as the script says, and the watch be faster than a user would want."""
    open_document = Session.open_document

    def hang(self: Session, *arguments: Any) -> None:
        script = json.loads(file.read_text()) if file.exists() else {}
        if "loop_fault" in script:
            file.with_suffix(".hung").touch()
            LOOP_FAULTS[script["loop_fault"]]()
        open_document(self, *arguments)

    Session.open_document = hang  # type: ignore[assignment, method-assign]
    script = json.loads(file.read_text()) if file.exists() else {}
    loop_watch.TICK = script.get("tick", loop_watch.TICK)
    loop_watch.HANG_TICKS = script.get("hang_ticks", loop_watch.HANG_TICKS)


def open_in_process(script: Path, settings: Settings, on_status: Callable[[str, ModelStatus], None]) -> ThreadEngine:
    """Open a scripted engine on a thread of this process."""
    return FileWorker(script).open(settings, on_status)


def open_shared(script: Path, settings: Settings, on_status: Callable[[str, ModelStatus], None]) -> Engine:
    """Open a scripted engine in a host process."""
    address = HostAddress(prepare_runtime_folder(), script.stem)
    command = [sys.executable, "-m", "tests.scripted_host", "--at", str(address.folder / address.name), str(script)]

    async def connect(notifications: Notifications) -> HostConnection:
        return await connect_or_start(address, command, _IDLE_SECONDS, notifications)

    return HostEngine(connect, resolve_model_specs(settings), on_status)


def main() -> None:
    arguments = sys.argv[1:]
    open_engine = open_shared if arguments[0] == "--hosted" else open_in_process
    script, *rest = arguments[open_engine is open_shared :]
    add_loop_fault(Path(script).absolute())
    # All else is the command line's: transports, guarded streams and exit codes.
    server.Server = partial(server.Server, engine=partial(open_engine, Path(script).absolute()))  # type: ignore[assignment, misc]
    raise SystemExit(cli.main(rest))


if __name__ == "__main__":
    main()
