"""Held-out synthetic edits: how many diffs apply, and how many give exactly the expected text.

Twice: by plain decoding, and as the server makes them, constrained. A docstring that says the same in other words
counts as wrong.
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
from training.figures import Proportion
from training.snippets import apply_diff
from training.tokenizer import DIFF
from training.writer import GenerationRequest, Model

MAX_TOKENS = 400  # the server's default

EditRequest = tuple[str, str, str]  # file name, text, message


def read_edits(path: Path) -> list[EditSample]:
    """The edits of a file."""
    with path.open() as lines:
        return [EditSample(**json.loads(line)) for line in lines]


def select_per_kind(edits: Sequence[EditSample], per_kind: int) -> list[EditSample]:
    """The first edits of each kind."""
    seen: dict[str, int] = defaultdict(int)
    chosen = []
    for edit in edits:
        seen[edit.kind] += 1
        if seen[edit.kind] <= per_kind:
            chosen.append(edit)
    return chosen


def make_request(edit: EditSample) -> EditRequest:
    """What a user would hand over."""
    return edit.name, edit.before, edit.message


def generate_diffs(model: Model, edits: Sequence[EditSample]) -> list[str]:
    """The hunks the model writes freely; none for a document that leaves no room in the window."""
    requests = []
    for edit in edits:
        ids = samples.make_edit(model.encode, edit.name, edit.before, edit.message, "").ids
        requests.append(GenerationRequest(ids[: ids.index(DIFF) + 1], is_finished=partial(is_unusable, edit.before)))
    fitting = [i for i, request in enumerate(requests) if len(request.prompt_ids) < model.context_length]
    answers = dict(zip(fitting, model.generate_greedy([requests[i] for i in fitting], MAX_TOKENS), strict=True))
    return [answers.get(i, "").removeprefix(" ") for i in range(len(edits))]


def is_unusable(before: str, diff: str) -> bool:
    """Whether a diff under way can no longer apply: a line that is none of a diff, or more old lines than there are."""
    lines = diff.removeprefix(" ").split("\n")[:-1]
    return (
        any(line[:1] not in tuple(" +-@") for line in lines)
        or sum(line[:1] in tuple(" -") for line in lines) > before.count("\n") + 1
    )


async def edit_by_server(folder: Path, asked: Iterable[EditRequest], threads: int = 1) -> list[str | None]:
    """The texts after each edit as the server makes it, under constraints; `None` where it is refused."""
    settings, _ = parse({"model": {"completion": str(folder.resolve()), "threads": threads}})
    assistant = Assistant(open_thread_engine(settings), settings)
    try:
        await assistant.prepare()
        results = [await assistant.edit(Document(f"/{name}", before), message) for name, before, message in asked]
        return [result.after if isinstance(result, Proposal) else None for result in results]
    finally:
        await assistant.close()


def score_by_kind(
    edits: Sequence[EditSample], afters: Sequence[str | None]
) -> dict[str, tuple[Proportion, Proportion]]:
    """Per kind, and for `all`: how many apply, how many give exactly the expected text. No edit is `None`."""
    results: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for edit, after in zip(edits, afters, strict=True):
        result = after is not None, after == apply_diff(edit.before, edit.diff)
        results["all"].append(result)
        results[edit.kind].append(result)
    return {
        kind: (Proportion.from_results(fits for fits, _ in found), Proportion.from_results(right for _, right in found))
        for kind, found in sorted(results.items())
    }
