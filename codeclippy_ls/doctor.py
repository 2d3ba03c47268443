"""``codeclippy-ls doctor``: versions, device, memory, the model, a timed completion, and what to do about problems."""

from __future__ import annotations

import asyncio
import hashlib
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from codeclippy_ls import __version__

_PACKAGES = ("pygls", "lsprotocol", "torch", "transformers", "tokenizers", "safetensors", "unidiff")
_SAMPLE = "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return "


class Report:
    """Lines of findings, and how many of them are problems."""

    def __init__(self) -> None:
        self.problems = 0

    def good(self, what: str, found: str) -> None:
        """Something that is as it should be."""
        print(f"  ok    {what}: {found}")

    def bad(self, what: str, found: str, cure: str) -> None:
        """A problem, with its cure."""
        self.problems += 1
        print(f"  FAIL  {what}: {found}\n        -> {cure}")


def examine(options: dict[str, Any]) -> int:
    """Examine this installation; 0 where everything works, 1 where something does not."""
    report = Report()
    print(f"codeclippy-ls {__version__} on Python {platform.python_version()}, {platform.platform()}")
    _packages(report)
    _device(report)
    if not {"completion", "endpoint"} & set(options.get("model", {})):
        _shipped(report)
    _model(report, options)
    print("everything works" if not report.problems else f"{report.problems} problem(s), see above")
    return 1 if report.problems else 0


def _packages(report: Report) -> None:
    for package in _PACKAGES:
        try:
            report.good(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            report.bad(package, "not installed", f"{sys.executable} -m pip install {package}")


def _device(report: Report) -> None:
    import os

    import torch

    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    report.good(
        "cpu",
        f"{os.cpu_count()} cores{memory}; bfloat16 in hardware: "
        f"{'yes' if torch.cpu._is_avx512_bf16_supported() else 'no'}",
    )
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        report.good("gpu", f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    elif torch.backends.mps.is_available():
        report.good("gpu", "Apple MPS")
    else:
        report.good("gpu", "none that this build of torch can use; the CPU does the work")


def _shipped(report: Report) -> None:
    from codeclippy_ls.inference.spec import SHIPPED_FOLDER, read_shipped_card

    cure = "install the package again: the model inside it is not whole"
    try:
        card = read_shipped_card()
        digest = hashlib.sha256((SHIPPED_FOLDER / "model.safetensors").read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        report.bad("shipped model", str(error), cure)
        return
    if digest != card["sha256"]:
        report.bad("shipped model", "its weights do not have the hash on its card", cure)
    else:
        report.good(
            "shipped model",
            f"{card['name']} {card['version']}, {card['parameters'] / 1e6:.1f} million parameters, hash right",
        )


def _model(report: Report, options: dict[str, Any]) -> None:
    from codeclippy_ls.inference.errors import EngineError
    from codeclippy_ls.settings import parse

    model = {"engine": "in-process", **options.get("model", {})}
    settings, problems = parse({**options, "model": model, "completion": {"timeBudgetMs": 60000}})
    for problem in problems:
        report.bad("settings", problem, "correct the option")
    try:
        asyncio.run(_try(report, settings))
    except EngineError as error:
        report.bad("model", str(error), "see the message; without --model the shipped model is used")


async def _try(report: Report, settings: Any) -> None:
    from codeclippy_ls.assist.assistant import Assistant
    from codeclippy_ls.engines import open_engine
    from codeclippy_ls.inference.spec import ModelRole
    from codeclippy_ls.text import Document

    assistant = Assistant(open_engine(settings), settings)
    try:
        started = time.monotonic()
        await assistant.load()
        model: Any = assistant.model_info(ModelRole.COMPLETE)
        family = model.detect_family(settings.model.family)
        if model.served_by:
            report.good(
                "model",
                f"{model.name} at {model.device}, served by {model.served_by}, found in "
                f"{time.monotonic() - started:.1f} s",
            )
        else:
            _here(report, model, time.monotonic() - started)
        report.good(
            "family",
            f"{family.name}: {', '.join(one.value for one in family.capabilities)}; context {model.context_length}",
        )
        result = await assistant.complete(Document("file:///sample.py", _SAMPLE, language="python"), len(_SAMPLE))
        generation = result.generation
        if generation is None or not generation.candidates[0].text:
            report.bad("completion", "the model wrote nothing", "try another model")
            return
        tokens = len(generation.candidates[0].token_ids)
        report.good(
            "completion",
            (f"{tokens} tokens in " if tokens else "made in ")
            + f"{generation.seconds * 1000:.0f} ms, the first after {generation.first_token_seconds * 1000:.0f} ms",
        )
    finally:
        await assistant.aclose()


def _here(report: Report, model: Any, seconds: float) -> None:
    """A model of this process."""
    report.good(
        "model",
        f"{Path(model.name).name if model.name else 'shipped'} ({model.architecture}, "
        f"{model.num_parameters / 1e6:.0f} million parameters) on {model.device}, "
        f"loaded in {seconds:.1f} s",
    )
    report.good(
        "runs by",
        f"{_runner(model)}; weights: {model.dtype}, {model.nbytes / 2**20:.0f} MiB; "
        f"threads: {model.threads}; a pass over 8 tokens costs {model.pass_cost:.1f} of one"
        + (f"; passes: {model.cuda_graphs}" if model.cuda_graphs else ""),
    )


def _runner(model: Any) -> str:
    return "its own decoder" if model.is_native else "transformers' module"
