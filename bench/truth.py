"""Whether right answers survive: at places in real files, the answer is the text that stands there; is it kept whole?

    python -m bench.truth [FOLDER ...] [--files 100] [--each 1] [--seed 1] [--languages python,rust] [--server]

For each language: the rest of a line, the same after the editor has closed the brackets, quotes or tags that were
typed, and the next block of up to eight lines. *Kept* means that accepting the suggestion gives the file's own text
again. FOLDERs are searched for files; without any, those of this Python's packages and of the system are taken.

With ``--server`` the real server is asked by key, and a service that it uses gives the answers. Otherwise the answer is
cleaned up and fitted here, which is a hundred times faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.places import Place, find_files, find_places
from bench.typist import Variant, run_server
from codeclippy_ls.postprocess.cleanup import CursorContext, clean_up, list_steps_skipped_by_key
from codeclippy_ls.postprocess.fit import fit
from codeclippy_ls.syntax.languages import LANGUAGES, Language
from codeclippy_ls.syntax.tree import DocumentTrees
from tests.editor import Editor
from tests.services import DONE, event, response_head, run_stub

FOLDERS = ("/usr/share", "/usr/lib", "/usr/include", "/etc", *(path for path in sys.path if path.endswith("-packages")))
Complete = Callable[[Place], Awaitable[str | None]]


@dataclass
class Direct:
    """Fits answers in this process."""

    trees: DocumentTrees = field(default_factory=DocumentTrees)

    async def complete(self, place: Place) -> str | None:
        """Return the text after the suggestion was accepted, or None if nothing is shown."""
        suffix = place.closed + place.suffix
        context = CursorContext(place.prefix, suffix, place.kind == "block", place.language.id)
        answer = clean_up(place.answer, context, list_steps_skipped_by_key(context))
        text, replaces = fit(answer, context, self.trees, place.path.as_posix())
        return place.prefix + text + suffix[replaces:] if text else None


@dataclass
class ServerMode:
    """Asks the real server, whose model is a service that gives the place's answer."""

    editor: Editor
    answer: str = ""
    count: int = 0

    async def respond(self, request: Any, writer: asyncio.StreamWriter) -> None:
        """Stream the answer, as the service."""
        writer.write(response_head() + event(self.answer) + event("", finish="stop") + DONE)

    async def complete(self, place: Place) -> str | None:
        """Return the text after the first item was accepted, or None if nothing is shown."""
        self.answer, self.count = place.answer, self.count + 1
        uri = f"file:///places/{self.count}/{place.path.name}"
        buffer = self.editor.open(place.prefix + place.closed + place.suffix, uri, language=place.language.id)
        items = await self.editor.ghost(buffer, len(place.prefix))
        if items:
            buffer.apply([{"range": items[0]["range"], "newText": items[0]["insertText"]}])
        self.editor.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
        del self.editor.buffers[uri]
        return buffer.text if items else None


@dataclass
class Report:
    """Kept and all places, by language and kind; prints ``show`` lost ones of each."""

    show: int
    rows: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def add(self, place: Place, got: str | None) -> None:
        """Count a place."""
        tally = self.rows.setdefault(place.language.id, {}).setdefault(place.kind, [0, 0])
        tally[0] += got == place.text
        tally[1] += 1
        if got != place.text and tally[1] - tally[0] <= self.show:
            print(f"--- {place.language.id} {place.kind} {place.path}")
            print(f"{place.prefix[-80:]!r} | {place.answer!r} | {place.closed!r} {place.suffix[:60]!r}")
            start = len(place.prefix)
            print("   got", repr(got[start : start + len(place.answer) + 20]) if got else None)

    def print_row(self, language: Language) -> None:
        """Print a language's line."""
        if row := self.rows.get(language.id):
            cells = (f"{kind:>14} {kept:4}/{all:<4} {kept / all:6.1%}" for kind, (kept, all) in sorted(row.items()))
            print(f"{language.id:<18}" + "".join(cells), flush=True)

    def print_sums(self) -> None:
        """Print the sums over the languages, and all as JSON."""
        for kind in sorted({kind for row in self.rows.values() for kind in row}):
            kept, all = (sum(row.get(kind, [0, 0])[index] for row in self.rows.values()) for index in (0, 1))
            print(f"{kind:>14} {kept:5}/{all:<5} {kept / all:6.1%}")
        print(json.dumps(self.rows))


def iterate_places(parsed: argparse.Namespace, language: Language) -> Iterator[Place]:
    """Yield a language's places."""
    chance = random.Random(f"{parsed.seed} {language.id}")
    for path in find_files(parsed.folders, language, parsed.files, chance):
        yield from find_places(path, language, chance, parsed.each)


async def measure(parsed: argparse.Namespace, complete: Complete) -> None:
    """Ask at all places and print."""
    wanted = set(parsed.languages.split(",")) - {""}
    report = Report(parsed.show)
    for language in LANGUAGES:
        if not wanted or language.id in wanted:
            for place in iterate_places(parsed, language):
                report.add(place, await complete(place))
            report.print_row(language)
    report.print_sums()


async def measure_served(parsed: argparse.Namespace) -> None:
    """Ask the real server at all places and print."""

    async def respond(request: Any, writer: asyncio.StreamWriter) -> None:
        await mode.respond(request, writer)

    async with run_stub(respond) as stub:
        variant = Variant({"model": {"endpoint": stub.url}})
        async with run_server(variant, 512) as (editor, _):
            mode = ServerMode(editor)
            await measure(parsed, mode.complete)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", default=list(FOLDERS))
    parser.add_argument("--files", type=int, default=100, help="files of each language")
    parser.add_argument("--each", type=int, default=1, help="places of each kind in a file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--languages", default="", help="ids of languages, with commas between; default: all")
    parser.add_argument("--show", type=int, default=0, help="print this many lost places of each kind")
    parser.add_argument("--server", action="store_true", help="ask the real server by key")
    parsed = parser.parse_args()
    asyncio.run(measure_served(parsed) if parsed.server else measure(parsed, Direct().complete))


if __name__ == "__main__":
    main()
