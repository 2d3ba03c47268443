"""Compare other engines with ours: llama.cpp, CTranslate2 and OpenVINO, each in a process of its own.

They are installed in the environment that `make bench-peers` makes.

    python -m bench.peers [--quick] [--models shipped,34M,125M,350M] [--threads 1,2]

`list_columns` makes them columns of `bench.speed` and `bench.keystrokes`, over the same weights, at equal bits. This
script compares prefill, decoding and keystrokes, and counts how many greedy tokens are the same as ours. Engines that
cannot be started are skipped with the reason. Knows nothing of how they work; `bench.peer_worker` does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.columns import BITS, Column, NativeColumn, Subject, SubprocessCost

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
NOT_INSTALLED = "not installed; run `make bench-peers`"
SERVER, LIBRARY = "llama.cpp server", "llama.cpp library"
ENGINES = (SERVER, LIBRARY, "CTranslate2", "OpenVINO")
FORMS = ("int8", "bfloat16")
_MAX_FLOAT32_PARAMETERS = 20_000_000  # float32 of larger models takes too long
_MIN_PARAMETERS = 1_000_000  # of smaller models, pipes and JSON would be measured
_NAMES = {
    (engine, form): name
    for engine in (SERVER, LIBRARY)
    for form, name in (("int8", "Q8_0"), ("bfloat16", "BF16"), ("float32", "F32"))
}


class PeerError(Exception):
    """A peer cannot be started, or failed; the message says why."""


class Peer:
    """A column: another engine with a subject's weights."""

    def __init__(self, subject: Subject, engine: str, form: str, threads: int) -> None:
        self.name, self.bits = f"{engine} {_NAMES.get((engine, form), form)}", BITS[form]
        self._process = _start_worker()
        weakref.finalize(self, _stop_worker, self._process)
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            description = self._request(
                method="open",
                engine=engine,
                form=form,
                folder=str(subject.folder),
                scratch=scratch,
                threads=threads,
                context_length=min(subject.context_length, 2048),
            )
        self.version, self.nbytes, self.reuses_prefix = (
            str(description["version"]),
            int(description["nbytes"]),
            bool(description["reuses_prefix"]),
        )
        self.tokens: list[int] = []
        self.timings: dict[str, float] | None = None

    def prefill(self, tokens: Sequence[int]) -> SubprocessCost:
        """Prefill a prompt with an empty cache."""
        return self._run(method="prefill", tokens=list(tokens))

    def decode(self, count: int) -> SubprocessCost:
        """Decode tokens after it."""
        return self._run(method="decode", count=count)

    def _run(self, **request: Any) -> SubprocessCost:
        response = self._request(**request)
        self.tokens, self.timings = response["tokens"], response["timings"]
        return SubprocessCost(response["cpu_seconds"], response["excluded_seconds"])

    def _request(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        response: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in response:
            raise PeerError(response["error"])
        return response


class KeystrokePeer(Peer):
    """A peer that reuses the common prefix of the last prompt."""

    def keystroke(self, tokens: Sequence[int], count: int) -> SubprocessCost:
        """Decode after a prompt that is much like the last."""
        return self._run(method="keystroke", tokens=list(tokens), count=count)


def _start_worker() -> subprocess.Popen[str]:
    if not PYTHON.exists():
        raise PeerError(NOT_INSTALLED)
    return subprocess.Popen(
        [PYTHON, "-m", "bench.peer_worker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _stop_worker(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.kill()
    process.wait()


def open_peer(subject: Subject, engine: str, form: str, threads: int = 0) -> Peer:
    """Open a peer with this number of threads; 0 for as many as torch has.

    Raises:
        PeerError: it cannot be started.
    """
    kind = KeystrokePeer if engine in (SERVER, LIBRARY) else Peer
    return kind(subject, engine, form, threads or torch.get_num_threads())


def list_columns(subject: Subject, forms: Sequence[str] = (), threads: int = 0) -> list[Column]:
    """List all peers that can be opened for a subject; print the reason for each that cannot."""
    if subject.num_parameters < _MIN_PARAMETERS:
        return []
    found: list[Column] = []
    for engine in ENGINES:
        for form in forms or (*FORMS, *(["float32"] if subject.num_parameters < _MAX_FLOAT32_PARAMETERS else [])):
            try:
                found.append(open_peer(subject, engine, form, threads))
            except PeerError as error:
                print(f"{engine} {form} skipped for {subject.name}: {error}", flush=True)
    return found


def count_same_tokens(subject: Subject, peer: Peer, prompt: Sequence[int], count: int = 16) -> int:
    """Count how many of the peer's first tokens are the same as ours in float32."""
    from codeclippy_ls.engine.decoder.linear import WeightFormats
    from codeclippy_ls.engine.decoder.transformer import Transformer
    from codeclippy_ls.engine.generation.kv_cache import ModelInput

    decoder = Transformer(subject.module.config, subject.module.state_dict(), WeightFormats("float32", "float32"))
    cache, tokens, new = decoder.new_cache(), list(prompt), list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            new = [int(decoder.forward([ModelInput(new, cache, 1)])[0][-1].argmax())]
            tokens += new
    peer.prefill(prompt)
    peer.decode(count)
    ours = tokens[len(prompt) :]
    return next((index for index in range(count) if peer.tokens[index] != ours[index]), count)


def make_gpt_neox_34m() -> Subject:
    """Make a small GPT-NeoX: hidden size 512, 8 layers, 16,384 tokens."""
    import transformers

    from bench.speed import make_random_model

    return make_random_model(
        "GPT-NeoX 34M",
        transformers.GPTNeoXConfig(
            vocab_size=16384,
            hidden_size=512,
            num_hidden_layers=8,
            num_attention_heads=8,
            intermediate_size=2048,
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        ),
    )


def compare(subject: Subject, threads: int, is_quick: bool) -> dict[str, dict[str, Any]]:
    """Measure all columns in turns: a prefill of 512 tokens, a token decoded after it, a keystroke."""
    from bench.speed import QUICK, Extent, make_prompts, time_in_turns, time_keystrokes
    from codeclippy_ls.engine.decoder.linear import WeightFormats, list_available_formats
    from codeclippy_ls.engine.decoder.linear import choose_fastest_formats as fastest

    torch.set_num_threads(threads)
    extent = QUICK if is_quick else Extent(seconds=20.0, keystrokes=8)
    prompt, keystroke_prompts = make_prompts(subject, extent)
    best = fastest("cpu", subject.module.config.hidden_size)
    names = [name for name in FORMS if name in list_available_formats("cpu")]
    all_columns: list[Any] = [
        NativeColumn(subject, best, f"ours ({best})"),
        *(NativeColumn(subject, WeightFormats(name, name), f"ours {name}") for name in names),
        *list_columns(subject, ("int8",) if is_quick else (), threads),
    ]
    same = {
        column.name: count_same_tokens(subject, column, prompt) for column in all_columns if isinstance(column, Peer)
    }
    prefills = time_in_turns(
        {one.name: partial(one.prefill, prompt) for one in all_columns}, extent.rounds, extent.seconds
    )
    decodes = time_in_turns(
        {one.name: partial(one.decode, extent.decoded) for one in all_columns}, extent.rounds, extent.seconds
    )
    timings = {one.name: getattr(one, "timings", None) for one in all_columns}
    keystrokes = time_keystrokes(all_columns, keystroke_prompts, extent)
    found: dict[str, dict[str, Any]] = {}
    for one in all_columns:
        prefill, decode, keystroke = prefills[one.name], decodes[one.name], keystrokes.get(one.name)
        found[one.name] = {
            "bits": one.bits,
            "version": getattr(one, "version", None),
            "own_timings": timings[one.name],
            "prefill_ms": prefill.median,
            "prefill_min_ms": prefill.minimum,
            "prefill_cpu_ms": prefill.median_cpu,
            "token_ms": decode.median / extent.decoded,
            "token_min_ms": decode.minimum / extent.decoded,
            "token_cpu_ms": decode.median_cpu / extent.decoded,
            "same_tokens_of_16": same.get(one.name),
            "keystroke_ms": keystroke.median if keystroke else None,
            "keystroke_min_ms": keystroke.minimum if keystroke else None,
            "keystroke_cpu_ms": keystroke.median_cpu if keystroke else None,
        }
    return found


def compute_ratios(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Compute our best over the best other at the same bits; for a keystroke over llama.cpp's server."""
    found: list[dict[str, Any]] = []
    for bits in sorted({row["bits"] for row in rows.values()}):
        for figure in ("prefill", "token", "keystroke"):
            candidates = {
                name: row for name, row in rows.items() if row["bits"] == bits and row[f"{figure}_ms"] is not None
            }
            ours = [name for name in candidates if name.startswith("ours")]
            theirs = [
                name for name in candidates if name not in ours and (figure != "keystroke" or name.startswith(SERVER))
            ]
            if ours and theirs:
                found.append(
                    {
                        "bits": bits,
                        "figure": figure,
                        **{
                            kind: _compute_ratio(candidates, ours, theirs, f"{figure}{key}")
                            for kind, key in (("median", "_ms"), ("minimum", "_min_ms"), ("cpu", "_cpu_ms"))
                        },
                    }
                )
    return found


def _compute_ratio(
    rows: dict[str, dict[str, Any]], ours: Sequence[str], theirs: Sequence[str], key: str
) -> dict[str, Any]:
    our_best, their_best = (min(names, key=lambda name: float(rows[name][key])) for names in (ours, theirs))
    return {"ratio": rows[our_best][key] / rows[their_best][key], "ours": our_best, "theirs": their_best}


def print_rows(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print the table of one model, and the ratios under it."""
    print(f"\n{title}; milliseconds: median (minimum) and CPU time, which excludes other programs")
    print(
        f"{'':<32}{'prefill of 512':>18}{'CPU':>9}{'per token':>17}{'CPU':>8}{'keystroke':>18}{'CPU':>9}"
        "   greedy tokens the same as ours in float32"
    )
    for column, row in rows.items():
        same, keystroke = row["same_tokens_of_16"], row["keystroke_ms"]
        print(
            f"{column:<32}{row['prefill_ms']:9.1f} ({row['prefill_min_ms']:6.1f}){row['prefill_cpu_ms']:9.1f}"
            f"{row['token_ms']:8.2f} ({row['token_min_ms']:6.2f}){row['token_cpu_ms']:8.2f}"
            + (
                f"{keystroke:9.1f} ({row['keystroke_min_ms']:6.1f}){row['keystroke_cpu_ms']:9.1f}"
                if keystroke
                else f"{'-':>27}"
            )
            + ("" if same is None else f"   {same} of 16")
        )
    for version in dict.fromkeys(row["version"] for row in rows.values() if row["version"]):
        print(f"  {version}")
    for row in compute_ratios(rows):
        print(
            f"  {row['bits']} bits, {row['figure']}: "
            + "; ".join(
                f"{row[kind]['ratio']:.2f} by {kind} ({row[kind]['ours']} over {row[kind]['theirs']})"
                for kind in ("median", "minimum", "cpu")
            )
        )
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    from bench.speed import SUBJECTS

    subjects = {**SUBJECTS, "34M": make_gpt_neox_34m}
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer models, formats and rounds")
    parser.add_argument("--models", default="", help=f"comma-separated, of {','.join(subjects)}")
    parser.add_argument("--threads", default="1", help="one number, or several separated by commas")
    parsed = parser.parse_args()
    found: dict[str, Any] = {}
    started, load = time.perf_counter(), os.getloadavg()[0]
    for name in (parsed.models or ("shipped,34M" if parsed.quick else "shipped,34M,125M,350M")).split(","):
        subject = subjects[name]()
        for threads in map(int, parsed.threads.split(",")):
            rows = compare(subject, threads, parsed.quick)
            print_rows(f"{subject.name}, {threads} thread(s)", rows)
            found.setdefault(subject.name, {})[threads] = {"columns": rows, "ratios": compute_ratios(rows)}
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - started,
                "load_before": load,
                "load_after": os.getloadavg()[0],
                "models": found,
            }
        )
    )


if __name__ == "__main__":
    main()
