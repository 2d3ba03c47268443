"""Measure an exported model on what it never saw: held-out packages, held-out edits, HumanEval.

One table, a column per model: the exported one, another one (`--against`, the one shipped before), SmolLM2-135M
(`--smollm`, see `training.smollm`; continuation only), and a baseline that copies from nearby text. Every figure has
its count, every share its 95 % interval (Wilson). All is greedy but for pass@10. The last line is JSON.
What is measured how stands in `evaluate_lines`, `evaluate_human` and `evaluate_edits`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from training import evaluate_edits, evaluate_human, evaluate_lines, sandbox
from training.edits import EditSample
from training.figures import Figure, Share, as_fields, table
from training.smollm import folder_of
from training.snippets import applied
from training.writer import GREEDY, Model

HERE = Path(__file__).resolve().parent
COPY = "copy"
CONTINUED = ("rest of line", "next line, from its indentation")  # what a model that only continues is asked
BOTH = {True: "with suffix", False: "without suffix"}


@dataclass
class Report:
    """Figures by measure and model, edits by kind, and the seconds each part took."""

    figures: dict[str, dict[str, Figure]] = field(default_factory=lambda: defaultdict(dict))
    kinds: dict[str, dict[str, Figure]] = field(default_factory=lambda: defaultdict(dict))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Something the reader of the table must know."""
        self.notes.append(text)
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """The seconds of a part, added up and told."""
        start = time.monotonic()
        yield
        self.seconds[part] += time.monotonic() - start
        print(f"{part}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Counts:
    """How much of each thing is measured; of the large model that only continues, less."""

    bytes: int
    holes: int
    tasks: int
    edits_per_kind: int
    fixes: int

    def fewer(self) -> Counts:
        """For a model twenty times as large, so that it does not take most of the time."""
        return Counts(self.bytes // 8, max(1, self.holes // 3), max(1, self.tasks // 3), 0, 0)


def text_figures(report: Report, name: str, model: Model, texts: dict[str, list[str]], counts: Counts) -> None:
    """Bits per byte, per language."""
    with report.timed(f"{name}: bits per byte"):
        for label, found in texts.items():
            files = evaluate_lines.chosen(found, counts.bytes)
            report.figures[f"bits per byte, {label}"][name] = evaluate_lines.bits_per_byte(model, files)


def hole_figures(report: Report, name: str, model: Model | None, python: Sequence[str], counts: Counts) -> None:
    """Exact ends of lines, next lines and blocks; without a model, the copy baseline."""
    with report.timed(f"{name}: lines and blocks"):
        for measure in evaluate_lines.MEASURES:
            if model is not None and not model.infills and measure.name not in CONTINUED:
                continue
            holes = measure.holes(python, counts.holes, random.Random(1))
            for with_suffix, said in BOTH.items():
                if model is not None and with_suffix and not model.infills:
                    continue
                answers = (
                    [evaluate_lines.copied(hole, measure, with_suffix) for hole in holes]
                    if model is None
                    else evaluate_lines.written(model, measure, holes, with_suffix)
                )
                report.figures[f"{measure.name}, {said}"][name] = evaluate_lines.exact(answers, holes)


def human_figures(
    report: Report, name: str, model: Model | None, tasks: Sequence[evaluate_human.Task], runs: evaluate_human.Runs
) -> None:
    """HumanEval's single lines; without a model, the copy baseline. A model that only continues sees no suffix."""
    with_suffix = model is None or model.infills
    row = "HumanEval single line, " + BOTH[with_suffix]
    with report.timed(f"{name}: HumanEval, writing"):
        greedy = (
            evaluate_human.lines_copied(tasks)
            if model is None
            else evaluate_human.lines_written(model, tasks, with_suffix, GREEDY)
        )
        drawn = (
            evaluate_human.lines_written(model, tasks, True, evaluate_human.SAMPLING)
            if model is not None and model.infills
            else None
        )
    with report.timed(f"{name}: HumanEval, running"):
        report.figures[f"{row}, exact"][name] = evaluate_human.exact(tasks, greedy)
        passes = evaluate_human.passes(tasks, greedy, runs)
        report.figures[f"{row}, pass@1 greedy"][name] = evaluate_human.passed_at(1, passes)
        if drawn is not None:
            results = evaluate_human.passes(tasks, drawn, runs)
            for k in (1, 10):
                said = f"{row}, pass@{k} at {evaluate_human.SAMPLING.temperature}"
                report.figures[said][name] = evaluate_human.passed_at(k, results)


def edit_figures(report: Report, name: str, model: Model, edits: Sequence[EditSample]) -> None:
    """Synthetic edits, written freely and by the server."""
    with report.timed(f"{name}: edits, plain"):
        found = zip(edits, evaluate_edits.diffs(model, edits), strict=True)
        plain = [applied(edit.before, diff) if diff else None for edit, diff in found]
    with report.timed(f"{name}: edits, server"):
        asked = [evaluate_edits.asking(edit) for edit in edits]
        served = asyncio.run(evaluate_edits.edited_by_server(model.folder, asked))
    for way, afters in (("plain", plain), ("server", served)):
        for kind, (fits, right) in evaluate_edits.by_kind(edits, afters).items():
            rows = report.figures if kind == "all" else report.kinds
            label = "edits" if kind == "all" else kind
            rows[f"{label}, {way}, applies"][name] = fits
            rows[f"{label}, {way}, exact"][name] = right


def fix_figures(
    report: Report, name: str, model: Model, bugs: Sequence[evaluate_human.Bug], runs: evaluate_human.Runs
) -> None:
    """HumanEval-fix by the server's own path."""
    with report.timed(f"{name}: HumanEval-fix"):
        for label in evaluate_human.messages(bugs[0]):
            asked = [(f"{bug.name}.py", bug.before, evaluate_human.messages(bug)[label]) for bug in bugs]
            afters = asyncio.run(evaluate_edits.edited_by_server(model.folder, asked))
            row = f"HumanEval-fix, “{label}”"
            report.figures[f"{row}, applies"][name] = Share.of(after is not None for after in afters)
            report.figures[f"{row}, pass@1"][name] = evaluate_human.repaired(bugs, afters, runs)


@dataclass(frozen=True)
class Material:
    """What the models are measured on."""

    texts: dict[str, list[str]]
    tasks: list[evaluate_human.Task]
    edits: list[EditSample]
    bugs: list[evaluate_human.Bug]


def material(options: argparse.Namespace, counts: Counts, report: Report, runs: evaluate_human.Runs) -> Material:
    """Read it, and try the canonical solutions; says what is left out and why."""
    with (options.work / "corpus" / "valid.jsonl").open() as lines:
        files = [json.loads(line) for line in lines]
    texts = evaluate_lines.by_language((file["path"], file["text"]) for file in files)
    if options.own:
        own = evaluate_lines.by_language(evaluate_lines.files_under(options.own))
        texts.update({f"own {label}": found for label, found in own.items()})
    edits_file = options.work / "edits" / "valid.jsonl"
    edits = evaluate_edits.read(edits_file) if edits_file.exists() else []
    if not edits:
        report.note(f"no edits: {edits_file} is not there")
    tasks, bugs = [], []
    with report.timed("canonical solutions"):
        if options.human_eval:
            found = evaluate_human.tasks(options.human_eval, counts.tasks)
            tasks = evaluate_human.sound(found, runs)
            report.note(
                f"HumanEval single line: the canonical line passes in {len(tasks)} of {len(found)} tasks; "
                f"the others are dropped ({sandbox.guards()})"
            )
        if options.human_eval_fix:
            fixes = evaluate_human.bugs(options.human_eval_fix, counts.fixes)
            bugs = evaluate_human.sound_bugs(fixes, runs)
            report.note(
                f"HumanEval-fix: in {len(bugs)} of {len(fixes)} tasks the canonical solution passes and the "
                "buggy one fails; the others are dropped"
            )
    assert all(runs.passed(task.program(task.hole.middle)) for task in tasks)
    return Material(texts, tasks, evaluate_edits.some_of_each(edits, counts.edits_per_kind), bugs)


def measured(
    report: Report, name: str, folder: Path, given: Material, counts: Counts, runs: evaluate_human.Runs
) -> None:
    """All figures of one model that infills and edits, or of one that continues."""
    model = Model(folder)
    if not model.infills:
        counts = counts.fewer()
    text_figures(report, name, model, given.texts, counts)
    hole_figures(report, name, model, given.texts.get("python", []), counts)
    tasks = evaluate_human.spread(given.tasks, counts.tasks) if given.tasks else []
    if tasks:
        human_figures(report, name, model, tasks, runs)
    if model.infills and given.edits:
        edit_figures(report, name, model, given.edits)
    if model.infills and given.bugs:
        fix_figures(report, name, model, given.bugs, runs)
    print(table(report.figures, [name]), file=sys.stderr, flush=True)  # nothing is lost if a later model fails


def models(options: argparse.Namespace, report: Report, scratch: Path) -> dict[str, Path]:
    """The columns' names and folders."""
    found = {"model": options.model}
    if options.against:
        found["against"] = options.against
    if options.smollm and options.smollm.exists():
        found["SmolLM2-135M"] = folder_of(options.smollm, scratch)
    else:
        missing = f"{options.smollm} is not there" if options.smollm else "no --smollm (see training.smollm)"
        report.note(f"SmolLM2-135M is left out: {missing}")
    return found


def evaluate(options: argparse.Namespace, counts: Counts) -> tuple[Report, dict[str, Any]]:
    """All figures of all models, and the models' descriptions."""
    report, runs = Report(), evaluate_human.Runs()
    with tempfile.TemporaryDirectory() as scratch:
        columns = models(options, report, Path(scratch))
        given = material(options, counts, report, runs)
        for name, folder in columns.items():
            measured(report, name, folder, given, counts, runs)
    hole_figures(report, COPY, None, given.texts.get("python", []), counts)
    if given.tasks:
        human_figures(report, COPY, None, given.tasks, runs)
    return report, {name: description(folder) for name, folder in columns.items()}


def description(folder: Path) -> dict[str, Any]:
    """What a folder's model.json says of it, as far as it matters here."""
    file = folder / "model.json"
    about = json.loads(file.read_text()) if file.exists() else {}
    return {key: about[key] for key in ("name", "version", "sha256", "parameters") if key in about}


def shown(report: Report, columns: Sequence[str]) -> str:
    """The tables, for reading."""
    with_models = [column for column in columns if any(column in row for row in report.kinds.values())]
    parts = [table(ordered(report.figures), columns)]
    if report.kinds:
        parts.append(table(dict(sorted(report.kinds.items())), with_models))
    return "\n\n".join([*parts, "\n".join(report.notes)])


def ordered(figures: dict[str, dict[str, Figure]]) -> dict[str, dict[str, Figure]]:
    """Rows of one measure together, whichever model came to it first."""
    heads = list(dict.fromkeys(name.split(",")[0] for name in figures))
    return dict(sorted(figures.items(), key=lambda row: heads.index(row[0].split(",")[0])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--model", type=Path, default=HERE.parent / "codeclippy_ls" / "model")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another exported model, beside it")
    parser.add_argument("--smollm", type=Path, metavar="FOLDER_OR_GGUF", help="SmolLM2-135M, by training.smollm")
    parser.add_argument("--own", type=Path, metavar="FOLDER", help="files that are in no corpus: their bits per byte")
    parser.add_argument("--human-eval", type=Path, help="HumanEval-SingleLineInfilling as JSON lines")
    parser.add_argument("--human-eval-fix", type=Path, help="HumanEvalPack's Python part as JSON lines")
    parser.add_argument("--quick", action="store_true", help="an eighth of everything: less than two minutes")
    parser.add_argument("--bytes", type=int, default=250_000, help="of each language")
    parser.add_argument("--holes", type=int, default=200, help="of each kind")
    parser.add_argument("--tasks", type=int, default=250, help="of HumanEval, evenly over all")
    parser.add_argument("--edits-per-kind", type=int, default=6)
    parser.add_argument("--fixes", type=int, default=40, help="of HumanEval-fix, evenly over all")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    part = 8 if options.quick else 1
    sizes = (options.bytes, options.holes, options.tasks, options.edits_per_kind, options.fixes)
    start = time.monotonic()
    report, about = evaluate(options, Counts(*(max(1, size // part) for size in sizes)))
    print(shown(report, [*about, COPY]))
    seconds = {part: round(taken, 1) for part, taken in report.seconds.items()}
    figures = {"models": about, "figures": as_fields(report.figures), "edits": as_fields(report.kinds)}
    print(json.dumps({**figures, "notes": report.notes, "seconds": seconds, "all": round(time.monotonic() - start)}))


if __name__ == "__main__":
    main()
