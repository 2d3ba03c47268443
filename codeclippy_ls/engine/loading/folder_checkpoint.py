"""Prepare a large checkpoint folder: its matrices as int8 and its tokenizer, written once into the user's cache.

Quantizing a billion weights takes half a minute, and reading them in four bytes takes the memory. So the first start
writes what the next ones map. Small checkpoints, and those that transformers runs, are loaded as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codeclippy_ls.catalog.prepared_cache import find_entry, identify, make_entry
from codeclippy_ls.engine.decoder.architectures import ModelConfig, compute_weight_shapes
from codeclippy_ls.engine.loading.chat_template import read_chat_template
from codeclippy_ls.engine.loading.folded_norms import FoldedNorms, find_foldable_norms
from codeclippy_ls.engine.loading.prepared_tokenizer import write_tokenizer
from codeclippy_ls.engine.loading.prepared_weights import (
    Report,
    compute_prepared_bytes,
    plan_quantization,
    write_weights,
)
from codeclippy_ls.engine.loading.tokenizer import read_tokenizer
from codeclippy_ls.engine.loading.weights import is_buffer_name, unify_lm_head_name

_MIN_BYTES = 100 << 20  # of the weights' files; smaller ones load within a second or two
_PIECE_WEIGHTS = 1 << 21
_OTHER_BYTES = 64 << 20  # room for the tokenizer


class _FolderWeights:
    """The weights of a folder's safetensors files, or of its ``.bin`` files, read in pieces from mapped memory."""

    def __init__(self, files: list[Path], stack: ExitStack) -> None:
        self._readers: dict[str, Callable[[], Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            if file.suffix == ".safetensors":
                self._add_safetensors(file, stack)
            else:
                self._add_bin(file)

    def _add_safetensors(self, file: Path, stack: ExitStack) -> None:
        from safetensors import safe_open

        opened = stack.enter_context(safe_open(file, framework="pt"))
        for name in opened.keys():  # noqa: SIM118
            if not is_buffer_name(name):
                self._shapes[name] = tuple(opened.get_slice(name).get_shape())
                self._readers[name] = partial(opened.get_slice, name)

    def _add_bin(self, file: Path) -> None:
        state: Mapping[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        for name, value in state.items():
            if isinstance(value, Tensor) and not is_buffer_name(name):
                self._shapes[name] = tuple(value.shape)
                self._readers[name] = partial(lambda tensor: tensor, value)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._readers))

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._readers[name]()[:]
        return tensor

    def read_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def list_pieces(self, name: str) -> list[Callable[[], Tensor]]:
        rows, columns = self._shapes[name]
        step, reader = max(1, _PIECE_WEIGHTS // columns), self._readers[name]
        return [partial(self._read_rows, reader, start, min(start + step, rows)) for start in range(0, rows, step)]

    @staticmethod
    def _read_rows(reader: Callable[[], Any], start: int, stop: int) -> Tensor:
        rows: Tensor = reader()[start:stop]
        return rows

    def matches(self, config: ModelConfig) -> bool:
        """Return whether names and shapes are exactly those of a configuration."""
        shapes = {unify_lm_head_name(name): shape for name, shape in self._shapes.items()}
        if config.tie_word_embeddings:
            shapes.pop("lm_head.weight", None)  # a `.bin` file repeats the embedding
        return shapes == compute_weight_shapes(config)

    def drop_tied_head(self, config: ModelConfig) -> None:
        """Leave out a repeated embedding."""
        if config.tie_word_embeddings:
            for name in [name for name in self._shapes if unify_lm_head_name(name) == "lm_head.weight"]:
                del self._shapes[name], self._readers[name]


def find_prepared_folder(folder: Path) -> tuple[Path | None, str]:
    """Return the entry of a checkpoint folder, if there is one, and its name; the name is empty for a small folder."""
    weights = list_weight_files(folder)
    try:
        if sum(file.stat().st_size for file in weights) < _MIN_BYTES:
            return None, ""
        files = sorted({*weights, *folder.glob("*.json"), *folder.glob("*.txt"), *folder.glob("*.model")})
        name = identify(files, "folder", "int8")
    except OSError:
        return None, ""
    return find_entry(name), name


def list_weight_files(folder: Path) -> list[Path]:
    """List the files with weights: safetensors first."""
    return (
        sorted(folder.glob("model*.safetensors"))
        or ([folder / "pytorch_model.bin"] if (folder / "pytorch_model.bin").is_file() else [])
        or sorted(folder.glob("pytorch_model-*.bin"))
    )


def prepare_folder(folder: Path, config: ModelConfig, name: str, report: Report) -> Path | None:
    """Write the entry of a large folder; ``None`` if it is of a kind that is loaded as it is."""
    if config.architecture.is_transposed:
        return None  # one scale per row would be one per input
    with ExitStack() as stack:
        try:
            source = _FolderWeights(list_weight_files(folder), stack)
            if not source.matches(config):
                return None
            source.drop_tied_head(config)
            norm_of = find_foldable_norms(source, config)
            folded = FoldedNorms(source, norm_of)
            quantization = plan_quantization(config, bool(norm_of))

            def write(target: Path) -> None:
                write_tokenizer(read_tokenizer(folder, config.vocab_size), read_chat_template(folder), target)
                write_weights(target / "model.safetensors", folded, "int8", quantization, report)

            nbytes = compute_prepared_bytes(folded, "int8", quantization) + _OTHER_BYTES
            return make_entry(name, folder, "int8", nbytes, write)
        except Exception:  # no room, or damaged files, which raise a dozen types: the usual way says what is wrong
            return None
