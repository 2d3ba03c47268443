"""`EditTask`: a diff of the lines that an edit is about, as plain data. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from codeclippy_ls.constrain.gbnf import apply_gbnf_diff, write_gbnf
from codeclippy_ls.constrain.grammar import diff_constraint
from codeclippy_ls.diffs.reading import read_diff
from codeclippy_ls.diffs.writing import write_diff
from codeclippy_ls.inference.requests import Candidate, FinishReason, Task
from codeclippy_ls.prompts.build import EditTarget, Prompt, build_edit_prompt
from codeclippy_ls.prompts.text_prompts import (
    RemoteModel,
    TextPrompt,
    build_text_edit_prompt,
    closed,
    cut_at_control_token,
)
from codeclippy_ls.secret_files import refuse_secret_file
from codeclippy_ls.tasks.edit_context import EditContext
from codeclippy_ls.text import Document, apply_edits


@dataclass(frozen=True, slots=True)
class ContextDiff:
    """A diff of the lines ``[start, end)`` of those that were shown, or why what was written is none."""

    text: str
    start: int
    end: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EditTask(Task):
    """A diff of the shown lines by message, held to the grammar; its answer is a `ContextDiff`.

    Attributes:
        name: the file's.
        tokens: most that the answer may have.
        family: the model's, where the settings name one.
    """

    name: str
    shown: EditContext
    message: str
    tokens: int
    family: str = ""

    def prompt(self, model: Any, window: int) -> Prompt:
        """The prompt with the grammar that the answer is held to.

        Raises:
            ValueError: the model writes no diffs, or the shown lines do not fit; the message is for the user.
        """
        shown = self.shown
        prompt = build_edit_prompt(model, self._edit_target(), window, min(self.tokens, window // 2), self.family)
        start, end = prompt.lines
        state = diff_constraint(
            model.tokenizer, shown.lines[start:end], model.stop_token_ids | prompt.ends, opening=prompt.opening
        )
        return replace(prompt, constraint=state)

    def text_prompt(self, served: RemoteModel) -> TextPrompt:
        """The prompt as text, with the grammar written down; nothing of a file that holds secrets."""
        refuse_secret_file(self.name)
        prompt = build_text_edit_prompt(served, self._edit_target(), self.tokens, self.family)
        start, end = prompt.lines
        return replace(prompt, grammar=write_gbnf(self.shown.lines[start:end]))

    def _edit_target(self) -> EditTarget:
        shown = self.shown
        return EditTarget(shown.lines, shown.first, shown.last, self.name, self.message, shown.new)

    def is_done(self, text: str, prompt: Prompt | TextPrompt) -> bool:
        """Whether the diff is at its end, where it stands in a fence."""
        return isinstance(prompt, TextPrompt) and closed(text, prompt)

    def answer(self, candidate: Candidate, prompt: Prompt | TextPrompt) -> ContextDiff:
        """The diff rewritten from what was done; of one that was cut off, the finished hunks."""
        if isinstance(prompt, TextPrompt):
            return self._placed(candidate, prompt)
        state = prompt.constraint
        if state is None:
            return ContextDiff(candidate.text, *prompt.lines)
        for token in candidate.token_ids:
            state = state.advance(token)
        if candidate.finish_reason is not FinishReason.END:
            state = state.finished_hunks()
        return ContextDiff(state.diff(), *prompt.lines)

    def _placed(self, candidate: Candidate, prompt: TextPrompt) -> ContextDiff:
        """Rewrite a diff of a service.

        One that followed the grammar is applied as it stands; the hunks of another are searched for by their text.
        """
        start, end = prompt.lines
        written = cut_at_control_token(candidate.text, prompt)
        lines = [line + "\n" for line in self.shown.lines[start:end]]
        document = Document("", "".join(lines))
        near = sum(map(len, lines[: max(0, self.shown.first - start)]))
        whole = candidate.finish_reason in (FinishReason.END, FinishReason.STOP)
        made = apply_gbnf_diff(written, self.shown.lines[start:end], whole)
        if made is not None:
            after = "".join(line + "\n" for line in made)
            return ContextDiff(write_diff(document.text, after, self.name or "file"), start, end)
        edits, problems = read_diff(written, document, near, whole=whole) if written.strip() else ([], [])
        if not edits:
            return ContextDiff("", start, end, problems[-1].reason if problems else "")
        return ContextDiff(
            write_diff(document.text, apply_edits(document.text, edits), self.name or "file"), start, end
        )
