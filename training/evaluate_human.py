"""Measure HumanEval: single lines filled in and run, and small bugs fixed and run.

A task counts only if its canonical solution passes on this machine; others are dropped and counted. Programs run in
`sandbox`, never in this process.
"""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from training import sandbox
from training.evaluate_lines import InfillCase, InfillTask, copy_longest_match, take_first_line
from training.generation import Model, Sampling
from training.metrics import Proportion, estimate_pass_at_k

T = TypeVar("T")

LIMITS = sandbox.Limits(seconds=5.0, cpu_seconds=1)
SAMPLING = Sampling(count=10, temperature=0.8, top_p=0.95)
LINE_TASK = InfillTask("line", lambda texts, count, rng: [], take_first_line, lambda text, case: "\n" in text, 48)


@dataclass(frozen=True, slots=True)
class HumanEvalTask:
    """A line to fill in, and the test of its function."""

    name: str
    case: InfillCase
    test: str

    def build_program(self, middle: str) -> str:
        """Build the whole program with a line filled in."""
        return f"{self.case.prefix}{middle}{self.case.suffix}{self.test}"


@dataclass(frozen=True, slots=True)
class FixTask:
    """A function with a bug, its correction, and its test."""

    name: str
    before: str
    after: str
    test: str
    instruction: str


class ProgramRunner:
    """Runs programs and remembers their outcomes, so that the same program runs once."""

    def __init__(self, limits: sandbox.Limits = LIMITS) -> None:
        self.limits = limits
        self.outcomes: dict[str, sandbox.Outcome] = {}

    def passes(self, program: str) -> bool:
        """Return True if a program runs to its end; one that does not compile is not run."""
        if program not in self.outcomes:
            self.outcomes[program] = (
                sandbox.run_program(program, self.limits) if is_valid_python(program) else NO_PROGRAM
            )
        return self.outcomes[program].passed


NO_PROGRAM = sandbox.Outcome("SyntaxError")


def is_valid_python(program: str) -> bool:
    """Return True if the text compiles; nothing of it runs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(program, "program.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True


def read_json_lines(path: Path) -> list[dict[str, str]]:
    """Read JSON lines, gzipped or not."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode().splitlines()]


def select_evenly(items: Sequence[T], count: int) -> list[T]:
    """Select `count` items evenly over all of them: later tasks are longer."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def load_tasks(path: Path, count: int) -> list[HumanEvalTask]:
    """Load tasks of HumanEval-SingleLineInfilling."""
    tasks = []
    for line in select_evenly(read_json_lines(path), count):
        case = InfillCase(line["prompt"], line["canonical_solution"].rstrip("\n"), "\n" + line["suffix"])
        tasks.append(HumanEvalTask(line["task_id"], case, f"\n{line['test']}\ncheck({line['entry_point']})\n"))
    return tasks


def load_fix_tasks(path: Path, count: int) -> list[FixTask]:
    """Load tasks of HumanEval-fix."""
    return [
        FixTask(
            line["entry_point"],
            line["prompt"] + line["buggy_solution"],
            line["prompt"] + line["canonical_solution"],
            line["test"],
            line["instruction"],
        )
        for line in select_evenly(read_json_lines(path), count)
    ]


def filter_solvable(tasks: Sequence[HumanEvalTask], runner: ProgramRunner) -> list[HumanEvalTask]:
    """Return the tasks whose canonical line passes its test on this machine."""
    return [task for task in tasks if runner.passes(task.build_program(task.case.middle))]


def generate_lines(
    model: Model, tasks: Sequence[HumanEvalTask], with_suffix: bool, sampling: Sampling
) -> list[list[str]]:
    """Generate the answers to each task."""
    requests = [
        model.make_request(
            task.case.prefix, task.case.suffix if with_suffix else "", lambda text: "\n" in text, LINE_TASK.max_tokens
        )
        for task in tasks
    ]
    return [
        [take_first_line(text, task.case) for text in texts]
        for task, texts in zip(tasks, model.generate(requests, LINE_TASK.max_tokens, sampling), strict=True)
    ]


def copy_lines(tasks: Sequence[HumanEvalTask]) -> list[list[str]]:
    """Return the answers of the copy baseline."""
    return [[copy_longest_match(task.case, LINE_TASK, True)] for task in tasks]


def score_exact(tasks: Sequence[HumanEvalTask], answers: Sequence[Sequence[str]]) -> Proportion:
    """Count the first answers that equal the canonical line."""
    return Proportion.from_results(
        texts[0] == task.case.middle.rstrip() for task, texts in zip(tasks, answers, strict=True)
    )


def run_answers(
    tasks: Sequence[HumanEvalTask], answers: Sequence[Sequence[str]], runner: ProgramRunner
) -> list[list[bool]]:
    """Run the test with each answer; return which ones pass."""
    return [
        [runner.passes(task.build_program(text)) for text in texts] for task, texts in zip(tasks, answers, strict=True)
    ]


def score_pass_at_k(k: int, results: Iterable[Sequence[bool]]) -> Proportion:
    """Compute the mean pass@k over tasks."""
    return Proportion.from_results(estimate_pass_at_k(k, result) for result in results)


def make_messages(task: FixTask) -> dict[str, str]:
    """Make the messages to the server, by the name of their row: the editor's preset, and with the instruction."""
    return {"Fix the bug": "Fix the bug", "Fix the bug, and the task": f"Fix the bug. {task.instruction}"}


def score_fixes(tasks: Sequence[FixTask], afters: Sequence[str | None], runner: ProgramRunner) -> Proportion:
    """Count the bugs whose test passes after the edit; a refused edit leaves the bug."""
    return Proportion.from_results(
        after is not None and runner.passes(f"{after}\n{task.test}\n")
        for task, after in zip(tasks, afters, strict=True)
    )


def filter_reproducible(tasks: Sequence[FixTask], runner: ProgramRunner) -> list[FixTask]:
    """Return the tasks whose test passes with the correction and fails with the bug."""
    return [
        task
        for task in tasks
        if runner.passes(f"{task.after}\n{task.test}\n") and not runner.passes(f"{task.before}\n{task.test}\n")
    ]
