"""Things in the way of the engine host: whatever they are, `auto` ends in a working engine, and no message."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codeclippy_ls import engines
from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.host import address, client
from codeclippy_ls.host.address import HostAddress, resolve_host_address
from codeclippy_ls.inference.engine import ModelState, ModelStatus
from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.settings import parse
from codeclippy_ls.text import Document
from tests.editor import TIMEOUT
from tests.scripted import ScriptedWorker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Unix-domain sockets, mounts and limits of Linux")
CODE = "def f(values):\n    total = sum(values)\n    return "
SETTINGS, _ = parse({"model": {"device": "cpu"}, "completion": {"timeBudgetMs": 20000}})
Obstacle = Callable[["Scene"], None]
OBSTACLES: dict[str, Obstacle] = {}


class Scene:
    """The folder of a host that is about to be started, and what takes the obstacle away again."""

    def __init__(self, parent: Path, patch: pytest.MonkeyPatch) -> None:
        self.parent, self.patch = parent, patch
        self.cleanup = contextlib.ExitStack()

    @property
    def address(self) -> HostAddress:
        """The address of the host, in its folder."""
        return resolve_host_address(SETTINGS)

    def mount(self, options: str) -> None:
        """Mount a small file system at the folder's place; skip the test if that is not allowed."""
        folder = self.parent / "codeclippy"
        folder.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"{options},mode=0700", "none", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("file systems cannot be mounted here")
        self.cleanup.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)

    def replace_command(self, code: str) -> None:
        """Let the host be another program."""
        command = [sys.executable, "-c", code]
        self.patch.setattr(engines, "make_host_command", lambda address, settings: command)

    def listen(self) -> socket.socket:
        """Listen at the socket's place, as no host does."""
        listener = self.cleanup.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
        listener.bind(str(self.address.socket))
        listener.listen(50)
        return listener

    def answer(self, data: bytes) -> None:
        """Answer every connection at the socket's place with these bytes."""
        code = "import socket, sys\nlistener = socket.socket(fileno=int(sys.argv[1]))\n"
        code += f"while True:\n    one, _ = listener.accept()\n    one.sendall({data!r})\n    one.close()\n"
        listener = self.listen()
        child = subprocess.Popen([sys.executable, "-c", code, str(listener.fileno())], pass_fds=[listener.fileno()])
        self.cleanup.callback(child.wait)
        self.cleanup.callback(child.kill)


def obstacle(function: Obstacle) -> Obstacle:
    """Add an obstacle to the table."""
    OBSTACLES[function.__name__.replace("_", " ")] = function
    return function


# The folder.


@obstacle
def path_that_is_too_long_for_a_socket(scene: Scene) -> None:
    long = scene.parent / ("x" * 100)
    long.mkdir()
    scene.patch.setenv("XDG_RUNTIME_DIR", str(long))
    scene.patch.setattr(tempfile, "tempdir", str(scene.parent))


@obstacle
def paths_that_are_all_too_long(scene: Scene) -> None:
    long = scene.parent / ("x" * 100)
    long.mkdir()
    scene.patch.setenv("XDG_RUNTIME_DIR", str(long))
    scene.patch.setattr(tempfile, "tempdir", str(long))
    scene.patch.setattr(address, "_MAX_FOLDER", 3)
    scene.patch.setattr(Path, "mkdir", _deny)


def _deny(*arguments: object, **options: object) -> None:
    raise PermissionError(13, "Permission denied")


@obstacle
def folder_that_is_read_only(scene: Scene) -> None:
    scene.mount("ro")


@obstacle
def disk_that_is_full(scene: Scene) -> None:
    scene.mount("size=4k")
    with contextlib.suppress(OSError):
        (scene.parent / "codeclippy" / "full").write_bytes(b"x" * (1 << 20))


@obstacle
def disk_without_inodes(scene: Scene) -> None:
    scene.mount("nr_inodes=2")
    (scene.parent / "codeclippy" / "full").touch()


@obstacle
def disk_with_one_inode(scene: Scene) -> None:
    scene.mount("nr_inodes=2")


@obstacle
def disk_with_two_inodes(scene: Scene) -> None:
    scene.mount("nr_inodes=3")


@obstacle
def disk_with_three_inodes(scene: Scene) -> None:
    scene.mount("nr_inodes=4")


@obstacle
def folder_that_others_can_reach(scene: Scene) -> None:
    (scene.parent / "codeclippy").mkdir()
    (scene.parent / "codeclippy").chmod(0o755)


@obstacle
def folder_that_is_a_link(scene: Scene) -> None:
    (scene.parent / "codeclippy").symlink_to(scene.parent)


@obstacle
def folder_that_is_a_file(scene: Scene) -> None:
    (scene.parent / "codeclippy").touch()


@obstacle
def folder_that_is_a_fifo(scene: Scene) -> None:
    os.mkfifo(scene.parent / "codeclippy")


@obstacle
def parent_that_is_a_file(scene: Scene) -> None:
    (scene.parent / "file").touch()
    scene.patch.setenv("XDG_RUNTIME_DIR", str(scene.parent / "file"))


# Something else at the place of a file.


def _add_things(name: str) -> None:
    def put(scene: Scene, make: Callable[[Path], object]) -> None:
        path = getattr(scene.address, name)
        make(path)

    def make_full_folder(path: Path) -> None:
        path.mkdir()
        (path / "file").touch()

    things: dict[str, Callable[[Path], object]] = {
        "folder": make_full_folder,
        "fifo": os.mkfifo,
        "dangling link": lambda path: path.symlink_to("/nonexistent/file"),
        "link in a circle": lambda path: path.symlink_to(path),
    }
    if name in ("socket", "process"):
        things["text"] = lambda path: path.write_text("hello")
    for thing, make in things.items():
        OBSTACLES[f"{thing} at the place of the {name}"] = lambda scene, make=make: put(scene, make)  # type: ignore[misc]


for _name in ("socket", "lock", "log", "process"):
    _add_things(_name)


@obstacle
def lock_that_another_program_holds(scene: Scene) -> None:
    stream = scene.cleanup.enter_context(scene.address.lock.open("w"))
    fcntl.flock(stream, fcntl.LOCK_EX)


@obstacle
def process_id_of_another_program(scene: Scene) -> None:
    scene.address.process.write_text(str(os.getpid()))


# Something else that listens.


@obstacle
def listener_that_does_not_answer(scene: Scene) -> None:
    scene.listen()


@obstacle
def listener_that_hangs_up(scene: Scene) -> None:
    scene.answer(b"")


@obstacle
def listener_that_speaks_http(scene: Scene) -> None:
    scene.answer(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@obstacle
def listener_that_answers_nonsense(scene: Scene) -> None:
    body = b'{"jsonrpc": "2.0", "id": 1, "result": []}'
    scene.answer(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))


# The program.


@obstacle
def program_that_fails(scene: Scene) -> None:
    scene.replace_command("raise SystemExit(3)")


@obstacle
def program_that_ends_at_once(scene: Scene) -> None:
    scene.replace_command("")


@obstacle
def program_that_is_killed(scene: Scene) -> None:
    scene.replace_command(f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})")


@obstacle
def program_that_never_listens(scene: Scene) -> None:
    scene.replace_command("import time; time.sleep(20)")


@obstacle
def program_that_does_not_exist(scene: Scene) -> None:
    scene.patch.setattr(engines, "make_host_command", lambda address, settings: ["/nonexistent/python"])


@obstacle
def program_that_says_that_another_one_runs(scene: Scene) -> None:
    scene.replace_command(f"raise SystemExit({address.ALREADY_RUNNING})")


@obstacle
def no_descriptor_for_the_log(scene: Scene) -> None:
    def refuse(*arguments: object, **options: object) -> int:
        raise OSError(24, "Too many open files")

    scene.patch.setattr("codeclippy_ls.host.start.open_regular_file", refuse)


@obstacle
def files_that_must_not_grow(scene: Scene) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    code = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, {limits[1]})); "
    command = engines.make_host_command(scene.address, SETTINGS)
    scene.replace_command(code + f"os.execv({command[0]!r}, {command!r})")


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Make the folder of a host; one that runs there exits when the folder is gone."""
    parent = Path(tempfile.mkdtemp(prefix="cc-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(parent))
    monkeypatch.setattr(client, "_START_PATIENCE", 2.0)
    monkeypatch.setattr("codeclippy_ls.host.start._HANDSHAKE_TIMEOUT", 2.0)
    monkeypatch.setattr("codeclippy_ls.host.start._LOCKED_TIMEOUT", 0.5)
    made = Scene(parent, monkeypatch)
    try:
        yield made
    finally:
        monkeypatch.undo()
        made.cleanup.close()
        while parent.exists():  # a host may be about to add files
            shutil.rmtree(parent, ignore_errors=True)


class Worker(ScriptedWorker):
    """A model on a thread, in place of the shipped one."""

    def __init__(self, *arguments: object) -> None:
        super().__init__()
        self.response = "total"


@pytest.mark.parametrize("make", OBSTACLES.values(), ids=OBSTACLES)
async def test_auto_ends_in_a_working_engine(make: Obstacle, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """No status is a failure, and a suggestion comes: from the thread, or from the host if it could be started."""
    monkeypatch.setattr(engines, "ModelWorker", Worker)
    make(scene)
    statuses: list[ModelStatus] = []
    assistant = Assistant(engines.open_engine(SETTINGS, lambda model, status: statuses.append(status)), SETTINGS)
    try:
        await asyncio.wait_for(assistant.load(), TIMEOUT)
        assert assistant.status(ModelRole.COMPLETE).state is ModelState.READY
        found = await assistant.complete(Document("file:///x.py", CODE, 1, "python"), len(CODE))
        assert found.items
        assert not [status for status in statuses if status.reason or status.state is ModelState.FAILED]
    finally:
        await assistant.aclose()


def test_at_least_thirty_things_are_in_the_way() -> None:
    """As many as the attack had that found nine of nine in which `auto` failed."""
    assert len(OBSTACLES) >= 30
