"""transformers' own modules: loaded, refused where their weights are not whole, and run behind the engine's face.

For the architectures that `layouts` does not describe, and as the reference for those that it does. Knows token ids
only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codeclippy_ls.engine.decoder.cuda_graphs import copy_to_cpu
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from codeclippy_ls.engine.loading.checkpoint import ensure_safetensors, read_int8_weights
from codeclippy_ls.engine.loading.config import read_context_length, read_generation_config, read_stop_token_ids
from codeclippy_ls.engine.loading.tokenizer import brief
from codeclippy_ls.inference.errors import ModelError


class ModuleRunner:
    """Runs one of transformers' causal language models.

    Attributes:
        module: the model.
        stop_token_ids: ids that end a text, by its configurations.
    """

    def __init__(self, module: Any, name: str = "") -> None:
        self.module = module.eval()
        self.architecture: str = module.config.model_type
        self.context_length = read_context_length(module.config, name)
        self.stop_token_ids = read_stop_token_ids(module.config, module.generation_config.eos_token_id)
        parameters = list(module.parameters())
        self.num_parameters = sum(parameter.numel() for parameter in parameters)
        self.nbytes = sum(parameter.nbytes for parameter in parameters)
        # Of a module over several devices, where its ids go; what is kept elsewhere comes when it is wanted.
        self.device: torch.device = next(
            (one.device for one in parameters if one.device.type != "meta"), torch.device("cpu")
        )
        self.dtype = str(parameters[0].dtype).removeprefix("torch.")
        heads = (module.get_input_embeddings(), module.get_output_embeddings())
        self.vocab_size = min(int(head.weight.shape[0]) for head in heads if head is not None)

    def new_cache(self) -> ModuleKVCache:
        """An empty KV cache."""
        return ModuleKVCache()

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> list[Tensor]:
        """Run each input alone: several in one batch are not computed as one by all of these modules."""
        return [self._run(one) for one in inputs]

    def _run(self, one: ModelInput) -> Tensor:
        assert isinstance(one.kv_cache, ModuleKVCache), "a cache of such a module's"
        ids = torch.tensor([one.token_ids], device=self.device)
        kept = max(one.num_logits, 1)  # 0 means all to transformers
        logits = self.module(
            input_ids=ids, past_key_values=one.kv_cache.layers, use_cache=True, logits_to_keep=kept
        ).logits
        return copy_to_cpu(logits[0, logits.shape[1] - one.num_logits :].float())


class ModuleKVCache:
    """The KV cache of one of transformers' modules. Full layers always, also for sliding-window models: only these can
    be cropped."""

    def __init__(self) -> None:
        from transformers import DynamicCache

        self.layers = DynamicCache()

    @property
    def length(self) -> int:
        """How many tokens it holds."""
        return int(self.layers.get_seq_length())

    @property
    def nbytes(self) -> int:
        """Its memory."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers.layers if layer.is_initialized)

    def crop(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        if (surplus := self.length - length) > 0:
            self.layers.crop(-surplus)

    def copy(self, length: int) -> ModuleKVCache:
        """The first ``length`` tokens in memory of their own."""
        other = ModuleKVCache()
        for index, layer in enumerate(self.layers.layers):
            keys, values = layer.keys[..., :length, :].clone(), layer.values[..., :length, :].clone()
            other.layers.update(keys, values, index)
        return other


def load_module(folder: Path, config: Any, dtype: torch.dtype, spread: Any = None) -> Any:
    """The module that a configuration is of, with a folder's weights, on the CPU.

    Args:
        spread: instead, over several devices, as accelerate's ``device_map``.

    Raises:
        ModelError: it is no causal language model, or the weights cannot be read or do not fill it.
    """
    architecture = _architecture(folder, config)
    if getattr(architecture, "_supports_sdpa", False):
        config._attn_implementation = "sdpa"
    generation = _generation_config(folder, config)
    weights = ensure_safetensors(folder)
    try:
        packed = read_int8_weights(weights, dtype)
        module, report = architecture.from_pretrained(
            weights if packed is None else None,
            state_dict=packed,
            config=config,
            generation_config=generation,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **({"device_map": spread} if spread else {}),
        )
    except Exception as error:  # damaged files raise a dozen kinds
        raise ModelError(f"the weights in {folder} cannot be read: {brief(error)}") from error
    _refuse_gaps(folder, module, report)
    return module


def _architecture(folder: Path, config: Any) -> Any:
    """The class that a configuration's model is of."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    kind = type(config)
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING or encoder or getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{folder} holds a {config.model_type!r} model, which is no causal language model known here")
    return MODEL_FOR_CAUSAL_LM_MAPPING[kind]


def _generation_config(folder: Path, config: Any) -> Any:
    from transformers import GenerationConfig

    written = read_generation_config(folder)
    if not (folder / "generation_config.json").is_file():
        return GenerationConfig.from_model_config(config)
    try:
        return GenerationConfig.from_dict(written)
    except Exception as error:  # anything may stand there
        raise ModelError(f"{folder / 'generation_config.json'} cannot be used: {brief(error)}") from error


def _refuse_gaps(folder: Path, module: Any, report: dict[str, Any]) -> None:
    """Refuse weights that do not fill the model, or are of one with more layers: what is left out is random."""
    if lost := sorted(report["missing_keys"]):
        raise ModelError(f"the checkpoint in {folder} lacks {len(lost)} weights ({lost[0]} ...): it is not whole")
    if wrong := sorted(report.get("mismatched_keys") or ()):
        raise ModelError(
            f"{len(wrong)} weights in {folder} have not the shape that its config.json says ({wrong[0][0]} ...)"
        )
    kinds = {_of_any_layer(key) for key in module.state_dict()}
    if more := sorted(key for key in report["unexpected_keys"] if _of_any_layer(key) in kinds):
        raise ModelError(
            f"the checkpoint in {folder} has {len(more)} weights ({more[0]} ...) of layers that its "
            "config.json leaves out"
        )


def _of_any_layer(key: str) -> str:
    return re.sub(r"\.\d+\.", ".#.", key)
