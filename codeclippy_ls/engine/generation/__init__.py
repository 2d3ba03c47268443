"""Generation of tokens: decoding, drafts, KV cache, number of threads. Knows token ids and logits, no weights."""
