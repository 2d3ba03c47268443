"""Server-sent events from bytes, and candidates from events; with limits, so that no stream is endless. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from codeclippy_ls.inference.requests import FinishReason
from codeclippy_ls.remote.errors import ErrorKind, RemoteError, make_answer_error

JsonObject = dict[str, Any]

_MAX_LINE = 1 << 20  # bytes; an event with log-probabilities has a few hundred
_MAX_BYTES = 32 << 20
_DONE = "[DONE]"
# The `finish_reason` of a complete text, in OpenAI's words and TGI's. After any other (`length`, `abort`) it may stop
# anywhere.
_FINISHED = frozenset({"stop", "eos_token", "stop_sequence"})
# A `finish_reason` that some services send in every event of a text that goes on.
_UNFINISHED = (None, "", "null")


class EventStreamParser:
    """Parses the events of a stream, which is fed as bytes in pieces of any size.

    Args:
        sent, key: the text and the key that no message may repeat.
    """

    def __init__(self, url: str, sent: str = "", key: str = "") -> None:
        self._url, self._sent, self._key = url, sent, key
        self._rest = b""
        self._num_bytes = 0
        self._data: list[str] = []
        self.done = False

    def feed(self, data: bytes) -> Iterator[JsonObject]:
        """Yield the events that end in these bytes.

        Raises:
            RemoteError: the bytes are not events.
        """
        self._num_bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._num_bytes > _MAX_BYTES or len(self._rest) > _MAX_LINE:
            raise RemoteError(
                f"{self._url} sends more than {_MAX_BYTES >> 20} MiB, or a line of more than {_MAX_LINE >> 20} MiB",
                ErrorKind.GARBLED,
            )
        for line in lines:
            if (event := self._feed_line(line.rstrip(b"\r"))) is not None:
                yield event

    def _feed_line(self, line: bytes) -> JsonObject | None:
        """Return the event that ends with this line, if one does."""
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise RemoteError(f"{self._url} sends bytes that are not UTF-8", ErrorKind.GARBLED) from None
        if text:
            name, _, value = text.partition(":")
            if name in ("data", "error"):  # older servers of llama.cpp report errors in a field of their own
                self._data.append(value.removeprefix(" "))
            elif name not in ("", "event", "id", "retry"):  # a line that begins with a colon is a comment
                raise RemoteError(f"{self._url} sends something other than events", ErrorKind.GARBLED)
            return None
        data, self._data = "\n".join(self._data), []
        if not data or self.done:
            return None
        if data.strip() == _DONE:
            self.done = True
            return None
        return parse_json_object(data, self._url, self._sent, self._key)


def parse_json_object(data: str | bytes, url: str, sent: str = "", key: str = "") -> JsonObject:
    """Parse the JSON object of a response or an event.

    Args:
        sent, key: the text and the key that no message may repeat.

    Raises:
        RemoteError: it is not an object, or says that the service failed.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise RemoteError(f"{url} sends something that is not JSON", ErrorKind.GARBLED) from None
    if not isinstance(found, dict):
        raise _unexpected_json(url)
    if found.get("error") or found.get("object") == "error":
        raise make_answer_error(url, found, sent, key)
    return found


@dataclass
class StreamedChoice:
    """One candidate, as far as it has come.

    Attributes:
        num_tokens: minimum number of generated tokens: one for each event that adds text.
    """

    text: str = ""
    num_tokens: int = 0
    finish_reason: FinishReason | None = None
    logprobs: list[float] = field(default_factory=list)

    @property
    def mean_logprob(self) -> float:
        """The mean log-probability per token; 0 if the service gives none."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else 0.0


class StreamedChoices:
    """The candidates of one request, which grow with each event."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._num_counted = 0  # tokens of all choices, as the service counts them
        self.choices = [StreamedChoice() for _ in range(count)]

    @property
    def all_finished(self) -> bool:
        """True if each choice has ended."""
        return all(choice.finish_reason is not None for choice in self.choices)

    def end(self, max_tokens: int) -> None:
        """Take the service's word that the answer is complete, if it gives no reason for any choice.

        A choice without text has not been answered. One that used up its tokens was cut off.
        """
        if any(choice.finish_reason is not None for choice in self.choices):
            return
        for choice in self.choices:
            if choice.text:
                num_tokens = max(choice.num_tokens, self._num_counted // len(self.choices))
                choice.finish_reason = FinishReason.END if num_tokens < max_tokens else FinishReason.LENGTH

    def add_event(self, event: JsonObject) -> int | None:
        """Add an event's text to its choice, and return the index of the choice.

        ``None`` for events without choices (usage, role-only deltas) and for choices that have ended.

        Raises:
            RemoteError: the event has another form.
        """
        deltas = event.get("choices")
        self._num_counted = max(self._num_counted, _read_token_count(event.get("usage")))
        if not deltas:
            return None
        try:
            delta = deltas[0]
            index = int(delta.get("index", 0))
            choice = self.choices[index] if 0 <= index < len(self.choices) else None
            text, finish_reason = _read_text(delta), delta.get("finish_reason")
            if choice is None or choice.finish_reason is not None:
                return None
            choice.text += text
            choice.num_tokens += bool(text)
            choice.logprobs += _read_logprobs(delta.get("logprobs"))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError):
            raise _unexpected_json(self._url) from None
        if finish_reason not in _UNFINISHED:
            choice.finish_reason = FinishReason.END if finish_reason in _FINISHED else FinishReason.LENGTH
        return index


def _unexpected_json(url: str) -> RemoteError:
    return RemoteError(f"{url} sends JSON of an unexpected form", ErrorKind.GARBLED)


def _read_text(delta: Any) -> str:
    """Return the text that a choice adds, in the completions or the chat interface, streamed or not."""
    message = delta.get("delta") or delta.get("message")
    text = message.get("content") if message is not None else delta.get("text")
    if isinstance(text, list):  # Mistral's parts, of which those of another type are reasoning
        text = "".join(part["text"] for part in text if part.get("type") == "text")
    if text is None:
        return ""
    if not isinstance(text, str):
        raise TypeError
    return text


def _read_token_count(usage: Any) -> int:
    """Return how many tokens a service says it generated, 0 if it does not."""
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def _read_logprobs(logprobs: Any) -> list[float]:
    """Return the log-probabilities of added tokens: a list of numbers (completions) or of objects (chat, llama.cpp)."""
    if not logprobs:
        return []
    values = logprobs.get("token_logprobs")
    if values is None:
        values = [token.get("logprob") for token in logprobs.get("content") or ()]
    return [min(0.0, float(value)) for value in values if isinstance(value, (int, float))]
