"""`EditTask`: a diff of the lines that an edit is about, as plain data. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from codeclippy_ls.constrain.gbnf import apply_gbnf_diff, write_gbnf
from codeclippy_ls.constrain.grammar import diff_constraint
from codeclippy_ls.diffs.reading import read_diff
from codeclippy_ls.diffs.reasoning import remove_reasoning
from codeclippy_ls.diffs.writing import write_diff
from codeclippy_ls.inference.requests import Candidate, FinishReason, Task
from codeclippy_ls.prompts.context import EditTarget
from codeclippy_ls.prompts.text_prompts import (
    RemoteModel,
    TextPrompt,
    build_text_edit_prompt,
    cut_at_control_token,
)
from codeclippy_ls.prompts.token_prompts import TokenPrompt, build_edit_prompt
from codeclippy_ls.tasks.edit_context import EditContext
from codeclippy_ls.tasks.redaction import check_prompt, refuse_secret_file, select_clean_lines
from codeclippy_ls.text import Document, apply_edits

_ONLY_REASONING = (
    'The answer ended before the model had finished its reasoning; raise the setting "edit.maxTokens", or choose a '
    "model that answers without reasoning."
)


@dataclass(frozen=True, slots=True)
class ContextDiff:
    """A diff of the lines ``[start, end)`` of an `EditContext`, or the problem if the answer is not a diff."""

    text: str
    start: int
    end: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class EditTask(Task):
    """A diff of the context's lines by message, held to the grammar; its answer is a `ContextDiff`.

    Attributes:
        file_name: shown to the model.
        max_tokens: of the answer.
        family: of the model, if the settings name one.
        is_secret: the file may hold keys or passwords, by its path.
    """

    file_name: str
    context: EditContext
    message: str
    max_tokens: int
    family: str = ""
    is_secret: bool = False

    def build_prompt(self, model: Any, context_length: int) -> TokenPrompt:
        """Build the prompt with the grammar that the answer is held to.

        Raises:
            ValueError: the model writes no diffs, or the selected lines do not fit; the message is for the user.
        """
        reserve = min(self.max_tokens, context_length // 2)
        prompt = build_edit_prompt(model, self._target, context_length, reserve, self.family)
        start, end = prompt.line_range
        stop_token_ids = model.stop_token_ids | prompt.stop_token_ids
        constraint = diff_constraint(
            model.tokenizer, self.context.lines[start:end], stop_token_ids, prefix=prompt.diff_prefix
        )
        return replace(prompt, constraint=constraint)

    def build_text_prompt(self, remote: RemoteModel) -> TextPrompt:
        """Build the prompt as text, with a GBNF grammar, of lines that hold no secret."""
        refuse_secret_file(self.file_name, self.is_secret)
        first, last = select_clean_lines(self.context)
        target = self._target
        target = replace(
            target, lines=target.lines[first:last], first=max(target.first - first, 0), last=max(target.last - first, 0)
        )
        prompt = check_prompt(build_text_edit_prompt(remote, target, self.max_tokens, self.family))
        start, end = (first + line for line in prompt.line_range)
        return replace(prompt, line_range=(start, end), grammar=write_gbnf(self.context.lines[start:end]))

    @property
    def _target(self) -> EditTarget:
        context = self.context
        return EditTarget(context.lines, context.first, context.last, self.file_name, self.message, context.is_new)

    def is_done(self, text: str, prompt: TokenPrompt | TextPrompt) -> bool:
        """Return False: only the model ends its answer. After a closed fence another diff of the edit may follow."""
        return False

    def parse_answer(self, candidate: Candidate, prompt: TokenPrompt | TextPrompt) -> ContextDiff:
        """Rewrite the diff from the operations of its grammar; of one that was cut off, take the finished hunks."""
        if isinstance(prompt, TextPrompt):
            return self._parse_text(candidate, prompt)
        state = prompt.constraint
        if state is None:
            return ContextDiff(candidate.text, *prompt.line_range)
        for token in candidate.token_ids:
            state = state.advance(token)
        if candidate.finish_reason is not FinishReason.END:
            state = state.drop_open_hunk()
        return ContextDiff(state.format_diff(), *prompt.line_range)

    def _parse_text(self, candidate: Candidate, prompt: TextPrompt) -> ContextDiff:
        """Rewrite a service's diff: apply it as it stands if it followed the grammar, else locate its hunks by text."""
        start, end = prompt.line_range
        answer = remove_reasoning(cut_at_control_token(candidate.text, prompt), "\n".join(self.context.lines))
        if answer is None:
            return ContextDiff("", start, end, _ONLY_REASONING)
        lines = [line + "\n" for line in self.context.lines[start:end]]
        document = Document("", "".join(lines))
        complete = candidate.finish_reason in (FinishReason.END, FinishReason.STOP)
        changed = apply_gbnf_diff(answer, self.context.lines[start:end], complete)
        if changed is not None:
            after = "".join(line + "\n" for line in changed)
        else:
            near = sum(map(len, lines[: max(0, self.context.first - start)]))
            edits, problems = read_diff(answer, document, near, complete=complete) if answer.strip() else ([], [])
            if not edits:
                return ContextDiff("", start, end, problems[-1].reason if problems else "")
            after = apply_edits(document.text, edits)
        return ContextDiff(write_diff(document.text, after, self.file_name or "file"), start, end)
