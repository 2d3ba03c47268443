"""The decoder is transformers' own model in every layout: logits to rounding in float32, tokens one by one, however the
work is cut into feeds; within stated bounds in lower formats."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn import functional

import codeclippy_ls.text
from codeclippy_ls.engine.decoder import fused_linear
from codeclippy_ls.engine.decoder.activations import Activation
from codeclippy_ls.engine.decoder.architectures import ARCHITECTURES, compute_weight_shapes, is_supported, parse_config
from codeclippy_ls.engine.decoder.attention import GROWTH, ContiguousKVCache
from codeclippy_ls.engine.decoder.fused_linear import make_merged_linear, make_residual_linear
from codeclippy_ls.engine.decoder.linear import (
    PLAIN,
    Part,
    WeightFormats,
    build_linear,
    choose_fastest_formats,
    list_available_formats,
)
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from codeclippy_ls.engine.loading.checkpoint import read_int8_weights
from codeclippy_ls.engine.loading.config import read_config
from codeclippy_ls.engine.loading.weights import open_if_complete
from codeclippy_ls.inference.spec import SHIPPED_FOLDER

VOCABULARY = 200
EXACT = WeightFormats("float32", "float32")
NEOX: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
OLD: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
GROUPED = {**NEOX, "num_key_value_heads": 2}


def turning(share: float, theta: float = 10000.0) -> dict[str, Any]:
    """Rotary positions of a share of each head."""
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share}


CASES: dict[str, Callable[[], Any]] = {
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        intermediate_size=64,
        window_size=16,
        attention_types=[[["global", "local"], 2]],
        max_position_embeddings=512,
    ),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=VOCABULARY, **OLD),
    "gpt2-by-layer": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, **OLD, scale_attn_by_inverse_layer_idx=True, activation_function="relu"
    ),
    "gpt2-unscaled-untied": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, **OLD, scale_attn_weights=False, tie_word_embeddings=False, n_inner=48
    ),
    "bigcode": lambda: transformers.GPTBigCodeConfig(vocab_size=VOCABULARY, **OLD),
    "bigcode-own-keys": lambda: transformers.GPTBigCodeConfig(vocab_size=VOCABULARY, **OLD, multi_query=False),
    "codegen": lambda: transformers.CodeGenConfig(vocab_size=VOCABULARY, **{**OLD, "n_head": 8}, rotary_dim=2),
    "codegen-whole": lambda: transformers.CodeGenConfig(vocab_size=VOCABULARY, **OLD, rotary_dim=8),
    "gptj": lambda: transformers.GPTJConfig(vocab_size=VOCABULARY, **OLD, rotary_dim=4),
    "gptj-tied": lambda: transformers.GPTJConfig(vocab_size=VOCABULARY, **OLD, rotary_dim=8, tie_word_embeddings=True),
    "neox": lambda: transformers.GPTNeoXConfig(vocab_size=VOCABULARY, **NEOX, rope_parameters=turning(0.25)),
    "neox-whole-serial-tied": lambda: transformers.GPTNeoXConfig(
        vocab_size=VOCABULARY,
        **NEOX,
        rope_parameters=turning(1.0),
        use_parallel_residual=False,
        tie_word_embeddings=True,
        hidden_act="gelu_new",
    ),
    "neox-no-bias": lambda: transformers.GPTNeoXConfig(
        vocab_size=VOCABULARY, **NEOX, rope_parameters=turning(0.5, 500.0), attention_bias=False
    ),
    "phi": lambda: transformers.PhiConfig(vocab_size=VOCABULARY, **NEOX, rope_parameters=turning(0.5)),
    "phi-grouped": lambda: transformers.PhiConfig(vocab_size=VOCABULARY, **GROUPED, rope_parameters=turning(0.5)),
    "llama": lambda: transformers.LlamaConfig(vocab_size=VOCABULARY, **NEOX),
    "llama-grouped-biases": lambda: transformers.LlamaConfig(
        vocab_size=VOCABULARY, **GROUPED, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "llama-wide-heads": lambda: transformers.LlamaConfig(vocab_size=VOCABULARY, **GROUPED, head_dim=16),
    "qwen2": lambda: transformers.Qwen2Config(vocab_size=VOCABULARY, **GROUPED, tie_word_embeddings=True),
    "qwen2-sliding": lambda: transformers.Qwen2Config(
        vocab_size=VOCABULARY, **GROUPED, use_sliding_window=True, sliding_window=16, max_window_layers=1
    ),
    "mistral": lambda: transformers.MistralConfig(vocab_size=VOCABULARY, **GROUPED, sliding_window=None),
    "mistral-sliding": lambda: transformers.MistralConfig(vocab_size=VOCABULARY, **GROUPED, sliding_window=16),
    "starcoder2": lambda: transformers.Starcoder2Config(vocab_size=VOCABULARY, **GROUPED),
    "starcoder2-no-bias": lambda: transformers.Starcoder2Config(
        vocab_size=VOCABULARY, **GROUPED, use_bias=False, sliding_window=16
    ),
}


@lru_cache
def pair(case: str) -> tuple[Any, Transformer]:
    """A toy model with random weights, biases among them, and the decoder over the same."""
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
def both(request: pytest.FixtureRequest) -> tuple[Any, Transformer]:
    """Each case's transformers module and our decoder."""
    return pair(request.param)


def ids(count: int, seed: int = 0) -> list[int]:
    """Random tokens."""
    chance = random.Random(seed)
    return [chance.randrange(VOCABULARY) for _ in range(count)]


def expected(module: Any, tokens: Sequence[int]) -> torch.Tensor:
    """transformers' logits after each token, read in one go."""
    with torch.inference_mode():
        return torch.Tensor(module(torch.tensor([list(tokens)]), use_cache=False).logits[0])


def read(subject: Transformer, cache: ContiguousKVCache, tokens: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """Logits after each token, read in feeds of the sizes given."""
    found, start = [], 0
    for size in sizes:
        found += subject.forward([ModelInput(tokens[start : start + size], cache, size)])
        start += size
    assert start == len(tokens)
    return torch.cat(found)


def near(found: torch.Tensor, wanted: torch.Tensor, bound: float = 1e-4) -> None:
    """Equal to rounding: the largest difference beside the spread of the logits."""
    assert found.dtype is torch.float32 and found.shape == wanted.shape
    off = float((found - wanted).abs().max() / wanted.std())
    assert off < bound, f"off by {off:.2g} of the spread"


# One feed.


@pytest.mark.parametrize(
    "sizes", [(60,), (25, 25, 10), (40, *(1,) * 20), (31, 2, 4, 1, 8, 14)], ids=["whole", "chunks", "steps", "mixed"]
)
def test_logits_are_transformers_own(both: tuple[Any, Transformer], sizes: tuple[int, ...]) -> None:
    """However a text is cut into feeds, also past the spans of local layers."""
    module, subject = both
    near(read(subject, subject.new_cache(), ids(60), sizes), expected(module, ids(60)))


def test_only_the_rows_wanted_come_back(both: tuple[Any, Transformer]) -> None:
    """The last row without being told, more on demand."""
    module, subject = both
    wanted = expected(module, ids(12))
    near(subject.forward([ModelInput(ids(12), subject.new_cache())])[0], wanted[-1:])
    near(subject.forward([ModelInput(ids(12), subject.new_cache(), 5)])[0], wanted[-5:])


def test_what_nobody_asks_about_is_read_all_the_same(both: tuple[Any, Transformer]) -> None:
    """No rows are no logits, and what follows is as if there had been some; also beside a feed that wants them."""
    module, subject = both
    cache, beside = subject.new_cache(), subject.new_cache()
    (found,) = subject.forward([ModelInput(ids(30), cache, 0)])
    assert found.shape == (0, VOCABULARY) and cache.length == 30
    found, other = subject.forward([ModelInput(ids(40)[30:], cache, 0), ModelInput(ids(12), beside, 2)])
    assert found.shape == (0, VOCABULARY)
    near(other, expected(module, ids(12))[-2:])
    near(read(subject, cache, ids(60)[40:], (1, 19)), expected(module, ids(60))[40:])


def test_a_cropped_cache_reads_on_as_if_nothing_had_been(both: tuple[Any, Transformer]) -> None:
    """What was read and rejected leaves no trace."""
    module, subject = both
    cache = subject.new_cache()
    subject.forward([ModelInput(ids(30) + ids(20, seed=3), cache)])
    cache.crop(30)
    assert cache.length == 30
    near(read(subject, cache, ids(60)[30:], (1, 9, 20)), expected(module, ids(60))[30:])


def test_copies_go_different_ways(both: tuple[Any, Transformer]) -> None:
    """A copy shares nothing with what it was made of."""
    module, subject = both
    cache = subject.new_cache()
    subject.forward([ModelInput(ids(40), cache)])
    other = cache.copy(25)
    assert (cache.length, other.length) == (40, 25)
    way = ids(25) + ids(30, seed=5)
    near(read(subject, other, way[25:], (10, 20)), expected(module, way)[25:])
    near(read(subject, cache, ids(60)[40:], (20,)), expected(module, ids(60))[40:])


def test_greedy_is_generate_token_for_token(both: tuple[Any, Transformer]) -> None:
    """Forty tokens after a prompt."""
    module, subject = both
    prompt = torch.tensor([ids(30, seed=11)])
    with torch.inference_mode():
        wanted = module.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=40,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )[0, 30:].tolist()
    cache, found, tokens = subject.new_cache(), [], ids(30, seed=11)
    for _ in range(40):
        tokens = [int(subject.forward([ModelInput(tokens, cache)])[0][-1].argmax())]
        found += tokens
    assert found == wanted


# Several feeds.


def test_ragged_feeds_are_each_alone(both: tuple[Any, Transformer]) -> None:
    """Prefixes, numbers of new tokens and of rows all differ."""
    module, subject = both
    sizes = [(0, 20, 20), (30, 1, 1), (7, 5, 2), (50, 10, 1)]
    feeds, wanted = [], []
    for seed, (past, new, rows) in enumerate(sizes):
        cache, tokens = subject.new_cache(), ids(past + new, seed)
        if past:
            subject.forward([ModelInput(tokens[:past], cache)])
        feeds.append(ModelInput(tokens[past:], cache, rows))
        wanted.append(expected(module, tokens)[-rows:])
    for found, logits in zip(subject.forward(feeds), wanted, strict=True):
        near(found, logits)
    assert [feed.kv_cache.length for feed in feeds] == [20, 31, 12, 60]


# GPT-Neo's local attention at its real span.


@pytest.mark.parametrize("sizes", [(600,), (192, 192, 192, 24), (500, *(1,) * 100), (255, 1, 1, 1, 342)])
def test_local_attention_past_its_span(sizes: tuple[int, ...]) -> None:
    """Layers that see 256 tokens, in texts of 600."""
    torch.manual_seed(3)
    config = transformers.GPTNeoConfig(
        vocab_size=VOCABULARY,
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
    near(read(subject, subject.new_cache(), ids(600), sizes), expected(module, ids(600)))


# Memory of keys and values.


def test_memory_grows_in_steps_and_is_told() -> None:
    """Room is made ahead, never beyond what the window needs, and kept when tokens are dropped."""
    _, subject = pair("gpt2")
    cache = subject.new_cache()
    assert (cache.length, cache.nbytes) == (0, 0)
    row = 2 * 2 * 32 * 4  # layers, keys and values, width, bytes
    for past, capacity in ((0, GROWTH), (100, GROWTH), (200, 2 * GROWTH)):
        subject.forward([ModelInput(ids(100), cache)])
        assert (cache.length, cache.nbytes) == (past + 100, capacity * row)
    cache.crop(10)
    assert (cache.length, cache.nbytes) == (10, 2 * GROWTH * row) and cache.copy(10).nbytes == GROWTH * row
    cache.crop(50)
    assert cache.length == 10 and cache.copy(50).length == 10


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo"])
def test_kernels_are_made_for_few_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of any length: torch keeps a kernel for each shape of many tokens for ever."""
    _, subject = pair(name)
    asked, plain = set(), functional.scaled_dot_product_attention

    def told(query: Any, key: Any, *others: Any, **options: Any) -> Any:
        asked.add(key.shape[2])
        return plain(query, key, *others, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", told)
    for length in range(16, 96, 3):
        subject.forward([ModelInput(ids(length), subject.new_cache())])
    assert asked <= {64, 128}


def test_rows_of_packed_weights_are_multiplied_by_sixteens() -> None:
    """And come out as they went in: as many, each as if it were alone."""
    weight = torch.randn(24, 32)
    subject, rows = build_linear(weight, None, WeightFormats("bfloat16", "bfloat16")), torch.randn(50, 32)
    for count in (1, 2, 15, 16, 17, 31, 33, 50):
        found = subject(rows[:count])
        assert found.shape == (count, 24)
        torch.testing.assert_close(found.float(), rows[:count] @ weight.T, rtol=0.05, atol=0.3)


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    """Beyond learned positions, feeds of nothing, and rows that are not there."""
    _, subject = pair("gpt2")
    cache = subject.new_cache()
    subject.forward([ModelInput(ids(500), cache)])
    for tokens, rows in ((ids(13), 1), ([], 1), ([], 0), (ids(2), 3)):
        with pytest.raises(ValueError, match="do not fit"):
            subject.forward([ModelInput(tokens, cache, rows)])
    assert cache.length == 500


# What is left to transformers.


def test_every_layout_is_tested() -> None:
    """A row of the table without a case would be a guess."""
    assert {CASES[case]().model_type for case in CASES} == ARCHITECTURES.keys()
    assert all(is_supported(CASES[case]()) for case in CASES)


@pytest.mark.parametrize("case", CASES)
def test_the_files_of_a_checkpoint_are_known_by_heart(case: str, tmp_path: Path) -> None:
    """Names and forms of all that transformers writes, and the configuration that it writes, without its help."""
    module, subject = pair(case)
    module.save_pretrained(tmp_path)
    shape = parse_config(module.config)
    assert shape is not None
    with ExitStack() as stack:
        stored = open_if_complete(tmp_path, shape, torch.device("cpu"), stack)
        assert stored is not None and len(stored) == len(compute_weight_shapes(shape))
        assert shape.parameters == module.num_parameters()
        config = read_config(tmp_path)
        assert parse_config(config) == shape
        assert isinstance(config, SimpleNamespace)
        again = Transformer(config, stored, EXACT)
    tokens = [ModelInput(ids(20), maker.new_cache(), 20) for maker in (subject, again)]
    assert torch.equal(subject.forward(tokens[:1])[0], again.forward(tokens[1:])[0])


@pytest.mark.parametrize(
    "config",
    [
        transformers.GPTNeoXConfig(**NEOX, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
        transformers.LlamaConfig(
            **NEOX,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
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
def test_other_configurations_are_left_to_transformers(config: Any) -> None:
    """Turned otherwise, normed otherwise, or never heard of."""
    assert not is_supported(config)


# Lower formats.


@lru_cache
def shipped() -> tuple[Any, dict[str, torch.Tensor], list[int]]:
    """The shipped model's configuration and weights, and the tokens of a Python file of ours."""
    weights = read_int8_weights(SHIPPED_FOLDER, torch.float32) or {
        name: value.float() for name, value in load_file(SHIPPED_FOLDER / "model.safetensors").items()
    }
    config = transformers.AutoConfig.from_pretrained(SHIPPED_FOLDER)
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHIPPED_FOLDER)
    source = inspect.getsource(codeclippy_ls.text)
    return config, weights, tokenizer(source)["input_ids"][:600]


@lru_cache
def told(choice: WeightFormats, sizes: tuple[int, ...] = (192, 192, 192, 24)) -> torch.Tensor:
    """The shipped model's logits over that file."""
    config, weights, tokens = shipped()
    subject = Transformer(config, weights, choice)
    return read(subject, subject.new_cache(), tokens, sizes)


# The least share of tokens that stay first, the least mean cosine of the logits, the most bits lost per token.
BOUNDS = {"bfloat16": (0.97, 0.9995, 0.005), "int8": (0.95, 0.999, 0.02)}


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("sizes", [(192, 192, 192, 24), (560, *(1,) * 40), (560, *(4,) * 10)])
def test_the_shipped_model_says_nearly_the_same(name: str, sizes: tuple[int, ...]) -> None:
    """Read in chunks, written one by one, and verified a few at a time."""
    if name not in list_available_formats("cpu"):
        pytest.skip(f"no {name} on this machine")
    exact, found = told(EXACT), told(WeightFormats(name, name), sizes)
    same, cosine, bits = BOUNDS[name]
    assert float((exact.argmax(-1) == found.argmax(-1)).float().mean()) >= same
    assert float(torch.cosine_similarity(exact, found, dim=-1).mean()) >= cosine
    targets = torch.tensor(shipped()[2])[1:]
    lost = (
        torch.nn.functional.cross_entropy(found[:-1], targets) - torch.nn.functional.cross_entropy(exact[:-1], targets)
    ) / torch.tensor(2.0).log()
    assert float(lost) <= bits


def test_what_neighbours_hold_costs_a_token_nothing() -> None:
    """int8 gives each token's activations a factor of its own."""
    if "int8" not in list_available_formats("cpu"):
        pytest.skip("no int8 on this machine")
    torch.manual_seed(1)
    layer = build_linear(torch.randn(64, 96), torch.randn(64), WeightFormats("int8", "int8"))
    quiet = torch.randn(1, 96)
    beside = layer(torch.cat([quiet, 1000 * torch.randn(3, 96), torch.zeros(1, 96)]))
    near(beside[:1], layer(quiet), 0.05)
    assert bool(beside.isfinite().all())


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("rows", [1, 3, 33])
@pytest.mark.parametrize("kind", ["gelu", "tanh", "silu", "relu"])
@pytest.mark.parametrize("at_once", [False, True])
def test_layers_together_are_the_layers_alone(
    name: str, rows: int, kind: str, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one input, with activations or gates, and added up: whether in one product, as on GPUs, or in several."""
    if name not in list_available_formats("cpu"):
        pytest.skip(f"no {name} on this machine")
    monkeypatch.setattr(fused_linear, "should_merge", lambda device: at_once)
    torch.manual_seed(2)
    choice, bound = WeightFormats(name, name), {"float32": 1e-4, "bfloat16": 0.1, "int8": 0.15}[name]
    plain = {
        "gelu": functional.gelu,
        "tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "silu": functional.silu,
        "relu": functional.relu,
    }[kind]
    weights = [torch.randn(size, 32) / 32**0.5 for size in (24, 64, 64)]
    bias, x = torch.randn(64), torch.randn(rows, 32)
    alone, risen, gated = (functional.linear(x, weight, bias[: len(weight)]) for weight in weights)
    found = make_merged_linear(
        [
            Part(weights[0], bias[:24]),
            Part(weights[1], bias, Activation(kind)),
            Part(weights[2], bias, Activation(kind, gated=True)),
        ],
        choice,
    )(x)
    for given, wanted in zip(found, (alone, plain(risen), plain(gated[:, :32]) * gated[:, 32:]), strict=True):
        near(given.float(), wanted, bound)
    parts = [Part(torch.randn(32, 24) / 24**0.5), Part(torch.randn(32, 64) / 8, torch.randn(32))]
    to, inputs = torch.randn(rows, 32), (torch.randn(rows, 24), torch.randn(rows, 64))
    wanted = to + sum(functional.linear(x, part.weight, part.bias) for x, part in zip(inputs, parts, strict=True))
    dtype = PLAIN[name] if at_once and name in PLAIN else torch.float32  # all of one type on a GPU
    found = make_residual_linear(parts, choice)(to.to(dtype), *(x.to(dtype) for x in inputs))
    near(found.float(), wanted, bound)


def test_a_choice_switches_by_the_number_of_tokens() -> None:
    """Few tokens in one format, many in the other, both the same layer."""
    weight, bias = torch.randn(48, 32), torch.randn(48)
    both = build_linear(weight, bias, WeightFormats("float32", "bfloat16", 8))
    for rows, kind in ((1, torch.float32), (7, torch.float32), (8, torch.bfloat16)):
        x = torch.randn(rows, 32)
        assert both(x).dtype is kind
        near(both(x).float(), torch.nn.functional.linear(x, weight, bias), 0.03)


def test_formats_that_are_not_here_are_never_chosen() -> None:
    """Whatever this machine has, the choice is of that, and float32 is always there."""
    names = list_available_formats("cpu")
    assert "float32" in names
    choice = choose_fastest_formats("cpu")
    assert {choice.few, choice.many} <= set(names) and choice == choose_fastest_formats("cpu")
