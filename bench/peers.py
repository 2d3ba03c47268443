"""Other engines beside ours: llama.cpp, CTranslate2 and OpenVINO, each in a process of its own, in the environment that
`make bench-peers` makes.

    python -m bench.peers [--quick] [--models shipped,34M,125M,350M] [--threads 1,2]

`columns` makes them columns of `bench.speed` and `bench.keystrokes`, over the same weights, at equal bits. By itself it
sets prefill, writing and typing side by side, and says of how many tokens the peers' greedy choice is ours. What cannot
be had is skipped with the reason. Knows nothing of how they work; that is `bench.peer_worker`.
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
MISSING = "`make bench-peers` was not run"
SERVER, LIBRARY = "llama.cpp server", "llama.cpp library"
ENGINES = (SERVER, LIBRARY, "CTranslate2", "OpenVINO")
FORMS = ("int8", "bfloat16")
_SMALL = 20_000_000  # parameters up to which float32 is worth its time
_LEAST = 1_000_000  # below that, pipes and lines would be measured
_NAMES = {
    (engine, form): name
    for engine in (SERVER, LIBRARY)
    for form, name in (("int8", "Q8_0"), ("bfloat16", "BF16"), ("float32", "F32"))
}


class PeerError(Exception):
    """A peer cannot be had, or failed; the message says why."""


class Peer:
    """Another engine over a subject's weights; a column."""

    def __init__(self, subject: Subject, engine: str, form: str, threads: int) -> None:
        self.name, self.bits = f"{engine} {_NAMES.get((engine, form), form)}", BITS[form]
        self._process = _started()
        weakref.finalize(self, _end, self._process)
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            about = self._ask(
                do="open",
                engine=engine,
                form=form,
                folder=str(subject.folder),
                scratch=scratch,
                threads=threads,
                window=min(subject.context_length, 2048),
            )
        self.version, self.nbytes, self.reuses_prefix = (
            str(about["version"]),
            int(about["bytes"]),
            bool(about["reuses"]),
        )
        self.tokens: list[int] = []
        self.timings: dict[str, float] | None = None

    def prefill(self, tokens: Sequence[int]) -> SubprocessCost:
        """Read a prompt from nothing."""
        return self._run(do="prefill", tokens=list(tokens))

    def decode(self, count: int) -> SubprocessCost:
        """Write after it."""
        return self._run(do="decode", count=count)

    def _run(self, **asked: Any) -> SubprocessCost:
        said = self._ask(**asked)
        self.tokens, self.timings = said["tokens"], said["timings"]
        return SubprocessCost(said["cpu"], said["aside"])

    def _ask(self, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        said: dict[str, Any] = json.loads(line) if line else {"error": "it ended"}
        if "error" in said:
            raise PeerError(said["error"])
        return said


class TypedPeer(Peer):
    """One that goes on from what it read of the last prompt."""

    def keystroke(self, tokens: Sequence[int], count: int) -> SubprocessCost:
        """As an editor asks."""
        return self._run(do="keystroke", tokens=list(tokens), count=count)


def _started() -> subprocess.Popen[str]:
    if not PYTHON.exists():
        raise PeerError(MISSING)
    return subprocess.Popen(
        [PYTHON, "-m", "bench.peer_worker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _end(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.kill()
    process.wait()


def opened(subject: Subject, engine: str, form: str, threads: int = 0) -> Peer:
    """A peer with so many threads, or with as many as torch has.

    Raises:
        PeerError: it cannot be had.
    """
    kind = TypedPeer if engine in (SERVER, LIBRARY) else Peer
    return kind(subject, engine, form, threads or torch.get_num_threads())


def columns(subject: Subject, forms: Sequence[str] = (), threads: int = 0) -> list[Column]:
    """All that can be had for a subject; what cannot is said and left out."""
    if subject.num_parameters < _LEAST:
        return []
    found: list[Column] = []
    for engine in ENGINES:
        for form in forms or (*FORMS, *(["float32"] if subject.num_parameters < _SMALL else [])):
            try:
                found.append(opened(subject, engine, form, threads))
            except PeerError as error:
                print(f"{engine} {form} skipped for {subject.name}: {error}", flush=True)
    return found


def agreement(subject: Subject, peer: Peer, prompt: Sequence[int], count: int = 16) -> int:
    """How many of its first tokens are ours in float32."""
    from codeclippy_ls.engine.decoder.linear import WeightFormats
    from codeclippy_ls.engine.decoder.transformer import Transformer
    from codeclippy_ls.engine.generation.kv_cache import ModelInput

    runner = Transformer(subject.module.config, subject.module.state_dict(), WeightFormats("float32", "float32"))
    cache, tokens, read = runner.new_cache(), list(prompt), list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            read = [int(runner.forward([ModelInput(read, cache, 1)])[0][-1].argmax())]
            tokens += read
    peer.prefill(prompt)
    peer.decode(count)
    ours = tokens[len(prompt) :]
    return next((index for index in range(count) if peer.tokens[index] != ours[index]), count)


def neox_34m() -> Subject:
    """The shape of a small GPT-NeoX: 512 x 8, 16,384 words."""
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


def compared(subject: Subject, threads: int, quick: bool) -> dict[str, dict[str, Any]]:
    """Ours and theirs in turns: milliseconds of a prefill of 512 tokens, of a token written after it, of a key."""
    from bench.speed import QUICK, Extent, make_prompts, time_in_turns, time_keystrokes
    from codeclippy_ls.engine.decoder.linear import WeightFormats, list_available_formats
    from codeclippy_ls.engine.decoder.linear import choose_fastest_formats as fastest

    torch.set_num_threads(threads)
    extent = QUICK if quick else Extent(seconds=20.0, keystrokes=8)
    prompt, typed = make_prompts(subject, extent)
    best = fastest("cpu", subject.module.config.hidden_size)
    plain = [name for name in FORMS if name in list_available_formats("cpu")]
    all_columns: list[Any] = [
        NativeColumn(subject, best, f"ours ({best})"),
        *(NativeColumn(subject, WeightFormats(name, name), f"ours {name}") for name in plain),
        *columns(subject, ("int8",) if quick else (), threads),
    ]
    same = {column.name: agreement(subject, column, prompt) for column in all_columns if isinstance(column, Peer)}
    reads = time_in_turns(
        {one.name: partial(one.prefill, prompt) for one in all_columns}, extent.rounds, extent.seconds
    )
    writes = time_in_turns(
        {one.name: partial(one.decode, extent.decoded) for one in all_columns}, extent.rounds, extent.seconds
    )
    timings = {one.name: getattr(one, "timings", None) for one in all_columns}
    keys = time_keystrokes(all_columns, typed, extent)
    found: dict[str, dict[str, Any]] = {}
    for one in all_columns:
        read, wrote, key = reads[one.name], writes[one.name], keys.get(one.name)
        found[one.name] = {
            "bits": one.bits,
            "version": getattr(one, "version", None),
            "own_timings": timings[one.name],
            "prefill_ms": read.median,
            "prefill_least_ms": read.minimum,
            "prefill_cpu_ms": read.median_cpu,
            "token_ms": wrote.median / extent.decoded,
            "token_least_ms": wrote.minimum / extent.decoded,
            "token_cpu_ms": wrote.median_cpu / extent.decoded,
            "same_tokens_of_16": same.get(one.name),
            "keystroke_ms": key.median if key else None,
            "keystroke_least_ms": key.minimum if key else None,
            "keystroke_cpu_ms": key.median_cpu if key else None,
        }
    return found


def ratios(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Our best over the best of the others at the same bits; a keystroke over that of llama.cpp's server."""
    found: list[dict[str, Any]] = []
    for bits in sorted({row["bits"] for row in rows.values()}):
        for figure in ("prefill", "token", "keystroke"):
            at = {name: row for name, row in rows.items() if row["bits"] == bits and row[f"{figure}_ms"] is not None}
            ours = [name for name in at if name.startswith("ours")]
            theirs = [name for name in at if name not in ours and (figure != "keystroke" or name.startswith(SERVER))]
            if ours and theirs:
                found.append(
                    {
                        "bits": bits,
                        "figure": figure,
                        **{
                            kind: _ratio(at, ours, theirs, f"{figure}{key}")
                            for kind, key in (("median", "_ms"), ("least", "_least_ms"), ("cpu", "_cpu_ms"))
                        },
                    }
                )
    return found


def _ratio(rows: dict[str, dict[str, Any]], ours: Sequence[str], theirs: Sequence[str], key: str) -> dict[str, Any]:
    one, other = (min(names, key=lambda name: float(rows[name][key])) for names in (ours, theirs))
    return {"ratio": rows[one][key] / rows[other][key], "ours": one, "theirs": other}


def print_rows(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """The table of one model, and the ratios under it."""
    print(f"\n{title}; milliseconds: median (least) and CPU time, in which what else runs does not count")
    print(
        f"{'':<32}{'prefill of 512':>18}{'CPU':>9}{'per token':>17}{'CPU':>8}{'keystroke':>18}{'CPU':>9}"
        "   greedy tokens as ours in float32"
    )
    for column, row in rows.items():
        same, key = row["same_tokens_of_16"], row["keystroke_ms"]
        print(
            f"{column:<32}{row['prefill_ms']:9.1f} ({row['prefill_least_ms']:6.1f}){row['prefill_cpu_ms']:9.1f}"
            f"{row['token_ms']:8.2f} ({row['token_least_ms']:6.2f}){row['token_cpu_ms']:8.2f}"
            + (f"{key:9.1f} ({row['keystroke_least_ms']:6.1f}){row['keystroke_cpu_ms']:9.1f}" if key else f"{'-':>27}")
            + ("" if same is None else f"   {same} of 16")
        )
    for version in dict.fromkeys(row["version"] for row in rows.values() if row["version"]):
        print(f"  {version}")
    for row in ratios(rows):
        print(
            f"  {row['bits']} bits, {row['figure']}: "
            + "; ".join(
                f"{row[kind]['ratio']:.2f} by {kind} ({row[kind]['ours']} over {row[kind]['theirs']})"
                for kind in ("median", "least", "cpu")
            )
        )
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    from bench.speed import SUBJECTS

    subjects = {**SUBJECTS, "34M": neox_34m}
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer models, formats and rounds")
    parser.add_argument("--models", default="", help=f"of {','.join(subjects)}")
    parser.add_argument("--threads", default="1", help="one number or several")
    parsed = parser.parse_args()
    found: dict[str, Any] = {}
    started, load = time.perf_counter(), os.getloadavg()[0]
    for name in (parsed.models or ("shipped,34M" if parsed.quick else "shipped,34M,125M,350M")).split(","):
        subject = subjects[name]()
        for threads in map(int, parsed.threads.split(",")):
            rows = compared(subject, threads, parsed.quick)
            print_rows(f"{subject.name}, {threads} thread(s)", rows)
            found.setdefault(subject.name, {})[threads] = {"columns": rows, "ratios": ratios(rows)}
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
