"""Loading a checkpoint and running it: device, number format, attention, KV caches.

A checkpoint is a folder in the Hugging Face layout, or the name of a hub repository that the user asked for. No
remote code is ever run and no free pickle is read: safetensors first, else ``torch.load(weights_only=True)``, kept as
safetensors for the next start. Knows token ids only. Everything here belongs to the engine thread.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from codeclippy_ls.engine.errors import ModelError, NonFiniteError
from codeclippy_ls.engine.spec import SHIPPED, ModelSpec
from codeclippy_ls.engine.tokenizer import Tokenizer, read_tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LFS_POINTER = b"version https://git-lfs"


class Model:
    """A causal language model with its tokenizer.

    Attributes:
        name: the folder or hub name it was asked for by.
        architecture: transformers' ``model_type``.
        window: the most tokens prompt and output may have together.
        ends: ids that end a text, from the checkpoint's configuration.
    """

    def __init__(self, module: Any, tokenizer: Tokenizer, name: str) -> None:
        config = module.config
        self.module = module.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.architecture: str = config.model_type
        self.window = int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 2048))
        self.ends = _ends(module)
        self.device: torch.device = next(module.parameters()).device
        self.dtype: torch.dtype = next(module.parameters()).dtype
        self.parameters = sum(parameter.numel() for parameter in module.parameters())

    def new_cache(self) -> Any:
        """An empty KV cache. Full layers always, also for sliding-window models: only these can be cropped."""
        from transformers import DynamicCache

        return DynamicCache()

    @torch.inference_mode()
    def forward(self, tokens: Sequence[int], cache: Any) -> torch.Tensor:
        """Run tokens after what ``cache`` holds, extend it, and return the last token's logits.

        Args:
            tokens: k ids, k > 0; the cache's length plus k must not exceed the window.

        Returns:
            Logits over the vocabulary, shape (vocabulary,), float32, on the model's device.

        Raises:
            NonFiniteError: the logits hold NaN or infinity.
        """
        ids = torch.tensor([tokens], device=self.device)
        logits = self.module(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
        logits = logits.float()
        # A sum is finite only if every term is: one pass, one synchronisation.
        if not bool(torch.isfinite(logits.sum())):
            raise NonFiniteError(f"{self.name or 'the shipped model'} produced NaN scores; its weights are damaged")
        return logits


def load(spec: ModelSpec) -> Model:
    """Load a checkpoint and try it on one token.

    Raises:
        ModelError: it cannot be had, read or trusted; the message says which and what to do.
    """
    torch.set_num_threads(spec.threads or default_threads())
    folder = _folder(spec.name)
    config = _config(folder)
    device = pick_device(spec.device)
    module = _module(_with_safetensors(folder), config, pick_dtype(spec.dtype, device))
    tokenizer = read_tokenizer(folder)
    try:
        model = Model(module.to(device), tokenizer, spec.name)
        model.forward([min(1, tokenizer.size - 1)], model.new_cache())
    except NonFiniteError:
        raise
    except Exception as error:
        raise ModelError(f"the model in {folder} does not run on {device}: {_brief(error)}") from error
    return model


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
        torch.empty(1, device=wanted)
        return torch.device(wanted)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(f'setting "device": {wanted!r} cannot be used here ({_brief(error)}); try "auto"') from error


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


def _folder(name: str) -> Path:
    if not name:
        return SHIPPED
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(f'setting "model": {name!r} is no folder and no hub name (owner/model)')
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    """A hub repository's snapshot, from the local cache or downloaded: the user asked for it by name."""
    from huggingface_hub import HfApi, snapshot_download

    wanted = ["*.json", "*.txt", "tokenizer.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=[*wanted, "*.safetensors", "pytorch_model*.bin"],
                                      local_files_only=True))
    except Exception:  # not in the cache yet
        pass
    try:
        files = HfApi().list_repo_files(name)
        safe = any(file.endswith(".safetensors") for file in files)
        weights = ["*.safetensors"] if safe else ["pytorch_model*.bin"]
        return Path(snapshot_download(name, allow_patterns=wanted + weights))
    except Exception as error:  # network and hub errors of many kinds
        raise ModelError(f"the model {name!r} is not on this machine and cannot be downloaded: {_brief(error)}. "
                         'Set "model" to a local folder, or remove the setting to use the shipped model') from error


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; a checkpoint folder in the Hugging Face layout is needed")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # ValueError, KeyError, OSError, JSON errors
        raise ModelError(f"{folder / 'config.json'} cannot be used: {_brief(error)}") from error
    # A checkpoint may ask for a kernel in its config; that request is not honoured.
    config._attn_implementation = "eager"
    return config


def _module(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{folder} holds a {config.model_type!r} model, which is no causal language model known here")
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if getattr(architecture, "_supports_sdpa", False):
        config._attn_implementation = "sdpa"
    try:
        module, report = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, trust_remote_code=False, use_safetensors=True,
            local_files_only=True, output_loading_info=True,
        )
    except Exception as error:  # damaged files raise a dozen kinds
        raise ModelError(f"the weights in {folder} cannot be read: {_brief(error)}") from error
    if lost := sorted(report["missing_keys"]) or sorted(map(str, report.get("mismatched_keys") or ())):
        raise ModelError(f"the checkpoint in {folder} lacks {len(lost)} weights ({lost[0]} ...): it is not whole")
    return module


def _with_safetensors(folder: Path) -> Path:
    """The folder itself, or the kept copy of it in which ``pytorch_model.bin`` became safetensors."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        weights = sorted(folder.glob("pytorch_model*.bin"))
        if not weights:
            raise ModelError(f"{folder} holds no weights: neither *.safetensors nor pytorch_model.bin")
    for file in weights:
        with file.open("rb") as stream:
            if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise ModelError(f"{file} is a Git LFS pointer, not weights; fetch it with `git lfs pull`")
    return folder if weights[0].suffix == ".safetensors" else _converted(folder, weights)


def _converted(folder: Path, weights: list[Path]) -> Path:
    stamp = [f"{file.resolve()}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in weights]
    target = cache_folder() / "converted" / hashlib.sha256("\n".join(stamp).encode()).hexdigest()[:16]
    if target.is_dir():
        return target
    from safetensors.torch import save_file

    state: dict[str, torch.Tensor] = {}
    for file in weights:
        try:
            state.update(torch.load(file, map_location="cpu", weights_only=True))
        except Exception as error:
            raise ModelError(f"{file} cannot be read safely (weights_only): {_brief(error)}") from error
    tensors = {key: value.clone().contiguous() for key, value in state.items() if isinstance(value, torch.Tensor)}
    target.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that a start that is cut off leaves nothing half done.
    aside = Path(tempfile.mkdtemp(dir=target.parent))
    save_file(tensors, aside / "model.safetensors", metadata={"format": "pt"})
    for file in [*folder.glob("*.json"), *folder.glob("*.txt")]:
        if not file.name.endswith(".index.json"):
            shutil.copy(file, aside)
    try:
        aside.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(aside, ignore_errors=True)
    return target


def cache_folder() -> Path:
    """Where converted checkpoints are kept: ``$XDG_CACHE_HOME/codeclippy-ls``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codeclippy-ls"


def _ends(module: Any) -> frozenset[int]:
    ends: set[int] = set()
    for config in (module.config, module.generation_config):
        found = getattr(config, "eos_token_id", None)
        ends.update(found if isinstance(found, list) else [] if found is None else [found])
    return frozenset(ends)


def _brief(error: BaseException) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first if len(first) <= 300 else first[:299] + "…"
