"""The server reads the exports of training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import transformers

from codeclippy_ls.engine.generation.kv_cache import ModelInput
from codeclippy_ls.engine.loading.loader import load
from codeclippy_ls.inference.spec import SHIPPED_FOLDER, ModelSpec
from training.export import export
from training.train import ModelConfig, Progress, cast_to_bf16, load_weights, make_model


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of `training.train` at toy dimensions."""
    torch.manual_seed(1)
    config = ModelConfig(64, 2, 2, context_length=128)
    weights = cast_to_bf16(make_model(config)).state_dict()
    progress = dataclasses.asdict(Progress(elapsed=2.0, steps=3, tokens=4))
    torch.save(
        {"weights": weights, "config": dataclasses.asdict(config), "progress": progress}, tmp_path / "checkpoint"
    )
    return tmp_path / "checkpoint"


def compute_logits(folder: Path, native: bool = True) -> torch.Tensor:
    model = load(ModelSpec(str(folder), device="cpu", dtype="bfloat16"), native)
    return model.forward([ModelInput(range(20, 60), model.new_cache())])[0][0]


def test_int8_export_is_half_the_size_with_nearly_the_same_logits(checkpoint: Path, tmp_path: Path) -> None:
    about = export(checkpoint, SHIPPED_FOLDER, tmp_path / "bf16", "toy", "1")
    export(checkpoint, SHIPPED_FOLDER, tmp_path / "int8", "toy", "1", "int8")
    sizes = [(tmp_path / form / "model.safetensors").stat().st_size for form in ("bf16", "int8")]
    assert sizes[1] < 0.6 * sizes[0]
    wanted, found = compute_logits(tmp_path / "bf16"), compute_logits(tmp_path / "int8")
    assert 0 < (found - wanted).norm() < 0.05 * wanted.norm()
    assert (about["tokens_seen"], about["steps"], about["window"]) == (4, 3, 128)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "bf16", dtype=torch.bfloat16)
    exact = compute_logits(tmp_path / "bf16", native=False)
    with torch.inference_mode():
        assert torch.equal(plain(torch.arange(20, 60)[None]).logits[0, -1].float(), exact)


def test_incomplete_int8_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from codeclippy_ls.inference.errors import ModelError

    export(checkpoint, SHIPPED_FOLDER, tmp_path / "int8", "toy", "1", "int8")
    file = tmp_path / "int8" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("gpt_neox.layers.1.mlp.dense_h_to_4h.weight")
    save_file(tensors, file, metadata={"format": "pt", "matrices": "int8 per row"})
    with pytest.raises(ModelError, match="lacks"):
        load(ModelSpec(str(tmp_path / "int8"), device="cpu", dtype="float32"))


def test_training_can_start_from_the_weights_of_an_export(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, SHIPPED_FOLDER, tmp_path / "bf16", "toy", "1")
    saved = torch.load(checkpoint, weights_only=True)["weights"]
    model = make_model(ModelConfig(64, 2, 2, context_length=128))
    load_weights(model, tmp_path / "bf16")
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name].float()), name
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_weights(make_model(ModelConfig(32, 2, 2, context_length=128)), tmp_path / "bf16")
    with pytest.raises(ValueError, match="other dimensions"):
        load_weights(make_model(ModelConfig(64, 3, 2, context_length=128)), tmp_path / "bf16")
