"""The training step computes the same as transformers' modules."""

from __future__ import annotations

import pytest
import torch

from training import network
from training.train import ModelConfig, cast_to_bf16, make_model


def compute_by_modules(
    model: torch.nn.Module, ids: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute loss and plain mean with transformers' modules and PyTorch's cross-entropy."""
    logits = model(ids[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum(), losses.detach()[weights > 0].mean()


@pytest.mark.parametrize("length", [1 + network.QUERY_BLOCK, 2 * network.QUERY_BLOCK, 40])
@pytest.mark.parametrize("attend", ["own", "fused"])
def test_loss_and_gradients_equal_those_of_transformers(
    length: int, attend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    if attend == "fused":  # used on a GPU
        monkeypatch.setattr(
            network, "CausalAttention", type("Fused", (), {"apply": staticmethod(network.attend_fused)})
        )
    model = make_model(ModelConfig(64, 2, 4, context_length=1024, vocab_size=300)).train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(0, 300, (3, length))
    weights = torch.randint(0, 4, (3, length)).float()
    expected, plain = compute_by_modules(model, ids, weights)
    expected.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    found, found_plain = network.compute_loss(model, ids, weights)
    found.backward()
    assert torch.allclose(found, expected, rtol=1e-5) and torch.allclose(found_plain, plain, rtol=1e-5)
    for name, parameter in model.named_parameters():
        error = (parameter.grad - wanted[name]).norm() / (wanted[name].norm() + 1e-9)
        assert error < 1e-4, f"{name}: {error}"


def test_bf16_loss_is_close_to_fp32() -> None:
    torch.manual_seed(2)
    model = make_model(ModelConfig(64, 2, 4, context_length=128, vocab_size=300))
    ids, weights = torch.randint(0, 300, (4, 128)), torch.ones(4, 128)
    with torch.no_grad():
        exact, _ = network.compute_loss(model, ids, weights)
        half, _ = network.compute_loss(cast_to_bf16(model), ids, weights)
    assert abs(float(half - exact)) < 0.02
