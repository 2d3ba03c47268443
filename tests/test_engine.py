"""Laws of the engine: greedy output equals transformers', with the prefix cache on or off, interrupted or not; every
handle is resolved once; no fault of a request stops the thread."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
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
from codeclippy_ls.inference.speed import Speed
from tests import checkpoints
from tests.editor import TIMEOUT
from tests.scripted import PrebuiltTask

EXACT = WeightFormats("float32", "float32")
CASES = [f"{name}{runner}" for name in checkpoints.ARCHITECTURES for runner in ("", " with transformers")]


def model(case: str, seed: int = 0) -> Model:
    """Make a toy model that the native decoder runs, or transformers' module."""
    architecture, _, with_transformers = case.partition(" ")
    module = checkpoints.make_module(architecture, seed)
    runner = ModuleRunner(module) if with_transformers else Transformer(module.config, module.state_dict(), EXACT)
    stop_token_ids = read_stop_token_ids(module.config, module.generation_config.eos_token_id)
    return Model(runner, Tokenizer(checkpoints.make_tokenizer_json()), case, stop_token_ids=stop_token_ids)


@lru_cache
def original(case: str) -> Any:
    """Make the module whose weights a toy model has."""
    return checkpoints.make_module(case.partition(" ")[0])


def prompts(count: int, seed: int) -> list[list[int]]:
    """Make prompts that share prefixes, as successive keystrokes do."""
    chance = random.Random(seed)
    tokens = [chance.randrange(8, checkpoints.VOCAB_SIZE) for _ in range(150)]
    return [
        tokens[: chance.randrange(20, 120)] + [chance.randrange(8, 600) for _ in range(chance.randrange(4))]
        for _ in range(count)
    ]


def reference(subject: Model, prompt: list[int], tokens: int) -> list[int]:
    """Continue a prompt greedily with transformers' ``generate``."""
    ids = torch.tensor([prompt])
    out = original(subject.name).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
    )
    return [token for token in out[0, len(prompt) :].tolist() if token != 0]


def run(subject: Model, cache: PrefixCache, prompt: list[int], tokens: int, drafts: bool = True) -> list[int]:
    """Continue a prompt greedily with the engine's decoding."""
    prefix = cache.acquire(prompt, subject.new_cache)
    output = [token for step in steps(subject, prefix, prompt, tokens, drafts) for token in step.token_ids]
    cache.release(prefix)
    return output


def steps(
    subject: Model, prefix: CachedPrefix, prompt: list[int], tokens: int, drafts: bool = True
) -> Iterator[DecodingStep]:
    """Return the decoding steps of one greedy continuation."""
    room = min(tokens, subject.context_length - len(prompt))
    state = DecodingState(prefix, None, subject.stop_token_ids, Sampler(), room, subject.pass_cost if drafts else None)
    return generate(subject.forward, state, prompt)


@pytest.mark.parametrize("architecture", CASES)
def test_greedy_output_equals_generate_with_prefix_cache_on_and_off(architecture: str) -> None:
    """Token for token, for every architecture, over prompts that share prefixes."""
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
    assert reused > 200, "the prefix cache was never used"


@pytest.mark.parametrize("architecture", CASES)
def test_greedy_output_is_the_same_interrupted_and_resumed(architecture: str) -> None:
    """Two jobs that alternate step by step, and one that is dropped half way, change nothing."""
    subject = model(architecture)
    one, other, third = prompts(3, seed=2)
    cache = PrefixCache(1 << 30)

    def job_steps(prompt: list[int]) -> Generator[Any, None, None]:
        prefix = cache.acquire(prompt, subject.new_cache)
        try:
            yield from steps(subject, prefix, prompt, 16)
        finally:
            cache.release(prefix)

    first, dropped, second = job_steps(one), job_steps(third), job_steps(other)
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
def test_drafts_reduce_the_passes_and_change_no_output(architecture: str) -> None:
    """Greedy and sampled output, free or constrained; text with repetitions needs fewer passes with drafts."""
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
        outputs = []
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
            output = [token for step in generate(subject.forward, state, text) for token in step.token_ids]
            assert subject.tokenizer.vocab_size >= max(state.prefix.token_ids) and state.prefix.kv_cache.length == len(
                state.prefix.token_ids
            )
            outputs.append(output)
        subject.forward = forward
        return outputs

    assert texts(True) == texts(False)
    assert passes[True] < passes[False]


def test_optimal_draft_is_long_if_guesses_are_good_and_passes_cheap() -> None:
    """By the expected number of tokens of a pass, of which one is certain."""
    flat, steep = (lambda n: 1.0), (lambda n: float(n))
    assert optimal_draft_length(0.5, flat, 20) == 20 and optimal_draft_length(0.9, steep, 20) == 0
    assert 0 < optimal_draft_length(0.6, linear_cost, 20) < optimal_draft_length(0.9, linear_cost, 20)
    seen = NgramProposer([1, 2, 3, 4, 5, 9, 2, 3])
    assert seen.propose(2) == [4, 5]
    seen.extend([4])
    assert seen.propose(9) == [5, 9, 2, 3, 4]
    assert NgramProposer([1, 2]).propose(3) == []


def test_pass_cost_is_learned_from_measured_passes() -> None:
    """Estimated before, interpolated between measured lengths; one slow outlier changes little."""
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


def test_long_prompt_is_prefilled_in_chunks_and_answer_is_cut_at_context_length() -> None:
    """Both equal transformers' output."""
    subject = model("gpt_neox")
    prompt = [8 + index % 500 for index in range(checkpoints.CONTEXT_LENGTH - 5)]
    assert run(subject, PrefixCache(0), prompt, 50) == reference(subject, prompt, 5)


def test_sampling_is_reproducible_and_follows_the_distribution() -> None:
    """The same seed samples the same tokens, and the frequencies are those of the nucleus."""
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
    """A constraint that allows some ids."""

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


def test_prefix_cache_keeps_its_budget_and_finds_the_longest_prefix() -> None:
    """The least recently used entries are dropped; another document's entry is copied, not cropped."""
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


@pytest.mark.parametrize("native", [True, False])
def test_nan_weights_are_reported(native: bool) -> None:
    """NaN logits never become a token."""
    module = checkpoints.make_module("gpt_neox")
    with torch.no_grad():
        module.get_output_embeddings().weight.fill_(float("nan"))
    runner = Transformer(module.config, module.state_dict(), EXACT) if native else ModuleRunner(module)
    subject = Model(runner, Tokenizer(checkpoints.make_tokenizer_json()), "gpt_neox")
    with pytest.raises(NonFiniteError, match="NaN"):
        run(subject, PrefixCache(0), [9, 10], 2)


def test_user_text_never_becomes_control_tokens() -> None:
    """Any text is decoded to the same bytes, and its ids contain no control token."""
    tokenizer = Tokenizer(checkpoints.make_tokenizer_json())
    for text in ("def f():\n\treturn 'é😀'\n", "".join(checkpoints.CONTROL_TOKENS), "<|MID|> <DFF>\r\n\x0c\x85"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not set(ids) & tokenizer.control_token_ids
    assert [tokenizer.token_to_id(token) for token in checkpoints.CONTROL_TOKENS] == list(range(8))
    with pytest.raises(ModelError, match="cannot be read"):
        Tokenizer("{}")


@pytest.mark.parametrize("text", ["aé", "a😀b", "日本", "plain"])
def test_incomplete_characters_are_held_back(text: str) -> None:
    """A text cut at any byte decodes to a prefix of it, without U+FFFD."""
    data = text.encode()
    for end in range(len(data) + 1):
        assert text.startswith(decode_complete(data[:end]))
    assert decode_complete(b"a\xff") == "a\ufffd"


# The queue, with a worker that does what the test says.


class Script:
    """A worker whose jobs take one step per release of the gate; used for laws of the queue only."""

    load_deadline: float | None = None
    report: Callable[[float], None]

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gate = threading.Semaphore(0)
        self.load_error = ""
        self.load_delay = 0.0
        self._log_changed = threading.Condition()

    def write(self, entry: str) -> None:
        """Append an entry to the log."""
        with self._log_changed:
            self.log.append(entry)
            self._log_changed.notify_all()

    async def reached(self, entry: str) -> None:
        """Wait until the log has an entry."""

        def wait() -> bool:
            with self._log_changed:
                return self._log_changed.wait_for(lambda: entry in self.log, TIMEOUT)

        assert await asyncio.to_thread(wait), f"the log lacks {entry}: {self.log}"

    def load(self, name: str, spec: Any) -> Any:
        """Load, or fail with the test's reason."""
        self.write(f"load {name}")
        time.sleep(self.load_delay)
        if self.load_error == "exit":
            raise SystemExit("a library exits")
        if self.load_error:
            raise ModelError(self.load_error)
        return SimpleNamespace(name=name)

    def unload(self, name: str) -> None:
        """Write it to the log."""
        self.write(f"unload {name}")

    def start(self, handle: RequestHandle) -> Iterator[Generation | None]:
        """Return as many steps as the task says."""
        name, steps = handle.request.task.build_prompt(None, 0)
        for step in range(steps):
            if handle.cancel_reason is not None:
                self.write(f"{name} stopped")
                return
            self.gate.acquire(timeout=TIMEOUT)
            self.write(f"{name}{step}")
            yield None
        if name == "boom":
            raise RuntimeError("a fault")
        if name == "exit":
            raise SystemExit("a library exits")
        yield Generation(FinishReason.END, (Candidate(name, (), 0.0, FinishReason.END),))


def job(name: str, steps: int = 1, key: str | None = None) -> Request:
    """Make a scripted request."""
    return Request(PrebuiltTask((name, steps)), key=key)


async def allow_steps(script: Script, steps: int) -> None:
    """Let the thread take some steps."""
    for _ in range(steps):
        script.gate.release()
        await asyncio.sleep(0)


@pytest.fixture
def scripted() -> Iterator[tuple[ThreadEngine, Script]]:
    """Open an engine with a scripted worker."""
    script = Script()
    engine = ThreadEngine(lambda: script, {"default": ModelSpec()})
    yield engine, script
    for _ in range(100):
        script.gate.release()
    engine.close()
    assert engine.join(TIMEOUT)


async def test_keystroke_preempts_edit_and_edit_resumes(scripted: tuple[ThreadEngine, Script]) -> None:
    """Between two steps, and nothing of the edit is lost."""
    engine, script = scripted
    edit = engine.submit(job("edit", 3), Priority.EDIT)
    await allow_steps(script, 1)
    await script.reached("edit0")
    key = engine.submit(job("key", 1), Priority.KEYSTROKE)
    await allow_steps(script, 6)
    assert (await key.result()).text == "key" and (await edit.result()).text == "edit"
    assert [entry for entry in script.log if entry != "load default"] in (
        ["edit0", "key0", "edit1", "edit2"],
        ["edit0", "edit1", "key0", "edit2"],
    )


async def test_newest_request_of_a_key_wins(scripted: tuple[ThreadEngine, Script]) -> None:
    """The others are resolved at once, whether they wait or run."""
    engine, script = scripted
    running = engine.submit(job("a", 5, key="doc"))
    await allow_steps(script, 1)
    await script.reached("a0")
    waiting = engine.submit(job("b", 1, key="doc"))
    newest = engine.submit(job("c", 1, key="doc"))
    assert (await running.result()).finish_reason is FinishReason.SUPERSEDED
    assert (await waiting.result()).finish_reason is FinishReason.SUPERSEDED
    await allow_steps(script, 5)
    assert (await newest.result()).finish_reason is FinishReason.END
    assert "b0" not in script.log


async def test_cancelled_request_frees_the_engine_within_a_step(scripted: tuple[ThreadEngine, Script]) -> None:
    """Its handle is resolved at once; the thread continues after the current step."""
    engine, script = scripted
    handle = engine.submit(job("long", 50))
    await allow_steps(script, 2)
    await script.reached("long1")
    awaiting = asyncio.ensure_future(handle.result())
    await asyncio.sleep(0)
    awaiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await awaiting
    after = engine.submit(job("after", 1))
    await allow_steps(script, 3)
    await after.result()
    assert sum(entry.startswith("long") for entry in script.log) <= 4


async def test_exception_fails_only_its_own_request(scripted: tuple[ThreadEngine, Script]) -> None:
    """The next request runs normally."""
    engine, script = scripted
    bad, good = engine.submit(job("boom", 1)), engine.submit(job("good", 1))
    await allow_steps(script, 2)
    with pytest.raises(EngineError, match="RuntimeError"):
        await bad.result()
    assert (await good.result()).text == "good"


async def test_dead_thread_fails_all_requests_with_the_reason(scripted: tuple[ThreadEngine, Script]) -> None:
    """The running one, the waiting ones and later ones."""
    engine, script = scripted
    dying, waiting = engine.submit(job("exit", 1)), engine.submit(job("never", 1))
    await allow_steps(script, 1)
    for handle in (dying, waiting):
        with pytest.raises(EngineError, match="the engine stopped"):
            await handle.result()
    with pytest.raises(EngineError, match="the engine stopped"):
        await engine.submit(job("late", 1)).result()
    assert engine.status().state is ModelState.FAILED


async def test_hanging_step_fails_the_engine() -> None:
    """All requests fail, also later ones. Loading has no time limit."""
    script = Script()
    engine = ThreadEngine(lambda: script, {"default": ModelSpec()}, step_timeout=0.2)
    script.load_delay = 0.5
    try:
        await engine.load().result()
        hung, waiting = engine.submit(job("hung", 1)), engine.submit(job("never", 1))
        for handle in (hung, waiting):
            with pytest.raises(EngineError, match="hangs"):
                await asyncio.wait_for(handle.result(), TIMEOUT)
        assert engine.failure and engine.status().state is ModelState.FAILED
        with pytest.raises(EngineError, match="hangs"):
            await engine.submit(job("late", 1)).result()
    finally:
        script.gate.release()
        engine.close()
        assert engine.join(TIMEOUT)
    assert "never0" not in script.log


async def test_lost_device_fails_the_whole_engine() -> None:
    """After a device-side assert no later request can succeed in this process."""
    subject = model("gpt_neox")

    def lost(inputs: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered\nmore")

    subject.forward = lost
    engine = ThreadEngine(lambda: PreloadedWorker(subject), {"default": ModelSpec()})
    try:
        handles = [engine.submit(prompt(list(range(20, 60)))) for _ in range(2)]
        for handle in handles:
            with pytest.raises(EngineError, match=r"device failed \(CUDA error: device-side assert triggered\)"):
                await handle.result()
        assert engine.failure is not None
    finally:
        engine.close()
        assert engine.join(TIMEOUT)


async def test_clients_share_the_engine_by_time_slices(
    scripted: tuple[ThreadEngine, Script], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client's edit does not wait for the end of another client's; one client's own edits run one after the other."""
    monkeypatch.setattr("codeclippy_ls.engine.thread_engine._TIME_SLICE", 0.0)
    engine, script = scripted
    first = engine.submit(replace(job("a", 3), client=1), Priority.EDIT)
    await allow_steps(script, 1)
    await script.reached("a0")
    others = [
        engine.submit(replace(job(name, 2), client=client), Priority.EDIT) for name, client in (("b", 1), ("c", 2))
    ]
    await allow_steps(script, 6)
    for handle in (first, *others):
        assert (await handle.result()).finish_reason is FinishReason.END
    steps = [entry for entry in script.log if entry != "load default"]
    assert steps.index("c0") < steps.index("a2")


async def test_failed_load_reports_the_reason_and_can_be_retried(scripted: tuple[ThreadEngine, Script]) -> None:
    """By ``load``, without a new engine."""
    engine, script = scripted
    script.load_error = "no such model"
    with pytest.raises(EngineError, match="no such model"):
        await engine.load().result()
    with pytest.raises(EngineError, match="no such model"):
        await engine.submit(job("x", 1)).result()
    script.load_error = ""
    await engine.load().result()
    assert engine.status().state is ModelState.READY


async def test_thread_that_dies_while_loading_fails_all_requests(scripted: tuple[ThreadEngine, Script]) -> None:
    """Also the handle of the load."""
    engine, script = scripted
    script.load_error = "exit"
    loading, waiting = engine.load(), engine.submit(job("never", 1))
    for handle in (loading, waiting):
        with pytest.raises(EngineError, match="the engine stopped: SystemExit"):
            await asyncio.wait_for(handle.result(), TIMEOUT)


async def test_close_cancels_waiting_requests(scripted: tuple[ThreadEngine, Script]) -> None:
    """And rejects later ones."""
    engine, script = scripted
    handles = [engine.submit(job(name, 3)) for name in "ab"]
    await script.reached("load default")
    engine.close()
    assert [(await handle.result()).finish_reason for handle in handles] == [FinishReason.CANCELLED] * 2
    with pytest.raises(EngineError, match="closed"):
        await engine.submit(job("c", 1)).result()


# The real worker.


class PreloadedWorker(ModelWorker):
    """The real worker with a model that the test made."""

    def __init__(self, subject: Model) -> None:
        super().__init__()
        self.subject = subject

    def load(self, name: str, spec: Any) -> Any:
        """Return the test's model."""
        self._models[name] = self.subject, PrefixCache(1 << 30)
        return self.subject


@dataclass(frozen=True, slots=True)
class UntilText(PrebuiltTask):
    """A task that is done as soon as its answer contains a text."""

    text: str

    def is_done(self, text: str, prompt: Any) -> bool:
        """Return whether it does."""
        return self.text in text


def prompt(tokens: list[int], **extra: Any) -> Request:
    """Make a request for plain tokens."""
    return Request(PrebuiltTask(token_prompt(tokens)), sampling=Sampling(**extra))


def token_prompt(tokens: Sequence[int]) -> SimpleNamespace:
    """Make a prompt of plain tokens."""
    return SimpleNamespace(token_ids=tuple(tokens), stop_token_ids=frozenset(), constraint=None, num_copied=0)


async def test_streaming_limits_and_candidates() -> None:
    """Deltas make up the text; limits and the task end it; candidates share the prompt and differ by seed."""
    subject = model("gpt_neox")
    engine = ThreadEngine(lambda: PreloadedWorker(subject), {"default": ModelSpec()})
    tokens = list(range(20, 60))
    try:
        handle = engine.submit(prompt(tokens, max_tokens=12))
        deltas = [delta async for delta in handle.deltas()]
        full = await handle.result()
        assert "".join(deltas) == full.text and full.finish_reason is FinishReason.LENGTH
        assert list(full.candidates[0].token_ids) == reference(subject, tokens, 12)
        again = await engine.submit(prompt(tokens, max_tokens=12)).result()
        assert again.text == full.text and again.cached_tokens == len(tokens) - 1
        stop = full.text[3:6]
        task = UntilText(token_prompt(tokens), stop)
        stopped = await engine.submit(Request(task, sampling=Sampling(max_tokens=12))).result()
        assert stopped.finish_reason is FinishReason.STOP and stop in stopped.text
        assert full.text.startswith(stopped.text) and stopped.text != full.text
        timed = await engine.submit(prompt(tokens, max_tokens=200, seconds=0.0)).result()
        assert timed.finish_reason is FinishReason.TIME and len(timed.candidates[0].token_ids) <= 1
        several = await engine.submit(prompt(tokens, max_tokens=8, temperature=1.0, candidates=3, seed=5)).result()
        assert len({candidate.token_ids for candidate in several.candidates}) == 3
        with pytest.raises(EngineError, match="context length"):
            await engine.submit(prompt(list(range(9, 400)))).result()
    finally:
        engine.close()
        assert engine.join(TIMEOUT)


@pytest.mark.parametrize("how", ["time", "cancel", "supersede"])
async def test_part_of_a_prompt_that_was_read_is_kept(how: str) -> None:
    """Whatever ends the reading, the next request goes on from there, and reads the same."""
    subject = model("gpt_neox")
    subject.speed = Speed(prefill_seconds=0.01)  # slow: chunks of 32
    engine = ThreadEngine(lambda: PreloadedWorker(subject), {"default": ModelSpec()})
    tokens = [20 + index % 40 for index in range(120)]
    handles: list[Any] = []
    forward = subject.forward

    def interrupt(inputs: Any) -> Any:
        outputs = forward(inputs)
        if how == "cancel":
            handles[0].cancel()
        elif how == "supersede":
            handles[0].cancel(FinishReason.SUPERSEDED)
        return outputs

    try:
        await engine.load().result()
        subject.forward = interrupt
        handles.append(engine.submit(prompt(tokens, max_tokens=4, seconds=0.0 if how == "time" else None)))
        stopped = await handles[0].result()
        assert stopped.finish_reason.value == {"supersede": "superseded", "cancel": "cancelled"}.get(how, how)
        subject.forward = forward
        again = await engine.submit(prompt([*tokens, 61], max_tokens=4)).result()
        assert again.cached_tokens == 32
        assert list(again.candidates[0].token_ids) == reference(subject, [*tokens, 61], 4)
    finally:
        engine.close()
        assert engine.join(TIMEOUT)


async def test_key_finds_what_the_background_had_read_of_its_prompt() -> None:
    """Reading ahead is cancelled by the key: it gives back its KV cache before the key's own request starts."""
    subject = model("gpt_neox")
    subject.speed = Speed(prefill_seconds=0.01)
    engine = ThreadEngine(lambda: PreloadedWorker(subject), {"default": ModelSpec()})
    tokens = [20 + index % 40 for index in range(120)]
    reading, may_go_on = threading.Event(), threading.Event()
    forward = subject.forward

    def wait(inputs: Any) -> Any:
        outputs = forward(inputs)
        reading.set()
        assert may_go_on.wait(TIMEOUT)
        return outputs

    try:
        await engine.load().result()
        subject.forward = wait
        request = Request(PrebuiltTask(token_prompt(tokens)), Sampling(max_tokens=0), key="a")
        ahead = engine.submit(request, Priority.BACKGROUND)
        assert await asyncio.to_thread(reading.wait, TIMEOUT)
        engine.cancel("a", Priority.BACKGROUND)
        key = engine.submit(prompt(tokens, max_tokens=4))
        may_go_on.set()
        assert (await ahead.result()).finish_reason is FinishReason.CANCELLED
        assert (await key.result()).cached_tokens == 32
        request = Request(PrebuiltTask(token_prompt([*tokens, 61])), Sampling(max_tokens=0))
        whole = await engine.submit(request, Priority.BACKGROUND).result()
        assert whole.text == "" and whole.finish_reason is FinishReason.LENGTH
        assert (await engine.submit(prompt([*tokens, 61, 62], max_tokens=4)).result()).cached_tokens == 121
    finally:
        may_go_on.set()
        engine.close()
        assert engine.join(TIMEOUT)


async def test_prompts_of_keystrokes_are_as_long_as_can_be_read_in_time() -> None:
    """Those of edits have the whole context."""
    subject = model("gpt_neox")
    lengths = []

    class Task(PrebuiltTask):
        def build_prompt(self, model: Any, context_length: int) -> Any:
            lengths.append(context_length)
            return token_prompt([20, 21])

    engine = ThreadEngine(lambda: PreloadedWorker(subject), {"default": ModelSpec()})
    subject.context_length = 4096
    try:
        for seconds, priority in ((0.004, Priority.KEYSTROKE), (0.004, Priority.BACKGROUND), (0.004, Priority.EDIT)):
            subject.speed = Speed(prefill_seconds=seconds)
            await engine.submit(Request(Task(None), Sampling(max_tokens=4)), priority).result()
    finally:
        engine.close()
        assert engine.join(TIMEOUT)
    assert lengths == [1024, 1024, 4096]


async def test_failed_forward_pass_leaves_no_corrupt_prefix() -> None:
    """A KV cache that the failed pass wrote to is not used again."""
    subject = model("gpt_neox")
    engine = ThreadEngine(lambda: PreloadedWorker(subject), {"default": ModelSpec()})
    tokens = list(range(20, 60))
    forward = subject.forward
    try:
        await engine.submit(prompt(tokens, max_tokens=2)).result()

        def faulty(inputs: Any) -> Any:
            forward(inputs)
            raise RuntimeError("after the KV cache was written")

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
async def test_out_of_memory_is_retried_at_half_the_context_length(error: BaseException) -> None:
    """Once; then only that request fails."""
    subject = model("gpt_neox")
    context_lengths: list[int] = []

    class FailingTask(Task):
        def build_prompt(self, model: Any, context_length: int) -> Any:
            context_lengths.append(context_length)
            if context_length == checkpoints.CONTEXT_LENGTH or len(context_lengths) > 2:
                raise error
            return token_prompt((9, 10, 11))

    engine = ThreadEngine(lambda: PreloadedWorker(subject), {"default": ModelSpec()})
    try:
        assert (await engine.submit(Request(FailingTask(), Sampling(max_tokens=2))).result()).candidates
        assert context_lengths == [checkpoints.CONTEXT_LENGTH, checkpoints.CONTEXT_LENGTH // 2]
        with pytest.raises(EngineError, match="out of memory"):
            await engine.submit(Request(FailingTask(), Sampling(max_tokens=2))).result()
    finally:
        engine.close()
        assert engine.join(TIMEOUT)
