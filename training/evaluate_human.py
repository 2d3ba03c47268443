"""HumanEval: single lines filled in and run, and small bugs fixed and run.

A task counts only where its canonical solution passes here; those that do not are dropped and counted. Programs run
in `sandbox`, never in this process.
"""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training import sandbox
from training.evaluate_lines import InfillCase, InfillTask, copy_longest_match, take_first_line
from training.figures import Proportion, estimate_pass_at_k
from training.writer import Model, Sampling

LIMITS = sandbox.Limits(seconds=5.0, cpu_seconds=1)
SAMPLING = Sampling(count=10, temperature=0.8, top_p=0.95)
LINE_TASK = InfillTask("line", lambda texts, count, rng: [], take_first_line, lambda text, hole: "\n" in text, 48)


@dataclass(frozen=True, slots=True)
class HumanEvalTask:
    """A line to fill in, and the test that runs the function it belongs to."""

    name: str
    case: InfillCase
    test: str

    def build_program(self, middle: str) -> str:
        """The whole program with a line filled in."""
        return f"{self.case.prefix}{middle}{self.case.suffix}{self.test}"


@dataclass(frozen=True, slots=True)
class FixTask:
    """A function with a bug, what it should be, and its test."""

    name: str
    before: str
    after: str
    test: str
    instruction: str


class ProgramRunner:
    """Programs run so far: the same one is run once."""

    def __init__(self, limits: sandbox.Limits = LIMITS) -> None:
        self.limits = limits
        self.outcomes: dict[str, sandbox.Outcome] = {}

    def passes(self, program: str) -> bool:
        """Whether a program comes to its end; one that does not compile is not run."""
        if program not in self.outcomes:
            self.outcomes[program] = (
                sandbox.run_program(program, self.limits) if is_valid_python(program) else NO_PROGRAM
            )
        return self.outcomes[program].passed


NO_PROGRAM = sandbox.Outcome("SyntaxError")


def is_valid_python(program: str) -> bool:
    """Whether the text is a program at all; nothing of it runs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(program, "program.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True


def read_tasks(path: Path) -> list[dict[str, Any]]:
    """JSON lines, gzipped or not."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode().splitlines()]


def select_evenly(items: Sequence[Any], count: int) -> list[Any]:
    """So many items, evenly over all of them: the tasks get longer towards the end."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def load_tasks(path: Path, count: int) -> list[HumanEvalTask]:
    """Single-line infilling tasks."""
    found = []
    for line in select_evenly(read_tasks(path), count):
        hole = InfillCase(line["prompt"], line["canonical_solution"].rstrip("\n"), "\n" + line["suffix"])
        found.append(HumanEvalTask(line["task_id"], hole, f"\n{line['test']}\ncheck({line['entry_point']})\n"))
    return found


def load_fix_tasks(path: Path, count: int) -> list[FixTask]:
    """The tasks of HumanEval-fix."""
    return [
        FixTask(
            line["entry_point"],
            line["prompt"] + line["buggy_solution"],
            line["prompt"] + line["canonical_solution"],
            line["test"],
            line["instruction"],
        )
        for line in select_evenly(read_tasks(path), count)
    ]


def filter_solvable(found: Sequence[HumanEvalTask], runs: ProgramRunner) -> list[HumanEvalTask]:
    """The tasks whose canonical line passes its test here."""
    return [task for task in found if runs.passes(task.build_program(task.case.middle))]


def generate_lines(
    model: Model, found: Sequence[HumanEvalTask], with_suffix: bool, sampling: Sampling
) -> list[list[str]]:
    """The answers to each task."""
    asked = [
        model.make_request(
            task.case.prefix, task.case.suffix if with_suffix else "", lambda text: "\n" in text, LINE_TASK.max_tokens
        )
        for task in found
    ]
    return [
        [take_first_line(text, task.case) for text in texts]
        for task, texts in zip(found, model.generate(asked, LINE_TASK.max_tokens, sampling), strict=True)
    ]


def copy_lines(found: Sequence[HumanEvalTask]) -> list[list[str]]:
    """The copy baseline's answers."""
    return [[copy_longest_match(task.case, LINE_TASK, True)] for task in found]


def score_exact(found: Sequence[HumanEvalTask], answers: Sequence[Sequence[str]]) -> Proportion:
    """The share of first answers that are the canonical line."""
    return Proportion.from_results(
        texts[0] == task.case.middle.rstrip() for task, texts in zip(found, answers, strict=True)
    )


def run_answers(
    found: Sequence[HumanEvalTask], answers: Sequence[Sequence[str]], runs: ProgramRunner
) -> list[list[bool]]:
    """Which answers pass the test."""
    return [
        [runs.passes(task.build_program(text)) for text in texts] for task, texts in zip(found, answers, strict=True)
    ]


def score_pass_at_k(k: int, results: Iterable[Sequence[bool]]) -> Proportion:
    """pass@k over tasks."""
    return Proportion.from_results(estimate_pass_at_k(k, result) for result in results)


def make_messages(bug: FixTask) -> dict[str, str]:
    """What the server is asked, by the name of the row: as the editor's preset does, and with the task spelt out."""
    return {"Fix the bug": "Fix the bug", "Fix the bug, and the task": f"Fix the bug. {bug.instruction}"}


def score_fixes(found: Sequence[FixTask], afters: Sequence[str | None], runs: ProgramRunner) -> Proportion:
    """The share of bugs after whose edit the test passes; a refused edit leaves the bug."""
    return Proportion.from_results(
        after is not None and runs.passes(f"{after}\n{bug.test}\n") for bug, after in zip(found, afters, strict=True)
    )


def filter_reproducible(found: Sequence[FixTask], runs: ProgramRunner) -> list[FixTask]:
    """The bugs whose correction passes its test here, and that do fail it."""
    return [
        bug
        for bug in found
        if runs.passes(f"{bug.after}\n{bug.test}\n") and not runs.passes(f"{bug.before}\n{bug.test}\n")
    ]
