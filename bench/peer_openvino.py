"""OpenVINO over a checkpoint: its graph made from one small torch module, keys and values kept as the graph's state.

Runs in the environment that `make bench-peers` makes. The int8 form has its weights compressed by OpenVINO's own tool
(NNCF), one scale for each row, and is computed in what the CPU does best, as is its bfloat16 form. Nothing is kept
from one prompt to the next: its library has prefix reuse in another pipeline only, which serves many at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench import peer_formats


class Decoder(torch.nn.Module):
    """One pass over the next tokens of one text: logits of the last, and all keys and values, [1, heads, n, size]."""

    def __init__(self, laid: peer_formats.Laid) -> None:
        super().__init__()
        self.laid = laid
        self.weights = {name: weight.contiguous() for name, weight in laid.weights.items()}
        self.approximate = "none" if laid.architecture == "gptneox" else "tanh"
        half = laid.rotary // 2
        angles = (
            torch.outer(torch.arange(laid.window).float(), laid.base ** -(torch.arange(half) / half))
            if half
            else torch.zeros(laid.window, 0)
        )
        self.turns = torch.cat([angles.cos(), angles.sin()], -1)

    def forward(self, ids: torch.Tensor, places: torch.Tensor, order: torch.Tensor, *past: torch.Tensor) -> Any:
        """Of ids [1, t] at places [t]; ``order`` [1], int32, is what beam search would change."""
        hidden = F.embedding(ids, self.weights["token_embd.weight"])
        if "position_embd.weight" in self.weights:
            hidden = hidden + F.embedding(places, self.weights["position_embd.weight"])
        total = past[0].shape[2] + ids.shape[1]
        # Added to the scores: a mask of booleans makes its attention many times slower.
        seen = torch.where(torch.arange(total)[None] <= places[:, None], 0.0, -torch.inf)[None, None]
        turns = self.turns.index_select(0, places)
        present: list[torch.Tensor] = []
        for index in range(self.laid.layers):
            kept = [part.index_select(0, order) for part in past[2 * index : 2 * index + 2]]
            hidden, made = self._layer(f"blk.{index}.", hidden, seen, turns, kept)
            present += made
        last = self._norm("output_norm", hidden[:, -1:])
        head = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return (F.linear(last, head, self.weights.get("output.bias")), *present)

    def _layer(
        self, name: str, hidden: torch.Tensor, seen: torch.Tensor, turns: torch.Tensor, kept: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        read = self._norm(f"{name}attn_norm", hidden)
        query, key, value = (
            part.unflatten(-1, (self.laid.heads, -1)).transpose(1, 2)
            for part in self._linear(f"{name}attn_qkv", read).chunk(3, -1)
        )
        key, value = (torch.cat([kept[0], self._turned(key, turns)], 2), torch.cat([kept[1], value], 2))
        mixed = F.scaled_dot_product_attention(self._turned(query, turns), key, value, attn_mask=seen)
        mixed = self._linear(f"{name}attn_output", mixed.transpose(1, 2).flatten(2))
        if self.laid.architecture == "phi2":  # one norm for both
            return hidden + mixed + self._inner(name, read), [key, value]
        start = hidden if self.laid.parallel else hidden + mixed
        inner = self._inner(name, self._norm(f"{name}ffn_norm", start))
        return hidden + mixed + inner, [key, value]

    def _inner(self, name: str, read: torch.Tensor) -> torch.Tensor:
        raised = F.gelu(self._linear(f"{name}ffn_up", read), approximate=self.approximate)
        return self._linear(f"{name}ffn_down", raised)

    def _turned(self, part: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        if not self.laid.rotary:
            return part
        cosine, sine = turns.chunk(2, -1)
        rotary = self.laid.rotary
        one, other = part[..., :rotary].chunk(2, -1)
        return torch.cat([one * cosine - other * sine, other * cosine + one * sine, part[..., rotary:]], -1)

    def _linear(self, name: str, value: torch.Tensor) -> torch.Tensor:
        return F.linear(value, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, value: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(
            value, (self.laid.width,), self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], self.laid.epsilon
        )


def stateful(laid: peer_formats.Laid) -> Any:
    """OpenVINO's graph of it, which keeps keys and values itself."""
    import numpy
    import openvino
    from openvino._offline_transformations import apply_make_stateful_transformation

    size = laid.width // laid.heads
    past = [torch.zeros(1, laid.heads, 3, size) for _ in range(2 * laid.layers)]
    with torch.no_grad():
        graph = openvino.convert_model(
            Decoder(laid).eval(),
            example_input=(
                torch.zeros(1, 2, dtype=torch.long),
                torch.tensor([3, 4]),
                torch.zeros(1, dtype=torch.int32),
                *past,
            ),
        )
    shapes = [[1, -1], [-1], [1], *([[1, laid.heads, -1, size]] * len(past))]
    graph.reshape({port: openvino.PartialShape(shape) for port, shape in zip(graph.inputs, shapes, strict=True)})
    for index, name in enumerate(("ids", "places", "order")):
        graph.inputs[index].get_tensor().set_names({name})
    pairs = {}
    for index in range(len(past)):
        graph.inputs[3 + index].get_tensor().set_names({f"past.{index}"})
        graph.outputs[1 + index].get_tensor().set_names({f"present.{index}"})
        pairs[f"past.{index}"] = f"present.{index}"
    apply_make_stateful_transformation(graph, pairs)
    # Its CPU plugin makes attention and cache one operation only where a state says what it begins with.
    for operation in graph.get_ops():
        if operation.get_type_name() == "ReadValue":
            operation.set_arguments([openvino.opset13.constant(numpy.zeros((1, laid.heads, 0, size), numpy.float32))])
    graph.validate_nodes_and_infer_types()
    return graph


class OpenVino:
    """One request over the graph; greedy."""

    reuses = False

    def __init__(self, folder: Path, scratch: Path, form: str, threads: int, window: int) -> None:
        import openvino

        graph = stateful(peer_formats.laid(folder))
        if form == "int8":
            import nncf

            graph = nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_SYM)
        self.nbytes = sum(node.get_byte_size() for node in graph.get_ops() if node.get_type_name() == "Constant")
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
        if form == "float32":
            options["INFERENCE_PRECISION_HINT"] = "f32"
        elif form == "bfloat16":
            self.nbytes //= 2
            options["INFERENCE_PRECISION_HINT"] = "bf16"
        compiled = openvino.Core().compile_model(graph, "CPU", options)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.version = f"OpenVINO {openvino.__version__.partition('-')[0]}, computed in {used}"
        self._request = compiled.create_infer_request()
        self._prompt: list[int] = []
        self._length = 0

    def prefill(self, tokens: Sequence[int]) -> list[int]:
        """In one piece."""
        self._request.reset_state()
        self._prompt, self._length = list(tokens), 0
        return [self._read(tokens)]

    def decode(self, count: int) -> list[int]:
        """The prompt's last token is read again."""
        return self._write(self._prompt[-1:], count)

    def restore(self) -> None:
        """To the prompt without its last token, by copying what is kept."""
        import openvino

        self._length = len(self._prompt) - 1
        for state in self._request.query_state():
            state.state = openvino.Tensor(state.state.data[:, :, : self._length].copy())

    def keystroke(self, tokens: Sequence[int], count: int) -> list[int]:
        """All from the start."""
        self._request.reset_state()
        self._length = 0
        return self._write(tokens, count)

    def _write(self, tokens: Sequence[int], count: int) -> list[int]:
        found = [self._read(tokens)]
        while len(found) < count:
            found.append(self._read(found[-1:]))
        return found

    def _read(self, tokens: Sequence[int]) -> int:
        import numpy

        places = numpy.arange(self._length, self._length + len(tokens))
        self._request.infer(
            {"ids": numpy.array([tokens]), "places": places, "order": numpy.zeros(1, numpy.int32)}, share_inputs=True
        )
        self._length += len(tokens)
        return int(self._request.get_output_tensor(0).data[0, -1].argmax())
