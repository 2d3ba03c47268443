"""Another engine in a process and an environment of its own, asked by lines of JSON on stdin, answering on stdout.

    .venv-peers/bin/python -m bench.peer_worker

One object a line, one answer a line: ``{"do": "open", "engine", "form", "folder", "scratch", "threads", "window"}``
once, then ``{"do": "prefill", "tokens"}``, ``{"do": "decode", "count"}`` (after the prompt read last; the next call
begins there again), ``{"do": "keystroke", "tokens", "count"}`` (with all that was kept of the prompts before). Answers
hold ``seconds`` of the work alone and the ``tokens`` written, or ``error``. All of it is greedy.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from bench import peer_formats


class Engine(Protocol):
    """An engine over one model.

    Attributes:
        version: with its name.
        nbytes: of the model's file.
        reuses: whether it goes on from a part of the prompt before.
    """

    version: str
    nbytes: int
    reuses: bool

    def prefill(self, tokens: Sequence[int]) -> list[int]:
        """Read a prompt from nothing."""

    def decode(self, count: int) -> list[int]:
        """Write so many tokens after it."""

    def keystroke(self, tokens: Sequence[int], count: int) -> list[int]:
        """Write so many tokens after a prompt that is much like the last."""


class LlamaCpp:
    """llama.cpp by its C interface, with what its server does for `cache_prompt`: the common prefix stays."""

    reuses = True

    def __init__(self, folder: Path, scratch: Path, form: str, threads: int, window: int) -> None:
        import llama_cpp

        self._library: Any = llama_cpp
        self.version = f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"
        path = scratch / "model.gguf"
        peer_formats.write_gguf(folder, path, form)
        self.nbytes = path.stat().st_size
        # It writes pages about what it loads.
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, own: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        options = llama_cpp.llama_model_default_params()
        options.use_mmap, options.n_gpu_layers = False, 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        context = llama_cpp.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = window, window, 512
        context.n_threads = context.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, context) if self._model else None
        if not self._context:
            raise ValueError("llama.cpp does not load the file")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
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
        same = next((index for index, (one, other) in enumerate(zip(self._held, tokens, strict=False)) if one != other),
                    min(len(self._held), len(tokens)))
        self._crop(min(same, len(tokens) - 1))
        found = [self._read(tokens[len(self._held):])]
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
        if self._library.llama_decode(self._context, self._library.llama_batch_get_one(array, len(tokens))):
            raise ValueError("llama.cpp refuses the tokens")
        self._held += tokens
        logits = self._library.llama_get_logits_ith(self._context, -1)
        return int(numpy.ctypeslib.as_array(logits, shape=(self._words,)).argmax())


class CTranslate2:
    """CTranslate2's generator. It keeps a prompt that is said to be the same again, but no part of one."""

    reuses = False

    def __init__(self, folder: Path, scratch: Path, form: str, threads: int, window: int) -> None:
        import ctranslate2

        self.version = f"CTranslate2 {ctranslate2.__version__}"
        peer_formats.write_ctranslate2(folder, scratch / "model", form)
        self.nbytes = (scratch / "model" / "model.bin").stat().st_size
        self._generator = ctranslate2.Generator(str(scratch / "model"), device="cpu", compute_type=form,
                                                intra_threads=threads, inter_threads=1)
        self._prompt: list[int] = []

    def prefill(self, tokens: Sequence[int]) -> list[int]:
        """And one token, which it cannot do without."""
        self._prompt = list(tokens)
        return self._generated([], tokens, 1)

    def decode(self, count: int) -> list[int]:
        """The prompt is kept as its static prompt, but for the last token."""
        return self._generated(self._prompt[:-1], self._prompt[-1:], count)

    def keystroke(self, tokens: Sequence[int], count: int) -> list[int]:
        """All from the start."""
        return self._generated([], tokens, count)

    def _generated(self, fixed: Sequence[int], start: Sequence[int], count: int) -> list[int]:
        result = self._generator.generate_batch(
            [[str(token) for token in start]], static_prompt=[str(token) for token in fixed] or None,
            cache_static_prompt=bool(fixed), max_length=count, min_length=count, sampling_topk=1, beam_size=1,
            include_prompt_in_result=False, end_token=[])
        return [int(word) for word in result[0].sequences[0]]


ENGINES: dict[str, Any] = {"llama.cpp": LlamaCpp, "CTranslate2": CTranslate2}


def answer(engine: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked, and time it."""
    started = time.perf_counter()
    if asked["do"] == "prefill":
        tokens = engine.prefill(asked["tokens"])
    elif asked["do"] == "decode":
        tokens = engine.decode(asked["count"])
    else:
        tokens = engine.keystroke(asked["tokens"], asked["count"])
    return {"seconds": time.perf_counter() - started, "tokens": tokens}


def serve(lines: TextIO, out: TextIO) -> None:
    """Answer each line until there are no more."""
    engine: Any = None
    for line in lines:
        asked = json.loads(line)
        try:
            if asked["do"] == "open":
                engine = ENGINES[asked["engine"]](Path(asked["folder"]), Path(asked["scratch"]), asked["form"],
                                                  asked["threads"], asked["window"])
                said = {"version": engine.version, "bytes": engine.nbytes, "reuses": engine.reuses}
            else:
                said = answer(engine, asked)
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), file=out, flush=True)


def main() -> None:
    """Keep stdout for answers: what libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, out)


if __name__ == "__main__":
    main()
