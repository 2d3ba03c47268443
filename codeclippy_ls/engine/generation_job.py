"""`GenerationJob`: one request's generation, from the prompt's first chunk to the finished candidates.

Runs on the engine thread. Knows token ids, their text and the task; knows no queue and no prefix cache.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from codeclippy_ls.engine.generation.decoding import Constraint, DecodingState, Sampler, prefill_chunks, score_line
from codeclippy_ls.engine.generation.kv_cache import CachedPrefix, ModelInput
from codeclippy_ls.engine.loading.tokenizer import decode_complete
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import Candidate, FinishReason

if TYPE_CHECKING:
    from torch import Tensor

    from codeclippy_ls.engine.loading.model import Model


class Prompt(Protocol):
    """The part of a prompt that a job needs; `Task.build_prompt` builds it."""

    @property
    def token_ids(self) -> Sequence[int]:
        """Token ids; at least one."""

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Ids that end the answer, beside the model's own stop tokens."""

    @property
    def constraint(self) -> Constraint | None:
        """State that the answer is held to."""

    @property
    def num_copied(self) -> int:
        """Tokens that the answer probably repeats from the prompt, beyond the limit of the request."""


@dataclass(slots=True)
class Deadline:
    """When the time budget is spent, in ``time.monotonic()`` seconds."""

    at: float

    @property
    def has_passed(self) -> bool:
        """The deadline is over."""
        return time.monotonic() > self.at


@dataclass(slots=True)
class _Sequence:
    """One candidate while it is generated."""

    decoding: DecodingState
    token_ids: list[int] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)  # the tokens' bytes; may end inside a character
    text: str = ""
    logprob: float = 0.0
    num_choices: int = 0
    finish_reason: FinishReason = FinishReason.LENGTH


class GenerationJob:
    """Generates all candidates of a request side by side, one forward pass per step.

    Args:
        prefix: holds a part of the prompt in its KV cache; extended by the prompt and the first candidate.
    """

    def __init__(
        self, handle: RequestHandle, model: Model, prompt: Prompt, prefix: CachedPrefix, deadline: Deadline
    ) -> None:
        self._handle = handle
        self._task = handle.request.task
        self._sampling = handle.request.sampling
        self._model = model
        self._prompt = prompt
        self._prefix = prefix
        self._deadline = deadline
        self._sequences: list[_Sequence] = []
        self._guesses: list[Candidate] = []

    @property
    def is_prefilled(self) -> bool:
        """The prompt is in the KV cache, and tokens are being generated."""
        return bool(self._sequences)

    def run(self) -> Iterator[None]:
        """Run until each candidate has ended or the time is up; yield between two forward passes."""
        first = self._new_sequence(self._prefix, 0)
        token_ids = (*self._prompt.token_ids, *first.decoding.forced_prefix)
        for chunk in prefill_chunks(self._prefix, token_ids, self._model.speed.prefill_chunk):
            (prompt_logits,) = self._model.forward([chunk])
            self._prefix.token_ids.extend(chunk.token_ids)
            yield
            if not len(prompt_logits) and self._deadline.has_passed:
                first.finish_reason = FinishReason.TIME
                self._sequences.append(first)
                return
        self._sequences.append(first)
        if self._sampling.max_tokens:
            yield from self._decode(prompt_logits)

    def _decode(self, prompt_logits: Tensor) -> Iterator[None]:
        """Score the guesses, then generate the candidates side by side."""
        for guess in self._task.list_guesses(self._prompt):
            yield from self._score_guess(guess, prompt_logits)
        for index in range(1, self._sampling.candidates):
            self._sequences.append(self._new_sequence(self._prefix.copy(len(self._prefix.token_ids)), index))
        logits = [prompt_logits] * len(self._sequences)
        unfinished = list(self._sequences)
        while True:
            for sequence, sequence_logits in zip(unfinished, logits, strict=True):
                self._accept_logits(sequence, sequence_logits)
            unfinished = [sequence for sequence in unfinished if not sequence.decoding.is_finished]
            if not unfinished:
                return
            if self._deadline.has_passed:
                for sequence in unfinished:
                    sequence.finish_reason = FinishReason.TIME
                return
            yield
            logits = self._model.forward([sequence.decoding.next_input() for sequence in unfinished])

    def make_candidates(self) -> tuple[Candidate, ...]:
        """Return the generated candidates, then the guesses, with the task's answer to each."""
        return (*(self._make_candidate(sequence) for sequence in self._sequences), *self._guesses)

    def _score_guess(self, text: str, prompt_logits: Tensor) -> Iterator[None]:
        """Score a guess by one pass, which leaves the KV cache as it was; one that is too long is left out."""
        model, prefix = self._model, self._prefix
        length, token_ids = len(prefix.token_ids), model.tokenizer.encode_continuation(text)
        if not 0 < len(token_ids) < min(self._sampling.max_tokens, model.context_length - length):
            return
        (logits,) = model.forward([ModelInput(token_ids, prefix.kv_cache, len(token_ids))])
        prefix.kv_cache.crop(length)
        stop_token_ids = model.stop_token_ids | self._prompt.stop_token_ids
        logprob = score_line((*prompt_logits, *logits), token_ids, stop_token_ids | model.tokenizer.newline_token_ids)
        candidate = Candidate(text, tuple(token_ids), logprob, FinishReason.STOP, is_guess=True)
        self._guesses.append(replace(candidate, answer=self._task.parse_answer(candidate, self._prompt)))
        yield

    def _new_sequence(self, prefix: CachedPrefix, index: int) -> _Sequence:
        sampling, model = self._sampling, self._model
        is_greedy = sampling.greedy_first and index == 0
        decoding = DecodingState(
            prefix,
            self._prompt.constraint,
            model.stop_token_ids | self._prompt.stop_token_ids,
            Sampler(0.0 if is_greedy else sampling.temperature, sampling.top_p, sampling.seed + index),
            min(sampling.max_tokens + self._prompt.num_copied, model.context_length - len(self._prompt.token_ids)),
            model.pass_cost if sampling.use_drafts else None,
        )
        return _Sequence(decoding)

    def _accept_logits(self, sequence: _Sequence, logits: Tensor) -> None:
        """Sample, and append to the text; it ends if the model ends it, at the token limit, or if the task is done."""
        step = sequence.decoding.accept_logits(logits)
        sequence.logprob += step.logprob
        sequence.num_choices += step.num_choices
        for token_id in step.token_ids:
            if self._append_token(sequence, token_id):
                sequence.finish_reason, sequence.decoding.is_finished = FinishReason.STOP, True
                return
        if sequence.decoding.is_finished:
            sequence.finish_reason = FinishReason.END if sequence.decoding.is_complete else FinishReason.LENGTH

    def _append_token(self, sequence: _Sequence, token_id: int) -> bool:
        """Append a token, and stream what it adds to the first candidate's text; return whether the task is done."""
        sequence.token_ids.append(token_id)
        sequence.data += self._model.tokenizer.decode_bytes((token_id,))
        delta = decode_complete(bytes(sequence.data))[len(sequence.text) :]
        if not delta:
            return False
        sequence.text += delta
        if sequence is self._sequences[0]:
            self._handle.emit(delta)
        return self._task.is_done(sequence.text, self._prompt)

    def _make_candidate(self, sequence: _Sequence) -> Candidate:
        logprob = sequence.logprob / max(sequence.num_choices, 1)
        candidate = Candidate(sequence.text, tuple(sequence.token_ids), logprob, sequence.finish_reason)
        return replace(candidate, answer=self._task.parse_answer(candidate, self._prompt))
