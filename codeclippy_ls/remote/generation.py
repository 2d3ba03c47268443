"""One request of a service: the prompt as text, the streams of its candidates, and what ends them.

The first candidate is greedy, as everywhere; where more are wanted, a second stream samples them side by side. A stream
is left, and its connection closed, as soon as all of its candidates are at their end by our own measure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation, Sampling
from codeclippy_ls.prompts.text_prompts import RemoteModel, TextPrompt, cut_at_control_token
from codeclippy_ls.remote.errors import ErrorKind, RemoteError
from codeclippy_ls.remote.events import StreamedChoice, StreamedChoices
from codeclippy_ls.remote.http_client import HttpClient
from codeclippy_ls.tasks.model_info import ModelInfo

_COMPLETIONS, _CHAT = "/completions", "/chat/completions"
_LONGEST = 600.0  # seconds, where a request names no time
# Events a token has at most, until a stream counts as endless.
_EVENTS_PER_TOKEN, _EVENTS_BESIDE = 4, 64


@dataclass(frozen=True, slots=True)
class Stream:
    """One HTTP request: so many candidates at a temperature."""

    count: int
    temperature: float


def streams(sampling: Sampling) -> list[Stream]:
    """What a request's candidates are written by."""
    count, temperature = sampling.candidates, sampling.temperature
    if count == 1 or temperature <= 0:
        return [Stream(1, 0.0)]
    return [Stream(1, 0.0), Stream(count - 1, temperature)]


class Job:
    """The work of one ticket.

    Args:
        infill: how holes are asked for, as in the settings.
        bare: whether the service takes nothing but the common fields: no `n`, `logprobs`, `stop`.
    """

    def __init__(
        self, connection: HttpClient, facts: ModelInfo, ticket: RequestHandle, infill: str, bare: bool
    ) -> None:
        self._connection = connection
        self._model, self._served = facts.name, facts.served
        self._ticket = ticket
        self._ask, self._sampling = ticket.request.task, ticket.request.sampling
        self._bare = bare
        self._started = time.monotonic()
        self._first: float | None = None
        self.emitted = False
        try:
            self.prompt: TextPrompt = self._ask.text_prompt(RemoteModel(facts.name, facts.window, facts.chat, infill))
        except ValueError as error:
            raise EngineError(str(error)) from error

    async def generation(self) -> Generation:
        """What the service wrote, within the time that the request has.

        Raises:
            RemoteError: it did not, or not in a form that can be read.
        """
        seconds = min(self._sampling.seconds or _LONGEST, _LONGEST)
        wanted = streams(self._sampling)
        writings = [StreamedChoices(self._connection.endpoint.url, 1 if self._bare else one.count) for one in wanted]
        reading = [
            self._read(one, writing, not number)
            for number, (one, writing) in enumerate(zip(wanted, writings, strict=True))
        ]
        left = seconds - (time.monotonic() - self._started)
        late = not await _all_within(reading, max(left, 0.0))
        if late and self._first is None:
            raise RemoteError(
                f"{self._connection.endpoint.url} wrote nothing in the {seconds:g} seconds that it has; "
                'the settings "completion.timeBudgetMs" and "edit.timeBudgetMs" give it more',
                ErrorKind.SLOW,
            )
        first, *others = (candidate for writing in writings for candidate in writing.candidates)
        # One that does not know how to write several leaves the others empty.
        written = [first, *(one for one in others if one.text)]
        made = await asyncio.to_thread(self._candidates, written)
        waited = (self._first or self._started) - self._started
        return Generation(
            made[0].finish_reason, made, first_token_seconds=waited, seconds=time.monotonic() - self._started
        )

    def _candidates(self, written: Sequence[StreamedChoice]) -> tuple[Candidate, ...]:
        """Finished candidates with their answers; made beside the loop, as reading a diff takes time."""
        made = []
        for one in written:
            reason = one.reason or FinishReason.TIME
            candidate = Candidate(one.text, (), one.logprob, reason)
            made.append(Candidate(one.text, (), one.logprob, reason, self._ask.answer(candidate, self.prompt)))
        return tuple(made)

    async def _read(self, stream: Stream, writing: StreamedChoices, first: bool) -> None:
        """Read a stream until its candidates are at their end."""
        path, body = self._request(stream)
        room = (int(body["max_tokens"]) * _EVENTS_PER_TOKEN + _EVENTS_BESIDE) * len(writing.candidates)
        told = 0
        events = self._connection.events(path, body, self.prompt.text)
        try:
            async for event in events:
                index = writing.take(event)
                if (room := room - 1) < 0:
                    raise RemoteError(f"{self._connection.endpoint.url} sends without end", ErrorKind.GARBLED)
                if index is None:
                    continue
                written = writing.candidates[index]
                self._first = self._first or time.monotonic()
                if first and len(written.text) > told:
                    self._ticket.emit(written.text[told:])
                    told, self.emitted = len(written.text), True
                if written.reason is None and self._ended(written.text):
                    written.reason = FinishReason.STOP
                if all(one.reason is not None for one in writing.candidates):
                    return
        finally:
            await events.aclose()
        if not any(one.reason is not None for one in writing.candidates):
            raise RemoteError(
                f"{self._connection.endpoint.url} broke off in the middle of its answer", ErrorKind.BROKEN
            )
        for one in writing.candidates:  # what was not finished may end anywhere
            one.reason = one.reason or FinishReason.LENGTH

    def _ended(self, text: str) -> bool:
        """Whether a text is all that is wanted of a candidate: by the ask, or because it spells a control token."""
        return len(cut_at_control_token(text, self.prompt)) < len(text) or self._ask.is_done(text, self.prompt)

    def _request(self, stream: Stream) -> tuple[str, dict[str, Any]]:
        """The path and the body of an HTTP request."""
        prompt = self.prompt
        body: dict[str, Any] = {
            "model": self._model,
            "stream": True,
            "temperature": stream.temperature,
            "max_tokens": self._sampling.max_tokens,
        }
        if stream.temperature > 0:
            body["top_p"] = self._sampling.top_p
        if prompt.chat:
            body["messages"] = [{"role": "user", "content": prompt.text}]
        else:
            body["prompt"] = prompt.text
        if prompt.suffix is not None:
            body["suffix"] = prompt.suffix
        extras: dict[str, Any] = {"n": stream.count, "logprobs": True if prompt.chat else 1}
        if prompt.stop:
            extras["stop"] = list(prompt.stop)
            if self._served == "vllm":  # it would leave out the tokens that end an answer, and write on
                extras["skip_special_tokens"] = False
        if prompt.grammar and self._served == "llamacpp":
            extras["grammar"] = prompt.grammar
        elif prompt.grammar and self._served == "vllm":
            extras["structured_outputs"] = {"grammar": prompt.grammar}
        if stream.count == 1:
            del extras["n"]
        return _CHAT if prompt.chat else _COMPLETIONS, body if self._bare else {**body, **extras}


async def _all_within(reading: Sequence[Any], seconds: float) -> bool:
    """Run what reads side by side; false where time was up. What one raises ends the others."""
    tasks = [asyncio.ensure_future(one) for one in reading]
    try:
        _, late = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done() and (error := task.exception()) is not None:
                raise error
        return not late
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
