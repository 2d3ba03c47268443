"""Other engines: they get the same model, and the ratios follow from the figures."""

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
from bench.peer_llama import parse_instruction_sets
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
    past = [torch.zeros(1, model.num_heads, 0, model.hidden_size // model.num_heads)] * (2 * model.num_layers)
    with torch.no_grad():
        _, *past = decoder(tokens[:, :4], torch.arange(4), torch.zeros(1, dtype=torch.long), *past)
        logits, *past = decoder(tokens[:, 4:], torch.arange(4, 7), torch.zeros(1, dtype=torch.long), *past)
        expected = module(tokens).logits[:, -1:]
    assert past[0].shape[2] == 7
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_dummy_tokens_are_distinct_and_spell_each_byte() -> None:
    """As many as the model has."""
    for count in (100, 256, 8192):
        assert len(set(peer_formats.list_dummy_tokens(count))) == count
    assert peer_formats.list_dummy_tokens(300)[:2] == ["!", '"'] and peer_formats.list_dummy_tokens(300)[-1] == "t299"


@pytest.mark.parametrize(
    ("system_info", "expected"),
    [
        ("CPU : SSE3 = 1 | AVX2 = 1 | F16C = 1 | REPACK = 1 | ", "AVX2"),
        ("CPU : AVX2 = 1 | AVX512 = 1 | AMX_INT8 = 1 | LLAMAFILE = 1 | ", "AVX2 AVX512 AMX_INT8"),
        ("CPU : AVX2 = 0 | SSE3 = 1 | ", "no wide instructions"),
    ],
)
def test_instruction_sets_are_parsed(system_info: str, expected: str) -> None:
    """From llama.cpp's system information."""
    assert parse_instruction_sets(system_info) == expected


class FakeEngine:
    """Continues a sequence of numbers; restores its prompt in a separate call."""

    version, nbytes, reuses_prefix, timings = "fake 1", 10, False, {"prompt_ms": 2.0}

    def __init__(self, folder: Path, scratch: Path, form: str, threads: int, context_length: int) -> None:
        self.last = self.restored = 0

    def prefill(self, tokens: Sequence[int]) -> list[int]:
        """Return the next number."""
        self.last = tokens[-1]
        return [self.last + 1]

    def restore(self) -> None:
        """Count the calls."""
        self.restored += 1

    def decode(self, count: int) -> list[int]:
        """Return the next numbers; nothing without `restore`."""
        return [self.last + step for step in range(1, count + 1)] if self.restored else []

    def keystroke(self, tokens: Sequence[int], count: int) -> list[int]:
        """Fail."""
        raise ValueError("no")


def test_worker_responds_to_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, also with errors; restoring the prompt is excluded from the time."""
    monkeypatch.setitem(peer_worker.ENGINES, "fake", FakeEngine)
    requests: list[dict[str, Any]] = [
        {
            "method": "open",
            "engine": "fake",
            "form": "int8",
            "folder": ".",
            "scratch": ".",
            "threads": 1,
            "context_length": 9,
        },
        {"method": "prefill", "tokens": [1, 2]},
        {"method": "decode", "count": 3},
        {"method": "keystroke", "tokens": [1], "count": 1},
    ]
    out = io.StringIO()
    peer_worker.serve(io.StringIO("".join(json.dumps(one) + "\n" for one in requests)), out)
    opened, prefilled, decoded, failed = map(json.loads, out.getvalue().splitlines())
    assert opened == {"version": "fake 1", "nbytes": 10, "reuses_prefix": False}
    assert prefilled["tokens"] == [3] and decoded["tokens"] == [3, 4, 5] and decoded["timings"] == {"prompt_ms": 2.0}
    times = ("seconds", "cpu_seconds", "excluded_seconds")
    assert all(response[kind] >= 0 for response in (prefilled, decoded) for kind in times)
    assert failed == {"error": "ValueError: no"}


def test_cost_in_a_subprocess_is_counted_without_excluded_time() -> None:
    """CPU time of the other process is added; time for restoring the prompt is subtracted."""
    times = time_in_turns({"one": lambda: SubprocessCost(cpu_seconds=5.0, excluded_seconds=100.0)}, 3, 10.0)["one"]
    assert all(second < -99 for second in times.seconds) and times.median_cpu >= 5000


def make_row(bits: int, figure: float, keystroke: float | None) -> dict[str, Any]:
    """Make the figures of a column."""
    found: dict[str, Any] = {"bits": bits}
    for name in ("prefill", "token", "keystroke"):
        for key in ("_ms", "_min_ms", "_cpu_ms"):
            found[name + key] = keystroke if name == "keystroke" else figure
    return found


def test_ratios_compare_the_best_at_equal_bits() -> None:
    """A keystroke is compared with llama.cpp's server, even if another is faster; without a peer there is no ratio."""
    rows = {
        "ours (int8)": make_row(8, 4.0, 20.0),
        "ours int8": make_row(8, 2.0, 10.0),
        "ours float32": make_row(32, 1.0, 1.0),
        f"{peers.SERVER} Q8_0": make_row(8, 8.0, 40.0),
        f"{peers.LIBRARY} Q8_0": make_row(8, 5.0, 5.0),
        "OpenVINO int8": make_row(8, 4.0, None),
    }
    found = {ratio["figure"]: ratio["median"] for ratio in peers.compute_ratios(rows)}
    assert found == {
        "prefill": {"ratio": 0.5, "ours": "ours int8", "theirs": "OpenVINO int8"},
        "token": {"ratio": 0.5, "ours": "ours int8", "theirs": "OpenVINO int8"},
        "keystroke": {"ratio": 0.25, "ours": "ours int8", "theirs": f"{peers.SERVER} Q8_0"},
    }


@pytest.mark.skipif(not (peers.PYTHON.parent.parent / "installed").exists(), reason=peers.NOT_INSTALLED)
@pytest.mark.parametrize("engine", peers.ENGINES)
def test_each_engine_decodes_our_tokens(engine: str) -> None:
    """In float32, after a prefill and, if it reuses prefixes, after a longer prompt."""
    subject, prompt = Subject("toy", checkpoints.make_module("gpt_neox")), [7, 9, 11, 7, 9, 300, 2]
    peer = peers.open_peer(subject, engine, "float32", 1)
    assert peers.count_same_tokens(subject, peer, prompt, 8) == 8 and peer.version
    expected = peer.tokens
    peer.decode(8)
    assert peer.tokens == expected, "it did not return to its prompt"
    if isinstance(peer, peers.KeystrokePeer):
        peer.keystroke([*prompt, expected[0]], 7)
        assert peer.reuses_prefix and peer.tokens == expected[1:]
