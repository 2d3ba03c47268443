"""Errors of a service; each with a sentence for the user that contains no key and no code. Pure."""

from __future__ import annotations

import enum
import json

from codeclippy_ls.inference.errors import EngineError

_MAX_QUOTE = 200  # characters of a service's message that are shown
_MAX_ECHO = 24  # characters that a service's message may have in common with the prompt
MAX_RETRY_AFTER = 60.0  # seconds; a service may ask for more


class ErrorKind(enum.Enum):
    """Kinds of failures."""

    UNREACHABLE = "unreachable"  # no connection, or lost before a response
    DENIED = "denied"  # 401, 403
    MISSING = "missing"  # 404
    REFUSED = "refused"  # 400 and similar: this request
    BUSY = "busy"  # 429, 503
    BROKEN = "broken"  # 5xx, a stream that ends early
    SLOW = "slow"  # nothing came for too long
    GARBLED = "garbled"  # no events, no JSON, no UTF-8, or endless


# A second try may succeed after a while.
_RETRYABLE = frozenset({ErrorKind.UNREACHABLE, ErrorKind.BUSY, ErrorKind.BROKEN})
# No model answers at all.
_PERMANENT = frozenset({ErrorKind.UNREACHABLE, ErrorKind.DENIED, ErrorKind.MISSING})


class RemoteError(EngineError):
    """A service did not answer as it should.

    Attributes:
        retry_after: seconds for which the service asks not to be called again.
        status: the HTTP status, 0 without a response.
    """

    def __init__(self, message: str, kind: ErrorKind, retry_after: float | None = None, status: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after
        self.status = status

    @property
    def retryable(self) -> bool:
        """True if a second try may succeed."""
        return self.kind in _RETRYABLE

    @property
    def permanent(self) -> bool:
        """True if no model answers until the user changes something."""
        return self.kind in _PERMANENT


def make_status_error(url: str, status: int, body: bytes, retry_after: str, sent: str, key: str) -> RemoteError:
    """Make the error for a response whose status is not 200.

    Args:
        body: the beginning of the response's body.
        retry_after: the value of its header ``Retry-After``.
        sent: the text of the request, of which the message repeats nothing.
    """
    error = _make_status_error(url, status, quote_message(body, sent, key), bool(key))
    error.status = status
    error.retry_after = parse_retry_after(retry_after) if error.retryable else None
    return error


def _make_status_error(url: str, status: int, quote: str, has_key: bool) -> RemoteError:
    detail = f": {quote}" if quote else ""
    if status in (401, 403):
        hint = (
            'it does not accept the key; see the setting "model.endpointKeyVariable"'
            if has_key
            else 'it wants a key; set "model.endpointKeyVariable"'
        )
        return RemoteError(f"{url} refuses the request ({status}); {hint}{detail}", ErrorKind.DENIED)
    if status == 404:
        return RemoteError(
            f'{url} has no such model or path (404); see the settings "model.endpoint" and "model.completion"{detail}',
            ErrorKind.MISSING,
        )
    if status in (429, 503):
        return RemoteError(f"{url} is busy ({status}){detail}", ErrorKind.BUSY)
    if 300 <= status < 400:
        return RemoteError(
            f'{url} redirects to another address ({status}), and redirects are not followed; set "model.endpoint" to '
            "the final address",
            ErrorKind.MISSING,
        )
    if status >= 500:
        return RemoteError(f"{url} failed ({status}){detail}", ErrorKind.BROKEN)
    return RemoteError(f"{url} refuses the request ({status}){detail}", ErrorKind.REFUSED)


def parse_retry_after(value: str) -> float | None:
    """Parse the seconds of a header ``Retry-After``, capped; ``None`` if it has none (dates are rarely sent)."""
    try:
        return min(max(float(value), 0.0), MAX_RETRY_AFTER)
    except ValueError:
        return None


def make_answer_error(url: str, answer: object, sent: str, key: str) -> RemoteError:
    """Make the error for JSON that reports one although the response has status 200."""
    quote = _quote(_find_message(answer), sent, key)
    detail = f": {quote}" if quote else "; its own log says more"
    return RemoteError(f"{url} reports an error in its answer{detail}", ErrorKind.BROKEN)


def quote_message(body: bytes, sent: str, key: str) -> str:
    """Return the message in a service's JSON body; empty if there is none, or it repeats the key or the prompt."""
    try:
        return _quote(_find_message(json.loads(body)), sent, key)
    except (ValueError, RecursionError):
        return ""


def _quote(message: str, sent: str, key: str) -> str:
    printable = "".join(char for char in message if char.isprintable() or char.isspace())
    quote = " ".join(printable.split())[:_MAX_QUOTE]
    echoes = any(quote[at : at + _MAX_ECHO] in sent for at in range(max(0, len(quote) - _MAX_ECHO) + 1))
    return "" if not quote or (key and key in quote) or (len(quote) >= _MAX_ECHO and echoes) else quote


def _find_message(body: object) -> str:
    """Return the text of an error, in any of the forms that these services use."""
    for name in ("error", "message", "detail", "msg"):
        if isinstance(body, dict) and body.get(name):
            return _find_message(body[name])
    if isinstance(body, list) and body:
        return _find_message(body[0])
    return body if isinstance(body, str) else ""
