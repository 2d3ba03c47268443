"""Clean-up of what a model wrote, and the check that it leaves the code around it intact.

Knows text only: no models, no threads, no LSP.
"""
