"""From a generation that wrote diffs to edits of the document, the best first, or a reason why there are none. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from codeclippy_ls.diffs.reading import read_diff_at
from codeclippy_ls.diffs.writing import write_diff
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation
from codeclippy_ls.postprocess.syntax_check import introduces_syntax_error
from codeclippy_ls.tasks.edit import ContextDiff
from codeclippy_ls.tasks.edit_context import EditContext, Marker
from codeclippy_ls.text import Document, Edit, apply_edits

# Bidirectional controls show code in another order than it runs in (CVE-2021-42574).
_HIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069]")
# What a changed line and a line that is there already cost a proposal, in mean log-probability of its choices; another
# candidate that says the same is worth as much as four changed lines.
_PER_LINE, _PER_DOUBLE, _PER_AGREEMENT = 0.02, 0.2, 0.08


@dataclass(frozen=True, slots=True)
class Proposal:
    """Edits to ``document``, offsets in its text, the diff they came from, and whose passage they copy.

    ``others`` are what else was proposed, the next best first.
    """

    document: Document
    edits: tuple[Edit, ...]
    diff: str
    score: float = 0.0
    source: str = ""
    others: tuple[Proposal, ...] = ()

    @property
    def after(self) -> str:
        """The document's text with the edits applied."""
        return apply_edits(self.document.text, self.edits)

    def patch(self, name: str) -> str:
        """The edit of a file of that name as a diff of the whole document, which `patch -p1` takes."""
        return write_diff(self.document.text, self.after, name)


@dataclass(frozen=True, slots=True)
class Refusal:
    """No edit, and a sentence that says why; ``cancelled`` where nobody needs to be told."""

    reason: str
    cancelled: bool = False


def proposal_from(
    document: Document, shown: EditContext, marker: Marker | None, generation: Generation
) -> Proposal | Refusal:
    """The best of a generation's candidates with the others behind it; where all are refused, why the first is."""
    made = [_made(document, shown, marker, candidate) for candidate in generation.candidates]
    good = [one for one in made if isinstance(one, Proposal)]
    if not good:
        return next(one for one in made if isinstance(one, Refusal))
    best, *others = _ranked(good)
    return replace(best, others=tuple(others))


def _made(document: Document, shown: EditContext, marker: Marker | None, candidate: Candidate) -> Proposal | Refusal:
    """A candidate's diff, read again like any other diff."""
    answer: ContextDiff = candidate.answer
    diff, start, end = answer.text, answer.start, answer.end
    if answer.problem:
        return Refusal(f"the model's diff was refused: {answer.problem}")
    if not diff:
        unfinished = (
            "" if candidate.finish_reason is FinishReason.END else f" within the {candidate.finish_reason.value} budget"
        )
        return Refusal(f"the model proposed no change{unfinished}")
    edits, problems = read_diff_at(diff, document, shown.line_numbers[start:end], (marker.line,) if marker else ())
    if not edits:
        return Refusal(f"the model's diff was refused: {problems[-1].reason}")
    if _HIDDEN.search("".join(edit.text for edit in edits)):
        return Refusal("the model's edit holds invisible characters that reorder text")
    made = Proposal(document, tuple(edits), diff, candidate.logprob - _cost(diff, shown.lines[start:end]))
    if introduces_syntax_error(document.text, made.after, document.language):
        return Refusal("the model's edit would break the code: it is whole now, and would not be afterwards")
    return made


def _cost(diff: str, lines: Sequence[str]) -> float:
    """What speaks against a diff: its size, and added lines that stand in the document already."""
    changed = [line for line in diff.splitlines() if line[:1] in ("+", "-")]
    gone = {line[1:].strip() for line in changed if line[0] == "-"}
    there = {line.strip() for line in lines} - gone
    doubled = sum(len(text) > 8 and text in there for line in changed if line[0] == "+" and (text := line[1:].strip()))
    return _PER_LINE * len(changed) + _PER_DOUBLE * doubled


def _ranked(made: Sequence[Proposal]) -> list[Proposal]:
    """The proposals, the best first; those that differ in blanks alone are one, and count for more."""
    found: dict[str, list[Proposal]] = {}
    for one in made:
        found.setdefault("".join(one.after.split()), []).append(one)
    best = [
        replace(
            max(alike, key=lambda one: one.score),
            score=max(one.score for one in alike) + _PER_AGREEMENT * (len(alike) - 1),
        )
        for alike in found.values()
    ]
    return sorted(best, key=lambda one: -one.score)
