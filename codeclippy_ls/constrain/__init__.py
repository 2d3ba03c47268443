"""Which tokens may follow: immutable states over a vocabulary.

Two constraints. ``heal``: the answer must begin with text that was cut from the prompt. ``diff``: the answer must be a
unified diff of a given document; kept and removed lines can only be lines that stand in it, in order, so the model
chooses which branch to take and writes only what it adds. What is forced is offered as such, to be fed without being
sampled. The grammars are over bytes, so they hold for every vocabulary. Does not know the engine that asks.

``gbnf`` is the second one written down, for services that hold a model to a grammar; ``applied`` does such a diff.

A state answers ``get_allowed_tokens`` (ids that may come next), ``advance`` (the state after one of them) and
``get_forced_tokens`` (ids that must follow). States are shared freely: by candidates, by speculation, by a job that was
pre-empted.
"""
