"""Choose the device and the number format that a model runs in: as the settings say, or the fastest on this machine.

Knows no checkpoint.
"""

from __future__ import annotations

import torch

from codeclippy_ls.engine.decoder.architectures import ModelConfig
from codeclippy_ls.engine.decoder.linear import (
    FLOAT_FORMATS,
    WeightFormats,
    choose_fastest_formats,
    list_available_formats,
)
from codeclippy_ls.engine.loading.files import summarize_error
from codeclippy_ls.inference.errors import ModelError

BALANCED = "balanced"  # accelerate's word for a model that is split over all GPUs
# Up to this many parameters a second copy of the weights, in the format for many tokens, is worth its memory.
_MAX_PARAMETERS_FOR_TWO_FORMATS = 1_500_000_000


def pick_device(wanted: str) -> torch.device:
    """Return the device of that name; for ``auto`` and ``balanced`` CUDA, MPS or the CPU, whichever comes first.

    Raises:
        ModelError: the device does not work here.
    """
    if wanted in ("auto", BALANCED):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.zeros(1, device=wanted).item()
        return torch.device(wanted)
    except Exception as error:  # each backend raises its own types, ModuleNotFoundError among them
        raise ModelError(
            f'setting "model.device": {wanted!r} cannot be used here ({summarize_error(error)}); try "auto"'
        ) from error


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return transformers' type of that name; for ``auto`` the fastest one that the hardware computes in.

    Raises:
        ModelError: the name is not one of float32, bfloat16, float16 and int8 (which is float32 here).
    """
    if wanted != "auto":
        if wanted not in (*FLOAT_FORMATS, "int8"):
            raise ModelError(f'setting "model.dtype": {wanted!r} is not one of auto, {", ".join(FLOAT_FORMATS)}, int8')
        return FLOAT_FORMATS.get(wanted, torch.float32)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def pick_weight_formats(wanted: str, device: torch.device, config: ModelConfig) -> WeightFormats:
    """Return the native decoder's format of that name; for ``auto`` the fastest ones on this machine.

    Raises:
        ModelError: int8 does not work on this device.
    """
    if wanted == "auto":
        fastest = choose_fastest_formats(device.type, config.hidden_size)
        has_room = config.num_parameters <= _MAX_PARAMETERS_FOR_TWO_FORMATS
        return fastest if has_room else WeightFormats(fastest.decode, fastest.decode)
    if wanted == "int8" and wanted not in list_available_formats(device.type):
        raise ModelError(f'setting "model.dtype": {wanted!r} cannot be used on {device}; try "auto"')
    return WeightFormats(wanted, wanted)
