"""Make synthetic edits from the files of the corpus, each with an exact message and a diff that applies.

Reads `<work>/corpus/{train,valid}.jsonl` and writes `<work>/edits/{train,valid}.jsonl`: one `EditSample` per line. The
draft of a kind is placed between other lines and turned into a diff; it is dropped unless the diff applies and gives
the text after the edit. The result depends only on the seed and on the position of a file in the corpus.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from training import edit_definitions, edit_exact, edit_signatures, edit_statements
from training.edit_bugs import BUGS
from training.edit_kinds import Draft, Kind
from training.snippets import Snippet, apply_diff, find_snippets, make_diff, place_in_document

HERE = Path(__file__).resolve().parent
MAX_DOCUMENT_CHARS, MAX_DIFF_CHARS, MAX_CHANGED_LINES = 2400, 1500, 20


@dataclass(frozen=True)
class EditSample:
    """One edit of a whole document: file name, text, message and hunks."""

    kind: str
    name: str
    before: str
    message: str
    diff: str


KINDS: dict[str, tuple[float, Kind]] = {
    "add docstring": (9.0, edit_signatures.add_docstring),
    "remove docstring": (1.5, edit_signatures.remove_docstring),
    "add type hints": (10.0, edit_signatures.add_type_hints),
    "remove type hints": (2.0, edit_signatures.remove_type_hints),
    "rename variable": (5.0, edit_signatures.rename_variable),
    "rename parameter": (3.0, edit_signatures.rename_parameter),
    "rename definition": (1.2, edit_signatures.rename_definition),
    "add parameter": (2.2, edit_signatures.add_parameter),
    "remove parameter": (1.0, edit_signatures.remove_parameter),
    "use f-string": (15.0, edit_statements.use_f_string),
    "print to logging": (25.0, edit_statements.print_to_logging),
    "wrap in try": (1.0, edit_statements.wrap_in_try),
    "add guard": (1.6, edit_statements.add_guard),
    "change constant": (3.5, edit_statements.change_constant),
    "invert if": (10.0, edit_statements.invert_if),
    "add comment": (5.0, edit_exact.add_comment),
    "remove comments": (5.0, edit_definitions.remove_comments),
    "comprehension": (25.0, edit_statements.convert_comprehension),
    "use with": (25.0, edit_statements.use_with),
    "remove unused import": (6.0, edit_definitions.remove_unused_import),
    "add import": (10.0, edit_definitions.add_import),
    "sort imports": (8.0, edit_definitions.sort_imports),
    "change decorator": (1.5, edit_definitions.change_decorator),
    "make async": (0.4, edit_definitions.make_async),
    "add member": (4.0, edit_definitions.add_member),
    "add repr": (8.0, edit_definitions.add_repr),
    "add attribute": (10.0, edit_definitions.add_attribute),
    "modern super": (3.0, edit_definitions.modernize_super),
    "debug prints": (2.5, edit_statements.toggle_debug_print),
    "idiom": (10.0, edit_definitions.use_idiom),
    "use enumerate": (25.0, edit_statements.use_enumerate),
    "add return": (5.0, edit_statements.add_return),
    "swap quotes": (12.0, edit_definitions.swap_quotes),
    "add docstring text": (5.0, edit_exact.add_docstring_text),
    "annotate": (8.0, edit_exact.annotate),
    "change condition": (3.0, edit_exact.change_condition),
    "change call": (1.5, edit_exact.change_call),
    "change default": (2.0, edit_exact.change_default),
    "change return": (2.0, edit_exact.change_return),
    "change exception": (6.0, edit_exact.change_exception),
    "change attribute": (2.0, edit_exact.change_attribute),
    "remove statement": (1.5, edit_exact.remove_statement),
    "remove prints": (20.0, edit_exact.remove_prints),
    "accept more": (0.8, edit_exact.accept_variadic),
    "add assert": (1.0, edit_exact.add_assert),
    **BUGS,
}


def vary_phrasing(message: str, document: str, rng: random.Random) -> str:
    """Vary how a message is typed: case of the first letter, a full stop, politeness.

    Only a plain word that does not occur in the document changes its case: it might be an identifier.
    """
    first = message.split(" ", 1)[0]
    plain = first.isalpha() and first[1:].islower() and not re.search(rf"\b{first}\b", document)
    chance = rng.random()
    if chance < 0.16:
        return (message[0].lower() if chance < 0.08 else message[0].upper()) + message[1:] if plain else message
    if chance < 0.22:
        return message + "."
    return f"please {message[0].lower()}{message[1:]}" if chance < 0.24 and plain else message


def make_sample(snippet: Snippet, kind: str, draft: Draft, path: str, rng: random.Random) -> EditSample | None:
    """Make a document and its diff from a draft; None if it is too long, changes nothing or does not apply."""
    before, after = place_in_document(snippet, draft.before, draft.after, rng)
    diff = make_diff(before, after)
    changed = sum(line[:1] in "+-" for line in diff.splitlines())
    if before == after or len(before) > MAX_DOCUMENT_CHARS or len(diff) > MAX_DIFF_CHARS or changed > MAX_CHANGED_LINES:
        return None
    if apply_diff(before, diff) != after or max(map(len, before.splitlines())) > 160:
        return None
    parts = PurePosixPath(path).parts
    name = parts[-1] if rng.random() < 0.5 else "/".join(parts[-2:]) if rng.random() < 0.7 else rng.choice(FILE_NAMES)
    return EditSample(kind, name, before, vary_phrasing(draft.message, before + after, rng), diff)


FILE_NAMES = ("main.py", "app.py", "example.py", "script.py", "test.py", "a.py", "foo.py", "hello.py", "untitled.py")


def make_edits(path: str, text: str, rng: random.Random, per_snippet: int) -> Iterator[EditSample]:
    """Make the edits of one file, trying some kinds, drawn by weight, on each snippet."""
    names, weights = list(KINDS), [weight for weight, _ in KINDS.values()]
    for snippet in find_snippets(text):
        missing = per_snippet
        tried: set[str] = set()
        for kind in rng.choices(names, weights, k=per_snippet * 4):
            if not missing:
                break
            draft = KINDS[kind][1](snippet, rng) if kind not in tried else None
            tried.add(kind)
            edit = make_sample(snippet, kind, draft, path, rng) if draft is not None else None
            if edit is not None:
                missing -= 1
                yield edit


def make_edits_of_line(work: tuple[int, str, int, int]) -> list[str]:
    """Make the JSON lines of one corpus line: the unit of work of a process."""
    number, line, seed, per_snippet = work
    file = json.loads(line)
    if not file["path"].endswith(".py"):
        return []
    rng = random.Random(f"{seed}/{number}")
    return [json.dumps(asdict(edit)) for edit in make_edits(file["path"], file["text"], rng, per_snippet)]


def write_edits(
    corpus: Path, target: Path, processes: int, limit: int, seconds: float, seed: int, per_snippet: int
) -> Counter[str]:
    """Write edits until a limit of number or time; the order of files mixes the packages."""
    lines = corpus.read_text().splitlines()
    order = list(range(len(lines)))
    random.Random(seed).shuffle(order)
    counts: Counter[str] = Counter()
    target.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    part = target.with_suffix(".jsonl.part")
    with part.open("w") as out, ProcessPoolExecutor(processes) as pool:
        at = 0
        while at < len(order) and counts.total() < limit and time.monotonic() - start < seconds:
            work = [(i, lines[i], seed, per_snippet) for i in islice(order, at, at + 200)]
            at += len(work)
            for edits in pool.map(make_edits_of_line, work, chunksize=10):
                out.writelines(f"{edit}\n" for edit in edits)
                counts.update(json.loads(edit)["kind"] for edit in edits)
    part.replace(target)
    print(f"{counts.total()} edits from {at} of {len(lines)} files in {time.monotonic() - start:.0f} s", flush=True)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--limit", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--per-snippet", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for part, limit, each in (("valid", 4000, 2 * options.per_snippet), ("train", options.limit, options.per_snippet)):
        source, target = options.work / "corpus" / f"{part}.jsonl", options.work / "edits" / f"{part}.jsonl"
        counts = write_edits(source, target, options.processes, limit, options.seconds, options.seed, each)
        print("\n".join(f"{count:8} {kind}" for kind, count in counts.most_common()), flush=True)


if __name__ == "__main__":
    main()
