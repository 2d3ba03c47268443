"""What the engine thread does: hold models with their prefix caches and turn a ticket into steps.

This is the engine's side of torch; ``engine.engine`` is the side of the loop. Knows token ids and stop strings, no
documents.
"""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from codeclippy_ls.engine.loading.tokenizer import decode_complete
from codeclippy_ls.inference.errors import DeviceError, EngineError
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation, Priority, Task

if TYPE_CHECKING:
    from codeclippy_ls.inference.handles import RequestHandle


# Two engines in one process, one for each TCP client, must not import transformers at the same time: its modules load
# parts of each other when first used, and two threads that do so find them half made.
_LOADING = threading.Lock()


class Worker(Protocol):
    """Loads models and runs jobs; made and used on the engine thread only."""

    def load(self, name: str, spec: Any) -> Any:
        """Load a model and return what there is to say of it, as plain data.

        Raises:
            EngineError: it cannot be loaded; the message says why.
        """

    def unload(self, name: str) -> None:
        """Let a model go that was loaded."""

    def start(self, ticket: RequestHandle) -> Iterator[Generation | None]:
        """The ticket's steps: ``None`` after each, the generation at last."""


@dataclass(slots=True)
class Deadline:
    """When time is up; time in which others had the engine does not count for an edit."""

    at: float

    @property
    def over(self) -> bool:
        """Whether it is."""
        return time.monotonic() > self.at


@dataclass(slots=True)
class Output:
    """One candidate as it grows."""

    tokens: list[int] = field(default_factory=list)
    bytes: bytearray = field(default_factory=bytearray)
    text: str = ""
    logprob: float = 0.0
    chosen: int = 0
    reason: FinishReason = FinishReason.LENGTH

    def candidate(self, ask: Task, prompt: Any) -> Candidate:
        """The finished candidate."""
        made = Candidate(self.text, tuple(self.tokens), self.logprob / max(self.chosen, 1), self.reason)
        return replace(made, answer=ask.answer(made, prompt))


class ModelWorker:
    """Models on this machine, each with its prefix cache.

    Args:
        cache_bytes: budget of each model's prefix cache.
        describe: what there is to say of a model, as plain data; called on the engine thread when it is loaded.
    """

    def __init__(self, cache_bytes: int = 512 << 20, describe: Callable[[Any], Any] = lambda model: None) -> None:
        self._cache_bytes = cache_bytes
        self._describe = describe
        self._loaded: dict[Any, tuple[Any, Any]] = {}
        self._models: dict[str, tuple[Any, Any]] = {}

    def load(self, name: str, spec: Any) -> Any:
        """Load a ``models.ModelSpec``; a spec that is loaded already under another name is shared."""
        with _LOADING:
            from codeclippy_ls.engine.generation.kv_cache import PrefixCache
            from codeclippy_ls.engine.loading import models

            if spec not in self._loaded:
                self._loaded[spec] = models.load(spec), PrefixCache(self._cache_bytes)
        self._models[name] = self._loaded[spec]
        return self._describe(self._loaded[spec][0])

    def unload(self, name: str) -> None:
        """Let a model go, with its prefix cache, unless another name has it too."""
        gone = self._models.pop(name, None)
        if gone is not None and not any(kept is gone for kept in self._models.values()):
            self._loaded = {spec: kept for spec, kept in self._loaded.items() if kept is not gone}
            del gone
            gc.collect()
            _give_back()

    def start(self, ticket: RequestHandle) -> Iterator[Generation | None]:
        """The steps of a ticket; out of memory, the caches go and it is tried once more at half the window."""
        model, cache = self._models[ticket.request.model]
        try:
            yield from self._generate(ticket, model, cache, model.context_length)
        except (RuntimeError, MemoryError) as error:
            _raise_lost(error)
            if not _out_of_memory(error):
                raise
            self._free()
            try:
                yield from self._generate(ticket, model, cache, model.context_length // 2)
            except (RuntimeError, MemoryError) as again:
                _raise_lost(again)
                self._free()
                if not _out_of_memory(again):
                    raise
                raise EngineError("out of memory; choose a smaller model or another device") from again

    def _free(self) -> None:
        for model, cache in self._models.values():
            cache.clear()
            model.spare()
        _give_back()

    def _generate(self, ticket: RequestHandle, model: Any, cache: Any, window: int) -> Iterator[Generation | None]:

        started = time.monotonic()
        if ticket.cancel_reason is not None:
            return
        try:
            prompt = ticket.request.task.prompt(model, window)
        except ValueError as error:  # what a builder refuses, it refuses with a sentence for the user
            raise EngineError(str(error)) from error
        sampling = ticket.request.sampling
        tokens = list(prompt.tokens)
        if not tokens or len(tokens) >= window:
            raise EngineError(f"the prompt has {len(tokens)} tokens, the window {window}")
        # Who types has waited since the request; an edit's budget is for the writing.
        since = ticket.submitted_at if ticket.priority is Priority.KEYSTROKE else started
        deadline = Deadline(since + sampling.seconds if sampling.seconds is not None else math.inf)
        prefix = cache.acquire(tokens, model.new_cache)
        reused, first = len(prefix.token_ids), 0.0
        outputs: list[Output] = []
        try:
            for _ in _grown(ticket, model, prefix, prompt, sampling, deadline, outputs):
                if ticket.cancel_reason is not None:
                    return
                first = first or (time.monotonic() - started if outputs else 0.0)
                left = time.monotonic()
                yield None
                if ticket.priority is not Priority.KEYSTROKE:
                    deadline.at += time.monotonic() - left
        except Exception:
            prefix = None  # keys and tokens may no longer agree
            raise
        finally:
            # Whatever was read of the prompt is worth keeping; the output's keys are too, for text that is accepted.
            if prefix is not None:
                cache.release(prefix)
        candidates = tuple(output.candidate(ticket.request.task, prompt) for output in outputs)
        yield Generation(
            candidates[0].finish_reason, candidates, len(tokens), reused, first, time.monotonic() - started
        )


def _give_back() -> None:
    """Let other processes have the device's memory that is free."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _raise_lost(error: BaseException) -> None:
    """After a device-side assert or a fault every later call fails as well, until the process ends."""
    import torch

    if isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError):
        raise DeviceError(str(error).partition("\n")[0]) from error


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; on the CPU torch has no class of its own for that."""
    import torch

    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def _grown(
    ticket: RequestHandle,
    model: Any,
    prefix: Any,
    prompt: Any,
    sampling: Any,
    deadline: Deadline,
    outputs: list[Output],
) -> Iterator[None]:
    """Grow all candidates side by side, pass by pass, until each has ended or time is up."""
    from codeclippy_ls.engine.generation.decoding import prefill_chunks

    streams = [_stream(model, prefix, prompt, sampling, 0)]
    logits = None
    for chunk in prefill_chunks(prefix, (*prompt.tokens, *streams[0].forced_prefix)):
        (logits,) = model.forward([chunk])
        prefix.token_ids.extend(chunk.token_ids)
        yield
        if not len(logits) and deadline.over:
            outputs.append(Output(reason=FinishReason.TIME))
            return
    for index in range(1, sampling.candidates):
        streams.append(_stream(model, prefix.copy(len(prefix.token_ids)), prompt, sampling, index))
    outputs += [Output() for _ in streams]
    growing = list(zip(streams, outputs, [logits] * len(streams), strict=True))
    while growing:
        for stream, output, found in growing:
            _take(ticket, model, prompt, stream, output, found, shown=output is outputs[0])
        left = [(stream, output) for stream, output, _ in growing if not stream.is_finished]
        if left and deadline.over:
            for _, output in left:
                output.reason = FinishReason.TIME
            return
        if left:
            yield
        found = model.forward([stream.next_input() for stream, _ in left]) if left else []
        growing = [(stream, output, rows) for (stream, output), rows in zip(left, found, strict=True)]


def _stream(model: Any, prefix: Any, prompt: Any, sampling: Any, index: int) -> Any:
    """A candidate's stream; the first is greedy where candidates are spread."""
    from codeclippy_ls.engine.generation.decoding import DecodingState, Sampler

    temperature = 0.0 if sampling.greedy_first and index == 0 else sampling.temperature
    chooser = Sampler(temperature, sampling.top_p, sampling.seed + index)
    room = min(sampling.max_tokens, model.context_length - len(prompt.tokens))
    return DecodingState(
        prefix,
        prompt.constraint,
        model.stop_token_ids | prompt.ends,
        chooser,
        room,
        model.pass_cost if sampling.use_drafts else None,
    )


def _take(
    ticket: RequestHandle, model: Any, prompt: Any, stream: Any, output: Output, logits: Any, shown: bool
) -> None:
    """Let a stream choose, and its text grow; it ends where the model, a stop string or the caller's test says so."""
    step = stream.accept_logits(logits)
    output.logprob += step.logprob
    output.chosen += step.num_choices
    for token in step.token_ids:
        if _accept(ticket, model, prompt, token, output, shown):
            output.reason, stream.is_finished = FinishReason.STOP, True
            return
    if stream.is_finished:
        output.reason = FinishReason.END if stream.is_complete else FinishReason.LENGTH


def _accept(ticket: RequestHandle, model: Any, prompt: Any, token: int, output: Output, shown: bool) -> bool:
    """Take a token in; true where a stop string or the caller's test ends the text here."""
    output.tokens.append(token)
    output.bytes += model.tokenizer.decode_bytes((token,))
    before, output.text = len(output.text), decode_complete(bytes(output.bytes))
    if len(output.text) == before:
        return False
    places = [place for stop in prompt.stop if (place := output.text.find(stop, max(before - len(stop), 0))) >= 0]
    if places:
        output.text = output.text[: min(places)]
    if shown and len(output.text) > before:
        ticket.emit(output.text[before:])
    return bool(places) or ticket.request.task.is_done(output.text, prompt)
