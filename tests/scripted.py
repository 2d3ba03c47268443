"""An engine host that says what a test tells it to: for laws of the server where a fixed text is needed.

The prompt is built by the real code over the real tokenizer, and constraints are kept: only the model is missing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from codeclippy_ls.constrain.grammar import Mode
from codeclippy_ls.engine.loading.tokenizer import Tokenizer
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.inference.engine import STEP_TIMEOUT, ModelStatus
from codeclippy_ls.inference.errors import EngineError, ModelError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation, Task
from codeclippy_ls.prompts.build import markers
from codeclippy_ls.settings import Settings
from codeclippy_ls.tasks.model_info import ModelInfo
from tests import checkpoints


@dataclass(frozen=True, slots=True)
class PrebuiltTask(Task):
    """Asks for a prompt that is there already."""

    built: Any

    def prompt(self, model: Any, window: int) -> Any:
        """The prompt."""
        return self.built


class ScriptedWorker:
    """Answers with ``response``: a text, several candidates' texts, a function of the prompt that gives such, or an
    exception to raise; waits at ``gate`` where that is set."""

    def __init__(self) -> None:
        self.response: Any = "value"
        self.gate: threading.Event | None = None
        self.started = threading.Event()
        self.load_error = ""
        self.prompts: list[str] = []
        self.cancel_reasons: list[FinishReason] = []
        self.unloaded: list[str] = []
        self.step_timeout = STEP_TIMEOUT

    def open(self, settings: Settings, on_status: Callable[[str, ModelStatus], None]) -> ThreadEngine:
        """An engine over this host."""
        specs: Mapping[str, Any] = {"complete": None, "edit": None}
        return ThreadEngine(lambda: self, specs, on_status, self.step_timeout)

    def load(self, name: str, spec: Any) -> Any:
        """Say what there is to say of a model."""
        if self.load_error:
            raise ModelError(self.load_error)
        tokenizer = Tokenizer(checkpoints.definition())
        return ModelInfo("", "gpt_neox", markers(tokenizer), window=2048)

    def unload(self, name: str) -> None:
        """Remember who was let go."""
        self.unloaded.append(name)

    def start(self, ticket: RequestHandle) -> Iterator[Generation | None]:
        """One step, then the answer."""
        model = SimpleNamespace(
            name="",
            architecture="gpt_neox",
            stop_token_ids=frozenset({0}),
            chat=None,
            tokenizer=Tokenizer(checkpoints.definition()),
        )
        prompt = ticket.request.task.prompt(model, 2048)
        self.prompts.append(model.tokenizer.decode_bytes(prompt.tokens).decode() + prompt.heal)
        self.started.set()
        yield None
        while self.gate is not None and not self.gate.wait(0.01):
            if ticket.cancel_reason is not None:
                self.cancel_reasons.append(ticket.cancel_reason)
                return
            yield None
        if isinstance(self.response, BaseException):
            raise self.response
        says = self.response(self.prompts[-1]) if callable(self.response) else self.response
        says = [says] if isinstance(says, str) else says
        made = [self._candidate(model, prompt, text) for text in says]
        candidates = tuple(replace(one, answer=ticket.request.task.answer(one, prompt)) for one in made)
        ticket.emit(candidates[0].text)
        yield Generation(FinishReason.END, candidates, len(prompt.tokens))

    def _candidate(self, model: Any, prompt: Any, says: str) -> Candidate:
        text = prompt.heal + says  # a model would have to begin with the word that was begun
        state = prompt.constraint
        if state is None or prompt.heal:
            return Candidate(text, tuple(model.tokenizer.encode(text)), -0.1, FinishReason.END)
        tokens: list[int] = []
        # Line by line, as the constraint has the document's lines; a header's numbers may be of the whole document.
        for line in text.splitlines(keepends=True):
            if state.mode is Mode.LINE and line.startswith("@@"):
                state = state.advance(state.frame.header[0])
                tokens.append(state.frame.header[0])
            line_tokens = header(model.tokenizer, state, line) if state.mode is Mode.HEADER else None
            for token in line_tokens or model.tokenizer.encode(line):
                if token not in state.get_allowed_tokens():
                    raise EngineError(f"the script is not allowed at {state.text!r} after {state.body!r}: {line!r}")
                state = state.advance(token)
                tokens.append(token)
        return Candidate(text, tuple(tokens), -0.1, FinishReason.END)


def header(tokenizer: Tokenizer, state: Any, line: str) -> list[int]:
    """The tokens of a header that is allowed, with the line's own numbers where they are."""
    wanted = [int(number) for number in re.findall(r"\d+", line)]
    found: list[int] = []

    def take(ids: Sequence[int]) -> None:
        nonlocal state
        for id in ids:
            state = state.advance(id)
        found.extend(ids)

    for index, number in enumerate((wanted[0], wanted[1], wanted[3])):
        while state.header.due:
            take(state.get_forced_tokens())
        for digit in str(number).encode():
            allowed = [id for id in state.get_allowed_tokens() if tokenizer.token_bytes[id].isdigit()]
            id = tokenizer.token_bytes.index(bytes([digit]))
            take([id if id in allowed else allowed[0]] if allowed else [])
        while len(state.header.numbers) == index:
            take(
                state.get_forced_tokens()
                or [id for id in state.get_allowed_tokens() if not tokenizer.token_bytes[id].isdigit()][:1]
                or [state.get_allowed_tokens()[0]]
            )
    while state.mode is Mode.HEADER:
        take(state.get_forced_tokens())
    return found
