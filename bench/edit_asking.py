"""Asking an engine for an edit the way the assistant does, with the model's forward passes watched.

The prompt, the constraint, the engine and the way from a generation to edits are the product's own. What is the
bench's is put around ``Model.forward``: it counts, and may change what the model says before anybody chooses by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from codeclippy_ls.assist.proposals import Proposal, Refusal, make_proposal
from codeclippy_ls.diffs.reading import read_diff
from codeclippy_ls.engine.generation.kv_cache import KVCache, ModelInput
from codeclippy_ls.engine.loading import loader
from codeclippy_ls.engine.loading.model import Model
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.engine.worker import ModelWorker
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.requests import FinishReason, Generation, Priority, Request, Sampling
from codeclippy_ls.inference.spec import ModelSpec
from codeclippy_ls.prompts.token_prompts import TokenPrompt
from codeclippy_ls.settings import Settings
from codeclippy_ls.tasks.edit import EditTask
from codeclippy_ls.tasks.edit_context import EditContext, Marker
from codeclippy_ls.text import Document, apply_edits

# Logits, (vocab_size,), and the tokens before them, to other logits.
Change = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]


class Watch:
    """Stands in for a model's ``forward``: counts its calls, and passes each answer through ``change``.

    Attributes:
        passes: calls since `begin`.
        reading: those of them that began inside the prompt.
    """

    def __init__(self, model: Model, change: Change | None = None) -> None:
        self.change = change
        self.passes = self.reading = 0
        self._prompt = 0
        self._forward = model.forward
        self._read: dict[int, tuple[KVCache, list[int]]] = {}
        model.forward = self.forward

    def begin(self, prompt: int) -> None:
        """Count anew, for a prompt of so many tokens."""
        self.passes = self.reading = 0
        self._prompt = prompt
        self._read.clear()

    def forward(self, inputs: Sequence[ModelInput]) -> list[torch.Tensor]:
        """The model's own answer, counted and changed."""
        histories = [self._history(one) for one in inputs]
        self.passes += 1
        self.reading += any(one.kv_cache.length < self._prompt for one in inputs)
        answers = self._forward(inputs)
        if self.change is None:
            return answers
        return [self._changed(rows, history) for rows, history in zip(answers, histories, strict=True)]

    def _history(self, one: ModelInput) -> list[int]:
        """The tokens that the input's cache will hold: those before, as far as they still count, and these."""
        length = one.kv_cache.length
        known = self._read.get(id(one.kv_cache))
        # A cache that was copied begins as another does.
        before = known[1] if known else max((tokens for _, tokens in self._read.values()), key=len, default=[])
        history = [*before[:length], *one.token_ids]
        self._read[id(one.kv_cache)] = one.kv_cache, history
        return history

    def _changed(self, rows: torch.Tensor, history: Sequence[int]) -> torch.Tensor:
        assert self.change is not None
        ends = range(len(history) - len(rows) + 1, len(history) + 1)
        made = [self.change(row, history[:end]) for row, end in zip(rows, ends, strict=True)]
        return torch.stack(made) if made else rows


@contextmanager
def loading(make: Callable[[ModelSpec], Model]) -> Iterator[None]:
    """Engines load what ``make`` makes of a spec, on their own thread."""
    original = loader.load
    setattr(loader, "load", make)  # noqa: B010 - the checker takes a function for constant
    try:
        yield
    finally:
        setattr(loader, "load", original)  # noqa: B010


def open_engine(*names: str) -> ThreadEngine:
    """An engine over one model for each name, which is its spec's too; no prompt is remembered."""
    return ThreadEngine(lambda: ModelWorker(0), {name: ModelSpec(name) for name in names})


@dataclass(frozen=True, slots=True)
class Asking:
    """What a user would hand over, and what of the document is shown."""

    document: Document
    shown: EditContext
    message: str
    marker: Marker | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """How a diff is written: under the grammar or freely, with guesses ahead or token by token, the best of several."""

    name: str
    constrained: bool
    drafts: bool = True
    candidates: int = 1


@dataclass(frozen=True, slots=True)
class Made:
    """The text after an edit and the edit's diff, or why there is none. ``generation`` is missing where none began.

    ``others`` are those of the further candidates.
    """

    generation: Generation | None = None
    after: str | None = None
    diff: str = ""
    reason: str = ""
    others: tuple[Made, ...] = ()


@dataclass(frozen=True, slots=True)
class WatchedAsk(EditTask):
    """The assistant's own, without the grammar where that is not wanted; ``begin`` is told the model and the prompt."""

    constrained: bool = True
    begin: Callable[[Any, TokenPrompt], None] | None = None

    def build_prompt(self, model: Any, context_length: int) -> TokenPrompt:
        """The assistant's prompt."""
        prompt = EditTask.build_prompt(self, model, context_length)
        if self.begin is not None:
            self.begin(model, prompt)
        return prompt if self.constrained else replace(prompt, constraint=None)


async def made(
    engine: ThreadEngine,
    model: str,
    asking: Asking,
    way: Way,
    sampling: Mapping[str, Any],
    family: str = "",
    begin: Callable[[Any, TokenPrompt], None] | None = None,
) -> Made:
    """Ask for an edit.

    Args:
        model: the engine's name of it.
        begin: called with the model and the prompt, on the engine's thread, before anything is read.
    """
    name = asking.document.uri.rsplit("/", 1)[-1]
    ask = WatchedAsk(name, asking.shown, asking.message, sampling["max_tokens"], family, way.constrained, begin)
    options = Sampling(**sampling, use_drafts=way.drafts, candidates=way.candidates, greedy_first=True)
    if way.candidates > 1:
        options = replace(options, temperature=Settings().edit.temperature)
    try:
        generation = await engine.submit(Request(ask, options, model), Priority.EDIT).result()
    except EngineError as error:
        return Made(reason=str(error))
    return _constrained(asking, generation) if way.constrained else _free(asking, generation)


def _constrained(asking: Asking, generation: Generation) -> Made:
    found = make_proposal(asking.document, asking.shown, asking.marker, generation)
    if isinstance(found, Refusal):
        return Made(generation, reason=found.reason)
    assert isinstance(found, Proposal)
    others = tuple(Made(generation, other.after, other.diff) for other in found.alternatives)
    return Made(generation, found.after, found.diff, others=others)


def _free(asking: Asking, generation: Generation) -> Made:
    """What a diff of the shown lines means for the document, read as one of any source.

    With the selection as a hint, and where that does not help, without it.
    """
    start, end = generation.candidates[0].answer.start, generation.candidates[0].answer.end
    numbers = asking.shown.line_numbers[start:end]
    text, document = generation.text, asking.document
    part = Document(document.uri, "".join(document.line(number) + "\n" for number in numbers))
    near = part.starts[max(asking.shown.first - start, 0)]
    whole = generation.finish_reason is FinishReason.END
    reading = read_diff(text, part, near, complete=whole)
    if not reading.edits:
        reading = read_diff(text, part, complete=whole)
    if not reading.edits:
        return Made(generation, diff=text, reason=f"the model's diff was refused: {reading.problems[-1].reason}")
    head, tail = document.starts[numbers[0]], document.line_span(numbers[-1])[1] + 1
    return Made(generation, document.text[:head] + apply_edits(part.text, reading.edits) + document.text[tail:], text)


@dataclass(slots=True)
class Facts:
    """What is known of a model once it is loaded: written on the engine's thread, read when that is idle."""

    weights: int = 0
    parameters: int = 0
    window: int = 0
    dtype: str = ""
    threads: int = 0
    watch: Watch | None = field(default=None, repr=False)

    def plain(self) -> dict[str, Any]:
        """All of it that can be printed."""
        return {"parameters": self.parameters, "dtype": self.dtype, "window": self.window, "threads": self.threads}

    def note(self, model: Model, change: Change | None = None) -> Model:
        """Watch a model; returns it."""
        self.watch = Watch(model, change)
        self.weights = model.nbytes
        self.parameters, self.window = model.num_parameters, model.context_length
        self.dtype, self.threads = str(model.dtype).removeprefix("torch."), torch.get_num_threads()
        return model
