"""How fast models run: ours beside transformers and other engines, beside the limits of this machine.

    python -m bench.speed [--quick] [--models shipped,125M,350M,1.3B] [--threads N]

Per model: reading a prompt of 512 tokens, writing a token after it, one pass over k tokens, one pass over the next
token of several texts, memory, and a keystroke: a file typed character by character behind 1,000 tokens, 16 new tokens
for each. All columns take turns in one run; figures are medians, with the least in brackets. Models but the shipped one
have random weights at their published sizes. `bench.columns` says what a column is and how another engine becomes one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from bench import limits
from bench.columns import BITS, Column, Elsewhere, Generated, Own, Subject, Theirs, peers

SAMPLE = Path(__file__).parent.parent / "codeclippy_ls" / "text.py"
_EXACT = "float32"
_LARGE = 100_000_000  # parameters


@dataclass(frozen=True)
class Extent:
    """How much is measured: sizes, and the most rounds and seconds for each kind of figure."""

    prompt: int = 512
    written: int = 32
    typed: int = 1000
    keystrokes: int = 12
    new: int = 16
    passes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    rounds: int = 5
    seconds: float = 60.0


QUICK = Extent(written=8, keystrokes=3, passes=(1, 2, 8, 32), batches=(1, 4), rounds=2, seconds=1.5)


@dataclass
class Times:
    """Seconds of one figure in one column, as they came; ``cpu`` without what other programs took."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, run: Callable[[], object]) -> None:
        """Run it once more."""
        began, spent = time.perf_counter(), time.process_time()
        said = run()
        self.seconds.append(time.perf_counter() - began - (said.aside if isinstance(said, Elsewhere) else 0.0))
        self.cpu.append(time.process_time() - spent + (said.cpu if isinstance(said, Elsewhere) else 0.0))

    @property
    def median(self) -> float:
        """In milliseconds."""
        return statistics.median(self.seconds) * 1000

    @property
    def least(self) -> float:
        """In milliseconds."""
        return min(self.seconds) * 1000

    @property
    def median_cpu(self) -> float:
        """In milliseconds, of all threads."""
        return statistics.median(self.cpu) * 1000


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, Times]:
    """Time all of them, one after the other, again and again; a first round warms up and does not count.

    Every other round goes backwards: who comes after another process finds nothing of its own in the CPU's caches.
    """
    for run in runs.values():
        run()
    found = {name: Times() for name in runs}
    started = time.perf_counter()
    for turn in range(rounds):
        if turn and time.perf_counter() - started > seconds:
            break
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            found[name].add(runs[name])
    return found


def measure(subject: Subject, columns: Sequence[Column], extent: Extent) -> dict[str, dict[str, Any]]:
    """All figures of one model, by column."""
    prompt, typed = prompts(subject, extent)
    rounds, budget = extent.rounds, extent.seconds
    reading = in_turns({column.name: partial(column.prefill, prompt) for column in columns}, rounds, budget)
    writing = in_turns({column.name: partial(column.decode, extent.written) for column in columns}, rounds, budget)
    found: dict[str, dict[str, Any]] = {}
    for column in columns:
        read, wrote = reading[column.name], writing[column.name]
        found[column.name] = {
            "bits": column.bits,
            "bytes": column.nbytes,
            "prefill_ms": read.median,
            "prefill_least_ms": read.least,
            "token_ms": wrote.median / extent.written,
            "token_least_ms": wrote.least / extent.written,
        }
    for ask, sizes, kind in (("check", extent.passes, "pass_ms"), ("batch", extent.batches, "batch_ms")):
        able = [column for column in columns if hasattr(column, ask)]
        for size in sizes:
            runs = {column.name: partial(getattr(column, ask), size) for column in able}
            for name, times in in_turns(runs, rounds, budget / len(sizes)).items():
                found[name].setdefault(kind, {})[size] = times.least
    for name, times in keystrokes(columns, typed, extent).items():
        found[name]["keystroke_ms"] = times.median
    return found


def keystrokes(columns: Sequence[Column], typed: Sequence[Sequence[int]], extent: Extent) -> dict[str, Times]:
    """The same prompts for each column that can be typed to; whoever keeps something had the first before."""
    able: dict[str, Any] = {column.name: column for column in columns if hasattr(column, "keystroke")}
    found = {name: Times() for name in able}
    for column in able.values():
        if column.keeps:
            column.keystroke(typed[0], extent.new)
    started = time.perf_counter()
    for turn, prompt in enumerate(typed[1:]):
        if turn and time.perf_counter() - started > 2 * extent.seconds:
            break
        for name, column in able.items():
            found[name].add(partial(column.keystroke, prompt, extent.new))
    return found


def prompts(subject: Subject, extent: Extent) -> tuple[list[int], list[list[int]]]:
    """A prompt, and the prompts of successive keystrokes, in the shipped model's tokens."""
    from codeclippy_ls.engine.loading.tokenizer import read_tokenizer
    from codeclippy_ls.inference.spec import SHIPPED_FOLDER

    tokenizer = read_tokenizer(SHIPPED_FOLDER)
    text = SAMPLE.read_text(encoding="utf-8") * 2
    words = subject.module.config.vocab_size
    tokens = [token % words for token in tokenizer.encode(text)]
    most = min(extent.typed, subject.window - extent.new - 1)
    place = len(tokenizer.decode(tokenizer.encode(text)[: most - extent.keystrokes - 4]))
    typed = [
        [token % words for token in tokenizer.encode(text[: place + typed])][:most]
        for typed in range(extent.keystrokes + 1)
    ]
    return tokens[: extent.prompt], typed


def least(subject: Subject, column: Column, extent: Extent, machine: dict[str, Any]) -> dict[str, float]:
    """Milliseconds that a prompt and a token take at least, by the machine's limits at the column's bits."""
    layers, head = subject.multiplied
    nbytes = (layers + head) * column.bits // 8
    peak = max(rate for name, rate in machine["peaks"].items() if BITS[name] >= column.bits)
    return {"prefill": 2 * layers * extent.prompt / peak * 1000, "token": nbytes / machine["bandwidth"](nbytes) * 1000}


def columns_of(subject: Subject, quick: bool) -> list[Column]:
    """Ours in three formats, transformers in two, other engines; a large model, or one for a quick run, in fewer."""
    from codeclippy_ls.engine.decoder.linear import WeightFormats, list_available_formats
    from codeclippy_ls.engine.decoder.linear import choose_fastest_formats as fastest

    here = [name for name in ("bfloat16", _EXACT) if name in list_available_formats("cpu")]
    if "bfloat16" in str(subject.module.dtype):  # made so since float32 would not fit
        here.remove(_EXACT)
    few = quick and subject.parameters > _LARGE
    plain = here[:1] if few else here
    best = fastest("cpu", subject.module.config.hidden_size)
    found: list[Column] = [Own(subject, best, f"ours ({best})")]
    found += [
        Own(subject, WeightFormats(name, name), f"ours {name}") for name in plain if str(best) != name and not few
    ]
    if not quick:
        found += [Theirs(subject, name) for name in plain]
    return [*found, *(Generated(subject, name) for name in plain), *([] if quick else peers(subject))]


def shipped() -> Subject:
    """The model inside the package."""
    from codeclippy_ls.engine.loading.models import load
    from codeclippy_ls.inference.spec import ModelSpec

    return Subject("shipped", load(ModelSpec(device="cpu", dtype="float32"), native=False).module)


def random_model(name: str, config: Any, dtype: str = _EXACT) -> Subject:
    """A model of a configuration's size, with weights that mean nothing and ends that are never met."""
    import torch
    import transformers

    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        module = transformers.AutoModelForCausalLM.from_config(config).eval()
    finally:
        torch.set_default_dtype(default)
    module.generation_config.eos_token_id = None
    return Subject(name, module)


def _neo() -> Subject:
    import transformers

    return random_model(
        "GPT-Neo 125M",
        transformers.GPTNeoConfig(
            vocab_size=50257, hidden_size=768, num_layers=12, num_heads=12, attention_types=[[["global", "local"], 6]]
        ),
    )


def _codegen() -> Subject:
    import transformers

    return random_model(
        "CodeGen 350M",
        transformers.CodeGenConfig(
            vocab_size=51200,
            n_positions=2048,
            n_embd=1024,
            n_layer=20,
            n_head=16,
            rotary_dim=32,
            tie_word_embeddings=False,
        ),
    )


def _neox() -> Subject:
    import transformers

    return random_model(
        "GPT-NeoX 1.3B",
        transformers.GPTNeoXConfig(
            vocab_size=50432,
            hidden_size=2048,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        ),
        "bfloat16",
    )


SUBJECTS: dict[str, Callable[[], Subject]] = {"shipped": shipped, "125M": _neo, "350M": _codegen, "1.3B": _neox}


def report(subject: Subject, columns: Sequence[Column], extent: Extent, machine: dict[str, Any]) -> dict[str, Any]:
    """Measure one model, print its table, and return its figures."""
    found = measure(subject, columns, extent)
    for column in columns:
        row, floor = found[column.name], least(subject, column, extent, machine)
        row["prefill_to_limit"] = row["prefill_ms"] / floor["prefill"]
        row["token_to_limit"] = row["token_ms"] / floor["token"]
    bases = [row["keystroke_ms"] for name, row in found.items() if name.startswith("generate ")]
    print(
        f"\n{subject.name}: {subject.parameters / 1e6:.0f} million parameters; prompt {extent.prompt} tokens, "
        f"{extent.written} written; milliseconds, median (least); x is the ratio to the machine's limit"
    )
    print(f"{'':<40}{'MiB':>6}{'prefill':>18}{'x':>6}{'per token':>18}{'x':>6}{'keystroke':>11}{'generate/it':>12}")
    for name, row in found.items():
        typed = row.get("keystroke_ms")
        if typed and bases:
            row["keystroke_ratio_vs_generate"] = min(bases) / typed
        print(
            f"{name:<40}{row['bytes'] / 2**20:6.0f}{row['prefill_ms']:9.1f} ({row['prefill_least_ms']:6.1f})"
            f"{row['prefill_to_limit']:6.1f}{row['token_ms']:9.2f} ({row['token_least_ms']:6.2f})"
            f"{row['token_to_limit']:6.1f}"
            + (f"{typed:11.1f}" if typed else f"{'-':>11}")
            + (f"{row['keystroke_ratio_vs_generate']:12.1f}" if typed and bases else "")
        )
    _print_curve(found, "pass_ms", extent.passes, "one pass over k tokens, in passes over one")
    _print_curve(found, "batch_ms", extent.batches, "one token of each of n texts, in passes over one")
    sys.stdout.flush()
    return {"parameters": subject.parameters, "columns": found}


def _print_curve(found: dict[str, dict[str, Any]], kind: str, sizes: Sequence[int], what: str) -> None:
    print(f"  {what + ':':<48}" + "".join(f"{size:>7}" for size in sizes))
    for name, row in found.items():
        if kind in row:
            times = row[kind]
            print(
                f"    {name:<46}"
                + "".join(f"{times[size] / times[sizes[0]]:7.2f}" for size in sizes)
                + f"   ({times[sizes[0]]:.2f} ms)"
            )


def examined(threads: int) -> dict[str, Any]:
    """The machine with so many threads: its peaks, and its bandwidth by the number of bytes that are read."""
    import torch

    torch.set_num_threads(threads)
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "peaks": limits.peaks(),
        "bandwidth": lru_cache(limits.bandwidth),
    }
    peaks = ", ".join(f"{name} {rate / 1e9:.0f} G/s" for name, rate in machine["peaks"].items())
    print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s), torch {machine['torch']}\n"
        f"matrix products: {peaks}; reading: {machine['bandwidth'](1 << 28) / 1e9:.1f} GB/s from memory, "
        f"{machine['bandwidth'](4 << 20) / 1e9:.1f} of 4 MiB again and again"
    )
    return machine


def main() -> None:
    """Measure and print."""
    from codeclippy_ls.engine.generation.threads import list_thread_counts

    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="less than two minutes")
    parser.add_argument("--models", default="", help=f"of {','.join(SUBJECTS)}; --quick takes the first two")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as the engine takes")
    parsed = parser.parse_args()
    names = parsed.models.split(",") if parsed.models else list(SUBJECTS)[: 2 if parsed.quick else None]
    extent = QUICK if parsed.quick else Extent()
    machine = examined(parsed.threads or list_thread_counts()[0])
    found = {}
    for name in names:
        subject = SUBJECTS[name]()
        found[name] = report(subject, columns_of(subject, parsed.quick), extent, machine)
    machine["bandwidth"] = machine["bandwidth"](1 << 28)
    print(json.dumps({"machine": machine, "prompt": extent.prompt, "models": found}))


if __name__ == "__main__":
    main()
