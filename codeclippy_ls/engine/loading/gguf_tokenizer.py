"""Make a ``tokenizer.json`` of the vocabulary in a GGUF file's header.

Byte-level BPE files name the pattern that splits a text into words; llama.cpp has the patterns in its code
(``src/llama-vocab.cpp``), and `SPLIT_PATTERNS` has them here. SentencePiece files have a score per token, and the
merges follow from the scores. Knows nothing of weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from codeclippy_ls.catalog.gguf_header import GgufError, GgufHeader

# Types of tokens in ``tokenizer.ggml.token_type``.
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+"
    r"|[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHINESE = r"[一-龥ࠀ-一가-퟿]+"
_DIGITS_THEN_GPT2 = (r"\p{N}", _GPT2)

# Names in ``tokenizer.ggml.pre``: the patterns, applied one after the other to what is left between the matches.
SPLIT_PATTERNS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais"), (_GPT2,)),
    **dict.fromkeys(
        ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"), _DIGITS_THEN_GPT2
    ),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan"), (_QWEN2,)),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "dbrx", "smaug-bpe"), (_LLAMA3,)),
    "tekken": (_TEKKEN,),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE, r"\p{N}"),
    "deepseek-v3": (
        r"\p{N}{1,3}",
        r"[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
    ),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]"),
}
_IGNORE_MERGES = {"llama3", "llama-v3", "llama-bpe", "falcon3", "tekken"}  # a word in the vocabulary is one token


def _read_tokens(header: GgufHeader) -> list[str]:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens[:2]):
        raise GgufError("has no vocabulary")
    return tokens


def make_tokenizer_json(header: GgufHeader) -> str:
    """Return the text of the ``tokenizer.json``.

    Raises:
        GgufError: the vocabulary is damaged, or of a kind that is not supported.
    """
    metadata, tokens = header.metadata, _read_tokens(header)
    kind = metadata.get("tokenizer.ggml.model")
    types = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise GgufError("is damaged: its vocabulary has another number of types than of tokens")
    if kind == "gpt2":
        definition = _make_byte_level(metadata, tokens, types)
    elif kind == "llama":
        definition = _make_sentencepiece(metadata, tokens, types)
    else:
        raise GgufError(f"has a tokenizer of the kind {kind!r:.40}, which is not supported")
    added = [
        {**_ADDED_FLAGS, "id": id, "content": token, "special": types[id] == _CONTROL}
        for id, token in enumerate(tokens)
        if types[id] in (_CONTROL, _USER_DEFINED)
    ]
    return json.dumps({**_FRAME, **definition, "added_tokens": added}, ensure_ascii=False)


_ADDED_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_FRAME = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None}


def _make_byte_level(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in SPLIT_PATTERNS:
        raise GgufError(f"splits words by the pattern {name!r:.40}, which this version does not know")
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise GgufError("is damaged: its vocabulary has no merges")
    vocabulary = {token: id for id, token in enumerate(tokens) if types[id] not in (_UNUSED, _CONTROL, _USER_DEFINED)}
    splits = [_make_split(pattern) for pattern in SPLIT_PATTERNS[name]]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            "ignore_merges": name in _IGNORE_MERGES,
            "vocab": vocabulary,
            "merges": [merge.split(" ", 1) for merge in merges if _has_parts(merge, vocabulary)],
        },
    }


def _make_split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _has_parts(merge: str, vocabulary: Mapping[str, int]) -> bool:
    """Return whether both parts and the result are in the vocabulary; the library rejects other merges."""
    left, space, right = merge.partition(" ")
    return bool(space) and left in vocabulary and right in vocabulary and left + right in vocabulary


def _make_sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Any]:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise GgufError("is damaged: its vocabulary has another number of scores than of tokens")
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    vocabulary = {token: id for id, token in enumerate(tokens) if types[id] not in (_UNUSED, _CONTROL, _USER_DEFINED)}
    normalizers: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        normalizers.insert(0, {"type": "Prepend", "prepend": "▁"})
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "fuse_unk": True,
            "unk_token": unknown,
            "vocab": vocabulary,
            "merges": _list_merges(vocabulary, scores),
        },
    }


def _list_merges(vocabulary: Mapping[str, int], scores: list[float]) -> list[list[str]]:
    """List the merges that lead to the tokens, the best token first: llama.cpp merges the best neighbours first."""
    ranked = sorted(vocabulary, key=lambda token: (-scores[vocabulary[token]], vocabulary[token]))
    return [pair for token in ranked for pair in _split_token(token, vocabulary)]


def _split_token(token: str, vocabulary: Mapping[str, int]) -> Iterator[list[str]]:
    for cut in range(1, len(token)):
        if token[:cut] in vocabulary and token[cut:] in vocabulary:
            yield [token[:cut], token[cut:]]


# Names of tokens that end an answer, beyond the one that the header names.
_END_NAMES = (
    *("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "<|EOT|>", "</s>"),
    *("<|file_separator|>", "<｜end▁of▁sentence｜>"),
)


def list_stop_token_ids(header: GgufHeader) -> list[int]:
    """List the ids that end an answer: those that the header names, and control tokens of well-known names."""
    metadata = header.metadata
    named = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    id_by_token = {token: id for id, token in enumerate(_read_tokens(header)) if token in _END_NAMES}
    types = metadata.get("tokenizer.ggml.token_type", [])
    known = [id for id in id_by_token.values() if id < len(types) and types[id] in (_CONTROL, _USER_DEFINED)]
    return sorted({id for id in (*named, *known) if isinstance(id, int)})


def make_tokenizer_config(header: GgufHeader) -> dict[str, Any]:
    """Make the contents of the ``tokenizer_config.json``: the chat template and the tokens that it may mention."""
    tokens = _read_tokens(header)
    values: dict[str, Any] = {}
    for name, key in (("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token"), ("unknown", "unk_token")):
        id = header.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(id, int) and 0 <= id < len(tokens):
            values[key] = tokens[id]
    template = header.metadata.get("tokenizer.chat_template")
    return values | ({"chat_template": template} if isinstance(template, str) else {})
