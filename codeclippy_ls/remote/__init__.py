"""Engine over a service with OpenAI's completions interface: vLLM, TGI, llama.cpp's server, Ollama.

Prompts go out as text and answers come back as a stream of events, over https or to this machine only. Knows neither
LSP nor documents nor torch; its HTTP library is imported when the first request needs it.
"""
