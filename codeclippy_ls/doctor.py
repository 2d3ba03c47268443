"""``codeclippy-ls doctor``: check packages, devices, the model and a timed completion, and say how to fix problems."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codeclippy_ls import __version__

if TYPE_CHECKING:
    from codeclippy_ls.assist.assistant import Assistant
    from codeclippy_ls.inference.speed import Speed
    from codeclippy_ls.settings import Settings
    from codeclippy_ls.tasks.model_info import ModelInfo

_PACKAGES = ("pygls", "lsprotocol", "torch", "transformers", "tokenizers", "safetensors", "unidiff")
_SAMPLE = "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return "
_TIME_BUDGET_MS = 60000


class Report:
    """Prints findings and counts problems."""

    def __init__(self) -> None:
        self.num_problems = 0
        self.num_slow = 0

    def add_ok(self, subject: str, finding: str) -> None:
        """Report something that works."""
        print(f"  ok    {subject}: {finding}")

    def add_slow(self, subject: str, finding: str, advice: str) -> None:
        """Report something that works, but too slowly to be of use all the time."""
        self.num_slow += 1
        print(f"  SLOW  {subject}: {finding}\n        -> {advice}")

    def add_problem(self, subject: str, finding: str, fix: str) -> None:
        """Report a problem and how to fix it."""
        self.num_problems += 1
        print(f"  FAIL  {subject}: {finding}\n        -> {fix}")


def check_installation(options: dict[str, Any]) -> int:
    """Check this installation; return 0 if everything works, otherwise 1."""
    report = Report()
    print(f"codeclippy-ls {__version__} on Python {platform.python_version()}, {platform.platform()}")
    _check_packages(report)
    _check_devices(report)
    if not {"completion", "endpoint"} & set(options.get("model", {})):
        _check_shipped_model(report)
    _check_model(report, options)
    if report.num_problems:
        print(f"{report.num_problems} problem(s), see above")
    else:
        print("everything works, but slowly, see above" if report.num_slow else "everything works")
    return 1 if report.num_problems else 0


def _check_packages(report: Report) -> None:
    for package in _PACKAGES:
        try:
            report.add_ok(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            report.add_problem(package, "not installed", f"run {sys.executable} -m pip install {package}")


def _check_devices(report: Report) -> None:
    import torch

    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    bfloat16 = "with" if torch.cpu._is_avx512_bf16_supported() else "without"
    report.add_ok("CPU", f"{os.cpu_count()} cores{memory}, {bfloat16} bfloat16 instructions")
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        report.add_ok("GPU", f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    elif torch.backends.mps.is_available():
        report.add_ok("GPU", "Apple MPS")
    else:
        report.add_ok("GPU", "none that the installed PyTorch supports; models run on the CPU")


def _check_shipped_model(report: Report) -> None:
    from codeclippy_ls.inference.spec import SHIPPED_FOLDER, read_shipped_card

    fix = "install the package again: its model files are incomplete"
    try:
        card = read_shipped_card()
        digest = hashlib.sha256((SHIPPED_FOLDER / "model.safetensors").read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        report.add_problem("shipped model", str(error), fix)
        return
    if digest != card["sha256"]:
        report.add_problem("shipped model", "the checksum of its weights is not the one in model.json", fix)
    else:
        report.add_ok(
            "shipped model",
            f"{card['name']} {card['version']}, {card['parameters'] / 1e6:.1f} million parameters, checksum correct",
        )


def _check_model(report: Report, options: dict[str, Any]) -> None:
    from codeclippy_ls.inference.errors import EngineError
    from codeclippy_ls.settings import parse
    from codeclippy_ls.user_config import read_user_settings

    model = {"engine": "in-process", **options.get("model", {})}
    base, file_problems = read_user_settings()
    settings, problems = parse({**options, "model": model, "completion": {"invokedBudgetMs": _TIME_BUDGET_MS}}, base)
    for problem in file_problems:
        report.add_problem("settings", problem, "correct the file")
    for problem in problems:
        report.add_problem("settings", problem, "correct the option on the command line")
    try:
        asyncio.run(_check_completion(report, settings))
    except EngineError as error:
        report.add_problem("model", str(error), "correct what the message names, or omit --model for the shipped model")


async def _check_completion(report: Report, settings: Settings) -> None:
    """Load the model and time one completion."""
    from codeclippy_ls.assist.assistant import Assistant
    from codeclippy_ls.engines import open_engine
    from codeclippy_ls.inference.spec import ModelRole
    from codeclippy_ls.text import Document

    assistant = Assistant(open_engine(settings), settings)
    try:
        started = time.monotonic()
        await assistant.load()
        model = assistant.model_info(ModelRole.COMPLETE)
        if model is not None:
            _report_model(report, settings, model, time.monotonic() - started)
            await _check_edit_model(report, assistant, settings)
        result = await assistant.complete(
            Document("file:///sample.py", _SAMPLE, language="python"), len(_SAMPLE), patient=True
        )
        generation = result.generation
        if generation is None or not generation.candidates[0].text:
            report.add_problem("completion", "the model generated no text for a sample", "try another model")
            return
        num_tokens = len(generation.candidates[0].token_ids)
        amount = f"{num_tokens} tokens in " if num_tokens else ""
        report.add_ok(
            "completion",
            f"{amount}{generation.seconds * 1000:.0f} ms, "
            f"first token after {generation.first_token_seconds * 1000:.0f} ms",
        )
        if model is not None and model.speed.token_seconds:
            _report_speed(report, model.speed)
    finally:
        await assistant.aclose()


async def _check_edit_model(report: Report, assistant: Assistant, settings: Settings) -> None:
    """Load the model for edits, which may be another one, and say which model does what."""
    from codeclippy_ls.inference.errors import EngineError

    try:
        if settings.edit.enabled:
            await assistant.load_edit_model()
    except EngineError as error:
        report.add_problem("edits", str(error), 'correct what the message names, or the setting "model.edit"')
    else:
        report.add_ok("models", assistant.describe_models())


def _report_speed(report: Report, speed: Speed) -> None:
    """Report what a user can expect of the model on this machine."""
    from codeclippy_ls.settings import CompletionSettings

    by_key = CompletionSettings().invoked_budget_ms / 1000
    finding = f"{speed.describe()}; {speed.count_tokens(by_key)} in {1000 * by_key:.0f} ms by key"
    if speed.writes_a_line:
        report.add_ok("speed", finding)
    else:
        report.add_slow(
            "speed", finding, 'ask by key, or set a smaller model or one with fewer bits ("model.completion")'
        )


def _report_model(report: Report, settings: Settings, model: ModelInfo, seconds: float) -> None:
    if model.served_by:
        report.add_ok("model", f"{model.name} at {model.device}, served by {model.served_by}, found in {seconds:.1f} s")
    else:
        name = Path(model.name).name if model.name else "shipped"
        report.add_ok(
            "model",
            f"{name} ({model.architecture}, {model.num_parameters / 1e6:.0f} million parameters) on {model.device}, "
            f"loaded in {seconds:.1f} s",
        )
        decoder = "its own decoder" if model.is_native else "transformers"
        graphs = f"; CUDA graphs: {model.cuda_graphs}" if model.cuda_graphs else ""
        report.add_ok(
            "runs with",
            f"{decoder}; weights: {model.dtype}, {model.nbytes / 2**20:.0f} MiB; threads: {model.threads}; a pass over "
            f"8 tokens takes {model.pass_cost:.1f} times as long as over 1{graphs}",
        )
    family = model.detect_family(settings.model.family)
    capabilities = ", ".join(capability.value for capability in model.list_capabilities(settings.model.family))
    report.add_ok("family", f"{family.name}: {capabilities}; context length {model.context_length}")
