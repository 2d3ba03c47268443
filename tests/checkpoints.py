"""Real models of real architectures at toy dimensions, and a real byte-level tokenizer, made here with fixed seeds.

Who only wants the tokenizer, as scripted servers do, does not wait for torch.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CONTROL = ("<|endoftext|>", "<|SUF|>", "<|PRE|>", "<|MID|>", "<NME>", "<BEF>", "<MSG>", "<DFF>")
VOCABULARY = 600
WINDOW = 256


@lru_cache
def definition(control: tuple[str, ...] = CONTROL, size: int = VOCABULARY) -> str:
    """A ``tokenizer.json``: byte-level BPE over this project's own source, control tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(control),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train([str(Path(__file__).parent.parent / "codeclippy_ls" / "text.py")], trainer)
    tokenizer.add_special_tokens([AddedToken(token) for token in control])
    return str(tokenizer.to_str())


def config(architecture: str, window: int = WINDOW, vocabulary: int = VOCABULARY) -> Any:
    """The configuration of a toy model."""
    import transformers

    ends = {"bos_token_id": 0, "eos_token_id": 0}
    if architecture == "gpt_neo":
        return transformers.GPTNeoConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            num_layers=4,
            num_heads=4,
            intermediate_size=64,
            window_size=16,
            attention_types=[[["global", "local"], 2]],
            max_position_embeddings=window,
            **ends,
        )
    if architecture == "codegen":
        return transformers.CodeGenConfig(
            vocab_size=vocabulary,
            n_embd=32,
            n_layer=2,
            n_head=4,
            rotary_dim=8,
            n_inner=64,
            n_positions=window,
            n_ctx=window,
            tie_word_embeddings=False,
            **ends,
        )
    if architecture == "gpt_neox":
        return transformers.GPTNeoXConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=window,
            **ends,
        )
    return transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=window,
        **ends,
    )


ARCHITECTURES = ("gpt_neo", "codegen", "gpt_neox", "llama")


def module(architecture: str, seed: int = 0, window: int = WINDOW) -> Any:
    """A toy model with random weights, spread widely enough that greedy text varies."""
    import torch
    import transformers

    torch.manual_seed(seed)
    made = transformers.AutoModelForCausalLM.from_config(config(architecture, window)).eval().float()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() > 1 and "wpe" not in name:
                parameter.normal_(0.0, 0.4)
    return made


def save(
    folder: Path,
    architecture: str = "gpt_neox",
    seed: int = 0,
    control: tuple[str, ...] = CONTROL,
    window: int = WINDOW,
) -> Path:
    """A whole checkpoint folder."""
    module(architecture, seed, window).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(definition(control), encoding="utf-8")
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind), encoding="utf-8")
    return folder
