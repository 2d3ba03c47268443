"""Measure the quality of suggestions at typical cursor positions, with each technique switched off in turn.

    python -m bench.suggest FILES [--model FOLDER] [--cases N] [--quick]

FILES is a folder of Python files, or JSON lines with ``path`` and ``text`` (the held-out part of a corpus). For each
case a piece of text, the middle, is removed from a valid file; the assistant answers as it does while the user types,
with other files of the package open. Per kind of cursor position:

- *shown*: the share of cases with a suggestion;
- *exact*: the share of all cases whose first line equals that of the middle; *whole*: the share that equals all of it;
- *similar*: the mean similarity of the shown ones to the middle (difflib's ratio);
- *harmful*: the share of the shown ones that break the file (it is not valid any more; a header that still lacks its
  body is allowed) or repeat the next line. At *complete* positions nothing is missing: only harm counts there.
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

from codeclippy_ls.assist import suggester
from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.engines import open_thread_engine
from codeclippy_ls.prompts import pipeline, token_prompts
from codeclippy_ls.prompts.context_snippets import OpenFile
from codeclippy_ls.settings import CLEAN_UP_STEPS, parse
from codeclippy_ls.text import Document

_MAX_OPEN_FILES = 6  # besides the case's own


@dataclass(frozen=True)
class File:
    """A file of a package."""

    package: str
    path: str
    text: str


@dataclass(frozen=True)
class InfillCase:
    """A cursor in a file: the text before it, the removed middle, the text after it."""

    prefix: str
    middle: str
    suffix: str
    file: File = File("", "", "")


def read_files(source: Path) -> list[File]:
    """Read valid Python files of moderate size."""
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
    return [file for file in found if 500 < len(file.text) < 60_000 and is_valid_python(file.text)]


def is_valid_python(code: str) -> bool:
    """Return whether the code is valid Python."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def find_code_line(text: str, rng: random.Random) -> re.Match[str] | None:
    """Find the next line of code after a random offset; comments and docstrings are skipped."""
    at = rng.randrange(len(text))
    found = re.compile(r"^([ \t]*)([^\s#\"'].{5,})$", re.M).search(text, at)
    return found if found and re.search(r"[=(:\[]|\b(?:return|import|raise|yield)\b", found[2]) else None


def cut_rest_of_line(text: str, rng: random.Random) -> tuple[int, int] | None:
    """Cut from a word boundary to the end of the line."""
    if (line := find_code_line(text, rng)) is None:
        return None
    stops = [m.start() for m in re.finditer(r"(?<=[\s(\[.,=:{])(?=\S)", line[2]) if 0 < m.start() < len(line[2])]
    return (line.start(2) + rng.choice(stops), line.end()) if stops else None


def cut_inside_word(text: str, rng: random.Random) -> tuple[int, int] | None:
    """Cut from the middle of a word to the end of the line."""
    if (line := find_code_line(text, rng)) is None:
        return None
    words = list(re.finditer(r"\w{4,}", line[2]))
    if not words:
        return None
    word = rng.choice(words)
    return line.start(2) + rng.randrange(word.start() + 1, word.end()), line.end()


def cut_new_line(text: str, rng: random.Random) -> tuple[int, int] | None:
    """Cut a whole line after its indentation."""
    line = find_code_line(text, rng)
    return (line.start(2), line.end()) if line else None


def cut_brackets(text: str, rng: random.Random) -> tuple[int, int] | None:
    """Cut the text between two brackets on one line."""
    found = re.compile(r"[(\[{]([^()\[\]{}\n]{3,60})[)\]}]").search(text, rng.randrange(len(text)))
    return found.span(1) if found else None


def cut_body(text: str, rng: random.Random) -> tuple[int, int] | None:
    """Cut the body after a header, up to six lines, from the indentation of its first line."""
    heads = re.compile(r"^([ \t]*)(?:def|if|for|while|with|else|elif)\b.*:\n", re.M)
    head = heads.search(text, rng.randrange(len(text)))
    if head is None:
        return None
    block = re.compile(rf"(?:{head[1]}[ \t]+\S.*\n|[ \t]*\n){{1,6}}").match(text, head.end())
    if block is None or not block.group().strip():
        return None
    start = head.end() + len(block.group()) - len(block.group().lstrip())
    return start, head.end() + len(block.group().rstrip())


def cut_nothing(text: str, rng: random.Random) -> tuple[int, int] | None:
    """Cut nothing, at a word boundary in a complete line or at its end."""
    if (line := find_code_line(text, rng)) is None:
        return None
    at = line.start(2) + rng.choice([m.start() for m in re.finditer(r"\b", line[2])] + [len(line[2])] * 3)
    return at, at


CURSOR_KINDS: dict[str, Callable[[str, random.Random], tuple[int, int] | None]] = {
    "rest of a line": cut_rest_of_line,
    "inside a word": cut_inside_word,
    "new line": cut_new_line,
    "in brackets": cut_brackets,
    "body": cut_body,
    "complete": cut_nothing,
}


def cut_cases(files: list[File], kind: str, count: int, seed: int) -> list[InfillCase]:
    """Cut ``count`` cases of a kind, the same for a seed."""
    rng, found = random.Random(f"{seed}/{kind}"), list[InfillCase]()
    while len(found) < count:
        file = rng.choice(files)
        span = CURSOR_KINDS[kind](file.text, rng)
        if span is not None and (file.text[span[0] : span[1]].strip() or kind == "complete"):
            found.append(InfillCase(file.text[: span[0]], file.text[span[0] : span[1]], file.text[span[1] :], file))
    return found


def is_harmful(case: InfillCase, text: str) -> bool:
    """Return whether the file is worse with the suggestion than without it."""
    after = case.prefix + text + case.suffix
    line = after[len(case.prefix) + len(text) - len((case.prefix + text).rpartition("\n")[2]) :].partition("\n")[0]
    indentation = line[: len(line) - len(line.lstrip())]
    with_body = f"{case.prefix}{text}\n{indentation} pass{case.suffix}"
    is_valid = is_valid_python(after) or (text.rstrip().endswith(":") and is_valid_python(with_body))
    # Without the middle, no single line may make the file valid: then only a file that was valid can be broken.
    was_valid = is_valid_python(case.prefix + case.suffix) or is_valid_python(case.prefix + "pass" + case.suffix)
    if not is_valid and (was_valid or case.middle.count("\n") == 0):
        return True
    following = [other.strip() for other in case.suffix.split("\n") if other.strip()][:1]
    return bool(following) and len(following[0]) > 3 and text.strip().split("\n")[-1].strip() == following[0]


def select_open_files(case: InfillCase, package: list[File]) -> list[OpenFile]:
    """Return some other files of the package, those in the same folder first, as if they were open in an editor."""
    others = sorted(
        (file for file in package if file.path != case.file.path),
        key=lambda file: (file.path.rpartition("/")[0] != case.file.path.rpartition("/")[0], file.path),
    )
    return [OpenFile(file.path.rpartition("/")[2], file.text) for file in others[:_MAX_OPEN_FILES]]


async def measure(
    assistant: Assistant,
    open_files: dict[str, list[OpenFile]],
    ablation: Ablation,
    cases: list[InfillCase],
    packages: dict[str, list[File]],
    name: str,
    show: bool,
) -> dict[str, float]:
    """Measure a kind of cursor position; ``name`` is part of the documents' URIs and must be new."""
    shown = exact = whole = harm = 0
    similar, seconds = list[float](), list[float]()
    for number, case in enumerate(cases):
        document = Document(f"file:///bench/{name}/{number}.py", case.prefix + case.suffix, 1, "python")
        open_files[document.uri] = select_open_files(case, packages[case.file.package])
        began = time.monotonic()
        found = await assistant.complete(
            document, len(case.prefix), automatic=not ablation.by_key, candidates=ablation.candidates
        )
        seconds.append(time.monotonic() - began)
        assistant.forget_document(document.uri)
        del open_files[document.uri]
        if not found.items:
            continue
        text = found.items[0].text
        shown += 1
        if is_harmful(replace(case, suffix=case.suffix[found.items[0].replaces :]), text):
            harm += 1
            if show:
                print(f"{case.prefix[-60:]!r} [{text!r}] {case.suffix[:40]!r} was {case.middle!r}")
        exact += text.strip().split("\n")[0].rstrip() == case.middle.strip().split("\n")[0].rstrip()
        whole += text.strip() == case.middle.strip()
        similar.append(difflib.SequenceMatcher(None, text, case.middle, autojunk=False).ratio())
    return {
        "cases": len(cases),
        "shown": shown / len(cases),
        "exact": exact / len(cases),
        "whole": whole / len(cases),
        "similar": sum(similar) / max(1, len(similar)),
        "harmful": harm / max(1, shown),
        "ms": 1000 * sorted(seconds)[len(seconds) // 2],
    }


@dataclass(frozen=True)
class Ablation:
    """A technique switched off: by settings, by a replaced function, or by a request by key."""

    settings: dict[str, Any] = field(default_factory=dict)
    patch: tuple[Any, str, Any] | None = None
    by_key: bool = False
    candidates: int = 1


_FIT = pipeline.fit_prefix_suffix
_CLEAN_UP = [name for name in CLEAN_UP_STEPS if name not in ("scope", "syntaxCheck")]
ABLATIONS = {
    "nothing": Ablation(),
    "triggers": Ablation(by_key=True),
    "one candidate": Ablation(by_key=True, candidates=3),
    "confidence": Ablation({"minConfidence": 0}),
    "syntaxCheck": Ablation({"disabledFilters": ["syntaxCheck"]}),
    "clean-up": Ablation({"disabledFilters": _CLEAN_UP}),
    "both": Ablation({"disabledFilters": [*_CLEAN_UP, "syntaxCheck"]}),
    "healing": Ablation(patch=(token_prompts, "find_partial_word", lambda prefix: "")),
    "suffix": Ablation(
        patch=(
            pipeline,
            "fit_prefix_suffix",
            lambda renderer, prefix, suffix, *limits: _FIT(renderer, prefix, "", *limits),
        )
    ),
    "snippets": Ablation({"context": "off"}),
    "copying": Ablation(patch=(suggester, "find_guess", lambda *texts: None)),
    "outline": Ablation(patch=(pipeline, "extract_outline", lambda *arguments: "")),
}


@contextmanager
def replace_attribute(patch: tuple[Any, str, Any] | None) -> Iterator[None]:
    """Replace an attribute of a module while the block runs."""
    if patch is None:
        yield
        return
    module, name, replacement = patch
    original = getattr(module, name)
    setattr(module, name, replacement)
    try:
        yield
    finally:
        setattr(module, name, original)


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all kinds, with everything on and with each technique off; print each row when it is complete."""
    found = read_files(options.files)
    packages: dict[str, list[File]] = {}
    for file in found:
        packages.setdefault(file.package, []).append(file)
    cases = {kind: cut_cases(found, kind, options.cases, options.seed) for kind in CURSOR_KINDS}
    base = {"timeBudgetMs": 60000, "copiedCode": "show", "prefetch": False, "debounce": False}
    settings, _ = parse({"model": {"completion": options.model}, "completion": base})
    open_files: dict[str, list[OpenFile]] = {}
    assistant = Assistant(open_thread_engine(settings), settings, lambda document: open_files[document.uri])
    await assistant.load()
    results: dict[str, Any] = {}
    print(
        f"{len(found)} files of {len(packages)} packages, {options.cases} cases of each kind, seed {options.seed}, "
        f"{platform.processor() or platform.machine()}\n"
    )
    print(f"{'without':16}{'kind':16}{'shown':>7}{'exact':>7}{'whole':>7}{'similar':>9}{'harmful':>9}{'ms':>7}")
    try:
        for technique in options.without:
            ablation = ABLATIONS[technique]
            changed, problems = parse({"completion": ablation.settings}, settings)
            assert not problems, problems
            assistant.set_settings(changed)
            with replace_attribute(ablation.patch):
                for kind, kind_cases in cases.items():
                    row = results.setdefault(technique, {})[kind] = await measure(
                        assistant, open_files, ablation, kind_cases, packages, f"{technique}/{kind}", options.show
                    )
                    print_row(technique, kind, row)
            results[technique]["all"] = combine(list(results[technique].values()))
            print_row(technique, "all", results[technique]["all"])
            print(flush=True)
    finally:
        await assistant.aclose()
    return results


def combine(rows: list[dict[str, float]]) -> dict[str, float]:
    """Combine the results of several kinds; shares of the shown ones are weighted by their number."""
    count, shown = sum(row["cases"] for row in rows), sum(row["shown"] * row["cases"] for row in rows)
    means = {name: sum(row[name] * row["cases"] for row in rows) / count for name in ("shown", "exact", "whole", "ms")}
    return means | {
        "cases": count,
        **{
            name: sum(row[name] * row["shown"] * row["cases"] for row in rows) / max(1, shown)
            for name in ("similar", "harmful")
        },
    }


def print_row(technique: str, kind: str, row: dict[str, float]) -> None:
    """Print one row of the table."""
    print(
        f"{technique:16}{kind:16}{row['shown']:7.1%}{row['exact']:7.1%}{row['whole']:7.1%}{row['similar']:9.2f}"
        f"{row['harmful']:9.1%}{row['ms']:7.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path)
    parser.add_argument("--model", default="", help="a folder or hub name; the shipped model if not given")
    parser.add_argument("--cases", type=int, default=100, help="number of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without", nargs="+", default=list(ABLATIONS), choices=list(ABLATIONS))
    parser.add_argument("--show", action="store_true", help="print the harmful suggestions")
    parser.add_argument("--quick", action="store_true", help="15 cases of each kind")
    options = parser.parse_args()
    options.cases = 15 if options.quick else options.cases
    print(json.dumps(asyncio.run(run(options))))


if __name__ == "__main__":
    main()
