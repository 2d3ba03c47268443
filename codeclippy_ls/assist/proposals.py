"""From a generation that wrote a diff to edits of the document, or a reason why there are none. Pure."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from codeclippy_ls import diffs
from codeclippy_ls.assist.regions import Marker, Shown
from codeclippy_ls.engine.engine import Generation, Reason
from codeclippy_ls.text import Document, Edit, apply, lines, minimal_edits, to_lf, with_eol

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
    part = Document(document.uri, "".join(line + "\n" for line in shown.lines[start:end]))
    edits, problems = diffs.read(diff, part, whole=True)
    if fatal := [problem for problem in problems if problem.fatal]:
        return Refusal(f"the model's diff was refused: {fatal[0].reason}")
    if _HIDDEN.search("".join(edit.text for edit in edits)):
        return Refusal("the model's edit holds invisible characters that reorder text")
    moved = _mapped(document, shown.numbers[start:end], apply(part.text, edits), marker)
    if moved is None:
        return Refusal("the document mixes kinds of line ends here in a way that an edit would break")
    if not moved:
        return Refusal("the model proposed no change")
    return Proposal(document, moved, diff, generation)


def _mapped(document: Document, numbers: tuple[int, ...], after: str, marker: Marker | None) -> tuple[Edit, ...] | None:
    """Edits that bring the lines from the first to the last of ``numbers`` to ``after``; the marker's line goes.

    ``None`` where the document mixes lone CR with other line ends, so that a line would melt into the next.
    """
    start, end = _line_range(document, numbers[0], numbers[-1]) if numbers else (len(document.text),) * 2
    before = document.text[start:end]
    if before and before[-1] not in "\r\n":
        after = after.removesuffix("\n")
    changed = _in_style_of(before, after, document.eol)
    if to_lf(changed) != after:
        return None
    changes = minimal_edits(before, changed)
    edits = tuple(Edit(edit.start + start, edit.end + start, edit.text) for edit in changes)
    if edits and marker and not numbers[:1] <= (marker.line,) <= numbers[-1:]:
        edits += (Edit(*_line_range(document, marker.line, marker.line), ""),)
    return edits


def _line_range(document: Document, first: int, last: int) -> tuple[int, int]:
    """Offsets of whole lines, the last one's line end included."""
    end = document.starts[last + 1] if last + 1 < document.line_count else len(document.text)
    return document.starts[first], end


def _in_style_of(before: str, after: str, eol: str) -> str:
    """The new lines, each with the line end it had where it is an old line, else in the document's style."""
    old, new = lines(before), lines(after)
    matcher = difflib.SequenceMatcher(None, [to_lf(line) for line in old], new, autojunk=False)
    result: list[str] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        result += old[i1:i2] if tag == "equal" else [with_eol(line, eol) for line in new[j1:j2]]
    return "".join(result)
