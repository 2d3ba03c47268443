"""The speed bench runs, at toy dimensions: every column, every figure, and one JSON object at the end."""

from __future__ import annotations

import json
import sys

import pytest

from bench import limits, speed
from bench.columns import Generated, Own, Subject, Theirs
from codeclippy_ls.engine.decoder.linear import WeightFormats
from tests import checkpoints


def toy() -> Subject:
    """A model of a few thousand weights that never ends."""
    return speed.random_model("toy", checkpoints.config("gpt_neo", window=128, vocabulary=300))


def test_every_figure_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """For every column, and what is printed last is read back."""
    monkeypatch.setattr(speed, "SUBJECTS", {"toy": toy})
    monkeypatch.setattr(speed, "peers", lambda subject: [])  # other engines start slowly
    monkeypatch.setattr(speed, "QUICK", speed.Extent(20, 3, 40, 2, 2, (1, 4), (1, 2), 1, 0.5))
    monkeypatch.setattr(limits, "peaks", lambda: {"float32": 1e12, "bfloat16": 1e12, "int8": 1e12})
    monkeypatch.setattr(sys, "argv", ["speed", "--quick", "--threads", "1"])
    speed.main()
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = last["models"]["toy"]["columns"]
    assert len(rows) >= 3 and last["machine"]["threads"] == 1
    for name, row in rows.items():
        assert row["prefill_ms"] > 0 and row["token_ms"] > 0 and row["bytes"] > 0 and row["token_to_limit"] > 0
        assert row["keystroke_ratio_vs_generate"] > 0 and set(row["pass_ms"]) == {"1", "4"}, name


def test_every_column_goes_back_to_its_prompt() -> None:
    """So that what is timed is the same work each time."""
    subject, prompt = toy(), [7, 9, 11, 7, 9]
    own, theirs = Own(subject, WeightFormats("float32", "float32"), "ours"), Theirs(subject, "float32")
    generated = Generated(subject, "float32")
    for column in (own, theirs, generated):
        column.prefill(prompt)
        for _ in range(2):
            column.decode(4)
            column.check(8)
            column.batch(2)
    assert own._prefix.token_ids == prompt and own._prefix.kv_cache.length == len(prompt)
    assert theirs.cache.length == generated.cache.length == len(prompt)
