"""Other engines beside ours: they are given the same model, and what is said of them follows from the figures."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import peer_formats, peer_worker, peers
from bench.columns import Subject, SubprocessCost
from bench.peer_llama import instructions
from bench.peer_openvino import Decoder
from bench.speed import time_in_turns
from tests import checkpoints


@pytest.mark.parametrize("architecture", ["gpt_neox", "codegen", "gpt_neo"])
def test_converted_checkpoint_gives_the_same_logits(architecture: str, tmp_path: Path) -> None:
    """In two passes, the second with the keys and values of the first; GPT-Neo within its local window."""
    module = checkpoints.make_module(architecture)
    module.save_pretrained(tmp_path)
    model = peer_formats.convert_checkpoint(tmp_path)
    decoder, tokens = Decoder(model), torch.tensor([[7, 9, 11, 7, 9, 300, 2]])
    kept = [torch.zeros(1, model.num_heads, 0, model.hidden_size // model.num_heads)] * (2 * model.num_layers)
    with torch.no_grad():
        _, *kept = decoder(tokens[:, :4], torch.arange(4), torch.zeros(1, dtype=torch.long), *kept)
        logits, *kept = decoder(tokens[:, 4:], torch.arange(4, 7), torch.zeros(1, dtype=torch.long), *kept)
        expected = module(tokens).logits[:, -1:]
    assert kept[0].shape[2] == 7
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_dummy_tokens_are_distinct_and_spell_each_byte() -> None:
    """As many as the model has."""
    for count in (100, 256, 8192):
        assert len(set(peer_formats.list_dummy_tokens(count))) == count
    assert peer_formats.list_dummy_tokens(300)[:2] == ["!", '"'] and peer_formats.list_dummy_tokens(300)[-1] == "t299"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("CPU : SSE3 = 1 | AVX2 = 1 | F16C = 1 | REPACK = 1 | ", "AVX2"),
        ("CPU : AVX2 = 1 | AVX512 = 1 | AMX_INT8 = 1 | LLAMAFILE = 1 | ", "AVX2 AVX512 AMX_INT8"),
        ("CPU : AVX2 = 0 | SSE3 = 1 | ", "no wide instructions"),
    ],
)
def test_a_build_says_its_instruction_sets(said: str, expected: str) -> None:
    """Of llama.cpp's line about its system."""
    assert instructions(said) == expected


class FakeEngine:
    """Writes numbers on; goes back to its prompt as a thing of its own."""

    version, nbytes, reuses, timings = "fake 1", 10, False, {"prompt_ms": 2.0}

    def __init__(self, folder: Path, scratch: Path, form: str, threads: int, window: int) -> None:
        self.last = self.restored = 0

    def prefill(self, tokens: Sequence[int]) -> list[int]:
        """The next number."""
        self.last = tokens[-1]
        return [self.last + 1]

    def restore(self) -> None:
        """Counted."""
        self.restored += 1

    def decode(self, count: int) -> list[int]:
        """The next numbers; none without `restore`."""
        return [self.last + step for step in range(1, count + 1)] if self.restored else []

    def keystroke(self, tokens: Sequence[int], count: int) -> list[int]:
        """Not able."""
        raise ValueError("no")


def test_the_worker_answers_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, errors too, and goes back to the prompt outside of the time."""
    monkeypatch.setitem(peer_worker.ENGINES, "fake", FakeEngine)
    asked: list[dict[str, Any]] = [
        {"do": "open", "engine": "fake", "form": "int8", "folder": ".", "scratch": ".", "threads": 1, "window": 9},
        {"do": "prefill", "tokens": [1, 2]},
        {"do": "decode", "count": 3},
        {"do": "keystroke", "tokens": [1], "count": 1},
    ]
    out = io.StringIO()
    peer_worker.serve(io.StringIO("".join(json.dumps(one) + "\n" for one in asked)), out)
    opened, read, wrote, failed = map(json.loads, out.getvalue().splitlines())
    assert opened == {"version": "fake 1", "bytes": 10, "reuses": False}
    assert read["tokens"] == [3] and wrote["tokens"] == [3, 4, 5] and wrote["timings"] == {"prompt_ms": 2.0}
    assert all(said[kind] >= 0 for said in (read, wrote) for kind in ("seconds", "cpu", "aside"))
    assert failed == {"error": "ValueError: no"}


def test_work_elsewhere_is_counted_and_what_is_beside_it_is_not() -> None:
    """CPU time of the other process joins ours; time of going back is taken off."""
    times = time_in_turns({"one": lambda: SubprocessCost(cpu_seconds=5.0, excluded_seconds=100.0)}, 3, 10.0)["one"]
    assert all(second < -99 for second in times.seconds) and times.median_cpu >= 5000


def row(bits: int, figure: float, typed: float | None) -> dict[str, Any]:
    """Figures of a column."""
    found: dict[str, Any] = {"bits": bits}
    for name in ("prefill", "token", "keystroke"):
        for key in ("_ms", "_least_ms", "_cpu_ms"):
            found[name + key] = typed if name == "keystroke" else figure
    return found


def test_ratios_are_of_the_best_at_equal_bits() -> None:
    """A keystroke's is over llama.cpp's server, whatever else is quicker; without a rival there is none."""
    rows = {
        "ours (int8)": row(8, 4.0, 20.0),
        "ours int8": row(8, 2.0, 10.0),
        "ours float32": row(32, 1.0, 1.0),
        f"{peers.SERVER} Q8_0": row(8, 8.0, 40.0),
        f"{peers.LIBRARY} Q8_0": row(8, 5.0, 5.0),
        "OpenVINO int8": row(8, 4.0, None),
    }
    found = {said["figure"]: said["median"] for said in peers.ratios(rows)}
    assert found == {
        "prefill": {"ratio": 0.5, "ours": "ours int8", "theirs": "OpenVINO int8"},
        "token": {"ratio": 0.5, "ours": "ours int8", "theirs": "OpenVINO int8"},
        "keystroke": {"ratio": 0.25, "ours": "ours int8", "theirs": f"{peers.SERVER} Q8_0"},
    }


@pytest.mark.skipif(not (peers.PYTHON.parent.parent / "installed").exists(), reason=peers.MISSING)
@pytest.mark.parametrize("engine", peers.ENGINES)
def test_each_engine_writes_our_tokens(engine: str) -> None:
    """In float32, after a prefill and, where it keeps a prefix, after a longer prompt."""
    subject, prompt = Subject("toy", checkpoints.make_module("gpt_neox")), [7, 9, 11, 7, 9, 300, 2]
    peer = peers.opened(subject, engine, "float32", 1)
    assert peers.agreement(subject, peer, prompt, 8) == 8 and peer.version
    wrote = peer.tokens
    peer.decode(8)
    assert peer.tokens == wrote, "it did not go back to its prompt"
    if isinstance(peer, peers.TypedPeer):
        peer.keystroke([*prompt, wrote[0]], 7)
        assert peer.reuses_prefix and peer.tokens == wrote[1:]
