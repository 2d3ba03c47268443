"""llama.cpp over a checkpoint, in two builds: its HTTP server, and its library by the C interface.

Runs in the environment that `make bench-peers` makes. The server comes compiled for any x86-64 CPU with AVX2, the
library in a variant for each kind of CPU, of which it takes the best by itself; their ``version`` says what is used.
Both keep the prefix that a prompt has in common with the last one, as the server does for ``cache_prompt``.
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
_KINDS = ("AVX2", "AVX512", "AVX512_VNNI", "AVX512_BF16", "AMX_INT8", "NEON", "DOTPROD", "SVE")
LIBRARIES = Path(sys.prefix) / "llama.cpp"


def instructions(said: str) -> str:
    """The instruction sets of a build, out of what llama.cpp says of its system."""
    parts = [part.rpartition(":")[2].partition("=") for part in said.split("|")]
    used = {name.strip() for name, _, value in parts if value.strip() == "1"}
    return " ".join(kind for kind in _KINDS if kind in used) or "no wide instructions"


def written(folder: Path, scratch: Path, form: str) -> Path:
    """The checkpoint as a GGUF file."""
    path = scratch / "model.gguf"
    peer_formats.write_gguf(folder, path, form)
    return path


class LlamaServer:
    """llama.cpp's own server, asked over HTTP on the loopback interface, with one slot and a warm prompt cache."""

    reuses = True

    def __init__(self, folder: Path, scratch: Path, form: str, threads: int, window: int) -> None:
        import xllamacpp

        path = written(folder, scratch, form)
        self.nbytes = path.stat().st_size
        self.version = (
            f"llama.cpp's server (xllamacpp {metadata.version('xllamacpp')}), built for "
            f"{instructions(xllamacpp.get_system_info())}"
        )
        options = xllamacpp.CommonParams()
        options.model.path = str(path)
        options.n_ctx, options.n_parallel, options.n_gpu_layers = window, 1, 0
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = threads
        options.cache_ram_mib = 0  # what is kept of prompts long gone: copying them would cost it time
        options.fit_params = options.ui = False
        self._server = xllamacpp.Server(options)
        self._address = self._server.listening_address.partition("//")[2]
        self._connection = http.client.HTTPConnection(self._address)
        self._prompt: list[int] = []
        self.timings: dict[str, float] = {}

    def prefill(self, tokens: Sequence[int]) -> list[int]:
        """And one token, which is chosen but not read."""
        self._prompt = list(tokens)
        return self._completed(tokens, 1, cached=False)

    def decode(self, count: int) -> list[int]:
        """The prompt's last token is read again."""
        return self._completed(self._prompt, count, cached=True)

    def keystroke(self, tokens: Sequence[int], count: int) -> list[int]:
        """From the common prefix on."""
        return self._completed(tokens, count, cached=True)

    def _completed(self, tokens: Sequence[int], count: int, cached: bool) -> list[int]:
        body = json.dumps({"prompt": list(tokens), "n_predict": count, "cache_prompt": cached, **_GREEDY})
        try:
            said = self._posted(body)
        except (OSError, http.client.HTTPException):  # it closes what was idle for some seconds
            self._connection = http.client.HTTPConnection(self._address)
            said = self._posted(body)
        if "tokens" not in said:
            raise ValueError(f"llama.cpp's server refuses: {said}")
        self.timings = said["timings"]
        return list(said["tokens"])

    def _posted(self, body: str) -> Any:
        self._connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
        return json.loads(self._connection.getresponse().read())


class _Options(ctypes.Structure):
    """Room for either of its structures of options, which are passed as they came but for the context's length."""

    _fields_ = (("words", ctypes.c_int32 * 128),)


class _Batch(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int32), ("rest", ctypes.c_void_p * 6))


class LlamaLibrary:
    """llama.cpp's library with the variant for this CPU: what the server would be, compiled here, without HTTP."""

    reuses = True

    def __init__(self, folder: Path, scratch: Path, form: str, threads: int, window: int) -> None:
        self._library = _library()
        path = written(folder, scratch, form)
        self.nbytes = path.stat().st_size
        said = self._library.llama_print_system_info().decode()
        self.version = f"llama.cpp's library, built for {instructions(said)}"
        model = self._library.llama_model_load_from_file(str(path).encode(), self._library.llama_model_default_params())
        options = self._library.llama_context_default_params()
        options.words[0] = window
        self._context = self._library.llama_init_from_model(model, options) if model else None
        if not self._context:
            raise ValueError("llama.cpp does not load the file")
        self._library.llama_set_n_threads(self._context, threads, threads)
        self._memory = self._library.llama_get_memory(self._context)
        self._words = self._library.llama_vocab_n_tokens(self._library.llama_model_get_vocab(model))
        self._held: list[int] = []
        self._prompt: list[int] = []

    def prefill(self, tokens: Sequence[int]) -> list[int]:
        """With the memory emptied before."""
        self._crop(0)
        self._prompt = list(tokens)
        return [self._read(tokens)]

    def decode(self, count: int) -> list[int]:
        """The prompt's last token is read again."""
        return self._write(self._prompt, count)

    def keystroke(self, tokens: Sequence[int], count: int) -> list[int]:
        """From the common prefix on."""
        return self._write(tokens, count)

    def _write(self, tokens: Sequence[int], count: int) -> list[int]:
        same = next(
            (index for index, (one, other) in enumerate(zip(self._held, tokens, strict=False)) if one != other),
            min(len(self._held), len(tokens)),
        )
        self._crop(min(same, len(tokens) - 1))
        found = [self._read(tokens[len(self._held) :])]
        while len(found) < count:
            found.append(self._read(found[-1:]))
        return found

    def _crop(self, length: int) -> None:
        self._library.llama_memory_seq_rm(self._memory, 0, length, -1)
        del self._held[length:]

    def _read(self, tokens: Sequence[int]) -> int:
        """Read tokens; the greedy choice after the last."""
        import numpy

        array = (ctypes.c_int32 * len(tokens))(*tokens)
        batch = self._library.llama_batch_get_one(ctypes.addressof(array), len(tokens))
        if self._library.llama_decode(self._context, batch):
            raise ValueError("llama.cpp refuses the tokens")
        self._held += tokens
        logits = ctypes.cast(self._library.llama_get_logits_ith(self._context, -1), ctypes.POINTER(ctypes.c_float))
        return int(numpy.ctypeslib.as_array(logits, shape=(self._words,)).argmax())


def _library() -> Any:
    """Its library, with the best variant for this CPU loaded, and the types of what is called.

    Raises:
        FileNotFoundError: it was not put beside the other engines.
    """
    paths = {name: next(LIBRARIES.glob(f"{name}.*so*"), None) for name in ("libggml", "libllama")}
    if not all(paths.values()):
        raise FileNotFoundError("llama.cpp's library was not put there: `make bench-peers` takes it from npm")
    backends = ctypes.CDLL(str(paths["libggml"]), mode=ctypes.RTLD_GLOBAL)
    backends.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    backends.ggml_backend_load_all_from_path(str(LIBRARIES).encode())
    library: Any = ctypes.CDLL(str(paths["libllama"]))
    place, count, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
    for name, gives, takes in (
        ("llama_print_system_info", text, ()),
        ("llama_model_default_params", _Options, ()),
        ("llama_context_default_params", _Options, ()),
        ("llama_model_load_from_file", place, (text, _Options)),
        ("llama_init_from_model", place, (place, _Options)),
        ("llama_set_n_threads", None, (place, count, count)),
        ("llama_get_memory", place, (place,)),
        ("llama_memory_seq_rm", ctypes.c_bool, (place, count, count, count)),
        ("llama_model_get_vocab", place, (place,)),
        ("llama_vocab_n_tokens", count, (place,)),
        ("llama_batch_get_one", _Batch, (place, count)),
        ("llama_decode", count, (place, _Batch)),
        ("llama_get_logits_ith", place, (place, count)),
        ("llama_backend_init", None, ()),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = gives, list(takes)
    library.llama_backend_init()
    return library
