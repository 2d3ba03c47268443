"""`EditTask`: an edit of some lines, in the format that the model is good at, as plain data. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from codeclippy_ls.constrain.gbnf import apply_gbnf_diff, write_gbnf
from codeclippy_ls.constrain.grammar import diff_constraint
from codeclippy_ls.constrain.rewrite import rewrite_constraint
from codeclippy_ls.diffs.reading import read_diff
from codeclippy_ls.diffs.reasoning import remove_reasoning
from codeclippy_ls.diffs.rewriting import find_placeholder, restore_lines
from codeclippy_ls.diffs.writing import write_diff
from codeclippy_ls.families import EditFormat
from codeclippy_ls.inference.requests import Candidate, FinishReason, Task
from codeclippy_ls.prompts.context import EditTarget
from codeclippy_ls.prompts.rewriting import (
    choose_fence,
    extract_lines,
    extract_window,
    is_fence_closed,
)
from codeclippy_ls.prompts.text_prompts import (
    RemoteModel,
    TextPrompt,
    build_text_edit_prompt,
    cut_at_control_token,
)
from codeclippy_ls.prompts.token_prompts import TokenPrompt, build_edit_prompt
from codeclippy_ls.tasks.edit_context import EditContext
from codeclippy_ls.tasks.redaction import check_prompt, drop_secret_lines, refuse_secret_file, select_clean_lines
from codeclippy_ls.tasks.rewrite_checks import count_missing_names, find_rewrite_problem
from codeclippy_ls.tasks.rewrite_scope import separate_additions
from codeclippy_ls.text import Document, apply_edits, find_common_indent, remove_indent

_ONLY_REASONING = (
    'The answer ended before the model had finished its reasoning; raise the setting "edit.maxTokens", or choose a '
    "model that answers without reasoning."
)
_HUNK = re.compile(r"^ ?@@ -", re.MULTILINE)
_NO_FENCE = "the answer has no whole block of code in a fence."


@dataclass(frozen=True, slots=True)
class ContextDiff:
    """A diff of the lines ``[start, end)`` of an `EditContext`, or the problem if the answer is not an edit.

    ``imports`` are lines that go to the other imports of the document. With ``is_rewrite`` the model wrote the lines
    anew; ``num_missing`` names of the message are not in them.
    """

    text: str
    start: int
    end: int
    problem: str = ""
    imports: tuple[str, ...] = ()
    is_rewrite: bool = False
    num_missing: int = 0


@dataclass(frozen=True, slots=True)
class EditTask(Task):
    """An edit of the context's lines by message; its answer is a `ContextDiff`.

    A diff is held to the grammar. Lines that are written anew are free; their diff is made here.

    Attributes:
        file_name: shown to the model.
        max_tokens: of the answer, beyond the lines that it repeats.
        family, edit_format: of the model, if the settings name them.
        is_secret: the file may hold keys or passwords, by its path.
    """

    file_name: str
    context: EditContext
    message: str
    max_tokens: int
    family: str = ""
    is_secret: bool = False
    edit_format: str = "auto"

    def build_prompt(self, model: Any, context_length: int) -> TokenPrompt:
        """Build the prompt with the grammar that a diff is held to, or the old lines that drafts are taken from.

        Raises:
            ValueError: the model makes no edits, or the selected lines do not fit; the message is for the user.
        """
        reserve = min(self.max_tokens, context_length // 2)
        target = self._target
        prompt = build_edit_prompt(model, target, context_length, reserve, self.family, self.edit_format)
        if prompt.edit_format is not EditFormat.DIFF:
            is_window = prompt.edit_format is EditFormat.WINDOW
            shown = target.lines if is_window else remove_indent(target.lines, find_common_indent(target.lines))
            return replace(prompt, constraint=rewrite_constraint(model.tokenizer, shown))
        start, end = prompt.line_range
        stop_token_ids = model.stop_token_ids | prompt.stop_token_ids
        constraint = diff_constraint(
            model.tokenizer, self.context.lines[start:end], stop_token_ids, prefix=prompt.diff_prefix
        )
        return replace(prompt, constraint=constraint)

    def build_text_prompt(self, remote: RemoteModel) -> TextPrompt:
        """Build the prompt as text, with a GBNF grammar for a diff, of lines that hold no secret."""
        refuse_secret_file(self.file_name, self.is_secret)
        first, last = select_clean_lines(self.context)
        target = self._target
        target = replace(
            target,
            lines=target.lines[first:last],
            first=max(target.first - first, 0),
            last=max(target.last - first, 0),
            above=drop_secret_lines(target.above),
            below=drop_secret_lines(target.below),
        )
        prompt = check_prompt(build_text_edit_prompt(remote, target, self.max_tokens, self.family, self.edit_format))
        start, end = (first + line for line in prompt.line_range)
        grammar = write_gbnf(self.context.lines[start:end]) if prompt.edit_format is EditFormat.DIFF else ""
        return replace(prompt, line_range=(start, end), grammar=grammar)

    @property
    def _target(self) -> EditTarget:
        context = self.context
        return EditTarget(
            context.lines,
            context.first,
            context.last,
            self.file_name,
            self.message,
            context.is_new,
            context.language,
            context.above,
            context.below,
        )

    def is_done(self, text: str, prompt: TokenPrompt | TextPrompt) -> bool:
        """Return whether the fence around lines that are written anew is closed.

        Otherwise only the model ends its answer: after a closed fence another diff of the edit may follow.
        """
        is_closed = _is_begun(prompt) and is_fence_closed(text, choose_fence(self.context.lines))
        return is_closed and not self._is_diff(text)

    def parse_answer(self, candidate: Candidate, prompt: TokenPrompt | TextPrompt) -> ContextDiff:
        """Return the diff of the shown lines: rewritten from the operations of its grammar, or made from new lines.

        Of a diff that was cut off, the finished hunks count; of lines that were, none.
        """
        if prompt.edit_format is not EditFormat.DIFF:
            return self._parse_lines(candidate, prompt)
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

    def _parse_lines(self, candidate: Candidate, prompt: TokenPrompt | TextPrompt) -> ContextDiff:
        """Make the diff of lines that were written anew, unless something is missing from them."""
        start, end = prompt.line_range
        old, text = self.context.lines[start:end], candidate.text
        if isinstance(prompt, TextPrompt):
            cleaned = remove_reasoning(cut_at_control_token(text, prompt), "\n".join(self.context.lines))
            if cleaned is None:
                return ContextDiff("", start, end, _ONLY_REASONING)
            if self._is_diff(cleaned):  # it was asked for lines, and answered as it is used to
                return self._parse_text(candidate, prompt)
            text = cleaned
        is_ended = candidate.finish_reason in (FinishReason.END, FinishReason.STOP)
        written: list[str] | None
        if prompt.edit_format is EditFormat.WINDOW:
            indent = ""
            written = extract_window(text, self._target) if is_ended else None
        else:
            indent = find_common_indent(old)
            shown = remove_indent(old, indent)
            written = extract_lines(text, choose_fence(old), shown, _is_begun(prompt), is_ended)
        if written is None:
            return ContextDiff("", start, end, _NO_FENCE if is_ended and text.strip() else "")
        if placeholder := find_placeholder(remove_indent(old, indent), written):
            return ContextDiff("", start, end, f"it leaves out code ({placeholder.strip()[:60]}).")
        written, imports = separate_additions(remove_indent(old, indent), written, self.message, self.context)
        new = restore_lines(old, written, indent, self.message)
        if problem := find_rewrite_problem(old, new, self.message, self.context):
            return ContextDiff("", start, end, problem)
        before, after = ("".join(line + "\n" for line in lines) for lines in (old, new))
        diff = write_diff(before, after, self.file_name or "file")
        num_missing = count_missing_names(old, new, self.message)
        return ContextDiff(diff, start, end, "", imports, True, num_missing)

    def _is_diff(self, text: str) -> bool:
        """Return whether an answer is a unified diff, while the document has no line that begins like one."""
        return _HUNK.search(text) is not None and not any(line.startswith("@@ -") for line in self.context.lines)

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


def _is_begun(prompt: TokenPrompt | TextPrompt) -> bool:
    """Return whether the answer was begun with a fence."""
    is_rewrite = prompt.edit_format is EditFormat.REWRITE
    return is_rewrite and (isinstance(prompt, TokenPrompt) or bool(prompt.answer_start))
