"""A model that writes what it is told to: what an edit costs, whatever the weights are worth.

The forward pass is a real model's and runs in full; what it says is then bent towards a given diff. Where nothing is
constrained, the diff is written in the tokens that its text has; under a grammar, in the longest tokens that both the
grammar allows and the diff goes on with. So both ways write one text, and the passes they need can be compared.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch

_BOOST = 1000.0  # above all that a model says
_LONGEST = 64  # bytes of a token


def true_diff(before: Sequence[str], after: Sequence[str]) -> str:
    """The diff between two runs of lines in the form that the models for edits were trained on."""
    rows = list(difflib.unified_diff(before, after, n=3, lineterm=""))[2:]
    return " " + "".join(row + "\n" for row in rows)


@lru_cache(maxsize=4)
def _ids(tokenizer: Any) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for id, data in enumerate(tokenizer.token_bytes):
        if data:
            found.setdefault(data, []).append(id)
    return found


class Teacher:
    """Bends what a model says so that it writes ``text`` after a prompt and ends.

    It follows line by line: a header in which other numbers were written is let go, and its next line is the next of
    the text again.

    Args:
        prompt: tokens of the prompt.
        ends: ids that end the answer.
    """

    def __init__(self, tokenizer: Any, prompt: int, text: str, ends: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._lines = text.encode().split(b"\n")[:-1]
        self._own = tuple(tokenizer.encode_continuation(text))
        self._ends = tuple(ends)

    def change(self, logits: torch.Tensor, history: Sequence[int]) -> torch.Tensor:
        """The logits with what the text goes on with far above the rest, longer tokens above shorter ones."""
        bent = logits.clone()
        written = tuple(history[self._prompt :])
        rest = self.rest(self._tokenizer.decode_bytes(written))
        if not rest:
            bent[list(self._ends)] += _BOOST
        for length in range(1, min(len(rest), _LONGEST) + 1):
            for id in _ids(self._tokenizer).get(rest[:length], ()):
                bent[id] += _BOOST + 10 * length
        if len(written) < len(self._own) and self._own[: len(written)] == written:
            bent[self._own[len(written)]] += _BOOST
        return bent

    def rest(self, written: bytes) -> bytes:
        """What is to follow what was written; a mere line end where the line cannot be the text's any more."""
        *done, line = written.split(b"\n")
        if len(done) >= len(self._lines):
            return b""
        goal, following = self._lines[len(done)], self._lines[len(done) + 1 :]
        if goal.lstrip().startswith(b"@@") and line.lstrip():
            goal, line = goal.lstrip(), line.lstrip()
        if not goal.startswith(line):
            return b"\n"
        return b"".join(one + b"\n" for one in (goal[len(line) :], *following))


def random_codegen(tokenizer: Any, seed: int = 0) -> Any:
    """A model of CodeGen-350M's size with random weights, as the engine would run it on this machine."""
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
    shape = parse_config(config)
    assert shape is not None
    runner = Transformer(config, module.to(device).state_dict(), pick_weight_formats("auto", device, shape))
    return Model(runner, tokenizer, "diff-codegen-350m-random", stop_token_ids=frozenset({50256}))
