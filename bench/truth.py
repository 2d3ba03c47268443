"""Whether right answers survive: at places in real files, an engine that says what stands there; is it kept whole?

    python -m bench.truth [FOLDER ...] [--places 100] [--seed 1] [--languages python,rust] [--show 5]

For each language: the rest of a line, the same after the editor has closed the brackets that were typed, and the next
block of up to eight lines. *Kept* means that accepting the suggestion gives the file's own text again. FOLDERs are
searched for files; without any, those of this Python's packages and of the system are taken.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from codeclippy_ls.postprocess.cleanup import CursorContext, clean_up
from codeclippy_ls.postprocess.fit import fit
from codeclippy_ls.syntax.languages import LANGUAGES, Language
from codeclippy_ls.syntax.tree import DocumentTrees

FOLDERS = ("/usr/share", "/usr/lib", "/usr/include", "/etc", *(path for path in sys.path if path.endswith("-packages")))
_MAX_BYTES, _MIN_BYTES = 60_000, 400
_MAX_BLOCK = 8  # lines


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor in a file whose next text is known.

    Attributes:
        answer: what stands at the cursor in the file.
        closed: what the editor has closed behind the cursor.
    """

    kind: str
    language: Language
    path: Path
    prefix: str
    answer: str
    suffix: str
    closed: str = ""


def find_files(folders: Sequence[str], language: Language, limit: int, chance: random.Random) -> list[Path]:
    """Find readable files of a language, at random, at most ``limit`` of them."""
    found: list[Path] = []
    for folder in folders:
        for suffix in language.suffixes:
            found += list(Path(folder).rglob(f"*{suffix}"))[:20_000]
    chance.shuffle(found)
    kept: list[Path] = []
    for path in found:
        if len(kept) >= limit:
            break
        try:
            if path.is_file() and _MIN_BYTES < path.stat().st_size < _MAX_BYTES and _is_source(path.read_text("utf-8")):
                kept.append(path)
        except (OSError, UnicodeDecodeError):
            continue
    return kept


def _is_source(text: str) -> bool:
    lines = text.split("\n")
    return "\r" not in text and "\f" not in text and len(lines) > 15 and max(map(len, lines)) < 300


def places(path: Path, language: Language, chance: random.Random) -> Iterator[Place]:
    """Yield one place of each kind in a file, if it has one."""
    text = path.read_text("utf-8")
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    numbers = [number for number, line in enumerate(lines) if len(line.strip()) > 5]
    if not numbers:
        return
    number = chance.choice(numbers)
    line = lines[number]
    cuts = [
        match.start()
        for match in re.finditer(r"(?<!\w)(?=\w)|(?<=\w)(?=\W)|(?<=\s)(?=\S)", line)
        if line[: match.start()].strip()
    ]
    if cuts:
        cut = starts[number] + chance.choice(cuts)
        end = starts[number] + len(line.rstrip())
        if text[cut:end].strip():
            yield Place("rest of line", language, path, text[:cut], text[cut:end], text[end:])
    closing = list(_closed_places(line, language))
    if closing:
        cut, end, closed = chance.choice(closing)
        at = starts[number]
        yield Place("closed", language, path, text[: at + cut], line[cut:end], text[at + end :], closed)
    block = chance.choice(numbers)
    last = _block_end(lines, block)
    if last > block:
        indent = len(lines[block]) - len(lines[block].lstrip())
        start, end = starts[block] + indent, starts[last] + len(lines[last].rstrip())
        yield Place("block", language, path, text[:start], text[start:end], text[end:])


def _closed_places(line: str, language: Language) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, closing) of the rest of lines whose typed brackets the editor has closed."""
    opens = {pair[0]: pair[1] for pair in language.pairs if pair[0] != pair[1]}
    stack: list[str] = []
    quote = ""
    for index, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'`":
            quote = character
        elif character in opens:
            stack.append(opens[character])
        elif stack and character == stack[-1]:
            stack.pop()
        if (
            stack
            and not quote
            and _closes(line[index + 1 :], stack)
            and 0 < index + 1 < len(line)
            and (character in opens or line[index + 1 : index + 2].isalnum())
        ):
            if line[: index + 1].strip() and line[index + 1 :].strip():
                yield index + 1, len(line.rstrip()), "".join(reversed(stack))


def _closes(rest: str, stack: Sequence[str]) -> bool:
    """Return whether the rest of a line closes all that is open."""
    left = list(stack)
    for character in rest:
        if character in "([{<":
            left.append({"(": ")", "[": "]", "{": "}", "<": ">"}[character])
        elif left and character == left[-1]:
            left.pop()
        if not left:
            return True
    return False


def _block_end(lines: list[str], first: int) -> int:
    """Return the last line of the block that begins at a line: up to eight lines that are not indented less."""
    indent = len(lines[first]) - len(lines[first].lstrip())
    last = first
    for number in range(first + 1, min(first + _MAX_BLOCK, len(lines))):
        line = lines[number]
        if line.strip() and len(line) - len(line.lstrip()) < indent:
            break
        if line.strip():
            last = number
    return last


def accept(place: Place, trees: DocumentTrees) -> str | None:
    """Return the text after the suggestion was accepted, or None if nothing is shown."""
    suffix = place.closed + place.suffix
    context = CursorContext(place.prefix, suffix, place.kind == "block", place.language.id)
    text, replaces = fit(clean_up(place.answer, context, ("trivial",)), context, trees, place.path.as_posix())
    return place.prefix + text + suffix[replaces:] if text else None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", default=list(FOLDERS))
    parser.add_argument("--places", type=int, default=100, help="files of each language")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--languages", default="")
    parser.add_argument("--show", type=int, default=0, help="print this many lost places of each kind")
    parsed = parser.parse_args()
    wanted = set(parsed.languages.split(",")) - {""}
    trees = DocumentTrees()
    report: dict[str, dict[str, list[int]]] = {}
    for language in LANGUAGES:
        if wanted and language.id not in wanted:
            continue
        chance = random.Random(f"{parsed.seed} {language.id}")
        row: dict[str, list[int]] = {}
        shown: dict[str, int] = {}
        for path in find_files(parsed.folders, language, parsed.places, chance):
            for place in places(path, language, chance):
                kept = accept(place, trees) == place.prefix + place.answer + place.suffix
                tally = row.setdefault(place.kind, [0, 0])
                tally[0] += kept
                tally[1] += 1
                if not kept and shown.get(place.kind, 0) < parsed.show:
                    shown[place.kind] = shown.get(place.kind, 0) + 1
                    print(f"--- {language.id} {place.kind} {place.path}")
                    print(
                        repr(place.prefix[-80:]),
                        "|",
                        repr(place.answer),
                        "|",
                        repr(place.closed),
                        repr(place.suffix[:60]),
                    )
                    got = accept(place, trees)
                    print(
                        "   got",
                        repr(got[len(place.prefix) : len(place.prefix) + len(place.answer) + 20]) if got else None,
                    )
        if row:
            report[language.id] = row
            print(
                f"{language.id:<18}"
                + "".join(
                    f"{kind:>14} {kept:4}/{all:<4} {kept / all:6.1%}" for kind, (kept, all) in sorted(row.items())
                )
            )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
