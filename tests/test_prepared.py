"""Prepared models: written once, used again, made anew if they are damaged; and they compute the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from codeclippy_ls.catalog import prepared_cache
from codeclippy_ls.catalog.prepared_cache import CacheFullError, find_entry, identify, list_entries, make_entry
from codeclippy_ls.cli import main
from codeclippy_ls.engine.decoder import linear
from codeclippy_ls.engine.decoder.deferred_packing import start_packing
from codeclippy_ls.engine.decoder.linear import Int8Linear, LinearSpec, list_available_formats, take_deferred
from codeclippy_ls.engine.decoder.quantized_rows import can_multiply_rows, quantize_rows, stack_rows
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from codeclippy_ls.engine.loading import folder_checkpoint, gguf_checkpoint, measurements
from codeclippy_ls.engine.loading.loader import load
from codeclippy_ls.engine.loading.model import Model
from codeclippy_ls.engine.loading.prepared_tokenizer import PreparedTokenizer, write_tokenizer
from codeclippy_ls.engine.loading.tokenizer import Tokenizer
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.engine.worker import ModelWorker
from codeclippy_ls.inference.engine import ModelState, ModelStatus
from codeclippy_ls.inference.spec import ModelSpec
from tests import checkpoints, gguf_files
from tests.editor import TIMEOUT
from tests.test_models import sentencepiece, to_bin

TOKENS = [9, 100, 42, 17, 300, 42]

needs_int8 = pytest.mark.skipif("int8" not in list_available_formats("cpu"), reason="no int8 on this CPU")
needs_rows = pytest.mark.skipif(not can_multiply_rows(), reason="no VNNI on this CPU")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_leftovers() -> Iterator[None]:
    """Forget layers that a test built."""
    take_deferred()
    yield
    take_deferred()


def load_int8(path: Path) -> Model:
    return load(ModelSpec(str(path), "cpu", "int8", 1))


def compute_logits(model: Model) -> torch.Tensor:
    return model.forward([ModelInput(TOKENS, model.new_cache(), len(TOKENS))])[0]


def list_files(entry: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in entry.iterdir() if file.name != "entry.json"}


def only_entry() -> Path:
    (entry,) = list_entries()
    return entry.folder


@needs_int8
def test_second_start_reads_only_what_the_first_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf_files.write_model("llama", gguf_files.make_module("llama"), tmp_path / "toy.gguf")
    first = compute_logits(load_int8(path))
    files = list_files(only_entry())
    monkeypatch.setattr(gguf_checkpoint, "read_header", None)  # calling it fails
    assert torch.equal(compute_logits(load_int8(path)), first)
    assert list_files(only_entry()) == files


@needs_int8
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer-description.json", "text.json"])
@pytest.mark.parametrize("is_cut", [True, False])
def test_damaged_entry_is_made_anew(name: str, is_cut: bool, tmp_path: Path) -> None:
    path = gguf_files.write_model("llama", gguf_files.make_module("llama"), tmp_path / "toy.gguf")
    first = compute_logits(load_int8(path))
    damaged = only_entry() / name
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-7] if is_cut else b"\0" * 100 + content[100:])
    assert torch.equal(compute_logits(load_int8(path)), first)
    assert damaged.read_bytes() == content


@needs_int8
def test_replaced_file_is_prepared_anew(tmp_path: Path) -> None:
    path = gguf_files.write_model("llama", gguf_files.make_module("llama"), tmp_path / "toy.gguf")
    first = compute_logits(load_int8(path))
    module = gguf_files.make_module("llama")
    with torch.no_grad():
        module.lm_head.weight.mul_(2)
    path.unlink()
    gguf_files.write_model("llama", module, path)
    assert torch.allclose(compute_logits(load_int8(path)), 2 * first, rtol=1e-3, atol=1e-3)


@needs_int8
@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
@pytest.mark.parametrize("is_bin", [False, True])
def test_large_folder_is_prepared_and_computes_the_same(
    architecture: str, is_bin: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints.save_checkpoint(tmp_path / "toy", architecture)
    plain = load_int8(folder)
    assert not list_entries()
    if is_bin:
        to_bin(folder)
    monkeypatch.setattr(folder_checkpoint, "_MIN_BYTES", 0)
    for _ in range(2):
        prepared = load_int8(folder)
        assert only_entry().is_dir()
        torch.testing.assert_close(compute_logits(prepared), compute_logits(plain), rtol=1e-4, atol=1e-4)
        text = "def f(x):\n    return x  # é"
        assert prepared.tokenizer.encode(text) == plain.tokenizer.encode(text)
    assert not (prepared_cache.find_cache_folder() / "converted").exists() or not is_bin


@pytest.mark.parametrize("definition", [checkpoints.make_tokenizer_json(), sentencepiece()])
def test_prepared_tokenizer_is_the_same(definition: str, tmp_path: Path) -> None:
    plain = Tokenizer(definition)
    write_tokenizer(plain, ("a", "b"), tmp_path)
    prepared = PreparedTokenizer(tmp_path)
    assert prepared.chat == ("a", "b")
    assert prepared.vocab_size == plain.vocab_size and prepared.token_bytes == plain.token_bytes
    assert prepared.control_token_ids == plain.control_token_ids
    for text in ("def f(x):\n    return x", " a  b", "é\U0001f600", "<|SUF|>", ""):
        assert prepared.encode(text) == plain.encode(text)
        assert prepared.encode_continuation(text) == plain.encode_continuation(text)
        assert prepared.encode_template(text) == plain.encode_template(text)


@needs_int8
@needs_rows
@pytest.mark.usefixtures("no_leftovers")
@pytest.mark.parametrize("has_bias", [False, True])
def test_packing_in_the_background_changes_nothing(has_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_MIN_DEFERRED", 0)
    monkeypatch.setattr(linear, "_MAX_PACKED_ROWS", 64)
    torch.manual_seed(1)
    bias = torch.randn(200) if has_bias else None
    layer = Int8Linear(LinearSpec(quantize_rows(torch.randn(200, 96)), bias))
    inputs = [torch.randn(tokens, 96) * 3 for tokens in (1, 2, 7, 64)]
    before = [layer(x) for x in inputs]
    thread = start_packing(take_deferred())
    assert thread is not None
    thread.join()
    assert layer._rows is None
    for x, expected in zip(inputs, before, strict=True):
        # Only the bias of a single token may be added with another rounding.
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5 if has_bias and len(x) == 1 else 0)


_EXITS_WHILE_PACKING = """
import threading, torch
from codeclippy_ls.engine.decoder import linear
from codeclippy_ls.engine.decoder.deferred_packing import start_packing
from codeclippy_ls.engine.decoder.quantized_rows import quantize_rows
linear._MIN_DEFERRED = 0
rows = quantize_rows(torch.randn(1500, 1500))
layers = [linear.Int8Linear(linear.LinearSpec(rows, None)) for _ in range(60)]
engine = threading.Thread(target=lambda: start_packing(linear.take_deferred()), daemon=True)
engine.start()
engine.join()
"""


@needs_int8
@needs_rows
def test_process_exits_in_peace_while_packing() -> None:
    """Torch aborts a process that exits while one of its threads runs."""
    for _ in range(3):
        result = subprocess.run([sys.executable, "-c", _EXITS_WHILE_PACKING], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, "")


def test_neighbours_in_memory_are_stacked_without_a_copy() -> None:
    rows = torch.arange(60, dtype=torch.int8).view(6, 10)
    parts = [quantize_rows(torch.ones(2, 10)) for _ in range(3)]
    views = [type(part)(rows[2 * index : 2 * index + 2], part.scales) for index, part in enumerate(parts)]
    stacked: Any = stack_rows(views)
    assert stacked.rows.data_ptr() == rows.data_ptr() and torch.equal(stacked.rows, rows)
    apart: Any = stack_rows([views[0], views[2]])
    assert torch.equal(apart.rows, torch.cat([rows[:2], rows[4:]]))


async def load_in_engine(path: Path) -> list[ModelStatus]:
    """Load a model in an engine; return the statuses that it passed through."""
    seen: list[ModelStatus] = []
    spec = ModelSpec(str(path), "cpu", "int8", 1)
    engine = ThreadEngine(ModelWorker, {"complete": spec}, lambda model, status: seen.append(status))
    try:
        await engine.load("complete").result()
    finally:
        engine.close()
        engine.join(TIMEOUT)
    return seen


@needs_int8
async def test_first_start_tells_how_far_it_is(tmp_path: Path) -> None:
    path = gguf_files.write_model("llama", gguf_files.make_module("llama"), tmp_path / "toy.gguf")
    for is_first in (True, False):
        seen = await load_in_engine(path)
        percentages = [status.percentage for status in seen if status.state is ModelState.LOADING]
        assert percentages == sorted(set(percentages)) and (percentages[-1] == 100) is is_first
        assert seen[-1].state is ModelState.READY


def write_entry(name: str, nbytes: int = 1000) -> Path:
    return make_entry(name, Path("model"), "int8", nbytes, lambda folder: _fill(folder, nbytes))


def _fill(folder: Path, nbytes: int) -> None:
    (folder / "weights").write_bytes(b"x" * nbytes)


def test_least_recently_used_entries_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_cache, "_MAX_BYTES", 3500)
    for index, name in enumerate("abc"):
        os.utime(write_entry(name) / "entry.json", (index, index))
    assert find_entry("a") is not None  # now the last used one
    write_entry("d")
    assert {entry.folder.name for entry in list_entries()} == {"a", "c", "d"}
    assert find_entry("b") is None


def test_interrupted_writing_leaves_no_entry() -> None:
    def fail(folder: Path) -> None:
        _fill(folder, 10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_entry("a", Path("model"), "int8", 10, fail)
    assert find_entry("a") is None and not list_entries()
    entries = write_entry("b").parent
    assert [folder.name for folder in entries.iterdir()] == ["b"]


def test_entry_that_another_process_made_first_is_used() -> None:
    def lose(folder: Path) -> None:
        _fill(folder, 10)
        write_entry("a")

    assert (make_entry("a", Path("model"), "int8", 10, lose) / "weights").stat().st_size == 1000


def test_abandoned_beginnings_are_removed() -> None:
    entries = write_entry("a").parent
    old, new = entries / ".new-old", entries / ".new-new"
    for folder in (old, new):
        folder.mkdir()
    past = time.time() - 10 * 86400
    os.utime(old, (past, past))
    write_entry("b")
    assert not old.exists() and new.exists()


def test_full_disk_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100 << 20))
    with pytest.raises(CacheFullError, match=r"it needs 5\.0 GB in .*, and only 0\.1 GB are free"):
        write_entry("a", 5_000_000_000)


def test_identity_is_of_the_file_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(b"one")
    first = identify([file], "int8")
    assert first == identify([file], "int8") != identify([file], "float32")
    file.write_bytes(b"three")
    assert identify([file], "int8") != first


def test_cache_is_listed_and_cleared(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_entry("a", 2_000_000)
    assert main(["cache"]) == 0
    assert "2 MB  int8" in (listed := capsys.readouterr().out) and "model" in listed and str(own_cache) in listed
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out.startswith("removed 2 MB")
    assert not list_entries()


@needs_int8
@pytest.mark.parametrize("is_gguf", [True, False])
def test_norms_of_parallel_layers_are_folded_before(
    is_gguf: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that only norms and biases are floats, and a second start has nothing to quantize."""
    module = gguf_files.make_module("gptneox")
    if is_gguf:
        path = gguf_files.write_model("gptneox", module, tmp_path / "toy.gguf")
    else:
        path = tmp_path / "toy"
        module.save_pretrained(path)
        (path / "tokenizer.json").write_text(checkpoints.make_tokenizer_json(), encoding="utf-8")
        monkeypatch.setattr(folder_checkpoint, "_MIN_BYTES", 0)
    exact = compute_logits(load(ModelSpec(str(path), "cpu", "float32", 1)))
    for entry in list_entries():
        prepared_cache.remove_entry(entry.folder)
    found = compute_logits(load_int8(path))
    with safe_open(only_entry() / "model.safetensors", framework="pt") as file:
        types = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert {dtype for name, dtype in types.items() if name.endswith("dense_4h_to_h.weight")} == {torch.int8}
    assert {dtype for name, dtype in types.items() if name.endswith("query_key_value.weight")} == {torch.int8}
    assert float((found - exact).norm() / (exact - exact.mean()).norm()) < 0.05


@needs_int8
def test_second_start_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes what the first one measured; on another machine, and if that is damaged, it measures again."""
    path = gguf_files.write_model("llama", gguf_files.make_module("llama"), tmp_path / "toy.gguf")
    first = load_int8(path)
    runs: list[int] = []
    forward = Transformer.forward

    def count(*args: Any) -> list[torch.Tensor]:
        runs.append(1)
        return forward(*args)

    monkeypatch.setattr(Transformer, "forward", count)
    second = load_int8(path)
    assert not runs
    assert second.speed == first.speed
    assert second.pass_cost.seconds == first.pass_cost.seconds
    (measured,) = only_entry().glob("measured-*")
    measured.write_text('{"speed": {"prefill_seconds": -1}}', encoding="utf-8")
    load_int8(path)
    assert runs
    runs.clear()
    monkeypatch.setattr(measurements, "_read_processor_name", lambda: "another")
    load_int8(path)
    assert runs
    assert len(list(only_entry().glob("measured-*"))) == 2


@needs_int8
def test_speed_in_use_is_kept_for_the_next_start(tmp_path: Path) -> None:
    path = gguf_files.write_model("llama", gguf_files.make_module("llama"), tmp_path / "toy.gguf")
    model = load_int8(path)
    at_first = model.speed
    cache = model.new_cache()
    for _ in range(4):
        model.forward([ModelInput([5] * 40, cache, 0)])
        cache.crop(0)
    for _ in range(64):
        model.forward([ModelInput([5], cache)])
        cache.crop(0)
    assert model.speed == at_first, "prompts must not change while a person types"
    later = load_int8(path).speed
    assert later != at_first
    assert later.token_seconds > 0 and later.prefill_seconds > 0
