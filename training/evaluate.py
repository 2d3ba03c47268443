"""Evaluate an exported model on data it was not trained on: held-out packages, held-out edits, HumanEval.

Prints one table with a column per model: the exported one, another one (`--against`, such as the previous release),
SmolLM2-135M (`--smollm`, see `training.smollm`; continuation only), and a baseline that copies nearby text. Every
metric has its count, every proportion its 95 % interval (Wilson). Decoding is greedy except for pass@10. The last line
is JSON. `evaluate_lines`, `evaluate_human` and `evaluate_edits` document their metrics.
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

import torch

from training import evaluate_edits, evaluate_human, evaluate_lines, sandbox
from training.edits import EditSample
from training.generation import GREEDY, Model
from training.metrics import Metric, Proportion, format_table, table_to_dict
from training.smollm import resolve_folder
from training.snippets import apply_diff

HERE = Path(__file__).resolve().parent
COPY_BASELINE = "copy"
CONTINUATION_TASKS = ("rest of line", "next line, from its indentation")  # for a model without infill
SUFFIX_LABELS = {True: "with suffix", False: "without suffix"}


@dataclass
class Report:
    """Metrics by name and model, metrics of edits by kind, and the seconds of each part."""

    metrics: dict[str, dict[str, Metric]] = field(default_factory=lambda: defaultdict(dict))
    metrics_by_kind: dict[str, dict[str, Metric]] = field(default_factory=lambda: defaultdict(dict))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    notes: list[str] = field(default_factory=list)

    def add_note(self, text: str) -> None:
        """Add and print a note for the reader of the table."""
        self.notes.append(text)
        print(text, file=sys.stderr, flush=True)

    @contextmanager
    def measure_time(self, part: str) -> Iterator[None]:
        """Add up and print the seconds of a part."""
        start = time.monotonic()
        yield
        self.seconds[part] += time.monotonic() - start
        print(f"{part}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class SampleSizes:
    """The amount of data for each metric."""

    bytes: int
    infill_cases: int
    tasks: int
    edits_per_kind: int
    fixes: int

    def reduce(self) -> SampleSizes:
        """Reduce the sizes for a model that is twenty times as large and only continues text."""
        return SampleSizes(self.bytes // 8, max(1, self.infill_cases // 3), max(1, self.tasks // 3), 0, 0)


def measure_text(report: Report, name: str, model: Model, texts: dict[str, list[str]], sizes: SampleSizes) -> None:
    """Measure bits per byte for each language."""
    with report.measure_time(f"{name}: bits per byte"):
        for label, found in texts.items():
            files = evaluate_lines.select_files(found, sizes.bytes)
            report.metrics[f"bits per byte, {label}"][name] = evaluate_lines.measure_bits_per_byte(model, files)


def measure_infill(report: Report, name: str, model: Model | None, python: Sequence[str], sizes: SampleSizes) -> None:
    """Measure exact line ends, next lines and blocks of the model, or of the copy baseline if it is None."""
    with report.measure_time(f"{name}: lines and blocks"):
        for task in evaluate_lines.INFILL_TASKS:
            if model is not None and not model.supports_infill and task.name not in CONTINUATION_TASKS:
                continue
            cases = task.draw_cases(python, sizes.infill_cases, random.Random(1))
            for with_suffix, label in SUFFIX_LABELS.items():
                if model is not None and with_suffix and not model.supports_infill:
                    continue
                answers = (
                    [evaluate_lines.copy_longest_match(case, task, with_suffix) for case in cases]
                    if model is None
                    else evaluate_lines.generate_answers(model, task, cases, with_suffix)
                )
                report.metrics[f"{task.name}, {label}"][name] = evaluate_lines.score_exact(answers, cases)


def measure_human_eval(
    report: Report,
    name: str,
    model: Model | None,
    tasks: Sequence[evaluate_human.HumanEvalTask],
    runner: evaluate_human.ProgramRunner,
) -> None:
    """Measure single lines of HumanEval of the model, or of the copy baseline if it is None.

    A model without infill gets no suffix.
    """
    with_suffix = model is None or model.supports_infill
    row = "HumanEval single line, " + SUFFIX_LABELS[with_suffix]
    with report.measure_time(f"{name}: HumanEval, writing"):
        greedy = (
            evaluate_human.copy_lines(tasks)
            if model is None
            else evaluate_human.generate_lines(model, tasks, with_suffix, GREEDY)
        )
        drawn = (
            evaluate_human.generate_lines(model, tasks, True, evaluate_human.SAMPLING)
            if model is not None and model.supports_infill
            else None
        )
    with report.measure_time(f"{name}: HumanEval, running"):
        report.metrics[f"{row}, exact"][name] = evaluate_human.score_exact(tasks, greedy)
        passes = evaluate_human.run_answers(tasks, greedy, runner)
        report.metrics[f"{row}, pass@1 greedy"][name] = evaluate_human.score_pass_at_k(1, passes)
        if drawn is not None:
            results = evaluate_human.run_answers(tasks, drawn, runner)
            for k in (1, 10):
                label = f"{row}, pass@{k} at {evaluate_human.SAMPLING.temperature}"
                report.metrics[label][name] = evaluate_human.score_pass_at_k(k, results)


def measure_edits(report: Report, name: str, model: Model, edits: Sequence[EditSample]) -> None:
    """Measure synthetic edits, by plain decoding and by the server."""
    with report.measure_time(f"{name}: edits, plain"):
        found = zip(edits, evaluate_edits.generate_diffs(model, edits), strict=True)
        plain = [apply_diff(edit.before, diff) if diff else None for edit, diff in found]
    with report.measure_time(f"{name}: edits, server"):
        requests = [evaluate_edits.make_request(edit) for edit in edits]
        served = asyncio.run(evaluate_edits.edit_by_server(model.folder, requests))
    for way, afters in (("plain", plain), ("server", served)):
        for kind, (fits, right) in evaluate_edits.score_by_kind(edits, afters).items():
            rows = report.metrics if kind == "all" else report.metrics_by_kind
            label = "edits" if kind == "all" else kind
            rows[f"{label}, {way}, applies"][name] = fits
            rows[f"{label}, {way}, exact"][name] = right


def measure_fixes(
    report: Report,
    name: str,
    model: Model,
    bugs: Sequence[evaluate_human.FixTask],
    runner: evaluate_human.ProgramRunner,
) -> None:
    """Measure HumanEval-fix with edits by the server."""
    with report.measure_time(f"{name}: HumanEval-fix"):
        for label in evaluate_human.make_messages(bugs[0]):
            requests = [(f"{bug.name}.py", bug.before, evaluate_human.make_messages(bug)[label]) for bug in bugs]
            afters = asyncio.run(evaluate_edits.edit_by_server(model.folder, requests))
            row = f"HumanEval-fix, “{label}”"
            report.metrics[f"{row}, applies"][name] = Proportion.from_results(after is not None for after in afters)
            report.metrics[f"{row}, pass@1"][name] = evaluate_human.score_fixes(bugs, afters, runner)


@dataclass(frozen=True)
class EvaluationData:
    """The data that the models are measured on."""

    texts: dict[str, list[str]]
    tasks: list[evaluate_human.HumanEvalTask]
    edits: list[EditSample]
    fix_tasks: list[evaluate_human.FixTask]


def load_data(
    options: argparse.Namespace, sizes: SampleSizes, report: Report, runner: evaluate_human.ProgramRunner
) -> EvaluationData:
    """Load the data and run the canonical solutions; note what is left out and why."""
    with (options.work / "corpus" / "valid.jsonl").open() as lines:
        files = [json.loads(line) for line in lines]
    texts = evaluate_lines.group_by_language((file["path"], file["text"]) for file in files)
    if options.own:
        own = evaluate_lines.group_by_language(evaluate_lines.iter_files(options.own))
        texts.update({f"own {label}": found for label, found in own.items()})
    edits_file = options.work / "edits" / "valid.jsonl"
    edits = evaluate_edits.read_edits(edits_file) if edits_file.exists() else []
    if not edits:
        report.add_note(f"no edits: {edits_file} does not exist")
    tasks, bugs = [], []
    with report.measure_time("canonical solutions"):
        if options.human_eval:
            found = evaluate_human.load_tasks(options.human_eval, sizes.tasks)
            tasks = evaluate_human.filter_solvable(found, runner)
            report.add_note(
                f"HumanEval single line: the canonical line passes in {len(tasks)} of {len(found)} tasks; "
                f"the others are dropped ({sandbox.describe_isolation()})"
            )
        if options.human_eval_fix:
            fixes = evaluate_human.load_fix_tasks(options.human_eval_fix, sizes.fixes)
            bugs = evaluate_human.filter_reproducible(fixes, runner)
            report.add_note(
                f"HumanEval-fix: in {len(bugs)} of {len(fixes)} tasks the canonical solution passes and the "
                "buggy one fails; the others are dropped"
            )
    assert all(runner.passes(task.build_program(task.case.middle)) for task in tasks)
    return EvaluationData(texts, tasks, evaluate_edits.select_per_kind(edits, sizes.edits_per_kind), bugs)


def measure_model(
    report: Report,
    name: str,
    folder: Path,
    data: EvaluationData,
    sizes: SampleSizes,
    runner: evaluate_human.ProgramRunner,
) -> None:
    """Measure all metrics that a model supports."""
    model = Model(folder)
    if not model.supports_infill:
        sizes = sizes.reduce()
    measure_text(report, name, model, data.texts, sizes)
    measure_infill(report, name, model, data.texts.get("python", []), sizes)
    tasks = evaluate_human.select_evenly(data.tasks, sizes.tasks) if data.tasks else []
    if tasks:
        measure_human_eval(report, name, model, tasks, runner)
    if model.supports_infill and data.edits:
        measure_edits(report, name, model, data.edits)
    if model.supports_infill and data.fix_tasks:
        measure_fixes(report, name, model, data.fix_tasks, runner)
    print(format_table(report.metrics, [name]), file=sys.stderr, flush=True)  # kept even if a later model fails


def resolve_models(options: argparse.Namespace, report: Report, scratch: Path) -> dict[str, Path]:
    """Return the names and folders of the models to measure."""
    found = {"model": options.model}
    if options.against:
        found["against"] = options.against
    if options.smollm and options.smollm.exists():
        found["SmolLM2-135M"] = resolve_folder(options.smollm, scratch)
    else:
        missing = f"{options.smollm} does not exist" if options.smollm else "no --smollm (see training.smollm)"
        report.add_note(f"SmolLM2-135M is left out: {missing}")
    return found


def evaluate(options: argparse.Namespace, sizes: SampleSizes) -> tuple[Report, dict[str, dict[str, str | int]]]:
    """Measure all models; return the report and the descriptions of the models."""
    report, runner = Report(), evaluate_human.ProgramRunner()
    with tempfile.TemporaryDirectory() as scratch:
        columns = resolve_models(options, report, Path(scratch))
        data = load_data(options, sizes, report, runner)
        for name, folder in columns.items():
            measure_model(report, name, folder, data, sizes, runner)
    measure_infill(report, COPY_BASELINE, None, data.texts.get("python", []), sizes)
    if data.tasks:
        measure_human_eval(report, COPY_BASELINE, None, data.tasks, runner)
    return report, {name: read_description(folder) for name, folder in columns.items()}


def read_description(folder: Path) -> dict[str, str | int]:
    """Read name, version, hash and size from the model.json of a folder."""
    file = folder / "model.json"
    about = json.loads(file.read_text()) if file.exists() else {}
    return {key: about[key] for key in ("name", "version", "sha256", "parameters") if key in about}


def format_report(report: Report, columns: Sequence[str]) -> str:
    """Format the tables and the notes."""
    with_models = [column for column in columns if any(column in row for row in report.metrics_by_kind.values())]
    parts = [format_table(group_rows(report.metrics), columns)]
    if report.metrics_by_kind:
        parts.append(format_table(dict(sorted(report.metrics_by_kind.items())), with_models))
    return "\n\n".join([*parts, "\n".join(report.notes)])


def group_rows(metrics: dict[str, dict[str, Metric]]) -> dict[str, dict[str, Metric]]:
    """Group the rows of a metric, whichever model was measured first."""
    heads = list(dict.fromkeys(name.split(",")[0] for name in metrics))
    return dict(sorted(metrics.items(), key=lambda row: heads.index(row[0].split(",")[0])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--model", type=Path, default=HERE.parent / "codeclippy_ls" / "model")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another exported model for comparison")
    parser.add_argument("--smollm", type=Path, metavar="FOLDER_OR_GGUF", help="SmolLM2-135M from training.smollm")
    parser.add_argument("--own", type=Path, metavar="FOLDER", help="measure bits per byte also on these files")
    parser.add_argument("--human-eval", type=Path, help="HumanEval-SingleLineInfilling as JSON lines")
    parser.add_argument("--human-eval-fix", type=Path, help="HumanEvalPack's Python part as JSON lines")
    parser.add_argument("--quick", action="store_true", help="use an eighth of the data: less than two minutes")
    parser.add_argument("--bytes", type=int, default=250_000, help="bytes per language")
    parser.add_argument("--infill-cases", type=int, default=200, help="cases of each kind of infill")
    parser.add_argument("--tasks", type=int, default=250, help="tasks of HumanEval, spread evenly")
    parser.add_argument("--edits-per-kind", type=int, default=6)
    parser.add_argument("--fixes", type=int, default=40, help="tasks of HumanEval-fix, spread evenly")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    part = 8 if options.quick else 1
    sizes = (options.bytes, options.infill_cases, options.tasks, options.edits_per_kind, options.fixes)
    start = time.monotonic()
    report, about = evaluate(options, SampleSizes(*(max(1, size // part) for size in sizes)))
    print(format_report(report, [*about, COPY_BASELINE]))
    seconds = {part: round(taken, 1) for part, taken in report.seconds.items()}
    metrics = {
        "models": about,
        "metrics": table_to_dict(report.metrics),
        "edits": table_to_dict(report.metrics_by_kind),
    }
    print(json.dumps({**metrics, "notes": report.notes, "seconds": seconds, "all": round(time.monotonic() - start)}))


if __name__ == "__main__":
    main()
