"""`RequestHandle`: the caller's end of a submitted request, and the engine's way to resolve it from any thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from codeclippy_ls.inference.requests import FinishReason, Generation, Priority, Request


class RequestHandle:
    """A submitted request. Created, awaited and resolved on the loop; only ``cancel_reason`` crosses threads.

    Args:
        on_cancel: called on the loop when the request is cancelled.
    """

    def __init__(
        self,
        request: Request,
        priority: Priority,
        loop: asyncio.AbstractEventLoop,
        on_cancel: Callable[[RequestHandle], None] | None = None,
    ) -> None:
        self.request = request
        self.priority = priority
        self.cancel_reason: FinishReason | None = None
        self.submitted_at = time.monotonic()
        self._loop = loop
        self._on_cancel = on_cancel
        self._outcome: asyncio.Future[Generation] = loop.create_future()
        # Retrieve the exception even if nobody awaits the handle, so that asyncio does not report it.
        self._outcome.add_done_callback(lambda outcome: outcome.cancelled() or outcome.exception())
        self._deltas: asyncio.Queue[str | None] = asyncio.Queue()

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """Resolve now and let the engine drop the job at its next step. May be called from any thread, repeatedly."""
        if self.cancel_reason is None:
            self.cancel_reason = reason
            self.resolve(Generation(reason))
            if self._on_cancel is not None:
                self._call(self._on_cancel, self)

    async def result(self) -> Generation:
        """Wait for the generation, also for a cancelled or superseded one (see its ``finish_reason``).

        Raises:
            EngineError: the request failed; the message is for the user.
        """
        try:
            return await asyncio.shield(self._outcome)
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def deltas(self) -> AsyncIterator[str]:
        """Yield the text as it grows, in whole characters, until the generation ends."""
        while (delta := await self._deltas.get()) is not None:
            yield delta

    def resolve(self, outcome: Generation | BaseException) -> None:
        """Resolve the handle, from any thread; only the first outcome counts."""
        self._call(self._resolve, outcome)

    def emit(self, delta: str) -> None:
        """Pass on a piece of text, from any thread."""
        self._call(self._deltas.put_nowait, delta)

    def _resolve(self, outcome: Generation | BaseException) -> None:
        if self._outcome.done():
            return
        if isinstance(outcome, BaseException):
            self._outcome.set_exception(outcome)
        else:
            self._outcome.set_result(outcome)
        self._deltas.put_nowait(None)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop has closed: nobody waits for the outcome
            pass
