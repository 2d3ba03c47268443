"""The GPU bench at toy size on the CPU: it prints its figures, and each size is supported."""

from __future__ import annotations

import json
import sys

import pytest

from bench import gpu
from codeclippy_ls.engine.decoder.architectures import parse_config


def test_bench_runs_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """At toy size; the last line is JSON with every figure above zero."""
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--sizes", "toy"])
    monkeypatch.setattr(gpu, "SMALL", ())
    gpu.main()
    (size,) = json.loads(capsys.readouterr().out.splitlines()[-1])["sizes"].values()
    assert all(size[name] > 0 for name in ("token_ms", "prefill_ms", "keystroke_ms", "token_limit_ms", "bytes"))
    assert set(size["batch_ms"]) == {str(count) for count in gpu.BATCHES}


@pytest.mark.parametrize(
    ("name", "millions"), [("125M", 125), ("350M", 357), ("1.3B", 1415), ("2B", 2779), ("6B", 7064), ("16B", 16032)]
)
def test_sizes_have_their_published_parameters(name: str, millions: int) -> None:
    """The published dimensions give the published number of parameters."""
    config = parse_config(gpu.make_config(name))
    assert config is not None and round(config.num_parameters / 1e6) == millions
