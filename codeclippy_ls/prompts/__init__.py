"""Prompts for each family of models, as token ids and as text.

Knows token ids through the `PromptTokenizer` protocol, and documents; knows no threads, no LSP and no torch.
"""
