"""Load a model: from the name in a spec to a `Model` that has run its first tokens.

A checkpoint is a folder in the Hugging Face layout, or a hub repository that the user asked for by name. No remote code
is ever run, and no pickle that could run code is read. The native decoder runs the architectures of
`decoder.architectures`, straight from the files; transformers runs all others, and the checkpoints whose weights have
unusual names. Runs on the engine thread.
"""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from codeclippy_ls.catalog.descriptions import describe
from codeclippy_ls.catalog.prepared_cache import is_entry, remove_entry
from codeclippy_ls.catalog.speeds import RecordedSpeed, record_speed
from codeclippy_ls.catalog.stores import StoredModel
from codeclippy_ls.engine.decoder.architectures import ModelConfig, TransformersConfig, parse_config
from codeclippy_ls.engine.decoder.deferred_packing import start_packing
from codeclippy_ls.engine.decoder.linear import FLOAT_FORMATS, WeightFormats, take_deferred
from codeclippy_ls.engine.decoder.transformer import Transformer
from codeclippy_ls.engine.generation.threads import count_cores, list_thread_counts
from codeclippy_ls.engine.loading.calibration import calibrate
from codeclippy_ls.engine.loading.chat_template import read_chat_template
from codeclippy_ls.engine.loading.checkpoint import ensure_safetensors, find_checkpoint
from codeclippy_ls.engine.loading.config import (
    make_model_config,
    read_config,
    read_context_length,
    read_generation_config,
    read_stop_token_ids,
    read_transformers_config,
)
from codeclippy_ls.engine.loading.device import BALANCED, pick_device, pick_dtype, pick_weight_formats
from codeclippy_ls.engine.loading.files import summarize_error
from codeclippy_ls.engine.loading.folder_checkpoint import find_prepared_folder, prepare_folder
from codeclippy_ls.engine.loading.gguf_checkpoint import prepare_gguf
from codeclippy_ls.engine.loading.limits import check_files, check_memory, check_sizes
from codeclippy_ls.engine.loading.model import Model, Runner
from codeclippy_ls.engine.loading.prepared_tokenizer import PreparedTokenizer
from codeclippy_ls.engine.loading.prepared_weights import Report
from codeclippy_ls.engine.loading.tokenizer import Tokenizer, read_tokenizer
from codeclippy_ls.engine.loading.transformers_module import ModuleRunner, load_module
from codeclippy_ls.engine.loading.weights import open_if_complete
from codeclippy_ls.inference.errors import EngineError, ModelError, is_recoverable
from codeclippy_ls.inference.spec import ModelSpec


def load(spec: ModelSpec, native: bool = True, report: Report = lambda share: None) -> Model:
    """Load a checkpoint, check that it can be used, and warm it up.

    Args:
        native: use the native decoder if it supports the checkpoint; otherwise always transformers' module.
        report: is told the share of the weights that is prepared, at the first start.

    Raises:
        ModelError: it cannot be found, read, trusted or run; the message says why and what to do.
    """
    reused: list[Path] = []
    try:
        model = _load(spec, native, reused, report)
    except EngineError:
        if not reused:
            raise
        for entry in reused:  # whole by its sizes, but damaged within: make it anew
            remove_entry(entry)
        model = _load(spec, native, [], report)
    _record_speed(spec, model)
    return model


def _record_speed(spec: ModelSpec, model: Model) -> None:
    """Keep the speed of a model that runs as it would by default; lists of models show it."""
    if spec.dtype == "auto" and spec.name and model.speed.token_seconds:
        path = find_checkpoint(spec.name)
        num_weights = describe(StoredModel(spec.name, path, "")).num_weights or model.num_parameters
        record_speed(path, RecordedSpeed(model.device.type, num_weights, model.speed.token_seconds))


def _load(spec: ModelSpec, native: bool, reused: list[Path], report: Report) -> Model:
    """Load a checkpoint; tell which entries of the cache it took."""
    take_deferred()  # of a model that failed
    torch.set_num_threads(min(spec.threads, count_cores()) if spec.threads > 0 else list_thread_counts()[0])
    folder = find_checkpoint(spec.name)
    if folder.is_file():
        folder, is_reused = _prepare_gguf(folder, spec, report)
        reused += [folder] * is_reused
    else:
        check_files(folder)
        check_sizes(folder)
    config = read_config(folder)
    read_context_length(config, spec.name)  # rejects a bad value before the weights are read
    stop_token_ids = read_stop_token_ids(config, read_generation_config(folder).get("eos_token_id"))
    device = pick_device(spec.device)
    dtype = pick_dtype(spec.dtype, device)
    if device.type == "cpu":
        _check_memory(folder, dtype, spec, reused)
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))  # the engine thread's own
    model_config = parse_config(config) if native and device.type != "mps" and spec.device != BALANCED else None
    try:
        runner: Runner
        if model_config is not None:
            formats = pick_weight_formats(spec.dtype, device, model_config)
            prepared = _find_prepared(folder, model_config, formats, reused, report)
            runner = _load_native(prepared or folder, folder, config, model_config, device, formats)
        else:
            prepared, runner = None, _load_transformers(folder, config, device, dtype, spec)
        tokenizer, chat = _read_tokenizer(prepared or folder, folder, runner.vocab_size)
        model = Model(runner, tokenizer, spec.name, chat, stop_token_ids)
        calibrate(model, folder, prepared or (folder if is_entry(folder) else None), spec.threads)
        start_packing(take_deferred())
    except EngineError:
        raise
    except BaseException as error:
        if not is_recoverable(error):
            raise
        raise ModelError(f"the model in {folder} does not run on {device}: {summarize_error(error)}") from error
    return model


def _check_memory(folder: Path, dtype: torch.dtype, spec: ModelSpec, reused: list[Path]) -> None:
    """Reject a model that does not fit into the memory that is free; its entry in the cache is not to blame."""
    try:
        check_memory(folder, dtype, spec.dtype in ("auto", "int8"))
    except ModelError:
        reused.clear()
        raise


def _read_tokenizer(prepared: Path, folder: Path, vocab_size: int) -> tuple[Tokenizer, tuple[str, str] | None]:
    """Read the tokenizer and the chat template, from an entry of the cache if there is one."""
    if is_entry(prepared):
        tokenizer = PreparedTokenizer(prepared)
        return tokenizer, tokenizer.chat
    return read_tokenizer(folder, vocab_size), read_chat_template(folder)


def _find_prepared(
    folder: Path, model_config: ModelConfig, formats: WeightFormats, reused: list[Path], report: Report
) -> Path | None:
    """Return the prepared copy of a large folder, made now if there is none; ``None`` if it is loaded as it is."""
    if is_entry(folder) or formats.decode != "int8":
        return None
    entry, name = find_prepared_folder(folder)
    if entry is not None:
        reused.append(entry)
        return entry
    return prepare_folder(folder, model_config, name, report) if name else None


def _prepare_gguf(path: Path, spec: ModelSpec, report: Report) -> tuple[Path, bool]:
    """Return the folder of a GGUF file's copy in the format that it will run in, and whether it was there already."""
    device = pick_device(spec.device)

    def choose_format(values: dict[str, Any]) -> str:
        model_config = make_model_config(values)
        if model_config is not None and device.type != "mps" and spec.device != BALANCED:
            return pick_weight_formats(spec.dtype, device, model_config).decode
        dtype = pick_dtype(spec.dtype, device)
        # Block formats have no more digits than bfloat16 keeps, at half the size of float32.
        return "bfloat16" if spec.dtype == "auto" else str(dtype).removeprefix("torch.")

    entry, is_new = prepare_gguf(path, choose_format, f"{spec.dtype} {device.type} {spec.device == BALANCED}", report)
    return entry, not is_new


def _load_native(
    with_weights: Path,
    folder: Path,
    config: TransformersConfig,
    model_config: ModelConfig,
    device: torch.device,
    formats: WeightFormats,
) -> Transformer:
    """Read the weights straight from the files, or, if their names are unusual, through transformers' module."""
    with ExitStack() as stack:
        keep_int8 = formats.decode == "int8"
        files = ensure_safetensors(with_weights)
        weights = open_if_complete(files, model_config, device, stack, keep_int8, is_entry(with_weights))
        if weights is not None:
            return Transformer(config, weights, formats)
    module = load_module(folder, read_transformers_config(folder), FLOAT_FORMATS.get(formats.decode, torch.float32))
    return Transformer(config, module.to(device).state_dict(), formats)


def _load_transformers(
    folder: Path, config: TransformersConfig, device: torch.device, dtype: torch.dtype, spec: ModelSpec
) -> ModuleRunner:
    if spec.dtype == "int8":
        raise ModelError(f'setting "model.dtype": the model in {folder} cannot use {spec.dtype!r}; try "auto"')
    if isinstance(config, SimpleNamespace):
        config = read_transformers_config(folder)
    if spec.device == BALANCED:
        if find_spec("accelerate") is None:
            raise ModelError(
                f'setting "model.device": {BALANCED!r} needs the package accelerate; install "codeclippy-ls[split]"'
            )
        return ModuleRunner(load_module(folder, config, dtype, device_map=BALANCED), spec.name)
    return ModuleRunner(load_module(folder, config, dtype).to(device), spec.name)
