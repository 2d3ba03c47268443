"""The engine host: one process per user and configuration runs the models for all editors; the engine's face over it.

The process holds an ordinary engine; each editor's server speaks JSON-RPC to it over a socket that only the user can
reach. Whoever comes first starts it, it ends when nobody has been connected for a while, and where it dies, its
clients start it again. Knows neither LSP nor documents, and imports torch in the host process only.
"""

from codeclippy_ls.host.choice import open_engine

__all__ = ["open_engine"]
