"""`RemoteGeneration`: one request to a service, with its prompt as text, its HTTP calls and their end.

The first candidate is greedy, as in every engine; if more are wanted, a second call samples them side by side. A call
is left, and its connection closed, as soon as all of its candidates are done by our own measure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from codeclippy_ls.inference.errors import DocumentRefusedError, EngineError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation, Sampling
from codeclippy_ls.prompts.control_tokens import RefusedTextError
from codeclippy_ls.prompts.text_prompts import RemoteModel, TextPrompt, cut_at_control_token
from codeclippy_ls.remote.errors import ErrorKind, RemoteError
from codeclippy_ls.remote.events import JsonObject, StreamedChoice, StreamedChoices
from codeclippy_ls.remote.http_client import HttpClient
from codeclippy_ls.tasks.model_info import ModelInfo

_COMPLETIONS_PATH, _CHAT_PATH = "/completions", "/chat/completions"
_MAX_SECONDS = 600.0  # of a request, also if it has no time budget
# Services that continue an answer which the request begins, with the fields that they need for it. Of others nothing is
# known: some would answer anew.
_CONTINUE_PARAMS: dict[str, JsonObject] = {
    "llamacpp": {},
    "vllm": {"continue_final_message": True, "add_generation_prompt": False},
}
# A stream is endless if it has more events than this.
_MAX_EVENTS_PER_TOKEN, _MAX_OTHER_EVENTS = 4, 64


@dataclass(frozen=True, slots=True)
class CompletionCall:
    """One HTTP request for ``count`` candidates."""

    count: int
    temperature: float


def plan_calls(sampling: Sampling) -> list[CompletionCall]:
    """Return the calls that generate a request's candidates: one greedy, one for all sampled ones."""
    count, temperature = sampling.candidates, sampling.temperature
    if count == 1 or temperature <= 0:
        return [CompletionCall(1, 0.0)]
    return [CompletionCall(1, 0.0), CompletionCall(count - 1, temperature)]


class RemoteGeneration:
    """The work of one request.

    Args:
        fim: how the middle of a text is asked for, from the settings.
        minimal_params: whether to send only the fields that every service knows: no `n`, `logprobs`, `stop`.

    Attributes:
        has_emitted: whether the handle was given some text.

    Raises:
        DocumentRefusedError: the document must not leave this machine, or a service would misread it.
        EngineError: the task cannot be asked of this model.
    """

    def __init__(
        self, client: HttpClient, info: ModelInfo, handle: RequestHandle, fim: str, minimal_params: bool
    ) -> None:
        self._client = client
        self._url = client.endpoint.url
        self._model, self._served_by = info.name, info.served_by
        self._handle = handle
        self._task, self._sampling = handle.request.task, handle.request.sampling
        self._minimal_params = minimal_params
        self._started = time.monotonic()
        self._first_text: float | None = None  # time at which it came
        self.has_emitted = False
        try:
            remote = RemoteModel(info.name, info.context_length, info.is_chat, fim, info.listed_tokens)
            prompt: TextPrompt = self._task.build_text_prompt(remote)
            can_begin = info.served_by in _CONTINUE_PARAMS and not minimal_params
            self.prompt = prompt if can_begin else replace(prompt, answer_start="")
        except RefusedTextError as error:
            raise DocumentRefusedError(str(error)) from error
        except ValueError as error:
            raise EngineError(str(error)) from error

    async def run(self) -> Generation:
        """Generate the candidates, within the request's time budget.

        Raises:
            RemoteError: the service failed, or answered in an unknown form.
        """
        seconds = min(self._sampling.seconds or _MAX_SECONDS, _MAX_SECONDS)
        calls = plan_calls(self._sampling)
        streams = [StreamedChoices(self._url, 1 if self._minimal_params else call.count) for call in calls]
        reading = [
            self._read(call, choices, emit=index == 0)
            for index, (call, choices) in enumerate(zip(calls, streams, strict=True))
        ]
        seconds_left = seconds - (time.monotonic() - self._started)
        is_complete = await _run_within(reading, max(seconds_left, 0.0))
        if not is_complete and self._first_text is None:
            raise RemoteError(
                f"{self._url} generated nothing within {seconds:g} seconds; raise the time budget "
                '("completion.timeBudgetMs", "edit.timeBudgetMs")',
                ErrorKind.SLOW,
            )
        first, *others = (choice for choices in streams for choice in choices.choices)
        # A service that does not know `n` leaves the others empty.
        choices = [first, *(choice for choice in others if choice.text)]
        candidates = await asyncio.to_thread(self._make_candidates, choices)
        first_token_seconds = (self._first_text or self._started) - self._started
        return Generation(
            candidates[0].finish_reason,
            candidates,
            first_token_seconds=first_token_seconds,
            seconds=time.monotonic() - self._started,
        )

    def _make_candidates(self, choices: Sequence[StreamedChoice]) -> tuple[Candidate, ...]:
        """Make the candidates with their answers; called on another thread, since parsing a diff takes time."""
        candidates = []
        for choice in choices:
            reason = choice.finish_reason or FinishReason.TIME
            candidate = Candidate(choice.text, (), choice.mean_logprob, reason)
            answer = self._task.parse_answer(candidate, self.prompt)
            candidates.append(Candidate(choice.text, (), choice.mean_logprob, reason, answer))
        return tuple(candidates)

    async def _read(self, call: CompletionCall, choices: StreamedChoices, emit: bool) -> None:
        """Read a stream until its choices are done.

        Args:
            emit: whether to give the text to the handle as it grows.
        """
        path, body = self._make_request(call)
        max_events = (int(body["max_tokens"]) * _MAX_EVENTS_PER_TOKEN + _MAX_OTHER_EVENTS) * len(choices.choices)
        num_events = num_emitted = 0
        events = self._client.stream_events(path, body, self.prompt.text)
        try:
            async for event in events:
                if event is None:
                    choices.end(int(body["max_tokens"]))
                    break
                index = choices.add_event(event)
                if (num_events := num_events + 1) > max_events:
                    raise RemoteError(f"{self._url} sends more than {max_events} events", ErrorKind.GARBLED)
                if index is None:
                    continue
                choice = choices.choices[index]
                self._first_text = self._first_text or time.monotonic()
                if emit and len(choice.text) > num_emitted:
                    self._handle.emit(choice.text[num_emitted:])
                    num_emitted, self.has_emitted = len(choice.text), True
                if choice.finish_reason is None and self._is_done(choice.text):
                    choice.finish_reason = FinishReason.STOP
                if choices.all_finished:
                    return
        finally:
            await events.aclose()
        if not any(choice.finish_reason is not None for choice in choices.choices):
            raise RemoteError(f"{self._url} closed the stream in the middle of its answer", ErrorKind.BROKEN)
        for choice in choices.choices:  # an unfinished one may end anywhere
            choice.finish_reason = choice.finish_reason or FinishReason.LENGTH

    def _is_done(self, text: str) -> bool:
        """Return whether a candidate needs no more text: the task is done, or the text spells a control token."""
        return len(cut_at_control_token(text, self.prompt)) < len(text) or self._task.is_done(text, self.prompt)

    def _make_request(self, call: CompletionCall) -> tuple[str, JsonObject]:
        """Return the path and the body of an HTTP request."""
        prompt = self.prompt
        body: JsonObject = {
            "model": self._model,
            "stream": True,
            "temperature": call.temperature,
            "max_tokens": self._sampling.max_tokens + prompt.num_copied,
        }
        if call.temperature > 0:
            body["top_p"] = self._sampling.top_p
        if prompt.is_chat:
            body["messages"] = [{"role": "user", "content": prompt.text}]
            if prompt.answer_start:
                body["messages"].append({"role": "assistant", "content": prompt.answer_start})
                body |= _CONTINUE_PARAMS[self._served_by]
        else:
            body["prompt"] = prompt.text
        if prompt.suffix is not None:
            body["suffix"] = prompt.suffix
        path = _CHAT_PATH if prompt.is_chat else _COMPLETIONS_PATH
        return path, body if self._minimal_params else {**body, **self._optional_params(call)}

    def _optional_params(self, call: CompletionCall) -> JsonObject:
        """Return the fields that only some services know."""
        prompt = self.prompt
        params: JsonObject = {"logprobs": True if prompt.is_chat else 1}
        if call.count > 1:
            params["n"] = call.count
        if prompt.stop:
            params["stop"] = list(prompt.stop)
            if self._served_by == "vllm":  # else it omits the tokens that end an answer, and goes on
                params["skip_special_tokens"] = False
        if prompt.grammar and self._served_by == "llamacpp":
            params["grammar"] = prompt.grammar
        elif prompt.grammar and self._served_by == "vllm":
            params["structured_outputs"] = {"grammar": prompt.grammar}
        return params


async def _run_within(coroutines: Sequence[Coroutine[Any, Any, None]], seconds: float) -> bool:
    """Run coroutines side by side and return whether all ended in time. An exception of one ends the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
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
