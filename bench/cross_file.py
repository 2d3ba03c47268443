"""Measure what other files of a project add to suggestions, at places where the next line needs them.

    python -m bench.cross_file TREE... --suffix .py --model FOLDER [--places 100] [--plain 50] [--modes alone open ...]

TREE is the whole tree of a package or project. At each place a line that uses a name which another file of the tree
defines is removed, and the engine writes it again, greedily and without a time limit, until a token is wrong.
Four kinds of context: *alone*, the file itself; *open*, the three nearest other files are open; *workspace*, the tree's
index; *oracle*, the first lines of the definitions that the line needs. Of each:

- *exact*: the line equals the one that stood there;
- *names*: the line is right up to the last of the wanted names;
- *shown*: all wanted names are in what the prompt shows of other files;
- *nats*: the mean cost of a token of the right line.

With ``--at-name`` the cursor is not at the line's start but right before the first wanted name, as in CrossCodeEval.

``--plain`` adds places whose line uses no name of another file. ``--recall`` runs no model and counts *shown* alone.
The limits of prompts are fixed, so that figures do not depend on how busy the machine is. Each answer is a line of
JSON in ``--out``; a run goes on where an earlier one ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cross_file_places import CrossFilePlace, find_places, move_to_name
from codeclippy_ls.assist.context import ChosenContext, ContextChooser, ContextPart, Cursor
from codeclippy_ls.engines import open_thread_engine
from codeclippy_ls.index.building import update_index
from codeclippy_ls.index.files import list_files, read_source
from codeclippy_ls.index.reader import FolderIndex
from codeclippy_ls.inference import speed
from codeclippy_ls.inference.engine import Engine
from codeclippy_ls.inference.requests import FinishReason, Request, Sampling
from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.prompts.context import CompletionContext
from codeclippy_ls.prompts.context_snippets import OpenFile, Snippet
from codeclippy_ls.settings import Settings, parse
from codeclippy_ls.syntax.languages import language_of_file
from codeclippy_ls.syntax.tree import DocumentTrees
from codeclippy_ls.tasks.completion import CompletionTask
from codeclippy_ls.text import Document

MODES = ("alone", "open", "workspace", "oracle")
_OPEN_FILES = 3
_MAX_TOKENS = 48


class Trees:
    """The indexes of the trees, and what is open in them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._indexes: dict[Path, FolderIndex] = {}
        for folder in folders:
            update_index(folder)
            self._indexes[folder] = FolderIndex(folder)

    def find_index(self, document: Document) -> FolderIndex | None:
        """Return the index of the tree that a document is in."""
        path = Path(document.uri.removeprefix("file://"))
        return next((index for index in self._indexes.values() if index.contains(path) is not None), None)

    def list_open_files(self, place: CrossFilePlace) -> list[OpenFile]:
        """Return the files nearest to a place's, as if they were open in an editor."""
        suffix = Path(place.path).suffix
        own = posixpath.dirname(place.path)
        paths = [path for path in list_files(place.folder) if path != place.path and path.endswith(suffix)]
        paths.sort(key=lambda path: (posixpath.dirname(path) != own, len(path.split("/")), path))
        read = ((path, read_source(place.folder, path)) for path in paths[:_OPEN_FILES])
        return [OpenFile(path, found[0]) for path, found in read if found is not None]


def make_settings(model: str, mode: str, threads: int) -> Settings:
    """Make the settings of a kind of context."""
    context = {"alone": "off", "open": "open", "workspace": "workspace", "oracle": "off"}[mode]
    options = {
        "model": {"completion": model, "engine": "in-process", "threads": threads},
        "completion": {"context": context, "invokedBudgetMs": 60000, "temperature": 0, "multiline": False,
                       "prefetch": False, "debounce": False, "copiedCode": "show"},
    }  # fmt: skip
    settings, problems = parse(options)
    assert not problems, problems
    return settings


def make_oracle(place: CrossFilePlace) -> ChosenContext:
    """Return the lines that define what a place needs."""
    parts = [ContextPart(Snippet(one.path, "\n".join(one.lines).rstrip()), ("oracle",)) for one in place.definitions]
    return ChosenContext(tuple(parts), place.path, place.folder.name)


def make_document(place: CrossFilePlace, number: int) -> Document:
    """Make the document of a place; the number keeps documents of one file apart."""
    language = language_of_file(place.path)
    uri = f"file://{place.folder / place.path}"
    return Document(uri, place.prefix + place.suffix, number, language.id if language is not None else "")


class Choosers:
    """Chooses the context of places, with the real code but for the oracle."""

    def __init__(self, trees: Trees, context_tokens: int) -> None:
        self._trees, self._tokens = trees, context_tokens

    def choose(self, place: CrossFilePlace, mode: str) -> ChosenContext:
        """Choose the context of a place."""
        if mode == "oracle":
            return make_oracle(place)
        files = [] if mode == "alone" else self._trees.list_open_files(place)
        selector = ContextChooser(lambda document: files, self._trees.find_index, DocumentTrees())
        settings = make_settings("", mode, 1)
        cursor = Cursor(make_document(place, 1), place.prefix, place.suffix)
        opened = files if mode == "open" else []
        return selector.choose(settings, cursor, opened, self._tokens)


def is_shown(place: CrossFilePlace, chosen: ChosenContext) -> bool:
    """Return whether all wanted names are in a context."""
    words = set(re.findall(r"\w+", "\n".join(part.snippet.text for part in chosen.parts)))
    return set(place.wanted) <= words


@dataclass(frozen=True, slots=True)
class LineTask(CompletionTask):
    """A line at a place; ends where it differs from the one that stood there, which saves most of the time."""

    wanted_line: str = ""

    def is_done(self, text: str, prompt: Any) -> bool:
        """Return whether the line is whole, or wrong."""
        written = text[len(prompt.healing_prefix) :]
        return "\n" in written or not self.wanted_line.startswith(written)


async def answer(engine: Engine, place: CrossFilePlace, chosen: ChosenContext) -> tuple[str, float | None]:
    """Return the part of a place's line that greedy decoding writes right, with a line end if it is all of it.

    And the nats that a token of the right line costs; ``None`` if it could not be scored.
    """
    language = language_of_file(place.path)
    context = CompletionContext(
        place.prefix,
        place.suffix,
        posixpath.basename(place.path),
        language.id if language is not None else "",
        chosen.snippets,
        path=chosen.path,
        repository=chosen.repository,
    )
    task = LineTask(context, _MAX_TOKENS, multiline=False, guess=place.line, wanted_line=place.line)
    sampling = Sampling(max_tokens=_MAX_TOKENS, temperature=0.0, use_drafts=False)
    generation = await engine.submit(Request(task, sampling, ModelRole.COMPLETE)).result()
    candidate = generation.candidates[0]
    line, end, _ = str(candidate.answer).partition("\n")
    is_whole = line.rstrip() == place.line and (bool(end) or candidate.finish_reason is FinishReason.END)
    nats = next((-one.logprob for one in generation.candidates if one.is_guess), None)
    return posixpath.commonprefix([line, place.line]) + ("\n" if is_whole else ""), nats


async def measure(args: argparse.Namespace) -> None:
    """Measure all places with all kinds of context; append each answer to ``--out``."""
    folders = [Path(tree).resolve() for tree in args.trees]
    trees = Trees(folders)
    choosers = Choosers(trees, args.context_tokens)
    places = find_places(folders, args.suffix, args.places, args.seed, needed=True)
    plain = find_places(folders, args.suffix, args.plain, args.seed, needed=False)
    if args.at_name:
        places = [move_to_name(place) for place in places]
    if args.recall:
        report_recall(choosers, places, args.modes)
        return
    speed.Speed.limit_prompt = lambda self, context_length: min(context_length, args.prompt_tokens)  # type: ignore[method-assign]
    out = Path(args.out)
    done = {(row["number"], row["needed"], row["mode"]) for row in read_rows(out)}
    engine = open_thread_engine(make_settings(args.model, "alone", args.threads))
    await engine.load(ModelRole.COMPLETE).result()
    order = [(number, True, place) for number, place in enumerate(places)]
    order += [(number, False, place) for number, place in enumerate(plain)]
    for number, needed, place in sorted(order, key=lambda item: (item[0], not item[1])):
        for mode in args.modes if needed else [mode for mode in args.modes if mode != "oracle"]:
            if (number, needed, mode) not in done:
                chosen = choosers.choose(place, mode)
                right, nats = await answer(engine, place, chosen)
                row = {**make_row(place, right, chosen), "nats": nats}
                append_row(out, {"number": number, "needed": needed, "mode": mode, **row})
    engine.close()
    engine.join(10)
    report(read_rows(out))


def report_recall(choosers: Choosers, places: Sequence[CrossFilePlace], modes: Iterable[str]) -> None:
    """Print at how many places the wanted names are shown."""
    for mode in modes:
        shown = [is_shown(place, choosers.choose(place, mode)) for place in places]
        print(f"{mode}: shown at {sum(shown)} of {len(shown)} places ({sum(shown) / max(1, len(shown)):.1%})")


def make_row(place: CrossFilePlace, right: str, chosen: ChosenContext) -> dict[str, Any]:
    """Judge an answer by the part of it that is right."""
    return {
        "exact": right.endswith("\n"),
        "names": all(re.search(rf"\b{re.escape(name)}\W", right) for name in place.wanted),
        "shown": is_shown(place, chosen),
        "right": right,
        "line": place.line,
        "path": place.path,
        "wanted": place.wanted,
    }


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append an answer."""
    with path.open("a") as stream:
        stream.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the answers so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(rows: Iterable[dict[str, Any]]) -> None:
    """Print the shares by kind of context, over the places that all kinds have answered."""
    rows = list(rows)
    for needed in (True, False):
        some = [row for row in rows if row["needed"] is needed]
        modes = [mode for mode in MODES if any(row["mode"] == mode for row in some)]
        sets = [{row["number"] for row in some if row["mode"] == mode} for mode in modes]
        numbers = set.intersection(*sets) if sets else set()
        print(f"{len(numbers)} places that need {'another' if needed else 'no other'} file")
        for mode in modes:
            mine = [row for row in some if row["mode"] == mode and row["number"] in numbers]
            scored = [row["nats"] for row in mine if row.get("nats") is not None]
            cells = [
                f"{key} {sum(row[key] for row in mine) / max(1, len(mine)):.1%}" for key in ("exact", "names", "shown")
            ]
            cells = cells if needed else cells[:1]
            if scored:
                cells.append(f"nats {sum(scored) / len(scored):.2f}")
            print(f"  {mode:10} " + ", ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*")
    parser.add_argument("--suffix", nargs="+", default=[".py"])
    parser.add_argument("--model", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--places", type=int, default=100)
    parser.add_argument("--plain", type=int, default=0)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--prompt-tokens", type=int, default=1024)
    parser.add_argument("--context-tokens", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-name", action="store_true", help="the cursor is right before the first wanted name")
    parser.add_argument("--recall", action="store_true")
    parser.add_argument("--report", action="store_true", help="print the answers so far")
    parser.add_argument("--out", default="cross_file.jsonl")
    args = parser.parse_args()
    if args.report:
        report(read_rows(Path(args.out)))
    else:
        asyncio.run(measure(args))


if __name__ == "__main__":
    main()
