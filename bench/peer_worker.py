"""Another engine in a process and an environment of its own; requests are lines of JSON on stdin, responses on stdout.

    .venv-peers/bin/python -m bench.peer_worker

One object per line: first ``{"method": "open", "engine", "form", "folder", "scratch", "threads", "context_length"}``,
then ``{"method": "prefill", "tokens"}``, ``{"method": "decode", "count"}`` (after the last prefilled prompt; the next
call starts there again) and ``{"method": "keystroke", "tokens", "count"}`` (reusing what was kept of earlier prompts).
A response has the decoded ``tokens``, ``seconds`` of the work alone, ``cpu_seconds`` of all its threads,
``excluded_seconds`` for restoring the prompt if that is not part of the work, and the engine's own ``timings`` if it
has any; or ``error``. All decoding is greedy.
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
    """An engine with one model.

    Attributes:
        version: the engine's name and version.
        nbytes: of the model's file.
        reuses_prefix: it reuses the common prefix of the last prompt.
    """

    version: str
    nbytes: int
    reuses_prefix: bool

    def prefill(self, tokens: Sequence[int]) -> list[int]:
        """Prefill a prompt with an empty cache."""

    def decode(self, count: int) -> list[int]:
        """Decode ``count`` tokens after it."""

    def keystroke(self, tokens: Sequence[int], count: int) -> list[int]:
        """Decode ``count`` tokens after a prompt that is much like the last."""


class CTranslate2:
    """CTranslate2's generator. It caches a prompt that is declared static, but reuses no part of one."""

    reuses_prefix = False

    def __init__(self, folder: Path, scratch: Path, form: str, threads: int, context_length: int) -> None:
        import ctranslate2

        self.version = f"CTranslate2 {ctranslate2.__version__}"
        peer_formats.write_ctranslate2(folder, scratch / "model", form)
        self.nbytes = (scratch / "model" / "model.bin").stat().st_size
        self._generator = ctranslate2.Generator(
            str(scratch / "model"), device="cpu", compute_type=form, intra_threads=threads, inter_threads=1
        )
        self._prompt: list[int] = []

    def prefill(self, tokens: Sequence[int]) -> list[int]:
        """Prefill and decode one token, since it cannot do without."""
        self._prompt = list(tokens)
        return self._generate([], tokens, 1)

    def decode(self, count: int) -> list[int]:
        """Decode after the prompt, which is its static prompt but for the last token."""
        return self._generate(self._prompt[:-1], self._prompt[-1:], count)

    def keystroke(self, tokens: Sequence[int], count: int) -> list[int]:
        """Start with an empty cache."""
        return self._generate([], tokens, count)

    def _generate(self, static_prompt: Sequence[int], start: Sequence[int], count: int) -> list[int]:
        result = self._generator.generate_batch(
            [[str(token) for token in start]],
            static_prompt=[str(token) for token in static_prompt] or None,
            cache_static_prompt=bool(static_prompt),
            max_length=count,
            min_length=count,
            sampling_topk=1,
            beam_size=1,
            include_prompt_in_result=False,
            end_token=[],
        )
        return [int(token) for token in result[0].sequences[0]]


ENGINES: dict[str, Any] = {
    "llama.cpp server": LlamaServer,
    "llama.cpp library": LlamaLibrary,
    "CTranslate2": CTranslate2,
    "OpenVINO": OpenVino,
}


def run_request(engine: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Run a request and time it."""
    restore_started = time.perf_counter()
    if request["method"] == "decode" and hasattr(engine, "restore"):
        engine.restore()
    started, cpu = time.perf_counter(), time.process_time()
    if request["method"] == "prefill":
        tokens = engine.prefill(request["tokens"])
    elif request["method"] == "decode":
        tokens = engine.decode(request["count"])
    else:
        tokens = engine.keystroke(request["tokens"], request["count"])
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "excluded_seconds": started - restore_started,
        "tokens": tokens,
        "timings": getattr(engine, "timings", None),
    }


def serve(lines: TextIO, out: TextIO) -> None:
    """Respond to each line until the input ends."""
    engine: Any = None
    for line in lines:
        request = json.loads(line)
        try:
            if request["method"] == "open":
                engine = ENGINES[request["engine"]](
                    Path(request["folder"]),
                    Path(request["scratch"]),
                    request["form"],
                    request["threads"],
                    request["context_length"],
                )
                response = {
                    "version": engine.version,
                    "nbytes": engine.nbytes,
                    "reuses_prefix": engine.reuses_prefix,
                }
            else:
                response = run_request(engine, request)
        except Exception as error:
            response = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(response), file=out, flush=True)


def main() -> None:
    """Keep stdout for responses: output of libraries goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, out)


if __name__ == "__main__":
    main()
