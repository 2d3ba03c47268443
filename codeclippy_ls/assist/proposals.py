"""From a generation that wrote a diff to edits of the document, or a reason why there are none. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from codeclippy_ls import diffs
from codeclippy_ls.assist.regions import Marker, Shown
from codeclippy_ls.engine.engine import Generation, Reason
from codeclippy_ls.text import Document, Edit, apply

# Bidirectional controls show code in another order than it runs in (CVE-2021-42574).
_HIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class Proposal:
    """Edits to ``document``, offsets in its text, the diff they came from, and whose passage they copy."""

    document: Document
    edits: tuple[Edit, ...]
    diff: str
    generation: Generation
    source: str = ""

    @property
    def after(self) -> str:
        """The document's text with the edits applied."""
        return apply(self.document.text, self.edits)


@dataclass(frozen=True, slots=True)
class Refusal:
    """No edit, and a sentence that says why; ``cancelled`` where nobody needs to be told."""

    reason: str
    cancelled: bool = False


def proposal_from(
    document: Document, shown: Shown, marker: Marker | None, generation: Generation
) -> Proposal | Refusal:
    """The generation's diff, rewritten from what was done and read again like any other diff."""
    start, end = generation.prompt.lines
    state = generation.prompt.constraint
    for token in generation.candidates[0].tokens:
        state = state.step(token)
    if generation.reason is not Reason.END:  # cut off: the hunk under way may lack its other half
        state = replace(state, body=(), changed=False)
    diff = state.diff()
    if not diff:
        unfinished = "" if generation.reason is Reason.END else f" within the {generation.reason.value} budget"
        return Refusal(f"the model proposed no change{unfinished}")
    edits, problems = diffs.read_at(diff, document, shown.numbers[start:end], (marker.line,) if marker else ())
    if not edits:
        return Refusal(f"the model's diff was refused: {problems[-1].reason}")
    if _HIDDEN.search("".join(edit.text for edit in edits)):
        return Refusal("the model's edit holds invisible characters that reorder text")
    return Proposal(document, tuple(edits), diff, generation)
