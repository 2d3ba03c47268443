"""`ModuleRunner`: runs one of transformers' modules; `load_module` loads it and rejects incomplete weights.

For the architectures that the native decoder does not support, and as the reference for those that it does. Knows token
ids only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codeclippy_ls.engine.decoder.cuda_graphs import copy_to_cpu
from codeclippy_ls.engine.generation.kv_cache import ModelInput
from codeclippy_ls.engine.loading.checkpoint import ensure_safetensors
from codeclippy_ls.engine.loading.config import read_context_length, read_generation_config
from codeclippy_ls.engine.loading.files import summarize_error
from codeclippy_ls.engine.loading.weights import read_int8_weights
from codeclippy_ls.inference.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class ModuleRunner:
    """Runs one of transformers' causal language models; implements `model.Runner`.

    Args:
        name: the model's name, for error messages.

    Attributes:
        module: transformers' module.
    """

    def __init__(self, module: PreTrainedModel, name: str = "") -> None:
        self.module = module.eval()
        self.architecture: str = module.config.model_type
        self.context_length = read_context_length(module.config, name)
        parameters = list(module.parameters())
        self.num_parameters = sum(parameter.numel() for parameter in parameters)
        self.nbytes = sum(parameter.nbytes for parameter in parameters)
        # The device of the token ids. If a module is split, accelerate moves offloaded ("meta") parts when needed.
        self.device: torch.device = next(
            (parameter.device for parameter in parameters if parameter.device.type != "meta"), torch.device("cpu")
        )
        self.dtype = str(parameters[0].dtype).removeprefix("torch.")
        embeddings = (module.get_input_embeddings(), module.get_output_embeddings())
        self.vocab_size = min(int(embedding.weight.shape[0]) for embedding in embeddings if embedding is not None)

    def new_cache(self) -> ModuleKVCache:
        """Create an empty KV cache."""
        return ModuleKVCache()

    @torch.inference_mode()
    def forward(self, inputs: Sequence[ModelInput]) -> list[Tensor]:
        """Run each input alone: not all of these modules compute a batch of them exactly like one."""
        return [self._run(model_input) for model_input in inputs]

    def _run(self, model_input: ModelInput) -> Tensor:
        kv_cache, num_logits = model_input.kv_cache, model_input.num_logits
        assert isinstance(kv_cache, ModuleKVCache), "a KV cache of another runner"
        token_ids = torch.tensor([model_input.token_ids], device=self.device)  # (1, tokens)
        logits = self.module(
            input_ids=token_ids,
            past_key_values=kv_cache.layers,
            use_cache=True,
            logits_to_keep=max(num_logits, 1),  # transformers takes 0 for all
        ).logits  # (1, at least num_logits, vocab_size)
        return copy_to_cpu(logits[0, logits.shape[1] - num_logits :].float())


class ModuleKVCache:
    """The KV cache of one of transformers' modules.

    Also sliding-window layers keep all tokens: otherwise they could not be cropped.
    """

    def __init__(self) -> None:
        from transformers import DynamicCache

        self.layers = DynamicCache()

    @property
    def length(self) -> int:
        """Number of tokens held."""
        return int(self.layers.get_seq_length())

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers.layers if layer.is_initialized)

    def crop(self, length: int) -> None:
        """Drop all but the first ``length`` tokens."""
        if (surplus := self.length - length) > 0:
            self.layers.crop(-surplus)

    def copy(self, length: int) -> ModuleKVCache:
        """Copy the first ``length`` tokens into memory of their own."""
        other = ModuleKVCache()
        for index, layer in enumerate(self.layers.layers):
            # (1, heads, tokens, head_dim)
            keys, values = layer.keys[..., :length, :].clone(), layer.values[..., :length, :].clone()
            other.layers.update(keys, values, index)
        return other


def load_module(
    folder: Path, config: PreTrainedConfig, dtype: torch.dtype, device_map: str | dict[str, str] | None = None
) -> PreTrainedModel:
    """Load transformers' module for a configuration, with a folder's weights.

    Args:
        device_map: accelerate's, to split the module over several devices; by default it is loaded on the CPU.

    Raises:
        ModelError: it is not a causal language model, or its weights are unreadable, incomplete or of the wrong shape.
    """
    module_class = _find_module_class(folder, config)
    if getattr(module_class, "_supports_sdpa", False):
        config._attn_implementation = "sdpa"
    generation_config = _make_generation_config(folder, config)
    weights = ensure_safetensors(folder)
    try:
        state_dict = read_int8_weights(weights, dtype)
        module, report = module_class.from_pretrained(
            weights if state_dict is None else None,
            state_dict=state_dict,
            config=config,
            generation_config=generation_config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **({"device_map": device_map} if device_map else {}),
        )
    except Exception as error:  # damaged files raise a dozen types
        raise ModelError(f"the weights in {folder} cannot be read: {summarize_error(error)}") from error
    _check_weights_match(folder, module, report)
    return module


def _find_module_class(folder: Path, config: PreTrainedConfig) -> Any:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    config_class = type(config)
    is_encoder = config_class in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    is_encoder_decoder = getattr(config, "is_encoder_decoder", False)
    if config_class not in MODEL_FOR_CAUSAL_LM_MAPPING or is_encoder or is_encoder_decoder:
        raise ModelError(
            f"{folder} contains a {config.model_type!r} model, which is not a causal language model that transformers "
            "supports; choose another model"
        )
    return MODEL_FOR_CAUSAL_LM_MAPPING[config_class]


def _make_generation_config(folder: Path, config: PreTrainedConfig) -> Any:
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    if not path.is_file():
        return GenerationConfig.from_model_config(config)
    values = read_generation_config(folder)
    try:
        return GenerationConfig.from_dict(values)
    except Exception as error:  # the file may contain anything
        raise ModelError(f"{path} cannot be used: {summarize_error(error)}") from error


def _check_weights_match(folder: Path, module: PreTrainedModel, report: dict[str, Any]) -> None:
    """Reject weights that do not fill the module (the rest would be random), or that have more layers."""
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"the checkpoint in {folder} is incomplete: it lacks {len(missing)} weights ({missing[0]} ...); download "
            "it again"
        )
    if mismatched := sorted(report.get("mismatched_keys") or ()):
        raise ModelError(
            f"the checkpoint in {folder} does not match its config.json: {len(mismatched)} weights have another shape "
            f"({mismatched[0][0]} ...)"
        )
    expected = {_mask_layer_index(key) for key in module.state_dict()}
    if surplus := sorted(key for key in report["unexpected_keys"] if _mask_layer_index(key) in expected):
        raise ModelError(
            f"the checkpoint in {folder} does not match its config.json: {len(surplus)} weights ({surplus[0]} ...) are "
            "of layers that it leaves out"
        )


def _mask_layer_index(key: str) -> str:
    return re.sub(r"\.\d+\.", ".#.", key)
