"""Edits with a message: whether they apply, whether they are right, and what they cost.

    python -m bench.edits cases CLONE... --out cases.jsonl [--most N]
    python -m bench.edits run cases.jsonl [--quick] [--model FOLDER] [--most N]
    python -m bench.edits law [--documents N] [--seed N]

``cases`` takes small commits from the histories of git clones; CLONE is a folder, or NAME=FOLDER. ``law`` lets random
models edit documents of every kind (``bench.edit_law``). ``run`` asks for each case's edit in several ways, side by
side and greedily: *plain* is the model alone, token by token; *drafts* is the same with the engine's guesses; both are
read as a diff of any source. *constrained* is one diff under the grammar, *server* the best of as many as the server
makes. A user is taken to have selected the function
around the change, or some lines where there is none. Then the same is asked of a model of CodeGen-350M's size with
random weights that is told what to write (``bench.edit_replay``): what an edit costs there. Per way:

- *exact*: the text is what the commit made; *applied*: edits came out; *parses*: of these, the text is Python;
- *unchanged*: the answer changes nothing; *ended*: the model came to an end by itself;
- *tokens*: of the answers; *passes*: calls of the model's forward; *writing*: those that did not read the prompt.
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

from bench import edit_cases, edit_law
from bench.edit_asking import Asking, Facts, Way, loading, made, open_engine
from bench.edit_cases import Case, changed
from bench.edit_figures import Outcome, bandwidth, processor, report
from bench.edit_replay import Teacher, random_codegen, true_diff
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
_SMALL, _LARGEST, _AROUND = 40, 60, 15  # lines: a file shown whole, a function shown whole, those around a change
_MODEL = "edit"


def parses(text: str) -> bool:
    """Whether it is Python."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def touched(case: Case) -> tuple[int, int]:
    """First and last line of the change in the old text, from 0; of lines put in, the line they follow."""
    runs = changed(case.before.split("\n"), case.after.split("\n"))
    first, last = runs[0], runs[-1]
    return max(first[0] - (first[0] == first[1]), 0), max(last[1] - 1, first[0] - 1, 0)


def selection(case: Case) -> tuple[int, int]:
    """The lines that a user would select: a small file, the function or class around the change, or those around."""
    count = case.before.count("\n")
    first, last = touched(case)
    if count <= _SMALL:
        return 0, count - 1
    scopes = [
        (min([node.lineno, *(mark.lineno for mark in node.decorator_list)]) - 1, (node.end_lineno or node.lineno) - 1)
        for node in ast.walk(ast.parse(case.before))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    around = [
        scope
        for scope in scopes
        if scope[0] <= first and last <= scope[1] and scope[0] < scope[1] < scope[0] + _LARGEST
    ]
    if around:
        return min(around, key=lambda scope: scope[1] - scope[0])
    return max(first - _AROUND, 0), min(last + _AROUND, count - 1)


def asking(case: Case, whole: bool = False) -> Asking:
    """What the user hands over; ``whole`` shows as much of the file as fits the model's window."""
    document = Document(f"file:///{case.path}", case.before, 1, "python")
    span = selection(case)
    if not whole:
        return Asking(document, select_edit_context(document, span, None), case.message)
    every = select_edit_context(document, None, None)
    return Asking(document, EditContext(every.lines, every.line_numbers, *span), case.message)


async def outcome(
    engine: ThreadEngine, facts: Facts, case: Case, one: Asking, way: Way, begin: Callable[..., None]
) -> Outcome:
    """Ask once."""
    assert facts.watch is not None
    facts.watch.begin(0)  # what is refused at once takes no pass
    started = time.monotonic()
    found = await made(engine, _MODEL, one, way, {"max_tokens": TOKENS}, begin=begin)
    seconds = time.monotonic() - started
    generation, watch, after = found.generation, facts.watch, found.after
    return Outcome(
        after == case.after,
        after is not None,
        after is not None and parses(after),
        found.reason,
        generation is not None and generation.finish_reason is FinishReason.END,
        generation.prompt_tokens if generation else 0,
        len(generation.candidates[0].token_ids) if generation else 0,
        watch.passes,
        watch.reading,
        seconds,
    )


async def asked(
    cases: Sequence[Case], model: str, facts: Facts, ways: Sequence[Way] = (*WAYS, SERVER)
) -> dict[str, list[Outcome]]:
    """Each case in each way by a real model."""
    from codeclippy_ls.engine.loading.loader import load
    from codeclippy_ls.engine.loading.model import Model

    def make(spec: ModelSpec) -> Model:
        return facts.note(load(ModelSpec(model)))

    def begin(view: Any, prompt: TokenPrompt) -> None:
        assert facts.watch is not None
        facts.watch.begin(len(prompt.token_ids))

    return await _all_ways(cases, facts, make, lambda case: begin, ways)


async def replayed(
    cases: Sequence[Case], folder: Path, facts: Facts, ways: Sequence[Way] = WAYS
) -> dict[str, list[Outcome]]:
    """Each case in each way by a random model of CodeGen-350M's size that is told the commit's own diff."""
    from codeclippy_ls.engine.loading.model import Model
    from codeclippy_ls.engine.loading.tokenizer import read_tokenizer

    def make(spec: ModelSpec) -> Model:
        return facts.note(random_codegen(read_tokenizer(folder)))

    def told(case: Case) -> Callable[..., None]:
        after = case.after.split("\n")[:-1]

        def begin(view: Any, prompt: TokenPrompt) -> None:
            assert facts.watch is not None
            lines = case.before.split("\n")[:-1]
            start, end = prompt.line_range
            text = true_diff(lines[start:end], after[start : len(after) - (len(lines) - end)])
            facts.watch.begin(len(prompt.token_ids))
            ends = view.stop_token_ids | prompt.stop_token_ids
            facts.watch.change = Teacher(view.tokenizer, len(prompt.token_ids), text, ends).change

        return begin

    return await _all_ways(cases, facts, make, told, ways, whole=True)


async def _all_ways(
    cases: Sequence[Case],
    facts: Facts,
    make: Callable[[ModelSpec], Any],
    told: Callable[[Case], Callable[..., None]],
    ways: Sequence[Way] = WAYS,
    whole: bool = False,
) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {way.name: [] for way in ways}
    with loading(make):
        engine = open_engine(_MODEL)
        try:
            await engine.load(_MODEL).result()
            # The first passes over a model are slow.
            await outcome(engine, facts, cases[0], asking(cases[0], whole), ways[-1], told(cases[0]))
            for case in cases:
                for way in ways:
                    row = await outcome(engine, facts, case, asking(case, whole), way, told(case))
                    found[way.name].append(row)
        finally:
            engine.close()
            await asyncio.to_thread(engine.join, 10.0)
    return found


def spread(cases: Sequence[Case], most: int) -> list[Case]:
    """So many of the cases, evenly over their order."""
    step = max(len(cases) / most, 1.0)
    return [cases[int(index * step)] for index in range(min(most, len(cases)))]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Both tables."""
    with options.cases.open(encoding="utf-8") as lines:
        cases = [Case(**json.loads(line)) for line in lines]
    speed = bandwidth()
    print(
        f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}; {len(cases)} cases of "
        f"{len({case.repository for case in cases})} repositories"
    )
    facts = Facts()
    some = spread(cases, min(options.most, 16) if options.quick else options.most)
    title = f"Small commits, asked of {options.model or 'the shipped model'}"
    wanted = [way for way in (*WAYS, SERVER) if not options.ways or way.name in options.ways]
    results = {"asked": report(title, asyncio.run(asked(some, options.model, facts, wanted)), facts, speed)}
    folder = TOKENIZERS / "codegen"
    medium = [case for case in cases if 60 <= case.before.count("\n") <= 200]
    if not folder.is_dir() or not medium or not options.replay:
        why = "no cases of 60 to 200 lines are wanted or there" if folder.is_dir() else "no tokenizer is there"
        print(f"\nno replay: {why}")
        return results
    told = spread(medium, min(options.replay, 2) if options.quick else options.replay)
    ways = [way for way in WAYS if way.constrained or not way.drafts or not options.quick]
    facts = Facts()
    title = "Files of 60 to 200 lines; random weights of CodeGen-350M's size, told what to write"
    results["replay"] = report(title, asyncio.run(replayed(told, folder, facts, ways)), facts, speed)
    return results


def write_cases(options: argparse.Namespace) -> dict[str, Any]:
    """Write the cases of all clones that are not refused; says which were."""
    counts: dict[str, int] = {}
    refused: list[str] = []
    with options.out.open("w", encoding="utf-8") as out:
        for argument in options.clones:
            source = edit_cases.clone(argument)
            try:
                found = edit_cases.cases(source, options.most)
                head = source.git("rev-parse", "HEAD").decode().strip()
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
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("cases", help="take cases from git clones")
    making.add_argument("clones", nargs="+", metavar="CLONE", help="a folder, or NAME=FOLDER")
    making.add_argument("--out", type=Path, required=True)
    making.add_argument("--most", type=int, default=30, help="of one clone")
    running = verbs.add_parser("run", help="ask for each case's edit")
    running.add_argument("cases", type=Path)
    running.add_argument("--model", default="", help="a folder or hub name; the shipped model if not given")
    running.add_argument("--most", type=int, default=200, help="cases")
    running.add_argument("--replay", type=int, default=12, help="cases for the random model")
    running.add_argument("--ways", nargs="+", help="only these, of the first table")
    running.add_argument("--quick", action="store_true", help="16 cases; 2 for the random model, in two ways")
    testing = verbs.add_parser("law", help="random models, documents of every kind")
    testing.add_argument("--documents", type=int, default=10_000)
    testing.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.verb == "law":
        sys.exit(edit_law.main(options.documents, options.seed))
    print(json.dumps(run(options) if options.verb == "run" else write_cases(options)))


if __name__ == "__main__":
    main()
