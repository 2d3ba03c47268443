"""How fast models run: the native decoder, transformers and other engines, compared with the limits of this machine.

    python -m bench.speed [--quick] [--models shipped,125M,350M,1.3B] [--threads N]

Per model: prefilling a prompt of 512 tokens, decoding a token after it, one pass over k tokens, one pass over the next
token of several sequences, memory, and a keystroke: a file typed character by character after 1,000 tokens, 16 new
tokens for each. All columns take turns in one run; figures are medians, with the minimum in brackets. All models but
the shipped one have random weights at their published sizes. `bench.columns` defines columns and how to add an engine.
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
from bench.columns import (
    BITS,
    Column,
    GenerateColumn,
    ModuleColumn,
    NativeColumn,
    Subject,
    SubprocessCost,
    list_peer_columns,
)

SAMPLE = Path(__file__).parent.parent / "codeclippy_ls" / "text.py"
_EXACT = "float32"
_LARGE = 100_000_000  # parameters


@dataclass(frozen=True)
class Extent:
    """Extent of a run: token counts, and the maximum rounds and seconds for each kind of figure."""

    prompt: int = 512
    decoded: int = 32
    typed: int = 1000  # tokens before the cursor
    keystrokes: int = 12
    new: int = 16  # tokens for each keystroke
    passes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    rounds: int = 5
    seconds: float = 60.0


QUICK = Extent(decoded=8, keystrokes=3, passes=(1, 2, 8, 32), batches=(1, 4), rounds=2, seconds=1.5)


@dataclass
class Times:
    """Measured seconds of one figure in one column; ``cpu`` excludes other programs."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, run: Callable[[], object]) -> None:
        """Run it once and measure."""
        started, started_cpu = time.perf_counter(), time.process_time()
        cost = run()
        excluded, cpu = (cost.excluded_seconds, cost.cpu_seconds) if isinstance(cost, SubprocessCost) else (0.0, 0.0)
        self.seconds.append(time.perf_counter() - started - excluded)
        self.cpu.append(time.process_time() - started_cpu + cpu)

    @property
    def median(self) -> float:
        """Median milliseconds."""
        return statistics.median(self.seconds) * 1000

    @property
    def minimum(self) -> float:
        """Minimum milliseconds."""
        return min(self.seconds) * 1000

    @property
    def median_cpu(self) -> float:
        """Median milliseconds of all threads."""
        return statistics.median(self.cpu) * 1000


def time_in_turns(runs: Mapping[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, Times]:
    """Time all of them in rounds, one after the other; a first round warms up and does not count.

    Every other round goes backwards: a run after another process finds nothing of its own in the CPU's caches.
    """
    for run in runs.values():
        run()
    found = {name: Times() for name in runs}
    started = time.perf_counter()
    for round_index in range(rounds):
        if round_index and time.perf_counter() - started > seconds:
            break
        for name in list(runs)[:: -1 if round_index % 2 else 1]:
            found[name].add(runs[name])
    return found


def measure(subject: Subject, columns: Sequence[Column], extent: Extent) -> dict[str, dict[str, Any]]:
    """Return all figures of one model, by column."""
    prompt, keystroke_prompts = make_prompts(subject, extent)
    rounds, budget = extent.rounds, extent.seconds
    prefills = time_in_turns({column.name: partial(column.prefill, prompt) for column in columns}, rounds, budget)
    decodes = time_in_turns({column.name: partial(column.decode, extent.decoded) for column in columns}, rounds, budget)
    found: dict[str, dict[str, Any]] = {}
    for column in columns:
        prefill, decode = prefills[column.name], decodes[column.name]
        found[column.name] = {
            "bits": column.bits,
            "bytes": column.nbytes,
            "prefill_ms": prefill.median,
            "prefill_min_ms": prefill.minimum,
            "token_ms": decode.median / extent.decoded,
            "token_min_ms": decode.minimum / extent.decoded,
        }
    for method, sizes, kind in (("verify", extent.passes, "pass_ms"), ("decode_batch", extent.batches, "batch_ms")):
        able = [column for column in columns if hasattr(column, method)]
        for size in sizes:
            runs = {column.name: partial(getattr(column, method), size) for column in able}
            for name, times in time_in_turns(runs, rounds, budget / len(sizes)).items():
                found[name].setdefault(kind, {})[size] = times.minimum
    for name, times in time_keystrokes(columns, keystroke_prompts, extent).items():
        found[name]["keystroke_ms"] = times.median
    return found


def time_keystrokes(columns: Sequence[Column], prompts: Sequence[Sequence[int]], extent: Extent) -> dict[str, Times]:
    """Time the same prompts in each column with keystrokes; columns that reuse a prefix have run the first before."""
    able: dict[str, Any] = {column.name: column for column in columns if hasattr(column, "keystroke")}
    found = {name: Times() for name in able}
    for column in able.values():
        if column.reuses_prefix:
            column.keystroke(prompts[0], extent.new)
    started = time.perf_counter()
    for index, prompt in enumerate(prompts[1:]):
        if index and time.perf_counter() - started > 2 * extent.seconds:
            break
        for name, column in able.items():
            found[name].add(partial(column.keystroke, prompt, extent.new))
    return found


def make_prompts(subject: Subject, extent: Extent) -> tuple[list[int], list[list[int]]]:
    """Make a prompt, and the prompts of successive keystrokes, in the shipped model's tokens."""
    from codeclippy_ls.engine.loading.tokenizer import read_tokenizer
    from codeclippy_ls.inference.spec import SHIPPED_FOLDER

    tokenizer = read_tokenizer(SHIPPED_FOLDER)
    text = SAMPLE.read_text(encoding="utf-8") * 2
    vocab_size = subject.module.config.vocab_size
    tokens = [token % vocab_size for token in tokenizer.encode(text)]
    limit = min(extent.typed, subject.context_length - extent.new - 1)
    cursor = len(tokenizer.decode(tokenizer.encode(text)[: limit - extent.keystrokes - 4]))
    keystroke_prompts = [
        [token % vocab_size for token in tokenizer.encode(text[: cursor + typed])][:limit]
        for typed in range(extent.keystrokes + 1)
    ]
    return tokens[: extent.prompt], keystroke_prompts


def compute_limits(subject: Subject, column: Column, extent: Extent, machine: dict[str, Any]) -> dict[str, float]:
    """Return the minimum milliseconds of a prompt and a token, by the machine's limits at the column's bits."""
    layers, lm_head = subject.matrix_sizes
    nbytes = (layers + lm_head) * column.bits // 8
    peak = max(rate for name, rate in machine["peaks"].items() if BITS[name] >= column.bits)
    return {"prefill": 2 * layers * extent.prompt / peak * 1000, "token": nbytes / machine["bandwidth"](nbytes) * 1000}


def list_columns(subject: Subject, is_quick: bool) -> list[Column]:
    """List the columns: ours in three formats, transformers in two, other engines; large or quick ones in fewer."""
    from codeclippy_ls.engine.decoder.linear import WeightFormats, list_available_formats
    from codeclippy_ls.engine.decoder.linear import choose_fastest_formats as fastest

    available = [name for name in ("bfloat16", _EXACT) if name in list_available_formats("cpu")]
    if "bfloat16" in str(subject.module.dtype):  # made so because float32 would not fit in memory
        available.remove(_EXACT)
    is_reduced = is_quick and subject.num_parameters > _LARGE
    names = available[:1] if is_reduced else available
    best = fastest("cpu", subject.module.config.hidden_size)
    found: list[Column] = [NativeColumn(subject, best, f"ours ({best})")]
    found += [
        NativeColumn(subject, WeightFormats(name, name), f"ours {name}")
        for name in names
        if str(best) != name and not is_reduced
    ]
    if not is_quick:
        found += [ModuleColumn(subject, name) for name in names]
    return [
        *found,
        *(GenerateColumn(subject, name) for name in names),
        *([] if is_quick else list_peer_columns(subject)),
    ]


def load_shipped() -> Subject:
    """Load the model inside the package."""
    from codeclippy_ls.engine.loading.loader import load
    from codeclippy_ls.inference.spec import ModelSpec

    return Subject("shipped", load(ModelSpec(device="cpu", dtype="float32"), native=False).module)


def make_random_model(name: str, config: Any, dtype: str = _EXACT) -> Subject:
    """Make a model with random weights for a configuration, without stop tokens."""
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


def _make_gpt_neo() -> Subject:
    import transformers

    return make_random_model(
        "GPT-Neo 125M",
        transformers.GPTNeoConfig(
            vocab_size=50257, hidden_size=768, num_layers=12, num_heads=12, attention_types=[[["global", "local"], 6]]
        ),
    )


def _make_codegen() -> Subject:
    import transformers

    return make_random_model(
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


def _make_gpt_neox() -> Subject:
    import transformers

    return make_random_model(
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


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "shipped": load_shipped,
    "125M": _make_gpt_neo,
    "350M": _make_codegen,
    "1.3B": _make_gpt_neox,
}


def report(subject: Subject, columns: Sequence[Column], extent: Extent, machine: dict[str, Any]) -> dict[str, Any]:
    """Measure one model, print its table, and return its figures."""
    found = measure(subject, columns, extent)
    for column in columns:
        row, limits_ms = found[column.name], compute_limits(subject, column, extent, machine)
        row["prefill_to_limit"] = row["prefill_ms"] / limits_ms["prefill"]
        row["token_to_limit"] = row["token_ms"] / limits_ms["token"]
    generate_times = [row["keystroke_ms"] for name, row in found.items() if name.startswith("generate ")]
    print(
        f"\n{subject.name}: {subject.num_parameters / 1e6:.0f} million parameters; prompt {extent.prompt} tokens, "
        f"{extent.decoded} decoded; milliseconds, median (minimum); x is the ratio to the machine's limit"
    )
    print(f"{'':<40}{'MiB':>6}{'prefill':>18}{'x':>6}{'per token':>18}{'x':>6}{'keystroke':>11}{'generate/it':>12}")
    for name, row in found.items():
        typed = row.get("keystroke_ms")
        if typed and generate_times:
            row["keystroke_ratio_vs_generate"] = min(generate_times) / typed
        print(
            f"{name:<40}{row['bytes'] / 2**20:6.0f}{row['prefill_ms']:9.1f} ({row['prefill_min_ms']:6.1f})"
            f"{row['prefill_to_limit']:6.1f}{row['token_ms']:9.2f} ({row['token_min_ms']:6.2f})"
            f"{row['token_to_limit']:6.1f}"
            + (f"{typed:11.1f}" if typed else f"{'-':>11}")
            + (f"{row['keystroke_ratio_vs_generate']:12.1f}" if typed and generate_times else "")
        )
    _print_curve(found, "pass_ms", extent.passes, "one pass over k tokens, in passes over one")
    _print_curve(found, "batch_ms", extent.batches, "one token of each of n sequences, in passes over one")
    sys.stdout.flush()
    return {"parameters": subject.num_parameters, "columns": found}


def _print_curve(found: dict[str, dict[str, Any]], kind: str, sizes: Sequence[int], title: str) -> None:
    print(f"  {title + ':':<48}" + "".join(f"{size:>7}" for size in sizes))
    for name, row in found.items():
        if kind in row:
            times = row[kind]
            print(
                f"    {name:<46}"
                + "".join(f"{times[size] / times[sizes[0]]:7.2f}" for size in sizes)
                + f"   ({times[sizes[0]]:.2f} ms)"
            )


def examine_machine(threads: int) -> dict[str, Any]:
    """Measure the machine with this number of threads: its peaks, and its bandwidth by the number of bytes read."""
    import torch

    torch.set_num_threads(threads)
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "peaks": limits.measure_peaks(),
        "bandwidth": lru_cache(limits.measure_bandwidth),
    }
    peaks = ", ".join(f"{name} {rate / 1e9:.0f} G/s" for name, rate in machine["peaks"].items())
    print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s), torch {machine['torch']}\n"
        f"matrix products: {peaks}; reading: {machine['bandwidth'](1 << 28) / 1e9:.1f} GB/s from memory, "
        f"{machine['bandwidth'](4 << 20) / 1e9:.1f} of the same 4 MiB"
    )
    return machine


def main() -> None:
    """Measure and print."""
    from codeclippy_ls.engine.generation.threads import list_thread_counts

    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="less than two minutes")
    parser.add_argument(
        "--models", default="", help=f"comma-separated, of {','.join(SUBJECTS)}; --quick takes the first two"
    )
    parser.add_argument("--threads", type=int, default=0, help="0: as many as the engine uses")
    parsed = parser.parse_args()
    names = parsed.models.split(",") if parsed.models else list(SUBJECTS)[: 2 if parsed.quick else None]
    extent = QUICK if parsed.quick else Extent()
    machine = examine_machine(parsed.threads or list_thread_counts()[0])
    found = {}
    for name in names:
        subject = SUBJECTS[name]()
        found[name] = report(subject, list_columns(subject, parsed.quick), extent, machine)
    machine["bandwidth"] = machine["bandwidth"](1 << 28)
    print(json.dumps({"machine": machine, "prompt": extent.prompt, "models": found}))


if __name__ == "__main__":
    main()
