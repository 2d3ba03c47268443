"""Checkpoints of every kind: the good ones load as transformers loads them, the bad ones are refused in one sentence.

Nothing in a checkpoint is ever run, and a ``.bin`` is read once, without its pickles, and kept as safetensors.
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
from codeclippy_ls.inference.spec import SHIPPED_FOLDER, ModelSpec, list_cached_hub_models, read_shipped_card
from tests import checkpoints
from tests.editor import TIMEOUT
from tests.scripted import PrebuiltTask
from tests.shared import tokenizer_folder

TOKENS = [9, 100, 42, 17, 300, 42]
INT8 = ("int8",) if "int8" in list_available_formats("cpu") else ()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test converts into a cache of its own, and leaves the number of threads as it was."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session", params=checkpoints.ARCHITECTURES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of each architecture; not to be changed."""
    return checkpoints.save_checkpoint(tmp_path_factory.mktemp("whole") / request.param, request.param)


@pytest.fixture(scope="session")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole checkpoint; not to be changed."""
    return checkpoints.save_checkpoint(tmp_path_factory.mktemp("master") / "toy")


@pytest.fixture
def toy(master: Path, tmp_path: Path) -> Path:
    """A checkpoint that the test may change."""
    return Path(shutil.copytree(master, tmp_path / "toy"))


def spec(folder: Path, **extra: Any) -> ModelSpec:
    """A folder's model on the CPU in float32."""
    return ModelSpec(str(folder), **{"device": "cpu", "dtype": "float32", **extra})


def logits(model: Model) -> torch.Tensor:
    """What a loaded model says after the same few tokens."""
    return model.forward([ModelInput(TOKENS, model.new_cache())])[0][0]


def reference(folder: Path) -> torch.Tensor:
    """What transformers' own loading makes of the folder."""
    made = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return torch.Tensor(made.eval()(torch.tensor([TOKENS])).logits[0, -1])


def configure(folder: Path, **changes: Any) -> None:
    """Change a checkpoint's config.json; ``None`` takes a key away."""
    path = folder / "config.json"
    written = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in written.items() if value is not None}), encoding="utf-8")


def reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change a checkpoint's weights."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder: Path, **extra: Any) -> str:
    """The one sentence with which a checkpoint is refused."""
    with pytest.raises(ModelError) as caught:
        load(spec(folder, **extra))
    sentence = str(caught.value)
    assert "\n" not in sentence and "Traceback" not in sentence and ". " not in sentence and len(sentence) < 700
    return sentence


# What loads.


def test_float32_is_transformers_own(whole: Path) -> None:
    """Every architecture's logits, from safetensors, by our own decoder and by transformers' module."""
    for native in (True, False):
        model = load(spec(whole), native=native)
        torch.testing.assert_close(logits(model), reference(whole), rtol=1e-4, atol=1e-4)
        assert (
            model.architecture == whole.name
            and model.context_length == checkpoints.CONTEXT_LENGTH
            and model.stop_token_ids == {0}
        )
        assert model.dtype == "float32" and (model.module is None) == native
        assert model.num_parameters == checkpoints.make_module(whole.name).num_parameters()


def test_what_our_decoder_runs_needs_no_transformers(tmp_path: Path) -> None:
    """Importing it takes as long as importing torch; nor is anything of it loaded for a module that is not used."""
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


def test_weights_under_other_names_are_found_by_transformers(tmp_path: Path) -> None:
    """GPT-2's own checkpoints lack a part of each name; our decoder runs them all the same."""
    folder = toy_of(tmp_path / "gpt2", WINDOWS[0][0])
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


def test_a_configuration_of_an_older_version_is_read_by_transformers(whole: Path, tmp_path: Path) -> None:
    """What it leaves out is transformers' to know."""
    folder = Path(shutil.copytree(whole, tmp_path / "older"))
    configure(folder, transformers_version="4.30.0", tie_word_embeddings=None)
    if whole.name == "gpt_neo":  # tied by default
        configure(folder, tie_word_embeddings=True)
    torch.testing.assert_close(logits(load(spec(folder))), reference(whole), rtol=1e-4, atol=1e-4)


def test_the_number_format_is_the_one_asked_for(whole: Path) -> None:
    """All weights are in it, and the logits are float32 still and nearly the same."""
    model = load(spec(whole, dtype="bfloat16"), native=False)
    assert {weight.dtype for weight in model.module.parameters()} == {torch.bfloat16}
    for made in (model, *(load(spec(whole, dtype=dtype)) for dtype in ("bfloat16", *INT8))):
        assert logits(made).dtype is torch.float32
        # At toy widths a factor per row is coarse.
        assert torch.cosine_similarity(logits(made), reference(whole), 0) > (0.95 if made.dtype == "int8" else 0.99)
    assert load(spec(whole, dtype="bfloat16")).dtype == "bfloat16"


def test_int8_is_half_of_bfloat16(whole: Path) -> None:
    """And a quarter of float32, but for the factors; only our decoder has it."""
    if not INT8:
        pytest.skip("no int8 on this machine")
    assert load(spec(whole, dtype="int8")).nbytes < 0.5 * load(spec(whole)).nbytes
    with pytest.raises(ModelError, match="cannot use 'int8'"):
        load(spec(whole, dtype="int8"), native=False)


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("value", ["kernels-community/flash-attn", "flash_attention_2", "eager"])
def test_attention_is_ours_to_choose(toy: Path, key: str, value: str) -> None:
    """Whatever a config.json asks for."""
    configure(toy, **{key: value})
    assert load(spec(toy), native=False).module.config._attn_implementation == "sdpa"


def test_attention_falls_back_where_an_architecture_has_no_other(tmp_path: Path) -> None:
    """CodeGen has the plain one only."""
    folder = checkpoints.save_checkpoint(tmp_path / "codegen", "codegen")
    configure(folder, _attn_implementation="flash_attention_2")
    assert load(spec(folder), native=False).module.config._attn_implementation == "eager"


def toy_of(folder: Path, config: Any) -> Path:
    """A checkpoint of another architecture."""
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(checkpoints.make_tokenizer_json(), encoding="utf-8")
    return folder


SMALL = {"vocab_size": checkpoints.VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WINDOWS = [
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


@pytest.mark.parametrize(("config", "window"), WINDOWS, ids=lambda value: getattr(value, "model_type", ""))
def test_windows_by_their_many_names(tmp_path: Path, config: Any, window: int) -> None:
    """And a sensible one where a configuration names none."""
    assert load(spec(toy_of(tmp_path / "other", config))).context_length == window


def test_a_configuration_within_a_configuration(tmp_path: Path) -> None:
    """The text model's own window and end, where a checkpoint reads pictures too."""
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
    model = load(spec(toy_of(tmp_path / "nested", config)))
    assert model.context_length == 160 and model.stop_token_ids >= {0, 3}
    assert model.module.config.get_text_config()._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({"eos_token_id": [0, 3]}, None, {0, 3}),
        ({"eos_token_id": 3}, {"eos_token_id": [4, 5]}, {3, 4, 5}),
        ({"eos_token_id": None}, {"eos_token_id": [0, 7]}, {0, 7}),
        ({"eos_token_id": None}, None, set()),
        ({"eos_token_id": 6}, {}, {6}),
    ],
)
def test_ends_are_all_that_a_checkpoint_names(
    toy: Path, config: dict[str, Any], generation: dict[str, Any] | None, ends: set[int]
) -> None:
    """And none that it does not: an architecture's own default is an ordinary token of another vocabulary."""
    configure(toy, **config)
    (toy / "generation_config.json").unlink()
    if generation is not None:
        (toy / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    assert load(spec(toy)).stop_token_ids == ends


def test_threads_are_those_asked_for(master: Path) -> None:
    """As many as are asked for, and never more than there are cores; else one of the counts that were measured."""
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


def test_the_shipped_model_is_whole() -> None:
    """It has the hash on its card, and loads when nothing is set."""
    if not (SHIPPED_FOLDER / "model.safetensors").is_file():
        pytest.skip("there is no shipped model yet")
    card = read_shipped_card()
    assert hashlib.sha256((SHIPPED_FOLDER / "model.safetensors").read_bytes()).hexdigest() == card["sha256"]
    model = load(ModelSpec(device="cpu"))
    assert (model.num_parameters, model.context_length) == (card["parameters"], card["window"])
    assert model.tokenizer.vocab_size <= card["vocabulary"]


def test_an_embedding_may_be_larger_than_the_tokenizer(tmp_path: Path) -> None:
    """As padded vocabularies are."""
    folder = toy_of(tmp_path / "padded", checkpoints.make_config("gpt_neox", vocab_size=640))
    assert load(spec(folder)).tokenizer.vocab_size == checkpoints.VOCAB_SIZE


# Weights that are pickles.


class Evil:
    """Unpickled freely, it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def to_bin(folder: Path, shards: int = 1, **extra: Any) -> dict[str, torch.Tensor]:
    """Keep a checkpoint's weights as old checkpoints do."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    for shard in range(shards):
        file = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin"
        torch.save({**{name: weights[name] for name in names[shard::shards]}, **extra}, folder / file)
    return weights


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """All that a folder holds, with the times of writing."""
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("shards", [1, 2])
def test_bins_are_converted_once(toy: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    """The second start reads the kept copy, and the folder is left as it was."""
    expected = reference(toy)
    to_bin(toy, shards, step=7, notes="plain values beside the weights")
    before = contents(toy)
    torch.testing.assert_close(logits(load(spec(toy))), expected)
    assert contents(toy) == before
    kept = list((own_cache / "codeclippy-ls" / "converted").glob("*/*"))
    assert len(kept) == 1 and len(list(kept[0].glob("*.safetensors"))) == shards

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(torch, "load", refuse)
    torch.testing.assert_close(logits(load(spec(toy))), expected)


def test_a_bin_shared_tied_and_in_old_format(tmp_path: Path) -> None:
    """Tensors that share memory, that are not contiguous, and that carry gradients."""
    folder = toy_of(tmp_path / "tied", WINDOWS[0][0])
    expected, weights = reference(folder), load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    weights["transformer.wpe.weight"] = weights["transformer.wpe.weight"].t().contiguous().t()
    weights["transformer.ln_f.bias"] = torch.nn.Parameter(weights["transformer.ln_f.bias"])
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    torch.testing.assert_close(logits(load(spec(folder))), expected)


def test_safetensors_go_before_bins(toy: Path) -> None:
    """A ``.bin`` beside them is not even opened."""
    (toy / "pytorch_model.bin").write_bytes(b"never read")
    load(spec(toy))


def test_a_changed_bin_is_converted_again_and_the_old_copy_goes(toy: Path, own_cache: Path) -> None:
    """Also changed ends count, which lie beside the weights."""
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
def test_nothing_in_a_pickle_is_run(toy: Path, tmp_path: Path, own_cache: Path, form: str) -> None:
    """A pickle that would create a file is refused, and the file is not there."""
    marker = tmp_path / "owned"
    to_bin(toy)
    state, file = {"embed_out.weight": Evil(marker)}, toy / "pytorch_model.bin"
    if form == "bare":
        file.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=form == "zip")
    assert str(file) in refusal(toy)
    assert not marker.exists() and not list(own_cache.rglob("*.safetensors"))
    torch.load(file, weights_only=False) if form != "bare" else pickle.loads(file.read_bytes())
    assert marker.is_dir(), "the trap is none"


@pytest.mark.parametrize("fault", [OSError("no space left on device"), KeyboardInterrupt()])
def test_a_conversion_that_is_cut_off_leaves_nothing(
    toy: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    """And the next start converts afresh."""
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
def test_bins_without_weights_by_name(toy: Path, state: Any) -> None:
    """Are refused as such."""
    to_bin(toy)
    torch.save(state, toy / "pytorch_model.bin")
    assert "no weights by name" in refusal(toy)


def test_a_shard_that_is_missing(toy: Path) -> None:
    """Is missed, and when it has come the checkpoint loads."""
    to_bin(toy, shards=2)
    away = (toy / "pytorch_model-00002-of-00002.bin").rename(toy / "away")
    assert "lacks" in refusal(toy)
    away.rename(toy / "pytorch_model-00002-of-00002.bin")
    load(spec(toy))


# Code in a checkpoint.


def plant(folder: Path, marker: Path) -> None:
    """Code that would leave a mark, for every class that a checkpoint may bring along."""
    code = f"import os\nos.mkdir({str(marker)!r})\nclass C: pass\n"
    (folder / "modeling_x.py").write_text(code, encoding="utf-8")
    own = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "modeling_x.C")
    configure(folder, auto_map=own)
    tokenizer = {"tokenizer_class": "XTokenizer", "auto_map": {"AutoTokenizer": ["modeling_x.C", "modeling_x.C"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def test_code_beside_a_known_architecture_is_left_alone(toy: Path, tmp_path: Path) -> None:
    """The checkpoint loads by the architecture that is known."""
    plant(toy, tmp_path / "owned")
    assert load(spec(toy)).architecture == "gpt_neox"
    assert not (tmp_path / "owned").exists()


def test_code_of_an_unknown_architecture_is_never_run(toy: Path, tmp_path: Path) -> None:
    """Nor of a tokenizer that has to be converted."""
    plant(toy, tmp_path / "owned")
    (toy / "tokenizer.json").rename(toy / "vocab.json")
    refusal(toy)
    configure(toy, model_type="x")
    assert "never run" in refusal(toy)
    assert not (tmp_path / "owned").exists()


# What is refused.


def write(name: str, data: bytes) -> Callable[[Path], None]:
    """A damage: a file's bytes."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return damage


def cut(name: str) -> Callable[[Path], None]:
    """A damage: half a file."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[: (folder / name).stat().st_size // 2])

    return damage


def empty(folder: Path) -> None:
    """A damage: nothing is left in the folder."""
    for path in folder.iterdir():
        path.unlink()


def settings(**changes: Any) -> Callable[[Path], None]:
    """A damage: other values in config.json."""
    return lambda folder: configure(folder, **changes)


def drop(name: str) -> Callable[[Path], None]:
    """A damage: a file that is not there."""
    return lambda folder: (folder / name).unlink()


def lose(key: str) -> Callable[[Path], None]:
    """A damage: a tensor that is not there."""
    return lambda folder: reweigh(folder, lambda weights: weights.pop(key))


def pointer_bin(folder: Path) -> None:
    """A damage: a pointer where the only weights should be."""
    to_bin(folder)
    (folder / "pytorch_model.bin").write_bytes(POINTER)


def index_to(file: str) -> Callable[[Path], None]:
    """A damage: an index that leads elsewhere."""
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
def test_a_damaged_checkpoint_is_refused_in_a_sentence(toy: Path, name: str) -> None:
    """Which names it and says what is wrong; nothing else is raised."""
    damage, expected = DAMAGES[name]
    damage(toy)
    sentence = refusal(toy)
    assert expected in sentence and str(toy) in sentence


def test_weights_that_are_not_numbers(toy: Path) -> None:
    """Are found on loading."""
    reweigh(toy, lambda weights: [weight.fill_(float("nan")) for weight in weights.values()])
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
def test_models_whose_memory_cannot_be_cropped(tmp_path: Path, config: Any) -> None:
    """Recurrent ones load in transformers, and would write nonsense behind a prefix cache."""
    assert "does not work with a KV cache" in refusal(toy_of(tmp_path / "recurrent", config))


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    """Ids of text beyond the embedding would crash, on CUDA for good."""
    folder = toy_of(tmp_path / "small", checkpoints.make_config("gpt_neox", vocab_size=500))
    assert "ids up to 599, but the model has only 500" in refusal(folder)


def test_added_tokens_without_an_embedding_do_not_exist(toy: Path) -> None:
    """Many fine-tuned checkpoints have a padding token like this; text is encoded without it."""
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
def test_names_of_nothing(name: str) -> None:
    """Are refused by the setting that holds them, before any network is asked."""
    with pytest.raises(ModelError) as caught:
        load(ModelSpec(name))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert 'setting "model.completion"' in str(caught.value) or "config.json" in str(caught.value)


def test_a_file_is_no_folder(toy: Path) -> None:
    """And the message says so."""
    assert "is a file" in refusal(toy / "config.json")


def test_a_hub_name_while_offline() -> None:
    """The message has the cure."""
    with pytest.raises(ModelError, match="'owner/model'") as caught:
        load(ModelSpec("owner/model"))
    assert 'set "model.completion" or "model.edit" to a local folder' in str(caught.value) and "offline" in str(
        caught.value
    )


def test_the_hub_cache_is_enough(master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository with both kinds of weights, of which one was downloaded, loads without the network."""
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
    assert list_cached_hub_models() == ["owner/toy"]


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta", "hpu", "privateuseone", "", "cpu:x"])
def test_devices_that_are_not_there(master: Path, device: str) -> None:
    """Are refused by the setting that names them."""
    assert f'setting "model.device": {device!r}' in refusal(master, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(master: Path) -> None:
    """With the setting that always works."""
    assert 'try "auto"' in refusal(master, device="cuda")


@pytest.mark.parametrize("dtype", ["nonsense", "int4", ""])
def test_number_formats_that_are_none(master: Path, dtype: str) -> None:
    """Are refused by the setting that names them."""
    assert f'setting "model.dtype": {dtype!r}' in refusal(master, dtype=dtype)


# Tokenizers.


def some_text(seed: int) -> str:
    """Text with blanks, tabs, line ends, control tokens' names and characters of every length."""
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
def test_decoding_is_transformers_own(name: str) -> None:
    """On any text, which comes back as it was and has no control ids; blanks that are special are text."""
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
    """Words and merges of the toy tokenizer."""
    model = json.loads(checkpoints.make_tokenizer_json())["model"]
    return model["vocab"], [merge if isinstance(merge, list) else merge.split(" ", 1) for merge in model["merges"]]


def old_tokenizer(folder: Path) -> Path:
    """The toy tokenizer in GPT-2's old files, with blanks as added tokens."""
    vocab, merges = vocabulary()
    (folder / "tokenizer.json").unlink(missing_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    (folder / "added_tokens.json").write_text('{"\\t\\t": 600, "  ": 601, "    ": 602}', encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}', encoding="utf-8")
    return folder


def test_old_files_are_converted(tmp_path: Path) -> None:
    """With GPT-2's own ids, and the added blanks."""
    folder = toy_of(tmp_path / "old", checkpoints.make_config("gpt_neo", vocab_size=640))
    tokenizer = load(spec(old_tokenizer(folder))).tokenizer
    vocab, merges = vocabulary()
    plain = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [tuple(merge) for merge in merges]))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in ("def position(self, offset):\n\treturn é😀", "x = [1, 2]\n"):
        assert tokenizer.encode(text) == plain.encode(text).ids
    assert tokenizer.encode("    \t\t  ") == [602, 600, 601]
    assert tokenizer.decode([602, 600, 601]) == "    \t\t  " and tokenizer.token_to_id("<|endoftext|>") == 0


def test_added_tokens_beside_a_tokenizer_json(toy: Path) -> None:
    """Are added where it lacks them, and nothing else changes."""
    before = Tokenizer(checkpoints.make_tokenizer_json())
    (toy / "added_tokens.json").write_text('{"    ": 600, "<extra>": 601, "<|MID|>": 3}', encoding="utf-8")
    tokenizer = read_tokenizer(toy)
    assert tokenizer.encode("    x") == [600, *before.encode("x")] and tokenizer.token_to_id("<extra>") == 601
    text = "def position(self):\n <extra>"
    assert tokenizer.encode(text) == before.encode(text)


def sentencepiece(path: str = "normalizer") -> str:
    """A tokenizer as Code Llama's: a blank in front, bytes to fall back on, merges that lead to control tokens."""
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
def test_blanks_in_front_are_not_put_in_the_middle(path: str) -> None:
    """Text that continues comes back as it is; text that begins has the blank the model was trained with."""
    tokenizer = Tokenizer(sentencepiece(path))
    for text in [some_text(seed) for seed in range(200)] + ["\n\nx", "\n", "", " x", "x"]:
        ids = tokenizer.encode_continuation(text)
        assert tokenizer.decode(ids) == text and not set(ids) & tokenizer.control_token_ids
    assert tokenizer.decode(tokenizer.encode("x = y")) == " x = y"
    assert len(tokenizer.encode_continuation("self")) < 4


def test_control_tokens_with_a_blank_in_their_name() -> None:
    """Code Llama's are found by name, and no text can write them, though its merges lead to them."""
    tokenizer = Tokenizer(sentencepiece())
    raw = tokenizers.Tokenizer.from_str(sentencepiece())
    for token in ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"):
        id = tokenizer.control_token_to_id(token)
        assert id is not None and id == tokenizer.token_to_id(token) == raw.token_to_id(token)
        assert tokenizer.decode([id]) == ""
    assert raw.token_to_id("▁<PRE>") in raw.encode("x <PRE> y", add_special_tokens=False).ids, "the trap is none"
    assert tokenizer.decode(tokenizer.encode_continuation("x <PRE> y")) == "x <PRE> y"


def changed(**changes: Any) -> str:
    """The toy tokenizer with other values in its model."""
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
def test_tokenizers_that_cannot_be(definition: str, expected: str) -> None:
    """Are refused; some of them make the library abort the whole process."""
    with pytest.raises(ModelError, match=expected) as caught:
        Tokenizer(definition)
    assert "\n" not in str(caught.value)


def test_an_id_has_one_name() -> None:
    """Else user text could write a control token by another name."""
    data = json.loads(checkpoints.make_tokenizer_json())
    data["added_tokens"].append({**data["added_tokens"][0], "id": 100, "content": "<|extra|>"})
    with pytest.raises(ModelError, match="gives the id 100 to both"):
        Tokenizer(json.dumps(data))


# The engine's life.


@pytest.fixture
def engine(toy: Path) -> Iterator[ThreadEngine]:
    """An engine over a checkpoint that the test may damage."""
    made = ThreadEngine(ModelWorker, {"default": spec(toy, threads=1)})
    yield made
    made.close()
    assert made.join(TIMEOUT)


def answer() -> Request:
    """A request of four tokens."""
    built = SimpleNamespace(tokens=tuple(TOKENS), ends=frozenset(), constraint=None)
    return Request(PrebuiltTask(built), sampling=Sampling(max_tokens=4))


def test_a_model_is_let_go_with_its_last_name(toy: Path) -> None:
    """Its memory is free then, and it can be loaded again."""
    host, wanted = ModelWorker(), spec(toy, threads=1)
    for name in ("complete", "edit"):
        host.load(name, wanted)
    subject = weakref.ref(host._models["edit"][0])
    host.unload("complete")
    assert subject() is not None
    host.unload("edit")
    assert subject() is None
    host.load("complete", wanted)


async def test_a_repaired_checkpoint_loads_in_the_same_engine(engine: ThreadEngine, toy: Path) -> None:
    """After every failure the engine lives, says why, and ``prepare`` tries again."""
    good = (toy / "model.safetensors").read_bytes()
    for bad in (b"", POINTER, good[:-100]):
        (toy / "model.safetensors").write_bytes(bad)
        with pytest.raises(EngineError, match=re.escape(str(toy))):
            await engine.load().result()
        assert engine.status().state is ModelState.FAILED and str(toy) in engine.status().reason
        with pytest.raises(EngineError, match=re.escape(str(toy))):
            await engine.submit(answer()).result()
    (toy / "model.safetensors").write_bytes(good)
    await engine.load().result()
    assert len((await engine.submit(answer()).result()).candidates[0].token_ids) == 4


async def test_a_tokenizer_that_panics_does_not_end_the_engine(engine: ThreadEngine, toy: Path) -> None:
    """A panic of the library is no ``Exception``, and would take the thread with it."""
    good = (toy / "tokenizer.json").read_text(encoding="utf-8")
    (toy / "tokenizer.json").write_text(changed(continuing_subword_prefix="ab"), encoding="utf-8")
    with pytest.raises(EngineError, match="tokenizer"):
        await engine.load().result()
    (toy / "tokenizer.json").write_text(good, encoding="utf-8")
    await engine.load().result()


def test_loading_is_silent(toy: Path, tmp_path: Path, own_cache: Path) -> None:
    """No progress bar, no report, no warning: from safetensors, from a bin, with an old tokenizer, and on failure."""
    old = old_tokenizer(toy_of(tmp_path / "old", checkpoints.make_config("gpt_neo", vocab_size=640)))
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
    reweigh(lacking, lambda weights: weights.pop("embed_out.weight"))
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


# Over several devices.


def test_a_module_over_several_devices_says_the_same(master: Path) -> None:
    """By accelerate, which brings what is elsewhere when it is wanted; here a layer stays in the file."""
    config = read_transformers_config(master)
    parts = ("gpt_neox.embed_in", "gpt_neox.rotary_emb", "gpt_neox.final_layer_norm", "gpt_neox.layers.0", "lm_head")
    away = {f"gpt_neox.layers.{layer}": "disk" for layer in range(1, config.num_hidden_layers)}
    runner = ModuleRunner(load_module(master, config, torch.float32, {**dict.fromkeys(parts, "cpu"), **away}))
    assert {one.device.type for one in runner.module.parameters()} == {"cpu", "meta"} and runner.device.type == "cpu"
    plain = load(spec(master))
    found = runner.forward([ModelInput(TOKENS, runner.new_cache())])[0]
    assert torch.allclose(found, plain.forward([ModelInput(TOKENS, plain.new_cache())])[0], atol=1e-4)


def test_all_devices_together_are_the_one_there_is(master: Path) -> None:
    """Where there is no GPU ``balanced`` is the CPU, and transformers runs the model, also one of our own layouts."""
    model = load(spec(master, device=BALANCED))
    assert model.module is not None and model.device.type == "cpu"
    assert torch.allclose(logits(model), logits(load(spec(master))), atol=1e-4)


def test_without_accelerate_the_cure_is_named(master: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra of the package."""
    monkeypatch.setattr(loader, "find_spec", lambda name: None)
    assert "codeclippy-ls[split]" in refusal(master, device=BALANCED)
