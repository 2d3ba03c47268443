"""Clean-up of model answers, and the check that they do not break the code around them.

Knows text and the names of control tokens only: no models, no threads, no LSP.
"""
