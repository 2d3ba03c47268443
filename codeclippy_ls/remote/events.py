"""Server-sent events out of bytes, and candidates out of events; with caps, for which no stream is endless. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from codeclippy_ls.inference.requests import FinishReason
from codeclippy_ls.remote.errors import ErrorKind, RemoteError

_MOST_LINE = 1 << 20  # bytes; an event with log-probabilities has some hundred
_MOST_BYTES = 32 << 20
_DONE = "[DONE]"
# Why a model ended by itself, in OpenAI's words and TGI's; anything else (`length`, `abort`) may end anywhere.
_FINISHED = frozenset({"stop", "eos_token", "stop_sequence"})


class EventStreamParser:
    """The data of events, as they become whole. Fed with bytes in any pieces."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._rest = b""
        self._count = 0
        self._data: list[str] = []
        self.done = False

    def feed(self, data: bytes) -> Iterator[Any]:
        """The events that end in these bytes.

        Raises:
            RemoteError: they are no events.
        """
        self._count += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._count > _MOST_BYTES or len(self._rest) > _MOST_LINE:
            raise RemoteError(f"{self._url} sends without end", ErrorKind.GARBLED)
        for line in lines:
            if (event := self._line(line.rstrip(b"\r"))) is not None:
                yield event

    def _line(self, line: bytes) -> Any:
        """The event that a line ends, if it does."""
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise RemoteError(f"{self._url} sends bytes that are no UTF-8", ErrorKind.GARBLED) from None
        if text:
            name, _, value = text.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            elif name not in ("", "event", "id", "retry"):  # what begins with a colon is a comment
                raise RemoteError(f"{self._url} sends something else than events", ErrorKind.GARBLED)
            return None
        data, self._data = "\n".join(self._data), []
        if not data or self.done:
            return None
        if data.strip() == _DONE:
            self.done = True
            return None
        return parse_json_object(data, self._url)


def parse_json_object(data: str | bytes, url: str) -> Any:
    """The JSON object of an answer or an event.

    Raises:
        RemoteError: it is none, or says that the service failed.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise RemoteError(f"{url} sends something that is no JSON", ErrorKind.GARBLED) from None
    if not isinstance(found, dict):
        raise RemoteError(f"{url} sends JSON that is no answer", ErrorKind.GARBLED)
    if found.get("error"):
        raise RemoteError(f"{url} failed while it wrote", ErrorKind.BROKEN)
    return found


@dataclass
class StreamedChoice:
    """A candidate as far as it is written."""

    text: str = ""
    reason: FinishReason | None = None
    logprobs: list[float] = field(default_factory=list)

    @property
    def logprob(self) -> float:
        """The mean; nothing known is certain."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else 0.0


class StreamedChoices:
    """The candidates of one request, as events add to them."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self.candidates = [StreamedChoice() for _ in range(count)]

    def take(self, event: Any) -> int | None:
        """Add an event's text; the candidate it belongs to, ``None`` where it says of none (usage, a greeting).

        Raises:
            RemoteError: it has another form.
        """
        choices = event.get("choices")
        if not choices:
            return None
        try:
            choice = choices[0]
            index = int(choice.get("index", 0))
            written = self.candidates[index] if 0 <= index < len(self.candidates) else None
            text, finish = _text(choice), choice.get("finish_reason")
            if written is None or written.reason is not None:
                return None
            written.text += text
            written.logprobs += _logprobs(choice.get("logprobs"))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError):
            raise RemoteError(f"{self._url} sends JSON that is no answer", ErrorKind.GARBLED) from None
        if finish is not None:
            written.reason = FinishReason.END if finish in _FINISHED else FinishReason.LENGTH
        return index


def _text(choice: Any) -> str:
    """The text that a choice adds, of the completions or the chat interface, streamed or whole."""
    part = choice.get("delta") or choice.get("message")
    text = part.get("content") if part is not None else choice.get("text")
    if text is None:
        return ""
    if not isinstance(text, str):
        raise TypeError
    return text


def _logprobs(found: Any) -> list[float]:
    """Of the tokens that a choice adds: a list of numbers (completions), or of objects (chat, llama.cpp)."""
    if not found:
        return []
    numbers = found.get("token_logprobs")
    if numbers is None:
        numbers = [one.get("logprob") for one in found.get("content") or ()]
    return [min(0.0, float(number)) for number in numbers if isinstance(number, (int, float))]
