"""What is asked of an engine, as plain data: a completion, an edit, and what comes back of each.

An ask makes its own prompt once it meets a model, on the engine's thread, and turns each candidate into the asker's
own terms. So it may be answered on a thread of this process, in another process, or by a service that makes its prompt
in its own way: nothing here but the two methods knows a tokenizer, and nobody above sees one. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from codeclippy_ls import constrain, prompts
from codeclippy_ls.assist.regions import Shown
from codeclippy_ls.engine.engine import Ask, Candidate, Reason
from codeclippy_ls.prompts import Context, Edited, Prompt
from codeclippy_ls.text import to_lf

_TAIL = 4000  # characters before the cursor that decide where a suggestion ends


@dataclass(frozen=True, slots=True)
class CompletionAsk(Ask):
    """A suggestion at a cursor; its answer is the text to insert there.

    Attributes:
        context: the text around the cursor.
        tokens: most that the answer may have.
        multiline: whether it may have more than a line.
        family: the model's, where the settings name one.
        off: steps of the clean-up that are left out.
    """

    context: Context
    tokens: int
    multiline: bool = True
    family: str = ""
    off: tuple[str, ...] = ()

    def prompt(self, model: Any, window: int) -> Prompt:
        """The prompt; a word that was begun is cut from it and becomes a constraint on the answer."""
        reserve = min(self.tokens + 8, window // 2)
        prompt = prompts.completion_prompt(model, self.context, window, reserve, self.family)
        return replace(prompt, constraint=constrain.heal(model.tokenizer, prompt.heal))

    def done(self, text: str, prompt: Prompt) -> bool:
        """Whether the suggestion is at its end."""
        return prompts.ended(text[len(prompt.heal) :], to_lf(self.context.prefix[-_TAIL:]), self.multiline,
                             self.off)

    def answer(self, candidate: Candidate, prompt: Prompt) -> str:
        """The text without the word that was begun; nothing where it goes on otherwise."""
        return candidate.text[len(prompt.heal) :] if candidate.text.startswith(prompt.heal) else ""


@dataclass(frozen=True, slots=True)
class ShownDiff:
    """A diff of the lines ``[start, end)`` of those that were shown."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class EditAsk(Ask):
    """A diff of the shown lines by message, held to the grammar; its answer is a `ShownDiff`.

    Attributes:
        name: the file's.
        tokens: most that the answer may have.
        family: the model's, where the settings name one.
    """

    name: str
    shown: Shown
    message: str
    tokens: int
    family: str = ""

    def prompt(self, model: Any, window: int) -> Prompt:
        """The prompt with the grammar that the answer is held to.

        Raises:
            ValueError: the model writes no diffs, or the shown lines do not fit; the message is for the user.
        """
        shown = self.shown
        edited = Edited(shown.lines, shown.first, shown.last, self.name, self.message, shown.new)
        prompt = prompts.edit_prompt(model, edited, window, min(self.tokens, window // 2), self.family)
        start, end = prompt.lines
        state = constrain.diff(
            model.tokenizer, shown.lines[start:end], model.ends | prompt.ends, opening=prompt.opening)
        return replace(prompt, constraint=state)

    def answer(self, candidate: Candidate, prompt: Prompt) -> ShownDiff:
        """The diff rewritten from what was done; of one that was cut off, the finished hunks."""
        state = prompt.constraint
        if state is None:
            return ShownDiff(candidate.text, *prompt.lines)
        for token in candidate.tokens:
            state = state.step(token)
        if candidate.reason is not Reason.END:
            state = state.finished_hunks()
        return ShownDiff(state.diff(), *prompt.lines)
