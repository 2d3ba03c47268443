"""What the number of threads does to a token, on a quiet machine and beside programs that want all cores.

    python -m bench.threads [--seconds 6]

The shipped model and random weights of GPT-Neo 125M's size write token after token in the format chosen here: with one
thread, with one for each core, and with what `engine.threads` makes of these two while it goes (the engine itself
leaves a core to others). Then the same beside as many busy processes as there are cores, and a last time after these
have gone. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from bench.gpu import built
from codeclippy_ls.engine.decoder.linear import choose_fastest_formats
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from codeclippy_ls.engine.generation.threads import ThreadCountTuner, count_cores
from codeclippy_ls.engine.loading.models import load, measure_pass_seconds
from codeclippy_ls.inference.spec import ModelSpec

_READ = 128


def subjects() -> dict[str, Any]:
    """Decoders by name."""
    return {
        "shipped": load(ModelSpec(threads=1, device="cpu")).runner,
        "125M": built("125M", "cpu", choose_fastest_formats("cpu")),
    }


@contextlib.contextmanager
def others(count: int) -> Iterator[None]:
    """So many processes that do nothing but work."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.5)
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


class Writer:
    """Writes tokens with one decoder."""

    def __init__(self, model: Any) -> None:
        self._model, self._cache = model, model.new_cache()
        model.forward([ModelInput([5] * _READ, self._cache, 0)])

    def seconds(self) -> float:
        """Of one token."""
        started = time.perf_counter()
        self._model.forward([ModelInput([7], self._cache)])
        self._cache.crop(_READ)
        return time.perf_counter() - started

    def run(self, seconds: float, threads: ThreadCountTuner) -> dict[str, float]:
        """Milliseconds of a token, over so many seconds, and by how many threads they were written at last."""
        until, taken = time.perf_counter() + seconds, []
        while time.perf_counter() < until:
            torch.set_num_threads(threads.count)
            taken.append(self.seconds())
            threads.update(taken[-1])
        return {
            "mean": 1000 * statistics.mean(taken),
            "p50": 1000 * statistics.median(taken),
            "p99": 1000 * sorted(taken)[int(0.99 * len(taken))],
            "threads": threads.count,
        }

    def found(self) -> ThreadCountTuner:
        """Threads as they are measured when a model is loaded."""
        made = ThreadCountTuner(1)
        made.calibrate(measure_pass_seconds(self._model, (1, count_cores())))
        return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each row")
    parser.add_argument("--quick", action="store_true", help="two seconds of each")
    options = parser.parse_args()
    seconds = 2.0 if options.quick else options.seconds
    print(f"{count_cores()} cores, torch {torch.__version__}; milliseconds of a token: mean, median, 99th percentile")
    rows: dict[str, Any] = {}
    for name, model in subjects().items():
        writer = Writer(model)
        adaptive = writer.found()
        for when, busy in (("quiet", 0), ("beside others", count_cores()), ("quiet again", 0)):
            with others(busy):
                counts = {str(count): ThreadCountTuner(count) for count in (1, count_cores())} | {"found": adaptive}
                for label, threads in counts.items():
                    row = rows[f"{name}, {when}, {label}"] = writer.run(seconds, threads)
                    last = f" (now {row['threads']})" if label == "found" else ""
                    print(
                        f"{name:>8} {when:>14} {label:>6} threads {row['mean']:8.2f} {row['p50']:8.2f} "
                        f"{row['p99']:8.2f}{last}",
                        flush=True,
                    )
    print(json.dumps({"cores": count_cores(), "rows": rows}))


if __name__ == "__main__":
    main()
