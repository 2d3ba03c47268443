"""Requests and their outcomes: `Task`, `Sampling`, `Request`, `Candidate`, `Generation`.

Plain values. A task is what is asked of a model; it builds its own prompt once it meets the model. Knows no model and
no text.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any


class Priority(enum.IntEnum):
    """Priority of a request; smaller runs first."""

    KEYSTROKE = 0
    EDIT = 1
    BACKGROUND = 2


class FinishReason(enum.Enum):
    """Reason why a generation ended."""

    END = "end"  # the model ended its text
    STOP = "stop"  # the task is done, or a stop string of a service
    LENGTH = "length"  # the token budget or the context length
    TIME = "time"  # the time budget
    CANCELLED = "cancelled"  # by the caller
    SUPERSEDED = "superseded"  # by a newer request with the same key


class Task:
    """A question for a model; called on the engine's thread. A task that leaves the process is plain data."""

    __slots__ = ()

    def build_prompt(self, model: Any, context_length: int) -> Any:
        """Build the prompt for a model, within ``context_length`` tokens.

        It is built when the job starts, so that a request that was superseded before costs nothing.

        Raises:
            ValueError: the task cannot be asked of this model; the message is for the user.
        """
        raise NotImplementedError

    def build_text_prompt(self, remote: Any) -> Any:
        """Build the prompt as text, for a model that another program serves.

        `is_done` and `parse_answer` accept it like a prompt of token ids.

        Raises:
            ValueError: the task cannot be asked, or must not leave this machine; the message is for the user.
        """
        raise NotImplementedError

    def is_done(self, text: str, prompt: Any) -> bool:
        """Return whether the text so far is all that is wanted."""
        return False

    def parse_answer(self, candidate: Candidate, prompt: Any) -> Any:
        """Turn a finished candidate into the caller's terms, as plain data."""
        return candidate.text


@dataclass(frozen=True, slots=True)
class Sampling:
    """Parameters of sampling, and the number of tokens.

    Attributes:
        max_tokens: of each candidate; with 0 the prompt is only read, so that a later request finds it in the cache.
        temperature: 0 is greedy.
        top_p: probability mass of the nucleus that is sampled from.
        candidates: number of continuations.
        greedy_first: whether the first candidate is greedy, whatever the temperature.
        use_drafts: whether to draft tokens (prompt lookup, constraint); faster, with the same output.
        seconds: time budget; ``None`` is unlimited.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    candidates: int = 1
    greedy_first: bool = False
    use_drafts: bool = True
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A task for one of the engine's models.

    Attributes:
        key: of the requests of one priority with the same key, the newest wins; ``None`` is never superseded.
        client: who asks, if several clients share the engine.
    """

    task: Task
    sampling: Sampling = field(default_factory=Sampling)
    model: str = "default"
    key: Hashable | None = None
    client: Hashable | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One continuation.

    Attributes:
        logprob: mean natural log-probability per sampled token.
        answer: what the task made of the text.
    """

    text: str
    token_ids: tuple[int, ...]
    logprob: float
    finish_reason: FinishReason
    answer: Any = None


@dataclass(frozen=True, slots=True)
class Generation:
    """The outcome of a request.

    Attributes:
        cached_tokens: how many of the ``prompt_tokens`` came from the prefix cache.
        first_token_seconds, seconds: from the job's start.
    """

    finish_reason: FinishReason
    candidates: tuple[Candidate, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """Text of the first candidate."""
        return self.candidates[0].text if self.candidates else ""
