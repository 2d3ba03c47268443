"""Prepare a GGUF file: write it once as a checkpoint folder in the Hugging Face layout, in the format it will run in.

From then on it is a checkpoint like any other. Nothing is written beside the file itself; it may belong to another
program.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codeclippy_ls.catalog.gguf_header import GgufError, GgufHeader, list_parts, read_header
from codeclippy_ls.catalog.prepared_cache import CacheFullError, find_entry, identify, make_entry
from codeclippy_ls.engine.decoder.architectures import ModelConfig, compute_weight_shapes
from codeclippy_ls.engine.loading.chat_template import read_chat_template
from codeclippy_ls.engine.loading.config import make_model_config
from codeclippy_ls.engine.loading.files import summarize_error
from codeclippy_ls.engine.loading.folded_norms import FoldedNorms, find_foldable_norms
from codeclippy_ls.engine.loading.gguf_architectures import make_config
from codeclippy_ls.engine.loading.gguf_tokenizer import list_stop_token_ids, make_tokenizer_config, make_tokenizer_json
from codeclippy_ls.engine.loading.gguf_weights import GgufWeights
from codeclippy_ls.engine.loading.prepared_tokenizer import write_tokenizer
from codeclippy_ls.engine.loading.prepared_weights import (
    Quantization,
    Report,
    compute_prepared_bytes,
    plan_quantization,
    write_weights,
)
from codeclippy_ls.engine.loading.tokenizer import Tokenizer
from codeclippy_ls.engine.loading.weights import unify_lm_head_name
from codeclippy_ls.inference.errors import ModelError

log = logging.getLogger(__name__)

_TOKENIZER_BYTES = 64 << 20  # room for everything beside the weights


def is_gguf(path: Path) -> bool:
    """Return whether a file calls itself GGUF: by its name, or by its first bytes as in Ollama's store."""
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"GGUF"
    except OSError:
        return False


def prepare_gguf(
    path: Path, choose_format: Callable[[dict[str, Any]], str], wanted: str, report: Report
) -> tuple[Path, bool]:
    """Return the folder of a prepared GGUF file, and whether it was prepared only now.

    Args:
        choose_format: returns the number format for the contents of a ``config.json``.
        wanted: everything that the choice depends on, as text.
        report: is told the share that is done.

    Raises:
        ModelError: the file cannot be used; nothing was written then.
    """
    try:
        name = identify(list_parts(path), "gguf", wanted)
        if (entry := find_entry(name)) is not None:
            return entry, False
        header = read_header(path)
        config = make_config(header)
        number_format = choose_format(config)
        if number_format == "int8" and config["model_type"] == "gpt2":
            number_format = "float32"  # its matrices are stored transposed, and have no scale per row
        source = GgufWeights(header, config)
        model_config = make_model_config(config)
        if model_config is not None:
            _check_shapes(source, model_config)
        norm_of: dict[str, str] = {}
        quantization = Quantization()
        if model_config is not None and number_format == "int8":
            norm_of = find_foldable_norms(source, model_config)
            quantization = plan_quantization(model_config, bool(norm_of))
        folded = FoldedNorms(source, norm_of)
        nbytes = compute_prepared_bytes(folded, number_format, quantization) + _TOKENIZER_BYTES
        log.info("preparing %s in %s", path, number_format)

        def write(folder: Path) -> None:
            _write_description(folder, header, config)
            write_weights(folder / "model.safetensors", folded, number_format, quantization, report)

        return make_entry(name, path, number_format, nbytes, write), True
    except GgufError as error:
        raise ModelError(f"{path} {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of values of another type
        log.info("%s is damaged", path, exc_info=True)
        raise ModelError(f"{path} is damaged: its header does not fit together ({summarize_error(error)})") from error
    except CacheFullError as error:
        raise ModelError(f"{path} cannot be prepared: {error}") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be prepared: {summarize_error(error)}") from error


def _check_shapes(source: GgufWeights, config: ModelConfig) -> None:
    """Reject a file whose weights are not those of its header, before anything is written.

    Raises:
        GgufError: a weight is missing or has another shape.
    """
    shapes = {unify_lm_head_name(name): source.read_shape(name) for name in source}
    for name, shape in compute_weight_shapes(config).items():
        if shapes.get(name) != shape:
            found = shapes.get(name, "none")
            raise GgufError(f"is damaged: its header asks for weights {name!r} of the shape {shape}, there are {found}")


def _write_description(folder: Path, header: GgufHeader, config: dict[str, Any]) -> None:
    """Write everything but the weights."""
    _write_json(folder / "tokenizer_config.json", make_tokenizer_config(header))
    tokenizer = Tokenizer(make_tokenizer_json(header), config["vocab_size"])
    write_tokenizer(tokenizer, read_chat_template(folder), folder)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"eos_token_id": list_stop_token_ids(header)})


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
