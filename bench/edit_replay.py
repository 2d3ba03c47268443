"""A model that is made to write a given diff: measures the cost of an edit independently of the weights' quality.

The forward pass is that of a real model and runs in full; its logits are then biased towards the diff. Without a
constraint the diff is written in the tokens of its text; under the grammar, in the longest tokens that the grammar
allows and that continue the diff. So both ways write the same text, and their numbers of passes can be compared.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch

_BOOST = 1000.0  # above all logits of a model
_MAX_TOKEN_BYTES = 64  # bytes of a token


def make_true_diff(before: Sequence[str], after: Sequence[str]) -> str:
    """Return the diff between two lists of lines in the format that the edit models were trained on."""
    rows = list(difflib.unified_diff(before, after, n=3, lineterm=""))[2:]
    return " " + "".join(row + "\n" for row in rows)


@lru_cache(maxsize=4)
def _index_tokens(tokenizer: Any) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for id, data in enumerate(tokenizer.token_bytes):
        if data:
            found.setdefault(data, []).append(id)
    return found


class Teacher:
    """Biases the logits of a model so that it writes ``text`` after a prompt and stops.

    It follows the text line by line: if a header was written with other numbers, the rest of that line is given up,
    and the text continues with its next line.

    Args:
        prompt_length: number of tokens of the prompt.
        stop_token_ids: ids that end the answer.
    """

    def __init__(self, tokenizer: Any, prompt_length: int, text: str, stop_token_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._prompt_length = prompt_length
        self._lines = text.encode().split(b"\n")[:-1]
        self._token_ids = tuple(tokenizer.encode_continuation(text))
        self._stop_token_ids = tuple(stop_token_ids)

    def bias_logits(self, logits: torch.Tensor, history: Sequence[int]) -> torch.Tensor:
        """Raise the logits of the tokens that continue the text far above the rest; longer tokens come first."""
        biased = logits.clone()
        written = tuple(history[self._prompt_length :])
        rest = self.find_rest(self._tokenizer.decode_bytes(written))
        if not rest:
            biased[list(self._stop_token_ids)] += _BOOST
        for length in range(1, min(len(rest), _MAX_TOKEN_BYTES) + 1):
            for id in _index_tokens(self._tokenizer).get(rest[:length], ()):
                biased[id] += _BOOST + 10 * length
        if len(written) < len(self._token_ids) and self._token_ids[: len(written)] == written:
            biased[self._token_ids[len(written)]] += _BOOST
        return biased

    def find_rest(self, written: bytes) -> bytes:
        """Return the rest of the text after the written part; only a line end if the written line deviates from it."""
        *done, line = written.split(b"\n")
        if len(done) >= len(self._lines):
            return b""
        goal, following = self._lines[len(done)], self._lines[len(done) + 1 :]
        if goal.lstrip().startswith(b"@@") and line.lstrip():
            goal, line = goal.lstrip(), line.lstrip()
        if not goal.startswith(line):
            return b"\n"
        return b"".join(row + b"\n" for row in (goal[len(line) :], *following))


def make_random_codegen(tokenizer: Any, seed: int = 0) -> Any:
    """Make a model of CodeGen-350M's size with random weights, as the engine would run it on this machine."""
    import transformers

    from codeclippy_ls.engine.decoder.architectures import parse_config
    from codeclippy_ls.engine.decoder.transformer import Transformer
    from codeclippy_ls.engine.generation.threads import list_thread_counts
    from codeclippy_ls.engine.loading.device import pick_device, pick_dtype, pick_weight_formats
    from codeclippy_ls.engine.loading.model import Model

    torch.set_num_threads(list_thread_counts()[0])
    torch.manual_seed(seed)
    config = transformers.CodeGenConfig(
        vocab_size=51200,
        n_positions=2048,
        n_ctx=2048,
        n_embd=1024,
        n_layer=20,
        n_head=16,
        rotary_dim=32,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=50256,
    )
    device = pick_device("auto")
    default = torch.get_default_dtype()
    torch.set_default_dtype(pick_dtype("auto", device))
    try:
        module = transformers.AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(default)
    model_config = parse_config(config)
    assert model_config is not None
    runner = Transformer(config, module.to(device).state_dict(), pick_weight_formats("auto", device, model_config))
    return Model(runner, tokenizer, "diff-codegen-350m-random", stop_token_ids=frozenset({50256}))
