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
from training.evaluate_lines import Hole, Measure, copied, first_line
from training.figures import Share, pass_at
from training.writer import Model, Sampling

LIMITS = sandbox.Limits(seconds=5.0, cpu_seconds=1)
SAMPLING = Sampling(count=10, temperature=0.8, top_p=0.95)
LINE = Measure("line", lambda texts, count, rng: [], first_line, lambda text, hole: "\n" in text, 48)


@dataclass(frozen=True, slots=True)
class Task:
    """A line to fill in, and the test that runs the function it belongs to."""

    name: str
    hole: Hole
    test: str

    def program(self, middle: str) -> str:
        """The whole program with a line filled in."""
        return f"{self.hole.prefix}{middle}{self.hole.suffix}{self.test}"


@dataclass(frozen=True, slots=True)
class Bug:
    """A function with a bug, what it should be, and its test."""

    name: str
    before: str
    right: str
    test: str
    instruction: str


class Runs:
    """Programs run so far: the same one is run once."""

    def __init__(self, limits: sandbox.Limits = LIMITS) -> None:
        self.limits = limits
        self.outcomes: dict[str, sandbox.Outcome] = {}

    def passed(self, program: str) -> bool:
        """Whether a program comes to its end; one that does not compile is not run."""
        if program not in self.outcomes:
            self.outcomes[program] = sandbox.run(program, self.limits) if compiles(program) else NO_PROGRAM
        return self.outcomes[program].passed


NO_PROGRAM = sandbox.Outcome("SyntaxError")


def compiles(program: str) -> bool:
    """Whether the text is a program at all; nothing of it runs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(program, "program.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True


def read(path: Path) -> list[dict[str, Any]]:
    """JSON lines, gzipped or not."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode().splitlines()]


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """So many items, evenly over all of them: the tasks get longer towards the end."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def tasks(path: Path, count: int) -> list[Task]:
    """Single-line infilling tasks."""
    found = []
    for line in spread(read(path), count):
        hole = Hole(line["prompt"], line["canonical_solution"].rstrip("\n"), "\n" + line["suffix"])
        found.append(Task(line["task_id"], hole, f"\n{line['test']}\ncheck({line['entry_point']})\n"))
    return found


def bugs(path: Path, count: int) -> list[Bug]:
    """The tasks of HumanEval-fix."""
    return [
        Bug(
            line["entry_point"],
            line["prompt"] + line["buggy_solution"],
            line["prompt"] + line["canonical_solution"],
            line["test"],
            line["instruction"],
        )
        for line in spread(read(path), count)
    ]


def sound(found: Sequence[Task], runs: Runs) -> list[Task]:
    """The tasks whose canonical line passes its test here."""
    return [task for task in found if runs.passed(task.program(task.hole.middle))]


def lines_written(model: Model, found: Sequence[Task], with_suffix: bool, sampling: Sampling) -> list[list[str]]:
    """The answers to each task."""
    asked = [
        model.at_cursor(
            task.hole.prefix, task.hole.suffix if with_suffix else "", lambda text: "\n" in text, LINE.tokens
        )
        for task in found
    ]
    return [
        [first_line(text, task.hole) for text in texts]
        for task, texts in zip(found, model.write(asked, LINE.tokens, sampling), strict=True)
    ]


def lines_copied(found: Sequence[Task]) -> list[list[str]]:
    """The copy baseline's answers."""
    return [[copied(task.hole, LINE, True)] for task in found]


def exact(found: Sequence[Task], answers: Sequence[Sequence[str]]) -> Share:
    """The share of first answers that are the canonical line."""
    return Share.of(texts[0] == task.hole.middle.rstrip() for task, texts in zip(found, answers, strict=True))


def passes(found: Sequence[Task], answers: Sequence[Sequence[str]], runs: Runs) -> list[list[bool]]:
    """Which answers pass the test."""
    return [[runs.passed(task.program(text)) for text in texts] for task, texts in zip(found, answers, strict=True)]


def passed_at(k: int, results: Iterable[Sequence[bool]]) -> Share:
    """pass@k over tasks."""
    return Share.of(pass_at(k, result) for result in results)


def messages(bug: Bug) -> dict[str, str]:
    """What the server is asked, by the name of the row: as the editor's preset does, and with the task spelt out."""
    return {"Fix the bug": "Fix the bug", "Fix the bug, and the task": f"Fix the bug. {bug.instruction}"}


def repaired(found: Sequence[Bug], afters: Sequence[str | None], runs: Runs) -> Share:
    """The share of bugs after whose edit the test passes; a refused edit leaves the bug."""
    return Share.of(
        after is not None and runs.passed(f"{after}\n{bug.test}\n") for bug, after in zip(found, afters, strict=True)
    )


def sound_bugs(found: Sequence[Bug], runs: Runs) -> list[Bug]:
    """The bugs whose correction passes its test here, and that do fail it."""
    return [
        bug
        for bug in found
        if runs.passed(f"{bug.right}\n{bug.test}\n") and not runs.passed(f"{bug.before}\n{bug.test}\n")
    ]
