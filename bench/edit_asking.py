"""Request edits from an engine as the assistant does, with a hook on the model's forward pass.

The prompt, the constraint, the engine and the conversion from a generation to edits are the product's own. Only the
hook on ``Model.forward`` is the benchmark's: it counts passes, and may change the logits before they are sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from codeclippy_ls.assist.proposals import Proposal, Refusal, make_proposal
from codeclippy_ls.diffs.reading import read_diff
from codeclippy_ls.engine.generation.kv_cache import KVCache, ModelInput
from codeclippy_ls.engine.loading import checkpoint, loader
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
from codeclippy_ls.text import Document, apply_edits, find_common_indent

# From logits, (vocab_size,), and the tokens before them to other logits.
LogitsProcessor = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]


class ForwardHook:
    """Replaces a model's ``forward``: counts its calls, and changes the logits by ``process_logits``.

    Attributes:
        passes: calls since `reset`.
        prefill_passes: those that began inside the prompt.
    """

    def __init__(self, model: Model, process_logits: LogitsProcessor | None = None) -> None:
        self.process_logits = process_logits
        self.passes = self.prefill_passes = 0
        self._prompt_length = 0
        self._forward = model.forward
        self._read: dict[int, tuple[KVCache, list[int]]] = {}
        model.forward = self.forward

    def reset(self, prompt_length: int) -> None:
        """Reset the counts, for a prompt of ``prompt_length`` tokens."""
        self.passes = self.prefill_passes = 0
        self._prompt_length = prompt_length
        self._read.clear()

    def forward(self, inputs: Sequence[ModelInput]) -> list[torch.Tensor]:
        """Run the model's own forward, count the call and change its logits."""
        histories = [self._update_history(each) for each in inputs]
        self.passes += 1
        self.prefill_passes += any(each.kv_cache.length < self._prompt_length for each in inputs)
        answers = self._forward(inputs)
        if self.process_logits is None:
            return answers
        return [self._process(rows, history) for rows, history in zip(answers, histories, strict=True)]

    def _update_history(self, model_input: ModelInput) -> list[int]:
        """Return the tokens that the input's cache will hold: the valid ones in it, and those of the input."""
        length = model_input.kv_cache.length
        known = self._read.get(id(model_input.kv_cache))
        # A copied cache begins with the tokens of another one.
        before = known[1] if known else max((tokens for _, tokens in self._read.values()), key=len, default=[])
        history = [*before[:length], *model_input.token_ids]
        self._read[id(model_input.kv_cache)] = model_input.kv_cache, history
        return history

    def _process(self, rows: torch.Tensor, history: Sequence[int]) -> torch.Tensor:
        assert self.process_logits is not None
        ends = range(len(history) - len(rows) + 1, len(history) + 1)
        processed = [self.process_logits(row, history[:end]) for row, end in zip(rows, ends, strict=True)]
        return torch.stack(processed) if processed else rows


@contextmanager
def replace_loader(make: Callable[[ModelSpec], Model]) -> Iterator[None]:
    """Let engines load the model that ``make`` returns for a spec, on their own thread."""
    originals = loader.load, checkpoint.find_checkpoint
    replacement = lambda spec, **options: make(spec)  # noqa: E731
    setattr(loader, "load", replacement)  # noqa: B010 - mypy treats a function as constant
    # Their names are no checkpoints'; the time limit of loading is that of any file.
    setattr(checkpoint, "find_checkpoint", lambda name: Path(__file__))  # noqa: B010
    try:
        yield
    finally:
        setattr(loader, "load", originals[0])  # noqa: B010
        setattr(checkpoint, "find_checkpoint", originals[1])  # noqa: B010


def open_engine(*names: str) -> ThreadEngine:
    """Open an engine with one model for each name, which is also the name in its spec; without a prefix cache."""
    return ThreadEngine(lambda: ModelWorker(0), {name: ModelSpec(name) for name in names})


@dataclass(frozen=True, slots=True)
class EditInput:
    """The input of a user's edit, and the part of the document that the model sees."""

    document: Document
    context: EditContext
    message: str
    marker: Marker | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """Generation of an edit: with or without the grammar, with or without drafts, the best of several candidates.

    With ``is_alone`` lines that are written anew are put in place as the model wrote them.
    """

    name: str
    constrained: bool
    drafts: bool = True
    candidates: int = 1
    edit_format: str = "auto"
    is_alone: bool = False


@dataclass(frozen=True, slots=True)
class EditResult:
    """The text after an edit and the edit's diff, or the reason for having no edit; no ``generation`` if none began.

    ``others`` are the results of the further candidates.
    """

    generation: Generation | None = None
    after: str | None = None
    diff: str = ""
    reason: str = ""
    others: tuple[EditResult, ...] = ()


@dataclass(frozen=True, slots=True)
class BenchEditTask(EditTask):
    """The assistant's own task, optionally without the grammar; calls ``on_prompt`` with the model and the prompt."""

    constrained: bool = True
    on_prompt: Callable[[Any, TokenPrompt], None] | None = None

    def build_prompt(self, model: Any, context_length: int) -> TokenPrompt:
        """Build the assistant's prompt."""
        prompt = EditTask.build_prompt(self, model, context_length)
        if self.on_prompt is not None:
            self.on_prompt(model, prompt)
        return prompt if self.constrained else replace(prompt, constraint=None)


async def request_edit(
    engine: ThreadEngine,
    model: str,
    edit_input: EditInput,
    way: Way,
    sampling: Mapping[str, Any],
    family: str = "",
    on_prompt: Callable[[Any, TokenPrompt], None] | None = None,
) -> EditResult:
    """Request an edit.

    Args:
        model: its name in the engine.
        on_prompt: called with the model and the prompt, on the engine's thread, before the prefill.
    """
    name = edit_input.document.uri.rsplit("/", 1)[-1]
    task = BenchEditTask(
        name,
        edit_input.context,
        edit_input.message,
        sampling["max_tokens"],
        family,
        edit_format=way.edit_format,
        constrained=way.constrained,
        on_prompt=on_prompt,
    )
    options = replace(Sampling(**sampling), use_drafts=way.drafts, candidates=way.candidates, greedy_first=True)
    if way.candidates > 1:
        options = replace(options, temperature=Settings().edit.temperature)
    try:
        generation = await engine.submit(Request(task, options, model), Priority.EDIT).result()
    except EngineError as error:
        return EditResult(reason=str(error))
    if way.is_alone:
        return _read_alone(edit_input, generation)
    return _read_constrained(edit_input, generation) if way.constrained else _read_any_diff(edit_input, generation)


def _read_alone(edit_input: EditInput, generation: Generation) -> EditResult:
    """Put the lines that the model wrote in place of the shown ones, indented like the first of them."""
    numbers, document = edit_input.context.line_numbers, edit_input.document
    written = generation.text.partition("\n```")[0].rstrip("\n").split("\n")
    indent = find_common_indent(edit_input.context.lines)
    text = "".join((indent + line if line else line) + "\n" for line in written)
    head, tail = document.starts[numbers[0]], document.line_span(numbers[-1])[1] + 1
    return EditResult(generation, document.text[:head] + text + document.text[tail:])


def _read_constrained(edit_input: EditInput, generation: Generation) -> EditResult:
    found = make_proposal(edit_input.document, edit_input.context, edit_input.marker, generation)
    if isinstance(found, Refusal):
        return EditResult(generation, reason=found.reason)
    assert isinstance(found, Proposal)
    others = tuple(EditResult(generation, other.after, other.diff) for other in found.alternatives)
    return EditResult(generation, found.after, found.diff, others=others)


def _read_any_diff(edit_input: EditInput, generation: Generation) -> EditResult:
    """Apply a diff of the shown lines to the document; it is read like a diff of any source.

    The selection is the hint for its position at first; if no hunk matches, it is read without a hint.
    """
    start, end = generation.candidates[0].answer.start, generation.candidates[0].answer.end
    numbers = edit_input.context.line_numbers[start:end]
    text, document = generation.text, edit_input.document
    part = Document(document.uri, "".join(document.line(number) + "\n" for number in numbers))
    near = part.starts[max(edit_input.context.first - start, 0)]
    whole = generation.finish_reason is FinishReason.END
    result = read_diff(text, part, near, complete=whole)
    if not result.edits:
        result = read_diff(text, part, complete=whole)
    if not result.edits:
        return EditResult(generation, diff=text, reason=f"the model's diff was refused: {result.problems[-1].reason}")
    head, tail = document.starts[numbers[0]], document.line_span(numbers[-1])[1] + 1
    return EditResult(
        generation, document.text[:head] + apply_edits(part.text, result.edits) + document.text[tail:], text
    )


@dataclass(slots=True)
class ModelStats:
    """Properties of a loaded model and its hook: written on the engine's thread, read when the engine is idle."""

    weights: int = 0
    parameters: int = 0
    context_length: int = 0
    dtype: str = ""
    threads: int = 0
    hook: ForwardHook | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return the properties that are printed."""
        return {
            "parameters": self.parameters,
            "dtype": self.dtype,
            "context_length": self.context_length,
            "threads": self.threads,
        }

    def record(self, model: Model, process_logits: LogitsProcessor | None = None) -> Model:
        """Record a model and hook its forward; return it."""
        self.hook = ForwardHook(model, process_logits)
        self.weights = model.nbytes
        self.parameters, self.context_length = model.num_parameters, model.context_length
        self.dtype, self.threads = str(model.dtype).removeprefix("torch."), torch.get_num_threads()
        return model
