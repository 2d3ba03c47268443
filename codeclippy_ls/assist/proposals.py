"""Turn a generation that wrote diffs into edits of the document, best first, or into a reason to refuse. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from codeclippy_ls.diffs.reading import read_diff_at
from codeclippy_ls.diffs.writing import write_diff
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation
from codeclippy_ls.syntax.insertion import introduces_error
from codeclippy_ls.syntax.languages import find_language
from codeclippy_ls.syntax.outline import find_import_place
from codeclippy_ls.tasks.edit import ContextDiff
from codeclippy_ls.tasks.edit_context import EditContext, Marker
from codeclippy_ls.text import Document, Edit, apply_edits, to_lf

# Bidirectional controls show code in another order than it runs in (CVE-2021-42574).
_BIDI_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")
# In mean log-probability: what each changed line and each added line that is there already cost a proposal, and what
# each further candidate with the same result adds to it (as much as four changed lines cost).
_LINE_PENALTY, _DUPLICATE_PENALTY, _AGREEMENT_BONUS = 0.02, 0.2, 0.08
# Of lines that are written anew, most tokens are copies, so that probabilities tell little. Of 31 instructed edits with
# tests, the best of three was right in 23.8 by mean log-probability, in 23.9 by the total, in 24.8 if the greedy one is
# the best unless it is refused (which names occur nowhere else changed nothing); one of the three was right in 25.3.
# What lacks a name that the message has comes last.
_GREEDY_BONUS, _MISSING_PENALTY = 10.0, 20.0


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed change of a document.

    Attributes:
        edits: in offsets of the document's text.
        diff: the diff that the edits were read from.
        source: the package that the edits copy code from, if any.
        alternatives: the other proposals, best first.
    """

    document: Document
    edits: tuple[Edit, ...]
    diff: str
    score: float = 0.0
    source: str = ""
    alternatives: tuple[Proposal, ...] = ()

    @property
    def after(self) -> str:
        """The document's text with the edits applied."""
        return apply_edits(self.document.text, self.edits)

    def patch(self, name: str) -> str:
        """Return the change as a diff of the whole document under this file name, which `patch -p1` accepts."""
        return write_diff(self.document.text, self.after, name)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason why there is no edit, as a sentence for the user; if ``cancelled``, nobody needs to be told.

    If it is the ``models_fault``, the user may try something else.
    """

    reason: str
    cancelled: bool = False
    models_fault: bool = False

    def describe(self) -> str:
        """Say why there is no edit, and what to try next."""
        advice = "; select fewer lines, say it in other words, or choose a larger model (model.edit)"
        return f"no edit: {self.reason}{advice if self.models_fault else ''}"


def describe_written(text: str) -> str:
    """Say how far the model has written an edit, in words for the user."""
    count = sum(not line.startswith("@@") for line in text.splitlines())
    return f"writing: {count} {'line' if count == 1 else 'lines'}"


def make_proposal(
    document: Document, context: EditContext, marker: Marker | None, generation: Generation
) -> Proposal | Refusal:
    """Return the best candidate's proposal with the others as alternatives; if all are refused, the first refusal."""
    results = [
        _read_candidate(document, context, marker, candidate, is_first=not index)
        for index, candidate in enumerate(generation.candidates)
    ]
    proposals = [result for result in results if isinstance(result, Proposal)]
    if not proposals:
        refusal = next(result for result in results if isinstance(result, Refusal))
        return replace(refusal, models_fault=True)
    best, *alternatives = _rank(proposals)
    return replace(best, alternatives=tuple(alternatives))


def _read_candidate(
    document: Document, context: EditContext, marker: Marker | None, candidate: Candidate, is_first: bool
) -> Proposal | Refusal:
    """Read a candidate's diff again, like any other diff, and check its result."""
    answer: ContextDiff = candidate.answer
    diff, start, end = answer.text, answer.start, answer.end
    if answer.problem:
        return Refusal(f"the model's edit was refused: {answer.problem}")
    if not diff:
        is_ended = candidate.finish_reason in (FinishReason.END, FinishReason.STOP)
        unfinished = "" if is_ended else f" within the {candidate.finish_reason.value} budget"
        return Refusal(f"the model proposed no change{unfinished}")
    edits, problems = read_diff_at(diff, document, context.line_numbers[start:end], marker.left_out if marker else ())
    if not edits:
        return Refusal(f"the model's edit was refused: {problems[-1].reason}")
    edits = _add_imports(answer.imports, edits, document)
    if _BIDI_CONTROLS.search("".join(edit.text for edit in edits)):
        return Refusal("the model's edit contains invisible characters that reorder text")
    proposal = Proposal(document, tuple(edits), diff, candidate.logprob - _penalty(diff, context.lines[start:end]))
    if introduces_error(document.text, proposal.after, find_language(document.language)):
        return Refusal("the model's edit would introduce a syntax error")
    bonus = _GREEDY_BONUS * (answer.is_rewrite and is_first) - _MISSING_PENALTY * answer.num_missing
    return replace(proposal, score=proposal.score + bonus)


def _add_imports(imports: Sequence[str], edits: list[Edit], document: Document) -> list[Edit]:
    """Add the edit that inserts imports behind the document's own, unless another edit changes that place."""
    if not imports:
        return edits
    line, follows = find_import_place(to_lf(document.text), find_language(document.language))
    at = document.starts[line] if line < document.line_count else len(document.text)
    if any(edit.start <= at <= edit.end for edit in edits) or (at and document.text[at - 1] not in "\r\n"):
        return edits
    blank = 0 if follows else 2 if document.language == "python" else 1
    inserted = Edit(at, at, "".join(line + document.eol for line in (*imports, *[""] * blank)))
    return sorted([inserted, *edits], key=lambda edit: edit.start)


def _penalty(diff: str, lines: Sequence[str]) -> float:
    """Return the cost of a diff: its size, and added lines that the document already has."""
    changed = [line for line in diff.splitlines() if line[:1] in ("+", "-")]
    removed = {line[1:].strip() for line in changed if line[0] == "-"}
    kept = {line.strip() for line in lines} - removed
    duplicates = sum(
        len(text) > 8 and text in kept for line in changed if line[0] == "+" and (text := line[1:].strip())
    )
    return _LINE_PENALTY * len(changed) + _DUPLICATE_PENALTY * duplicates


def _rank(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Sort the proposals, best first; those that differ only in whitespace are merged and gain a bonus."""
    groups: dict[str, list[Proposal]] = {}
    for proposal in proposals:
        groups.setdefault("".join(proposal.after.split()), []).append(proposal)
    merged = [
        replace(
            max(group, key=lambda proposal: proposal.score),
            score=max(proposal.score for proposal in group) + _AGREEMENT_BONUS * (len(group) - 1),
        )
        for group in groups.values()
    ]
    return sorted(merged, key=lambda proposal: -proposal.score)
