"""Prompts: what each family of models is asked, token by token or as text.

Knows token ids through the `Tokenizer` protocol, and documents; knows no threads, no LSP and no torch.
"""
