"""The engine's face over a service that speaks OpenAI's completions interface: vLLM, TGI, llama.cpp's server, Ollama.

Prompts go out as text and answers come back as a stream of events; nothing leaves but over https or to this machine
itself. Knows neither LSP nor documents nor torch; its HTTP library is imported when the first request needs it.
"""

from codeclippy_ls.remote.engine import RemoteEngine, open_remote

__all__ = ["RemoteEngine", "open_remote"]
