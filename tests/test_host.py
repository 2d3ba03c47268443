"""The engine host: real processes over one model; what kills it costs no document, no connection and no answer."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import shutil
import signal
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
from codeclippy_ls.host import address, client, messages
from codeclippy_ls.host.address import HostAddress, HostError, prepare_runtime_folder, resolve_host_address
from codeclippy_ls.host.client import HostEngine
from codeclippy_ls.host.engine_host import EngineHost, run_host
from codeclippy_ls.host.start import HostConnection, Notifications, connect_or_start
from codeclippy_ls.inference.engine import ModelState, ModelStatus
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation, Request, Sampling
from codeclippy_ls.inference.spec import ModelRole, ModelSpec
from codeclippy_ls.model_specs import model_specs
from codeclippy_ls.prompts.build import CompletionContext
from codeclippy_ls.server.server import Server
from codeclippy_ls.settings import EditSettings, Settings, parse
from codeclippy_ls.tasks.completion import CompletionTask
from codeclippy_ls.tasks.edit import ContextDiff, EditTask
from codeclippy_ls.tasks.edit_context import select_edit_context
from codeclippy_ls.tasks.model_info import ModelInfo
from codeclippy_ls.text import Document
from tests.editor import TIMEOUT, Editor, in_process, process
from tests.scripted import ScriptedWorker

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes by /proc")
posix = pytest.mark.skipif(os.name != "posix", reason="signals and Unix-domain sockets")
SECRET = "s3cret_name"  # of the documents, and in no log
CODE = f"def mean_{SECRET}(values):\n    total = 0\n    for value in values:\n        total += value\n    return "
OPTIONS: dict[str, Any] = {
    "model": {"engine": "shared", "device": "cpu", "dtype": "float32"},
    "completion": {"timeBudgetMs": 20000},
}


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[Path]:
    """A place for this module's sockets, with a short name; hosts that nobody uses end when it is gone."""
    made = Path(tempfile.mkdtemp(prefix="cc-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(made))
        patch.setenv("LOCALAPPDATA", str(made))
        yield made
    for log in made.rglob("*.log"):
        assert SECRET not in log.read_text(encoding="utf-8")
    shutil.rmtree(made)


def settings(**model: Any) -> Settings:
    """Those of the tests, with changes."""
    made, problems = parse({**OPTIONS, "model": {**OPTIONS["model"], **model}})
    assert not problems
    return made


def document(text: str = CODE) -> Document:
    """A document."""
    return Document("file:///x.py", text, 1, "python")


@asynccontextmanager
async def assistant(made: Settings | None = None, engine: Any = None) -> AsyncIterator[Assistant]:
    """An assistant over the host, or another engine."""
    made = made or settings()
    subject = Assistant(engine or open_engine(made), made)
    try:
        await subject.prepare()
        yield subject
    finally:
        await subject.close()


async def until(condition: Callable[[], Any], seconds: float = TIMEOUT) -> None:
    """Wait for a condition on this loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.01)


# What crosses the wire.


@pytest.mark.parametrize(
    "ask",
    [
        CompletionTask(CompletionContext("a\r\n\ud800", "\x00é😀", "x.py"), 48, False, "clippy"),
        EditTask("x.py", select_edit_context(document("a\n\fb\u2028\udfff\n"), (0, 1), None), "do\nit", 400),
    ],
)
def test_asks_and_answers_survive_the_wire(ask: Any) -> None:
    """Every character, half ones too."""

    def sent(value: Any) -> Any:
        return json.loads(json.dumps(value))

    assert messages.ask_from(sent(messages.ask_to(ask))) == ask
    answer = ContextDiff("@@\ud800", 1, 2) if isinstance(ask, EditTask) else "text\udfff"
    candidate = Candidate("text", (1, 2), -0.1 / 3, FinishReason.STOP, answer)
    generation = Generation(FinishReason.TIME, (candidate, candidate), 7, 5, 0.1, 0.2)
    assert messages.generation_from(sent(messages.generation_to(generation)), ask) == generation
    spec = ModelSpec("a/b", "cpu", "int8", 2)
    for status in (
        ModelStatus(ModelState.FAILED, "why"),
        ModelStatus(ModelState.READY, "", ModelInfo("a", "b", (("x", 1),), True, 9)),
    ):
        assert messages.status_from(sent(messages.status_to(spec, status))) == (spec, status)


# Where it is found.


@posix
def test_the_folder_must_be_the_user_s_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not open to others, not a link, not a file; made where it is missing."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert prepare_runtime_folder().stat().st_mode & 0o777 == 0o700
    (tmp_path / "codeclippy").chmod(0o755)
    with pytest.raises(HostError, match="only you can reach"):
        prepare_runtime_folder()
    (tmp_path / "codeclippy").rmdir()
    (tmp_path / "codeclippy").symlink_to(tmp_path)
    with pytest.raises(HostError, match="only you can reach"):
        prepare_runtime_folder()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert prepare_runtime_folder() == tmp_path / f"codeclippy-{os.getuid()}"


def test_hosts_that_differ_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """By settings of the whole process, by environment, by version; not by model."""
    base = resolve_host_address(settings())
    assert resolve_host_address(settings(complete="/other", idleMinutes=3)) == base
    for name in ("PYTHONSTARTUP", "PYTHON_BASIC_REPL", "TERM_PROGRAM"):  # of an editor's terminal
        monkeypatch.setenv(name, "1")
    assert resolve_host_address(settings()) == base
    others = [
        resolve_host_address(settings(threads=3)),
        resolve_host_address(settings(device="cuda")),
        resolve_host_address(settings(cacheMegabytes=1)),
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    others.append(resolve_host_address(settings()))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(address, "__version__", "0.0.0")
    others.append(resolve_host_address(settings()))
    assert len({one.name for one in (base, *others)}) == 6


# Two editors, one model.


@linux
async def test_two_servers_share_one_host_and_load_no_model(folder: Path) -> None:
    """Real processes that show the same; nobody but the user reaches the socket."""
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
    where = resolve_host_address(settings())
    modes = {path: path.stat().st_mode & 0o777 for path in (where.folder, where.socket, where.lock, where.log)}
    assert modes == {where.folder: 0o700, where.socket: 0o600, where.lock: 0o600, where.log: 0o600}
    async with assistant() as third:
        assert "libtorch" in Path(f"/proc/{third.engine.process}/maps").read_text()  # type: ignore[attr-defined]


async def test_greedy_output_is_the_in_process_engine_s() -> None:
    """Suggestions and edits, token for token."""
    made = replace(settings(cacheMegabytes=0), edit=EditSettings(temperature=0.0))

    async def answers(engine: Any) -> list[Any]:
        async with assistant(made, engine) as subject:
            found: list[Any] = []
            for offset in (len(CODE), CODE.index("total +="), CODE.index("\n") + 1):
                suggestions = await subject.complete(document(), offset)
                assert suggestions.generation is not None
                found.append((suggestions.items, suggestions.generation.candidates[0].token_ids))
            pieces: list[str] = []
            edited = await subject.edit(document(CODE + "total\n"), "Add a docstring", None, pieces.append)
            found += [getattr(edited, "diff", edited), "".join(pieces)]
            return found

    expected = await answers(open_thread_engine(made))
    assert await answers(open_engine(made)) == expected and expected[-1].startswith(" @@")


async def test_whoever_starts_at_once_finds_one_host() -> None:
    """Four at a time, where there is none yet."""
    made = settings(cacheMegabytes=7)
    engines: list[Any] = [open_engine(made) for _ in range(4)]
    try:
        await asyncio.gather(*(engine.load(ModelRole.COMPLETE).result() for engine in engines))
        assert len({engine.process for engine in engines}) == 1
    finally:
        for engine in engines:
            engine.close()


# What kills it.


def process_of(engine: Any) -> int:
    """The host's process."""
    process = engine.process
    assert isinstance(process, int)
    return process


def host_of(editor_server: Server) -> HostEngine:
    """A server's engine."""
    assert editor_server.assistant is not None
    engine = editor_server.assistant.engine
    assert isinstance(engine, HostEngine)
    return engine


@posix
async def test_a_killed_host_costs_no_answer_and_one_message() -> None:
    """Killed while suggestions are under way; the next one comes from a new host, in the same session."""
    server = Server(OPTIONS)
    async with in_process(server) as editor:
        await editor.start({})
        buffer = editor.open(CODE)
        assert await editor.ghost(buffer, len(CODE))
        engine, killed = host_of(server), process_of(host_of(server))
        asked = [
            editor.request(
                "textDocument/inlineCompletion", {**editor.at(buffer, offset), "context": {"triggerKind": 1}}
            )
            for offset in (3, 20, 40)
        ]
        await until(lambda: engine._sent)
        os.kill(killed, signal.SIGKILL)
        for answer in asked:
            result = await asyncio.wait_for(answer, TIMEOUT)
            assert result is None or isinstance(result["items"], list)
        told = await editor.until("window/showMessage")
        assert "is started again" in told["message"]
        await until(
            lambda: engine.process not in (None, killed) and engine.status(ModelRole.COMPLETE).state is ModelState.READY
        )
        offset = editor.type(buffer, len(CODE), "total")
        assert await editor.ghost(buffer, offset) is not None
        document_now = server.documents.get(buffer.uri)
        assert document_now is not None and document_now.text == buffer.text


@posix
async def test_a_host_killed_during_an_edit_leaves_the_text_alone() -> None:
    """The edit says so itself, and nothing else does."""
    server = Server({**OPTIONS, "edit": {"maxTokens": 800, "temperature": 1.0, "candidates": 8}})
    async with in_process(server) as editor:
        await editor.start({})
        buffer = editor.open("\n".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(12)))
        before = buffer.text
        engine = host_of(server)
        killed = process_of(engine)
        await editor.edit(buffer, "Add a docstring to each function")
        await until(lambda: engine._sent)
        os.kill(killed, signal.SIGKILL)
        outcome = await editor.outcome()
        assert "no edit" in outcome["message"] and "is started again" in outcome["message"]
        await until(
            lambda: engine.process not in (None, killed) and engine.status(ModelRole.COMPLETE).state is ModelState.READY
        )
        assert buffer.text == before


@posix
async def test_a_host_killed_while_nothing_was_asked_of_it_is_no_message() -> None:
    """The next suggestion comes as if nothing had been."""
    server = Server(OPTIONS)
    async with in_process(server) as editor:
        await editor.start({})
        buffer = editor.open(CODE)
        engine = host_of(server)
        killed = process_of(engine)
        os.kill(killed, signal.SIGKILL)
        await until(
            lambda: engine.process not in (None, killed) and engine.status(ModelRole.COMPLETE).state is ModelState.READY
        )
        assert await editor.ghost(buffer, len(CODE))
        await editor.stop()


def scripted(folder: Path, script: Path) -> Callable[[Notifications], Any]:
    """Finds or starts a scripted host."""
    where = HostAddress(folder, script.stem)
    command = [sys.executable, "-m", "tests.scripted_host", "--at", str(folder / script.stem), str(script)]

    async def find(notifications: Notifications) -> HostConnection:
        return await connect_or_start(where, command, 0.2, notifications)

    return find


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A scripted host's script."""
    made = tmp_path / f"s{os.getpid()}{time.monotonic_ns() % 10**6}.json"
    made.write_text(json.dumps({"complete": "total"}))
    return made


async def test_a_hung_host_ends_itself_and_everybody_is_answered(script: Path, folder: Path) -> None:
    """A step that never ends; afterwards another process serves."""
    watched: list[tuple[str, ModelStatus]] = []
    made = settings()
    engine = HostEngine(
        scripted(prepare_runtime_folder(), script), model_specs(made), lambda *status: watched.append(status)
    )
    async with assistant(made, engine) as subject:
        hung = engine.process
        script.write_text(json.dumps({"fault": "hang"}))
        for outcome in await asyncio.gather(
            subject.complete(document(), len(CODE)), subject.edit(document(), "Do it"), return_exceptions=True
        ):
            assert isinstance(outcome, (EngineError, Refusal)) and "hangs" in str(outcome)
        script.write_text(json.dumps({"complete": "total"}))
        await until(
            lambda: engine.process not in (None, hung) and engine.status(ModelRole.COMPLETE).state is ModelState.READY
        )
        assert (await subject.complete(document(), len(CODE))).items[0].text == "total"
        assert not [status for _, status in watched if status.state is ModelState.FAILED]
    assert engine.process is None


@posix
async def test_a_stopped_host_is_left_and_everybody_is_answered(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives no sign of life, so its clients end the connection themselves, and give up at last."""
    for name, seconds in (("_BEAT_SECONDS", 0.1), ("_SILENCE_SECONDS", 0.3), ("BACK_OFF", (0.01,))):
        monkeypatch.setattr(client, name, seconds)
    monkeypatch.setattr("codeclippy_ls.host.start._HELLO_SECONDS", 0.3)
    made = settings()
    engine = HostEngine(scripted(prepare_runtime_folder(), script), model_specs(made))
    async with assistant(made, engine) as subject:
        stopped = process_of(engine)
        try:
            os.kill(stopped, signal.SIGSTOP)
            outcome = await asyncio.wait_for(subject.edit(document(), "Do it"), TIMEOUT)
            assert isinstance(outcome, Refusal) and "does not answer" in outcome.reason
            await until(lambda: engine.status(ModelRole.COMPLETE).state is ModelState.FAILED)
        finally:
            os.kill(stopped, signal.SIGCONT)
        monkeypatch.setattr("codeclippy_ls.host.start._HELLO_SECONDS", 10.0)
        monkeypatch.setattr(client, "_SILENCE_SECONDS", 60.0)
        await engine.load(ModelRole.COMPLETE).result()
        assert (await subject.complete(document(), len(CODE))).items


async def test_cancelling_frees_the_host_within_a_step(script: Path) -> None:
    """An edit that would take ten minutes, cancelled by its client; then by a client that leaves."""
    made = settings()
    async with assistant(made, HostEngine(scripted(prepare_runtime_folder(), script), model_specs(made))) as subject:
        script.write_text(json.dumps({"delay": 600, "edit": "@@"}))
        edit = asyncio.ensure_future(subject.edit(document(), "Do it"))
        await until(lambda: subject.engine._sent)  # type: ignore[attr-defined]
        await asyncio.sleep(0.1)
        edit.cancel()
        async with assistant(
            made, HostEngine(scripted(prepare_runtime_folder(), script), model_specs(made))
        ) as leaving:
            left = asyncio.ensure_future(leaving.edit(document(), "Do it"))
            await until(lambda: leaving.engine._sent)  # type: ignore[attr-defined]
        assert isinstance(await left, Refusal)
        await asyncio.sleep(0.1)
        script.write_text(json.dumps({"edit": ""}))
        assert isinstance(await asyncio.wait_for(subject.edit(document(), "Do it"), TIMEOUT), Refusal)


async def test_a_host_that_nobody_uses_ends_and_leaves_nothing_behind(script: Path) -> None:
    """Its socket goes; a socket that a dead one left is no obstacle."""
    made = settings()
    where = HostAddress(prepare_runtime_folder(), script.stem)
    async with assistant(made, HostEngine(scripted(prepare_runtime_folder(), script), model_specs(made))) as subject:
        first = process_of(subject.engine)
        assert where.socket.exists()
    await until(lambda: not alive(first) and not where.socket.exists())
    async with assistant(made, HostEngine(scripted(prepare_runtime_folder(), script), model_specs(made))) as subject:
        second = process_of(subject.engine)
        os.kill(second, signal.SIGTERM)
        await until(lambda: not alive(second))
        assert where.socket.exists()
        await until(
            lambda: (
                subject.engine.process not in (None, second)  # type: ignore[attr-defined]
                and subject.engine.status(ModelRole.COMPLETE).state is ModelState.READY
            )
        )
        assert (await subject.complete(document(), len(CODE))).items


def alive(process: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        try:
            os.kill(process, 0)
        except OSError:
            return False
        return not Path("/proc").exists()


async def test_a_host_that_cannot_be_started_is_given_up_with_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last try; the reload command tries again."""
    monkeypatch.setattr(client, "BACK_OFF", (0.01, 0.01))
    tries = 0

    async def find(notifications: Notifications) -> HostConnection:
        nonlocal tries
        tries += 1
        return await connect_or_start(
            HostAddress(prepare_runtime_folder(), "broken"), [sys.executable, "-c", "exit(3)"], 1.0, notifications
        )

    def opened(made: Settings, on_status: Any) -> HostEngine:
        return HostEngine(find, model_specs(made), on_status)

    async with in_process(Server(OPTIONS, opened)) as editor:
        await editor.start({})
        told = await editor.until("window/showMessage")
        assert "exit code 3" in told["message"] and "codeclippy.reloadModel" in told["message"] and tries == 3
        buffer = editor.open(CODE)
        assert await editor.ghost(buffer, len(CODE)) == []
        await editor.call("workspace/executeCommand", {"command": "codeclippy.reloadModel"})
        again = await editor.until("window/showMessage")
        assert again["message"] == told["message"] and tries == 6


async def test_whatever_goes_wrong_in_finding_a_host_everybody_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what nobody thought of."""
    monkeypatch.setattr(client, "BACK_OFF", (0.01,))

    async def find(notifications: Notifications) -> HostConnection:
        raise ZeroDivisionError

    engine = HostEngine(find, model_specs(settings()))
    ask = CompletionTask(CompletionContext("a", ""), 4)
    tickets = [engine.load(ModelRole.COMPLETE), engine.submit(Request(ask, Sampling(), ModelRole.COMPLETE))]
    for ticket in tickets:
        with pytest.raises(EngineError, match="cannot be reached"):
            await asyncio.wait_for(ticket.result(), TIMEOUT)
    engine.close()


# Who may come in.


class Raw(Editor):
    """A client that speaks frames; nothing is checked at its end."""


@asynccontextmanager
async def service(where: HostAddress, script: ScriptedWorker | None = None) -> AsyncIterator[EngineHost]:
    """A host on this loop, over a script."""

    def open_scripted(on_status: Callable[[str, ModelStatus], None]) -> ThreadEngine:
        return ThreadEngine(lambda: script or ScriptedWorker(), {}, on_status)

    made = EngineHost(where, open_scripted)
    task = asyncio.ensure_future(made.run())
    try:
        await until(where.socket.exists)
        yield made
        made.idle = 0.0
        await asyncio.wait_for(task, TIMEOUT)
        assert not where.socket.exists()
    finally:
        task.cancel()
        assert await asyncio.to_thread(made.engine.join, TIMEOUT)


@pytest.mark.parametrize("loopback", [False, True])
async def test_only_who_shows_the_token_and_runs_the_same_code_comes_in(loopback: bool, tmp_path: Path) -> None:
    """Over a socket and over a port; everybody else gets a reason, and no service."""
    where = HostAddress(prepare_runtime_folder(), f"raw{loopback}", loopback or address.LOOPBACK)
    async with service(where) as made:
        if loopback and os.name == "posix":
            assert where.socket.stat().st_mode & 0o777 == 0o600
        good = {"version": made.version, "token": made.token, "idle": 5.0}
        for hello, reason in (
            ({**good, "version": "0.0.0 1 2"}, "restart the language server"),
            ({**good, "token": "guess"}, "does not know this client"),
        ):
            reader, writer, token = await address.connect(where)
            assert token == made.token
            raw = Raw(reader, writer.write)
            with pytest.raises(Exception, match=reason):
                await raw.call("hello", hello)
            await asyncio.wait_for(raw._task, TIMEOUT)
            writer.close()
        reader, writer, _ = await address.connect(where)
        raw = Raw(reader, writer.write)
        with pytest.raises(Exception, match="says hello first"):
            await raw.call("prepare", {"spec": messages.spec_to(ModelSpec())})
        assert (await raw.call("hello", good))["statuses"] == []
        assert await raw.call("prepare", {"spec": messages.spec_to(ModelSpec())}) is None
        with pytest.raises(Exception, match="-32601"):
            await raw.call("other", {})
        raw.send_raw(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.wait_for(raw._task, TIMEOUT)
        writer.close()
        await until(lambda: not made.sessions)


async def test_a_host_takes_away_its_own_socket_only() -> None:
    """Where its files were removed, another may have taken the place; and it ends, since nobody can find it."""
    where = HostAddress(prepare_runtime_folder(), "moved", loopback=True)
    made = EngineHost(where, lambda on_status: ThreadEngine(ScriptedWorker, {}, on_status))
    task = asyncio.ensure_future(made.run())
    await until(where.socket.exists)
    where.socket.rename(where.socket.with_suffix(".old"))
    where.socket.write_text("another's")
    assert await asyncio.wait_for(task, TIMEOUT) == 0 and where.socket.read_text() == "another's"
    where.socket.unlink()


@pytest.fixture
def watchdog(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls to the timer that would end this process."""
    calls: list[str] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *args, **options: calls.append("armed"))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: calls.append("cancelled"))
    return calls


async def test_service_inside_another_process_arms_no_watchdog(watchdog: list[str]) -> None:
    """The watchdog would end the process that runs the service, such as pytest."""
    async with service(HostAddress(prepare_runtime_folder(), "unwatched")):
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

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(faulthandler, "enable", lambda: None)
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr("codeclippy_ls.host.engine_host._FIRST_SECONDS", 0.0)  # nobody comes
    with pytest.raises(ZeroDivisionError if fails else SystemExit):
        run_host(HostAddress(prepare_runtime_folder(), "watched"), open_engine)
    assert watchdog[-1] == "cancelled" and ("armed" in watchdog or fails)


async def test_a_model_that_failed_is_tried_again_when_it_is_wanted_again(script: Path) -> None:
    """By ``use`` as by ``prepare``; others of the host's models are not touched."""
    made = settings()
    async with assistant(made, HostEngine(scripted(prepare_runtime_folder(), script), model_specs(made))) as subject:
        engine, other = subject.engine, ModelSpec("/other")
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
        await until(lambda: engine.status(ModelRole.EDIT).state is ModelState.READY)
        assert (await subject.complete(document(), len(CODE))).items[0].text == "total"


async def test_models_that_nobody_uses_any_more_make_room_for_another() -> None:
    """When one is to be loaded, and not before: who comes back finds the model warm."""
    where, script = HostAddress(prepare_runtime_folder(), "room"), ScriptedWorker()

    @asynccontextmanager
    async def greeted(made: EngineHost) -> AsyncIterator[Raw]:
        reader, writer, token = await address.connect(where)
        raw = Raw(reader, writer.write)
        await raw.call("hello", {"version": made.version, "token": token, "idle": 5.0})
        yield raw
        writer.close()
        await asyncio.wait_for(raw._task, TIMEOUT)

    one, two = ({"spec": messages.spec_to(ModelSpec(name))} for name in ("one", "two"))
    async with service(where, script) as made:
        async with greeted(made) as first:
            await first.call("prepare", one)
            async with greeted(made) as second:
                await second.call("prepare", two)
                assert not script.unloaded
            await until(lambda: len(made.sessions) == 1)
        await until(lambda: not made.sessions)
        async with greeted(made) as third:
            await third.call("prepare", two)
            assert not script.unloaded
            await third.call("prepare", {"spec": messages.spec_to(ModelSpec("three"))})
            assert script.unloaded == [repr(ModelSpec("one"))]
            await third.call("prepare", one)


@posix
async def test_a_client_of_a_host_that_stops_reading_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are served meanwhile and afterwards."""
    monkeypatch.setattr(framing, "MAX_UNSENT", 1 << 20)  # beside what the system's buffers hold
    where, script = HostAddress(prepare_runtime_folder(), "unread"), ScriptedWorker()
    spec = messages.spec_to(ModelSpec())

    def submit(ticket: int, before: str = "x = ") -> dict[str, Any]:
        ask = messages.ask_to(CompletionTask(CompletionContext(before, ""), 8))
        return {"ticket": ticket, "lane": 0, "spec": spec, "ask": ask, "sampling": {"max_tokens": 64}, "stream": False}

    async with service(where, script) as made:
        hello = {"version": made.version, "token": made.token, "idle": 5.0}
        reading, writing, _ = await address.connect(where)
        _, writer, _ = await address.connect(where)
        deaf, well = Raw(asyncio.StreamReader(), writer.write), Raw(reading, writing.write)
        deaf.request("hello", hello)
        await well.call("hello", hello)
        await well.call("prepare", {"spec": spec})
        script.response = lambda prompt: "y" * (100_000 if "unread" in prompt else 1)
        await until(lambda: len(made.sessions) == 2)
        for ticket in range(30):  # 3 MB in answers that nobody reads
            deaf.request("submit", submit(ticket, "unread = "))
            assert await well.call("submit", submit(ticket))
        await until(lambda: len(made.sessions) == 1)
        assert await well.call("submit", submit(99))
        writing.close()
        deaf._task.cancel()
        writer.close()


async def test_another_version_is_one_message_and_no_restart(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host goes on for those who match."""
    made = settings()
    async with assistant(made, HostEngine(scripted(prepare_runtime_folder(), script), model_specs(made))) as subject:
        process = process_of(subject.engine)
        with monkeypatch.context() as patch:
            patch.setattr("codeclippy_ls.host.start.version", lambda: "0.0.0 1 2")
            other = HostEngine(scripted(prepare_runtime_folder(), script), model_specs(made))
            with pytest.raises(EngineError, match="restart the language server"):
                await other.load(ModelRole.COMPLETE).result()
            assert other.status(ModelRole.EDIT).state is ModelState.FAILED
            other.close()
        assert (await subject.complete(document(), len(CODE))).items
        assert subject.engine.process == process  # type: ignore[attr-defined]
