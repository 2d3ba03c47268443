"""`CompletionTask`: a suggestion at a cursor, as plain data. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from codeclippy_ls.constrain.healing import healing_constraint
from codeclippy_ls.inference.requests import Candidate, Task
from codeclippy_ls.postprocess.cleanup import is_finished
from codeclippy_ls.prompts.context import CompletionContext
from codeclippy_ls.prompts.text_prompts import (
    RemoteModel,
    TextPrompt,
    build_text_completion_prompt,
    extract_completion,
)
from codeclippy_ls.prompts.token_prompts import TokenPrompt, build_completion_prompt
from codeclippy_ls.tasks.redaction import check_prompt, redact_context, refuse_secret_file
from codeclippy_ls.text import to_lf

_TAIL = 4000  # characters before the cursor that decide where a suggestion ends
_SLACK = 8  # tokens that are kept for the answer beyond its limit


@dataclass(frozen=True, slots=True)
class CompletionTask(Task):
    """A suggestion at a cursor; its answer is the text to insert there.

    Attributes:
        context: the text around the cursor.
        max_tokens: of the answer.
        multiline: it may have more than one line.
        family: of the model, if the settings name one.
        disabled_steps: steps of the clean-up that are skipped.
        is_secret: the file may hold keys or passwords, by its path.
        guess: the rest of the line as somebody else proposes it; a model on this machine scores it.
    """

    context: CompletionContext
    max_tokens: int
    multiline: bool = True
    family: str = ""
    disabled_steps: tuple[str, ...] = ()
    is_secret: bool = False
    guess: str = ""

    def build_prompt(self, model: Any, context_length: int) -> TokenPrompt:
        """Build the prompt; a partial word is cut from it and becomes a constraint on the answer."""
        reserve = min(self.max_tokens + _SLACK, context_length // 2)
        limit = model.speed.suffix_limit
        prompt = build_completion_prompt(model, self.context, context_length, reserve, self.family, limit)
        return replace(prompt, constraint=healing_constraint(model.tokenizer, prompt.healing_prefix))

    def build_text_prompt(self, remote: RemoteModel) -> TextPrompt:
        """Build the prompt as text, without anything that holds secrets."""
        refuse_secret_file(self.context.name, self.is_secret)
        context = redact_context(self.context, remote.context_length)
        return check_prompt(build_text_completion_prompt(remote, context, self.max_tokens + _SLACK, self.family))

    def is_done(self, text: str, prompt: TokenPrompt | TextPrompt) -> bool:
        """Return whether the suggestion has reached its end."""
        prefix = to_lf(self.context.prefix[-_TAIL:])
        return is_finished(text[len(prompt.healing_prefix) :], prefix, self.multiline, self.disabled_steps)

    def list_guesses(self, prompt: TokenPrompt) -> tuple[str, ...]:
        """Return the guess as the model would have to write it."""
        return (prompt.healing_prefix + self.guess,) if self.guess else ()

    def parse_answer(self, candidate: Candidate, prompt: TokenPrompt | TextPrompt) -> str:
        """Return the text after the partial word; empty if the candidate does not continue that word."""
        if isinstance(prompt, TextPrompt):
            return extract_completion(candidate.text, prompt)
        if not candidate.text.startswith(prompt.healing_prefix):
            return ""
        return candidate.text[len(prompt.healing_prefix) :]
