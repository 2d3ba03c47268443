"""Train a GPT-NeoX model on the samples within a budget of seconds; stop and resume.

The schedule follows elapsed time over the budget, not steps: a run ends fully decayed at any load of the machine.
Weights are bf16 with fp32 masters, or fp32 on a CPU without bf16 instructions; Muon updates the matrices, AdamW the
rest. Writes `<out>/checkpoint.pt`, `<out>/plateau.pt` (the last checkpoint before the rate falls), and a line of
progress per interval to stdout (a bar on a terminal) and `<out>/log.jsonl`. Knows nothing of how samples are made, nor
of the network's arithmetic.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from training import network, samples
from training.tokenizer import END

HERE = Path(__file__).resolve().parent
WARMUP, DECAY_FROM = 0.02, 0.4


@dataclass(frozen=True)
class ModelConfig:
    """The dimensions of a model, and its tokens per training step."""

    hidden_size: int
    num_layers: int
    num_heads: int
    context_length: int = 1024
    vocab_size: int = 8192
    tokens_per_step: int = 8192  # small: an hour of two cores is only a few thousand steps


@dataclass(frozen=True)
class Phase:
    """From the share `begins_at` of the budget on, rows have a share of the context length and a mixture of samples."""

    begins_at: float
    context_share: float
    mixture: dict[str, float]


# Text first, then also edits: they are the harder task, and what is learned while the rate falls is kept. Long rows
# cost more attention, and most samples are short; the last third is enough to learn distant positions.
PHASES = (
    Phase(0.0, 0.5, {"continuation": 0.25, "infill": 0.75}),
    Phase(0.2, 0.5, {"continuation": 0.08, "infill": 0.44, "edit": 0.48}),
    Phase(0.7, 1.0, {"continuation": 0.08, "infill": 0.44, "edit": 0.48}),
)

# A model that has been trained before needs no phase without edits.
PHASES_CONTINUED = (
    Phase(0.0, 0.5, PHASES[-1].mixture),
    Phase(0.8, 1.0, PHASES[-1].mixture),
)

# After 75 seconds on two busy cores the held-out loss of 256x4 was 4.30, of 256x6 4.57 and of 192x6 4.54: at that
# budget the number of tokens matters more than depth. In 6,000 seconds six layers learn to copy better, as edits need.
CONFIGS = {
    "flat": ModelConfig(256, 4, 4),
    "cpu": ModelConfig(256, 6, 4),
    "gpu": ModelConfig(512, 10, 8, context_length=2048, vocab_size=16384, tokens_per_step=131072),
}


def make_model(config: ModelConfig) -> GPTNeoXForCausalLM:
    """Create a model with random weights that plain transformers can load."""
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=4 * config.hidden_size,
            max_position_embeddings=config.context_length,
            tie_word_embeddings=True,
            use_parallel_residual=True,
            hidden_act="gelu",
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=None,
        )
    )


def cast_to_bf16(model: GPTNeoXForCausalLM) -> GPTNeoXForCausalLM:
    """Cast the parameters to bf16, not the buffers: rotary frequencies in bf16 would give other positions."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


def has_fast_bf16(device: torch.device) -> bool:
    """Return True if bf16 matrix products run in hardware; emulated ones take three to five times as long as fp32."""
    if device.type == "cuda":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def load_weights(model: GPTNeoXForCausalLM, folder: Path) -> None:
    """Load the weights of an exported bf16 model; its output embeddings are tied and not in the file."""
    missing, unknown = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    if unknown or set(missing) - {"embed_out.weight", "lm_head.weight"}:
        raise ValueError(f"{folder} has other dimensions: {missing} are missing, {unknown} unknown")


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, so that large activations are not mapped again at each step."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(-4, 0)  # M_MMAP_MAX: no separate mappings (a threshold above 32 MiB would be refused)
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def orthogonalize(matrices: Tensor) -> Tensor:
    """Approximate the nearest orthogonal matrix of each matrix by five Newton-Schulz steps (Muon's coefficients)."""
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.bfloat16() if has_fast_bf16(matrices.device) else matrices
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()


class OptimizerState(TypedDict):
    """The state of a `MuonAdamW`: per parameter, matrices first; `squares` only for the others."""

    masters: list[Tensor]
    momenta: list[Tensor]
    squares: list[Tensor]
    steps: int


class MuonAdamW:
    """An optimizer with fp32 masters: Muon for the matrices of the layers, AdamW for embeddings, norms and biases."""

    def __init__(self, model: nn.Module, matrix_rate: float = 0.02, other_rate: float = 0.003) -> None:
        self.learning_rates = (matrix_rate, other_rate)
        named = list(model.named_parameters())
        self.matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
        self.others = [p for name, p in named if p.ndim != 2 or "embed" in name]
        self.masters = [p.detach().float().clone() for p in (*self.matrices, *self.others)]
        self.momenta = [torch.zeros_like(m) for m in self.masters]
        self.squares = [torch.zeros_like(m) for m in self.masters[len(self.matrices) :]]
        self.steps = 0

    @torch.no_grad()
    def step(self, scale: float) -> float:
        """Update the parameters at `scale` times the full rates; return the norm of the gradients before clipping."""
        self.steps += 1
        gradients = [p.grad.float() for p in (*self.matrices, *self.others) if p.grad is not None]
        norm = float(torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(()))))
        gradients = torch._foreach_mul(gradients, min(1.0, 1.0 / (norm + 1e-6)))
        count = len(self.matrices)
        self._muon(gradients[:count], self.learning_rates[0] * scale)
        self._adamw(gradients[count:], self.learning_rates[1] * scale)
        for parameter, master in zip((*self.matrices, *self.others), self.masters, strict=True):
            parameter.copy_(master)
            parameter.grad = None
        return norm

    def _muon(self, gradients: list[Tensor], rate: float) -> None:
        groups: dict[torch.Size, list[int]] = {}
        for i, gradient in enumerate(gradients):
            self.momenta[i].lerp_(gradient, 0.05)
            groups.setdefault(gradient.shape, []).append(i)
        for shape, members in groups.items():
            nesterov = torch.stack([gradients[i].lerp(self.momenta[i], 0.95) for i in members])
            update = orthogonalize(nesterov) * max(1.0, shape[0] / shape[1]) ** 0.5
            for i, change in zip(members, update, strict=True):
                self.masters[i].mul_(1 - rate * 0.05).sub_(change, alpha=rate)

    def _adamw(self, gradients: list[Tensor], rate: float) -> None:
        first = len(self.matrices)
        correction = (1 - 0.95**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for i, gradient in enumerate(gradients):
            momentum, square = self.momenta[first + i], self.squares[i]
            momentum.lerp_(gradient, 0.1)
            square.lerp_(gradient.square(), 0.05)
            self.masters[first + i].addcdiv_(momentum, square.sqrt() + 1e-8, value=-rate * correction)

    def state_dict(self) -> OptimizerState:
        return {"masters": self.masters, "momenta": self.momenta, "squares": self.squares, "steps": self.steps}

    @torch.no_grad()
    def load_state_dict(self, state: OptimizerState) -> None:
        self.masters, self.momenta, self.squares = state["masters"], state["momenta"], state["squares"]
        self.steps = state["steps"]
        for parameter, master in zip((*self.matrices, *self.others), self.masters, strict=True):
            parameter.copy_(master)


def get_rate_scale(progress: float) -> float:
    """Return the share of the full learning rates: warm-up, plateau, linear decay to zero at the end."""
    if progress < WARMUP:
        return max(0.02, progress / WARMUP)
    return 1.0 if progress < DECAY_FROM else max(0.0, (1 - progress) / (1 - DECAY_FROM))


def stack_rows(rows: list[samples.Row], device: torch.device) -> tuple[Tensor, Tensor]:
    """Stack the ids and the weights of rows as tensors on the device."""
    ids = torch.from_numpy(np.stack([row.ids for row in rows])).to(device)
    return ids, torch.from_numpy(np.stack([row.weights for row in rows])).to(device)


@dataclass(frozen=True)
class Progress:
    """The progress of a run, which a checkpoint stores beside the weights."""

    elapsed: float = 0.0
    steps: int = 0
    tokens: int = 0
    next_groups: tuple[int, ...] = ()  # the next group of each phase


class Checkpoint(TypedDict):
    """The content of a checkpoint file, with the fields of the `ModelConfig` and of the `Progress`."""

    optimizer: OptimizerState
    weights: dict[str, Tensor]
    config: dict[str, int]
    progress: dict[str, Any]


class TrainingRun:
    """A training run, owned by the calling thread."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
        torch.manual_seed(options.seed)
        self.config = CONFIGS[options.config]
        model = make_model(self.config)
        if options.start_from is not None:
            load_weights(model, options.start_from)
        self.phases = PHASES if options.start_from is None else PHASES_CONTINUED
        model = model.to(self.device).train()
        self.model = cast_to_bf16(model) if has_fast_bf16(self.device) else model
        self.optimizer = MuonAdamW(self.model)
        self.compute_states = network.compute_hidden_states
        if self.device.type == "cuda":
            self.compute_states = torch.compile(network.compute_hidden_states, dynamic=False)
        self.progress = Progress(next_groups=(0,) * len(self.phases))
        self._streams: dict[int, Iterator[tuple[samples.Row, int]]] = {}  # of the current phase only
        self.out: Path = options.out
        self.out.mkdir(parents=True, exist_ok=True)

    def save(self, name: str = "checkpoint.pt") -> None:
        """Write a checkpoint; a crash leaves the old one or the new one."""
        checkpoint: Checkpoint = {
            "optimizer": self.optimizer.state_dict(),
            "weights": self.model.state_dict(),
            "config": asdict(self.config),
            "progress": asdict(self.progress),
        }
        torch.save(checkpoint, self.out / "checkpoint.new")
        (self.out / "checkpoint.new").replace(self.out / name)

    def resume(self) -> None:
        """Continue from the checkpoint in the output folder."""
        path = self.out / "checkpoint.pt"
        checkpoint: Checkpoint = torch.load(path, map_location=self.device, weights_only=True)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        progress = checkpoint["progress"]
        self.progress = Progress(**{**progress, "next_groups": tuple(progress["next_groups"])})

    def report(self, **values: float) -> None:
        """Print a line of progress and append it to the log."""
        line = {key: round(value, 4) for key, value in values.items()}
        tqdm.write(" ".join(f"{key} {value}" for key, value in line.items()))
        sys.stdout.flush()
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    def validate(self, rows: list[samples.Row]) -> float:
        """Compute the plain loss on fixed rows of held-out packages."""
        with torch.no_grad():
            parts = [stack_rows(rows[i : i + 8], self.device) for i in range(0, len(rows), 8)]
            losses = [network.compute_loss(self.model, ids, weights)[1] for ids, weights in parts]
            return float(torch.stack(losses).mean())

    def train(self, source: samples.SampleSource, held_out: list[samples.Row]) -> None:
        """Train until the budget is spent (or until `--stop-after`)."""
        started, before = time.monotonic(), self.progress
        budget, stop = self.options.seconds, min(self.options.seconds, self.options.stop_after or 1e9)
        losses, last, saved, checked = list[Tensor](), self.progress, before.elapsed, before.elapsed
        bar = tqdm(total=round(budget), initial=round(before.elapsed), unit="s", disable=not sys.stderr.isatty())
        while (elapsed := before.elapsed + time.monotonic() - started) < stop:
            loss, norm = self._step(source, elapsed)
            losses.append(loss)
            bar.update(round(elapsed) - bar.n)
            if len(losses) == self.options.every:
                mean = float(torch.stack(losses).mean())
                speed = (self.progress.tokens - last.tokens) / max(1e-9, elapsed - last.elapsed)
                self.report(
                    step=self.progress.steps,
                    loss=mean,
                    norm=norm,
                    tokens_per_s=speed,
                    tokens=self.progress.tokens,
                    left_s=budget - elapsed,
                )
                bar.set_postfix(loss=f"{mean:.3f}", tokens_per_s=f"{speed:.0f}")
                losses, last = [], self.progress
            if elapsed - saved > self.options.save_every:
                self.save()
                if elapsed < DECAY_FROM * budget:
                    self.save("plateau.pt")
                saved = elapsed
            if elapsed - checked > self.options.check_every:
                self.report(step=self.progress.steps, held_out_loss=self.validate(held_out))
                checked = elapsed
        bar.close()
        self.save()
        self.report(step=self.progress.steps, held_out_loss=self.validate(held_out), tokens=self.progress.tokens)

    def _step(self, source: samples.SampleSource, elapsed: float) -> tuple[Tensor, float]:
        """Train on the rows of one step; return the plain loss and the norm of the gradients."""
        share = elapsed / self.options.seconds
        index = max(i for i, phase in enumerate(self.phases) if share >= phase.begins_at)
        rows, next_group = self._draw(source, index)
        ids, weights = stack_rows(rows, self.device)
        loss, plain = network.compute_loss(self.model, ids, weights, self.compute_states)
        loss.backward()
        norm = self.optimizer.step(self.options.peak * get_rate_scale(share))
        next_groups = tuple(next_group if i == index else n for i, n in enumerate(self.progress.next_groups))
        self.progress = Progress(elapsed, self.progress.steps + 1, self.progress.tokens + ids.numel(), next_groups)
        return plain, norm

    def _draw(self, source: samples.SampleSource, index: int) -> tuple[list[samples.Row], int]:
        """Draw the rows of a step in a phase; also return the number of the group to resume from."""
        phase, seed = self.phases[index], self.options.seed + index
        width = int(self.config.context_length * phase.context_share)
        if index not in self._streams:
            first = self.progress.next_groups[index]
            rows = samples.iter_rows(source, width, seed, first, phase.mixture, self.options.processes)
            self._streams = {index: rows}
        drawn = list(islice(self._streams[index], self.config.tokens_per_step // width))
        return [row for row, _ in drawn], drawn[-1][1]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--out", type=Path, help="default: <work>/run")
    parser.add_argument("--config", choices=CONFIGS, default="cpu")
    parser.add_argument("--seconds", type=float, default=3600, help="the budget of the schedule")
    parser.add_argument("--stop-after", type=float, help="stop after this many seconds of the budget, to resume later")
    parser.add_argument("--start-from", type=Path, metavar="FOLDER", help="an exported model to go on from")
    parser.add_argument("--peak", type=float, default=1.0, help="share of the full learning rates")
    parser.add_argument("--rehearsal", action="store_true", help="a budget of two minutes")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--processes", type=int, help="worker processes that make samples (default: 0, on a GPU 12)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=20, help="steps between lines of progress")
    parser.add_argument("--save-every", type=float, default=240)
    parser.add_argument("--check-every", type=float, default=300)
    options = parser.parse_args(arguments)
    options.out = options.out or options.work / "run"
    options.seconds = 120 if options.rehearsal else options.seconds
    if options.processes is None:
        options.processes = 12 if torch.cuda.is_available() and not options.cpu else 0
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    source = samples.load_source(options.work)
    run = TrainingRun(options)
    if options.resume:
        run.resume()
    mixture = PHASES[-1].mixture
    held_out = [
        row for row, _ in islice(samples.iter_rows(samples.load_source(options.work, "valid"), 512, 7, 0, mixture), 32)
    ]
    run.train(source, held_out)


if __name__ == "__main__":
    main()
