"""OpenVINO on a checkpoint: its graph is made from a small torch module, with keys and values as the graph's state.

Runs in the environment that `make bench-peers` makes. The int8 form's weights are compressed by OpenVINO's own tool
(NNCF), with one scale for each row; it is computed in the CPU's fastest type, like the bfloat16 form. Nothing is reused
from one prompt to the next: the library reuses prefixes only in another pipeline, which serves many requests at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench import peer_formats


class Decoder(torch.nn.Module):
    """One pass over the next tokens of one sequence.

    Returns logits of the last token, and all keys and values: (1, heads, tokens, head_dim) each.
    """

    def __init__(self, model: peer_formats.GgufModel) -> None:
        super().__init__()
        self.model = model
        self.weights = {name: weight.contiguous() for name, weight in model.weights.items()}
        self.approximate = "none" if model.architecture == "gptneox" else "tanh"
        half = model.rotary_dim // 2
        angles = (
            torch.outer(torch.arange(model.context_length).float(), model.rope_theta ** -(torch.arange(half) / half))
            if half
            else torch.zeros(model.context_length, 0)
        )
        self.rotary_table = torch.cat([angles.cos(), angles.sin()], -1)  # (positions, rotary_dim)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, order: torch.Tensor, *past: torch.Tensor) -> Any:
        """Run ids, (1, tokens), at positions, (tokens,); ``order``, (1,) int32, is for beam search."""
        hidden = F.embedding(ids, self.weights["token_embd.weight"])
        if "position_embd.weight" in self.weights:
            hidden = hidden + F.embedding(positions, self.weights["position_embd.weight"])
        total = past[0].shape[2] + ids.shape[1]
        # Added to the scores: a mask of booleans makes OpenVINO's attention many times slower.
        mask = torch.where(torch.arange(total)[None] <= positions[:, None], 0.0, -torch.inf)[None, None]
        rotary_table = self.rotary_table.index_select(0, positions)  # (tokens, rotary_dim)
        present: list[torch.Tensor] = []
        for index in range(self.model.num_layers):
            past_kv = [part.index_select(0, order) for part in past[2 * index : 2 * index + 2]]
            hidden, kv = self._run_layer(f"blk.{index}.", hidden, mask, rotary_table, past_kv)
            present += kv
        last = self._norm("output_norm", hidden[:, -1:])
        lm_head = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return (F.linear(last, lm_head, self.weights.get("output.bias")), *present)

    def _run_layer(
        self,
        name: str,
        hidden: torch.Tensor,
        mask: torch.Tensor,
        rotary_table: torch.Tensor,
        past_kv: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        normed = self._norm(f"{name}attn_norm", hidden)
        query, key, value = (
            part.unflatten(-1, (self.model.num_heads, -1)).transpose(1, 2)
            for part in self._linear(f"{name}attn_qkv", normed).chunk(3, -1)
        )
        # (1, heads, tokens, head_dim) each
        key = torch.cat([past_kv[0], self._apply_rotary(key, rotary_table)], 2)
        value = torch.cat([past_kv[1], value], 2)
        query = self._apply_rotary(query, rotary_table)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended = self._linear(f"{name}attn_output", attended.transpose(1, 2).flatten(2))
        if self.model.architecture == "phi2":  # one norm for both
            return hidden + attended + self._run_mlp(name, normed), [key, value]
        mlp_input = hidden if self.model.is_parallel else hidden + attended
        mlp_output = self._run_mlp(name, self._norm(f"{name}ffn_norm", mlp_input))
        return hidden + attended + mlp_output, [key, value]

    def _run_mlp(self, name: str, x: torch.Tensor) -> torch.Tensor:
        up = F.gelu(self._linear(f"{name}ffn_up", x), approximate=self.approximate)
        return self._linear(f"{name}ffn_down", up)

    def _apply_rotary(self, x: torch.Tensor, rotary_table: torch.Tensor) -> torch.Tensor:
        rotary_dim = self.model.rotary_dim
        if not rotary_dim:
            return x
        cosine, sine = rotary_table.chunk(2, -1)
        left, right = x[..., :rotary_dim].chunk(2, -1)
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine, x[..., rotary_dim:]], -1)

    def _linear(self, name: str, value: torch.Tensor) -> torch.Tensor:
        return F.linear(value, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, value: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(
            value,
            (self.model.hidden_size,),
            self.weights[f"{name}.weight"],
            self.weights[f"{name}.bias"],
            self.model.norm_epsilon,
        )


def make_stateful_graph(model: peer_formats.GgufModel) -> Any:
    """Make OpenVINO's graph of a model, which keeps keys and values as its state."""
    import numpy
    import openvino
    from openvino._offline_transformations import apply_make_stateful_transformation

    head_dim = model.hidden_size // model.num_heads
    past = [torch.zeros(1, model.num_heads, 3, head_dim) for _ in range(2 * model.num_layers)]
    with torch.no_grad():
        graph = openvino.convert_model(
            Decoder(model).eval(),
            example_input=(
                torch.zeros(1, 2, dtype=torch.long),
                torch.tensor([3, 4]),
                torch.zeros(1, dtype=torch.int32),
                *past,
            ),
        )
    shapes = [[1, -1], [-1], [1], *([[1, model.num_heads, -1, head_dim]] * len(past))]
    graph.reshape({port: openvino.PartialShape(shape) for port, shape in zip(graph.inputs, shapes, strict=True)})
    for index, name in enumerate(("ids", "positions", "order")):
        graph.inputs[index].get_tensor().set_names({name})
    pairs = {}
    for index in range(len(past)):
        graph.inputs[3 + index].get_tensor().set_names({f"past.{index}"})
        graph.outputs[1 + index].get_tensor().set_names({f"present.{index}"})
        pairs[f"past.{index}"] = f"present.{index}"
    apply_make_stateful_transformation(graph, pairs)
    # The CPU plugin fuses attention and cache only if a state has an initial value.
    for operation in graph.get_ops():
        if operation.get_type_name() == "ReadValue":
            operation.set_arguments(
                [openvino.opset13.constant(numpy.zeros((1, model.num_heads, 0, head_dim), numpy.float32))]
            )
    graph.validate_nodes_and_infer_types()
    return graph


class OpenVino:
    """One request on the graph; greedy."""

    reuses_prefix = False

    def __init__(self, folder: Path, scratch: Path, form: str, threads: int, context_length: int) -> None:
        import openvino

        graph = make_stateful_graph(peer_formats.convert_checkpoint(folder))
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
        """Prefill in one pass."""
        self._request.reset_state()
        self._prompt, self._length = list(tokens), 0
        return [self._run(tokens)]

    def decode(self, count: int) -> list[int]:
        """Decode; the prompt's last token is run again."""
        return self._decode(self._prompt[-1:], count)

    def restore(self) -> None:
        """Restore the state after the prompt without its last token, by copying it."""
        import openvino

        self._length = len(self._prompt) - 1
        for state in self._request.query_state():
            state.state = openvino.Tensor(state.state.data[:, :, : self._length].copy())

    def keystroke(self, tokens: Sequence[int], count: int) -> list[int]:
        """Start with an empty state."""
        self._request.reset_state()
        self._length = 0
        return self._decode(tokens, count)

    def _decode(self, tokens: Sequence[int], count: int) -> list[int]:
        found = [self._run(tokens)]
        while len(found) < count:
            found.append(self._run(found[-1:]))
        return found

    def _run(self, tokens: Sequence[int]) -> int:
        import numpy

        positions = numpy.arange(self._length, self._length + len(tokens))
        self._request.infer(
            {"ids": numpy.array([tokens]), "positions": positions, "order": numpy.zeros(1, numpy.int32)},
            share_inputs=True,
        )
        self._length += len(tokens)
        return int(self._request.get_output_tensor(0).data[0, -1].argmax())
