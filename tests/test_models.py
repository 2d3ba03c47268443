"""Loading checkpoints of all kinds: good ones load like in transformers, bad ones are rejected in one sentence.

No code in a checkpoint is ever run, and a ``.bin`` is read once, without running its pickles, and converted.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from codeclippy_ls.catalog.stores import list_stored_models
from codeclippy_ls.engine.decoder.linear import list_available_formats
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from codeclippy_ls.engine.generation.threads import count_cores, list_thread_counts
from codeclippy_ls.engine.loading import loader
from codeclippy_ls.engine.loading.config import read_transformers_config
from codeclippy_ls.engine.loading.device import BALANCED
from codeclippy_ls.engine.loading.loader import load
from codeclippy_ls.engine.loading.model import Model
from codeclippy_ls.engine.loading.tokenizer import Tokenizer, read_tokenizer
from codeclippy_ls.engine.loading.transformers_module import ModuleRunner, load_module
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.engine.worker import ModelWorker
from codeclippy_ls.inference.engine import ModelState
from codeclippy_ls.inference.errors import EngineError, ModelError, NonFiniteError
from codeclippy_ls.inference.requests import Request, Sampling
from codeclippy_ls.inference.spec import SHIPPED_FOLDER, ModelSpec, read_shipped_card
from tests import checkpoints
from tests.editor import TIMEOUT
from tests.scripted import PrebuiltTask
from tests.shared import tokenizer_folder

TOKENS = [9, 100, 42, 17, 300, 42]
INT8 = ("int8",) if "int8" in list_available_formats("cpu") else ()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache folder of its own for converted checkpoints."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session", params=checkpoints.ARCHITECTURES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint of each architecture; not to be changed."""
    return checkpoints.save_checkpoint(tmp_path_factory.mktemp("checkpoint") / request.param, request.param)


@pytest.fixture(scope="session")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One complete checkpoint; not to be changed."""
    return checkpoints.save_checkpoint(tmp_path_factory.mktemp("master") / "toy")


@pytest.fixture
def toy(master: Path, tmp_path: Path) -> Path:
    """A checkpoint that the test may change."""
    return Path(shutil.copytree(master, tmp_path / "toy"))


def spec(folder: Path, **extra: Any) -> ModelSpec:
    """Make a spec of a folder's model on the CPU in float32."""
    return ModelSpec(str(folder), **{"device": "cpu", "dtype": "float32", **extra})


def logits(model: Model) -> torch.Tensor:
    """Return a loaded model's logits after the same few tokens."""
    return model.forward([ModelInput(TOKENS, model.new_cache())])[0][0]


def reference(folder: Path) -> torch.Tensor:
    """Return the logits of the folder's model as transformers loads it."""
    module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return torch.Tensor(module.eval()(torch.tensor([TOKENS])).logits[0, -1])


def configure(folder: Path, **changes: Any) -> None:
    """Change a checkpoint's config.json; ``None`` removes a key."""
    path = folder / "config.json"
    values = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}), encoding="utf-8")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change a checkpoint's weights."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def rejection(folder: Path, **extra: Any) -> str:
    """Return the one sentence with which a checkpoint is rejected."""
    with pytest.raises(ModelError) as caught:
        load(spec(folder, **extra))
    sentence = str(caught.value)
    assert "\n" not in sentence and "Traceback" not in sentence and ". " not in sentence and len(sentence) < 700
    return sentence


# Checkpoints that load.


def test_float32_logits_equal_transformers(checkpoint: Path) -> None:
    """For every architecture, with the native decoder and with transformers' module."""
    for native in (True, False):
        model = load(spec(checkpoint), native=native)
        torch.testing.assert_close(logits(model), reference(checkpoint), rtol=1e-4, atol=1e-4)
        assert (
            model.architecture == checkpoint.name
            and model.context_length == checkpoints.CONTEXT_LENGTH
            and model.stop_token_ids == {0}
        )
        assert model.dtype == "float32" and (model.module is None) == native
        assert model.num_parameters == checkpoints.make_module(checkpoint.name).num_parameters()


def test_native_decoder_loads_without_importing_transformers(tmp_path: Path) -> None:
    """Importing transformers takes as long as importing torch."""
    code = (
        "import sys\nfrom codeclippy_ls.engine.loading.loader import load\n"
        "from codeclippy_ls.inference.spec import ModelSpec\n"
        "for folder in sys.argv[1:]:\n"
        "    load(ModelSpec(folder, device='cpu'))\n    print('transformers' in sys.modules)"
    )
    folders = [checkpoints.save_checkpoint(tmp_path / name, name) for name in checkpoints.ARCHITECTURES]
    command = [sys.executable, "-c", code, *map(str, folders), ""]  # and the shipped model
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * (len(folders) + 1)


def test_weights_with_unusual_names_are_read_by_transformers(tmp_path: Path) -> None:
    """GPT-2's own checkpoints lack a prefix of each name; the native decoder runs them nevertheless."""
    folder = save_toy(tmp_path / "gpt2", CONTEXT_LENGTHS[0][0])
    expected = logits(load(spec(folder)))
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): value for name, value in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    model = load(spec(folder))
    torch.testing.assert_close(logits(model), expected)
    assert model.module is None


def test_configuration_of_an_older_version_is_read_by_transformers(checkpoint: Path, tmp_path: Path) -> None:
    """Only transformers knows the defaults of the values that it leaves out."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "older"))
    configure(folder, transformers_version="4.30.0", tie_word_embeddings=None)
    if checkpoint.name == "gpt_neo":  # tied by default
        configure(folder, tie_word_embeddings=True)
    torch.testing.assert_close(logits(load(spec(folder))), reference(checkpoint), rtol=1e-4, atol=1e-4)


def test_weights_have_the_requested_number_format(checkpoint: Path) -> None:
    """The logits are float32 nevertheless, and nearly the same."""
    model = load(spec(checkpoint, dtype="bfloat16"), native=False)
    assert {weight.dtype for weight in model.module.parameters()} == {torch.bfloat16}
    for made in (model, *(load(spec(checkpoint, dtype=dtype)) for dtype in ("bfloat16", *INT8))):
        assert logits(made).dtype is torch.float32
        # With the few columns of a toy model, one scale per row is coarse.
        assert torch.cosine_similarity(logits(made), reference(checkpoint), 0) > (
            0.95 if made.dtype == "int8" else 0.99
        )
    assert load(spec(checkpoint, dtype="bfloat16")).dtype == "bfloat16"


def test_int8_takes_half_the_memory(checkpoint: Path) -> None:
    """Less than half of float32, scales included; only the native decoder has it."""
    if not INT8:
        pytest.skip("no int8 on this machine")
    assert load(spec(checkpoint, dtype="int8")).nbytes < 0.5 * load(spec(checkpoint)).nbytes
    with pytest.raises(ModelError, match="cannot use 'int8'"):
        load(spec(checkpoint, dtype="int8"), native=False)


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("value", ["kernels-community/flash-attn", "flash_attention_2", "eager"])
def test_attention_kernel_of_config_json_is_ignored(toy: Path, key: str, value: str) -> None:
    """Whatever it asks for, SDPA is used."""
    configure(toy, **{key: value})
    assert load(spec(toy), native=False).module.config._attn_implementation == "sdpa"


def test_attention_falls_back_to_eager_without_sdpa(tmp_path: Path) -> None:
    """CodeGen has no SDPA implementation."""
    folder = checkpoints.save_checkpoint(tmp_path / "codegen", "codegen")
    configure(folder, _attn_implementation="flash_attention_2")
    assert load(spec(folder), native=False).module.config._attn_implementation == "eager"


def save_toy(folder: Path, config: Any) -> Path:
    """Save a checkpoint of another architecture."""
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(checkpoints.make_tokenizer_json(), encoding="utf-8")
    return folder


SMALL = {"vocab_size": checkpoints.VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CONTEXT_LENGTHS = [
    (transformers.GPT2Config(vocab_size=600, n_embd=32, n_layer=2, n_head=2, n_positions=64), 64),
    (transformers.GPTBigCodeConfig(vocab_size=600, n_embd=32, n_layer=2, n_head=2, n_positions=96), 96),
    (transformers.MptConfig(vocab_size=600, d_model=32, n_layers=2, n_heads=2, max_seq_len=128), 128),
    (transformers.BloomConfig(vocab_size=600, hidden_size=32, n_layer=2, n_head=2), 2048),
    (
        transformers.Gemma3TextConfig(
            **SMALL, head_dim=16, num_key_value_heads=1, intermediate_size=64, max_position_embeddings=160
        ),
        160,
    ),
]


@pytest.mark.parametrize(
    ("config", "context_length"), CONTEXT_LENGTHS, ids=lambda value: getattr(value, "model_type", "")
)
def test_context_length_is_found_under_its_many_names(tmp_path: Path, config: Any, context_length: int) -> None:
    """With a sensible default for a configuration without one."""
    assert load(spec(save_toy(tmp_path / "other", config))).context_length == context_length


def test_text_configuration_within_a_multimodal_one_is_used(tmp_path: Path) -> None:
    """Context length and stop tokens are those of the text model, if a checkpoint also reads images."""
    text = {
        **SMALL,
        "head_dim": 16,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "eos_token_id": [0, 3],
        "max_position_embeddings": 160,
        "_attn_implementation": "flash_attention_2",
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = load(spec(save_toy(tmp_path / "nested", config)))
    assert model.context_length == 160 and model.stop_token_ids >= {0, 3}
    assert model.module.config.get_text_config()._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("config", "generation", "stop_token_ids"),
    [
        ({"eos_token_id": [0, 3]}, None, {0, 3}),
        ({"eos_token_id": 3}, {"eos_token_id": [4, 5]}, {3, 4, 5}),
        ({"eos_token_id": None}, {"eos_token_id": [0, 7]}, {0, 7}),
        ({"eos_token_id": None}, None, set()),
        ({"eos_token_id": 6}, {}, {6}),
    ],
)
def test_stop_tokens_are_all_that_a_checkpoint_names(
    toy: Path, config: dict[str, Any], generation: dict[str, Any] | None, stop_token_ids: set[int]
) -> None:
    """And no others: an architecture's default is an ordinary token of another vocabulary."""
    configure(toy, **config)
    (toy / "generation_config.json").unlink()
    if generation is not None:
        (toy / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    assert load(spec(toy)).stop_token_ids == stop_token_ids


def test_thread_count_follows_the_setting(master: Path) -> None:
    """Never more than there are cores; with 0 one of the measured counts."""
    before = torch.get_num_threads()
    try:
        for wanted in (1, 2, 10**6):
            model = load(spec(master, threads=wanted))
            assert torch.get_num_threads() == model.thread_tuner.count == min(wanted, count_cores())
        for wanted in (0, -3):
            model = load(spec(master, threads=wanted))
            logits(model)
            assert (
                torch.get_num_threads() == model.thread_tuner.count and model.thread_tuner.count in list_thread_counts()
            )
    finally:
        torch.set_num_threads(before)


def test_shipped_model_is_complete() -> None:
    """It has the hash of its card, and is loaded by default."""
    if not (SHIPPED_FOLDER / "model.safetensors").is_file():
        pytest.skip("there is no shipped model yet")
    card = read_shipped_card()
    assert hashlib.sha256((SHIPPED_FOLDER / "model.safetensors").read_bytes()).hexdigest() == card["sha256"]
    model = load(ModelSpec(device="cpu"))
    assert (model.num_parameters, model.context_length) == (card["parameters"], card["window"])
    assert model.tokenizer.vocab_size <= card["vocabulary"]


def test_embedding_may_have_more_rows_than_the_tokenizer_has_ids(tmp_path: Path) -> None:
    """Padded vocabularies do."""
    folder = save_toy(tmp_path / "padded", checkpoints.make_config("gpt_neox", vocab_size=640))
    assert load(spec(folder)).tokenizer.vocab_size == checkpoints.VOCAB_SIZE


# Weights that are pickles.


class MaliciousPickle:
    """Creates a folder if it is unpickled without restrictions."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def to_bin(folder: Path, shards: int = 1, **extra: Any) -> dict[str, torch.Tensor]:
    """Store a checkpoint's weights as ``.bin``, as old checkpoints do."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    for shard in range(shards):
        file = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        torch.save({**{name: weights[name] for name in names[shard::shards]}, **extra}, folder / file)
    return weights


def read_files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return a folder's files with their contents and modification times."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("shards", [1, 2])
def test_bin_is_converted_once(toy: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    """The second start reads the converted copy; the folder is not changed."""
    expected = reference(toy)
    to_bin(toy, shards, step=7, notes="plain values beside the weights")
    before = read_files(toy)
    torch.testing.assert_close(logits(load(spec(toy))), expected)
    assert read_files(toy) == before
    copies = list((own_cache / "codeclippy-ls" / "converted").glob("*/*"))
    assert len(copies) == 1 and len(list(copies[0].glob("*.safetensors"))) == shards

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the .bin is read again")

    monkeypatch.setattr(torch, "load", refuse)
    torch.testing.assert_close(logits(load(spec(toy))), expected)


def test_bin_with_shared_tensors_in_old_format_loads(tmp_path: Path) -> None:
    """With tensors that share memory, that are not contiguous, and that require gradients."""
    folder = save_toy(tmp_path / "tied", CONTEXT_LENGTHS[0][0])
    expected, weights = reference(folder), load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    weights["transformer.wpe.weight"] = weights["transformer.wpe.weight"].t().contiguous().t()
    weights["transformer.ln_f.bias"] = torch.nn.Parameter(weights["transformer.ln_f.bias"])
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    torch.testing.assert_close(logits(load(spec(folder))), expected)


def test_safetensors_have_priority_over_bins(toy: Path) -> None:
    """A ``.bin`` beside them is not even opened."""
    (toy / "pytorch_model.bin").write_bytes(b"never read")
    load(spec(toy))


def test_changed_bin_is_converted_again_and_the_old_copy_deleted(toy: Path, own_cache: Path) -> None:
    """Changed stop tokens, in another file, are noticed, too."""
    weights = to_bin(toy)
    before = logits(load(spec(toy)))
    weights["embed_out.weight"] = -weights["embed_out.weight"]
    torch.save(weights, toy / "pytorch_model.bin")
    (toy / "generation_config.json").write_text('{"eos_token_id": [5, 6]}', encoding="utf-8")
    model = load(spec(toy))
    torch.testing.assert_close(logits(model), -before)
    assert model.stop_token_ids == {0, 5, 6}
    assert len(list((own_cache / "codeclippy-ls" / "converted").glob("*/*"))) == 1


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_no_code_in_a_pickle_is_run(toy: Path, tmp_path: Path, own_cache: Path, form: str) -> None:
    """A pickle that would create a folder is rejected, and does not create it."""
    marker = tmp_path / "owned"
    to_bin(toy)
    state, file = {"embed_out.weight": MaliciousPickle(marker)}, toy / "pytorch_model.bin"
    if form == "bare":
        file.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=form == "zip")
    assert str(file) in rejection(toy)
    assert not marker.exists() and not list(own_cache.rglob("*.safetensors"))
    torch.load(file, weights_only=False) if form != "bare" else pickle.loads(file.read_bytes())
    assert marker.is_dir(), "the trap does not work"


@pytest.mark.parametrize("fault", [OSError("no space left on device"), KeyboardInterrupt()])
def test_interrupted_conversion_leaves_nothing(
    toy: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    """And the next start converts again."""
    to_bin(toy, shards=2)
    files: list[str] = []

    def half(tensors: Any, path: Path, **options: Any) -> None:
        files.append(path.name)
        path.write_bytes(b"half")
        if len(files) == 2:
            raise fault

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", half)
        with pytest.raises(ModelError if isinstance(fault, OSError) else KeyboardInterrupt):
            load(spec(toy))
    assert len(files) == 2 and not [path for path in own_cache.rglob("*") if path.is_file()]
    load(spec(toy))


@pytest.mark.parametrize("state", [[1, 2], {"a": 1}, {}, "text", {"state_dict": {"a": torch.ones(1)}}])
def test_bin_without_named_weights_is_rejected(toy: Path, state: Any) -> None:
    """The message says so."""
    to_bin(toy)
    torch.save(state, toy / "pytorch_model.bin")
    assert "no weights by name" in rejection(toy)


def test_missing_shard_is_reported(toy: Path) -> None:
    """Once it is there, the checkpoint loads."""
    to_bin(toy, shards=2)
    away = (toy / "pytorch_model-00002-of-00002.bin").rename(toy / "away")
    assert "lacks" in rejection(toy)
    away.rename(toy / "pytorch_model-00002-of-00002.bin")
    load(spec(toy))


# Code in a checkpoint.


def add_code(folder: Path, marker: Path) -> None:
    """Add code that would create a folder, for every class that a checkpoint may define."""
    code = f"import os\nos.mkdir({str(marker)!r})\nclass C: pass\n"
    (folder / "modeling_x.py").write_text(code, encoding="utf-8")
    own = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "modeling_x.C")
    configure(folder, auto_map=own)
    tokenizer = {"tokenizer_class": "XTokenizer", "auto_map": {"AutoTokenizer": ["modeling_x.C", "modeling_x.C"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def test_code_of_a_known_architecture_is_ignored(toy: Path, tmp_path: Path) -> None:
    """The checkpoint loads with transformers' own architecture."""
    add_code(toy, tmp_path / "owned")
    assert load(spec(toy)).architecture == "gpt_neox"
    assert not (tmp_path / "owned").exists()


def test_code_of_an_unknown_architecture_is_never_run(toy: Path, tmp_path: Path) -> None:
    """Nor is that of a tokenizer that has to be converted."""
    add_code(toy, tmp_path / "owned")
    (toy / "tokenizer.json").rename(toy / "vocab.json")
    rejection(toy)
    configure(toy, model_type="x")
    assert "never run" in rejection(toy)
    assert not (tmp_path / "owned").exists()


# Checkpoints that are rejected.


def write(name: str, data: bytes) -> Callable[[Path], None]:
    """Damage: other contents of a file."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return damage


def cut(name: str) -> Callable[[Path], None]:
    """Damage: half of a file is missing."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[: (folder / name).stat().st_size // 2])

    return damage


def empty(folder: Path) -> None:
    """Damage: the folder is empty."""
    for path in folder.iterdir():
        path.unlink()


def settings(**changes: Any) -> Callable[[Path], None]:
    """Damage: other values in config.json."""
    return lambda folder: configure(folder, **changes)


def drop(name: str) -> Callable[[Path], None]:
    """Damage: a missing file."""
    return lambda folder: (folder / name).unlink()


def lose(key: str) -> Callable[[Path], None]:
    """Damage: a missing tensor."""
    return lambda folder: change_weights(folder, lambda weights: weights.pop(key))


def pointer_bin(folder: Path) -> None:
    """Damage: a pointer instead of the only weights."""
    to_bin(folder)
    (folder / "pytorch_model.bin").write_bytes(POINTER)


def index_to(file: str) -> Callable[[Path], None]:
    """Damage: an index that refers to another file."""
    return write("model.safetensors.index.json", json.dumps({"weight_map": {"embed_out.weight": file}}).encode())


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "folder missing": (shutil.rmtree, "is neither a folder"),
    "folder empty": (empty, "has no config.json"),
    "no config": (drop("config.json"), "has no config.json"),
    "config not JSON": (write("config.json", b"{"), "config.json cannot be used"),
    "config a list": (write("config.json", b"[]"), "config.json cannot be used"),
    "config not UTF-8": (write("config.json", b"\xff\xfe{}"), "config.json cannot be used"),
    "config a pointer": (write("config.json", POINTER), "config.json is a Git LFS pointer"),
    "config of an unknown model": (settings(model_type="nonsense"), "'nonsense'"),
    "config of no model": (settings(model_type=None), "config.json cannot be used"),
    "config of an encoder-decoder": (settings(model_type="t5"), "'t5'"),
    "config of a known encoder-decoder": (settings(model_type="bart", is_encoder_decoder=True), "'bart'"),
    "config of an encoder": (settings(model_type="bert"), "'bert'"),
    "config of pictures": (settings(model_type="vit", num_attention_heads=4), "'vit'"),
    "config with text for a number": (settings(num_hidden_layers="two"), "config.json cannot be used"),
    "config without heads": (settings(num_attention_heads=0), "config.json cannot be used"),
    "config with a strange window": (settings(max_position_embeddings=-5), "-5"),
    "config with a strange dtype": (settings(dtype="nonsense"), "config.json cannot be used"),
    "config of a number format that needs more": (
        settings(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        "cannot be read",
    ),
    "no layers": (settings(num_hidden_layers=0), "does not work with a KV cache"),
    "fewer layers than there are": (settings(num_hidden_layers=1), "leaves out"),
    "more layers than there are": (settings(num_hidden_layers=3), "lacks 12 weights"),
    "other shapes": (settings(hidden_size=64), "shape"),
    "smaller vocabulary than weights": (settings(vocab_size=500), "shape"),
    "weights missing": (drop("model.safetensors"), "contains no weights"),
    "weights cut": (cut("model.safetensors"), "cannot be read"),
    "weights empty": (write("model.safetensors", b""), "cannot be read"),
    "weights garbage": (write("model.safetensors", random.Random(1).randbytes(4096)), "cannot be read"),
    "weights a web page": (write("model.safetensors", b"<!DOCTYPE html><html></html>"), "web page"),
    "weights a pointer": (write("model.safetensors", POINTER), "model.safetensors is a Git LFS pointer"),
    "bin a pointer": (pointer_bin, "pytorch_model.bin is a Git LFS pointer"),
    "a weight missing": (lose("gpt_neox.layers.1.mlp.dense_4h_to_h.weight"), "lacks 1 weights"),
    "index garbage": (write("model.safetensors.index.json", b"[]"), "index.json cannot be read"),
    "index to a bin": (index_to("pytorch_model.bin"), "'pytorch_model.bin'"),
    "index to elsewhere": (index_to("../other/model.safetensors"), "other"),
    "generation config a list": (write("generation_config.json", b"[1]"), "generation_config.json cannot be used"),
    "generation config cut": (cut("generation_config.json"), "generation_config.json cannot be used"),
    "tokenizer missing": (drop("tokenizer.json"), "has no tokenizer.json"),
    "tokenizer cut": (cut("tokenizer.json"), "tokenizer"),
    "tokenizer not JSON": (write("tokenizer.json", b"hello"), "tokenizer"),
    "tokenizer not UTF-8": (write("tokenizer.json", b"\xff"), "tokenizer"),
    "tokenizer a pointer": (write("tokenizer.json", POINTER), "tokenizer.json is a Git LFS pointer"),
    "tokenizer empty": (write("tokenizer.json", b"{}"), "tokenizer"),
    "added tokens garbage": (write("added_tokens.json", b"[1]"), "tokenizer"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_checkpoint_is_rejected_in_one_sentence(toy: Path, name: str) -> None:
    """The sentence names the checkpoint and says what is wrong; nothing else is raised."""
    damage, expected = DAMAGES[name]
    damage(toy)
    sentence = rejection(toy)
    assert expected in sentence and str(toy) in sentence


def test_nan_weights_are_rejected(toy: Path) -> None:
    """They are found when the model is loaded."""
    change_weights(toy, lambda weights: [weight.fill_(float("nan")) for weight in weights.values()])
    with pytest.raises(NonFiniteError, match="NaN"):
        load(spec(toy))


@pytest.mark.parametrize(
    "config",
    [
        transformers.MambaConfig(vocab_size=600, hidden_size=32, state_size=4, num_hidden_layers=2),
        transformers.RwkvConfig(vocab_size=600, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2),
    ],
    ids=lambda config: config.model_type,
)
def test_models_without_croppable_cache_are_rejected(tmp_path: Path, config: Any) -> None:
    """Transformers loads recurrent models, but with a prefix cache they would generate nonsense."""
    assert "does not work with a KV cache" in rejection(save_toy(tmp_path / "recurrent", config))


def test_tokenizer_of_another_model_is_rejected(tmp_path: Path) -> None:
    """Ids beyond the embedding would crash; on CUDA the process could not recover."""
    folder = save_toy(tmp_path / "small", checkpoints.make_config("gpt_neox", vocab_size=500))
    assert "ids up to 599, but the model has only 500" in rejection(folder)


def test_added_tokens_without_an_embedding_are_dropped(toy: Path) -> None:
    """Many fine-tuned checkpoints have such a padding token; text is encoded without it."""
    data = json.loads((toy / "tokenizer.json").read_text(encoding="utf-8"))
    plain = {**data["added_tokens"][0], "special": True}
    data["added_tokens"] += [{**plain, "id": 600, "content": "[PAD]"}, {**plain, "id": 601, "content": "    "}]
    (toy / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    assert read_tokenizer(toy).token_to_id("[PAD]") == 600
    tokenizer = load(spec(toy)).tokenizer
    assert (
        tokenizer.vocab_size == 600 and tokenizer.token_to_id("[PAD]") is None and tokenizer.token_to_id("<|MID|>") == 3
    )
    assert tokenizer.decode(tokenizer.encode("[PAD]    x")) == "[PAD]    x"
    assert max(tokenizer.encode("[PAD]    x")) < 600


@pytest.mark.parametrize(
    "name",
    [
        "gpt2",
        "./nowhere",
        "/nowhere/at/all",
        "a/b/c",
        "owner/../other",
        "a b/c",
        "https://x.org/a",
        "~nobody/x",
        "\0/x",
        "x" * 5000,
        f"/{'x' * 5000}",
        "..",
        "owner/",
    ],
)
def test_invalid_model_name_is_rejected_with_the_setting(name: str) -> None:
    """Before any network access."""
    with pytest.raises(ModelError) as caught:
        load(ModelSpec(name))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert 'setting "model.completion"' in str(caught.value) or "config.json" in str(caught.value)


def test_file_instead_of_a_folder_is_rejected(toy: Path) -> None:
    """The message says that it is a file."""
    assert "is a file" in rejection(toy / "config.json")


def test_hub_name_offline_is_rejected_with_a_fix() -> None:
    """The message says which setting to change, and how."""
    with pytest.raises(ModelError, match="'owner/model'") as caught:
        load(ModelSpec("owner/model"))
    assert 'set "model.completion" or "model.edit" to a local folder' in str(caught.value) and "offline" in str(
        caught.value
    )


def test_hub_name_is_not_looked_up_in_the_current_folder(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That may be somebody else's repository, with a checkpoint of that name; a dot in front says that it is meant."""
    shutil.copytree(master, tmp_path / "owner" / "model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="of the hub is not on this machine"):
        load(ModelSpec("owner/model", device="cpu"))
    for name in ("./owner/model", "owner/model/", "owner/../owner/model", str(tmp_path / "owner" / "model")):
        assert load(ModelSpec(name, device="cpu")).name == name


def test_model_in_the_hub_cache_loads_offline(master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the repository has both kinds of weights, and only one was downloaded."""
    tree = pytest.importorskip("huggingface_hub._tree_cache")
    commit, repository = "a" * 40, tmp_path / "hub" / "models--owner--toy"
    shutil.copytree(master, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    entry = tree.TreeCacheEntry(size=1, blob_id="b", lfs_sha256=None, lfs_size=None, xet_hash=None)
    names = [path.name for path in master.iterdir()]
    tree.write_tree_cache(str(repository), commit, dict.fromkeys([*names, "pytorch_model.bin"], entry))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load(ModelSpec("owner/toy", device="cpu")).name == "owner/toy"
    assert [model.name for model in list_stored_models(environment={"HF_HUB_CACHE": str(tmp_path / "hub")})] == [
        "owner/toy"
    ]


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta", "hpu", "privateuseone", "", "cpu:x"])
def test_unavailable_device_is_rejected_with_the_setting(master: Path, device: str) -> None:
    """The message names the setting and the value."""
    assert f'setting "model.device": {device!r}' in rejection(master, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_missing_cuda_is_rejected_with_a_fix(master: Path) -> None:
    """The message has the value that always works."""
    assert 'try "auto"' in rejection(master, device="cuda")


@pytest.mark.parametrize("dtype", ["nonsense", "int4", ""])
def test_unknown_number_format_is_rejected_with_the_setting(master: Path, dtype: str) -> None:
    """The message names the setting and the value."""
    assert f'setting "model.dtype": {dtype!r}' in rejection(master, dtype=dtype)


# Tokenizers.


def some_text(seed: int) -> str:
    """Make text of spaces, tabs, line ends, control tokens' names and characters of every length."""
    chance = random.Random(seed)
    pieces = [
        "def",
        " ",
        "  ",
        "    ",
        "        ",
        "\t\t",
        "\t",
        "\n",
        "\r\n",
        "x",
        "self",
        "é",
        "日本",
        "😀",
        "()",
        "0",
        "<|endoftext|>",
        "<|MID|>",
        " <PRE>",
        "<s>",
        ". ",
        " ,",
        "n't",
    ]
    return "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 60)))


@pytest.mark.parametrize("name", ["gpt2", "codegen", "codeclippy", "neox", "fim-neox"])
def test_decoding_equals_transformers(name: str) -> None:
    """Any text is decoded unchanged and contains no control token; added tokens of whitespace are text."""
    folder = tokenizer_folder(name)
    ours, theirs = read_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for seed in range(200):
        ids = ours.encode(some_text(seed))
        assert ours.decode(ids) == some_text(seed)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert ours.encode_continuation(some_text(seed)) == ids and not set(ids) & ours.control_token_ids
    for token, id in theirs.get_added_vocab().items():
        assert ours.decode([id]) == (token if token.isspace() else "") and ours.token_to_id(token) == id


def vocabulary() -> tuple[dict[str, int], list[Any]]:
    """Return vocabulary and merges of the toy tokenizer."""
    model = json.loads(checkpoints.make_tokenizer_json())["model"]
    return model["vocab"], [merge if isinstance(merge, list) else merge.split(" ", 1) for merge in model["merges"]]


def save_old_tokenizer(folder: Path) -> Path:
    """Save the toy tokenizer in GPT-2's old files, with whitespace as added tokens."""
    vocab, merges = vocabulary()
    (folder / "tokenizer.json").unlink(missing_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    (folder / "added_tokens.json").write_text('{"\\t\\t": 600, "  ": 601, "    ": 602}', encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}', encoding="utf-8")
    return folder


def test_old_tokenizer_files_are_converted(tmp_path: Path) -> None:
    """With GPT-2's own ids, and the added whitespace tokens."""
    folder = save_toy(tmp_path / "old", checkpoints.make_config("gpt_neo", vocab_size=640))
    tokenizer = load(spec(save_old_tokenizer(folder))).tokenizer
    vocab, merges = vocabulary()
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [tuple(merge) for merge in merges]))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in ("def position(self, offset):\n\treturn é😀", "x = [1, 2]\n"):
        assert tokenizer.encode(text) == plain.encode(text).ids
    assert tokenizer.encode("    \t\t  ") == [602, 600, 601]
    assert tokenizer.decode([602, 600, 601]) == "    \t\t  " and tokenizer.token_to_id("<|endoftext|>") == 0


def test_added_tokens_json_completes_tokenizer_json(toy: Path) -> None:
    """Tokens that it lacks are added; nothing else changes."""
    before = Tokenizer(checkpoints.make_tokenizer_json())
    (toy / "added_tokens.json").write_text('{"    ": 600, "<extra>": 601, "<|MID|>": 3}', encoding="utf-8")
    tokenizer = read_tokenizer(toy)
    assert tokenizer.encode("    x") == [600, *before.encode("x")] and tokenizer.token_to_id("<extra>") == 601
    text = "def position(self):\n <extra>"
    assert tokenizer.encode(text) == before.encode(text)


def sentencepiece(path: str = "normalizer") -> str:
    """Make a tokenizer like Code Llama's: space prefix, byte fallback, merges that lead to control tokens."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        ["def self return x = y ( ) , : position offset <PRE> "] * 9,
        tokenizers.trainers.BpeTrainer(vocab_size=120, show_progress=False),
    )
    data = json.loads(trained.to_str())
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *data["model"]["vocab"],
        "▁<",
        "▁<P",
        "▁<PR",
        "▁<PRE",
        "▁<PRE>",
        "▁<SUF>",
        "▁<MID>",
        "▁<EOT>",
    ]
    vocab = {piece: id for id, piece in enumerate(dict.fromkeys(pieces))}
    merges = [*data["model"]["merges"], ["▁", "<"], ["▁<", "P"], ["▁<P", "R"], ["▁<PR", "E"], ["▁<PRE", ">"]]
    added = [
        {
            "id": vocab[token],
            "content": token,
            "special": True,
            "normalized": False,
            "lstrip": False,
            "rstrip": False,
            "single_word": False,
        }
        for token in ("<unk>", "<s>", "</s>", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
    ]
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    decoder = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    model = {
        **data["model"],
        "vocab": vocab,
        "merges": merges,
        "byte_fallback": True,
        "unk_token": "<unk>",
        "fuse_unk": True,
    }
    return json.dumps(
        {
            **data,
            "model": model,
            "added_tokens": added,
            "decoder": {"type": "Sequence", "decoders": decoder},
            "normalizer": {"type": "Sequence", "normalizers": steps} if path == "normalizer" else None,
            "pre_tokenizer": metaspace if path == "pre_tokenizer" else None,
        }
    )


@pytest.mark.parametrize("path", ["normalizer", "pre_tokenizer"])
def test_continued_text_gets_no_space_prefix(path: str) -> None:
    """Continued text is decoded unchanged; text at the start gets the space that the model was trained with."""
    tokenizer = Tokenizer(sentencepiece(path))
    for text in [some_text(seed) for seed in range(200)] + ["\n\nx", "\n", "", " x", "x"]:
        ids = tokenizer.encode_continuation(text)
        assert tokenizer.decode(ids) == text and not set(ids) & tokenizer.control_token_ids
    assert tokenizer.decode(tokenizer.encode("x = y")) == " x = y"
    assert len(tokenizer.encode_continuation("self")) < 4


def test_control_tokens_with_a_space_in_their_name() -> None:
    """Code Llama's are found by name, and no text becomes one, although its merges lead to them."""
    tokenizer = Tokenizer(sentencepiece())
    raw = tokenizers.Tokenizer.from_str(sentencepiece())
    for token in ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"):
        id = tokenizer.control_token_to_id(token)
        assert id is not None and id == tokenizer.token_to_id(token) == raw.token_to_id(token)
        assert tokenizer.decode([id]) == ""
    assert raw.token_to_id("▁<PRE>") in raw.encode("x <PRE> y", add_special_tokens=False).ids, "the trap does not work"
    assert tokenizer.decode(tokenizer.encode_continuation("x <PRE> y")) == "x <PRE> y"


def changed(**changes: Any) -> str:
    """Return the toy tokenizer with other values in its model."""
    data = json.loads(checkpoints.make_tokenizer_json())
    return json.dumps({**data, "model": {**data["model"], **changes}})


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        (changed(continuing_subword_prefix="##"), "of a type"),
        (changed(end_of_word_suffix="</w>"), "of a type"),
        (changed(type="WordPiece"), "of a type"),
        (json.dumps({**json.loads(changed(unk_token="x y")), "pre_tokenizer": None}), "cannot be read"),
        (changed(vocab={}), "cannot be read"),
        (changed(merges=[["no", "such"]]), "cannot be read"),
        ("[]", "cannot be read"),
        ("null", "cannot be read"),
        ("[" * 10**5, "cannot be read"),
    ],
    ids=lambda value: value[-12:],
)
def test_unusable_tokenizer_is_rejected(definition: str, expected: str) -> None:
    """Some of these make the library abort the whole process."""
    with pytest.raises(ModelError, match=expected) as caught:
        Tokenizer(definition)
    assert "\n" not in str(caught.value)


def test_id_with_two_names_is_rejected() -> None:
    """Otherwise user text could become a control token by its other name."""
    data = json.loads(checkpoints.make_tokenizer_json())
    data["added_tokens"].append({**data["added_tokens"][0], "id": 100, "content": "<|extra|>"})
    with pytest.raises(ModelError, match="gives the id 100 to both"):
        Tokenizer(json.dumps(data))


# Loading in an engine.


@pytest.fixture
def engine(toy: Path) -> Iterator[ThreadEngine]:
    """Open an engine with a checkpoint that the test may damage."""
    made = ThreadEngine(ModelWorker, {"default": spec(toy, threads=1)})
    yield made
    made.close()
    assert made.join(TIMEOUT)


def four_tokens() -> Request:
    """Make a request for four tokens."""
    built = SimpleNamespace(token_ids=tuple(TOKENS), stop_token_ids=frozenset(), constraint=None, num_copied=0)
    return Request(PrebuiltTask(built), sampling=Sampling(max_tokens=4))


def test_model_is_released_with_its_last_name(toy: Path) -> None:
    """Then its memory is free, and it can be loaded again."""
    worker, model_spec = ModelWorker(), spec(toy, threads=1)
    for name in ("complete", "edit"):
        worker.load(name, model_spec)
    subject = weakref.ref(worker._models["edit"][0])
    worker.unload("complete")
    assert subject() is not None
    worker.unload("edit")
    assert subject() is None
    worker.load("complete", model_spec)


async def test_repaired_checkpoint_loads_in_the_same_engine(engine: ThreadEngine, toy: Path) -> None:
    """After every failure the engine says why, and ``load`` tries again."""
    good = (toy / "model.safetensors").read_bytes()
    for bad in (b"", POINTER, good[:-100]):
        (toy / "model.safetensors").write_bytes(bad)
        with pytest.raises(EngineError, match=re.escape(str(toy))):
            await engine.load().result()
        assert engine.status().state is ModelState.FAILED and str(toy) in engine.status().reason
        with pytest.raises(EngineError, match=re.escape(str(toy))):
            await engine.submit(four_tokens()).result()
    (toy / "model.safetensors").write_bytes(good)
    await engine.load().result()
    assert len((await engine.submit(four_tokens()).result()).candidates[0].token_ids) == 4


async def test_panic_of_the_tokenizers_library_does_not_end_the_engine(engine: ThreadEngine, toy: Path) -> None:
    """A panic is not an ``Exception``, and would end the thread."""
    good = (toy / "tokenizer.json").read_text(encoding="utf-8")
    (toy / "tokenizer.json").write_text(changed(continuing_subword_prefix="ab"), encoding="utf-8")
    with pytest.raises(EngineError, match="tokenizer"):
        await engine.load().result()
    (toy / "tokenizer.json").write_text(good, encoding="utf-8")
    await engine.load().result()


def test_loading_prints_nothing(toy: Path, tmp_path: Path, own_cache: Path) -> None:
    """From safetensors, from a ``.bin``, with an old tokenizer, and on failure."""
    old = save_old_tokenizer(save_toy(tmp_path / "old", checkpoints.make_config("gpt_neo", vocab_size=640)))
    to_bin(old)
    code = """
import sys
from codeclippy_ls.inference.errors import ModelError
from codeclippy_ls.engine.loading.loader import load
from codeclippy_ls.inference.spec import ModelSpec
for name in sys.argv[1:]:
    try:
        load(ModelSpec(name, device="cpu"))
    except ModelError:
        pass
"""
    lacking = Path(shutil.copytree(toy, tmp_path / "lacking"))
    change_weights(lacking, lambda weights: weights.pop("embed_out.weight"))
    encoder = tmp_path / "tokenizer-model"
    shutil.copytree(toy, encoder)
    (encoder / "tokenizer.json").rename(encoder / "tokenizer.model")
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code, str(toy), str(old), str(lacking), str(encoder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


# Split over several devices.


def test_module_split_over_devices_has_the_same_logits(master: Path) -> None:
    """Accelerate moves offloaded layers when they are needed; here one stays in the file."""
    config = read_transformers_config(master)
    parts = ("gpt_neox.embed_in", "gpt_neox.rotary_emb", "gpt_neox.final_layer_norm", "gpt_neox.layers.0", "lm_head")
    away = {f"gpt_neox.layers.{layer}": "disk" for layer in range(1, config.num_hidden_layers)}
    runner = ModuleRunner(load_module(master, config, torch.float32, {**dict.fromkeys(parts, "cpu"), **away}))
    assert {one.device.type for one in runner.module.parameters()} == {"cpu", "meta"} and runner.device.type == "cpu"
    plain = load(spec(master))
    found = runner.forward([ModelInput(TOKENS, runner.new_cache())])[0]
    assert torch.allclose(found, plain.forward([ModelInput(TOKENS, plain.new_cache())])[0], atol=1e-4)


def test_balanced_device_without_gpu_is_the_cpu(master: Path) -> None:
    """Transformers then runs the model, even if the native decoder could."""
    model = load(spec(master, device=BALANCED))
    assert model.module is not None and model.device.type == "cpu"
    assert torch.allclose(logits(model), logits(load(spec(master))), atol=1e-4)


def test_missing_accelerate_is_reported_with_a_fix(master: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an optional dependency of the package."""
    monkeypatch.setattr(loader, "find_spec", lambda name: None)
    assert "codeclippy-ls[split]" in rejection(master, device=BALANCED)
