"""Measure held-out synthetic edits: how many diffs apply, and how many give exactly the expected text.

Edits are made by plain decoding and by the server, with its constraints. A docstring with the same meaning in other
words counts as wrong.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.proposals import Proposal
from codeclippy_ls.engines import open_thread_engine
from codeclippy_ls.settings import parse
from codeclippy_ls.text import Document
from training import samples
from training.edits import EditSample
from training.generation import GenerationRequest, Model
from training.metrics import Proportion
from training.snippets import apply_diff
from training.tokenizer import DIFF

MAX_TOKENS = 400  # the server's default

EditRequest = tuple[str, str, str]  # file name, text, message


def read_edits(path: Path) -> list[EditSample]:
    """Read the edits of a file."""
    with path.open() as lines:
        return [EditSample(**json.loads(line)) for line in lines]


def select_per_kind(edits: Sequence[EditSample], per_kind: int) -> list[EditSample]:
    """Select the first edits of each kind."""
    seen: dict[str, int] = defaultdict(int)
    chosen = []
    for edit in edits:
        seen[edit.kind] += 1
        if seen[edit.kind] <= per_kind:
            chosen.append(edit)
    return chosen


def make_request(edit: EditSample) -> EditRequest:
    """Return what a user would send."""
    return edit.name, edit.before, edit.message


def generate_diffs(model: Model, edits: Sequence[EditSample]) -> list[str]:
    """Generate hunks by plain decoding; an empty diff if the document exceeds the context length."""
    requests = []
    for edit in edits:
        ids = samples.make_edit(model.encode, edit.name, edit.before, edit.message, "").ids
        requests.append(GenerationRequest(ids[: ids.index(DIFF) + 1], is_finished=partial(is_unusable, edit.before)))
    usable = [i for i, request in enumerate(requests) if len(request.prompt_ids) < model.context_length]
    answers = dict(zip(usable, model.generate_greedy([requests[i] for i in usable], MAX_TOKENS), strict=True))
    return [answers.get(i, "").removeprefix(" ") for i in range(len(edits))]


def is_unusable(before: str, diff: str) -> bool:
    """Return True if an unfinished diff cannot apply: a line that is not of a diff, or too many old lines."""
    lines = diff.removeprefix(" ").split("\n")[:-1]
    return (
        any(line[:1] not in tuple(" +-@") for line in lines)
        or sum(line[:1] in tuple(" -") for line in lines) > before.count("\n") + 1
    )


async def edit_by_server(folder: Path, requests: Iterable[EditRequest], threads: int = 1) -> list[str | None]:
    """Return the text after each edit by the server, under constraints; `None` if it is refused."""
    settings, _ = parse({"model": {"completion": str(folder.resolve()), "threads": threads}})
    assistant = Assistant(open_thread_engine(settings), settings)
    try:
        await assistant.load()
        results = [await assistant.edit(Document(f"/{name}", before), message) for name, before, message in requests]
        return [result.after if isinstance(result, Proposal) else None for result in results]
    finally:
        await assistant.aclose()


def score_by_kind(
    edits: Sequence[EditSample], afters: Sequence[str | None]
) -> dict[str, tuple[Proportion, Proportion]]:
    """Count, per kind and for `all`, the edits that apply and those with exactly the expected text."""
    results: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for edit, after in zip(edits, afters, strict=True):
        result = after is not None, after == apply_diff(edit.before, edit.diff)
        results["all"].append(result)
        results[edit.kind].append(result)
    return {
        kind: (Proportion.from_results(fits for fits, _ in found), Proportion.from_results(right for _, right in found))
        for kind, found in sorted(results.items())
    }
