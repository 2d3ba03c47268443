"""An engine host that says what a test tells it to: for laws of the server where a fixed text is needed.

The prompt is built by the real code over the real tokenizer, and constraints are kept: only the model is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from codeclippy_ls.engine.engine import Candidate, Engine, Generation, Reason, Status, Ticket
from codeclippy_ls.engine.errors import EngineError, ModelError
from codeclippy_ls.engine.tokenizer import Tokenizer
from codeclippy_ls.settings import Settings
from tests import checkpoints


class ScriptedHost:
    """Answers with ``says``: a text, several candidates' texts, or an exception to raise; waits at ``gate`` where that is
    set."""

    def __init__(self) -> None:
        self.says: Any = "value"
        self.gate: threading.Event | None = None
        self.started = threading.Event()
        self.fail_load = ""
        self.prompts: list[str] = []
        self.stopped: list[Reason] = []

    def open(self, settings: Settings, watch: Callable[[str, Status], None]) -> Engine:
        """An engine over this host."""
        specs: Mapping[str, Any] = {"complete": None, "edit": None}
        return Engine(lambda: self, specs, watch)

    def load(self, name: str, spec: Any) -> Any:
        """A model's face with a real tokenizer."""
        if self.fail_load:
            raise ModelError(self.fail_load)
        return SimpleNamespace(name="", architecture="gpt_neox", window=2048, ends=frozenset({0}), chat=None,
                               tokenizer=Tokenizer(checkpoints.definition()))

    def start(self, ticket: Ticket) -> Iterator[Generation | None]:
        """One step, then the answer."""
        model = self.load("", None)
        prompt = ticket.request.build(model, model.window)
        self.prompts.append(model.tokenizer.decode_bytes(prompt.tokens).decode() + prompt.heal)
        self.started.set()
        yield None
        while self.gate is not None and not self.gate.wait(0.01):
            if ticket.stopping is not None:
                self.stopped.append(ticket.stopping)
                return
            yield None
        if isinstance(self.says, BaseException):
            raise self.says
        says = [self.says] if isinstance(self.says, str) else self.says
        candidates = tuple(self._candidate(model, prompt, text) for text in says)
        ticket.emit(candidates[0].text)
        yield Generation(Reason.END, candidates, prompt, len(prompt.tokens))

    def _candidate(self, model: Any, prompt: Any, says: str) -> Candidate:
        text = prompt.heal + says  # a model would have to begin with the word that was begun
        # Line by line, as the constraint has the document's lines.
        tokens = tuple(id for line in text.splitlines(keepends=True) for id in model.tokenizer.encode(line))
        state = prompt.constraint
        for token in tokens if state is not None and not prompt.heal else ():
            if token not in state.allowed():
                raise EngineError(f"the script is not allowed at {state.text!r} after {state.body!r}")
            state = state.step(token)
        return Candidate(text, tokens, -0.1, Reason.END)
