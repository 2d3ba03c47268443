"""How many suggestions would leave valid code broken, by language, judged by each language's own parser.

    python -m bench.harm [FOLDER ...] [--files 40] [--each 2] [--seed 1] [--languages IDS] [--source tokens]

The places are those of `bench.truth`: a piece of a valid file is removed. Answers come from a model (``--model``, by
default the shipped one, as the user types), or are tokens of its vocabulary drawn at random, as random weights write
them, or lines of other files, which fit nowhere. A suggestion is *harmful* if the file is not valid after it was
accepted; a head whose block is still missing is allowed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from bench.judges import Judge, make_judges
from bench.places import Place, find_files, find_places
from bench.truth import FOLDERS
from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.engines import open_thread_engine
from codeclippy_ls.postprocess.cleanup import CursorContext, clean_up
from codeclippy_ls.postprocess.fit import fit
from codeclippy_ls.settings import parse
from codeclippy_ls.syntax.languages import LANGUAGES, BlockStyle, Language
from codeclippy_ls.syntax.tree import DocumentTrees
from codeclippy_ls.text import Document

_BODIES = {BlockStyle.INDENTATION: "{}    pass", BlockStyle.BRACES: "{}}}", BlockStyle.KEYWORDS: "{}end"}
_TOKENS = 24  # of a random answer
Suggest = Callable[[Place], Awaitable[tuple[str, int]]]


@dataclass
class Tally:
    """Counts of a language's places."""

    places: int = 0
    shown: int = 0
    harmful: int = 0


def is_harmful(place: Place, text: str, replaces: int, judge: Judge) -> bool:
    """Return whether the file is not valid with the suggestion."""
    before, after = place.prefix + text, (place.closed + place.suffix)[replaces:]
    if judge(before + after):
        return False
    line = before.rpartition("\n")[2]
    indentation = line[: len(line) - len(line.lstrip())]
    body = _BODIES.get(place.language.style)
    return body is None or not judge(f"{before}\n{body.format(indentation)}{after}")


async def measure(language: Language, places: Sequence[Place], suggest: Suggest, judge: Judge, show: int) -> Tally:
    """Ask at all places of valid files."""
    tally = Tally()
    for place in places:
        tally.places += 1
        text, replaces = await suggest(place)
        if not text:
            continue
        tally.shown += 1
        if is_harmful(place, text, replaces, judge):
            tally.harmful += 1
            if tally.harmful <= show:
                after = (place.closed + place.suffix)[replaces:]
                print(f"  {language.id} {place.prefix[-60:]!r} [{text!r}] {after[:40]!r}")
    return tally


def suggest_random(answers: Callable[[], str]) -> Suggest:
    """Make suggestions of random answers."""
    trees = DocumentTrees()

    async def suggest(place: Place) -> tuple[str, int]:
        multiline = place.kind == "block"
        context = CursorContext(place.prefix, place.closed + place.suffix, multiline, place.language.id)
        return fit(clean_up(answers(), context), context, trees, place.path.as_posix())

    return suggest


def draw_tokens(chance: random.Random) -> Callable[[], str]:
    """Return a source of texts of random tokens of the shipped model."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files("codeclippy_ls") / "model" / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    return lambda: tokenizer.decode([chance.randrange(size) for _ in range(_TOKENS)], skip_special_tokens=False)


def draw_lines(places: Sequence[Place], chance: random.Random) -> Callable[[], str]:
    """Return a source of a few lines of the places' files."""

    def draw() -> str:
        lines = chance.choice(places).text.split("\n")
        start = chance.randrange(len(lines))
        return "\n".join(lines[start : start + chance.randrange(1, 6)]).lstrip()

    return draw


def suggest_by_model(assistant: Assistant) -> Suggest:
    """Make suggestions by a model, as while the user types."""
    count = 0

    async def suggest(place: Place) -> tuple[str, int]:
        nonlocal count
        count += 1
        uri = f"file:///places/{count}/{place.path.name}"
        document = Document(uri, place.prefix + place.closed + place.suffix, 1, place.language.id)
        found = await assistant.complete(document, len(place.prefix), automatic=True, candidates=1)
        assistant.forget_document(uri)
        return (found.items[0].text, found.items[0].replaces) if found.items else ("", 0)

    return suggest


async def run(parsed: argparse.Namespace) -> None:
    """Measure all languages that have a judge."""
    wanted = set(parsed.languages.split(",")) - {""}
    base = {"timeBudgetMs": 60000, "copiedCode": "show", "prefetch": False, "debounce": False}
    settings, _ = parse({"model": {"completion": parsed.model}, "completion": base})
    assistant = Assistant(open_thread_engine(settings), settings, lambda uri: [])
    if parsed.source == "model":
        await assistant.load()
    total = Tally()
    try:
        for id, judge in make_judges().items():
            language = next(row for row in LANGUAGES if row.id == id)
            if wanted and id not in wanted:
                continue
            chance = random.Random(f"{parsed.seed} {id}")
            found = find_files(parsed.folders, language, parsed.files, chance)
            valid = [path for path in found if judge(path.read_text("utf-8"))]
            places = [
                place
                for path in valid
                for place in find_places(path, language, chance, parsed.each)
                if place.kind != "block" or judge(place.prefix + place.suffix)
            ]
            if not places:
                continue
            if parsed.source == "model":
                suggest = suggest_by_model(assistant)
            else:
                suggest = suggest_random(
                    draw_tokens(chance) if parsed.source == "tokens" else draw_lines(places, chance)
                )
            tally = await measure(language, places, suggest, judge, parsed.show)
            total = Tally(*(getattr(total, name) + getattr(tally, name) for name in ("places", "shown", "harmful")))
            print_row(id, tally)
        print_row("all", total)
    finally:
        await assistant.aclose()


def print_row(name: str, tally: Tally) -> None:
    """Print a line."""
    print(
        f"{name:<18}{tally.places:6} places{tally.shown:6} shown{tally.harmful:5} harmful "
        f"{tally.harmful / max(1, tally.shown):6.1%}",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", default=list(FOLDERS))
    parser.add_argument("--files", type=int, default=40, help="files of each language")
    parser.add_argument("--each", type=int, default=2, help="places of each kind in a file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--languages", default="", help="ids of languages, with commas between; default: all")
    parser.add_argument("--source", choices=("model", "tokens", "lines"), default="model")
    parser.add_argument("--model", default="")
    parser.add_argument("--show", type=int, default=0, help="print this many harmful ones of each language")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
