"""GGUF files beside llama.cpp itself: the same token ids, and the same text but for near ties.

They run if its server is installed, as in the environment that `make test-services` makes. Real models are those that
``CODECLIPPY_TEST_GGUF`` names.
"""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from codeclippy_ls.catalog.gguf_header import read_header
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from codeclippy_ls.engine.loading.gguf_tokenizer import SPLIT_PATTERNS, make_tokenizer_json
from codeclippy_ls.engine.loading.loader import load
from codeclippy_ls.engine.loading.tokenizer import Tokenizer
from codeclippy_ls.inference.spec import ModelSpec
from tests import gguf_files
from tests.services import ROOT, run_llama_server
from tests.shared import gguf_files as real_files
from tests.shared import tokenizer_folder

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="llama.cpp's server is not installed: xllamacpp"),
]
PARTS = (
    *("\n", "\n\n", "  ", "   ", "\t", " ", "\r\n", "\xa0", "\u3000", "\u200b", "a", "Z", "é", "ü", "µ", "ſ", "\u0301"),
    *("漢", "字", "ひら", "한글", "😀", "'s", "'LL", "don't", "12", "3456", "7", "½", "٣", "²", "x1", "_", "__init__"),
    *("->", "!=", "...", "/*", "//", "#", "€", "$", "<|im_start|>", "</s>", "camelCase", "HTTPServer", "、", "。"),
)
PROMPTS = (
    "def fibonacci(n):\n    ",
    "import os\nimport sys\n\n\ndef read_lines(path):\n    with open(path",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "// Return the larger of two numbers.\nfunction max(a, b) {\n",
    "SELECT name, count(*) FROM users ",
    "for i in range(10):\n",
    "# Write a haiku about the sea\n",
    "fn main() {\n    let mut total = 0;\n",
)
NUM_PROMPTS, NUM_TOKENS = 50, 16
# Of a likely token's logarithmic probability, between float32 and eight-bit activations: 0.54 was seen in 800 choices.
MAX_DIFFERENCE, MAX_GAP = 0.8, 0.5


def make_texts() -> list[str]:
    """Make texts of code, prose and odd characters, always the same ones."""
    files = [ROOT / "codeclippy_ls" / "text.py", ROOT / "docs" / "style.md", *sorted(ROOT.glob("editors/**/*.lua"))[:3]]
    texts = [text[start : start + 700] for file in files for text in [file.read_text("utf-8")] for start in (0, 2000)]
    generator = random.Random(1)
    return texts + ["".join(generator.choices(PARTS, k=generator.randint(1, 12))) for _ in range(300)]


def make_prompts() -> list[str]:
    """Make prompts: some of many kinds, and this project's own code, cut at ends of lines."""
    files = sorted(ROOT.glob("codeclippy_ls/**/*.py"))
    texts = [file.read_text("utf-8") for file in files]
    long = [text for text in texts if len(text) > 3000]
    cuts = [text[text.rindex("\n", 0, 1200 + 20 * number) - 300 :][:300] for number, text in enumerate(long)]
    return [*PROMPTS, *cuts][:NUM_PROMPTS]


class LlamaServer:
    """llama.cpp's server, by its own interface."""

    def __init__(self, endpoint: str) -> None:
        self._address = endpoint.removesuffix("/v1")

    def post(self, path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            self._address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def tokenize(self, text: str) -> list[int]:
        ids: list[int] = self.post("/tokenize", content=text, add_special=False, parse_special=False)["tokens"]
        return ids


@contextmanager
def run_server(path: Path) -> Iterator[LlamaServer]:
    with run_llama_server(path) as endpoint:
        yield LlamaServer(endpoint)


def list_differences(path: Path, server: LlamaServer) -> list[str]:
    tokenizer = Tokenizer(make_tokenizer_json(read_header(path)))
    return [text for text in make_texts() if tokenizer.encode(text) != server.tokenize(text)]


def write_toy(path: Path, write_vocabulary: Any) -> Path:
    """Write a model of one layer with a vocabulary; the server does not start without weights."""
    writer = gguf.GGUFWriter(path, "llama")
    size = write_vocabulary(writer)
    for add, value in (
        (writer.add_context_length, 64),
        (writer.add_embedding_length, 32),
        (writer.add_block_count, 1),
        (writer.add_feed_forward_length, 32),
        (writer.add_head_count, 1),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_vocab_size, size),
    ):
        add(value)
    writer.add_tensor("token_embd.weight", torch.zeros(size, 32).numpy())
    writer.add_tensor("output_norm.weight", torch.ones(32).numpy())
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", torch.zeros(32, 32).numpy())
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", torch.ones(32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


FIRST_NAMES = {value: name for name, value in reversed(SPLIT_PATTERNS.items())}  # of the names for the same pattern


@pytest.mark.parametrize("pre", sorted(FIRST_NAMES.values()))
def test_split_patterns_give_the_ids_of_llama_cpp(pre: str, tmp_path: Path) -> None:
    definition = (tokenizer_folder("gpt2") / "tokenizer.json").read_text(encoding="utf-8")

    def write(writer: gguf.GGUFWriter) -> int:
        gguf_files.write_vocabulary(writer, definition, pre)
        data = json.loads(definition)
        return len({*data["model"]["vocab"], *(token["content"] for token in data["added_tokens"])})

    path = write_toy(tmp_path / "toy.gguf", write)
    with run_server(path) as server:
        assert not list_differences(path, server)


@pytest.mark.parametrize("has_space_prefix", [True, False])
def test_sentencepiece_gives_the_ids_of_llama_cpp(has_space_prefix: bool, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    trained = Backend(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(make_texts()[:6], trainers.BpeTrainer(vocab_size=900, show_progress=False))
    pieces = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    kinds = [2, 3, 3, *[6] * 256, *[1] * len(pieces)]

    def write(writer: gguf.GGUFWriter) -> int:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * 259 + [-float(rank) for rank in range(len(pieces))])
        writer.add_token_types(kinds)
        writer.add_add_space_prefix(has_space_prefix)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        return len(tokens)

    path = write_toy(tmp_path / "toy.gguf", write)
    with run_server(path) as server:
        assert not list_differences(path, server)


def test_real_files_give_the_ids_of_llama_cpp() -> None:
    for path in real_files():
        with run_server(path) as server:
            assert not list_differences(path, server)


@pytest.mark.slow
def test_real_files_write_the_text_of_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the texts part, llama.cpp itself holds both tokens for almost equally likely.

    It rounds activations to eight bits, so its logits are not exact either.
    """
    for path in real_files():
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / path.stem))
        model = load(ModelSpec(str(path), "cpu", "float32", 1))
        differences, gaps, num_choices = [], [], 0
        with run_server(path) as server:
            prompts = make_prompts()
            assert len(prompts) == NUM_PROMPTS
            for prompt in prompts:
                ids = model.tokenizer.encode(prompt)
                answer = server.post(
                    "/completion", prompt=ids, n_predict=NUM_TOKENS, temperature=0, n_probs=20, cache_prompt=False
                )
                kv_cache, context = model.new_cache(), ids
                for choice in answer["completion_probabilities"]:
                    logits = model.forward([ModelInput(context, kv_cache)])[0][-1]
                    ours = torch.log_softmax(logits, 0)
                    best = int(ours.argmax())
                    theirs = {option["id"]: option["logprob"] for option in choice["top_logprobs"]}
                    for id, logprob in theirs.items():
                        if logprob > -3:  # likely tokens; the others differ by more, and decide nothing
                            differences.append(abs(float(ours[id]) - logprob))
                    num_choices += 1
                    if best != choice["id"]:
                        gaps.append(choice["logprob"] - theirs[best])
                    context = [choice["id"]]  # go on along its text
        print(path.name, f"{num_choices} tokens, {len(gaps)} differ by up to", max(gaps, default=0.0), max(differences))
        assert max(differences) < MAX_DIFFERENCE and max(gaps, default=0.0) < MAX_GAP
