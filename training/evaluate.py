"""Measure an exported model on what it never saw: held-out packages, held-out edits, HumanEval holes.

Everything is greedy and exact: an answer counts where it is the text that stood there, not where it would do as well.
Edits are measured twice, by plain decoding and as the server makes them, constrained. Prints a table and, last, one
line of JSON. The copy baseline finishes a line by what followed the longest match of its beginning; a model that does
not beat it has learned to copy at most.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import math
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from codeclippy_ls.assist import Assistant, Proposal, open_engine
from codeclippy_ls.settings import parse
from codeclippy_ls.text import Document
from training import samples
from training.edits import EditSample
from training.snippets import applied
from training.tokenizer import END, plain_encoder
from training.train import HERE


@dataclass(frozen=True)
class Hole:
    """A line to finish: what stands before the cursor, what stood behind it on the line, and what follows."""

    prefix: str
    middle: str
    suffix: str


class Model:
    """An exported model with its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.network: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()
        self.tokenizer: Tokenizer = plain_encoder(folder)
        self.encode = samples.encoder(folder)
        self.window: int = self.network.config.max_position_embeddings

    @torch.inference_mode()
    def write(self, prompt: Sequence[int], limit: int, stop: str | None = None) -> str:
        """The text up to the end token, the stop string or the limit."""
        prompt = list(prompt)[-(self.window - limit) :]
        given, cache, written = torch.tensor([prompt]), None, list[int]()
        while len(written) < limit:
            result = self.network(given, past_key_values=cache, use_cache=True)
            cache = result.past_key_values
            token = int(result.logits[0, -1].argmax())
            if token == END:
                break
            written.append(token)
            if stop is not None and stop in self.tokenizer.decode([token]):
                break
            given = torch.tensor([[token]])
        return str(self.tokenizer.decode(written))

    @torch.inference_mode()
    def bits(self, ids: Sequence[int]) -> float:
        """Bits to predict ids 1, 2, ... of a window from those before."""
        given = torch.tensor([list(ids)])
        logits = self.network(given).logits[0, :-1]
        return float(torch.nn.functional.cross_entropy(logits, given[0, 1:], reduction="sum")) / math.log(2)

    def finish(self, hole: Hole, with_suffix: bool) -> str:
        """The rest of the line."""
        found = samples.infill(self.encode, fitting_prefix(hole.prefix), "", hole.suffix[:600] if with_suffix else "")
        return self.write(found.ids[: found.answer], 48, stop="\n").split("\n")[0]

    def diff(self, edit: EditSample, limit: int = 400) -> str:
        """The hunks for an edit, up to a number of tokens."""
        found = samples.edit(self.encode, edit.name, edit.before, edit.message, "")
        return self.write(found.ids[: found.answer], limit).removeprefix(" ")


def fitting_prefix(prefix: str, characters: int = 1600) -> str:
    """The end of the prefix, from the start of a line."""
    start = max(0, len(prefix) - characters)
    return prefix[start:] if start == 0 else prefix[prefix.find("\n", start) + 1 :]


def bits_per_byte(model: Model, texts: Iterable[str], limit: int) -> float:
    """Bits per byte over files read in windows, up to `limit` bytes; each window starts from nothing."""
    bits, size = 0.0, 0
    for text in texts:
        ids = [END, *model.encode(text)]
        for start in range(0, len(ids) - 1, model.window - 1):
            window = ids[start : start + model.window]
            bits += model.bits(window)
            size += len(model.tokenizer.decode(window[1:]).encode())
        if size > limit:
            break
    return bits / size


def holes(texts: Sequence[str], count: int, rng: random.Random) -> list[Hole]:
    """Cursors at word boundaries inside lines of code (not comments), with something left to write."""
    found: list[Hole] = []
    while len(found) < count:
        text = rng.choice(texts)
        at = rng.randrange(len(text))
        start, end = samples.line_start(text, at), samples.line_end(text, at)
        line = text[start:end]
        if len(line.strip()) < 8 or line.lstrip().startswith(("#", '"', "'")):
            continue
        stops = [m.start() for m in re.finditer(r"\b", line) if m.start() < len(line.rstrip()) - 1]
        cursor = start + rng.choice(stops or [0])
        found.append(Hole(text[:cursor], text[cursor:end], text[end:]))
    return found


def copied(hole: Hole) -> str:
    """The rest of the line behind the longest earlier match of what stands before the cursor, in the same window."""
    context = fitting_prefix(hole.prefix)
    for length in range(min(60, len(context)), 2, -1):
        beginning = context[-length:]
        for text in (context[:-1], hole.suffix[:600]):
            at = text.rfind(beginning)
            if at >= 0:
                rest = (text + context[-1:] if text is not hole.suffix else text)[at + length :]
                return rest.split("\n")[0]
    return ""


def human_eval(path: Path, count: int) -> list[Hole]:
    """The first single-line infilling tasks of a file (plain or gzipped JSON lines)."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    tasks = [json.loads(line) for line in content.decode().splitlines()[:count]]
    return [Hole(t["prompt"], t["canonical_solution"].rstrip("\n"), "\n" + t["suffix"]) for t in tasks]


def exact(found: Iterable[tuple[str, Hole]]) -> float:
    """The share of answers that are the line, blanks at its end aside."""
    results = [answer.rstrip() == hole.middle.rstrip() for answer, hole in found]
    return sum(results) / len(results)


def some_of_each(edits: Sequence[EditSample], per_kind: int) -> list[EditSample]:
    """The first edits of each kind."""
    seen: dict[str, int] = defaultdict(int)
    chosen = []
    for edit in edits:
        seen[edit.kind] += 1
        if seen[edit.kind] <= per_kind:
            chosen.append(edit)
    return chosen


def edit_table(edits: Iterable[EditSample], afters: Iterable[str | None]) -> dict[str, tuple[int, int, int]]:
    """Per kind: how many, how many diffs apply, how many give exactly the expected text; no diff is `None`."""
    table: dict[str, tuple[int, int, int]] = {}
    for edit, after in zip(edits, afters, strict=True):
        total, fits, right = table.get(edit.kind, (0, 0, 0))
        expected = applied(edit.before, edit.diff)
        table[edit.kind] = (total + 1, fits + (after is not None), right + (after == expected))
    return table


async def edited_by_server(folder: Path, edits: Sequence[EditSample]) -> list[str | None]:
    """The texts after each edit as the server makes it, under constraints; `None` where it is refused."""
    settings, _ = parse({"model": {"complete": str(folder)}})
    assistant = Assistant(open_engine(settings), settings)
    try:
        await assistant.prepare()
        results = [await assistant.edit(Document(f"/{edit.name}", edit.before), edit.message) for edit in edits]
        return [result.after if isinstance(result, Proposal) else None for result in results]
    finally:
        await assistant.close()


def evaluate(model: Model, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    with (work / "corpus" / "valid.jsonl").open() as lines:
        files = [json.loads(line) for line in lines]
    python = [f["text"] for f in files if f["path"].endswith(".py")]
    other = [f["text"] for f in files if not f["path"].endswith((".py", ".pyi"))]
    cursors = holes(python, options.holes, random.Random(1))
    figures: dict[str, Any] = {
        "bits_per_byte_python": bits_per_byte(model, python, options.bytes),
        "rest_of_line_with_suffix": exact((model.finish(h, True), h) for h in cursors),
        "rest_of_line_without_suffix": exact((model.finish(h, False), h) for h in cursors),
        "rest_of_line_copy_baseline": exact((copied(h), h) for h in cursors),
    }
    if other:
        figures["bits_per_byte_other"] = bits_per_byte(model, other, options.bytes)
    if options.human_eval:
        tasks = human_eval(options.human_eval, options.tasks)
        figures["human_eval_single_line_exact"] = exact((model.finish(h, True), h) for h in tasks)
        figures["human_eval_copy_baseline"] = exact((copied(h), h) for h in tasks)
    edits = some_of_each(samples.load(work, "valid").edits, options.edits_per_kind)
    figures["edits"] = edit_table(edits, (applied(edit.before, model.diff(edit)) for edit in edits))
    figures["edits_constrained"] = edit_table(edits, asyncio.run(edited_by_server(options.model, edits)))
    return figures


def shown(figures: dict[str, Any]) -> str:
    """The table, for reading."""
    lines = [f"{name:34} {value:8.3f}" for name, value in figures.items() if isinstance(value, float)]
    for name in ("edits", "edits_constrained"):
        lines += ["", f"{name:34} {'number':>8} {'apply':>8} {'exact':>8}"]
        table = figures[name]
        lines += [f"{kind:34} {total:8} {fits:8} {right:8}" for kind, (total, fits, right) in sorted(table.items())]
        sums = [sum(row[i] for row in table.values()) for i in range(3)]
        lines.append(f"{'all':34} {sums[0]:8} {sums[1]:8} {sums[2]:8}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--model", type=Path, default=HERE.parent / "codeclippy_ls" / "model")
    parser.add_argument("--human-eval", type=Path, help="HumanEval-SingleLineInfilling as JSON lines")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--holes", type=int, default=300)
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--edits-per-kind", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    figures = evaluate(Model(options.model), options.work, options)
    print(shown(figures))
    print(json.dumps({**figures, "seconds": round(time.monotonic() - start)}))


if __name__ == "__main__":
    main()
