"""What suggestions are worth at the places where cursors stand, with each technique switched off in turn.

    python -m bench.suggest FILES [--model FOLDER] [--holes N] [--quick]

FILES is a folder of Python files, or JSON lines with ``path`` and ``text`` (the held-out part of a corpus). Each hole
is cut from a file that parses; the assistant answers as the server would. Per kind of place:

- *shown*: the share of holes with a suggestion;
- *exact*: of all holes, those whose first line is the line that stood there;
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codeclippy_ls import prompts
from codeclippy_ls.assist import Assistant, open_engine
from codeclippy_ls.assist import assistant as assisting
from codeclippy_ls.prompts import build as building
from codeclippy_ls.settings import parse
from codeclippy_ls.text import Document


@dataclass(frozen=True)
class Hole:
    """A cursor: what stands before it, what stood there, what follows."""

    prefix: str
    middle: str
    suffix: str


def files(source: Path) -> list[str]:
    """Python files that parse, of a moderate size."""
    if source.is_dir():
        found = [path.read_text(encoding="utf-8") for path in sorted(source.rglob("*.py"))]
    else:
        with source.open() as lines:
            found = [file["text"] for file in map(json.loads, lines) if file["path"].endswith(".py")]
    return [text for text in found if 500 < len(text) < 60_000 and parses(text)]


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
    "rest of a line": rest_of_line, "inside a word": inside_word, "new line": new_line,
    "in brackets": brackets, "body": body, "complete": complete,
}


def holes(texts: list[str], place: str, count: int, seed: int) -> list[Hole]:
    """So many holes of a kind, the same for a seed."""
    rng, found = random.Random(f"{seed}/{place}"), list[Hole]()
    while len(found) < count:
        text = rng.choice(texts)
        span = PLACES[place](text, rng)
        if span is not None and (text[span[0] : span[1]].strip() or place == "complete"):
            found.append(Hole(text[: span[0]], text[span[0] : span[1]], text[span[1] :]))
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


async def measure(assistant: Assistant, place: str, cut: list[Hole], show: bool) -> dict[str, float]:
    """The figures of a kind of place; ``place`` names the documents and must be new."""
    shown = exact = harm = 0
    similar, seconds = list[float](), list[float]()
    for number, hole in enumerate(cut):
        document = Document(f"file:///bench/{place}/{number}.py", hole.prefix + hole.suffix, 1, "python")
        began = time.monotonic()
        found = await assistant.complete(document, len(hole.prefix))
        seconds.append(time.monotonic() - began)
        if not found.items:
            continue
        text = found.items[0].text
        shown += 1
        if harmful(hole, text):
            harm += 1
            if show:
                print(f"{hole.prefix[-60:]!r} [{text!r}] {hole.suffix[:40]!r} was {hole.middle!r}")
        exact += text.strip().split("\n")[0].rstrip() == hole.middle.strip().split("\n")[0].rstrip()
        similar.append(difflib.SequenceMatcher(None, text, hole.middle, autojunk=False).ratio())
    return {
        "holes": len(cut), "shown": shown / len(cut), "exact": exact / len(cut),
        "similar": sum(similar) / max(1, len(similar)), "harmful": harm / max(1, shown),
        "ms": 1000 * sorted(seconds)[len(seconds) // 2],
    }


def whole_first_line(text: str, prefix: str, suffix: str, multiline: bool) -> str:
    """No clean-up but the cut at the end of the line."""
    return text.rstrip() if multiline else text.split("\n")[0].rstrip()


@contextmanager
def without(technique: str) -> Iterator[None]:
    """A technique switched off."""
    switches: dict[str, tuple[Any, str, Any]] = {
        "validity": (prompts, "fitting", lambda text, prefix, suffix, language: text),
        "clean-up": (prompts, "trim", whole_first_line),
        "healing": (building, "_begun_word", lambda prefix: ""),
        "suffix": (assisting, "Context", lambda prefix, suffix: prompts.Context(prefix, "")),
    }
    if technique == "nothing":
        yield
        return
    room, name, replacement = switches[technique]
    original = getattr(room, name)
    setattr(room, name, replacement)
    try:
        yield
    finally:
        setattr(room, name, original)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """All places, with everything and with each technique off; prints the table as it grows."""
    texts = files(options.files)
    cut = {place: holes(texts, place, options.holes, options.seed) for place in PLACES}
    settings, _ = parse({"model": {"complete": options.model}, "completion": {"timeBudgetMs": 60000, "copies": "show"}})
    assistant = Assistant(open_engine(settings), settings)
    await assistant.prepare()
    results: dict[str, Any] = {}
    print(f"{len(texts)} files, {options.holes} holes of each kind, {platform.processor() or platform.machine()}\n")
    print(f"{'without':12} {'place':16} {'shown':>7} {'exact':>7} {'similar':>8} {'harmful':>8} {'ms':>6}")
    try:
        for technique in options.without:
            with without(technique):
                for place, some in cut.items():
                    row = results.setdefault(technique, {})[place] = await measure(
                        assistant, f"{technique}/{place}", some, options.show)
                    print(f"{technique:12} {place:16} {row['shown']:7.1%} {row['exact']:7.1%} {row['similar']:8.2f} "
                          f"{row['harmful']:8.1%} {row['ms']:6.0f}", flush=True)
            rows = results[technique].values()
            shown = sum(row["shown"] * row["holes"] for row in rows)
            harm = sum(row["harmful"] * row["shown"] * row["holes"] for row in rows) / max(1, shown)
            results[technique]["all"] = {"harmful": harm}
            print(f"{technique:12} {'all':16} {'':7} {'':7} {'':8} {harm:8.1%}\n", flush=True)
    finally:
        await assistant.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path)
    parser.add_argument("--model", default="", help="a folder or hub name; the shipped model if not given")
    parser.add_argument("--holes", type=int, default=100, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without", nargs="+", default=["nothing", "validity", "clean-up", "healing", "suffix"])
    parser.add_argument("--show", action="store_true", help="print the harmful ones")
    parser.add_argument("--quick", action="store_true", help="15 holes of each kind")
    options = parser.parse_args()
    options.holes = 15 if options.quick else options.holes
    print(json.dumps(asyncio.run(run(options))))


if __name__ == "__main__":
    main()
