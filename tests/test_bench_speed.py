"""The speed bench at toy dimensions: every column, every figure, and one JSON object at the end."""

from __future__ import annotations

import json
import sys

import pytest

from bench import limits, speed
from bench.columns import GenerateColumn, ModuleColumn, NativeColumn, Subject
from codeclippy_ls.engine.decoder.linear import WeightFormats
from tests import checkpoints


def make_toy() -> Subject:
    """Make a model of a few thousand parameters without stop tokens."""
    return speed.make_random_model("toy", checkpoints.make_config("gpt_neo", context_length=128, vocab_size=300))


def test_every_figure_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """For every column; the last line is JSON."""
    monkeypatch.setattr(speed, "SUBJECTS", {"toy": make_toy})
    monkeypatch.setattr(speed, "list_peer_columns", lambda subject: [])  # other engines start slowly
    monkeypatch.setattr(speed, "QUICK", speed.Extent(20, 3, 40, 2, 2, (1, 4), (1, 2), 1, 0.5))
    monkeypatch.setattr(limits, "measure_peaks", lambda: {"float32": 1e12, "bfloat16": 1e12, "int8": 1e12})
    monkeypatch.setattr(sys, "argv", ["speed", "--quick", "--threads", "1"])
    speed.main()
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = last["models"]["toy"]["columns"]
    assert len(rows) >= 3 and last["machine"]["threads"] == 1
    for name, row in rows.items():
        assert row["prefill_ms"] > 0 and row["token_ms"] > 0 and row["bytes"] > 0 and row["token_to_limit"] > 0
        assert row["keystroke_ratio_vs_generate"] > 0 and set(row["pass_ms"]) == {"1", "4"}, name


def test_columns_return_to_their_prompt() -> None:
    """So that the same work is timed each time."""
    subject, prompt = make_toy(), [7, 9, 11, 7, 9]
    native, module = (
        NativeColumn(subject, WeightFormats("float32", "float32"), "ours"),
        ModuleColumn(subject, "float32"),
    )
    generate = GenerateColumn(subject, "float32")
    for column in (native, module, generate):
        column.prefill(prompt)
        for _ in range(2):
            column.decode(4)
            column.verify(8)
            column.decode_batch(2)
    assert native._prefix.token_ids == prompt and native._prefix.kv_cache.length == len(prompt)
    assert module.cache.length == generate.cache.length == len(prompt)
