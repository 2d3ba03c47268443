"""Describe stored models from their headers: architecture, size, number format, licence, or why one cannot be used.

Knows no family; `commands` adds what the table of families says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from codeclippy_ls.catalog.gguf_header import MODEL_TYPES, GgufError, list_parts, read_description, reject_other_kinds
from codeclippy_ls.catalog.stores import StoredModel
from codeclippy_ls.catalog.weight_counts import count_folder_weights, count_gguf_weights

_MAX_CONFIG_BYTES = 1 << 20
_MAX_CARD_HEAD, _MAX_TOKENIZER_HEAD = 4096, 1 << 18  # bytes that are read of a file
_LICENCE = re.compile(r"^license(?:_name)?:[ \t]*(\S[^\n]*)$", re.MULTILINE)
_CHAT_NAME = re.compile(r"(?:\b|_)(?:instruct|chat|it)(?:\b|_)", re.IGNORECASE)
# `general.file_type`, by llama.cpp's numbers.
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
}


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The header of a stored model, as far as it tells.

    Attributes:
        title: the name in the header, or that of the file.
        model_type: transformers' name of the architecture.
        size_label: parameters, such as ``0.5B``; empty if the header does not tell.
        licence: empty if the header does not tell.
        num_weights: those that a token reads; 0 is unknown.
        is_chat: it follows instructions, by its name or its chat template.
        added_tokens: ids of the tokens that a folder's tokenizer has beside its vocabulary: the control tokens.
        problem: why it cannot be used; empty if it can.
    """

    stored: StoredModel
    title: str
    model_type: str = ""
    size_label: str = ""
    number_format: str = ""
    nbytes: int = 0
    licence: str = ""
    num_weights: int = 0
    is_chat: bool = False
    added_tokens: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


def describe(stored: StoredModel) -> ModelDescription:
    """Describe a stored model."""
    if stored.path.is_dir():
        return _describe_folder(stored)
    try:
        header = read_description(stored.path)
        reject_other_kinds(header)
        nbytes = sum(part.stat().st_size for part in list_parts(stored.path))
    except GgufError as error:
        return ModelDescription(stored, stored.path.name, problem=str(error))
    except OSError as error:
        return ModelDescription(stored, stored.path.name, problem=f"cannot be read: {error.strerror}")
    texts = {
        key: str(header.metadata.get(f"general.{key}", ""))[:80].replace("\n", " ")
        for key in ("name", "size_label", "license")
    }
    number_format = _FILE_TYPES.get(header.metadata.get("general.file_type", -1), "mixed")
    model_type = MODEL_TYPES[header.architecture]
    title = texts["name"] or stored.path.stem
    return ModelDescription(
        stored,
        title,
        model_type,
        texts["size_label"],
        number_format,
        nbytes,
        texts["license"],
        count_gguf_weights(header),
        # The chat template is behind the vocabulary, whose 150,000 tokens take a hundred times as long to pass.
        is_chat=_CHAT_NAME.search(f"{title} {stored.path.name} {header.metadata.get('general.finetune', '')}")
        is not None,
    )


def _describe_folder(stored: StoredModel) -> ModelDescription:
    weights = [*stored.path.glob("model*.safetensors")] or [*stored.path.glob("pytorch_model*.bin")]
    title = stored.name.rpartition("/")[2]
    try:
        nbytes = sum(file.stat().st_size for file in weights)
        config = _read_config(stored.path / "config.json")
    except (OSError, ValueError, RecursionError) as error:
        return ModelDescription(stored, title, problem=f"has no readable config.json ({type(error).__name__})")
    model_type = config.get("model_type")
    number_format = config.get("dtype") or config.get("torch_dtype")
    return ModelDescription(
        stored,
        title,
        model_type if isinstance(model_type, str) else "",
        number_format=number_format if isinstance(number_format, str) else weights[0].suffix[1:],
        nbytes=nbytes,
        licence=_read_licence(stored.path / "README.md"),
        num_weights=count_folder_weights(config, nbytes),
        is_chat=_has_chat_template(stored.path),
        added_tokens=_read_added_tokens(stored.path / "tokenizer.json"),
    )


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        return "chat_template" in _read_config(folder / "tokenizer_config.json")
    except (OSError, ValueError, RecursionError):
        return False


def _read_added_tokens(file: Path) -> dict[str, int]:
    """Read the added tokens, which are in front of a tokenizer's vocabulary of several megabytes."""
    try:
        head = _read_head(file, _MAX_TOKENIZER_HEAD)
        start = head.index("[", head.index('"added_tokens"'))
        rows, _ = json.JSONDecoder().raw_decode(head, start)
        return {str(row["content"]): int(row["id"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _read_licence(card: Path) -> str:
    """Read the licence from the head of a model's card."""
    try:
        head = _read_head(card, _MAX_CARD_HEAD)
    except OSError:
        return ""
    match = _LICENCE.search(head) if head.startswith("---") else None
    return match[1].strip("\"' ")[:80] if match is not None else ""


def _read_head(file: Path, nbytes: int) -> str:
    if not file.is_file():  # a FIFO would block
        return ""
    with file.open("rb") as stream:
        return stream.read(nbytes).decode("utf-8", "replace")


def _read_config(path: Path) -> dict[str, object]:
    if not path.is_file() or path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError
    config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError
    return config
