"""The engine host: real processes that share models; a host that dies costs no document, session or answer."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls import framing
from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.proposals import Refusal
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.engines import open_engine, open_thread_engine
from codeclippy_ls.fallback_engine import FallbackEngine
from codeclippy_ls.host import address, client, messages
from codeclippy_ls.host.address import HostAddress, HostError, prepare_runtime_folder, resolve_host_address
from codeclippy_ls.host.client import HostEngine
from codeclippy_ls.host.engine_host import EngineHost, run_host
from codeclippy_ls.host.messages import Notifications
from codeclippy_ls.host.process import HostProcess, find_host_process, replace_host
from codeclippy_ls.host.start import HostConnection, connect_or_start
from codeclippy_ls.inference.engine import ModelState, ModelStatus, StatusListener
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation, Request, Sampling
from codeclippy_ls.inference.spec import ModelRole, ModelSpec
from codeclippy_ls.model_specs import resolve_model_specs
from codeclippy_ls.prompts.context import CompletionContext
from codeclippy_ls.server.server import Server
from codeclippy_ls.settings import EditSettings, Settings, parse
from codeclippy_ls.tasks.completion import CompletionTask
from codeclippy_ls.tasks.edit import ContextDiff, EditTask
from codeclippy_ls.tasks.edit_context import select_edit_context
from codeclippy_ls.tasks.model_info import ModelInfo
from codeclippy_ls.text import Document
from tests.editor import TIMEOUT, Editor, in_process, process
from tests.scripted import ScriptedWorker
from tests.scripted_server import FileWorker

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes by /proc")
posix = pytest.mark.skipif(os.name != "posix", reason="signals and Unix-domain sockets")
SECRET = "s3cret_name"  # in the documents, and in no log
CODE = f"def mean_{SECRET}(values):\n    total = 0\n    for value in values:\n        total += value\n    return "
OPTIONS: dict[str, Any] = {
    "model": {"engine": "shared", "device": "cpu", "dtype": "float32"},
    "completion": {"timeBudgetMs": 20000},
}


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[Path]:
    """Make a folder for this module's sockets, with a short name; unused hosts exit when it is gone."""
    path = Path(tempfile.mkdtemp(prefix="cc-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(path))
        patch.setenv("LOCALAPPDATA", str(path))
        yield path
    for log in path.rglob("*.log"):
        assert SECRET not in log.read_text(encoding="utf-8")
    shutil.rmtree(path)


def make_settings(**model: Any) -> Settings:
    """Return the settings of these tests, with changes."""
    settings, problems = parse({**OPTIONS, "model": {**OPTIONS["model"], **model}})
    assert not problems
    return settings


def make_document(text: str = CODE) -> Document:
    """Make a document."""
    return Document("file:///x.py", text, 1, "python")


@asynccontextmanager
async def open_assistant(settings: Settings | None = None, engine: Any = None) -> AsyncIterator[Assistant]:
    """Open an assistant over the host, or over another engine."""
    settings = settings or make_settings()
    assistant = Assistant(engine or open_engine(settings), settings)
    try:
        await assistant.load()
        yield assistant
    finally:
        await assistant.aclose()


async def wait_until(condition: Callable[[], Any], seconds: float = TIMEOUT) -> None:
    """Wait for a condition on this loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was never met"
        await asyncio.sleep(0.01)


# The wire.


@pytest.mark.parametrize(
    "task",
    [
        CompletionTask(CompletionContext("a\r\n\ud800", "\x00é😀", "x.py"), 48, False, "clippy"),
        EditTask("x.py", select_edit_context(make_document("a\n\fb\u2028\udfff\n"), (0, 1), None), "do\nit", 400),
    ],
)
def test_tasks_and_generations_survive_the_wire(task: Any) -> None:
    """Including every character, and lone surrogates."""

    def transmit(value: Any) -> Any:
        return json.loads(json.dumps(value))

    assert messages.decode_task(transmit(messages.encode_task(task))) == task
    answer = ContextDiff("@@\ud800", 1, 2) if isinstance(task, EditTask) else "text\udfff"
    candidate = Candidate("text", (1, 2), -0.1 / 3, FinishReason.STOP, answer)
    generation = Generation(FinishReason.TIME, (candidate, candidate), 7, 5, 0.1, 0.2)
    assert messages.decode_generation(transmit(messages.encode_generation(generation)), task) == generation
    spec = ModelSpec("a/b", "cpu", "int8", 2)
    for status in (
        ModelStatus(ModelState.FAILED, "why"),
        ModelStatus(ModelState.READY, "", ModelInfo("a", "b", (("x", 1),), True, 9)),
    ):
        assert messages.decode_status(transmit(messages.encode_status(spec, status))) == (spec, status)


# The address.


@posix
def test_runtime_folder_must_be_reachable_only_by_the_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by others, not as a link, not as a file; it is made if it is missing."""
    parent = folder / "runtime"
    parent.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(parent))
    assert prepare_runtime_folder().stat().st_mode & 0o777 == 0o700
    (parent / "codeclippy").chmod(0o755)
    with pytest.raises(HostError, match="only you can reach"):
        prepare_runtime_folder()
    (parent / "codeclippy").rmdir()
    (parent / "codeclippy").symlink_to(parent)
    with pytest.raises(HostError, match="only you can reach"):
        prepare_runtime_folder()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert prepare_runtime_folder() == folder / f"codeclippy-{os.getuid()}"


@posix
def test_socket_s_path_is_never_too_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a short name takes the place of one whose name is too long."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for length in range(1, 120, 7):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder / ("x" * length)))
        chosen = resolve_host_address(make_settings()).socket
        assert len(os.fsencode(chosen)) <= 103
        assert chosen.is_relative_to(folder / ("x" * length)) == (len(os.fsencode(folder)) + length < 70)


def test_each_configuration_has_its_own_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """By settings of the whole process, by environment, by version; not by model."""
    base = resolve_host_address(make_settings())
    assert resolve_host_address(make_settings(completion="/other", idleMinutes=3)) == base
    for name in ("PYTHONSTARTUP", "PYTHON_BASIC_REPL", "TERM_PROGRAM"):  # of an editor's terminal
        monkeypatch.setenv(name, "1")
    assert resolve_host_address(make_settings()) == base
    others = [
        resolve_host_address(make_settings(threads=3)),
        resolve_host_address(make_settings(device="cuda")),
        resolve_host_address(make_settings(cacheMegabytes=1)),
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    others.append(resolve_host_address(make_settings()))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(address, "CODE_VERSION", "0.0.0")
    others.append(resolve_host_address(make_settings()))
    assert len({one.name for one in (base, *others)}) == 6


def test_upgrade_in_place_is_another_version_for_new_processes_only(tmp_path: Path) -> None:
    """With the same number, size and time: a process that runs keeps the version of the code that it loaded."""
    package = tmp_path / "codeclippy_ls"
    shutil.copytree(address.PACKAGE_FOLDER, package, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    code = "import sys; from codeclippy_ls.host import address; print(address.CODE_VERSION, flush=True); input(); "
    code += "print(address.CODE_VERSION, flush=True)"

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-B", "-c", code]
        return subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with start() as old:
        assert old.stdout is not None and old.stdin is not None
        before = old.stdout.readline()
        module, status = package / "text.py", (package / "text.py").stat()
        module.write_bytes(module.read_bytes().replace(b"Documents, coordinates", b"Documents: coordinates"))
        os.utime(module, ns=(status.st_atime_ns, status.st_mtime_ns))
        with start() as new:
            assert new.communicate("\n")[0].splitlines()[0] != before.strip()
        assert old.communicate("\n")[0] == before


# Two editors, one model.


@linux
async def test_two_servers_share_one_host_and_load_no_model(folder: Path) -> None:
    """Two real processes give the same suggestions; only the user can reach the socket."""
    async with process() as (first, one), process() as (second, two):
        await first.start({}, OPTIONS)
        await second.start({}, OPTIONS)
        texts = [
            (await editor.ghost(buffer, len(CODE)))[0]["insertText"]
            for editor in (first, second)
            for buffer in [editor.open(CODE)]
        ]
        assert texts[0] == texts[1] and texts[0].strip()
        for child in (one, two):
            assert "libtorch" not in Path(f"/proc/{child.pid}/maps").read_text()
        await first.stop()
        await second.stop()
    host_address = resolve_host_address(make_settings())
    modes = {
        path: path.stat().st_mode & 0o777
        for path in (host_address.folder, host_address.socket, host_address.lock, host_address.log)
    }
    assert modes == {
        host_address.folder: 0o700,
        host_address.socket: 0o600,
        host_address.lock: 0o600,
        host_address.log: 0o600,
    }
    async with open_assistant() as third:
        assert "libtorch" in Path(f"/proc/{third._engine.process}/maps").read_text()  # type: ignore[attr-defined]


async def test_greedy_output_equals_the_in_process_engine_s() -> None:
    """Suggestions and edits, token for token."""
    settings = replace(make_settings(cacheMegabytes=0), edit=EditSettings(temperature=0.0))

    async def answers(engine: Any) -> list[Any]:
        async with open_assistant(settings, engine) as assistant:
            found: list[Any] = []
            for offset in (len(CODE), CODE.index("total +="), CODE.index("\n") + 1):
                suggestions = await assistant.complete(make_document(), offset)
                assert suggestions.generation is not None
                found.append((suggestions.items, suggestions.generation.candidates[0].token_ids))
            pieces: list[str] = []
            edited = await assistant.edit(make_document(CODE + "total\n"), "Add a docstring", None, pieces.append)
            found += [getattr(edited, "diff", edited), "".join(pieces)]
            return found

    expected = await answers(open_thread_engine(settings))
    assert await answers(open_engine(settings)) == expected and expected[-1].startswith(" @@")


async def test_clients_that_start_at_once_find_one_host() -> None:
    """Four at a time, before there is a host."""
    settings = make_settings(cacheMegabytes=7)
    engines: list[Any] = [open_engine(settings) for _ in range(4)]
    try:
        await asyncio.gather(*(engine.load(ModelRole.COMPLETE).result() for engine in engines))
        assert len({engine.process for engine in engines}) == 1
    finally:
        for engine in engines:
            engine.close()


# A host that dies.


def host_process_of(engine: Any) -> int:
    """Return the id of the host's process."""
    process = engine.process
    assert isinstance(process, int)
    return process


def engine_of(editor_server: Server) -> HostEngine:
    """Return a server's engine."""
    engine = editor_server.session.assistant._engine
    assert isinstance(engine, HostEngine)
    return engine


@posix
async def test_killed_host_costs_no_answer_and_one_message() -> None:
    """It is killed while suggestions are in flight; the next one comes from a new host, in the same session."""
    server = Server(OPTIONS)
    async with in_process(server) as editor:
        await editor.start({})
        buffer = editor.open(CODE)
        assert await editor.ghost(buffer, len(CODE))
        engine, killed = engine_of(server), host_process_of(engine_of(server))
        responses = [
            editor.request(
                "textDocument/inlineCompletion", {**editor.at(buffer, offset), "context": {"triggerKind": 1}}
            )
            for offset in (3, 20, 40)
        ]
        await wait_until(lambda: engine._sent)
        os.kill(killed, signal.SIGKILL)
        for response in responses:
            result = await asyncio.wait_for(response, TIMEOUT)
            assert result is None or isinstance(result["items"], list)
        shown = await editor.until("window/showMessage")
        assert "is started again" in shown["message"]
        await wait_until(
            lambda: engine.process not in (None, killed) and engine.status(ModelRole.COMPLETE).state is ModelState.READY
        )
        offset = editor.type(buffer, len(CODE), "total")
        assert await editor.ghost(buffer, offset) is not None
        document_now = server.session.documents.get(buffer.uri)
        assert document_now is not None and document_now.text == buffer.text


@posix
async def test_host_killed_during_an_edit_does_not_change_the_text() -> None:
    """Only the edit's answer tells the user."""
    server = Server({**OPTIONS, "edit": {"maxTokens": 800, "temperature": 1.0, "candidates": 8}})
    async with in_process(server) as editor:
        await editor.start({})
        buffer = editor.open("\n".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(12)))
        before = buffer.text
        engine = engine_of(server)
        killed = host_process_of(engine)
        await editor.edit(buffer, "Add a docstring to each function")
        await wait_until(lambda: engine._sent)
        os.kill(killed, signal.SIGKILL)
        outcome = await editor.outcome()
        assert "no edit" in outcome["message"] and "is started again" in outcome["message"]
        await wait_until(
            lambda: engine.process not in (None, killed) and engine.status(ModelRole.COMPLETE).state is ModelState.READY
        )
        assert buffer.text == before


@posix
async def test_no_message_if_host_is_killed_while_idle() -> None:
    """The next suggestion comes as usual."""
    server = Server(OPTIONS)
    async with in_process(server) as editor:
        await editor.start({})
        buffer = editor.open(CODE)
        engine = engine_of(server)
        killed = host_process_of(engine)
        os.kill(killed, signal.SIGKILL)
        await wait_until(
            lambda: engine.process not in (None, killed) and engine.status(ModelRole.COMPLETE).state is ModelState.READY
        )
        assert await editor.ghost(buffer, len(CODE))
        await editor.stop()


def open_scripted_engine(
    script: Path,
    settings: Settings,
    on_status: StatusListener | None = None,
    on_reachable: Callable[[bool], None] | None = None,
) -> HostEngine:
    """Open an engine in a scripted host's process."""
    host_address = HostAddress(prepare_runtime_folder(), script.stem)
    command = [sys.executable, "-m", "tests.scripted_host", "--at"]
    command += [str(host_address.folder / host_address.name), str(script)]

    async def connect(notifications: Notifications) -> HostConnection:
        return await connect_or_start(host_address, command, 0.2, notifications)

    return HostEngine(connect, resolve_model_specs(settings), on_status, on_reachable)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """Write a scripted host's script."""
    path = tmp_path / f"s{os.getpid()}{time.monotonic_ns() % 10**6}.json"
    path.write_text(json.dumps({"complete": "total"}))
    return path


async def test_hung_host_exits_and_every_request_is_answered(script: Path, folder: Path) -> None:
    """A step never ends; afterwards another process serves."""
    statuses: list[tuple[str, ModelStatus]] = []
    settings = make_settings()
    engine = open_scripted_engine(
        script,
        settings,
        lambda *status: statuses.append(status),
    )
    async with open_assistant(settings, engine) as assistant:
        hung = engine.process
        script.write_text(json.dumps({"fault": "hang"}))
        for outcome in await asyncio.gather(
            assistant.complete(make_document(), len(CODE)),
            assistant.edit(make_document(), "Do it"),
            return_exceptions=True,
        ):
            assert isinstance(outcome, (EngineError, Refusal)) and "hangs" in str(outcome)
        script.write_text(json.dumps({"complete": "total"}))
        await wait_until(
            lambda: engine.process not in (None, hung) and engine.status(ModelRole.COMPLETE).state is ModelState.READY
        )
        assert (await assistant.complete(make_document(), len(CODE))).items[0].text == "total"
        assert not [status for _, status in statuses if status.state is ModelState.FAILED]
    assert engine.process is None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients wait less for a host that is silent."""
    for name, value in (("_SILENCE_INTERVAL", 0.05), ("_MAX_SILENCES", 2)):
        monkeypatch.setattr(client, name, value)
    monkeypatch.setattr("codeclippy_ls.host.process._STILL_SECONDS", 0.3)
    monkeypatch.setattr("codeclippy_ls.host.start._LOCKED_TIMEOUT", 0.3)


def open_fallback(script: Path, settings: Settings, on_status: StatusListener | None = None) -> FallbackEngine:
    """Open a scripted host's engine with a scripted thread in its place if it cannot be used."""

    def open_shared(listener: StatusListener, on_reachable: Callable[[bool], None]) -> HostEngine:
        return open_scripted_engine(script, settings, listener, on_reachable)

    def open_own(specs: Any, listener: StatusListener) -> ThreadEngine:
        return ThreadEngine(lambda: FileWorker(script), specs, listener)

    return FallbackEngine(resolve_model_specs(settings), open_shared, open_own, on_status)


def shared_engine_of(engine: FallbackEngine) -> HostEngine:
    """Return the engine that a fallback engine prefers."""
    assert isinstance(engine.shared, HostEngine)
    return engine.shared


@linux
@pytest.mark.usefixtures("impatient")
async def test_suspended_host_is_ended_and_replaced(script: Path) -> None:
    """Whoever waits for it is answered, and the next suggestion comes from another host."""
    settings = make_settings()
    engine = open_scripted_engine(script, settings)
    async with open_assistant(settings, engine) as assistant:
        suspended = host_process_of(engine)
        os.kill(suspended, signal.SIGSTOP)
        outcome = await asyncio.wait_for(assistant.edit(make_document(), "Do it"), TIMEOUT)
        assert isinstance(outcome, Refusal) and "does not answer" in outcome.reason
        await wait_until(
            lambda: (
                engine.process not in (None, suspended) and engine.status(ModelRole.COMPLETE).state is ModelState.READY
            )
        )
        assert not is_running(suspended)
        assert (await assistant.complete(make_document(), len(CODE))).items


@linux
async def test_thread_serves_while_the_host_is_suspended(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the client that knew it and in a new one; once it runs again, both are back."""
    monkeypatch.setattr(client, "_MAX_SILENCES", 10**6)
    monkeypatch.setattr("codeclippy_ls.fallback_engine._KEEP_SECONDS", 0.05)
    settings, statuses = make_settings(), list[ModelStatus]()
    engine = open_fallback(script, settings, lambda model, status: statuses.append(status))
    async with open_assistant(settings, engine) as assistant:
        suspended = host_process_of(shared_engine_of(engine))
        try:
            os.kill(suspended, signal.SIGSTOP)
            pending = asyncio.ensure_future(assistant.edit(make_document(), "Do it"))
            await wait_until(lambda: engine.uses_own and engine.status(ModelRole.COMPLETE).state is ModelState.READY)
            assert isinstance(await pending, Refusal)
            assert (await assistant.complete(make_document(), len(CODE))).items
            newcomer = open_fallback(script, settings)
            async with open_assistant(settings, newcomer) as other:
                assert newcomer.uses_own and (await other.complete(make_document(), len(CODE))).items
        finally:
            os.kill(suspended, signal.SIGCONT)
        # On a busy machine it may count as silent again for a moment.
        await wait_until(lambda: not engine.uses_own and engine.status(ModelRole.COMPLETE).state is ModelState.READY)
        assert (await assistant.complete(make_document(), len(CODE))).items
        assert host_process_of(shared_engine_of(engine)) == suspended
        await wait_until(lambda: not engine._requests and engine._own is None)
        assert not [status for status in statuses if status.reason]


@linux
@pytest.mark.usefixtures("impatient")
async def test_replaced_host_exits_when_it_runs_again(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that could not be killed, since it was frozen."""
    settings, kill = make_settings(), os.kill
    monkeypatch.setattr("codeclippy_ls.host.process._END_TIMEOUT", 0.1)
    engine = open_scripted_engine(script, settings)
    async with open_assistant(settings, engine):
        frozen = host_process_of(engine)
        os.kill(frozen, signal.SIGSTOP)
        monkeypatch.setattr(os, "kill", lambda *arguments: None)
        await wait_until(lambda: engine.process not in (None, frozen))
        monkeypatch.setattr(os, "kill", kill)
        other = engine.process
        os.kill(frozen, signal.SIGCONT)
        await wait_until(lambda: not is_running(frozen))
        await asyncio.wait_for(engine.load(ModelRole.COMPLETE).result(), TIMEOUT)
        assert engine.process == other


@linux
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("is_known", [True, False])
async def test_host_that_is_stopped_before_it_listens_is_replaced(script: Path, is_known: bool) -> None:
    """It holds the lock, and there is no socket; its process may be known or not."""
    settings, host_address = make_settings(), HostAddress(prepare_runtime_folder(), script.stem)
    code = "import fcntl, os, signal, sys; lock = open(sys.argv[2], 'w'); fcntl.flock(lock, 2); print(flush=True); "
    code += "os.kill(os.getpid(), signal.SIGSTOP)"
    command = [sys.executable, "-c", code, str(host_address.folder / host_address.name), str(host_address.lock)]
    stopped = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert stopped.stdout is not None
    await stopped.stdout.readline()
    if is_known:
        host_address.process.write_text(str(stopped.pid))
    try:
        async with open_assistant(settings, open_scripted_engine(script, settings)) as assistant:
            assert (await assistant.complete(make_document(), len(CODE))).items
            assert is_running(stopped.pid) != is_known
    finally:
        with contextlib.suppress(ProcessLookupError):
            stopped.kill()
        await stopped.wait()


async def test_only_the_silent_process_is_ended(tmp_path: Path) -> None:
    """Not the one that took its place, and not another program that has its number."""
    host_address = HostAddress(tmp_path, "x")
    host_address.process.write_text(str(os.getpid()))
    assert find_host_process(host_address) is None  # pytest is no host
    host_address.lock.write_text("")
    replace_host(host_address, HostProcess(2**30))
    assert host_address.lock.exists()
    host_address.process.unlink()
    os.mkfifo(host_address.process)
    assert find_host_process(host_address) is None  # and nobody waits for a writer


@pytest.mark.parametrize("fault", ["crash", "hang"])
async def test_model_that_costs_hosts_is_left_and_others_go_on(
    fault: str, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the third loss it has failed, with a reason that names it; another client's model is ready again."""
    monkeypatch.setattr(client, "RETRY_DELAYS", (0.01,) * 4)
    good, bad = make_settings(), make_settings(completion="/bad")
    async with open_assistant(good, open_scripted_engine(script, good)) as assistant:
        script.write_text(json.dumps({"load_crash": "/bad"} if fault == "crash" else {}))
        engine = open_scripted_engine(script, bad)
        other = Assistant(engine, bad)
        try:
            if fault == "crash":
                with pytest.raises(EngineError, match="3 times over /bad; choose another model"):
                    await asyncio.wait_for(other.load(), TIMEOUT)
            else:
                await other.load()
                script.write_text(json.dumps({"fault": "hang", "fault_model": "/bad", "complete": "total"}))
                for _ in range(3):
                    await wait_until(lambda: engine.status(ModelRole.COMPLETE).state is ModelState.READY)
                    with pytest.raises(EngineError, match="hangs"):
                        await other.complete(make_document(), len(CODE))
                await wait_until(lambda: engine.status(ModelRole.COMPLETE).state is ModelState.FAILED)
                assert "hangs" in engine.status(ModelRole.COMPLETE).reason
            script.write_text(json.dumps({"complete": "total"}))
            await wait_until(lambda: assistant.status(ModelRole.COMPLETE).state is ModelState.READY)
            assert (await assistant.complete(make_document(), len(CODE))).items
            await asyncio.wait_for(other.load(), TIMEOUT)  # the user asks for it again
            assert (await other.complete(make_document(), len(CODE))).items
        finally:
            await other.aclose()


async def test_cancelling_frees_the_host_within_a_step(script: Path) -> None:
    """An edit of ten minutes, cancelled by its client; then by a client that disconnects."""
    settings = make_settings()
    async with open_assistant(settings, open_scripted_engine(script, settings)) as assistant:
        script.write_text(json.dumps({"delay": 600, "edit": "@@"}))
        edit = asyncio.ensure_future(assistant.edit(make_document(), "Do it"))
        await wait_until(lambda: assistant._engine._sent)  # type: ignore[attr-defined]
        await asyncio.sleep(0.1)
        edit.cancel()
        async with open_assistant(
            settings,
            open_scripted_engine(script, settings),
        ) as leaving:
            left = asyncio.ensure_future(leaving.edit(make_document(), "Do it"))
            await wait_until(lambda: leaving._engine._sent)  # type: ignore[attr-defined]
        assert isinstance(await left, Refusal)
        await asyncio.sleep(0.1)
        script.write_text(json.dumps({"edit": ""}))
        assert isinstance(await asyncio.wait_for(assistant.edit(make_document(), "Do it"), TIMEOUT), Refusal)


async def test_unused_host_exits_and_leaves_nothing_behind(script: Path) -> None:
    """Its socket is removed; the socket of a dead host is no obstacle."""
    settings = make_settings()
    host_address = HostAddress(prepare_runtime_folder(), script.stem)
    async with open_assistant(settings, open_scripted_engine(script, settings)) as assistant:
        first = host_process_of(assistant._engine)
        assert host_address.socket.exists()
    await wait_until(lambda: not is_running(first) and not host_address.socket.exists())
    async with open_assistant(settings, open_scripted_engine(script, settings)) as assistant:
        second = host_process_of(assistant._engine)
        os.kill(second, signal.SIGTERM)
        await wait_until(lambda: not is_running(second))
        assert host_address.socket.exists()
        await wait_until(
            lambda: (
                assistant._engine.process not in (None, second)  # type: ignore[attr-defined]
                and assistant.status(ModelRole.COMPLETE).state is ModelState.READY
            )
        )
        assert (await assistant.complete(make_document(), len(CODE))).items


def is_running(process: int) -> bool:
    """Return whether a process runs; False for one that ended and was not waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        try:
            os.kill(process, 0)
        except OSError:
            return False
        return not Path("/proc").exists()


async def test_host_that_cannot_be_started_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last try; the reload command tries again."""
    monkeypatch.setattr(client, "RETRY_DELAYS", (0.01, 0.01))
    tries = 0

    async def connect(notifications: Notifications) -> HostConnection:
        nonlocal tries
        tries += 1
        return await connect_or_start(
            HostAddress(prepare_runtime_folder(), "broken"), [sys.executable, "-c", "exit(3)"], 1.0, notifications
        )

    def open_broken(settings: Settings, on_status: Any) -> HostEngine:
        return HostEngine(connect, resolve_model_specs(settings), on_status)

    async with in_process(Server(OPTIONS, open_broken)) as editor:
        await editor.start({})
        shown = await editor.until("window/showMessage")
        assert "exit code 3" in shown["message"] and "codeclippy.reloadModel" in shown["message"] and tries == 3
        buffer = editor.open(CODE)
        assert await editor.ghost(buffer, len(CODE)) == []
        await editor.call("workspace/executeCommand", {"command": "codeclippy.reloadModel"})
        again = await editor.until("window/showMessage")
        assert again["message"] == shown["message"] and tries == 6


async def test_every_request_is_answered_if_connecting_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even an exception that nobody foresaw."""
    monkeypatch.setattr(client, "RETRY_DELAYS", (0.01,))

    async def connect(notifications: Notifications) -> HostConnection:
        raise ZeroDivisionError

    engine = HostEngine(connect, resolve_model_specs(make_settings()))
    task = CompletionTask(CompletionContext("a", ""), 4)
    handles = [engine.load(ModelRole.COMPLETE), engine.submit(Request(task, Sampling(), ModelRole.COMPLETE))]
    for handle in handles:
        with pytest.raises(EngineError, match="cannot be reached"):
            await asyncio.wait_for(handle.result(), TIMEOUT)
    engine.close()


# States that have failed, each entered and left by the advice of its own message.


@posix
async def test_unsafe_folder_is_left_by_removing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the command that the message names loads the model."""
    parent = Path(tempfile.mkdtemp(prefix="cc-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(parent))
    (parent / "codeclippy").mkdir()
    (parent / "codeclippy").chmod(0o755)
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"complete": "total"}))

    def open_shared(settings: Settings, on_status: Any) -> HostEngine:
        return open_late_scripted_engine(path, settings, on_status)

    try:
        async with in_process(Server(OPTIONS, open_shared)) as editor:
            await editor.start({})
            shown = (await editor.until("window/showMessage"))["message"]
            assert "or remove it. Then run the command codeclippy.reloadModel" in shown
            (parent / "codeclippy").rmdir()
            await reload(editor)
            assert await editor.ghost(editor.open(CODE), len(CODE))
    finally:
        while parent.exists():
            shutil.rmtree(parent, ignore_errors=True)


async def test_host_that_could_not_be_started_is_left_by_reloading(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once what was wrong with it is right."""
    monkeypatch.setattr(client, "RETRY_DELAYS", (0.01,))
    program = ["-c", "exit(3)"]

    def open_shared(settings: Settings, on_status: Any) -> HostEngine:
        return open_late_scripted_engine(script, settings, on_status, program)

    async with in_process(Server(OPTIONS, open_shared)) as editor:
        await editor.start({})
        shown = (await editor.until("window/showMessage"))["message"]
        assert "could not be started (exit code 3)" in shown and "run the command codeclippy.reloadModel" in shown
        program.clear()
        await reload(editor)
        assert await editor.ghost(editor.open(CODE), len(CODE))


async def test_rejected_client_is_left_by_restarting_only(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message does not name the command, which cannot help; another server with the host's code works."""
    settings = make_settings()

    def open_shared(settings: Settings, on_status: Any) -> HostEngine:
        return open_scripted_engine(script, settings, on_status)

    async with open_assistant(settings, open_scripted_engine(script, settings)):
        with monkeypatch.context() as patch:
            patch.setattr("codeclippy_ls.host.start.CODE_VERSION", "0.0.0 1")
            async with in_process(Server(OPTIONS, open_shared)) as editor:
                await editor.start({})
                shown = (await editor.until("window/showMessage"))["message"]
                assert shown.endswith("restart the language server")
        async with in_process(Server(OPTIONS, open_shared)) as editor:
            await editor.start({})
            assert await editor.ghost(editor.open(CODE), len(CODE))


async def reload(editor: Editor) -> None:
    """Run the command that loads the model again, and wait until it is ready."""
    seen = len(editor.seen)
    await editor.call("workspace/executeCommand", {"command": "codeclippy.reloadModel"})
    await wait_until(
        lambda: any(
            message.get("method") == "codeclippy/status" and message["params"]["state"] == "ready"
            for message in editor.seen[seen:]
        )
    )


def open_late_scripted_engine(
    script: Path, settings: Settings, on_status: StatusListener | None, program: list[str] | None = None
) -> HostEngine:
    """Open a scripted host's engine whose address and program are found at each try, as the real one's are."""

    async def connect(notifications: Notifications) -> HostConnection:
        host_address = HostAddress(prepare_runtime_folder(), script.stem)
        command = ["-m", "tests.scripted_host", "--at", str(host_address.folder / host_address.name), str(script)]
        return await connect_or_start(host_address, [sys.executable, *(program or command)], 0.2, notifications)

    return HostEngine(connect, resolve_model_specs(settings), on_status)


# Clients that are accepted.


class RawClient(Editor):
    """A client that speaks frames and checks nothing at its end."""


@asynccontextmanager
async def running_host(host_address: HostAddress, script: ScriptedWorker | None = None) -> AsyncIterator[EngineHost]:
    """Run a host on this loop, over a script."""

    def open_scripted(on_status: Callable[[str, ModelStatus], None]) -> ThreadEngine:
        return ThreadEngine(lambda: script or ScriptedWorker(), {}, on_status)

    host = EngineHost(host_address, open_scripted)
    task = asyncio.ensure_future(host.run())
    try:
        await wait_until(host_address.socket.exists)
        yield host
        host.idle_seconds = 0.0
        await asyncio.wait_for(task, TIMEOUT)
        assert not host_address.socket.exists()
    finally:
        task.cancel()
        assert await asyncio.to_thread(host.engine.join, TIMEOUT)


@pytest.mark.parametrize("loopback", [False, True])
async def test_host_accepts_only_clients_with_token_and_same_version(loopback: bool, tmp_path: Path) -> None:
    """Over a socket and over a port; every other client gets a reason and is not served."""
    host_address = HostAddress(prepare_runtime_folder(), f"raw{loopback}", loopback or address.LOOPBACK)
    async with running_host(host_address) as host:
        if loopback and os.name == "posix":
            assert host_address.socket.stat().st_mode & 0o777 == 0o600
        good = {"version": host.version, "token": host.token, "idle_seconds": 5.0}
        for handshake, reason in (
            ({**good, "version": "0.0.0 1 2"}, "restart the language server"),
            ({**good, "token": "guess"}, "rejects this client"),
        ):
            reader, writer, token = await address.open_connection(host_address)
            assert token == host.token
            raw = RawClient(reader, writer.write)
            with pytest.raises(Exception, match=reason):
                await raw.call("handshake", handshake)
            await asyncio.wait_for(raw._task, TIMEOUT)
            writer.close()
        reader, writer, _ = await address.open_connection(host_address)
        raw = RawClient(reader, writer.write)
        with pytest.raises(Exception, match="handshake first"):
            await raw.call("load", {"spec": messages.encode_spec(ModelSpec())})
        assert (await raw.call("handshake", good))["statuses"] == []
        assert await raw.call("load", {"spec": messages.encode_spec(ModelSpec())}) is None
        with pytest.raises(Exception, match="-32601"):
            await raw.call("other", {})
        raw.send_raw(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.wait_for(raw._task, TIMEOUT)
        writer.close()
        await wait_until(lambda: not host.sessions)


async def test_host_removes_only_its_own_socket() -> None:
    """If its files were removed, another host may have taken their place; it exits, since nobody can find it."""
    host_address = HostAddress(prepare_runtime_folder(), "moved", loopback=True)
    host = EngineHost(host_address, lambda on_status: ThreadEngine(ScriptedWorker, {}, on_status))
    task = asyncio.ensure_future(host.run())
    await wait_until(host_address.socket.exists)
    host_address.socket.rename(host_address.socket.with_suffix(".old"))
    host_address.socket.write_text("another's")
    assert await asyncio.wait_for(task, TIMEOUT) == 0 and host_address.socket.read_text() == "another's"
    host_address.socket.unlink()


@pytest.fixture
def watchdog(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the calls to the timer that would end this process."""
    calls: list[str] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *args, **options: calls.append("armed"))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: calls.append("cancelled"))
    return calls


async def test_host_inside_another_process_arms_no_watchdog(watchdog: list[str]) -> None:
    """The watchdog would end the process that runs the host, such as pytest."""
    async with running_host(HostAddress(prepare_runtime_folder(), "unwatched")):
        await asyncio.sleep(0)
    assert watchdog == []


@pytest.mark.parametrize("fails", [False, True])
def test_host_process_arms_its_watchdog_and_cancels_it(
    fails: bool, watchdog: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the engine cannot be opened."""

    def open_engine(on_status: Callable[[str, ModelStatus], None]) -> ThreadEngine:
        if fails:
            raise ZeroDivisionError
        return ThreadEngine(ScriptedWorker, {}, on_status)

    def fake_exit(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(faulthandler, "enable", lambda: None)
    monkeypatch.setattr(os, "_exit", fake_exit)
    monkeypatch.setattr("codeclippy_ls.host.engine_host._FIRST_CLIENT_TIMEOUT", 0.0)  # nobody comes
    with pytest.raises(ZeroDivisionError if fails else SystemExit):
        run_host(HostAddress(prepare_runtime_folder(), "watched"), open_engine)
    assert watchdog[-1] == "cancelled" and ("armed" in watchdog or fails)


def test_host_whose_folder_was_removed_does_not_make_it_again(tmp_path: Path) -> None:
    """It would be open to others, and nobody would find the host."""
    host_address = HostAddress(tmp_path / "removed", "x")
    assert run_host(host_address, lambda on_status: ThreadEngine(ScriptedWorker, {}, on_status)) != 0
    assert not host_address.folder.exists()


async def test_failed_model_is_loaded_again_on_request(script: Path) -> None:
    """By ``set_model`` and by ``load``; the host's other models are not touched."""
    settings = make_settings()
    async with open_assistant(settings, open_scripted_engine(script, settings)) as assistant:
        engine, other = assistant._engine, ModelSpec("/other")
        script.write_text(json.dumps({"load_error": "no such model", "complete": "total"}))
        engine.set_model(ModelRole.EDIT, other)
        with pytest.raises(EngineError, match="no such model"):
            await engine.load(ModelRole.EDIT).result()
        assert (engine.status(ModelRole.EDIT).state, engine.status(ModelRole.COMPLETE).state) == (
            ModelState.FAILED,
            ModelState.READY,
        )
        script.write_text(json.dumps({"complete": "total"}))
        engine.set_model(ModelRole.EDIT, other)
        await wait_until(lambda: engine.status(ModelRole.EDIT).state is ModelState.READY)
        assert (await assistant.complete(make_document(), len(CODE))).items[0].text == "total"


async def test_model_that_a_client_replaced_is_unloaded() -> None:
    """A client that stays connected uses another model: the memory of the old one is released."""
    host_address, script = HostAddress(prepare_runtime_folder(), "replace"), ScriptedWorker()

    async def connect(notifications: messages.Notifications) -> HostConnection:
        return await connect_or_start(host_address, [], 5.0, notifications)

    async with running_host(host_address, script):
        engine = HostEngine(connect, {role: ModelSpec("one") for role in ModelRole})
        await engine.load(ModelRole.COMPLETE).result()
        engine.set_model(ModelRole.COMPLETE, ModelSpec("two"))
        await engine.load(ModelRole.COMPLETE).result()
        assert not script.unloaded, "it is still the model for edits"
        engine.set_model(ModelRole.EDIT, ModelSpec("two"))
        engine.set_model(ModelRole.COMPLETE, ModelSpec("three"))
        await engine.load(ModelRole.COMPLETE).result()
        assert script.unloaded == [repr(ModelSpec("one"))]
        engine.close()


async def test_unused_models_are_unloaded_only_for_another() -> None:
    """Only when another model is loaded: a client that comes back finds its model loaded."""
    host_address, script = HostAddress(prepare_runtime_folder(), "room"), ScriptedWorker()

    @asynccontextmanager
    async def connect_client(host: EngineHost) -> AsyncIterator[RawClient]:
        reader, writer, token = await address.open_connection(host_address)
        raw = RawClient(reader, writer.write)
        await raw.call("handshake", {"version": host.version, "token": token, "idle_seconds": 5.0})
        yield raw
        writer.close()
        await asyncio.wait_for(raw._task, TIMEOUT)

    one, two = ({"spec": messages.encode_spec(ModelSpec(name))} for name in ("one", "two"))
    async with running_host(host_address, script) as host:
        async with connect_client(host) as first:
            await first.call("load", one)
            async with connect_client(host) as second:
                await second.call("load", two)
                assert not script.unloaded
            await wait_until(lambda: len(host.sessions) == 1)
        await wait_until(lambda: not host.sessions)
        async with connect_client(host) as third:
            await third.call("load", two)
            assert not script.unloaded
            await third.call("load", {"spec": messages.encode_spec(ModelSpec("three"))})
            assert script.unloaded == [repr(ModelSpec("one"))]
            await third.call("load", one)


@posix
async def test_host_disconnects_client_that_stops_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are served during that and afterwards."""
    monkeypatch.setattr(framing, "MAX_UNSENT", 1 << 20)  # in addition to the system's buffers
    host_address, script = HostAddress(prepare_runtime_folder(), "unread"), ScriptedWorker()
    spec = messages.encode_spec(ModelSpec())

    def submit(id: int, before: str = "x = ") -> dict[str, Any]:
        task = messages.encode_task(CompletionTask(CompletionContext(before, ""), 8))
        return {"id": id, "priority": 0, "spec": spec, "task": task, "sampling": {"max_tokens": 64}, "stream": False}

    async with running_host(host_address, script) as host:
        handshake = {"version": host.version, "token": host.token, "idle_seconds": 5.0}
        reading, writing, _ = await address.open_connection(host_address)
        _, writer, _ = await address.open_connection(host_address)
        stuck, responsive = RawClient(asyncio.StreamReader(), writer.write), RawClient(reading, writing.write)
        stuck.request("handshake", handshake)
        await responsive.call("handshake", handshake)
        await responsive.call("load", {"spec": spec})
        script.response = lambda prompt: "y" * (100_000 if "unread" in prompt else 1)
        await wait_until(lambda: len(host.sessions) == 2)
        for id in range(30):  # 3 MB in answers that nobody reads
            stuck.request("submit", submit(id, "unread = "))
            assert await responsive.call("submit", submit(id))
        await wait_until(lambda: len(host.sessions) == 1)
        assert await responsive.call("submit", submit(99))
        writing.close()
        stuck._task.cancel()
        writer.close()


async def test_client_of_another_version_gets_one_message(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host goes on for clients of its own version."""
    settings = make_settings()
    async with open_assistant(settings, open_scripted_engine(script, settings)) as assistant:
        process = host_process_of(assistant._engine)
        with monkeypatch.context() as patch:
            patch.setattr("codeclippy_ls.host.start.CODE_VERSION", "0.0.0 1")
            other = open_scripted_engine(script, settings)
            with pytest.raises(EngineError, match="restart the language server"):
                await other.load(ModelRole.COMPLETE).result()
            assert other.status(ModelRole.EDIT).state is ModelState.FAILED
            other.close()
        assert (await assistant.complete(make_document(), len(CODE))).items
        assert assistant._engine.process == process  # type: ignore[attr-defined]
