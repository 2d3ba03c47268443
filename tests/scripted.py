"""`ScriptedWorker`: an engine's worker that answers what a test tells it to, for tests that need a fixed text.

The prompt is built by the real code with a real tokenizer, and constraints are obeyed. Only the model is missing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from codeclippy_ls.constrain.grammar import Mode
from codeclippy_ls.engine.loading.tokenizer import Tokenizer
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.inference.engine import STEP_TIMEOUT, ModelStatus
from codeclippy_ls.inference.errors import EngineError, ModelError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation, Request, Task
from codeclippy_ls.inference.spec import ModelSpec
from codeclippy_ls.inference.speed import Speed
from codeclippy_ls.prompts.token_prompts import collect_control_token_ids
from codeclippy_ls.settings import Settings
from codeclippy_ls.tasks.model_info import ModelInfo
from tests import checkpoints


@dataclass(frozen=True, slots=True)
class PrebuiltTask(Task):
    """A task whose prompt was built before."""

    built: Any

    def build_prompt(self, model: Any, context_length: int) -> Any:
        """Return the prompt."""
        return self.built


class ScriptedWorker:
    """Answers every request with ``response``.

    Attributes:
        response: a text, a list of several candidates' texts, a function of the prompt that returns one of these, or an
            exception to raise.
        gate: if set, a request waits for it before it is answered.
        started: set when a request has started.
        load_error: if not empty, loading fails with this message.
        prompts: the prompts of all requests, as text.
        requests: all requests.
        read_prompts: the prompts of requests that only read them.
        finish_reason: of each candidate.
        cancel_reasons: why requests were cancelled while they waited at the gate.
        unloaded: names of the models that were unloaded.
    """

    load_deadline: float | None = None
    report: Callable[[float], None]

    def __init__(self) -> None:
        self.response: Any = "value"
        self.gate: threading.Event | None = None
        self.started = threading.Event()
        self.load_error = ""
        self.prompts: list[str] = []
        self.requests: list[Request] = []
        self.read_prompts: list[str] = []
        self.finish_reason = FinishReason.END
        self.cancel_reasons: list[FinishReason] = []
        self.unloaded: list[str] = []
        self.step_timeout = STEP_TIMEOUT

    def open(self, settings: Settings, on_status: Callable[[str, ModelStatus], None]) -> ThreadEngine:
        """Open an engine that runs this worker."""
        specs = {"complete": ModelSpec(), "edit": ModelSpec()}
        return ThreadEngine(lambda: self, specs, on_status, self.step_timeout)

    def load(self, name: str, spec: ModelSpec) -> ModelInfo:
        """Return the metadata of a toy model."""
        if self.load_error:
            raise ModelError(self.load_error)
        tokenizer = Tokenizer(checkpoints.make_tokenizer_json())
        return ModelInfo("", "gpt_neox", collect_control_token_ids(tokenizer), context_length=2048)

    def unload(self, name: str) -> None:
        """Record that a model was unloaded."""
        self.unloaded.append(name)

    def start(self, handle: RequestHandle) -> Iterator[Generation | None]:
        """Take one step, wait at the gate, then answer."""
        model = SimpleNamespace(
            name="",
            architecture="gpt_neox",
            stop_token_ids=frozenset({0}),
            chat=None,
            speed=Speed(),
            tokenizer=Tokenizer(checkpoints.make_tokenizer_json()),
        )
        prompt = handle.request.task.build_prompt(model, 2048)
        text = model.tokenizer.decode_bytes(prompt.token_ids).decode() + prompt.healing_prefix
        if not handle.request.sampling.max_tokens:
            self.read_prompts.append(text)
            yield Generation(FinishReason.LENGTH, (Candidate("", (), 0.0, FinishReason.LENGTH, ""),))
            return
        self.prompts.append(text)
        self.requests.append(handle.request)
        self.started.set()
        yield None
        while self.gate is not None and not self.gate.wait(0.01):
            if handle.cancel_reason is not None:
                self.cancel_reasons.append(handle.cancel_reason)
                return
            yield None
        if isinstance(self.response, BaseException):
            raise self.response
        response = self.response(self.prompts[-1]) if callable(self.response) else self.response
        texts = [response] if isinstance(response, str) else response
        task = handle.request.task
        candidates = tuple(
            replace(candidate, answer=task.parse_answer(candidate, prompt))
            for candidate in (self._make_candidate(model, prompt, text) for text in texts)
        )
        handle.emit(candidates[0].text)
        yield Generation(self.finish_reason, candidates, len(prompt.token_ids))

    def _make_candidate(self, model: Any, prompt: Any, text: str) -> Candidate:
        text = prompt.healing_prefix + text  # a model would have to generate the healed text first, too
        state = prompt.constraint
        if state is None or prompt.healing_prefix:
            return Candidate(text, tuple(model.tokenizer.encode(text)), -0.1, self.finish_reason)
        tokens: list[int] = []
        # Encoded line by line, as the constraint encodes the document's lines.
        for line in text.splitlines(keepends=True):
            if state.mode is Mode.LINE and line.startswith("@@"):
                state = state.advance(state.grammar.header_ids[0])
                tokens.append(state.grammar.header_ids[0])
            line_tokens = encode_header(model.tokenizer, state, line) if state.mode is Mode.HEADER else None
            for token in line_tokens or model.tokenizer.encode(line):
                if token not in state.get_allowed_tokens():
                    raise EngineError(
                        f"the scripted diff is not allowed at {state.text!r} after {state.body!r}: {line!r}"
                    )
                state = state.advance(token)
                tokens.append(token)
        return Candidate(text, tuple(tokens), -0.1, self.finish_reason)


def encode_header(tokenizer: Tokenizer, state: Any, line: str) -> list[int]:
    """Encode a hunk header, with the line's numbers if they are allowed here, otherwise with some that are.

    A scripted header may have the numbers of the whole document, of which the prompt shows only a part.
    """
    wanted = [int(number) for number in re.findall(r"\d+", line)]
    header: list[int] = []

    def append(ids: Sequence[int]) -> None:
        nonlocal state
        for id in ids:
            state = state.advance(id)
        header.extend(ids)

    for index, number in enumerate((wanted[0], wanted[1], wanted[3])):
        while state.header.pending:
            append(state.get_forced_tokens())
        for digit in str(number).encode():
            allowed = [id for id in state.get_allowed_tokens() if tokenizer.token_bytes[id].isdigit()]
            id = tokenizer.token_bytes.index(bytes([digit]))
            append([id if id in allowed else allowed[0]] if allowed else [])
        while len(state.header.numbers) == index:
            append(
                state.get_forced_tokens()
                or [id for id in state.get_allowed_tokens() if not tokenizer.token_bytes[id].isdigit()][:1]
                or [state.get_allowed_tokens()[0]]
            )
    while state.mode is Mode.HEADER:
        append(state.get_forced_tokens())
    return header
