"""What crosses to an engine, the same whether it is a thread, another process or a service: plain values and protocols.

Requests, handles, priorities, model specs, errors and `Sampling`, and the base of the engines that are clients of
another program. Knows no model, no text, no torch and no LSP.
"""
