"""What is asked of an engine, as plain data: a completion, an edit, and what comes back of each.

An ask makes its own prompt once it meets a model, on the engine's thread, and turns each candidate into the asker's
own terms. So it may be answered on a thread of this process, in another process, or by a service that makes its prompt
in its own way: nothing here but `prompt` and `answer` knows a tokenizer, and nobody above sees one. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from codeclippy_ls import constrain, diffs, prompts
from codeclippy_ls.assist.gates import secret_name
from codeclippy_ls.assist.regions import Shown
from codeclippy_ls.engine.engine import Ask, Candidate, Reason
from codeclippy_ls.prompts import Context, Edited, PlainPrompt, Prompt, Served
from codeclippy_ls.text import Document, apply, to_lf

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

    def text_prompt(self, served: Served) -> PlainPrompt:
        """The prompt as text, without anything of a file that holds secrets."""
        _keep_secret(self.context.name)
        shown = tuple(passage for passage in self.context.passages if not secret_name(_base(passage.path)))
        return prompts.plain_completion(served, replace(self.context, passages=shown), self.tokens + 8, self.family)

    def done(self, text: str, prompt: Prompt | PlainPrompt) -> bool:
        """Whether the suggestion is at its end."""
        return prompts.ended(text[len(prompt.heal) :], to_lf(self.context.prefix[-_TAIL:]), self.multiline, self.off)

    def answer(self, candidate: Candidate, prompt: Prompt | PlainPrompt) -> str:
        """The text without the word that was begun; nothing where it goes on otherwise."""
        if isinstance(prompt, PlainPrompt):
            return prompts.continued(candidate.text, prompt)
        return candidate.text[len(prompt.heal) :] if candidate.text.startswith(prompt.heal) else ""


@dataclass(frozen=True, slots=True)
class ShownDiff:
    """A diff of the lines ``[start, end)`` of those that were shown, or why what was written is none."""

    text: str
    start: int
    end: int
    problem: str = ""


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
        prompt = prompts.edit_prompt(model, self._edited(), window, min(self.tokens, window // 2), self.family)
        start, end = prompt.lines
        state = constrain.diff(
            model.tokenizer, shown.lines[start:end], model.ends | prompt.ends, opening=prompt.opening
        )
        return replace(prompt, constraint=state)

    def text_prompt(self, served: Served) -> PlainPrompt:
        """The prompt as text, with the grammar written down; nothing of a file that holds secrets."""
        _keep_secret(self.name)
        prompt = prompts.plain_edit(served, self._edited(), self.tokens, self.family)
        start, end = prompt.lines
        return replace(prompt, grammar=constrain.gbnf(self.shown.lines[start:end]))

    def _edited(self) -> Edited:
        shown = self.shown
        return Edited(shown.lines, shown.first, shown.last, self.name, self.message, shown.new)

    def done(self, text: str, prompt: Prompt | PlainPrompt) -> bool:
        """Whether the diff is at its end, where it stands in a fence."""
        return isinstance(prompt, PlainPrompt) and prompts.closed(text, prompt)

    def answer(self, candidate: Candidate, prompt: Prompt | PlainPrompt) -> ShownDiff:
        """The diff rewritten from what was done; of one that was cut off, the finished hunks."""
        if isinstance(prompt, PlainPrompt):
            return self._placed(candidate, prompt)
        state = prompt.constraint
        if state is None:
            return ShownDiff(candidate.text, *prompt.lines)
        for token in candidate.tokens:
            state = state.step(token)
        if candidate.reason is not Reason.END:
            state = state.finished_hunks()
        return ShownDiff(state.diff(), *prompt.lines)

    def _placed(self, candidate: Candidate, prompt: PlainPrompt) -> ShownDiff:
        """A diff of a service, written anew: one that followed the grammar does what it says; of another the hunks are
        looked for by their text."""
        start, end = prompt.lines
        written = prompts.without_control(candidate.text, prompt)
        lines = [line + "\n" for line in self.shown.lines[start:end]]
        document = Document("", "".join(lines))
        near = sum(map(len, lines[: max(0, self.shown.first - start)]))
        whole = candidate.reason in (Reason.END, Reason.STOP)
        made = constrain.applied(written, self.shown.lines[start:end], whole)
        if made is not None:
            after = "".join(line + "\n" for line in made)
            return ShownDiff(diffs.write(document.text, after, self.name or "file"), start, end)
        edits, problems = diffs.read(written, document, near, whole=whole) if written.strip() else ([], [])
        if not edits:
            return ShownDiff("", start, end, problems[-1].reason if problems else "")
        return ShownDiff(diffs.write(document.text, apply(document.text, edits), self.name or "file"), start, end)


def _keep_secret(name: str) -> None:
    if secret_name(name):
        raise ValueError(
            f"{name} may hold keys or passwords, which never leave this machine; the model that is asked runs elsewhere"
        )


def _base(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
