"""Errors of an engine. Each message is one sentence for the user, with cause and fix."""

from __future__ import annotations


class EngineError(Exception):
    """A request failed; the message says why and what to do."""


class DocumentRefusedError(EngineError):
    """A document must not be sent to a service, which can answer for others."""


class DeviceError(BaseException):
    """The device cannot be used again in this process; ends the engine's thread."""


class ModelError(EngineError):
    """A model cannot be loaded or used; the message names the checkpoint and the setting."""


class NonFiniteError(EngineError):
    """The model produced NaN or infinite logits, so its output cannot be trusted."""


def is_recoverable(error: BaseException) -> bool:
    """Return whether an error concerns only what was being done, not the thread or the process.

    A panic in a library that is written in Rust is not even an `Exception`.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
