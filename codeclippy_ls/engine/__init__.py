"""The engine in this process: models, tokenizers and KV caches behind one background thread.

Knows token ids only: no documents, no LSP, no diffs. Importing this package imports no torch.
"""
