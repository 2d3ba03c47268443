"""Another engine in a process and an environment of its own, asked by lines of JSON on stdin, answering on stdout.

    .venv-peers/bin/python -m bench.peer_worker

One object a line, one answer a line: ``{"do": "open", "engine", "form", "folder", "scratch", "threads", "window"}``
once, then ``{"do": "prefill", "tokens"}``, ``{"do": "decode", "count"}`` (after the prompt read last; the next call
begins there again), ``{"do": "keystroke", "tokens", "count"}`` (with all that was kept of the prompts before). Answers
hold the ``tokens`` written, ``seconds`` of the work alone, ``cpu`` seconds of all its threads, ``aside`` seconds of
going back to the prompt where that is no part of the work, and the engine's own ``timings`` if it has any; or
``error``. All of it is greedy.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from bench import peer_formats
from bench.peer_llama import LlamaLibrary, LlamaServer
from bench.peer_openvino import OpenVino


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


class CTranslate2:
    """CTranslate2's generator. It keeps a prompt that is said to be the same again, but no part of one."""

    reuses = False

    def __init__(self, folder: Path, scratch: Path, form: str, threads: int, window: int) -> None:
        import ctranslate2

        self.version = f"CTranslate2 {ctranslate2.__version__}"
        peer_formats.write_ctranslate2(folder, scratch / "model", form)
        self.nbytes = (scratch / "model" / "model.bin").stat().st_size
        self._generator = ctranslate2.Generator(
            str(scratch / "model"), device="cpu", compute_type=form, intra_threads=threads, inter_threads=1
        )
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
            [[str(token) for token in start]],
            static_prompt=[str(token) for token in fixed] or None,
            cache_static_prompt=bool(fixed),
            max_length=count,
            min_length=count,
            sampling_topk=1,
            beam_size=1,
            include_prompt_in_result=False,
            end_token=[],
        )
        return [int(word) for word in result[0].sequences[0]]


ENGINES: dict[str, Any] = {
    "llama.cpp server": LlamaServer,
    "llama.cpp library": LlamaLibrary,
    "CTranslate2": CTranslate2,
    "OpenVINO": OpenVino,
}


def answer(engine: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked, and time it."""
    began = time.perf_counter()
    if asked["do"] == "decode" and hasattr(engine, "restore"):
        engine.restore()
    started, cpu = time.perf_counter(), time.process_time()
    if asked["do"] == "prefill":
        tokens = engine.prefill(asked["tokens"])
    elif asked["do"] == "decode":
        tokens = engine.decode(asked["count"])
    else:
        tokens = engine.keystroke(asked["tokens"], asked["count"])
    return {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "aside": started - began,
        "tokens": tokens,
        "timings": getattr(engine, "timings", None),
    }


def serve(lines: TextIO, out: TextIO) -> None:
    """Answer each line until there are no more."""
    engine: Any = None
    for line in lines:
        asked = json.loads(line)
        try:
            if asked["do"] == "open":
                engine = ENGINES[asked["engine"]](
                    Path(asked["folder"]), Path(asked["scratch"]), asked["form"], asked["threads"], asked["window"]
                )
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
