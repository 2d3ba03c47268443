"""The typing benchmark: the keys are reproducible and produce the text; every request has exactly one outcome."""

from __future__ import annotations

import ast
import asyncio
import importlib
import operator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import keystrokes, profile, workload
from bench.peers import PeerError, list_columns, open_peer
from bench.typist import SWITCHES, Outcome, Pings, Typist, wait_for_answers
from bench.workload import Key, Typing, find_functions, make_typings
from codeclippy_ls.server.server import Server
from tests.editor import in_process
from tests.scripted import ScriptedWorker

SOURCE = '''"""A module."""


def work(first, second):
    """What it does."""
    total = first + second
    for number in range(total):
        if number % 2:
            print(number)

    return total
'''
NO_PAUSE = 0.001


def test_typing_is_the_same_each_time() -> None:
    """For the same seed; another seed gives other keys."""
    assert make_typings(200, seed=3) == make_typings(200, seed=3) != make_typings(200, seed=4)
    assert sum(len(typing.keys) for typing in make_typings(200, seed=3)) == 200


def test_typing_produces_the_text(tmp_path: Path) -> None:
    """With typing errors that are deleted: at the end the file is the original one."""
    file = tmp_path / "module.py"
    file.write_text(SOURCE)
    ((name, start, end),) = find_functions(SOURCE)
    assert name == "work" and SOURCE[start:].startswith("\n    total") and SOURCE[end:] == "\n"
    removed = 0
    for seed in range(20):
        (typing,) = make_typings(10_000, seed, each=10_000, files=[file])
        assert typing.before + typing.after == SOURCE[:start] + SOURCE[end:]
        assert typing.prefixes[-1] + typing.after == SOURCE
        assert all(key.wait > 0 and (bool(key.text) != bool(key.removed)) for key in typing.keys)
        removed += sum(key.removed for key in typing.keys)
    assert removed > 20


def test_real_files_have_functions_to_type() -> None:
    """Enough for a whole run."""
    found = make_typings(1000)
    assert len(found) >= 10 and all(typing.prefixes[0].startswith(typing.before) for typing in found)
    assert all((workload.ROOT / name).exists() for name in workload.FILES)


async def test_every_request_has_one_outcome() -> None:
    """With fast typing into a slow engine: cancelled, superseded, typed through and answered ones together."""
    worker = ScriptedWorker()
    worker.response = "value"
    slow = Typing("slow", "x = 1\ny = ", "\n", tuple(Key(1.0, 0, letter) for letter in "(a + b)"))
    pings = Pings()
    async with in_process(Server(engine=worker.open)) as editor:
        await editor.start()
        typist = Typist(editor)
        async with pings.measure(editor, typist, 0.005):
            await typist.type(slow, NO_PAUSE, "file:///slow.py")
            buffer = editor.open("x = 1\nz = \n", "file:///through.py")
            cursor = len(buffer.text) - 1
            for letter in ("", "v", "a", "l"):
                cursor = editor.type(buffer, cursor, letter)
                await wait_for_answers(typist.request_completion(buffer, cursor, 0.0))
        await asyncio.wait([*editor.open_requests.values(), asyncio.ensure_future(asyncio.sleep(0))])  # the last ping
    assert typist.sent == len(slow.keys) + 4 == len(typist.answers) and not typist.is_busy
    row = keystrokes.summarize(typist, (1.0, 2.0))
    assert sum(row[outcome.name.lower()] for outcome in Outcome) == row["sent"] and row["failed"] == 0
    assert [answer.outcome for answer in typist.answers[-4:]] == [Outcome.FRESH, *[Outcome.THROUGH] * 3]
    assert pings.busy and row["engine_ms_per_shown"] > 0


async def test_failing_engine_gives_one_outcome() -> None:
    """The server answers without items and shows the cause in a message."""
    worker = ScriptedWorker()
    worker.response = RuntimeError("no")
    async with in_process(Server(engine=worker.open)) as editor:
        await editor.start()
        typist = Typist(editor)
        await typist.type(Typing("one", "x = ", "\n", (Key(1.0, 0, "("),)), NO_PAUSE, "file:///one.py")
        editor.unread.clear()  # the message about the cause
    assert [answer.outcome for answer in typist.answers] == [Outcome.EMPTY]


def test_switches_replace_functions_that_exist() -> None:
    """Assigning to a name that was renamed would switch nothing off."""
    replaced = list[str]()
    for variant in SWITCHES.values():
        for statement in ast.parse(variant.code).body:
            if isinstance(statement, ast.ImportFrom):
                module = importlib.import_module(f"{statement.module}.{statement.names[0].name}")
            else:
                assert isinstance(statement, ast.Assign)
                for target in map(ast.unparse, statement.targets):
                    assert callable(operator.attrgetter(target.partition(".")[2])(module)), target
                    replaced.append(target)
    assert len(replaced) >= 4


def test_profile_times_functions_that_exist() -> None:
    """Each stage but the rest has at least one."""
    assert all(callable(getattr(owner, name)) for owner, name, _ in profile.TIMED)
    stages = {stage for _, _, stage in profile.TIMED if isinstance(stage, str)}
    assert stages == set(profile.STAGES) - {"read", "write", "rest"}


def test_peers_that_are_absent_are_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Toy models are not run at all."""
    monkeypatch.setattr("bench.peers.PYTHON", tmp_path / "python")
    small: Any = SimpleNamespace(name="small", num_parameters=1000)
    large: Any = SimpleNamespace(name="large", num_parameters=10**8)
    assert list_columns(small) == [] and capsys.readouterr().out == ""
    assert list_columns(large) == [] and "make bench-peers" in capsys.readouterr().out
    with pytest.raises(PeerError, match="make bench-peers"):
        open_peer(large, "llama.cpp", "int8", 1)
