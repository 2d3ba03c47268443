"""What a checkpoint's ``config.json`` says: refused where nothing can be made of it, never run.

Importing transformers takes as long as importing torch. So a configuration that its present version wrote, of an
architecture that `layouts` describes, is taken as it stands; every other is read by transformers, whose classes know
the old names and what was left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from codeclippy_ls.engine.decoder.architectures import ARCHITECTURES, is_supported
from codeclippy_ls.engine.loading.tokenizer import brief, reject_placeholder
from codeclippy_ls.inference.errors import ModelError

_WINDOW = 2048  # of a model whose configuration names none: BLOOM's, and most models' of its time
_WRITER = "5."  # transformers' version that writes all that matters, under these names
_NAMES = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "num_heads": "num_attention_heads",
    "num_layers": "num_hidden_layers",
}
_DTYPES = (None, "float32", "bfloat16", "float16")


def read_config(folder: Path) -> Any:
    """The configuration, as plain values where that is enough, else as transformers' object.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json; a checkpoint folder in the Hugging Face layout is needed")
    reject_placeholder(path)
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        written.keys()
    except Exception as error:
        raise ModelError(f"{path} cannot be used: {brief(error)}") from error
    return _plain(written) or read_transformers_config(folder)


def _plain(written: dict[str, Any]) -> Any:
    """The configuration as it stands; None where it leaves something to transformers' defaults, or is damaged."""
    kind = written.get("model_type")
    if kind not in ARCHITECTURES or not str(written.get("transformers_version")).startswith(_WRITER):
        return None
    config = SimpleNamespace(**{_NAMES.get(name, name): value for name, value in written.items()})
    config.get_text_config = lambda: config
    config.eos_token_id = written.get("eos_token_id")
    needs_rope = ARCHITECTURES[kind].rotary_style and "rotary_dim" not in written
    if written.get("dtype") not in _DTYPES or (needs_rope and not isinstance(written.get("rope_parameters"), dict)):
        return None
    return config if is_supported(config) else None


def read_transformers_config(folder: Path) -> Any:
    """The configuration as transformers reads it.

    Raises:
        ModelError: it cannot be used.
    """
    from transformers import CONFIG_MAPPING, AutoConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # from here on it prints nothing
    logging.set_verbosity_error()
    path = folder / "config.json"
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


def read_generation_config(folder: Path) -> dict[str, Any]:
    """What ``generation_config.json`` says; nothing where there is none.

    Raises:
        ModelError: it cannot be used.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        return dict(written.items())
    except Exception as error:  # anything may stand there
        raise ModelError(f"{path} cannot be used: {brief(error)}") from error


def read_context_length(config: Any, model: str) -> int:
    """The most tokens prompt and output may have together."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        found = getattr(text, name, None)
        if found:
            if not isinstance(found, int) or found < 2:
                raise ModelError(
                    f"config.json of {model or 'the shipped model'} says {name} is {found!r}, "
                    "where the window's length must stand"
                )
            return found
    return _WINDOW


def read_stop_token_ids(config: Any, generation: Any) -> frozenset[int]:
    """Ids that end a text, of all that name some."""
    ends: set[int] = set()
    for found in (config.get_text_config().eos_token_id, generation):
        ends.update(id for id in (found if isinstance(found, list) else [found]) if isinstance(id, int))
    return frozenset(ends)
