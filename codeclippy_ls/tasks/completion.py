"""`CompletionTask`: a suggestion at a cursor, as plain data. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from codeclippy_ls.constrain.healing import healing_constraint
from codeclippy_ls.inference.requests import Candidate, Task
from codeclippy_ls.postprocess.cleanup import is_finished
from codeclippy_ls.prompts.build import CompletionContext, Prompt, build_completion_prompt
from codeclippy_ls.prompts.text_prompts import (
    RemoteModel,
    TextPrompt,
    build_text_completion_prompt,
    continued,
)
from codeclippy_ls.secret_files import is_secret_name, refuse_secret_file
from codeclippy_ls.text import to_lf

_TAIL = 4000  # characters before the cursor that decide where a suggestion ends


@dataclass(frozen=True, slots=True)
class CompletionTask(Task):
    """A suggestion at a cursor; its answer is the text to insert there.

    Attributes:
        context: the text around the cursor.
        tokens: most that the answer may have.
        multiline: whether it may have more than a line.
        family: the model's, where the settings name one.
        off: steps of the clean-up that are left out.
    """

    context: CompletionContext
    tokens: int
    multiline: bool = True
    family: str = ""
    off: tuple[str, ...] = ()

    def prompt(self, model: Any, window: int) -> Prompt:
        """The prompt; a word that was begun is cut from it and becomes a constraint on the answer."""
        reserve = min(self.tokens + 8, window // 2)
        prompt = build_completion_prompt(model, self.context, window, reserve, self.family)
        return replace(prompt, constraint=healing_constraint(model.tokenizer, prompt.heal))

    def text_prompt(self, served: RemoteModel) -> TextPrompt:
        """The prompt as text, without anything of a file that holds secrets."""
        refuse_secret_file(self.context.name)
        shown = tuple(snippet for snippet in self.context.passages if not is_secret_name(_base(snippet.path)))
        return build_text_completion_prompt(served, replace(self.context, passages=shown), self.tokens + 8, self.family)

    def is_done(self, text: str, prompt: Prompt | TextPrompt) -> bool:
        """Whether the suggestion is at its end."""
        return is_finished(text[len(prompt.heal) :], to_lf(self.context.prefix[-_TAIL:]), self.multiline, self.off)

    def answer(self, candidate: Candidate, prompt: Prompt | TextPrompt) -> str:
        """The text without the word that was begun; nothing where it goes on otherwise."""
        if isinstance(prompt, TextPrompt):
            return continued(candidate.text, prompt)
        return candidate.text[len(prompt.heal) :] if candidate.text.startswith(prompt.heal) else ""


def _base(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
