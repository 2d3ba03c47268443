"""Make checkpoints of real architectures at toy dimensions, and a real byte-level tokenizer, with fixed seeds.

Imports torch only for models: scripted servers, which need only the tokenizer, start without waiting for it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CONTROL_TOKENS = ("<|endoftext|>", "<|SUF|>", "<|PRE|>", "<|MID|>", "<NME>", "<BEF>", "<MSG>", "<DFF>")
VOCAB_SIZE = 600
CONTEXT_LENGTH = 256


@lru_cache
def make_tokenizer_json(control_tokens: tuple[str, ...] = CONTROL_TOKENS, vocab_size: int = VOCAB_SIZE) -> str:
    """Make a ``tokenizer.json``: byte-level BPE trained on a source file of this project, control tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(control_tokens),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train([str(Path(__file__).parent.parent / "codeclippy_ls" / "text.py")], trainer)
    tokenizer.add_special_tokens([AddedToken(token) for token in control_tokens])
    return str(tokenizer.to_str())


def make_config(architecture: str, context_length: int = CONTEXT_LENGTH, vocab_size: int = VOCAB_SIZE) -> Any:
    """Make the configuration of a toy model."""
    import transformers

    special_token_ids = {"bos_token_id": 0, "eos_token_id": 0}
    if architecture == "gpt_neo":
        return transformers.GPTNeoConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            num_layers=4,
            num_heads=4,
            intermediate_size=64,
            window_size=16,
            attention_types=[[["global", "local"], 2]],
            max_position_embeddings=context_length,
            **special_token_ids,
        )
    if architecture == "codegen":
        return transformers.CodeGenConfig(
            vocab_size=vocab_size,
            n_embd=32,
            n_layer=2,
            n_head=4,
            rotary_dim=8,
            n_inner=64,
            n_positions=context_length,
            n_ctx=context_length,
            tie_word_embeddings=False,
            **special_token_ids,
        )
    if architecture == "gpt_neox":
        return transformers.GPTNeoXConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=context_length,
            **special_token_ids,
        )
    return transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=context_length,
        **special_token_ids,
    )


ARCHITECTURES = ("gpt_neo", "codegen", "gpt_neox", "llama")


def make_module(architecture: str, seed: int = 0, context_length: int = CONTEXT_LENGTH) -> Any:
    """Make a toy model with random weights, of a variance high enough that greedy text varies."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = make_config(architecture, context_length)
    module = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1 and "wpe" not in name:
                parameter.normal_(0.0, 0.4)
    return module


def save_checkpoint(
    folder: Path,
    architecture: str = "gpt_neox",
    seed: int = 0,
    control_tokens: tuple[str, ...] = CONTROL_TOKENS,
    context_length: int = CONTEXT_LENGTH,
) -> Path:
    """Save a complete checkpoint of a toy model, and return its folder."""
    make_module(architecture, seed, context_length).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(make_tokenizer_json(control_tokens), encoding="utf-8")
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), encoding="utf-8")
    return folder
