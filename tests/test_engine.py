"""The engine's laws: greedy output is transformers' own, the same with the prefix cache on or off, interrupted or not;
every ticket is answered once; nothing stops the thread but its own end."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from codeclippy_ls.constrain.grammar import diff_constraint
from codeclippy_ls.engine.decoder.linear import WeightFormats
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.decoding import DecodingState, DecodingStep, Sampler, generate
from codeclippy_ls.engine.generation.drafting import NgramProposer, PassCost, optimal_draft_length
from codeclippy_ls.engine.generation.kv_cache import CachedPrefix, PrefixCache, common_prefix_length
from codeclippy_ls.engine.loading.config import read_stop_token_ids
from codeclippy_ls.engine.loading.model import Model
from codeclippy_ls.engine.loading.tokenizer import Tokenizer, decode_complete
from codeclippy_ls.engine.loading.transformers_module import ModuleRunner
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.engine.worker import ModelWorker
from codeclippy_ls.inference.engine import ModelState
from codeclippy_ls.inference.errors import EngineError, ModelError, NonFiniteError
from codeclippy_ls.inference.handles import RequestHandle
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation, Priority, Request, Sampling, Task
from codeclippy_ls.inference.spec import ModelSpec
from tests import checkpoints
from tests.editor import TIMEOUT
from tests.scripted import PrebuiltTask

EXACT = WeightFormats("float32", "float32")
CASES = [f"{architecture}{own}" for architecture in checkpoints.ARCHITECTURES for own in ("", " by its module")]


def model(case: str, seed: int = 0) -> Model:
    """A toy model behind the engine's face, run by our decoder, or by transformers' module."""
    architecture, _, module = case.partition(" ")
    made = checkpoints.make_module(architecture, seed)
    runner = ModuleRunner(made) if module else Transformer(made.config, made.state_dict(), EXACT)
    ends = read_stop_token_ids(made.config, made.generation_config.eos_token_id)
    return Model(runner, Tokenizer(checkpoints.make_tokenizer_json()), case, stop_token_ids=ends)


@lru_cache
def original(case: str) -> Any:
    """The module whose weights a toy model has."""
    return checkpoints.make_module(case.partition(" ")[0])


def prompts(count: int, seed: int) -> list[list[int]]:
    """Prompts that share heads, as successive keystrokes do."""
    chance = random.Random(seed)
    tokens = [chance.randrange(8, checkpoints.VOCAB_SIZE) for _ in range(150)]
    return [
        tokens[: chance.randrange(20, 120)] + [chance.randrange(8, 600) for _ in range(chance.randrange(4))]
        for _ in range(count)
    ]


def reference(subject: Model, prompt: list[int], tokens: int) -> list[int]:
    """What transformers' own ``generate`` continues with, greedily."""
    ids = torch.tensor([prompt])
    out = original(subject.name).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
    )
    return [token for token in out[0, len(prompt) :].tolist() if token != 0]


def run(subject: Model, cache: PrefixCache, prompt: list[int], tokens: int, drafts: bool = True) -> list[int]:
    """The engine's decoding of one prompt, to its end."""
    prefix = cache.acquire(prompt, subject.new_cache)
    made = [token for step in steps(subject, prefix, prompt, tokens, drafts) for token in step.token_ids]
    cache.release(prefix)
    return made


def steps(
    subject: Model, prefix: CachedPrefix, prompt: list[int], tokens: int, drafts: bool = True
) -> Iterator[DecodingStep]:
    """The turns of one greedy continuation."""
    room = min(tokens, subject.context_length - len(prompt))
    state = DecodingState(prefix, None, subject.stop_token_ids, Sampler(), room, subject.pass_cost if drafts else None)
    return generate(subject.forward, state, prompt)


@pytest.mark.parametrize("architecture", CASES)
def test_greedy_is_generate_with_cache_on_and_off(architecture: str) -> None:
    """Token for token, for every architecture, over prompts that share heads."""
    subject = model(architecture)
    warm = PrefixCache(1 << 30)
    reused = 0
    for prompt in prompts(8, seed=1):
        expected = reference(subject, prompt, 16)
        assert run(subject, PrefixCache(0), prompt, 16) == expected
        before = warm.acquire(prompt, subject.new_cache)
        reused += len(before.token_ids)
        warm.release(before)
        assert run(subject, warm, prompt, 16) == expected
    assert reused > 200, "the prefix cache was never of use"


@pytest.mark.parametrize("architecture", CASES)
def test_greedy_is_the_same_interrupted_and_resumed(architecture: str) -> None:
    """Two jobs that take turns step by step, and one that is dropped half way, change nothing."""
    subject = model(architecture)
    one, other, third = prompts(3, seed=2)
    cache = PrefixCache(1 << 30)

    def turns(prompt: list[int]) -> Generator[Any, None, None]:
        prefix = cache.acquire(prompt, subject.new_cache)
        try:
            yield from steps(subject, prefix, prompt, 16)
        finally:
            cache.release(prefix)

    first, dropped, second = turns(one), turns(third), turns(other)
    texts: list[list[int]] = [[], []]
    next(dropped)
    next(dropped)
    dropped.close()
    running = [0, 1]
    while running:
        for index in list(running):
            step = next((first, second)[index], None)
            if step is None:
                running.remove(index)
            else:
                texts[index] += step.token_ids
    assert texts[0] == reference(subject, one, 16)
    assert texts[1] == reference(subject, other, 16)
    assert run(subject, cache, third, 16) == reference(subject, third, 16)


def linear_cost(num_tokens: int) -> float:
    """Cost of a pass, in passes over one token: fixed, so that no test depends on this machine's speed."""
    return 1 + 0.06 * (num_tokens - 1)


@pytest.mark.parametrize("architecture", CASES)
def test_drafts_change_nothing_but_the_number_of_passes(architecture: str) -> None:
    """Greedy and sampled text is the same with drafts and without, free or under a constraint; copies take fewer."""
    subject = model(architecture)
    lines = ["def f(x):", "    y = x + 1", "    return y", "", "", "def g(x):", "    y = x + 2", "    return y"]
    text = subject.tokenizer.encode("\n".join(lines) + "\n")
    passes = {True: 0, False: 0}
    forward = subject.forward

    def texts(drafts: bool) -> list[list[int]]:
        def counted(inputs: Any) -> Any:
            passes[drafts] += 1
            return forward(inputs)

        subject.forward = counted
        made = []
        for seed in range(6):
            constraint = diff_constraint(subject.tokenizer, lines, [0], max_added=4) if seed % 2 else None
            state = DecodingState(
                CachedPrefix(subject.new_cache()),
                constraint,
                frozenset({0}),
                Sampler(seed * 0.3, 1.0, seed),
                60,
                linear_cost if drafts else None,
            )
            found = [token for step in generate(subject.forward, state, text) for token in step.token_ids]
            assert subject.tokenizer.vocab_size >= max(state.prefix.token_ids) and state.prefix.kv_cache.length == len(
                state.prefix.token_ids
            )
            made.append(found)
        subject.forward = forward
        return made

    assert texts(True) == texts(False)
    assert passes[True] < passes[False]


def test_the_best_draft_is_long_where_guesses_are_good_and_passes_cheap() -> None:
    """By the expected tokens of a pass, of which one is chosen in any case."""
    flat, steep = (lambda n: 1.0), (lambda n: float(n))
    assert optimal_draft_length(0.5, flat, 20) == 20 and optimal_draft_length(0.9, steep, 20) == 0
    assert 0 < optimal_draft_length(0.6, linear_cost, 20) < optimal_draft_length(0.9, linear_cost, 20)
    seen = NgramProposer([1, 2, 3, 4, 5, 9, 2, 3])
    assert seen.propose(2) == [4, 5]
    seen.extend([4])
    assert seen.propose(9) == [5, 9, 2, 3, 4]
    assert NgramProposer([1, 2]).propose(3) == []


def test_what_a_longer_pass_costs_is_learned() -> None:
    """From passes that were run; a guess before, between what was measured a straight line, and one bad pass is no
    news."""
    cost = PassCost()
    assert (cost(1), cost(11)) == pytest.approx((1, 1.6))
    for _ in range(200):
        for tokens, seconds in ((1, 0.010), (8, 0.015), (16, 0.020), (900, 5.0)):
            cost.update(tokens, seconds)
    assert (cost(1), cost(8), cost(12), cost(16)) == pytest.approx((1, 1.5, 1.75, 2))
    cost.update(16, 9.0)
    for _ in range(32):
        cost.update(1, 0.010)
    assert cost(16) < 2.3


def test_prompts_longer_than_a_chunk_and_up_to_the_window() -> None:
    """Prefill in chunks, and an answer that the window cuts."""
    subject = model("gpt_neox")
    prompt = [8 + index % 500 for index in range(checkpoints.CONTEXT_LENGTH - 5)]
    assert run(subject, PrefixCache(0), prompt, 50) == reference(subject, prompt, 5)


def test_sampling_is_reproducible_and_in_proportion() -> None:
    """The same seed draws the same tokens, and the frequencies are those of the nucleus."""
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    draws = [Sampler(1.0, 0.9, seed).sample(logits, None)[0] for seed in range(2000)]
    assert draws == [Sampler(1.0, 0.9, seed).sample(logits, None)[0] for seed in range(2000)]
    shares = [draws.count(token) / len(draws) for token in range(4)]
    assert shares[3] == 0.0
    assert shares[:3] == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95], abs=0.04)
    some = Only((1, 3))
    assert all(Sampler(1.0, 0.9, seed).sample(logits, some)[0] in (1, 3) for seed in range(50))


@dataclass(frozen=True)
class Only:
    """A constraint to some ids."""

    ids: tuple[int, ...]

    def get_allowed_tokens(self) -> tuple[int, ...]:
        return self.ids

    def get_choice_groups(self) -> tuple[()]:
        return ()

    def get_substitutions(self) -> tuple[tuple[()], tuple[()]]:
        return (), ()

    def advance(self, token_id: int) -> Only:
        return self

    def get_forced_tokens(self) -> tuple[()]:
        return ()

    def draft(self, limit: int) -> tuple[()]:
        return ()


def test_cache_keeps_to_its_budget_and_finds_the_longest_prefix() -> None:
    """Least recently used entries go; another document's entry is copied, not cropped."""
    subject = model("gpt_neox")
    cache = PrefixCache(1 << 30, max_entries=3)
    for prompt in prompts(6, seed=3):
        run(subject, cache, prompt, 2)
    assert len(cache) <= 3
    small = PrefixCache(cache.nbytes // len(cache))
    for prompt in prompts(4, seed=4):
        run(subject, small, prompt, 2)
        assert small.nbytes <= cache.nbytes // len(cache)
    shared = PrefixCache(1 << 30)
    run(subject, shared, list(range(10, 100)), 1)
    taken = shared.acquire([*range(10, 20), 5, 5], subject.new_cache)
    assert taken.token_ids == list(range(10, 20)) and len(shared) == 1
    assert common_prefix_length([1, 2, 3], [1, 2, 4]) == 2 and common_prefix_length([1], [1, 2]) == 1


@pytest.mark.parametrize("own", [True, False])
def test_nan_weights_are_found(own: bool) -> None:
    """NaN never becomes a token."""
    module = checkpoints.make_module("gpt_neox")
    with torch.no_grad():
        module.get_output_embeddings().weight.fill_(float("nan"))
    runner = Transformer(module.config, module.state_dict(), EXACT) if own else ModuleRunner(module)
    subject = Model(runner, Tokenizer(checkpoints.make_tokenizer_json()), "gpt_neox")
    with pytest.raises(NonFiniteError, match="NaN"):
        run(subject, PrefixCache(0), [9, 10], 2)


def test_tokenizer_keeps_user_text_apart_from_control_tokens() -> None:
    """Whatever is encoded comes back byte for byte, and no control id is among the ids."""
    tokenizer = Tokenizer(checkpoints.make_tokenizer_json())
    for text in ("def f():\n\treturn 'é😀'\n", "".join(checkpoints.CONTROL_TOKENS), "<|MID|> <DFF>\r\n\x0c\x85"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not set(ids) & tokenizer.control_token_ids
    assert [tokenizer.token_to_id(token) for token in checkpoints.CONTROL_TOKENS] == list(range(8))
    with pytest.raises(ModelError, match="cannot be read"):
        Tokenizer("{}")


@pytest.mark.parametrize("text", ["aé", "a😀b", "日本", "plain"])
def test_unfinished_characters_are_held_back(text: str) -> None:
    """A text cut at any byte decodes to a head of it, without U+FFFD."""
    data = text.encode()
    for end in range(len(data) + 1):
        assert text.startswith(decode_complete(data[:end]))
    assert decode_complete(b"a\xff") == "a\ufffd"


# The thread, by a host that does what the test says.


class Script:
    """A host whose jobs yield once per release: fakes are for laws of the queue, beside the real models above."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gate = threading.Semaphore(0)
        self.load_error = ""
        self.load_delay = 0.0
        self._news = threading.Condition()

    def say(self, entry: str) -> None:
        """Write an entry of the log."""
        with self._news:
            self.log.append(entry)
            self._news.notify_all()

    async def reached(self, entry: str) -> None:
        """Wait until the thread has written an entry."""

        def wait() -> bool:
            with self._news:
                return self._news.wait_for(lambda: entry in self.log, TIMEOUT)

        assert await asyncio.to_thread(wait), f"{entry} was not reached: {self.log}"

    def load(self, name: str, spec: Any) -> Any:
        """Load, or fail with the reason that the test set."""
        self.say(f"load {name}")
        time.sleep(self.load_delay)
        if self.load_error == "exit":
            raise SystemExit("a library exits")
        if self.load_error:
            raise ModelError(self.load_error)
        return SimpleNamespace(name=name)

    def unload(self, name: str) -> None:
        """Say so."""
        self.say(f"unload {name}")

    def start(self, ticket: RequestHandle) -> Iterator[Generation | None]:
        """Steps named by the request's ask."""
        name, steps = ticket.request.task.prompt(None, 0)
        for step in range(steps):
            if ticket.cancel_reason is not None:
                self.say(f"{name} stopped")
                return
            self.gate.acquire(timeout=TIMEOUT)
            self.say(f"{name}{step}")
            yield None
        if name == "boom":
            raise RuntimeError("a fault")
        if name == "exit":
            raise SystemExit("a library exits")
        yield Generation(FinishReason.END, (Candidate(name, (), 0.0, FinishReason.END),))


def job(name: str, steps: int = 1, key: str | None = None) -> Request:
    """A scripted request."""
    return Request(PrebuiltTask((name, steps)), key=key)


async def settle(script: Script, permits: int) -> None:
    """Let the thread take as many steps."""
    for _ in range(permits):
        script.gate.release()
        await asyncio.sleep(0)


@pytest.fixture
def scripted() -> Iterator[tuple[ThreadEngine, Script]]:
    """An engine with a scripted host."""
    script = Script()
    engine = ThreadEngine(lambda: script, {"default": ModelSpec()})
    yield engine, script
    for _ in range(100):
        script.gate.release()
    engine.close()
    assert engine.join(TIMEOUT)


async def test_a_keystroke_goes_before_an_edit_and_the_edit_resumes(scripted: tuple[ThreadEngine, Script]) -> None:
    """Pre-emption between two steps, and nothing of the edit is lost."""
    engine, script = scripted
    edit = engine.submit(job("edit", 3), Priority.EDIT)
    await settle(script, 1)
    await script.reached("edit0")
    key = engine.submit(job("key", 1), Priority.KEYSTROKE)
    await settle(script, 6)
    assert (await key.result()).text == "key" and (await edit.result()).text == "edit"
    assert [entry for entry in script.log if entry != "load default"] in (
        ["edit0", "key0", "edit1", "edit2"],
        ["edit0", "edit1", "key0", "edit2"],
    )


async def test_the_newest_of_a_key_wins(scripted: tuple[ThreadEngine, Script]) -> None:
    """The losers are answered at once, waiting or running."""
    engine, script = scripted
    running = engine.submit(job("a", 5, key="doc"))
    await settle(script, 1)
    await script.reached("a0")
    waiting = engine.submit(job("b", 1, key="doc"))
    newest = engine.submit(job("c", 1, key="doc"))
    assert (await running.result()).finish_reason is FinishReason.SUPERSEDED
    assert (await waiting.result()).finish_reason is FinishReason.SUPERSEDED
    await settle(script, 5)
    assert (await newest.result()).finish_reason is FinishReason.END
    assert "b0" not in script.log


async def test_cancelling_frees_the_engine_within_a_step(scripted: tuple[ThreadEngine, Script]) -> None:
    """The ticket is answered at once; the thread goes on after the step it is in."""
    engine, script = scripted
    ticket = engine.submit(job("long", 50))
    await settle(script, 2)
    await script.reached("long1")
    awaiting = asyncio.ensure_future(ticket.result())
    await asyncio.sleep(0)
    awaiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await awaiting
    after = engine.submit(job("after", 1))
    await settle(script, 3)
    await after.result()
    assert sum(entry.startswith("long") for entry in script.log) <= 4


async def test_a_fault_fails_its_ticket_only(scripted: tuple[ThreadEngine, Script]) -> None:
    """The next request runs as if nothing had been."""
    engine, script = scripted
    bad, good = engine.submit(job("boom", 1)), engine.submit(job("good", 1))
    await settle(script, 2)
    with pytest.raises(EngineError, match="RuntimeError"):
        await bad.result()
    assert (await good.result()).text == "good"


async def test_a_dead_thread_answers_everybody(scripted: tuple[ThreadEngine, Script]) -> None:
    """Whatever escapes fails the running and the waiting tickets, and later ones, each with the reason."""
    engine, script = scripted
    dying, waiting = engine.submit(job("exit", 1)), engine.submit(job("never", 1))
    await settle(script, 1)
    for ticket in (dying, waiting):
        with pytest.raises(EngineError, match="the engine stopped"):
            await ticket.result()
    with pytest.raises(EngineError, match="the engine stopped"):
        await engine.submit(job("late", 1)).result()
    assert engine.status().state is ModelState.FAILED


async def test_a_step_that_does_not_end_fails_the_engine() -> None:
    """Everybody is answered, also those who come later; loading may take as long as it likes."""
    script = Script()
    engine = ThreadEngine(lambda: script, {"default": ModelSpec()}, step_timeout=0.2)
    script.load_delay = 0.5
    try:
        await engine.load().result()
        hung, waiting = engine.submit(job("hung", 1)), engine.submit(job("never", 1))
        for ticket in (hung, waiting):
            with pytest.raises(EngineError, match="hangs"):
                await asyncio.wait_for(ticket.result(), TIMEOUT)
        assert engine.failure and engine.status().state is ModelState.FAILED
        with pytest.raises(EngineError, match="hangs"):
            await engine.submit(job("late", 1)).result()
    finally:
        script.gate.release()
        engine.close()
        assert engine.join(TIMEOUT)
    assert "never0" not in script.log


async def test_a_lost_device_fails_the_engine_and_not_the_request_alone() -> None:
    """After a device-side assert no later request could succeed in this process."""
    subject = model("gpt_neox")

    def lost(inputs: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\nmore")

    subject.forward = lost
    engine = ThreadEngine(lambda: Loaded(subject), {"default": ModelSpec()})
    try:
        tickets = [engine.submit(prompt(list(range(20, 60)))) for _ in range(2)]
        for ticket in tickets:
            with pytest.raises(EngineError, match=r"device failed \(CUDA error: device-side assert triggered\)"):
                await ticket.result()
        assert engine.failure is not None
    finally:
        engine.close()
        assert engine.join(TIMEOUT)


async def test_clients_take_turns_below_keystrokes(
    scripted: tuple[ThreadEngine, Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor's edit does not wait for the end of another's; one editor's own edits come one after the other."""
    monkeypatch.setattr("codeclippy_ls.engine.thread_engine._TIME_SLICE", 0.0)
    engine, script = scripted
    first = engine.submit(replace(job("a", 3), client=1), Priority.EDIT)
    await settle(script, 1)
    await script.reached("a0")
    others = [
        engine.submit(replace(job(name, 2), client=client), Priority.EDIT) for name, client in (("b", 1), ("c", 2))
    ]
    await settle(script, 6)
    for ticket in (first, *others):
        assert (await ticket.result()).finish_reason is FinishReason.END
    steps = [entry for entry in script.log if entry != "load default"]
    assert steps.index("c0") < steps.index("a2")


async def test_loading_fails_with_its_reason_and_can_be_tried_again(scripted: tuple[ThreadEngine, Script]) -> None:
    """By ``prepare`` again, without a new engine."""
    engine, script = scripted
    script.load_error = "no such model"
    with pytest.raises(EngineError, match="no such model"):
        await engine.load().result()
    with pytest.raises(EngineError, match="no such model"):
        await engine.submit(job("x", 1)).result()
    script.load_error = ""
    await engine.load().result()
    assert engine.status().state is ModelState.READY


async def test_a_thread_that_dies_while_loading_answers_everybody(scripted: tuple[ThreadEngine, Script]) -> None:
    """The load's own ticket too."""
    engine, script = scripted
    script.load_error = "exit"
    loading, waiting = engine.load(), engine.submit(job("never", 1))
    for ticket in (loading, waiting):
        with pytest.raises(EngineError, match="the engine stopped: SystemExit"):
            await asyncio.wait_for(ticket.result(), TIMEOUT)


async def test_closing_answers_the_waiting(scripted: tuple[ThreadEngine, Script]) -> None:
    """And refuses what comes later."""
    engine, script = scripted
    tickets = [engine.submit(job(name, 3)) for name in "ab"]
    await script.reached("load default")
    engine.close()
    assert [(await ticket.result()).finish_reason for ticket in tickets] == [FinishReason.CANCELLED] * 2
    with pytest.raises(EngineError, match="closed"):
        await engine.submit(job("c", 1)).result()


# The real host.


class Loaded(ModelWorker):
    """The real host over a model made in the test."""

    def __init__(self, subject: Model) -> None:
        super().__init__()
        self.subject = subject

    def load(self, name: str, spec: Any) -> Any:
        """Take the model that is there."""
        self._models[name] = self.subject, PrefixCache(1 << 30)
        return self.subject


@dataclass(frozen=True, slots=True)
class UntilText(PrebuiltTask):
    """A task that is done as soon as its answer contains a text."""

    text: str

    def is_done(self, text: str, prompt: Any) -> bool:
        """Whether it does."""
        return self.text in text


def prompt(tokens: list[int], **extra: Any) -> Request:
    """A request for plain tokens."""
    return Request(PrebuiltTask(token_prompt(tokens)), sampling=Sampling(**extra))


def token_prompt(tokens: Sequence[int]) -> SimpleNamespace:
    """A prompt of plain tokens."""
    return SimpleNamespace(tokens=tuple(tokens), ends=frozenset(), constraint=None)


async def test_streaming_budgets_stops_and_candidates() -> None:
    """Pieces make up the text; budgets and stop strings end it; candidates share the prompt and differ by seed."""
    subject = model("gpt_neox")
    engine = ThreadEngine(lambda: Loaded(subject), {"default": ModelSpec()})
    tokens = list(range(20, 60))
    try:
        ticket = engine.submit(prompt(tokens, max_tokens=12))
        pieces = [piece async for piece in ticket.deltas()]
        whole = await ticket.result()
        assert "".join(pieces) == whole.text and whole.finish_reason is FinishReason.LENGTH
        assert list(whole.candidates[0].token_ids) == reference(subject, tokens, 12)
        again = await engine.submit(prompt(tokens, max_tokens=12)).result()
        assert again.text == whole.text and again.cached_tokens == len(tokens) - 1
        stop = whole.text[3:6]
        task = UntilText(token_prompt(tokens), stop)
        stopped = await engine.submit(Request(task, sampling=Sampling(max_tokens=12))).result()
        assert stopped.finish_reason is FinishReason.STOP and stop in stopped.text
        assert whole.text.startswith(stopped.text) and stopped.text != whole.text
        timed = await engine.submit(prompt(tokens, max_tokens=200, seconds=0.0)).result()
        assert timed.finish_reason is FinishReason.TIME and len(timed.candidates[0].token_ids) <= 1
        several = await engine.submit(prompt(tokens, max_tokens=8, temperature=1.0, candidates=3, seed=5)).result()
        assert len({candidate.token_ids for candidate in several.candidates}) == 3
        with pytest.raises(EngineError, match="context length"):
            await engine.submit(prompt(list(range(9, 400)))).result()
    finally:
        engine.close()
        assert engine.join(TIMEOUT)


async def test_a_forward_pass_that_fails_spoils_no_cache() -> None:
    """Keys that were written before the fault are not continued from."""
    subject = model("gpt_neox")
    engine = ThreadEngine(lambda: Loaded(subject), {"default": ModelSpec()})
    tokens = list(range(20, 60))
    forward = subject.forward
    try:
        await engine.submit(prompt(tokens, max_tokens=2)).result()

        def faulty(inputs: Any) -> Any:
            forward(inputs)
            raise RuntimeError("after the keys were written")

        subject.forward = faulty
        with pytest.raises(EngineError, match="RuntimeError"):
            await engine.submit(prompt([*tokens, 61, 62], max_tokens=2)).result()
        subject.forward = forward
        for more in ([63], [61, 64], [61, 62, 65]):
            result = await engine.submit(prompt([*tokens, *more], max_tokens=8)).result()
            assert list(result.candidates[0].token_ids) == reference(subject, [*tokens, *more], 8)
    finally:
        engine.close()
        assert engine.join(TIMEOUT)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("scripted"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
async def test_out_of_memory_is_tried_again_at_half_the_window(error: BaseException) -> None:
    """Once; then only that request fails."""
    subject = model("gpt_neox")
    windows: list[int] = []

    class Refused(Task):
        def prompt(self, model: Any, window: int) -> Any:
            windows.append(window)
            if window == checkpoints.CONTEXT_LENGTH or len(windows) > 2:
                raise error
            return token_prompt((9, 10, 11))

    engine = ThreadEngine(lambda: Loaded(subject), {"default": ModelSpec()})
    try:
        assert (await engine.submit(Request(Refused(), Sampling(max_tokens=2))).result()).candidates
        assert windows == [checkpoints.CONTEXT_LENGTH, checkpoints.CONTEXT_LENGTH // 2]
        with pytest.raises(EngineError, match="out of memory"):
            await engine.submit(Request(Refused(), Sampling(max_tokens=2))).result()
    finally:
        engine.close()
        assert engine.join(TIMEOUT)
