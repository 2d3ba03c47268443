"""GGUF files: they load as the models that they were made from, and bad ones are rejected in one sentence."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from codeclippy_ls.catalog.gguf_header import MODEL_TYPES, GgufError, read_description, read_header
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from codeclippy_ls.engine.loading.gguf_architectures import GGUF_ARCHITECTURES
from codeclippy_ls.engine.loading.loader import load
from codeclippy_ls.engine.loading.model import Model
from codeclippy_ls.engine.loading.tokenizer import Tokenizer
from codeclippy_ls.inference.errors import ModelError
from codeclippy_ls.inference.spec import ModelSpec
from tests import checkpoints, gguf_files

TOKENS = [9, 100, 42, 17, 300, 42, 7, 8, 9, 10, 11, 12, 100, 100, 42, 17, 300, 42, 7, 8, 9, 10, 11, 12]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load_float32(path: Path) -> Model:
    return load(ModelSpec(str(path), "cpu", "float32", 1))


def compute_logits(model: Model) -> torch.Tensor:
    return model.forward([ModelInput(TOKENS, model.new_cache(), len(TOKENS))])[0]


@torch.inference_mode()
def compute_reference(module: Any) -> torch.Tensor:
    logits: torch.Tensor = module(torch.tensor([TOKENS])).logits[0]
    return logits


def test_every_architecture_has_a_case() -> None:
    assert gguf_files.CONFIGS.keys() == GGUF_ARCHITECTURES.keys()
    assert {name: row.model_type for name, row in GGUF_ARCHITECTURES.items()} == MODEL_TYPES


@pytest.mark.parametrize("architecture", GGUF_ARCHITECTURES)
def test_logits_equal_those_of_the_model_it_was_made_from(architecture: str, tmp_path: Path) -> None:
    module = gguf_files.make_module(architecture)
    model = load_float32(gguf_files.write_model(architecture, module, tmp_path / "toy.gguf"))
    expected = compute_reference(module)
    torch.testing.assert_close(compute_logits(model), expected, atol=2e-4 * float(expected.std()), rtol=1e-4)
    assert model.context_length == gguf_files.CONTEXT_LENGTH


def test_scaled_positions_of_llama_3(tmp_path: Path) -> None:
    """Its file has a divisor for each frequency, which llama.cpp's converter computed of the configuration."""
    module = make_scaled_module(
        "llama",
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=64,
    )
    default = 5000.0 ** (-torch.arange(0, 16, 2) / 16)
    divisors = default / module.model.rotary_emb.inv_freq
    assert [float(divisors.max()), float(divisors.min())] == pytest.approx([8, 1])
    path = gguf_files.write_model("llama", module, tmp_path / "toy.gguf", more={"rope_freqs.weight": divisors})
    model = load_float32(path)
    assert isinstance(model.runner, Transformer), "it runs in the native decoder"
    expected = compute_reference(module)
    torch.testing.assert_close(compute_logits(model), expected, atol=2e-4 * float(expected.std()), rtol=1e-4)


def test_scaled_positions_of_phi_3(tmp_path: Path) -> None:
    """Within its original context, to which it is limited."""
    short = [1.0, 1.1, 1.3, 1.7, 2.0, 2.5, 3.0, 4.0]
    module = make_scaled_module(
        "phi3",
        rope_type="longrope",
        short_factor=short,
        long_factor=[2 * factor for factor in short],
        original_max_position_embeddings=32,
        attention_factor=1.2,
    )
    changes = {"phi3.rope.scaling.original_context_length": 32, "phi3.rope.scaling.attn_factor": 1.2}
    factors = {
        "rope_factors_short.weight": torch.tensor(short),
        "rope_factors_long.weight": 2 * torch.tensor(short),
    }
    path = gguf_files.write_model("phi3", module, tmp_path / "toy.gguf", changes=changes, more=factors)
    model = load_float32(path)
    assert model.context_length == 32
    expected = compute_reference(module)
    torch.testing.assert_close(compute_logits(model), expected, atol=2e-4 * float(expected.std()), rtol=1e-4)


def test_linearly_scaled_positions(tmp_path: Path) -> None:
    """As DeepSeek-Coder has them."""
    module = make_scaled_module("llama", rope_type="linear", factor=4.0)
    changes = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    model = load_float32(gguf_files.write_model("llama", module, tmp_path / "toy.gguf", changes=changes))
    assert isinstance(model.runner, Transformer), "it runs in the native decoder"
    expected = compute_reference(module)
    torch.testing.assert_close(compute_logits(model), expected, atol=2e-4 * float(expected.std()), rtol=1e-4)


def make_scaled_module(architecture: str, **scaling: Any) -> Any:
    """Make a toy model whose rotary embedding is scaled."""
    module = gguf_files.make_module(architecture)
    theta = module.config.rope_parameters["rope_theta"]
    module.config.rope_parameters = {"rope_theta": theta, **scaling}
    if "original_max_position_embeddings" in scaling:
        module.config.original_max_position_embeddings = scaling["original_max_position_embeddings"]
    scaled = type(module)(module.config).eval()
    scaled.load_state_dict(module.state_dict())
    return scaled


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_matrices_are_dequantized(kind: str, tmp_path: Path) -> None:
    module, kinds = gguf_files.make_module("llama"), gguf.GGMLQuantizationType
    model = load_float32(gguf_files.write_model("llama", module, tmp_path / "toy.gguf", kinds[kind]))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                blocks = gguf.quants.quantize(parameter.numpy(), kinds[kind])
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, kinds[kind]).copy()))
    expected = compute_reference(module)
    torch.testing.assert_close(compute_logits(model), expected, atol=2e-4 * float(expected.std()), rtol=1e-4)


def test_split_file_is_named_by_its_first_part(tmp_path: Path) -> None:
    module = gguf_files.make_module("qwen2")
    first = gguf_files.write_model("qwen2", module, tmp_path / "toy.gguf", parts=3)
    assert torch.allclose(compute_logits(load_float32(first)), compute_reference(module), atol=1e-3)
    later = first.with_name(first.name.replace("00001-of", "00002-of"))
    with pytest.raises(ModelError, match="is a later part of a split model; name its first part, toy-00001-of-00003"):
        load_float32(later)
    later.unlink()
    with pytest.raises(ModelError, match=r"is incomplete: its part toy-00002-of-00003\.gguf is missing"):
        load_float32(first)


def test_file_without_a_suffix_is_known_by_its_content(tmp_path: Path) -> None:
    path = gguf_files.write_model("llama", gguf_files.make_module("llama"), tmp_path / "sha256-0123")
    assert load_float32(path).architecture == "llama"


def test_tokens_and_template_come_from_the_file(tmp_path: Path) -> None:
    template = "{% for message in messages %}<NME>{{ message.content }}<BEF>{% endfor %}"
    module, changes = gguf_files.make_module("llama"), {"tokenizer.chat_template": template}
    model = load_float32(gguf_files.write_model("llama", module, tmp_path / "toy.gguf", changes=changes))
    text = "def f(x):\n    return x1 + 23  # é <|SUF|>\n"
    plain = Tokenizer(checkpoints.make_tokenizer_json())
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == text
    assert model.tokenizer.control_token_ids == plain.control_token_ids
    assert model.chat == ("<NME>", "<BEF>")
    assert model.stop_token_ids == {plain.control_token_to_id("<|endoftext|>")}


def test_description_needs_no_vocabulary(tmp_path: Path) -> None:
    path = gguf_files.write_model("llama", gguf_files.make_module("llama"), tmp_path / "toy.gguf")
    header = read_description(path)
    assert header.architecture == "llama" and header.get("block_count") == gguf_files.LAYERS


def put(offset: int, form: str, value: int) -> Any:
    """Return a change of a number in a file."""

    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        struct.pack_into(form, changed, offset, value)
        return bytes(changed)

    return change


def claim(key: str, form: str, value: int, skip: int = 4) -> Any:
    """Return a change of the number behind a key and ``skip`` bytes."""

    def change(content: bytes) -> bytes:
        return bytes(put(content.index(key.encode()) + len(key) + skip, form, value)(content))

    return change


DAMAGE: dict[str, tuple[Any, str]] = {
    "empty": (lambda content: b"", "is not a GGUF file: it is too short"),
    "other magic": (put(0, "<I", 7), "is not a GGUF file: it does not begin with GGUF"),
    "cut in the header": (lambda content: content[:900], "its header claims more than the file has"),
    "cut in the weights": (lambda content: content[:-4000], "is incomplete: its tensor .* lies beyond its end"),
    "version 1": (put(4, "<I", 1), "is of GGUF version 1; versions 2 and 3"),
    "big-endian": (put(4, ">I", 3), "is written for big-endian machines"),
    "many tensors": (put(8, "<Q", 1 << 60), "its header claims more than the file has"),
    "many values": (put(16, "<Q", 1 << 33), "its header claims more than the file has"),
    "long key": (put(24, "<Q", 5 << 30), "its header claims more than the file has"),
    "long array": (claim("tokenizer.ggml.tokens", "<Q", 5 << 30, 8), "its header claims more than the file has"),
    "unknown value": (claim("llama.block_count", "<I", 99, 0), "has a value of an unknown type"),
    "unknown tensor type": (claim("output_norm.weight", "<I", 99, 12), "has a tensor of an unknown type"),
    "many dimensions": (claim("output_norm.weight", "<I", 9, 0), "has 9 dimensions"),
    "huge tensor": (claim("output_norm.weight", "<Q", 1 << 40, 4), "lies beyond its end"),
    "no layers": (claim("llama.block_count", "<I", 0), "has a num_hidden_layers of 0"),
    "many layers": (claim("llama.block_count", "<I", 4_000_000_000), "has a num_hidden_layers of 4000000000"),
    "more layers": (claim("llama.block_count", "<I", 100_000), "its header tells of 100000 layers of width 64"),
    "a name without a dot": (
        lambda content: content.replace(b"output_norm.weight", b"output_norm_weight"),
        "does not know",
    ),
    "no vocabulary": (lambda content: content.replace(b"ggml.tokens", b"ggml.tokenz"), "has no vocabulary"),
    "other size within": (
        claim("llama.feed_forward_length", "<I", 128),
        r"asks for weights .* of the shape \(128, 64\)",
    ),
    "many heads": (claim("llama.attention.head_count", "<I", 5), "is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_file_is_rejected_in_one_sentence(name: str, tmp_path: Path, own_cache: Path) -> None:
    path = gguf_files.write_model("llama", gguf_files.make_module("llama"), tmp_path / "toy.gguf")
    change, expected = DAMAGE[name]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelError, match=expected) as caught:
        load_float32(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert not list(own_cache.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("general.architecture", "mamba", "is of the architecture 'mamba'; supported are llama, qwen2"),
        ("general.architecture", "qwen2moe", "is a mixture of experts, which is not supported; choose a dense model"),
        ("llama.expert_count", 8, "is a mixture of experts, which is not supported; choose a dense model"),
        ("general.architecture", "clip", "is a vision projector, not a language model"),
        ("general.architecture", "nomic-bert", "is an embedding model, which cannot write text"),
        ("general.type", "mmproj", "is a vision projector, not a language model"),
        ("general.type", "adapter", "is an adapter, not a whole model"),
        ("llama.pooling_type", 1, "is an embedding model, which cannot write text"),
        ("llama.rope.scaling.type", "ntk", "scales its positions by 'ntk', which is not supported"),
        ("tokenizer.ggml.model", "bert", "has a tokenizer of the kind 'bert', which is not supported"),
        ("tokenizer.ggml.pre", "klingon", "splits words by the pattern 'klingon', which this version does not know"),
    ],
)
def test_file_of_another_kind_is_rejected_in_one_sentence(key: str, value: Any, expected: str, tmp_path: Path) -> None:
    module = gguf_files.make_module("llama")
    path = gguf_files.write_model("llama", module, tmp_path / "toy.gguf", changes={key: value})
    with pytest.raises(ModelError, match=expected):
        load_float32(path)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe.gguf"
    os.mkfifo(fifo)
    with pytest.raises(GgufError, match="is not a regular file"):
        read_description(fifo)
    with pytest.raises(GgufError, match=r"part pipe\.gguf is missing"):
        read_header(fifo)
    with pytest.raises(ModelError, match="is neither a folder, a GGUF file nor a hub name"):
        load_float32(fifo)
