"""Constraints on the next token: immutable states over a vocabulary.

There are three. `rewrite` forbids nothing and only drafts: the answer resembles some lines. `healing`: the answer must
begin with text that was cut from the prompt. `grammar`: the answer must be a
unified diff of a given document; kept and removed lines can only be lines of it, in order, so the model chooses a
branch and writes only the added lines. Forced tokens are fed without being sampled. The grammars are over bytes, so
they work with every vocabulary. Knows nothing of the engine that uses them.

`gbnf` is the last one in GBNF, for services that support grammars; it also applies such a diff.

A state has ``get_allowed_tokens`` (ids that may come next), ``advance`` (the state after one of them) and
``get_forced_tokens`` (ids that must follow). States are shared freely: by candidates, by speculation, by a pre-empted
job.
"""
