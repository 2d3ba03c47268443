"""What suggestions are worth at the places where cursors stand, with each technique switched off in turn.

    python -m bench.suggest FILES [--model FOLDER] [--holes N] [--quick]

FILES is a folder of Python files, or JSON lines with ``path`` and ``text`` (the held-out part of a corpus). Each hole
is cut from a file that parses; the assistant answers as it does while somebody types, with the other files of the
package open beside it. Per kind of place:

- *shown*: the share of holes with a suggestion;
- *exact*: of all holes, those whose first line is the line that stood there; *whole*: those where all of it is;
- *similar*: of those shown, the mean similarity to what stood there (difflib's ratio);
- *harmful*: of those shown, the share that breaks the file (it does not parse any more; a head that still waits for its
  body is no harm) or repeats what follows. At *complete* places nothing is missing: only harm is counted there.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import difflib
import json
import platform
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.engines import open_thread_engine
from codeclippy_ls.prompts import pipeline, token_prompts
from codeclippy_ls.prompts.context_snippets import OpenFile
from codeclippy_ls.settings import CLEAN_UP_STEPS, parse
from codeclippy_ls.text import Document

_MOST_OPEN = 6  # other files


@dataclass(frozen=True)
class File:
    """One of a package's files."""

    package: str
    path: str
    text: str


@dataclass(frozen=True)
class Hole:
    """A cursor in a file: what stands before it, what stood there, what follows."""

    prefix: str
    middle: str
    suffix: str
    file: File = File("", "", "")


def files(source: Path) -> list[File]:
    """Python files that parse, of a moderate size."""
    if source.is_dir():
        found = [
            File(str(path.parent.name), str(path.relative_to(source)), path.read_text(encoding="utf-8"))
            for path in sorted(source.rglob("*.py"))
        ]
    else:
        with source.open() as lines:
            rows = [json.loads(line) for line in lines]
        found = [
            File(row["path"].split("/")[0], row["path"], row["text"]) for row in rows if row["path"].endswith(".py")
        ]
    return [file for file in found if 500 < len(file.text) < 60_000 and parses(file.text)]


def parses(code: str) -> bool:
    """Whether it is Python."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def code_line(text: str, rng: random.Random) -> re.Match[str] | None:
    """A line of code with something on it, no comment and no docstring's line, drawn evenly."""
    at = rng.randrange(len(text))
    found = re.compile(r"^([ \t]*)([^\s#\"'].{5,})$", re.M).search(text, at)
    return found if found and re.search(r"[=(:\[]|\b(?:return|import|raise|yield)\b", found[2]) else None


def rest_of_line(text: str, rng: random.Random) -> tuple[int, int] | None:
    """From a boundary between words to the end of the line."""
    if (line := code_line(text, rng)) is None:
        return None
    stops = [m.start() for m in re.finditer(r"(?<=[\s(\[.,=:{])(?=\S)", line[2]) if 0 < m.start() < len(line[2])]
    return (line.start(2) + rng.choice(stops), line.end()) if stops else None


def inside_word(text: str, rng: random.Random) -> tuple[int, int] | None:
    """From the middle of a word to the end of the line."""
    if (line := code_line(text, rng)) is None:
        return None
    words = list(re.finditer(r"\w{4,}", line[2]))
    if not words:
        return None
    word = rng.choice(words)
    return line.start(2) + rng.randrange(word.start() + 1, word.end()), line.end()


def new_line(text: str, rng: random.Random) -> tuple[int, int] | None:
    """A whole line behind its indentation."""
    line = code_line(text, rng)
    return (line.start(2), line.end()) if line else None


def brackets(text: str, rng: random.Random) -> tuple[int, int] | None:
    """What stands between two brackets of a line."""
    found = re.compile(r"[(\[{]([^()\[\]{}\n]{3,60})[)\]}]").search(text, rng.randrange(len(text)))
    return found.span(1) if found else None


def body(text: str, rng: random.Random) -> tuple[int, int] | None:
    """The body behind a head, at most six lines, from the indentation of its first."""
    heads = re.compile(r"^([ \t]*)(?:def|if|for|while|with|else|elif)\b.*:\n", re.M)
    head = heads.search(text, rng.randrange(len(text)))
    if head is None:
        return None
    block = re.compile(rf"(?:{head[1]}[ \t]+\S.*\n|[ \t]*\n){{1,6}}").match(text, head.end())
    if block is None or not block.group().strip():
        return None
    start = head.end() + len(block.group()) - len(block.group().lstrip())
    return start, head.end() + len(block.group().rstrip())


def complete(text: str, rng: random.Random) -> tuple[int, int] | None:
    """Nothing is missing: a boundary inside or at the end of a finished line."""
    if (line := code_line(text, rng)) is None:
        return None
    at = line.start(2) + rng.choice([m.start() for m in re.finditer(r"\b", line[2])] + [len(line[2])] * 3)
    return at, at


PLACES: dict[str, Callable[[str, random.Random], tuple[int, int] | None]] = {
    "rest of a line": rest_of_line,
    "inside a word": inside_word,
    "new line": new_line,
    "in brackets": brackets,
    "body": body,
    "complete": complete,
}


def holes(some: list[File], place: str, count: int, seed: int) -> list[Hole]:
    """So many holes of a kind, the same for a seed."""
    rng, found = random.Random(f"{seed}/{place}"), list[Hole]()
    while len(found) < count:
        file = rng.choice(some)
        span = PLACES[place](file.text, rng)
        if span is not None and (file.text[span[0] : span[1]].strip() or place == "complete"):
            found.append(Hole(file.text[: span[0]], file.text[span[0] : span[1]], file.text[span[1] :], file))
    return found


def harmful(hole: Hole, text: str) -> bool:
    """Whether the file is worse off with the suggestion than without any."""
    after = hole.prefix + text + hole.suffix
    line = after[len(hole.prefix) + len(text) - len((hole.prefix + text).rpartition("\n")[2]) :].partition("\n")[0]
    indentation = line[: len(line) - len(line.lstrip())]
    waiting = f"{hole.prefix}{text}\n{indentation} pass{hole.suffix}"
    whole = parses(after) or (text.rstrip().endswith(":") and parses(waiting))
    # A hole may leave a file that no single line can mend: then only a file that was whole can be broken.
    was_whole = parses(hole.prefix + hole.suffix) or parses(hole.prefix + "pass" + hole.suffix)
    if not whole and (was_whole or hole.middle.count("\n") == 0):
        return True
    following = [other.strip() for other in hole.suffix.split("\n") if other.strip()][:1]
    return bool(following) and len(following[0]) > 3 and text.strip().split("\n")[-1].strip() == following[0]


def beside(hole: Hole, package: list[File]) -> list[OpenFile]:
    """Some other files of the package, those of the same folder first, as an editor has some open."""
    others = sorted(
        (file for file in package if file.path != hole.file.path),
        key=lambda file: (file.path.rpartition("/")[0] != hole.file.path.rpartition("/")[0], file.path),
    )
    return [OpenFile(file.path.rpartition("/")[2], file.text) for file in others[:_MOST_OPEN]]


async def measure(
    assistant: Assistant,
    open_files: dict[str, list[OpenFile]],
    way: Way,
    cut: list[Hole],
    packages: dict[str, list[File]],
    name: str,
    show: bool,
) -> dict[str, float]:
    """The figures of a kind of place; ``name`` names the documents and must be new."""
    shown = exact = whole = harm = 0
    similar, seconds = list[float](), list[float]()
    for number, hole in enumerate(cut):
        document = Document(f"file:///bench/{name}/{number}.py", hole.prefix + hole.suffix, 1, "python")
        open_files[document.uri] = beside(hole, packages[hole.file.package])
        began = time.monotonic()
        found = await assistant.complete(
            document, len(hole.prefix), automatic=not way.by_key, candidates=way.candidates
        )
        seconds.append(time.monotonic() - began)
        assistant.forget_document(document.uri)
        del open_files[document.uri]
        if not found.items:
            continue
        text = found.items[0].text
        shown += 1
        if harmful(replace(hole, suffix=hole.suffix[found.items[0].replaces :]), text):
            harm += 1
            if show:
                print(f"{hole.prefix[-60:]!r} [{text!r}] {hole.suffix[:40]!r} was {hole.middle!r}")
        exact += text.strip().split("\n")[0].rstrip() == hole.middle.strip().split("\n")[0].rstrip()
        whole += text.strip() == hole.middle.strip()
        similar.append(difflib.SequenceMatcher(None, text, hole.middle, autojunk=False).ratio())
    return {
        "holes": len(cut),
        "shown": shown / len(cut),
        "exact": exact / len(cut),
        "whole": whole / len(cut),
        "similar": sum(similar) / max(1, len(similar)),
        "harmful": harm / max(1, shown),
        "ms": 1000 * sorted(seconds)[len(seconds) // 2],
    }


@dataclass(frozen=True)
class Way:
    """How suggestions are asked for: settings, something put in place of a function, by typing or by key."""

    settings: dict[str, Any] = field(default_factory=dict)
    patch: tuple[Any, str, Any] | None = None
    by_key: bool = False
    candidates: int = 1


_FIT = pipeline.fit_prefix_suffix
_CLEAN_UP = [name for name in CLEAN_UP_STEPS if name not in ("scope", "syntaxCheck")]
WITHOUT = {
    "nothing": Way(),
    "the gates": Way(by_key=True),
    "one candidate": Way(by_key=True, candidates=3),
    "confidence": Way({"minConfidence": 0}),
    "syntaxCheck": Way({"disabledFilters": ["syntaxCheck"]}),
    "clean-up": Way({"disabledFilters": _CLEAN_UP}),
    "both": Way({"disabledFilters": [*_CLEAN_UP, "syntaxCheck"]}),
    "healing": Way(patch=(token_prompts, "find_partial_word", lambda prefix: "")),
    "suffix": Way(
        patch=(
            pipeline,
            "fit_prefix_suffix",
            lambda renderer, prefix, suffix, budget, skipped: _FIT(renderer, prefix, "", budget, skipped),
        )
    ),
    "other files": Way({"context": "off"}),
    "the file's head": Way(patch=(pipeline, "extract_outline", lambda skipped, shown, most: "")),
}


@contextmanager
def put_in_place(patch: tuple[Any, str, Any] | None) -> Iterator[None]:
    """Something else in place of a module's own, for a while."""
    if patch is None:
        yield
        return
    room, name, replacement = patch
    original = getattr(room, name)
    setattr(room, name, replacement)
    try:
        yield
    finally:
        setattr(room, name, original)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """All places, with everything and with each technique off; prints the table as it grows."""
    found = files(options.files)
    packages: dict[str, list[File]] = {}
    for file in found:
        packages.setdefault(file.package, []).append(file)
    cut = {place: holes(found, place, options.holes, options.seed) for place in PLACES}
    base = {"timeBudgetMs": 60000, "copiedCode": "show", "prefetch": False, "debounce": False}
    settings, _ = parse({"model": {"completion": options.model}, "completion": base})
    open_files: dict[str, list[OpenFile]] = {}
    assistant = Assistant(open_thread_engine(settings), settings, lambda uri: open_files[uri])
    await assistant.load()
    results: dict[str, Any] = {}
    print(
        f"{len(found)} files of {len(packages)} packages, {options.holes} holes of each kind, seed {options.seed}, "
        f"{platform.processor() or platform.machine()}\n"
    )
    print(f"{'without':16}{'place':16}{'shown':>7}{'exact':>7}{'whole':>7}{'similar':>9}{'harmful':>9}{'ms':>7}")
    try:
        for technique in options.without:
            way = WITHOUT[technique]
            changed, problems = parse({"completion": way.settings}, settings)
            assert not problems, problems
            assistant.set_settings(changed)
            with put_in_place(way.patch):
                for place, some in cut.items():
                    row = results.setdefault(technique, {})[place] = await measure(
                        assistant, open_files, way, some, packages, f"{technique}/{place}", options.show
                    )
                    print_row(technique, place, row)
            results[technique]["all"] = together(list(results[technique].values()))
            print_row(technique, "all", results[technique]["all"])
            print(flush=True)
    finally:
        await assistant.aclose()
    return results


def together(rows: list[dict[str, float]]) -> dict[str, float]:
    """The figures of several kinds of places in one; what is of those shown, weighed by how many were."""
    count, shown = sum(row["holes"] for row in rows), sum(row["shown"] * row["holes"] for row in rows)
    made = {name: sum(row[name] * row["holes"] for row in rows) / count for name in ("shown", "exact", "whole", "ms")}
    return made | {
        "holes": count,
        **{
            name: sum(row[name] * row["shown"] * row["holes"] for row in rows) / max(1, shown)
            for name in ("similar", "harmful")
        },
    }


def print_row(technique: str, place: str, row: dict[str, float]) -> None:
    """One line of the table."""
    print(
        f"{technique:16}{place:16}{row['shown']:7.1%}{row['exact']:7.1%}{row['whole']:7.1%}{row['similar']:9.2f}"
        f"{row['harmful']:9.1%}{row['ms']:7.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path)
    parser.add_argument("--model", default="", help="a folder or hub name; the shipped model if not given")
    parser.add_argument("--holes", type=int, default=100, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without", nargs="+", default=list(WITHOUT), choices=list(WITHOUT))
    parser.add_argument("--show", action="store_true", help="print the harmful ones")
    parser.add_argument("--quick", action="store_true", help="15 holes of each kind")
    options = parser.parse_args()
    options.holes = 15 if options.quick else options.holes
    print(json.dumps(asyncio.run(run(options))))


if __name__ == "__main__":
    main()
