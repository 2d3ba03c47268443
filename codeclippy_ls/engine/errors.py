"""What can go wrong in the engine; each message is one sentence for the user, with cause and cure."""

from __future__ import annotations


class EngineError(Exception):
    """A request failed; the message says why and what to do."""


class DeviceError(BaseException):
    """The device can do nothing more in this process, whoever asks: it ends the engine's thread."""


class ModelError(EngineError):
    """A model cannot be loaded or used; the message names the checkpoint and the setting."""


class NonFiniteError(EngineError):
    """The model produced NaN or infinite scores; nothing it says can be trusted."""
