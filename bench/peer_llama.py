"""llama.cpp on a checkpoint, in two builds: its HTTP server, and its library through the C interface.

Runs in the environment that `make bench-peers` makes. The server is compiled for any x86-64 CPU with AVX2, the library
in a variant for each kind of CPU, of which it loads the best; ``version`` names the one in use. Both reuse the prefix
that a prompt has in common with the last one, as the server does for ``cache_prompt``.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import peer_formats

_GREEDY = {"samplers": ["top_k"], "top_k": 1, "ignore_eos": True, "return_tokens": True}
_INSTRUCTION_SETS = ("AVX2", "AVX512", "AVX512_VNNI", "AVX512_BF16", "AMX_INT8", "NEON", "DOTPROD", "SVE")
LIBRARIES = Path(sys.prefix) / "llama.cpp"


def parse_instruction_sets(system_info: str) -> str:
    """Parse the instruction sets of a build from llama.cpp's system information."""
    parts = [part.rpartition(":")[2].partition("=") for part in system_info.split("|")]
    used = {name.strip() for name, _, value in parts if value.strip() == "1"}
    return " ".join(name for name in _INSTRUCTION_SETS if name in used) or "no wide instructions"


def convert_to_gguf(folder: Path, scratch: Path, form: str) -> Path:
    """Convert the checkpoint to a GGUF file."""
    path = scratch / "model.gguf"
    peer_formats.write_gguf(folder, path, form)
    return path


class LlamaServer:
    """llama.cpp's own server, over HTTP on the loopback interface, with one slot and a warm prompt cache."""

    reuses_prefix = True

    def __init__(self, folder: Path, scratch: Path, form: str, threads: int, context_length: int) -> None:
        import xllamacpp

        path = convert_to_gguf(folder, scratch, form)
        self.nbytes = path.stat().st_size
        self.version = (
            f"llama.cpp's server (xllamacpp {metadata.version('xllamacpp')}), built for "
            f"{parse_instruction_sets(xllamacpp.get_system_info())}"
        )
        options = xllamacpp.CommonParams()
        options.model.path = str(path)
        options.n_ctx, options.n_parallel, options.n_gpu_layers = context_length, 1, 0
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
        options.cache_ram_mib = 0  # no cache of older prompts: copying them would cost it time
        options.fit_params = options.ui = False
        self._server = xllamacpp.Server(options)
        self._address = self._server.listening_address.partition("//")[2]
        self._connection = http.client.HTTPConnection(self._address)
        self._prompt: list[int] = []
        self.timings: dict[str, float] = {}

    def prefill(self, tokens: Sequence[int]) -> list[int]:
        """Prefill and sample one token, which is not run."""
        self._prompt = list(tokens)
        return self._complete(tokens, 1, is_cached=False)

    def decode(self, count: int) -> list[int]:
        """Decode; the prompt's last token is run again."""
        return self._complete(self._prompt, count, is_cached=True)

    def keystroke(self, tokens: Sequence[int], count: int) -> list[int]:
        """Decode, reusing the common prefix."""
        return self._complete(tokens, count, is_cached=True)

    def _complete(self, tokens: Sequence[int], count: int, is_cached: bool) -> list[int]:
        body = json.dumps({"prompt": list(tokens), "n_predict": count, "cache_prompt": is_cached, **_GREEDY})
        try:
            response = self._post(body)
        except (OSError, http.client.HTTPException):  # it closes connections that were idle for some seconds
            self._connection = http.client.HTTPConnection(self._address)
            response = self._post(body)
        if "tokens" not in response:
            raise ValueError(f"llama.cpp's server refuses: {response}")
        self.timings = response["timings"]
        return list(response["tokens"])

    def _post(self, body: str) -> Any:
        self._connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
        return json.loads(self._connection.getresponse().read())


class _Options(ctypes.Structure):
    """Memory for either of its options structures, of which only the context length is changed."""

    _fields_ = (("words", ctypes.c_int32 * 128),)


class _Batch(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int32), ("rest", ctypes.c_void_p * 6))


class LlamaLibrary:
    """llama.cpp's library in the variant for this CPU: like the server compiled on this machine, without HTTP."""

    reuses_prefix = True

    def __init__(self, folder: Path, scratch: Path, form: str, threads: int, context_length: int) -> None:
        self._library = _load_library()
        path = convert_to_gguf(folder, scratch, form)
        self.nbytes = path.stat().st_size
        system_info = self._library.llama_print_system_info().decode()
        self.version = f"llama.cpp's library, built for {parse_instruction_sets(system_info)}"
        model = self._library.llama_model_load_from_file(str(path).encode(), self._library.llama_model_default_params())
        options = self._library.llama_context_default_params()
        options.words[0] = context_length
        self._context = self._library.llama_init_from_model(model, options) if model else None
        if not self._context:
            raise ValueError("llama.cpp does not load the file")
        self._library.llama_set_n_threads(self._context, threads, threads)
        self._memory = self._library.llama_get_memory(self._context)
        self._vocab_size = self._library.llama_vocab_n_tokens(self._library.llama_model_get_vocab(model))
        self._token_ids: list[int] = []
        self._prompt: list[int] = []

    def prefill(self, tokens: Sequence[int]) -> list[int]:
        """Prefill with an empty memory."""
        self._crop(0)
        self._prompt = list(tokens)
        return [self._run(tokens)]

    def decode(self, count: int) -> list[int]:
        """Decode; the prompt's last token is run again."""
        return self._decode(self._prompt, count)

    def keystroke(self, tokens: Sequence[int], count: int) -> list[int]:
        """Decode, reusing the common prefix."""
        return self._decode(tokens, count)

    def _decode(self, tokens: Sequence[int], count: int) -> list[int]:
        common = next(
            (index for index, (one, other) in enumerate(zip(self._token_ids, tokens, strict=False)) if one != other),
            min(len(self._token_ids), len(tokens)),
        )
        self._crop(min(common, len(tokens) - 1))
        found = [self._run(tokens[len(self._token_ids) :])]
        while len(found) < count:
            found.append(self._run(found[-1:]))
        return found

    def _crop(self, length: int) -> None:
        self._library.llama_memory_seq_rm(self._memory, 0, length, -1)
        del self._token_ids[length:]

    def _run(self, tokens: Sequence[int]) -> int:
        """Run tokens; return the greedy choice after the last."""
        import numpy

        array = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = self._library.llama_batch_get_one(ctypes.addressof(array), len(tokens))
        if self._library.llama_decode(self._context, batch):
            raise ValueError("llama.cpp refuses the tokens")
        self._token_ids += tokens
        logits = ctypes.cast(self._library.llama_get_logits_ith(self._context, -1), ctypes.POINTER(ctypes.c_float))
        return int(numpy.ctypeslib.as_array(logits, shape=(self._vocab_size,)).argmax())


def _load_library() -> Any:
    """Load the library with the best variant for this CPU, and declare the types of its functions.

    Raises:
        FileNotFoundError: it is not installed with the other engines.
    """
    paths = {name: next(LIBRARIES.glob(f"{name}.*so*"), None) for name in ("libggml", "libllama")}
    if not all(paths.values()):
        raise FileNotFoundError("llama.cpp's library is not installed; run `make bench-peers`")
    backends = ctypes.CDLL(str(paths["libggml"]), mode=ctypes.RTLD_GLOBAL)
    backends.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    backends.ggml_backend_load_all_from_path(str(LIBRARIES).encode())
    library: Any = ctypes.CDLL(str(paths["libllama"]))
    pointer, integer, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
    for name, result, arguments in (
        ("llama_print_system_info", text, ()),
        ("llama_model_default_params", _Options, ()),
        ("llama_context_default_params", _Options, ()),
        ("llama_model_load_from_file", pointer, (text, _Options)),
        ("llama_init_from_model", pointer, (pointer, _Options)),
        ("llama_set_n_threads", None, (pointer, integer, integer)),
        ("llama_get_memory", pointer, (pointer,)),
        ("llama_memory_seq_rm", ctypes.c_bool, (pointer, integer, integer, integer)),
        ("llama_model_get_vocab", pointer, (pointer,)),
        ("llama_vocab_n_tokens", integer, (pointer,)),
        ("llama_batch_get_one", _Batch, (pointer, integer)),
        ("llama_decode", integer, (pointer, _Batch)),
        ("llama_get_logits_ith", pointer, (pointer, integer)),
        ("llama_backend_init", None, ()),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, list(arguments)
    library.llama_backend_init()
    return library
