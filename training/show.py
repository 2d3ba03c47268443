"""Print the answers of an exported model to the prompts of `showcase.txt`, greedy and unedited.

The prompts are fixed, not chosen by their results; they are numbered from 1. With `--pick`, the given cases are printed
as the section of the model card, in Markdown; the reader chooses good and bad ones. A case begins with its job
(`complete`, `infill` or `edit`), the file name and, for an edit, the message. The character ▌ marks the cursor. A
completion is shown up to the model's end token or a number of tokens, without the server's clean-up; an edit is the
server's diff, or its reason to refuse.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.proposals import Refusal
from codeclippy_ls.engines import open_thread_engine
from codeclippy_ls.settings import parse
from codeclippy_ls.text import Document
from training.generation import Model

HERE = Path(__file__).resolve().parent
CURSOR = "▌"
MAX_TOKENS = 48
JOB_TITLES = {"complete": "Completions", "infill": "Infills", "edit": "Edits"}
HEADER = re.compile(r"(complete|infill|edit) (\S+)(?:: (.+))?")
LANGUAGES = {".py": "python", ".js": "javascript", ".ts": "typescript"}


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt: number, job, file name, message of an edit, and the text, with the cursor or before the edit."""

    number: int
    job: str
    name: str
    message: str
    text: str


def read_cases(path: Path) -> list[Case]:
    """Read the cases of a file, in order."""
    return [parse_case(number, part) for number, part in enumerate(path.read_text(encoding="utf-8").split("====\n"), 1)]


def parse_case(number: int, part: str) -> Case:
    """Parse a case from its header line and its text.

    Raises:
        ValueError: the header is unknown, an edit has no message, or there is not exactly one cursor.
    """
    header, _, text = part.partition("\n")
    found = HEADER.fullmatch(header)
    if found is None or (found[1] == "edit") != bool(found[3]) or text.count(CURSOR) != (found[1] != "edit"):
        raise ValueError(f"case {number} of the showcase cannot be read: {header!r}")
    return Case(number, found[1], found[2], found[3] or "", text)


def split_at_cursor(case: Case) -> tuple[str, str]:
    """Split the text at the cursor; after a cursor at the end the suffix is empty, without a line ending."""
    prefix, suffix = case.text.split(CURSOR)
    return prefix, suffix if suffix.strip() else ""


def complete_cases(model: Model, cases: Sequence[Case]) -> dict[int, str]:
    """Generate a completion at each cursor."""
    asked = [model.make_request(*split_at_cursor(case), lambda text: False, MAX_TOKENS) for case in cases]
    return {
        parse_case.number: text
        for parse_case, text in zip(cases, model.generate_greedy(asked, MAX_TOKENS), strict=True)
    }


async def edit_cases(folder: Path, cases: Iterable[Case]) -> dict[int, str]:
    """Return the server's diff for each edit, or its reason to refuse."""
    settings, _ = parse({"model": {"completion": str(folder.resolve()), "threads": 1}})
    assistant = Assistant(open_thread_engine(settings), settings)
    found = {}
    try:
        await assistant.load()
        for case in cases:
            result = await assistant.edit(Document(f"/{case.name}", case.text), case.message)
            found[case.number] = f"({result.reason})" if isinstance(result, Refusal) else result.diff
        return found
    finally:
        await assistant.aclose()


def generate_answers(folder: Path, cases: Sequence[Case]) -> dict[int, str]:
    """Generate the answers of the model, by the number of the case."""
    cursors = [case for case in cases if case.job != "edit"]
    rest = [case for case in cases if case.job == "edit"]
    return complete_cases(Model(folder), cursors) | (asyncio.run(edit_cases(folder, rest)) if rest else {})


def format_fence(text: str, language: str) -> str:
    """Format a fenced code block of Markdown."""
    return f"```{language}\n{text.rstrip()}\n```"


def format_case(case: Case, answer: str) -> str:
    """Format a case as Markdown: the text with the completion between ▌ and ▐, or the file and the diff."""
    language = LANGUAGES.get(Path(case.name).suffix, "")
    if case.job == "edit":
        after = answer if answer.startswith("(") else format_fence(answer, "diff")
        return f"**{case.message}**\n\n{format_fence(case.text, language)}\n\n{after}\n"
    prefix, suffix = split_at_cursor(case)
    return format_fence(f"{prefix}{CURSOR}{answer}▐{suffix}", language) + "\n"


def format_card(cases: Sequence[Case], found: dict[int, str]) -> str:
    """Format the section of the model card, by job, in the given order."""
    parts = [f"The model wrote the text between {CURSOR} and ▐; it is cut off after {MAX_TOKENS} tokens.\n"]
    for job, title in JOB_TITLES.items():
        of_job = [format_case(case, found[case.number]) for case in cases if case.job == job]
        parts += [f"### {title}\n", *of_job] if of_job else []
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE.parent / "codeclippy_ls" / "model")
    parser.add_argument("--prompts", type=Path, default=HERE / "showcase.txt")
    parser.add_argument(
        "--pick", type=int, nargs="+", metavar="NUMBER", help="print only these cases, as a section of the model card"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = {case.number: case for case in read_cases(options.prompts)}
    if unknown := set(options.pick or ()) - set(cases):
        parser.error(f"there is no case {min(unknown)}: cases are numbered from 1 to {len(cases)}")
    wanted = [cases[number] for number in options.pick or cases]
    found = generate_answers(options.model, wanted)
    if options.pick:
        print(format_card(wanted, found))
        return
    for one in wanted:
        print(f"#{one.number} {one.job}\n\n{format_case(one, found[one.number])}")


if __name__ == "__main__":
    main()
