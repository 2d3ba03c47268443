"""The decoder equals transformers' model in every architecture: logits to rounding in float32, the same tokens, however
the tokens are split into inputs; within stated bounds in lower formats."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn import functional

import codeclippy_ls.text
from codeclippy_ls.engine.decoder import fused_linear
from codeclippy_ls.engine.decoder.activations import Activation
from codeclippy_ls.engine.decoder.architectures import (
    ARCHITECTURES,
    TransformersConfig,
    compute_weight_shapes,
    is_supported,
    parse_config,
)
from codeclippy_ls.engine.decoder.attention import CACHE_GROWTH, ContiguousKVCache
from codeclippy_ls.engine.decoder.fused_linear import make_merged_linear, make_residual_linear
from codeclippy_ls.engine.decoder.linear import (
    FLOAT_FORMATS,
    LinearSpec,
    WeightFormats,
    build_linear,
    choose_fastest_formats,
    list_available_formats,
)
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from codeclippy_ls.engine.loading.config import read_config
from codeclippy_ls.engine.loading.weights import open_if_complete, read_int8_weights
from codeclippy_ls.inference.spec import SHIPPED_FOLDER

VOCAB_SIZE = 200
EXACT = WeightFormats("float32", "float32")
NEOX: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
OLD: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
GROUPED = {**NEOX, "num_key_value_heads": 2}
Pair: TypeAlias = tuple[transformers.PreTrainedModel, Transformer]  # with the same weights


def rope(partial_rotary_factor: float, rope_theta: float = 10000.0) -> dict[str, Any]:
    """Make a configuration's ``rope_parameters``."""
    return {"rope_type": "default", "rope_theta": rope_theta, "partial_rotary_factor": partial_rotary_factor}


CASES: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        intermediate_size=64,
        window_size=16,
        attention_types=[[["global", "local"], 2]],
        max_position_embeddings=512,
    ),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=VOCAB_SIZE, **OLD),
    "gpt2-by-layer": lambda: transformers.GPT2Config(
        vocab_size=VOCAB_SIZE, **OLD, scale_attn_by_inverse_layer_idx=True, activation_function="relu"
    ),
    "gpt2-unscaled-untied": lambda: transformers.GPT2Config(
        vocab_size=VOCAB_SIZE, **OLD, scale_attn_weights=False, tie_word_embeddings=False, n_inner=48
    ),
    "bigcode": lambda: transformers.GPTBigCodeConfig(vocab_size=VOCAB_SIZE, **OLD),
    "bigcode-own-keys": lambda: transformers.GPTBigCodeConfig(vocab_size=VOCAB_SIZE, **OLD, multi_query=False),
    "codegen": lambda: transformers.CodeGenConfig(vocab_size=VOCAB_SIZE, **{**OLD, "n_head": 8}, rotary_dim=2),
    "codegen-whole": lambda: transformers.CodeGenConfig(vocab_size=VOCAB_SIZE, **OLD, rotary_dim=8),
    "gptj": lambda: transformers.GPTJConfig(vocab_size=VOCAB_SIZE, **OLD, rotary_dim=4),
    "gptj-tied": lambda: transformers.GPTJConfig(vocab_size=VOCAB_SIZE, **OLD, rotary_dim=8, tie_word_embeddings=True),
    "neox": lambda: transformers.GPTNeoXConfig(vocab_size=VOCAB_SIZE, **NEOX, rope_parameters=rope(0.25)),
    "neox-whole-serial-tied": lambda: transformers.GPTNeoXConfig(
        vocab_size=VOCAB_SIZE,
        **NEOX,
        rope_parameters=rope(1.0),
        use_parallel_residual=False,
        tie_word_embeddings=True,
        hidden_act="gelu_new",
    ),
    "neox-no-bias": lambda: transformers.GPTNeoXConfig(
        vocab_size=VOCAB_SIZE, **NEOX, rope_parameters=rope(0.5, 500.0), attention_bias=False
    ),
    "phi": lambda: transformers.PhiConfig(vocab_size=VOCAB_SIZE, **NEOX, rope_parameters=rope(0.5)),
    "phi-grouped": lambda: transformers.PhiConfig(vocab_size=VOCAB_SIZE, **GROUPED, rope_parameters=rope(0.5)),
    "llama": lambda: transformers.LlamaConfig(vocab_size=VOCAB_SIZE, **NEOX),
    "llama-grouped-biases": lambda: transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE, **GROUPED, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "llama3": lambda: transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE,
        **NEOX,
        head_dim=32,
        rope_parameters={
            **rope(1.0, 5e3),
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "llama-linear": lambda: transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE, **NEOX, rope_parameters={**rope(1.0), "rope_type": "linear", "factor": 4.0}
    ),
    "neox-linear": lambda: transformers.GPTNeoXConfig(
        vocab_size=VOCAB_SIZE, **NEOX, rope_parameters={**rope(0.5), "rope_type": "linear", "factor": 2.0}
    ),
    "qwen2-yarn": lambda: transformers.Qwen2Config(
        vocab_size=VOCAB_SIZE,
        **GROUPED,
        head_dim=32,
        rope_parameters={
            **rope(1.0),
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "llama-longrope": lambda: transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE,
        **NEOX,
        rope_parameters={
            **rope(1.0),
            "rope_type": "longrope",
            "short_factor": [1.0, 1.3, 2.0, 4.0],
            "long_factor": [1.0, 2.0, 8.0, 16.0],
            "original_max_position_embeddings": 256,
        },
    ),
    "llama-wide-heads": lambda: transformers.LlamaConfig(vocab_size=VOCAB_SIZE, **GROUPED, head_dim=16),
    "qwen2": lambda: transformers.Qwen2Config(vocab_size=VOCAB_SIZE, **GROUPED, tie_word_embeddings=True),
    "qwen2-sliding": lambda: transformers.Qwen2Config(
        vocab_size=VOCAB_SIZE, **GROUPED, use_sliding_window=True, sliding_window=16, max_window_layers=1
    ),
    "mistral": lambda: transformers.MistralConfig(vocab_size=VOCAB_SIZE, **GROUPED, sliding_window=None),
    "mistral-sliding": lambda: transformers.MistralConfig(vocab_size=VOCAB_SIZE, **GROUPED, sliding_window=16),
    "starcoder2": lambda: transformers.Starcoder2Config(vocab_size=VOCAB_SIZE, **GROUPED),
    "starcoder2-no-bias": lambda: transformers.Starcoder2Config(
        vocab_size=VOCAB_SIZE, **GROUPED, use_bias=False, sliding_window=16
    ),
}


@lru_cache
def build_pair(case: str) -> Pair:
    """Make a toy model with random weights, including biases, and a decoder over the same weights."""
    torch.manual_seed(7)
    config = CASES[case]()
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    module = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.1 if "wpe" in name else 0.3)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return module, Transformer(config, module.state_dict(), EXACT)


@pytest.fixture(params=CASES)
def both(request: pytest.FixtureRequest) -> Pair:
    """Each case's transformers module and native decoder."""
    return build_pair(request.param)


def random_ids(count: int, seed: int = 0) -> list[int]:
    """Make random tokens."""
    generator = random.Random(seed)
    return [generator.randrange(VOCAB_SIZE) for _ in range(count)]


def run_transformers(module: transformers.PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    """Compute transformers' logits after each token, in one pass."""
    with torch.inference_mode():
        return torch.Tensor(module(torch.tensor([list(tokens)]), use_cache=False).logits[0])


def run(subject: Transformer, cache: ContiguousKVCache, tokens: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """Compute the logits after each token, in inputs of the given sizes."""
    found, start = [], 0
    for size in sizes:
        found += subject.forward([ModelInput(tokens[start : start + size], cache, size)])
        start += size
    assert start == len(tokens)
    return torch.cat(found)


def assert_close(found: torch.Tensor, wanted: torch.Tensor, bound: float = 1e-4) -> None:
    """Assert equality to rounding: the maximum difference, relative to the logits' standard deviation."""
    assert found.dtype is torch.float32 and found.shape == wanted.shape
    off = float((found - wanted).abs().max() / wanted.std())
    assert off < bound, f"off by {off:.2g} standard deviations"


# One input.


@pytest.mark.parametrize(
    "sizes", [(60,), (25, 25, 10), (40, *(1,) * 20), (31, 2, 4, 1, 8, 14)], ids=["whole", "chunks", "steps", "mixed"]
)
def test_logits_equal_transformers(both: Pair, sizes: tuple[int, ...]) -> None:
    """However the tokens are split into inputs, also beyond the windows of local layers."""
    module, subject = both
    assert_close(run(subject, subject.new_cache(), random_ids(60), sizes), run_transformers(module, random_ids(60)))


def test_only_requested_logits_are_returned(both: Pair) -> None:
    """Those of the last token by default, more on request."""
    module, subject = both
    wanted = run_transformers(module, random_ids(12))
    assert_close(subject.forward([ModelInput(random_ids(12), subject.new_cache())])[0], wanted[-1:])
    assert_close(subject.forward([ModelInput(random_ids(12), subject.new_cache(), 5)])[0], wanted[-5:])


def test_tokens_without_logits_are_prefilled(both: Pair) -> None:
    """With ``num_logits=0`` the result is empty and later logits are the same; also beside an input with logits."""
    module, subject = both
    cache, beside = subject.new_cache(), subject.new_cache()
    (found,) = subject.forward([ModelInput(random_ids(30), cache, 0)])
    assert found.shape == (0, VOCAB_SIZE) and cache.length == 30
    found, other = subject.forward([ModelInput(random_ids(40)[30:], cache, 0), ModelInput(random_ids(12), beside, 2)])
    assert found.shape == (0, VOCAB_SIZE)
    assert_close(other, run_transformers(module, random_ids(12))[-2:])
    assert_close(run(subject, cache, random_ids(60)[40:], (1, 19)), run_transformers(module, random_ids(60))[40:])


def test_cropped_cache_continues_without_a_trace(both: Pair) -> None:
    """Cropped tokens do not change later logits."""
    module, subject = both
    cache = subject.new_cache()
    subject.forward([ModelInput(random_ids(30) + random_ids(20, seed=3), cache)])
    cache.crop(30)
    assert cache.length == 30
    assert_close(run(subject, cache, random_ids(60)[30:], (1, 9, 20)), run_transformers(module, random_ids(60))[30:])


def test_copied_caches_are_independent(both: Pair) -> None:
    """A copy shares no memory with the original."""
    module, subject = both
    cache = subject.new_cache()
    subject.forward([ModelInput(random_ids(40), cache)])
    other = cache.copy(25)
    assert (cache.length, other.length) == (40, 25)
    tokens = random_ids(25) + random_ids(30, seed=5)
    assert_close(run(subject, other, tokens[25:], (10, 20)), run_transformers(module, tokens)[25:])
    assert_close(run(subject, cache, random_ids(60)[40:], (20,)), run_transformers(module, random_ids(60))[40:])


def test_greedy_tokens_equal_generate(both: Pair) -> None:
    """Forty tokens after a prompt."""
    module, subject = both
    prompt = torch.tensor([random_ids(30, seed=11)])
    with torch.inference_mode():
        wanted = module.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=40,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )[0, 30:].tolist()
    cache, found, tokens = subject.new_cache(), [], random_ids(30, seed=11)
    for _ in range(40):
        tokens = [int(subject.forward([ModelInput(tokens, cache)])[0][-1].argmax())]
        found += tokens
    assert found == wanted


# Several inputs.


def test_ragged_inputs_are_independent(both: Pair) -> None:
    """Past lengths, numbers of new tokens and of logits all differ."""
    module, subject = both
    sizes = [(0, 20, 20), (30, 1, 1), (7, 5, 2), (50, 10, 1)]
    inputs, wanted = [], []
    for seed, (past, new, num_logits) in enumerate(sizes):
        cache, tokens = subject.new_cache(), random_ids(past + new, seed)
        if past:
            subject.forward([ModelInput(tokens[:past], cache)])
        inputs.append(ModelInput(tokens[past:], cache, num_logits))
        wanted.append(run_transformers(module, tokens)[-num_logits:])
    for found, logits in zip(subject.forward(inputs), wanted, strict=True):
        assert_close(found, logits)
    assert [one.kv_cache.length for one in inputs] == [20, 31, 12, 60]


# GPT-Neo's local attention with its real window.


@pytest.mark.parametrize("sizes", [(600,), (192, 192, 192, 24), (500, *(1,) * 100), (255, 1, 1, 1, 342)])
def test_local_attention_beyond_its_window(sizes: tuple[int, ...]) -> None:
    """Layers that attend to 256 tokens, in sequences of 600."""
    torch.manual_seed(3)
    config = transformers.GPTNeoConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        intermediate_size=64,
        window_size=256,
        attention_types=[[["global", "local"], 2]],
        max_position_embeddings=1024,
    )
    module = transformers.GPTNeoForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.2)
    subject = Transformer(config, module.state_dict(), EXACT)
    assert_close(run(subject, subject.new_cache(), random_ids(600), sizes), run_transformers(module, random_ids(600)))


# Memory of the KV cache.


def test_cache_memory_grows_in_steps() -> None:
    """Memory is allocated ahead, never beyond the context length, and kept when tokens are dropped."""
    _, subject = build_pair("gpt2")
    cache = subject.new_cache()
    assert (cache.length, cache.nbytes) == (0, 0)
    token = 2 * 2 * 32 * 4  # layers, keys and values, hidden size, bytes
    for past, capacity in ((0, CACHE_GROWTH), (100, CACHE_GROWTH), (200, 2 * CACHE_GROWTH)):
        subject.forward([ModelInput(random_ids(100), cache)])
        assert (cache.length, cache.nbytes) == (past + 100, capacity * token)
    cache.crop(10)
    assert (cache.length, cache.nbytes) == (10, 2 * CACHE_GROWTH * token) and cache.copy(
        10
    ).nbytes == CACHE_GROWTH * token
    cache.crop(50)
    assert cache.length == 10 and cache.copy(50).length == 10


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo"])
def test_attention_uses_few_key_lengths(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For prompts of any length: torch keeps a kernel for each shape of many tokens for ever."""
    _, subject = build_pair(name)
    key_lengths, original = set(), functional.scaled_dot_product_attention

    def record(query: torch.Tensor, key: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        key_lengths.add(key.shape[2])
        return original(query, key, *others, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", record)
    for length in range(16, 96, 3):
        subject.forward([ModelInput(random_ids(length), subject.new_cache())])
    assert key_lengths <= {64, 128}


def test_padding_for_packed_weights_does_not_show() -> None:
    """Rows are padded to multiples of 16; each output row is the same as alone, and there are as many as inputs."""
    weight = torch.randn(24, 32)
    subject, rows = build_linear(weight, None, WeightFormats("bfloat16", "bfloat16")), torch.randn(50, 32)
    for count in (1, 2, 15, 16, 17, 31, 33, 50):
        found = subject(rows[:count])
        assert found.shape == (count, 24)
        torch.testing.assert_close(found.float(), rows[:count] @ weight.T, rtol=0.05, atol=0.3)


def test_invalid_inputs_are_refused_and_change_nothing() -> None:
    """Tokens beyond the learned positions, empty inputs, and more logits than tokens."""
    _, subject = build_pair("gpt2")
    cache = subject.new_cache()
    subject.forward([ModelInput(random_ids(500), cache)])
    for tokens, num_logits in ((random_ids(13), 1), ([], 1), ([], 0), (random_ids(2), 3)):
        with pytest.raises(ValueError, match="do not fit"):
            subject.forward([ModelInput(tokens, cache, num_logits)])
    assert cache.length == 500


# Configurations that transformers runs.


def test_every_architecture_has_a_case() -> None:
    """An architecture without a case would be a guess."""
    assert {CASES[case]().model_type for case in CASES} == ARCHITECTURES.keys()
    assert all(is_supported(CASES[case]()) for case in CASES)


@pytest.mark.parametrize("case", CASES)
def test_checkpoints_load_without_transformers(case: str, tmp_path: Path) -> None:
    """The names and shapes of all weights that transformers writes are known, and so is its configuration."""
    module, subject = build_pair(case)
    module.save_pretrained(tmp_path)
    config = parse_config(module.config)
    assert config is not None
    with ExitStack() as stack:
        stored = open_if_complete(tmp_path, config, torch.device("cpu"), stack)
        assert stored is not None and len(stored) == len(compute_weight_shapes(config))
        assert config.num_parameters == module.num_parameters()
        stored_config = read_config(tmp_path)
        assert parse_config(stored_config) == config
        assert isinstance(stored_config, SimpleNamespace)
        again = Transformer(stored_config, stored, EXACT)
    first, second = (one.forward([ModelInput(random_ids(20), one.new_cache(), 20)])[0] for one in (subject, again))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "config",
    [
        transformers.LlamaConfig(**NEOX, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        transformers.LlamaConfig(
            **NEOX,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0],
                "long_factor": [1.0],
                "original_max_position_embeddings": 64,
            },
        ),
        transformers.LlamaConfig(**NEOX, hidden_act="quick_gelu"),
        transformers.PhiConfig(**NEOX, qk_layernorm=True),
        transformers.GPT2Config(**OLD, add_cross_attention=True),
        transformers.CodeGenConfig(**{**OLD, "n_head": 2}, rotary_dim=4),
        transformers.GPTJConfig(**OLD, rotary_dim=7),
        transformers.BloomConfig(),
        transformers.Gemma2Config(),
        transformers.Qwen3Config(),
        SimpleNamespace(model_type="gpt_neox"),
        SimpleNamespace(),
    ],
    ids=lambda config: getattr(config, "model_type", "none"),
)
def test_other_configurations_are_not_supported(config: TransformersConfig) -> None:
    """Other rotary embeddings, other norms, other activations, unknown architectures."""
    assert not is_supported(config)


# Lower formats.


@lru_cache
def load_shipped() -> tuple[transformers.PreTrainedConfig, dict[str, torch.Tensor], list[int]]:
    """Load the shipped model's configuration and weights, and the tokens of one of this package's files."""
    weights = read_int8_weights(SHIPPED_FOLDER, torch.float32) or {
        name: value.float() for name, value in load_file(SHIPPED_FOLDER / "model.safetensors").items()
    }
    config = transformers.AutoConfig.from_pretrained(SHIPPED_FOLDER)
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHIPPED_FOLDER)
    source = inspect.getsource(codeclippy_ls.text)
    return config, weights, tokenizer(source)["input_ids"][:600]


@lru_cache
def shipped_logits(formats: WeightFormats, sizes: tuple[int, ...] = (192, 192, 192, 24)) -> torch.Tensor:
    """Compute the shipped model's logits over that file."""
    config, weights, tokens = load_shipped()
    subject = Transformer(config, weights, formats)
    return run(subject, subject.new_cache(), tokens, sizes)


# Minimum share of tokens that stay first, minimum mean cosine of the logits, maximum bits lost per token.
BOUNDS = {"bfloat16": (0.97, 0.9995, 0.005), "int8": (0.95, 0.999, 0.02)}


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("sizes", [(192, 192, 192, 24), (560, *(1,) * 40), (560, *(4,) * 10)])
def test_lower_formats_change_the_shipped_model_little(name: str, sizes: tuple[int, ...]) -> None:
    """With tokens prefilled in chunks, decoded one by one, and verified a few at a time."""
    if name not in list_available_formats("cpu"):
        pytest.skip(f"no {name} on this machine")
    exact, found = shipped_logits(EXACT), shipped_logits(WeightFormats(name, name), sizes)
    min_same, min_cosine, max_bits = BOUNDS[name]
    assert float((exact.argmax(-1) == found.argmax(-1)).float().mean()) >= min_same
    assert float(torch.cosine_similarity(exact, found, dim=-1).mean()) >= min_cosine
    targets = torch.tensor(load_shipped()[2])[1:]
    lost = (
        torch.nn.functional.cross_entropy(found[:-1], targets) - torch.nn.functional.cross_entropy(exact[:-1], targets)
    ) / torch.tensor(2.0).log()
    assert float(lost) <= max_bits


def test_int8_tokens_do_not_disturb_each_other() -> None:
    """int8 gives each token's activations a scale of its own."""
    if "int8" not in list_available_formats("cpu"):
        pytest.skip("no int8 on this machine")
    torch.manual_seed(1)
    layer = build_linear(torch.randn(64, 96), torch.randn(64), WeightFormats("int8", "int8"))
    quiet = torch.randn(1, 96)
    beside = layer(torch.cat([quiet, 1000 * torch.randn(3, 96), torch.zeros(1, 96)]))
    assert_close(beside[:1], layer(quiet), 0.05)
    assert bool(beside.isfinite().all())


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("rows", [1, 3, 33])
@pytest.mark.parametrize("activation", ["gelu", "tanh", "silu", "relu"])
@pytest.mark.parametrize("is_merged", [False, True])
def test_fused_layers_equal_separate_layers(
    name: str, rows: int, activation: str, is_merged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers of one input, with activations or gates, and added up: in one product, as on GPUs, or in several."""
    if name not in list_available_formats("cpu"):
        pytest.skip(f"no {name} on this machine")
    monkeypatch.setattr(fused_linear, "should_merge", lambda device: is_merged)
    torch.manual_seed(2)
    formats, bound = WeightFormats(name, name), {"float32": 1e-4, "bfloat16": 0.1, "int8": 0.15}[name]
    function = {
        "gelu": functional.gelu,
        "tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "silu": functional.silu,
        "relu": functional.relu,
    }[activation]
    weights = [torch.randn(size, 32) / 32**0.5 for size in (24, 64, 64)]
    bias, x = torch.randn(64), torch.randn(rows, 32)
    plain, activated, gated = (functional.linear(x, weight, bias[: len(weight)]) for weight in weights)
    found = make_merged_linear(
        [
            LinearSpec(weights[0], bias[:24]),
            LinearSpec(weights[1], bias, Activation(activation)),
            LinearSpec(weights[2], bias, Activation(activation, is_gated=True)),
        ],
        formats,
    )(x)
    for given, wanted in zip(found, (plain, function(activated), function(gated[:, :32]) * gated[:, 32:]), strict=True):
        assert_close(given.float(), wanted, bound)
    specs = [LinearSpec(torch.randn(32, 24) / 24**0.5), LinearSpec(torch.randn(32, 64) / 8, torch.randn(32))]
    residual, inputs = torch.randn(rows, 32), (torch.randn(rows, 24), torch.randn(rows, 64))
    wanted = residual + sum(functional.linear(x, spec.weight, spec.bias) for x, spec in zip(inputs, specs, strict=True))
    dtype = FLOAT_FORMATS[name] if is_merged and name in FLOAT_FORMATS else torch.float32  # all of one type on a GPU
    found = make_residual_linear(specs, formats)(residual.to(dtype), *(x.to(dtype) for x in inputs))
    assert_close(found.float(), wanted, bound)


def test_formats_switch_by_the_number_of_tokens() -> None:
    """Few tokens run in one format, many in the other, through the same layer."""
    weight, bias = torch.randn(48, 32), torch.randn(48)
    both = build_linear(weight, bias, WeightFormats("float32", "bfloat16", 8))
    for rows, dtype in ((1, torch.float32), (7, torch.float32), (8, torch.bfloat16)):
        x = torch.randn(rows, 32)
        assert both(x).dtype is dtype
        assert_close(both(x).float(), torch.nn.functional.linear(x, weight, bias), 0.03)


def test_only_available_formats_are_chosen() -> None:
    """On any machine; float32 is always available."""
    names = list_available_formats("cpu")
    assert "float32" in names
    formats = choose_fastest_formats("cpu")
    assert {formats.decode, formats.prefill} <= set(names) and formats == choose_fastest_formats("cpu")
