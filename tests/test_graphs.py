"""Recorded passes are the unrecorded ones, whatever happens to the caches between them: on the CPU, where a tape stands
for a CUDA graph; and on a GPU, where there is one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codeclippy_ls.engine.decoder import cuda_graphs, fused_linear
from codeclippy_ls.engine.decoder.cuda_graphs import LONGEST, SLOTS, TOKENS, CudaGraphCapture
from codeclippy_ls.engine.decoder.linear import WeightFormats
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from tests.tape import taped
from tests.test_transformer import CASES, EXACT, ids, near, pair

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ONE_OF_EACH = ("gpt_neo", "codegen", "neox", "llama", "bigcode")


def recording(
    case: str, record: Callable[[Any], Any] = taped, choice: WeightFormats = EXACT, device: str = "cpu"
) -> Any:
    """The toy model of a case with recorded passes, its layers in the form that they have on a GPU."""
    module, _ = pair(case)
    weights = {name: weight.to(device) for name, weight in module.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_linear, "should_merge", lambda device: True)
        return Transformer(module.config, weights, choice, record)


def length(count: int, subject: Transformer, device: str = "cpu") -> Any:
    """A cache that has read so many tokens, in one go."""
    cache = subject.new_cache()
    subject.forward([ModelInput(ids(count, count), cache, 0)])
    return cache


@pytest.mark.parametrize("case", CASES)
def test_recorded_passes_say_the_same(case: str) -> None:
    """One token, drafts, two and three texts, each form often enough to be recorded; padding is never seen."""
    _, plain = pair(case)
    subject = recording(case)
    ours, theirs = ([length(count, one) for count in (5, 40, 17)] for one in (subject, plain))
    for turn, counts in enumerate(
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
        new = [ids(count, turn + place) for place, count in enumerate(counts)]
        found, wanted = (
            one.forward([ModelInput(part, caches[place], (turn % len(part)) + 1) for place, part in enumerate(new)])
            for one, caches in ((subject, ours), (plain, theirs))
        )
        for logits, others in zip(found, wanted, strict=True):
            near(logits, others)
    assert subject.graphs.count >= 6 and not subject.graphs.fault
    assert [cache.length for cache in ours] == [cache.length for cache in theirs]


STEPS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True),  # which texts
        st.integers(1, 9),  # how many tokens
        st.sampled_from(["read", "read", "read", "crop", "copy", "drop", "silent", "clear"]),
    ),
    min_size=3,
    max_size=12,
)


@pytest.mark.parametrize("case", ["neox", pytest.param("gpt_neo", marks=pytest.mark.slow)])
def test_slots_follow_their_texts(case: str) -> None:
    """Six texts share four slots; they are read, cropped, copied, dropped and rewritten unasked, at random, and the
    slots are given up."""
    _, plain = pair(case)
    subject = recording(case)

    @settings(max_examples=40, deadline=None, database=None)
    @given(STEPS)
    def law(steps: list[tuple[list[int], int, str]]) -> None:
        ours, theirs = ([length(7 + place, one) for place in range(6)] for one in (subject, plain))
        for turn, (texts, count, action) in enumerate(steps):
            if action == "clear":
                subject.graphs.clear()
            for caches, one in ((ours, subject), (theirs, plain)):
                for text in texts if action in ("crop", "copy", "drop", "silent") else ():
                    cache = caches[text]
                    if action == "crop":
                        cache.crop(max(cache.length - count, 1))
                    elif action == "copy":
                        caches[(text + 1) % 6] = cache.copy(cache.length)
                    elif action == "drop":
                        caches[text] = length(3 + count, one)
                    else:
                        cache.crop(max(cache.length - count // 2, 1))
                        one.forward([ModelInput(ids(count, turn), cache, 0)])
            found, wanted = (
                one.forward([ModelInput(ids(1 + (count + text) % 5, turn), caches[text]) for text in texts])
                for one, caches in ((subject, ours), (plain, theirs))
            )
            for logits, others in zip(found, wanted, strict=True):
                near(logits, others)

    law()
    assert subject.graphs.count > 5 and not subject.graphs.fault


def test_what_is_too_much_is_run_as_it_is() -> None:
    """More feeds than slots, more tokens than a pass may have, texts that no slot has room for."""
    subject = recording("neox")
    cache = length(5, subject)
    taken = subject.graphs.takes
    assert taken([ModelInput([1], cache)])
    assert taken([ModelInput([1] * TOKENS, cache)]) and not taken([ModelInput([1] * (TOKENS + 1), cache)])
    assert not taken([ModelInput([1], length(2, subject)) for _ in range(SLOTS + 1)])
    assert not taken([ModelInput([1, 2], cache, 0)])
    full = length(min(subject.context_length, LONGEST) - 2, subject)
    assert taken([ModelInput([1, 2], full)]) and not taken([ModelInput([1, 2, 3], full)])


def test_a_recording_that_fails_costs_nothing_but_time() -> None:
    """The pass is run as it is, and nothing is recorded any more."""

    def fails(run: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nat some place")

    _, plain = pair("neox")
    subject = recording("neox", fails)
    ours, theirs = length(9, subject), length(9, plain)
    for turn in range(4):
        near(subject.forward([ModelInput(ids(1, turn), ours)])[0], plain.forward([ModelInput(ids(1, turn), theirs)])[0])
    assert subject.graphs.fault == "operation not permitted when stream is capturing"
    assert subject.graphs.count == 0


def test_a_recording_that_computes_something_else_is_not_used() -> None:
    """It is compared with what it recorded before anybody sees it."""
    _, plain = pair("neox")
    subject = recording("neox", lambda run: lambda: None)
    ours, theirs = length(9, subject), length(9, plain)
    for turn in range(4):
        near(subject.forward([ModelInput(ids(1, turn), ours)])[0], plain.forward([ModelInput(ids(1, turn), theirs)])[0])
    assert "differs" in subject.graphs.fault


def test_no_text_is_kept_alive() -> None:
    """A slot is only a copy: a cache that nobody wants any more goes."""
    subject = recording("neox")
    cache = length(9, subject)
    subject.forward([ModelInput([1], cache)])
    gone = weakref.ref(cache)
    del cache
    gc.collect()
    assert gone() is None


def test_without_room_for_a_slot_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots take a share of the device's free memory, and no more."""
    monkeypatch.setattr(cuda_graphs, "_free", lambda device: 1000)
    subject = recording("neox")
    cache = length(3, subject)
    assert not subject.graphs.takes([ModelInput([1], cache)])
    subject.forward([ModelInput([1], cache)])
    assert cache.length == 4 and not subject.graphs.takes([ModelInput([1], cache)])


@CUDA
@pytest.mark.parametrize("case", ONE_OF_EACH)
def test_cuda_graphs_say_the_same(case: str) -> None:
    """In float32 on the device, as the CPU says."""
    _, plain = pair(case)
    subject = recording(case, CudaGraphCapture(), EXACT, "cuda")
    ours, theirs = length(40, subject), length(40, plain)
    for turn, count in enumerate((1, 1, 1, 3, 4, 4, 1, 2, 2, 2)):
        new = ids(count, turn)
        near(
            subject.forward([ModelInput(new, ours, count)])[0], plain.forward([ModelInput(new, theirs, count)])[0], 1e-2
        )
    assert subject.graphs.count >= 3 and not subject.graphs.fault
