"""Models are downloaded from a hub, checked, resumed after a cut, and removed; nothing else is ever removed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from codeclippy_ls.catalog.stores import find_downloaded_model
from codeclippy_ls.cli import main
from codeclippy_ls.engine.loading.loader import load
from codeclippy_ls.inference.spec import ModelSpec
from codeclippy_ls.user_config import find_user_config
from tests import checkpoints, gguf_files
from tests.editor import TIMEOUT
from tests.hub import HUGE, Hub, serve_hub

REPOSITORY = "owner/toy-GGUF"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as served:
        yield served


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("toy") / "toy.gguf"
    gguf_files.write_model("llama", gguf_files.make_module("llama"), path)
    return path.read_bytes()


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Done]]:
    """Run the command line in this process, with a hub or without a network."""
    from huggingface_hub import close_session, constants

    def run_models(hub: Hub | None, *arguments: str) -> Done:
        url = hub.url if hub is not None else "http://127.0.0.1:9"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        code = main(["models", *arguments])
        return Done(code, *capsys.readouterr())

    yield run_models
    close_session()


def start(hub: Hub, *arguments: str) -> subprocess.Popen[str]:
    """Run it in a process that can be killed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url}
    command = [sys.executable, "-m", "codeclippy_ls", "models", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)


def find_model_files(home: Path) -> list[str]:
    folder = home / ".local/share/codeclippy-ls/models"
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*.gguf"))


def wait_for_part(home: Path, nbytes: int) -> None:
    """Wait until a part of a file is on the disk."""
    end = time.monotonic() + TIMEOUT
    while not any(part.stat().st_size >= nbytes for part in home.rglob("*.part")):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_number_format_is_downloaded_used_and_removed(
    home: Path, run: Callable[..., Done], hub: Hub, toy: bytes
) -> None:
    """Size and licence are said first; the name that is printed loads the model."""
    hub.repositories[REPOSITORY] = {"README.md": b"", "toy-q8_0.gguf": b"x" * 9000, "toy-q4_k_m.gguf": toy}
    hub.licences[REPOSITORY] = "apache-2.0"
    done = run(hub, "get", f"{REPOSITORY}:Q4_K_M", "--use")
    assert done.code == 0, done.err
    first, *rest = done.out.splitlines()
    assert first == (
        f"{REPOSITORY}: licence apache-2.0, {len(toy) / 1e6:.0f} MB to "
        f"{home / '.local/share/codeclippy-ls/models' / REPOSITORY}"
    )
    assert "100 %" in done.err and f"{REPOSITORY}/toy-q4_k_m.gguf is complete and checked" in rest
    assert find_model_files(home) == [f"{REPOSITORY}/toy-q4_k_m.gguf"]
    assert f'completion = "{REPOSITORY}/toy-q4_k_m.gguf"' in find_user_config().read_text()
    assert load(ModelSpec(f"{REPOSITORY}/toy-q4_k_m.gguf", "cpu", "float32", 1)).architecture == "llama"
    listed = run(None, "list").out
    assert f"{REPOSITORY}/toy-q4_k_m.gguf\n" in listed and "; Code Clippy\n" in listed
    removed = run(None, "remove", f"{REPOSITORY}/toy-q4_k_m.gguf")
    assert removed.code == 0 and 'the setting "model.completion" still names it' in removed.out
    assert not find_model_files(home) and not (home / ".local/share/codeclippy-ls/models/owner").exists()


def test_a_cut_connection_is_resumed(home: Path, run: Callable[..., Done], hub: Hub, toy: bytes) -> None:
    """What came is not sent again."""
    content = toy + bytes(25_000_000)
    hub.repositories[REPOSITORY] = {"toy-q4_k_m.gguf": content}
    hub.cut_after = 12_000_000  # the client keeps whole blocks of ten
    done = run(hub, "get", REPOSITORY)
    assert done.code == 0, done.err
    assert len(hub.ranges) == 2 and min(hub.ranges) >= 10_000_000
    assert (home / f".local/share/codeclippy-ls/models/{REPOSITORY}/toy-q4_k_m.gguf").read_bytes() == content


def test_a_second_call_goes_on_where_the_first_was_killed(
    home: Path, run: Callable[..., Done], hub: Hub, toy: bytes
) -> None:
    """A list in between shows no half model; a third call has nothing to do."""
    hub.repositories[REPOSITORY] = {"toy-q4_k_m.gguf": toy + bytes(15_000_000)}
    hub.stall_after = 12_000_000
    first = start(hub, "get", REPOSITORY)
    assert hub.stalled.wait(TIMEOUT)
    wait_for_part(home, 10 << 20)
    first.kill()
    first.wait()
    assert not find_model_files(home) and "no other program's models" in run(None, "list").out
    hub.stall_after = 0
    done = run(hub, "get", REPOSITORY)
    assert done.code == 0 and hub.ranges == [10 << 20]
    assert [file.name for file in (home / ".local/share/codeclippy-ls").rglob("*.part")] == []
    sent = hub.sent
    again = run(hub, "get", REPOSITORY)
    assert "which are already here" in again.out and hub.sent - sent < 5000


def test_a_damaged_file_is_removed_and_said(home: Path, run: Callable[..., Done], hub: Hub, toy: bytes) -> None:
    """The size is right and the hash is not."""
    hub.repositories[REPOSITORY] = {"toy-q4_k_m.gguf": toy}
    hub.wrong.add("toy-q4_k_m.gguf")
    done = run(hub, "get", REPOSITORY)
    assert done.code == 1 and "arrived damaged: its hash is not the one of the hub" in done.err
    assert not find_model_files(home)
    hub.wrong.clear()
    assert run(hub, "get", REPOSITORY).code == 0


def test_a_split_model_has_all_of_its_parts(home: Path, run: Callable[..., Done], hub: Hub, toy: bytes) -> None:
    names = [f"toy-q8_0-0000{number}-of-00002.gguf" for number in (1, 2)]
    hub.repositories[REPOSITORY] = {names[1]: b"second" * 999, names[0]: toy, "toy-mmproj-q8_0.gguf": b"x"}
    done = run(hub, "get", f"{REPOSITORY}/{names[0]}")
    assert done.code == 0 and find_model_files(home) == [f"{REPOSITORY}/{name}" for name in names]
    assert run(None, "remove", f"{REPOSITORY}/{names[0]}").code == 0
    assert not find_model_files(home)


def test_a_folder_is_downloaded_with_one_kind_of_weights(
    home: Path, run: Callable[..., Done], hub: Hub, tmp_path: Path
) -> None:
    checkpoints.save_checkpoint(tmp_path / "toy", "llama")
    files = {file.name: file.read_bytes() for file in (tmp_path / "toy").iterdir()}
    assert "model.safetensors" in files
    hub.repositories["owner/toy"] = {**files, "pytorch_model.bin": b"x" * 5000, "onnx/model.onnx": b"x" * 5000}
    done = run(hub, "get", "owner/toy")
    assert done.code == 0, done.err
    folder = find_downloaded_model("owner/toy")
    assert folder is not None and {file.name for file in folder.iterdir()} - {".lock"} == set(files)
    assert load(ModelSpec("owner/toy", "cpu", "float32", 1)).architecture == "llama"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("owner/none", "owner/none is not on the hub, or it is private"),
        ("owner/gated", "only for those who accepted its licence: do so on its page of the hub, then log in"),
        (f"{REPOSITORY}:Q3_K_M", "has no GGUF file in Q3_K_M; it has toy-q4_k_m.gguf"),
        (f"{REPOSITORY}/other.gguf", "has no file other.gguf; it has toy-q4_k_m.gguf"),
        ("owner/empty", "has no weights that can be used"),
        ("../../etc", "is no name of the hub"),
        (HUGE, "GB are needed in"),
    ],
)
def test_failures_are_one_sentence(
    name: str, sentence: str, home: Path, run: Callable[..., Done], hub: Hub, toy: bytes
) -> None:
    hub.repositories |= {REPOSITORY: {"toy-q4_k_m.gguf": toy}, "owner/empty": {"README.md": b"x"}, "owner/gated": {}}
    hub.gated.add("owner/gated")
    done = run(hub, "get", name)
    assert done.code == 1 and sentence in done.err, done.err
    assert re.fullmatch(r"codeclippy-ls: [^\n]+\n", done.err)
    assert not find_model_files(home)


def test_without_a_network_it_says_so(home: Path, run: Callable[..., Done]) -> None:
    done = run(None, "get", REPOSITORY)
    assert done.code == 1 and "check the network" in done.err
    assert re.fullmatch(r"codeclippy-ls: [^\n]+\n", done.err)


@pytest.mark.parametrize("name", ["../outside", "owner", "owner/..", "ollama:toy:1b", "owner/missing", "/etc/x.gguf"])
def test_only_what_was_downloaded_is_removed(name: str, home: Path, run: Callable[..., Done], toy: bytes) -> None:
    outside = home / ".local/share/codeclippy-ls/outside/toy.gguf"
    outside.parent.mkdir(parents=True)
    outside.write_bytes(toy)
    done = run(None, "remove", name)
    assert done.code == 2 and "nothing is removed" in done.err
    assert outside.read_bytes() == toy


def test_another_programs_model_is_left_to_it(home: Path, run: Callable[..., Done], toy: bytes) -> None:
    path = home / ".lmstudio/models/owner/toy/toy.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(toy)
    done = run(None, "remove", str(path))
    assert done.code == 2 and "it belongs to LM Studio, which can remove it" in done.err
    assert path.read_bytes() == toy


def test_recommendations_name_what_the_machine_can_run(home: Path, run: Callable[..., Done]) -> None:
    """Each with size, licence, jobs and speed; no network is asked."""
    out = run(None, "recommend").out
    assert out.startswith("for a machine with ")
    rows = re.findall(r"^(\S+/\S+)\n    (.+)\n    (.+)$", out, re.MULTILINE)
    assert len(rows) >= 3 and sum("the best one" in note for _, _, note in rows) <= 1
    assert all("Apache-2.0" in what and re.search(r"\d (?:MB|GB)", what) for _, what, _ in rows)
