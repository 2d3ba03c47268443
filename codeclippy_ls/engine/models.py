"""Loading a checkpoint and running it: device, number format, attention, KV caches.

A checkpoint is a folder in the Hugging Face layout, or the name of a hub repository that the user asked for. No
remote code is ever run and no free pickle is read: safetensors first, else ``torch.load(weights_only=True)``, kept as
safetensors for the next start. Knows token ids only. Everything here belongs to the engine thread.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from codeclippy_ls.engine.cache import Feed, KeyValues
from codeclippy_ls.engine.chat import read_chat
from codeclippy_ls.engine.checkpoint import find_folder, int8_weights, with_safetensors
from codeclippy_ls.engine.errors import EngineError, ModelError, NonFiniteError
from codeclippy_ls.engine.spec import ModelSpec
from codeclippy_ls.engine.tokenizer import Tokenizer, brief, read_tokenizer, refuse_pointer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WINDOW = 2048  # of a model whose configuration names none: BLOOM's, and most models' of its time


class Model:
    """A causal language model with its tokenizer.

    Attributes:
        name: the folder or hub name it was asked for by.
        architecture: transformers' ``model_type``.
        window: the most tokens prompt and output may have together.
        ends: ids that end a text, from the checkpoint's configuration.
        chat: what its chat template puts before and after a user's message, where it has one.
    """

    def __init__(
        self, module: Any, tokenizer: Tokenizer, name: str, chat: tuple[str, str] | None = None
    ) -> None:
        config = module.config
        self.module = module.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.chat = chat
        self.architecture: str = config.model_type
        self.window = _window(config, name)
        self.ends = _ends(module)
        self.device: torch.device = next(module.parameters()).device
        self.dtype: torch.dtype = next(module.parameters()).dtype
        self.parameters = sum(parameter.numel() for parameter in module.parameters())

    def new_cache(self) -> KeyValues:
        """An empty KV cache."""
        return ModuleKeyValues()

    def cost(self, tokens: int) -> float:
        """What a pass over so many tokens takes, in passes over one, as measured on common CPUs."""
        return 1 + 0.06 * (tokens - 1)

    @torch.inference_mode()
    def forward(self, feeds: Sequence[Feed]) -> list[torch.Tensor]:
        """Read tokens after what their caches hold, and extend these.

        Args:
            feeds: of different caches; each has a token at least, and with its cache not more than the window.

        Returns:
            For each feed logits of its last ``rows`` tokens, shape (rows, vocabulary), float32, on the model's device.

        Raises:
            NonFiniteError: the logits hold NaN or infinity.
        """
        found = [self._run(feed) for feed in feeds]
        # A sum is finite only if every term is: one pass, one synchronisation.
        if not bool(torch.isfinite(torch.stack([logits.sum() for logits in found]).sum())):
            raise NonFiniteError(f"{self.name or 'the shipped model'} produced NaN scores; its weights are damaged")
        return found

    def _run(self, feed: Feed) -> torch.Tensor:
        ids = torch.tensor([feed.tokens], device=self.device)
        cache: Any = feed.cache
        kept = max(feed.rows, 1)  # 0 means all to transformers
        logits = self.module(input_ids=ids, past_key_values=cache.layers, use_cache=True, logits_to_keep=kept).logits
        found: torch.Tensor = logits[0, logits.shape[1] - feed.rows :].float()
        return found


class ModuleKeyValues:
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

    def copy(self, length: int) -> ModuleKeyValues:
        """The first ``length`` tokens in memory of their own."""
        other = ModuleKeyValues()
        for index, layer in enumerate(self.layers.layers):
            keys, values = layer.keys[..., :length, :].clone(), layer.values[..., :length, :].clone()
            other.layers.update(keys, values, index)
        return other


def load(spec: ModelSpec) -> Model:
    """Load a checkpoint and try it on one token.

    Raises:
        ModelError: it cannot be had, read or trusted; the message says which and what to do.
    """
    _silence()
    torch.set_num_threads(min(spec.threads, os.cpu_count() or 1) if spec.threads > 0 else default_threads())
    folder = find_folder(spec.name)
    config = _config(folder)
    device = pick_device(spec.device)
    module = _module(folder, config, pick_dtype(spec.dtype, device))
    try:
        model = Model(module.to(device), read_tokenizer(folder, _rows(module)), spec.name, read_chat(folder))
        _try(model, folder)
    except EngineError:
        raise
    except Exception as error:
        raise ModelError(f"the model in {folder} does not run on {device}: {brief(error)}") from error
    return model


def _silence() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _rows(module: Any) -> int:
    """How many ids can be both read and written."""
    ends = (module.get_input_embeddings(), module.get_output_embeddings())
    return min(int(end.weight.shape[0]) for end in ends if end is not None)


def _try(model: Model, folder: Path) -> None:
    """Read two tokens at once, and again by way of a cropped cache: the engine's work rests on both being the same.

    Encoders, recurrent models and models without layers load as well, and would write nonsense.
    """
    cache = model.new_cache()
    last = min(model.tokenizer.size, 4) - 1
    whole = model.forward([Feed((0, 1), cache)])[0][0]
    cache.crop(1)
    model.forward([Feed((last,), cache)])
    cache.crop(1)
    again = model.forward([Feed((1,), cache)])[0][0]
    differs = float((again - whole).norm() / ((whole - whole.mean()).norm() + 1e-6))
    # In float32 the two differ by less than 1e-6, without a cache by 0.1 and more; half formats round in deep models.
    if cache.length != 2 or differs > (0.01 if model.dtype is torch.float32 else 0.5):
        raise ModelError(f"the model in {folder} ({model.architecture}) does not continue a text from what it has read "
                         "of it; choose a causal language model with attention")


def default_threads() -> int:
    """Half the cores, four at most: beside other busy processes OpenMP threads wait for each other, and on a machine
    with two busy cores two of them were ten times slower than one."""
    return max(1, min(4, (os.cpu_count() or 2) // 2))


def pick_device(wanted: str) -> torch.device:
    """The device asked for, or the best there is: CUDA, then MPS, then the CPU.

    Raises:
        ModelError: the device asked for is not there.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.zeros(1, device=wanted).item()
        return torch.device(wanted)
    except Exception as error:  # each backend has its own kinds, ModuleNotFoundError among them
        raise ModelError(f'setting "device": {wanted!r} cannot be used here ({brief(error)}); try "auto"') from error


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The number format asked for, or bfloat16 where the hardware computes in it, else float32.

    Raises:
        ModelError: the name is none of float32, bfloat16, float16.
    """
    if wanted != "auto":
        if wanted not in _DTYPES:
            raise ModelError(f'setting "dtype": {wanted!r} is none of auto, {", ".join(_DTYPES)}')
        return _DTYPES[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def _config(folder: Path) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json; a checkpoint folder in the Hugging Face layout is needed")
    refuse_pointer(path)
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        kind = written.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
            own = ", and code of its own is never run" if "auto_map" in written else ""
            raise ModelError(f"{path} cannot be used: its model_type {kind!r} is none known here{own}")
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except ModelError:
        raise
    except Exception as error:  # ValueError, KeyError, OSError, JSON errors
        raise ModelError(f"{path} cannot be used: {brief(error)}") from error
    if not {"eos_token_id", "text_config"} & written.keys():
        config.eos_token_id = None  # a class's default is some ordinary token of another vocabulary
    # A checkpoint may ask for a kernel in its config; that request is not honoured.
    config._attn_implementation = "eager"
    return config


def _architecture(folder: Path, config: Any) -> Any:
    """The class that a configuration's model is of."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    kind = type(config)
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING or encoder or getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{folder} holds a {config.model_type!r} model, which is no causal language model known here")
    return MODEL_FOR_CAUSAL_LM_MAPPING[kind]


def _module(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    architecture = _architecture(folder, config)
    if getattr(architecture, "_supports_sdpa", False):
        config._attn_implementation = "sdpa"
    generation = _generation_config(folder, config)
    weights = with_safetensors(folder)
    try:
        packed = int8_weights(weights, dtype)
        module, report = architecture.from_pretrained(
            weights if packed is None else None, state_dict=packed, config=config, generation_config=generation,
            dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )
    except Exception as error:  # damaged files raise a dozen kinds
        raise ModelError(f"the weights in {folder} cannot be read: {brief(error)}") from error
    _refuse_gaps(folder, module, report)
    return module


def _generation_config(folder: Path, config: Any) -> Any:
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    if not path.is_file():
        return GenerationConfig.from_model_config(config)
    try:
        return GenerationConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except Exception as error:  # anything may stand there
        raise ModelError(f"{path} cannot be used: {brief(error)}") from error


def _refuse_gaps(folder: Path, module: Any, report: dict[str, Any]) -> None:
    """Refuse weights that do not fill the model, or are of one with more layers: what is left out is random."""
    if lost := sorted(report["missing_keys"]):
        raise ModelError(f"the checkpoint in {folder} lacks {len(lost)} weights ({lost[0]} ...): it is not whole")
    if wrong := sorted(report.get("mismatched_keys") or ()):
        raise ModelError(f"{len(wrong)} weights in {folder} have not the shape that its config.json says "
                         f"({wrong[0][0]} ...)")
    kinds = {_of_any_layer(key) for key in module.state_dict()}
    if more := sorted(key for key in report["unexpected_keys"] if _of_any_layer(key) in kinds):
        raise ModelError(f"the checkpoint in {folder} has {len(more)} weights ({more[0]} ...) of layers that its "
                         "config.json leaves out")


def _of_any_layer(key: str) -> str:
    return re.sub(r"\.\d+\.", ".#.", key)


def _window(config: Any, model: str) -> int:
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        found = getattr(text, name, None)
        if found:
            if not isinstance(found, int) or found < 2:
                raise ModelError(f"config.json of {model or 'the shipped model'} says {name} is {found!r}, "
                                 "where the window's length must stand")
            return found
    return _WINDOW


def _ends(module: Any) -> frozenset[int]:
    ends: set[int] = set()
    for config in (module.config.get_text_config(), module.generation_config):
        found = getattr(config, "eos_token_id", None)
        ends.update(id for id in (found if isinstance(found, list) else [found]) if isinstance(id, int))
    return frozenset(ends)
