"""Count the weights that a token reads, from a model's header: all but the embeddings, of which it reads one row.

On a CPU and on a GPU alike, the time of a token is the time of reading these. Knows no number format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codeclippy_ls.catalog.gguf_header import VOCAB_SIZE_KEY, GgufHeader

_MAX_SIZE = 1 << 24  # of one dimension; a header may claim anything
# Architectures with two matrices in the MLP; the others have three (a gate beside the first).
_UNGATED = frozenset({"starcoder2", "starcoder", "gpt2", "gptneox", "phi2"})


def count_gguf_weights(header: GgufHeader) -> int:
    """Count the weights by the sizes in a GGUF header; 0 if it does not tell them."""
    hidden, layers, inner = (
        _read_size(header, key) for key in ("embedding_length", "block_count", "feed_forward_length")
    )
    heads = _read_size(header, "attention.head_count")
    kv_heads = _read_size(header, "attention.head_count_kv") or heads
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    vocab_size = len(tokens) if isinstance(tokens, list) else header.metadata.get(VOCAB_SIZE_KEY, 0)
    if not (hidden and layers and inner and heads):
        return 0
    key_size = _read_size(header, "attention.key_length") or hidden // heads
    value_size = _read_size(header, "attention.value_length") or key_size
    attention = hidden * (heads + kv_heads) * (key_size + value_size)
    num_matrices = 2 if header.architecture in _UNGATED else 3
    return layers * (attention + num_matrices * hidden * inner) + hidden * int(vocab_size)


def count_folder_weights(config: Mapping[str, Any], nbytes: int) -> int:
    """Count the weights of a folder by the size of its files and its ``config.json``."""
    number_format = str(config.get("dtype") or config.get("torch_dtype"))
    total = nbytes // (4 if number_format == "float32" else 2)
    hidden = config.get("hidden_size", config.get("n_embd", 0))
    vocab_size = config.get("vocab_size", 0)
    is_tied = config.get("tie_word_embeddings", True) is not False
    if is_tied or not isinstance(hidden, int) or not isinstance(vocab_size, int):
        return total
    return max(total - hidden * vocab_size, 0)


def _read_size(header: GgufHeader, key: str) -> int:
    """Read a size; of one for each layer, the largest."""
    value = header.get(key, 0)
    sizes = value if isinstance(value, list) else [value]
    known = [size for size in sizes if isinstance(size, int) and 0 < size <= _MAX_SIZE]
    return max(known, default=0)
