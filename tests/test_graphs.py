"""Captured passes equal eager ones, whatever happens to the caches between them: on the CPU, with a tape in place of a
CUDA graph; and on a GPU, if there is one."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codeclippy_ls.engine.decoder import cuda_graphs, fused_linear
from codeclippy_ls.engine.decoder.attention import ContiguousKVCache
from codeclippy_ls.engine.decoder.cuda_graphs import (
    MAX_INPUTS,
    MAX_LENGTH,
    MAX_TOKENS,
    Capture,
    CudaGraphCapture,
    CudaGraphRunner,
    Pass,
)
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from tests.tape import capture_on_tape
from tests.test_transformer import CASES, EXACT, assert_close, build_pair, random_ids

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ONE_OF_EACH = ("gpt_neo", "codegen", "neox", "llama", "bigcode")


def make_capturing(
    case: str, capture: Capture = capture_on_tape, device: str = "cpu"
) -> tuple[Transformer, CudaGraphRunner]:
    """Make the toy model of a case with captured passes, its layers fused as on a GPU."""
    module, _ = build_pair(case)
    weights = {name: weight.to(device) for name, weight in module.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_linear, "should_merge", lambda device: True)
        subject = Transformer(module.config, weights, EXACT, capture)
    assert subject.graph_runner is not None
    return subject, subject.graph_runner


def prefill(length: int, subject: Transformer) -> ContiguousKVCache:
    """Make a cache and prefill it with ``length`` tokens, in one pass."""
    cache = subject.new_cache()
    subject.forward([ModelInput(random_ids(length, length), cache, 0)])
    return cache


@pytest.mark.parametrize("case", CASES)
def test_captured_passes_equal_eager_ones(case: str) -> None:
    """One token, drafts, two and three sequences, each key often enough to be captured; padding never shows."""
    _, eager = build_pair(case)
    subject, graph_runner = make_capturing(case)
    captured_caches, eager_caches = ([prefill(length, one) for length in (5, 40, 17)] for one in (subject, eager))
    for step, counts in enumerate(
        [
            (1,),
            (1,),
            (1,),
            (3,),
            (4,),
            (4,),
            (1, 1),
            (2, 1),
            (1, 2),
            (3, 1, 2),
            (4, 2, 3),
            (1,),
            (2,),
            (2,),
            (7,),
            (5,),
            (1, 1, 1),
            (1, 1, 1),
            (8,),
        ]
    ):
        new = [random_ids(count, step + index) for index, count in enumerate(counts)]
        found, wanted = (
            one.forward([ModelInput(part, caches[index], (step % len(part)) + 1) for index, part in enumerate(new)])
            for one, caches in ((subject, captured_caches), (eager, eager_caches))
        )
        for logits, others in zip(found, wanted, strict=True):
            assert_close(logits, others)
    assert graph_runner.num_captured >= 6 and not graph_runner.error
    assert [cache.length for cache in captured_caches] == [cache.length for cache in eager_caches]


STEPS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True),  # which sequences
        st.integers(1, 9),  # how many tokens
        st.sampled_from(["run", "run", "run", "crop", "copy", "drop", "rewrite", "clear"]),
    ),
    min_size=3,
    max_size=12,
)


@pytest.mark.parametrize("case", ["neox", pytest.param("gpt_neo", marks=pytest.mark.slow)])
def test_slots_follow_their_sequences(case: str) -> None:
    """Six sequences share four slots; they are run, cropped, copied, dropped and rewritten without a graph, at random,
    and the slots are dropped."""
    _, eager = build_pair(case)
    subject, graph_runner = make_capturing(case)

    @settings(max_examples=40, deadline=None, database=None)
    @given(STEPS)
    def check(steps: list[tuple[list[int], int, str]]) -> None:
        captured_caches, eager_caches = (
            [prefill(7 + sequence, one) for sequence in range(6)] for one in (subject, eager)
        )
        for step, (sequences, count, action) in enumerate(steps):
            if action == "clear":
                graph_runner.clear()
            for caches, one in ((captured_caches, subject), (eager_caches, eager)):
                for sequence in sequences if action in ("crop", "copy", "drop", "rewrite") else ():
                    cache = caches[sequence]
                    if action == "crop":
                        cache.crop(max(cache.length - count, 1))
                    elif action == "copy":
                        caches[(sequence + 1) % 6] = cache.copy(cache.length)
                    elif action == "drop":
                        caches[sequence] = prefill(3 + count, one)
                    else:
                        cache.crop(max(cache.length - count // 2, 1))
                        one.forward([ModelInput(random_ids(count, step), cache, 0)])
            found, wanted = (
                one.forward(
                    [
                        ModelInput(random_ids(1 + (count + sequence) % 5, step), caches[sequence])
                        for sequence in sequences
                    ]
                )
                for one, caches in ((subject, captured_caches), (eager, eager_caches))
            )
            for logits, others in zip(found, wanted, strict=True):
                assert_close(logits, others)

    check()
    assert graph_runner.num_captured > 5 and not graph_runner.error


def test_large_passes_run_eagerly() -> None:
    """More inputs than slots, more tokens than a graph may have, sequences longer than a slot."""
    subject, graph_runner = make_capturing("neox")
    cache = prefill(5, subject)
    can_run = graph_runner.can_run
    assert can_run([ModelInput([1], cache)])
    assert can_run([ModelInput([1] * MAX_TOKENS, cache)]) and not can_run([ModelInput([1] * (MAX_TOKENS + 1), cache)])
    assert not can_run([ModelInput([1], prefill(2, subject)) for _ in range(MAX_INPUTS + 1)])
    assert not can_run([ModelInput([1, 2], cache, 0)])
    full = prefill(min(subject.context_length, MAX_LENGTH) - 2, subject)
    assert can_run([ModelInput([1, 2], full)]) and not can_run([ModelInput([1, 2, 3], full)])


def test_passes_run_eagerly_after_a_failed_capture() -> None:
    """The results are the same, and nothing is captured any more."""

    def fail(run: Pass) -> Pass:
        raise RuntimeError("operation not permitted when stream is capturing\nat some place")

    _, eager = build_pair("neox")
    subject, graph_runner = make_capturing("neox", fail)
    assert_steps_equal(subject, eager)
    assert graph_runner.error == "operation not permitted when stream is capturing"
    assert graph_runner.num_captured == 0


def test_graph_with_other_results_is_not_used() -> None:
    """It is compared with the eager pass before its logits are returned."""
    _, eager = build_pair("neox")
    subject, graph_runner = make_capturing("neox", lambda run: lambda: None)
    assert_steps_equal(subject, eager)
    assert "differs" in graph_runner.error


def assert_steps_equal(subject: Transformer, eager: Transformer) -> None:
    """Run a few tokens one by one with both and compare."""
    captured_cache, eager_cache = prefill(9, subject), prefill(9, eager)
    for step in range(4):
        found = subject.forward([ModelInput(random_ids(1, step), captured_cache)])[0]
        assert_close(found, eager.forward([ModelInput(random_ids(1, step), eager_cache)])[0])


def test_slots_keep_no_cache_alive() -> None:
    """A slot is only a copy: a cache without other references is freed."""
    subject, _ = make_capturing("neox")
    cache = prefill(9, subject)
    subject.forward([ModelInput([1], cache)])
    reference = weakref.ref(cache)
    del cache
    gc.collect()
    assert reference() is None


def test_nothing_is_captured_without_memory_for_a_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots take a share of the device's free memory, and no more."""
    monkeypatch.setattr(cuda_graphs, "_get_free_memory", lambda device: 1000)
    subject, graph_runner = make_capturing("neox")
    cache = prefill(3, subject)
    assert not graph_runner.can_run([ModelInput([1], cache)])
    subject.forward([ModelInput([1], cache)])
    assert cache.length == 4 and not graph_runner.can_run([ModelInput([1], cache)])


@CUDA
@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_cuda_graphs_equal_the_cpu(case: str) -> None:
    """In float32 on the device."""
    _, eager = build_pair(case)
    subject, graph_runner = make_capturing(case, CudaGraphCapture(), "cuda")
    captured_cache, eager_cache = prefill(40, subject), prefill(40, eager)
    for step, count in enumerate((1, 1, 1, 3, 4, 4, 1, 2, 2, 2)):
        new = random_ids(count, step)
        found = subject.forward([ModelInput(new, captured_cache, count)])[0]
        assert_close(found, eager.forward([ModelInput(new, eager_cache, count)])[0], 1e-2)
    assert graph_runner.num_captured >= 3 and not graph_runner.error
