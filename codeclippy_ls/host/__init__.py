"""The engine host: one process per user and configuration runs the models for all editors.

The process holds a `ThreadEngine`; each editor's server speaks JSON-RPC to it over a socket that only the user can
reach. The first client starts it, it exits when nobody has been connected for a while, and after a crash its clients
start it again. Knows neither LSP nor documents, and imports torch in the host process only.
"""
