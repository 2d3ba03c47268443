"""Measure edits with a message: how many apply, how many are right, and their cost.

    python -m bench.edits cases CLONE... --out cases.jsonl [--limit N]
    python -m bench.edits run cases.jsonl [--quick] [--model FOLDER] [--limit N]
    python -m bench.edits instructed [--half kept] [--model FOLDER] [--ways WAY...] [--limit N] [--out FILE]
    python -m bench.edits law [--documents N] [--seed N]

``cases`` takes small commits from the histories of git clones; CLONE is a folder, or NAME=FOLDER. ``law`` lets random
models edit documents of every kind (``bench.edit_law``), ``instructed`` runs edits with tests
(``bench.edit_instructed``). ``run`` requests each case's diff in several ways, side by side: *plain* is the model
alone, token by token; *drafts* is the same with speculative decoding; both are read as a diff of any source.
*constrained* is one diff under the grammar; these three are greedy. *server* is the best of as many candidates as the
server makes. The selection is the function around the change, or some lines if there is no function. Then the same is
requested from a model of CodeGen-350M's size with random weights that is made to write the right diff
(``bench.edit_replay``), which gives the cost of an edit there. Per way:

- *exact*: the text equals the commit's; *applied*: there are edits; *parses*: of these, the text is valid Python;
- *unchanged*: the answer changes nothing; *ended*: the model wrote a stop token;
- *tokens*: of the answers; *passes*: calls of the model's forward; *writing*: those after the prefill.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import edit_cases, edit_instructed, edit_law
from bench.edit_asking import EditInput, ModelStats, Way, open_engine, replace_loader, request_edit
from bench.edit_cases import Case, find_changes
from bench.edit_metrics import Outcome, measure_bandwidth, print_report, read_processor_name
from bench.edit_replay import Teacher, make_random_codegen, make_true_diff
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.inference.requests import FinishReason
from codeclippy_ls.inference.spec import ModelSpec
from codeclippy_ls.prompts.token_prompts import TokenPrompt
from codeclippy_ls.settings import Settings
from codeclippy_ls.tasks.edit_context import EditContext, select_edit_context
from codeclippy_ls.text import Document

TOKENIZERS = Path(__file__).parent.parent.parent / "shared" / "tokenizers"
WAYS = (Way("plain", False, drafts=False), Way("drafts", False), Way("constrained", True))
SERVER = Way("server", True, candidates=Settings().edit.candidates)
TOKENS = Settings().edit.max_tokens
_SMALL, _LARGEST, _AROUND = 40, 60, 15  # lines: of a file or function shown whole, around a change
_MODEL = "edit"


def is_valid_python(text: str) -> bool:
    """Return whether the text is valid Python."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def find_changed_lines(case: Case) -> tuple[int, int]:
    """Return the first and last changed line of the old text, from 0; for inserted lines, the line that they follow."""
    ranges = find_changes(case.before.split("\n"), case.after.split("\n"))
    first, last = ranges[0], ranges[-1]
    return max(first[0] - (first[0] == first[1]), 0), max(last[1] - 1, first[0] - 1, 0)


def select_lines(case: Case) -> tuple[int, int]:
    """Return the lines that a user would select: a small file, the function or class around the change, or a few."""
    count = case.before.count("\n")
    first, last = find_changed_lines(case)
    if count <= _SMALL:
        return 0, count - 1
    scopes = [
        (
            min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1,
            (node.end_lineno or node.lineno) - 1,
        )
        for node in ast.walk(ast.parse(case.before))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    enclosing = [
        scope
        for scope in scopes
        if scope[0] <= first and last <= scope[1] and scope[0] < scope[1] < scope[0] + _LARGEST
    ]
    if enclosing:
        return min(enclosing, key=lambda scope: scope[1] - scope[0])
    return max(first - _AROUND, 0), min(last + _AROUND, count - 1)


def make_edit_input(case: Case, whole: bool = False) -> EditInput:
    """Make the input of a case's edit; ``whole`` shows as much of the file as fits into the model's context."""
    document = Document(f"file:///{case.path}", case.before, 1, "python")
    span = select_lines(case)
    if not whole:
        return EditInput(document, select_edit_context(document, span, None), case.message)
    context = select_edit_context(document, None, None)
    return EditInput(document, EditContext(context.lines, context.line_numbers, *span), case.message)


async def run_case(
    engine: ThreadEngine, stats: ModelStats, case: Case, edit_input: EditInput, way: Way, on_prompt: Callable[..., None]
) -> Outcome:
    """Request the edit of a case once."""
    assert stats.hook is not None
    stats.hook.reset(0)  # a request that is refused at once takes no pass
    started = time.monotonic()
    found = await request_edit(engine, _MODEL, edit_input, way, {"max_tokens": TOKENS}, on_prompt=on_prompt)
    seconds = time.monotonic() - started
    generation, hook, after = found.generation, stats.hook, found.after
    return Outcome(
        after == case.after,
        after is not None,
        after is not None and is_valid_python(after),
        found.reason,
        generation is not None and generation.finish_reason is FinishReason.END,
        generation.prompt_tokens if generation else 0,
        len(generation.candidates[0].token_ids) if generation else 0,
        hook.passes,
        hook.prefill_passes,
        seconds,
    )


async def run_model(
    cases: Sequence[Case], model: str, stats: ModelStats, ways: Sequence[Way] = (*WAYS, SERVER)
) -> dict[str, list[Outcome]]:
    """Run each case in each way with a real model."""
    from codeclippy_ls.engine.loading.loader import load
    from codeclippy_ls.engine.loading.model import Model

    def make(spec: ModelSpec) -> Model:
        return stats.record(load(ModelSpec(model)))

    def on_prompt(view: Any, prompt: TokenPrompt) -> None:
        assert stats.hook is not None
        stats.hook.reset(len(prompt.token_ids))

    return await _run_all_ways(cases, stats, make, lambda case: on_prompt, ways)


async def run_replay(
    cases: Sequence[Case], folder: Path, stats: ModelStats, ways: Sequence[Way] = WAYS
) -> dict[str, list[Outcome]]:
    """Run each case in each way with a random model of CodeGen-350M's size that is made to write the commit's diff."""
    from codeclippy_ls.engine.loading.model import Model
    from codeclippy_ls.engine.loading.tokenizer import read_tokenizer

    def make(spec: ModelSpec) -> Model:
        return stats.record(make_random_codegen(read_tokenizer(folder)))

    def make_teacher_callback(case: Case) -> Callable[..., None]:
        after = case.after.split("\n")[:-1]

        def on_prompt(view: Any, prompt: TokenPrompt) -> None:
            assert stats.hook is not None
            lines = case.before.split("\n")[:-1]
            start, end = prompt.line_range
            text = make_true_diff(lines[start:end], after[start : len(after) - (len(lines) - end)])
            stats.hook.reset(len(prompt.token_ids))
            stop_token_ids = view.stop_token_ids | prompt.stop_token_ids
            stats.hook.process_logits = Teacher(view.tokenizer, len(prompt.token_ids), text, stop_token_ids).bias_logits

        return on_prompt

    return await _run_all_ways(cases, stats, make, make_teacher_callback, ways, whole=True)


async def _run_all_ways(
    cases: Sequence[Case],
    stats: ModelStats,
    make: Callable[[ModelSpec], Any],
    make_callback: Callable[[Case], Callable[..., None]],
    ways: Sequence[Way] = WAYS,
    whole: bool = False,
) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {way.name: [] for way in ways}
    with replace_loader(make):
        engine = open_engine(_MODEL)
        try:
            await engine.load(_MODEL).result()
            # The first passes over a model are slow.
            await run_case(engine, stats, cases[0], make_edit_input(cases[0], whole), ways[-1], make_callback(cases[0]))
            for case in cases:
                for way in ways:
                    row = await run_case(engine, stats, case, make_edit_input(case, whole), way, make_callback(case))
                    found[way.name].append(row)
        finally:
            engine.close()
            await asyncio.to_thread(engine.join, 10.0)
    return found


def sample_evenly(cases: Sequence[Case], limit: int) -> list[Case]:
    """Return up to ``limit`` of the cases, evenly spread over their order."""
    step = max(len(cases) / limit, 1.0)
    return [cases[int(index * step)] for index in range(min(limit, len(cases)))]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print both tables."""
    with options.cases.open(encoding="utf-8") as lines:
        cases = [Case(**json.loads(line)) for line in lines]
    bandwidth = measure_bandwidth()
    print(
        f"{read_processor_name()}, {os.cpu_count()} cores, Python {platform.python_version()}; {len(cases)} cases of "
        f"{len({case.repository for case in cases})} repositories"
    )
    stats = ModelStats()
    sample = sample_evenly(cases, min(options.limit, 16) if options.quick else options.limit)
    title = f"Small commits, edited by {options.model or 'the shipped model'}"
    ways = [way for way in (*WAYS, SERVER) if not options.ways or way.name in options.ways]
    results = {
        "asked": print_report(title, asyncio.run(run_model(sample, options.model, stats, ways)), stats, bandwidth)
    }
    folder = TOKENIZERS / "codegen"
    medium = [case for case in cases if 60 <= case.before.count("\n") <= 200]
    if not folder.is_dir() or not medium or not options.replay:
        reason = "no cases of 60 to 200 lines" if folder.is_dir() else f"no tokenizer in {folder}"
        print(f"\nno replay: {reason}")
        return results
    replay_sample = sample_evenly(medium, min(options.replay, 2) if options.quick else options.replay)
    ways = [way for way in WAYS if way.constrained or not way.drafts or not options.quick]
    stats = ModelStats()
    title = "Files of 60 to 200 lines; random weights of CodeGen-350M's size, made to write the right diff"
    results["replay"] = print_report(
        title, asyncio.run(run_replay(replay_sample, folder, stats, ways)), stats, bandwidth
    )
    return results


def write_cases(options: argparse.Namespace) -> dict[str, Any]:
    """Write the cases of all clones that are not refused; print which ones are."""
    counts: dict[str, int] = {}
    refused: list[str] = []
    with options.out.open("w", encoding="utf-8") as out:
        for argument in options.clones:
            source = edit_cases.open_clone(argument)
            try:
                found = edit_cases.collect_cases(source, options.limit)
                head = source.run_git("rev-parse", "HEAD").decode().strip()
            except ValueError as error:
                refused.append(str(error))
                print(f"refused: {error}", file=sys.stderr)
                continue
            counts[source.name] = len(found)
            print(f"{len(found):5} {source.name} at {head}, {found[0].licence if found else ''}")
            out.writelines(json.dumps(asdict(case)) + "\n" for case in found)
    return {"cases": sum(counts.values()), "repositories": counts, "refused": refused}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("cases", help="take cases from git clones")
    making.add_argument("clones", nargs="+", metavar="CLONE", help="a folder, or NAME=FOLDER")
    making.add_argument("--out", type=Path, required=True)
    making.add_argument("--limit", type=int, default=30, help="maximum of cases per clone")
    running = commands.add_parser("run", help="request each case's edit")
    running.add_argument("cases", type=Path)
    running.add_argument("--model", default="", help="a folder or hub name; the shipped model if not given")
    running.add_argument("--limit", type=int, default=200, help="maximum of cases")
    running.add_argument("--replay", type=int, default=12, help="maximum of cases for the random model")
    running.add_argument("--ways", nargs="+", help="only these ways in the first table")
    running.add_argument("--quick", action="store_true", help="16 cases; 2 for the random model, in two ways")
    instructing = commands.add_parser("instructed", help="request instructed edits, and run their tests")
    instructing.add_argument("--half", default="kept", choices=("kept", "search", ""), help="tasks to run")
    instructing.add_argument("--model", default="", help="a folder, file or hub name; the shipped model if not given")
    instructing.add_argument("--limit", type=int, default=1000, help="maximum of tasks")
    instructing.add_argument("--ways", nargs="+", help="only these ways")
    instructing.add_argument("--out", type=Path, help="append each outcome to a file, as a line of JSON")
    testing = commands.add_parser("law", help="check the edits of random models in documents of every kind")
    testing.add_argument("--documents", type=int, default=10_000)
    testing.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.command == "law":
        sys.exit(edit_law.main(options.documents, options.seed))
    commands_by_name = {"run": run, "instructed": edit_instructed.run, "cases": write_cases}
    print(json.dumps(commands_by_name[options.command](options)))


if __name__ == "__main__":
    main()
