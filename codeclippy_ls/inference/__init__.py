"""What crosses to an engine, the same whether it is a thread, another process or a service: plain values and protocols.

Requests, handles, priorities, model specs, errors and `Sampling`. Knows no model, no text, no torch and no LSP.
"""
