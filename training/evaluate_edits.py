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
from training.figures import Share
from training.snippets import applied
from training.tokenizer import DIFF
from training.writer import Asked, Model

TOKENS = 400  # the server's default

Asking = tuple[str, str, str]  # file name, text, message


def read(path: Path) -> list[EditSample]:
    """The edits of a file."""
    with path.open() as lines:
        return [EditSample(**json.loads(line)) for line in lines]


def some_of_each(edits: Sequence[EditSample], per_kind: int) -> list[EditSample]:
    """The first edits of each kind."""
    seen: dict[str, int] = defaultdict(int)
    chosen = []
    for edit in edits:
        seen[edit.kind] += 1
        if seen[edit.kind] <= per_kind:
            chosen.append(edit)
    return chosen


def asking(edit: EditSample) -> Asking:
    """What a user would hand over."""
    return edit.name, edit.before, edit.message


def diffs(model: Model, edits: Sequence[EditSample]) -> list[str]:
    """The hunks the model writes freely; none for a document that leaves no room in the window."""
    asked = [Asked(samples.edit(model.encode, e.name, e.before, e.message, "").ids) for e in edits]
    asked = [
        Asked(one.ids[: one.ids.index(DIFF) + 1], finished=partial(hopeless, edit.before))
        for one, edit in zip(asked, edits, strict=True)
    ]
    fit = [i for i, one in enumerate(asked) if len(one.ids) < model.window]
    found = dict(zip(fit, model.texts([asked[i] for i in fit], TOKENS), strict=True))
    return [found.get(i, "").removeprefix(" ") for i in range(len(edits))]


def hopeless(before: str, diff: str) -> bool:
    """Whether a diff under way can no longer apply: a line that is none of a diff, or more old lines than there are."""
    lines = diff.removeprefix(" ").split("\n")[:-1]
    return (
        any(line[:1] not in tuple(" +-@") for line in lines)
        or sum(line[:1] in tuple(" -") for line in lines) > before.count("\n") + 1
    )


async def edited_by_server(folder: Path, asked: Iterable[Asking], threads: int = 1) -> list[str | None]:
    """The texts after each edit as the server makes it, under constraints; `None` where it is refused."""
    settings, _ = parse({"model": {"completion": str(folder.resolve()), "threads": threads}})
    assistant = Assistant(open_thread_engine(settings), settings)
    try:
        await assistant.prepare()
        results = [await assistant.edit(Document(f"/{name}", before), message) for name, before, message in asked]
        return [result.after if isinstance(result, Proposal) else None for result in results]
    finally:
        await assistant.close()


def by_kind(edits: Sequence[EditSample], afters: Sequence[str | None]) -> dict[str, tuple[Share, Share]]:
    """Per kind, and for `all`: how many apply, how many give exactly the expected text. No edit is `None`."""
    results: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for edit, after in zip(edits, afters, strict=True):
        result = after is not None, after == applied(edit.before, edit.diff)
        results["all"].append(result)
        results[edit.kind].append(result)
    return {
        kind: (Share.of(fits for fits, _ in found), Share.of(right for _, right in found))
        for kind, found in sorted(results.items())
    }
