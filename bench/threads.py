"""How the number of threads changes the time of a token, on a quiet machine and beside programs that use all cores.

    python -m bench.threads [--seconds 6] [--model FILE]

The shipped model and random weights of GPT-Neo 125M's size, or a real model, decode token after token in the format
chosen here: with one thread, with one for each core, and with the count that `engine.generation.threads` chooses of
these two as it runs (for small models the engine itself leaves a core to other programs). Then the same beside one busy
process, beside as many as there are cores, and a last time after these have ended. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.gpu import build_decoder
from codeclippy_ls.engine.decoder.deferred_packing import PACKING_THREAD
from codeclippy_ls.engine.decoder.linear import choose_fastest_formats
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from codeclippy_ls.engine.generation.threads import ThreadCountTuner, count_cores
from codeclippy_ls.engine.loading.calibration import measure_pass_seconds
from codeclippy_ls.engine.loading.loader import load
from codeclippy_ls.inference.spec import ModelSpec

_PROMPT_TOKENS = 128
WORKLOADS = (("quiet", 0), ("beside one", 1), ("beside others", count_cores()), ("quiet again", 0))


def load_decoders(model: str) -> dict[str, Transformer]:
    """Load decoders by name: a real model, or by default the shipped one and random weights."""
    if model:
        runner = load(ModelSpec(model, threads=1, device="cpu")).runner
        wait_until_packed()
        decoders = {Path(model).stem: runner}
    else:
        decoders = {
            "shipped": load(ModelSpec(threads=1, device="cpu")).runner,
            "125M": build_decoder("125M", "cpu", choose_fastest_formats("cpu")),
        }
    return {name: decoder for name, decoder in decoders.items() if isinstance(decoder, Transformer)}


def wait_until_packed() -> None:
    """Wait until the weights that were loaded have been packed."""
    for thread in threading.enumerate():
        if thread.name == PACKING_THREAD:
            thread.join()


@contextlib.contextmanager
def run_busy_processes(count: int) -> Iterator[None]:
    """Run ``count`` processes in endless loops."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.5)
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


class TokenTimer:
    """Decodes tokens with one decoder and times them."""

    def __init__(self, decoder: Transformer) -> None:
        self._decoder, self._cache = decoder, decoder.new_cache()
        decoder.forward([ModelInput([5] * _PROMPT_TOKENS, self._cache, 0)])

    def time_token(self) -> float:
        """Return the seconds of one token."""
        started = time.perf_counter()
        self._decoder.forward([ModelInput([7], self._cache)])
        self._cache.crop(_PROMPT_TOKENS)
        return time.perf_counter() - started

    def run(self, seconds: float, tuner: ThreadCountTuner) -> dict[str, float]:
        """Decode for ``seconds``; return the milliseconds of a token, and the last number of threads."""
        until, times = time.perf_counter() + seconds, []
        self._decoder.after_layer = lambda: torch.set_num_threads(1) if tuner.finish_layer() else None
        while time.perf_counter() < until:
            torch.set_num_threads(tuner.count)
            tuner.start_pass(self._decoder.num_layers, 1.0)
            times.append(self.time_token())
            tuner.update(times[-1])
        self._decoder.after_layer = None
        return {
            "mean": 1000 * statistics.mean(times),
            "p50": 1000 * statistics.median(times),
            "p99": 1000 * sorted(times)[int(0.99 * len(times))],
            "threads": tuner.count,
        }

    def make_tuner(self) -> ThreadCountTuner:
        """Make a tuner, calibrated as at loading."""
        tuner = ThreadCountTuner(1)
        tuner.calibrate(measure_pass_seconds(self._decoder, (1, count_cores())))
        return tuner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="duration of each row")
    parser.add_argument("--model", default="", help="a real model instead of the two small ones")
    parser.add_argument("--quick", action="store_true", help="two seconds for each row")
    options = parser.parse_args()
    seconds = 2.0 if options.quick else options.seconds
    print(f"{count_cores()} cores, torch {torch.__version__}; milliseconds of a token: mean, median, 99th percentile")
    rows: dict[str, Any] = {}
    for name, decoder in load_decoders(options.model).items():
        timer = TokenTimer(decoder)
        adaptive = timer.make_tuner()
        for when, busy in WORKLOADS:
            with run_busy_processes(busy):
                tuners = {str(count): ThreadCountTuner(count) for count in (1, count_cores())} | {"found": adaptive}
                for label, tuner in tuners.items():
                    row = rows[f"{name}, {when}, {label}"] = timer.run(seconds, tuner)
                    last = f" (now {row['threads']})" if label == "found" else ""
                    print(
                        f"{name:>8.8} {when:>14} {label:>6} threads {row['mean']:8.2f} {row['p50']:8.2f} "
                        f"{row['p99']:8.2f}{last}",
                        flush=True,
                    )
    print(json.dumps({"cores": count_cores(), "rows": rows}))


if __name__ == "__main__":
    main()
