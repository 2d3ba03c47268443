"""Checkpoints made to do harm: each is refused in one sentence, at once, and the engine's other models go on."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from codeclippy_ls.engine.loading import limits
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.engine.worker import ModelWorker
from codeclippy_ls.inference.engine import ModelState
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.requests import Request, Sampling
from codeclippy_ls.inference.spec import ModelSpec
from tests import checkpoints
from tests.scripted import PrebuiltTask

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="FIFOs, devices and /proc")
HUGE = 10**9


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a good checkpoint."""
    folder = tmp_path_factory.mktemp("master") / "model"
    checkpoints.save_checkpoint(folder)
    return folder


def configure(**changes: Any) -> Callable[[Path], None]:
    """Change values of config.json."""

    def change(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, **changes}))

    return change


def put_fifo(name: str) -> Callable[[Path], None]:
    """Put a FIFO that nobody writes to at a file's place."""

    def put(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return put


def put_link(name: str, target: str) -> Callable[[Path], None]:
    """Put a link to something else at a file's place."""

    def put(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return put


def put_sparse(name: str) -> Callable[[Path], None]:
    """Put a file of a terabyte without any content at a file's place."""

    def put(folder: Path) -> None:
        (folder / name).write_bytes(b"")
        os.truncate(folder / name, 1 << 40)

    return put


def claim_header(folder: Path) -> None:
    """Claim a header of a petabyte."""
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes((1 << 50).to_bytes(8, "little") + data[8:])


def claim_tensor(folder: Path) -> None:
    """Claim a tensor of a terabyte in a small file."""
    header = json.dumps({"embed_out.weight": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}})
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())


def panic(folder: Path) -> None:
    """Give the tokenizer a prefix that its merges do not have; the library panics."""
    values = json.loads((folder / "tokenizer.json").read_text())
    values["model"]["continuing_subword_prefix"] = "ab"
    (folder / "tokenizer.json").write_text(json.dumps(values))


def nest(folder: Path) -> None:
    """Nest lists a million deep."""
    (folder / "config.json").write_text("[" * 10**6)


def require_code(folder: Path) -> None:
    """Ask for code in the folder."""
    (folder / "evil.py").write_text("import os; os._exit(9)")
    configure(model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})(folder)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a billion layers": (configure(num_hidden_layers=HUGE), "num_hidden_layers is 1,000,000,000"),
    "a billion words": (configure(vocab_size=HUGE), "vocab_size is 1,000,000,000"),
    "a billion dimensions": (configure(hidden_size=HUGE), "hidden_size is 1,000,000,000"),
    "a million dimensions": (configure(hidden_size=10**6), "hidden_size is 1,000,000"),
    "a billion rows between": (configure(intermediate_size=HUGE), "intermediate_size is 1,000,000,000"),
    "a billion heads": (configure(num_attention_heads=HUGE), "num_attention_heads is 1,000,000,000"),
    "a billion layers within": (configure(text_config={"num_hidden_layers": HUGE, "hidden_size": 32}), "is 1,000,000"),
    "a number of a hundred digits": (configure(num_hidden_layers=10**100), "cannot be used"),
    "a trillion positions": (configure(max_position_embeddings=10**12), "max_position_embeddings is 1,000,000,000"),
    "layers by repetition": (
        configure(model_type="gpt_neo", attention_types=[[["global"], HUGE]]),
        "attention_types contains 1,000,000,000",
    ),
    "other architecture of absurd size": (
        configure(model_type="llama", hidden_size=1 << 20, num_attention_heads=8, intermediate_size=1 << 22),
        "than the",
    ),
    "config a fifo": (put_fifo("config.json"), "config.json is not a regular file"),
    "weights a fifo": (put_fifo("model.safetensors"), "model.safetensors is not a regular file"),
    "tokenizer a fifo": (put_fifo("tokenizer.json"), "tokenizer.json is not a regular file"),
    "template a fifo": (put_fifo("chat_template.jinja"), "chat_template.jinja is not a regular file"),
    "another file a fifo": (put_fifo("adapter_config.json"), "adapter_config.json is not a regular file"),
    "config a link to a device": (put_link("config.json", "/dev/zero"), "config.json is not a regular file"),
    "weights a link to a device": (put_link("model.safetensors", "/dev/zero"), "is not a regular file"),
    "tokenizer a link to a terminal": (put_link("tokenizer.json", "/dev/tty"), "is not a regular file"),
    "weights a link in a circle": (put_link("model.safetensors", "model.safetensors"), "cannot be read"),
    "config of a terabyte": (put_sparse("config.json"), "has 1048576 MiB"),
    "tokenizer of a terabyte": (put_sparse("tokenizer.json"), "has 1048576 MiB"),
    "weights of a terabyte": (put_sparse("model.safetensors"), "GiB of memory"),
    "header of a petabyte": (claim_header, "cannot be read"),
    "tensor of a terabyte": (claim_tensor, "cannot be read"),
    "tokenizer that panics": (panic, "tokenizer"),
    "config nested a million deep": (nest, "config.json cannot be used"),
    "code of its own": (require_code, "never run"),
}


@pytest.fixture
async def engine(master: Path) -> AsyncIterator[ThreadEngine]:
    """Open an engine that has another model ready."""
    opened = ThreadEngine(ModelWorker, {"good": _spec(master), "hostile": _spec(master)})
    await opened.load("good").result()
    yield opened
    opened.close()
    assert opened.join(60)


def _spec(folder: Path) -> ModelSpec:
    return ModelSpec(str(folder), "cpu", "float32", 1)


async def _generate(engine: ThreadEngine) -> int:
    built = SimpleNamespace(token_ids=(1, 2, 3), stop_token_ids=frozenset(), constraint=None, num_copied=0)
    done = await engine.submit(Request(PrebuiltTask(built), Sampling(max_tokens=4), "good")).result()
    return len(done.candidates[0].token_ids)


@pytest.mark.parametrize(("harm", "expected"), HOSTILE.values(), ids=HOSTILE)
async def test_hostile_checkpoint_is_refused_and_costs_nobody(
    harm: Callable[[Path], None], expected: str, engine: ThreadEngine, master: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(master, folder)
    harm(folder)
    engine.set_model("hostile", _spec(folder))
    with pytest.raises(EngineError, match=re.escape(expected)) as refused:
        await engine.load("hostile").result()
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)
    assert engine.failure is None and engine.status("good").state is ModelState.READY
    assert await _generate(engine) == 4


async def test_model_that_does_not_fit_into_memory_is_refused(
    engine: ThreadEngine, master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than filling it, whereupon the system ends the process with everybody's models."""
    shutil.copytree(master, tmp_path / "model")
    monkeypatch.setattr(limits, "read_available_memory", lambda: 1000)
    engine.set_model("hostile", _spec(tmp_path / "model"))
    with pytest.raises(EngineError, match=r"GiB of memory, and 0\.0 GiB are free"):
        await engine.load("hostile").result()
    assert await _generate(engine) == 4


def test_available_memory_is_that_of_the_system() -> None:
    """It is at most what the machine has."""
    available = limits.read_available_memory()
    assert available is not None and 0 < available <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 20


async def test_panic_in_a_request_fails_that_request_only(engine: ThreadEngine) -> None:
    """It is no `Exception`, and would end the thread with everybody's models."""
    panic_class = type("PanicException", (BaseException,), {})

    class PanickingTask(PrebuiltTask):
        def build_prompt(self, model: Any, context_length: int) -> Any:
            raise panic_class("called `Option::unwrap()` on a `None` value")

    with pytest.raises(EngineError, match="PanicException"):
        await engine.submit(Request(PanickingTask(None), Sampling(max_tokens=4), "good")).result()
    assert engine.failure is None and await _generate(engine) == 4


async def test_load_that_hangs_fails_the_engine_and_names_the_model(tmp_path: Path) -> None:
    """The host then ends, and is started again without that model."""
    released = threading.Event()

    class HangingWorker(ModelWorker):
        def load(self, name: str, spec: ModelSpec) -> Any:
            self.load_deadline = time.monotonic() + 0.1
            released.wait()
            self.load_deadline = None

    engine = ThreadEngine(HangingWorker, {"slow": ModelSpec()}, step_timeout=0.2)
    try:
        with pytest.raises(EngineError, match="not loaded after several minutes"):
            await engine.load("slow").result()
        assert engine.failed_model == "slow"
    finally:
        released.set()
        engine.close()
        assert engine.join(60)
