"""Read a checkpoint's ``config.json`` and ``generation_config.json``. Code that they refer to is never run.

Importing transformers takes as long as importing torch. So a configuration is used as it is, without transformers, if
the present version of transformers wrote it and the native decoder supports its architecture. Every other one is read
by transformers, which knows older names and the defaults of missing values.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from codeclippy_ls.engine.decoder.architectures import (
    ARCHITECTURES,
    ModelConfig,
    TransformersConfig,
    is_supported,
    parse_config,
)
from codeclippy_ls.engine.loading.files import read_json_object, summarize_error
from codeclippy_ls.inference.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_DEFAULT_CONTEXT_LENGTH = 2048  # if a configuration has none: BLOOM's, and most models' of its time
_COMPLETE_VERSION = "5."  # transformers of this version writes all values that matter, under these names
_STANDARD_NAMES = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "num_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
}
_DTYPES = (None, "float32", "bfloat16", "float16")


def read_config(folder: Path) -> TransformersConfig:
    """Read the configuration: a ``SimpleNamespace`` if that is enough, otherwise transformers' object.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json; a checkpoint folder in the Hugging Face layout is needed")
    return _make_simple_config(read_json_object(path)) or read_transformers_config(folder)


def _make_simple_config(values: dict[str, Any]) -> SimpleNamespace | None:
    """Make a configuration of the values alone; ``None`` if some are invalid or left to transformers' defaults."""
    architecture = values.get("model_type")
    if architecture not in ARCHITECTURES or not str(values.get("transformers_version")).startswith(_COMPLETE_VERSION):
        return None
    config = SimpleNamespace(**{_STANDARD_NAMES.get(name, name): value for name, value in values.items()})
    config.get_text_config = lambda: config
    config.eos_token_id = values.get("eos_token_id")
    needs_rope = ARCHITECTURES[architecture].rotary_style and "rotary_dim" not in values
    has_rope = isinstance(values.get("rope_parameters"), dict)
    if values.get("dtype") not in _DTYPES or (needs_rope and not has_rope):
        return None
    return config if is_supported(config) else None


def make_model_config(values: dict[str, Any]) -> ModelConfig | None:
    """Make the native decoder's configuration of the contents of a ``config.json``; ``None`` if it has none."""
    config = _make_simple_config(values)
    return None if config is None else parse_config(config)


def read_transformers_config(folder: Path) -> PreTrainedConfig:
    """Read the configuration with transformers.

    Raises:
        ModelError: it cannot be used.
    """
    from transformers import CONFIG_MAPPING, AutoConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # from here on transformers prints nothing
    logging.set_verbosity_error()
    path = folder / "config.json"
    values = read_json_object(path)
    architecture = values.get("model_type")
    if not isinstance(architecture, str) or architecture not in CONFIG_MAPPING:
        own_code = ", and code in a checkpoint is never run" if "auto_map" in values else ""
        raise ModelError(
            f"{path} cannot be used: model_type {architecture!r} is not known to this version of transformers{own_code}"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # ValueError, KeyError, OSError and others
        raise ModelError(f"{path} cannot be used: {summarize_error(error)}") from error
    if not {"eos_token_id", "text_config"} & values.keys():
        config.eos_token_id = None  # the class's default is an ordinary token of another vocabulary
    # A checkpoint may ask for an attention kernel from the hub; that is ignored.
    config._attn_implementation = "eager"
    return config


def read_generation_config(folder: Path) -> dict[str, Any]:
    """Read ``generation_config.json``; empty if there is none.

    Raises:
        ModelError: it cannot be used.
    """
    path = folder / "generation_config.json"
    return read_json_object(path) if path.is_file() else {}


def read_context_length(config: TransformersConfig, model: str) -> int:
    """Return the maximum number of tokens of prompt and output together.

    Args:
        model: the model's name, for the error message.

    Raises:
        ModelError: the configuration contains something else instead.
    """
    text_config = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        value = getattr(text_config, name, None)
        if value:
            if not isinstance(value, int) or value < 2:
                raise ModelError(
                    f"config.json of {model or 'the shipped model'}: {name} is {value!r}, but must be the context "
                    "length in tokens"
                )
            return value
    return _DEFAULT_CONTEXT_LENGTH


def read_stop_token_ids(config: TransformersConfig, generation_eos: Any) -> frozenset[int]:
    """Return the ids that end a text: those of the configuration and of the generation configuration.

    Args:
        generation_eos: the latter's ``eos_token_id``.
    """
    ids: set[int] = set()
    for value in (config.get_text_config().eos_token_id, generation_eos):
        ids.update(id for id in (value if isinstance(value, list) else [value]) if isinstance(id, int))
    return frozenset(ids)
