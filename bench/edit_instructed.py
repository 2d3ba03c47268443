"""Measure instructed edits with tests (`bench.edit_tasks`): the ways of asking beside each other.

*diff* is one diff under the grammar. *alone* is the model alone: the lines in a fence, the message, and what it writes
is put in their place, token by token; *alone file* is the same with the whole file. *ours* is the first candidate as
the server makes it, *ours 3* the best of as many as it makes. All but the further candidates are greedy. Per way: edits
that pass the task's test, that apply, that are refused; tokens of the first candidate; passes of the model after the
prompt, seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.edit_asking import EditInput, ModelStats, Way, open_engine, replace_loader, request_edit
from bench.edit_tasks import InstructedTask, can_run, passes_test, read_tasks
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.inference.spec import ModelSpec
from codeclippy_ls.prompts.token_prompts import TokenPrompt
from codeclippy_ls.settings import Settings
from codeclippy_ls.tasks.edit_context import select_edit_context
from codeclippy_ls.text import Document

CANDIDATES = Settings().edit.candidates
WAYS = (
    Way("diff", True, edit_format="diff"),
    Way("alone file", False, drafts=False, is_alone=True),
    Way("alone", False, drafts=False, is_alone=True),
    Way("ours", True),
    Way(f"ours {CANDIDATES}", True, candidates=CANDIDATES),
)
_MODEL = "edit"


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """One task in one way; ``answers`` says of each candidate, best first, if it passes the test."""

    way: str
    task: str
    passes_test: bool
    is_applied: bool
    reason: str
    tokens: int
    passes: int
    seconds: float
    answers: tuple[bool, ...] = ()
    texts: tuple[str, ...] = ()


def make_input(task: InstructedTask, whole: bool) -> EditInput:
    """Make the input of a task's edit; ``whole`` selects the whole file."""
    document = Document(f"file:///{task.path}", task.before, 1, task.language)
    context = select_edit_context(document, None if whole else task.span, None, task.message)
    return EditInput(document, context, task.message)


async def run_task(engine: ThreadEngine, stats: ModelStats, task: InstructedTask, way: Way) -> TaskOutcome:
    """Request the edit of a task once, and run its test."""
    hook = stats.hook
    assert hook is not None
    hook.reset(0)

    def on_prompt(view: Any, prompt: TokenPrompt) -> None:
        hook.reset(len(prompt.token_ids))

    started = time.monotonic()
    edit_input = make_input(task, way.name == "alone file")
    sampling = {"max_tokens": Settings().edit.max_tokens}
    found = await request_edit(engine, _MODEL, edit_input, way, sampling, on_prompt=on_prompt)
    seconds = time.monotonic() - started
    texts = [result.after for result in (found, *found.others) if result.after is not None]
    answers = [await asyncio.to_thread(passes_test, task, text) for text in texts]
    return TaskOutcome(
        way.name,
        task.name,
        bool(answers) and answers[0],
        found.after is not None,
        found.reason,
        len(found.generation.candidates[0].token_ids) if found.generation else 0,
        hook.passes - hook.prefill_passes,
        round(seconds, 3),
        tuple(answers),
        tuple(texts) if way.candidates > 1 else (),
    )


async def run_tasks(
    tasks: Sequence[InstructedTask], model: str, stats: ModelStats, ways: Sequence[Way], out: Any = None
) -> list[TaskOutcome]:
    """Run each task in each way; write each outcome as a line to ``out``."""
    from codeclippy_ls.engine.loading.loader import load
    from codeclippy_ls.engine.loading.model import Model

    def make(spec: ModelSpec) -> Model:
        return stats.record(load(ModelSpec(model)))

    found: list[TaskOutcome] = []
    with replace_loader(make):
        engine = open_engine(_MODEL)
        try:
            await engine.load(_MODEL).result()
            for task in tasks:
                for way in ways:
                    found.append(await run_task(engine, stats, task, way))
                    if out is not None:
                        out.write(json.dumps(asdict(found[-1])) + "\n")
                        out.flush()
        finally:
            engine.close()
            await asyncio.to_thread(engine.join, 10.0)
    return found


def print_table(outcomes: Sequence[TaskOutcome]) -> dict[str, Any]:
    """Print a row for each way; return its numbers."""
    columns = ("tasks", "right", "applied", "refused", "any right", "tokens", "passes", "seconds")
    print(f"{'way':12}" + "".join(f"{column:>11}" for column in columns))
    rows: dict[str, Any] = {}
    for way in dict.fromkeys(outcome.way for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.way == way]
        applied = sum(outcome.is_applied for outcome in own)
        numbers = (
            len(own),
            sum(outcome.passes_test for outcome in own),
            applied,
            len(own) - applied,
            sum(any(outcome.answers) for outcome in own),
            sum(outcome.tokens for outcome in own),
            sum(outcome.passes for outcome in own),
            round(sum(outcome.seconds for outcome in own)),
        )
        rows[way] = dict(zip(columns, numbers, strict=True))
        print(f"{way:12}" + "".join(f"{number:11}" for number in numbers))
    for outcome in outcomes:
        if outcome.reason:
            print(f"  {outcome.way}: {outcome.task}: {outcome.reason[:110]}")
    return rows


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the tasks of a half, or of both; print the table."""
    tasks = [task for task in read_tasks(options.half) if can_run(task)][: options.limit]
    ways = [way for way in WAYS if not options.ways or way.name in options.ways]
    stats = ModelStats()
    out = options.out.open("a", encoding="utf-8") if options.out else None
    outcomes = asyncio.run(run_tasks(tasks, options.model, stats, ways, out))
    print(f"{len(tasks)} instructed edits with tests, by {options.model or 'the shipped model'}")
    return print_table(outcomes)
