"""Attack the text store and the diff reader, and count what held.

    python -m bench.attack changes|diffs [--count N] [--seed S]

``changes``: random changes of a document in three encodings, in UTF-16 with halves of surrogate pairs; after each,
the server's text must be that of an editor that keeps code units. ``diffs``: diffs of random texts, damaged; each must
be read to edits that apply, or refused. Only the standard library and this project.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections.abc import Callable

from codeclippy_ls.diffs.reading import read_diff
from codeclippy_ls.diffs.writing import write_diff
from codeclippy_ls.text import Change, Document, Documents, Encoding, Position, apply_edits

_CHARACTERS = ("a", "b", " ", "\n", "\r", "\r\n", "\f", "\x85", "\u2028", "é", "中", "😀")
_HALVES = ("\ud83d", "\ude00")
_CODECS: dict[Encoding, tuple[str, int]] = {
    "utf-8": ("utf-8", 1),
    "utf-16": ("utf-16-le", 2),
    "utf-32": ("utf-32-le", 4),
}
_MAX_UNITS = 60  # of a document: short ones have most of their edges touched


class _Editor:
    """A text as code units, with the arithmetic of an editor; positions are those of whole characters."""

    def __init__(self, encoding: Encoding) -> None:
        self.codec, self.width = _CODECS[encoding]
        self.text = ""

    def list_positions(self) -> list[tuple[int, Position]]:
        """Return each offset between two characters with its position; none inside a line end."""
        found, line, column = [], 0, 0
        for offset, character in enumerate(self.text):
            inside = character == "\n" and offset > 0 and self.text[offset - 1] == "\r"
            if not inside:
                found.append((offset, Position(line, column)))
            if character == "\n" or (character == "\r" and self.text[offset + 1 : offset + 2] != "\n"):
                line, column = line + 1, 0
            elif character != "\r":
                column += len(character.encode(self.codec, "surrogatepass")) // self.width
        return [*found, (len(self.text), Position(line, column))]

    def replace(self, start: int, end: int, text: str) -> None:
        """Replace a span; halves that meet become one character."""
        joined = self.text[:start] + text + self.text[end:]
        self.text = joined.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def attack_changes(count: int, seed: int) -> int:
    """Return how many of the changes left the server with the editor's text."""
    source, held, done = random.Random(seed), 0, 0
    while done < count:
        encoding = source.choice(list(_CODECS))
        characters = [*_CHARACTERS, *(_HALVES if encoding == "utf-16" else ())]
        editor, documents = _Editor(encoding), Documents(encoding)
        documents.open("file:///a", "", 0, "python")
        for version in range(1, min(200, count - done) + 1):
            places = editor.list_positions()
            first, second = sorted(source.randrange(len(places)) for _ in range(2))
            second = first if source.random() < 0.5 else second
            new = "".join(source.choice(characters) for _ in range(source.randrange(4)))
            if len(editor.text) > _MAX_UNITS:
                new = ""
            (start, from_position), (end, to_position) = places[first], places[second]
            editor.replace(start, end, new)
            found = documents.change("file:///a", version, [Change(new, from_position, to_position)])
            held += found.text == re.sub("[\ud800-\udfff]", "\ufffd", editor.text)
            done += 1
    return held


def attack_diffs(count: int, seed: int) -> int:
    """Return how many of the damaged diffs were read to edits that apply, or refused."""
    source, held = random.Random(seed), 0
    for _ in range(count):
        lines = [source.choice(("a", "b", "  c", "", "é😀", "def f():")) for _ in range(source.randrange(1, 20))]
        changed = [line for line in lines for line in [line, "new"][: source.choice((0, 1, 1, 1, 2))]]
        before, after = ("".join(f"{line}\n" for line in some) for some in (lines, changed))
        diff = _damage(write_diff(before, after, "f"), source)
        edits, problems = read_diff(diff, Document("file:///a", before), source.choice((None, 0)), complete=True)
        try:
            applied = apply_edits(before, edits)
        except ValueError:
            continue
        held += bool(edits) != any(problem.fatal for problem in problems) and (bool(edits) or applied == before)
    return held


def _damage(diff: str, source: random.Random) -> str:
    """Cut, repeat, swap or replace parts of a diff."""
    for _ in range(source.randrange(1, 4)):
        at, end = sorted(source.randrange(len(diff) + 1) for _ in range(2))
        diff = source.choice(
            (
                diff[:at],
                diff[:at] + diff[end:],
                diff[:end] + diff[at:],
                diff[:at] + source.choice("\n+- @\\\r\x00,0") + diff[at:],
                diff[:at] + source.choice(("@@ -1 +1 @@\n", "--- a\n+++ b\n", "```\n", "\\ No newline\n")) + diff[at:],
            )
        )
    return diff


_ATTACKS: dict[str, tuple[Callable[[int, int], int], int]] = {
    "changes": (attack_changes, 1_000_000),
    "diffs": (attack_diffs, 100_000),
}


def main() -> None:
    """Run an attack and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attack", choices=sorted(_ATTACKS))
    parser.add_argument("--count", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    parsed = parser.parse_args()
    attack, default = _ATTACKS[parsed.attack]
    count = parsed.count if parsed.count is not None else default
    started = time.process_time()
    held = attack(count, parsed.seed)
    print(f"{parsed.attack}: {count:,} tried, {held:,} held, {time.process_time() - started:.0f} s of CPU time")
    raise SystemExit(held != count)


if __name__ == "__main__":
    main()
