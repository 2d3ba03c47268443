"""Read the header of a GGUF file: metadata, and where each tensor lies. Numbers are checked against the file's size.

The file comes from somewhere else, so nothing in it is believed: a count that the file is too small for, a string
beyond its end or a tensor outside of it is rejected before memory is taken. Layout:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Knows no model and no numpy. The package `gguf` reads
headers, too, but takes 10 s for a vocabulary of 150,000 tokens; this takes 0.2 s.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4
_MAX_KEY_BYTES = 65535
_DEFAULT_ALIGNMENT = 32
_LONG_ARRAY = 1024  # items; vocabularies are longer, and nothing else is
# Scalars by the file's numbers for types: struct's letter.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# ggml's types: name, weights of a block, bytes of a block.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
# Architectures by llama.cpp's name, and what transformers calls each; `gguf_architectures` says how they are read.
MODEL_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "granite": "granite",
    "starcoder2": "starcoder2",
    "starcoder": "gpt_bigcode",
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "phi2": "phi",
    "phi3": "phi3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
VOCAB_SIZE_KEY = "vocabulary"  # of ours, for the number of tokens, if only the description was read
SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


class GgufError(Exception):
    """The file cannot be used; the message is one clause about the file, to follow its name."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's place.

    Attributes:
        shape: outermost dimension first, as torch and numpy have it.
        type_name: ggml's name of the block type.
        offset: bytes from the start of ``path``.
        nbytes: bytes of all blocks.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of a GGUF file, or of all parts of a split one.

    Attributes:
        metadata: values by key; arrays are lists.
        tensors: in the order of the file; empty if only the description was read.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...] = ()

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture; empty if there is none."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else ""

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the architecture's own section."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def list_parts(path: Path) -> list[Path]:
    """List the files of a model, given the first part's path; one file if it is not split.

    Raises:
        GgufError: it is a later part, or a part is missing.
    """
    parts = [path]
    if (match := SPLIT_NAME.fullmatch(path.name)) is not None:
        stem, count = match[1], max(1, int(match[3]))
        parts = [path.with_name(f"{stem}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    if path != parts[0]:
        raise GgufError(f"is a later part of a split model; name its first part, {parts[0].name}")
    if (missing := next((part for part in parts if not part.is_file()), None)) is not None:
        raise GgufError(f"is incomplete: its part {missing.name} is missing")
    return parts


def read_header(path: Path) -> GgufHeader:
    """Read the header of a model's file, and of its further parts if it is split.

    Raises:
        GgufError: it is a later part, or a part is missing, damaged or of an unknown kind.
    """
    header, tensors = None, []
    for part in list_parts(path):
        with _map_file(part) as content:
            metadata, position, num_tensors = _read_metadata(content, len(content))
            tensors += _read_tensor_infos(content, position, num_tensors, metadata, part)
        header = header or GgufHeader(path, metadata)
    assert header is not None
    names = [tensor.name for tensor in tensors]
    if len(set(names)) < len(names):
        raise GgufError("is damaged: it has two tensors of the same name")
    return GgufHeader(path, header.metadata, tuple(tensors))


def read_description(path: Path) -> GgufHeader:
    """Read the metadata in front of the vocabulary, in a tenth of a millisecond.

    Raises:
        GgufError: it is damaged or of an unknown kind.
    """
    with _map_file(path) as content:
        metadata, _, _ = _read_metadata(content, len(content), until_vocabulary=True)
    return GgufHeader(path, metadata)


def reject_other_kinds(header: GgufHeader) -> None:
    """Reject a file that is no language model, or of an architecture that is not supported.

    Raises:
        GgufError: it is one.
    """
    kind, name = header.metadata.get("general.type", "model"), header.architecture
    if kind == "adapter":
        raise GgufError("is an adapter, not a whole model; choose the model that it belongs to")
    if kind == "mmproj" or name == "clip":
        raise GgufError("is a vision projector, not a language model; choose the model's other file")
    if header.get("pooling_type") or "bert" in name:
        raise GgufError("is an embedding model, which cannot write text")
    if header.get("expert_count") or name.endswith("moe"):
        raise GgufError("is a mixture of experts, which is not supported; choose a dense model")
    if name not in MODEL_TYPES:
        raise GgufError(f"is of the architecture {name[:40]!r}; supported are {', '.join(MODEL_TYPES)}")


def _map_file(path: Path) -> mmap.mmap:
    """Map a regular file. A FIFO or a device would block or have no end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise GgufError(f"cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise GgufError("is not a regular file")
        if status.st_size < 24:
            raise GgufError("is not a GGUF file: it is too short")
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise GgufError(f"cannot be read: {error}") from error
    finally:
        os.close(descriptor)


class _Reader:
    """Reads values one after the other; raises `GgufError` at the file's end."""

    __slots__ = ("_content", "_end", "position")

    def __init__(self, content: mmap.mmap, position: int, end: int) -> None:
        self._content, self.position, self._end = content, position, end

    def read(self, letter: str) -> Any:
        size = struct.calcsize("<" + letter)
        self.check_room(1, size)
        (value,) = struct.unpack_from("<" + letter, self._content, self.position)
        self.position += size
        return value

    def check_room(self, count: int, size: int) -> None:
        if count > (self._end - self.position) // size:
            raise GgufError("is damaged or incomplete: its header claims more than the file has; download it again")

    def read_string(self) -> str:
        length = self.read("Q")
        self.check_room(length, 1)
        self.position += length
        return self._content[self.position - length : self.position].decode("utf-8", "replace")

    def read_strings(self, count: int) -> list[str]:
        """Read an array of strings; the same as `read_string` in a third of the time."""
        self.check_room(count, 8)
        content, position, end, unpack = self._content, self.position, self._end, struct.Struct("<Q").unpack_from
        strings = []
        for _ in range(count):
            if position + 8 > end:
                self.check_room(1, end + 1)
            start = position + 8
            position = start + unpack(content, position)[0]
            if position > end:
                self.check_room(position, 1)
            strings.append(content[start:position].decode("utf-8", "replace"))
        self.position = position
        return strings

    def read_array(self) -> Any:
        item_type, count = self.read("I"), self.read("Q")
        if item_type == _STRING:
            return self.read_strings(count)
        if item_type not in _SCALARS:
            raise GgufError(f"has an array of an unknown type ({item_type}) in its header")
        letter = _SCALARS[item_type]
        size = struct.calcsize("<" + letter)
        self.check_room(count, size)
        self.position += count * size
        return list(struct.unpack_from(f"<{count}{letter}", self._content, self.position - count * size))

    def read_value(self, value_type: int) -> Any:
        if value_type == _STRING:
            return self.read_string()
        if value_type == _ARRAY:
            return self.read_array()
        if value_type not in _SCALARS:
            raise GgufError(f"has a value of an unknown type ({value_type}) in its header")
        return self.read(_SCALARS[value_type])

    def is_vocabulary(self, value_type: int) -> bool:
        if value_type != _ARRAY:
            return False
        self.check_room(1, 12)
        item_type, count = struct.unpack_from("<IQ", self._content, self.position)
        return bool(item_type == _STRING and count > _LONG_ARRAY)

    def count_items(self) -> int:
        """Return the length of the array that follows, without reading it."""
        self.check_room(1, 12)
        return int(struct.unpack_from("<IQ", self._content, self.position)[1])


def _read_metadata(content: mmap.mmap, size: int, until_vocabulary: bool = False) -> tuple[dict[str, Any], int, int]:
    """Read the metadata; return it with the position behind it and the number of tensors."""
    if content[:4] != _MAGIC:
        raise GgufError("is not a GGUF file: it does not begin with GGUF")
    reader = _Reader(content, 4, size)
    version = reader.read("I")
    if version not in _VERSIONS:
        is_big_endian = version & 0xFFFF == 0
        cause = "is written for big-endian machines" if is_big_endian else f"is of GGUF version {version}"
        raise GgufError(f"{cause}; versions 2 and 3 for little-endian machines can be read")
    num_tensors, num_values = reader.read("Q"), reader.read("Q")
    reader.check_room(num_tensors, 24)  # an empty name, one dimension, a type and an offset
    reader.check_room(num_values, 13)  # an empty key, a type and a byte
    metadata: dict[str, Any] = {}
    for _ in range(num_values):
        key = reader.read_string()
        if len(key) > _MAX_KEY_BYTES or key in metadata:
            raise GgufError("is damaged: its header has a key twice, or one that is too long")
        value_type = reader.read("I")
        if until_vocabulary and reader.is_vocabulary(value_type):
            metadata[VOCAB_SIZE_KEY] = reader.count_items()
            break
        metadata[key] = reader.read_value(value_type)
    return metadata, reader.position, num_tensors


def _read_tensor_infos(
    content: mmap.mmap, position: int, count: int, metadata: dict[str, Any], path: Path
) -> list[TensorInfo]:
    reader = _Reader(content, position, len(content))
    found = []
    for _ in range(count):
        name, num_dimensions = reader.read_string(), reader.read("I")
        if not 0 < num_dimensions <= _MAX_DIMENSIONS:
            raise GgufError(f"is damaged: its tensor {name[:60]!r} has {num_dimensions} dimensions")
        shape = tuple(reversed([reader.read("Q") for _ in range(num_dimensions)]))
        type_name, nbytes = _measure_blocks(name, shape, reader.read("I"))
        found.append((name, shape, type_name, reader.read("Q"), nbytes))
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise GgufError(f"is damaged: its alignment is {alignment!r}")
    start = -(-reader.position // alignment) * alignment
    for name, _, _, offset, nbytes in found:
        if start + offset + nbytes > len(content):
            raise GgufError(f"is incomplete: its tensor {name[:60]!r} lies beyond its end; download it again")
    return [
        TensorInfo(name, shape, type_name, path, start + offset, nbytes)
        for name, shape, type_name, offset, nbytes in found
    ]


def _measure_blocks(name: str, shape: tuple[int, ...], type_number: int) -> tuple[str, int]:
    """Return the type's name and the bytes of a tensor's blocks."""
    if type_number not in TENSOR_TYPES:
        raise GgufError(f"has a tensor of an unknown type ({type_number}); a newer version of this program may read it")
    type_name, block_weights, block_bytes = TENSOR_TYPES[type_number]
    if not all(shape) or shape[-1] % block_weights:
        raise GgufError(f"is damaged: its tensor {name[:60]!r} does not consist of whole blocks")
    return type_name, math.prod(shape) // block_weights * block_bytes
