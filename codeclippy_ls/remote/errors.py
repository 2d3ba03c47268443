"""What can go wrong between here and a service; each with the user's sentence, which holds no key and no code. Pure."""

from __future__ import annotations

import enum
import json
from typing import Any

from codeclippy_ls.inference.errors import EngineError

_MOST_QUOTED = 200
_LONGEST_ECHO = 24  # characters that a service's message may have in common with the prompt
LONGEST_WAIT = 60.0  # seconds that a service may ask to be left alone


class ErrorKind(enum.Enum):
    """Kinds of failures."""

    UNREACHABLE = "unreachable"  # no connection, or lost before an answer
    DENIED = "denied"  # 401, 403
    MISSING = "missing"  # 404
    REFUSED = "refused"  # 400 and its like: this request
    BUSY = "busy"  # 429, 503
    BROKEN = "broken"  # 5xx, a stream that ends early
    SLOW = "slow"  # nothing came for too long
    GARBLED = "garbled"  # no events, no JSON, no UTF-8, no end


# Of these a second try may go better, once something has passed.
_PASSING = frozenset({ErrorKind.UNREACHABLE, ErrorKind.BUSY, ErrorKind.BROKEN})
# With these no model answers at all.
_LASTING = frozenset({ErrorKind.UNREACHABLE, ErrorKind.DENIED, ErrorKind.MISSING})


class RemoteError(EngineError):
    """A service did not answer as it should.

    Attributes:
        after: seconds that it wants to be left alone.
        status: of HTTP, where it answered at all.
    """

    def __init__(self, message: str, kind: ErrorKind, after: float | None = None, status: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.after = after
        self.status = status

    @property
    def retryable(self) -> bool:
        """Whether a second try may go better."""
        return self.kind in _PASSING

    @property
    def permanent(self) -> bool:
        """Whether no model answers at all until something is done about it."""
        return self.kind in _LASTING


def refusal(url: str, status: int, body: bytes, after: str, sent: str, key: str) -> RemoteError:
    """What an answer other than 200 means.

    Args:
        body: the beginning of what came with it.
        after: its header ``Retry-After``.
        sent: what the request said, of which the message repeats nothing.
    """
    error = _refusal(url, status, quoted(body, sent, key), bool(key))
    error.status = status
    error.after = seconds_of(after) if error.retryable else None
    return error


def _refusal(url: str, status: int, said: str, keyed: bool) -> RemoteError:
    because = f": {said}" if said else ""
    if status in (401, 403):
        hint = "the key was not accepted" if keyed else 'it wants a key: set "model.endpointKeyVariable"'
        return RemoteError(f"{url} refuses the request ({status}); {hint}{because}", ErrorKind.DENIED)
    if status == 404:
        return RemoteError(
            f'{url} has no such model or path (404); see the settings "model.endpoint" and "model.completion"{because}',
            ErrorKind.MISSING,
        )
    if status in (429, 503):
        return RemoteError(f"{url} is busy ({status}){because}", ErrorKind.BUSY)
    if 300 <= status < 400:
        return RemoteError(
            f'{url} redirects ({status}), which is not followed; set "model.endpoint" to where it is', ErrorKind.MISSING
        )
    if status >= 500:
        return RemoteError(f"{url} failed ({status}){because}", ErrorKind.BROKEN)
    return RemoteError(f"{url} refuses the request ({status}){because}", ErrorKind.REFUSED)


def seconds_of(after: str) -> float | None:
    """The seconds of a header ``Retry-After``, capped; ``None`` where it names none (dates are seldom sent)."""
    try:
        return min(max(float(after), 0.0), LONGEST_WAIT)
    except ValueError:
        return None


def quoted(body: bytes, sent: str, key: str) -> str:
    """What a service says of itself, where it is JSON and repeats neither key nor prompt; else nothing."""
    try:
        said = _message(json.loads(body))
    except (ValueError, RecursionError):
        return ""
    said = " ".join("".join(char for char in said if char.isprintable() or char.isspace()).split())[:_MOST_QUOTED]
    echoes = any(said[at : at + _LONGEST_ECHO] in sent for at in range(max(0, len(said) - _LONGEST_ECHO) + 1))
    return "" if not said or (key and key in said) or (len(said) >= _LONGEST_ECHO and echoes) else said


def _message(found: Any) -> str:
    """The text of an error, in the forms that these services have."""
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            return _message(found[name])
    return found if isinstance(found, str) else ""
