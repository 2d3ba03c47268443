"""`ModelInfo`: metadata of a loaded model as plain data, so that a caller needs no access to the model. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from codeclippy_ls.families import (
    Capability,
    EditFormat,
    Family,
    detect_family,
    detect_served_family,
    select_edit_format,
)
from codeclippy_ls.inference.engine import ModelStatus
from codeclippy_ls.inference.speed import Speed
from codeclippy_ls.prompts.token_prompts import collect_control_token_ids


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Metadata of a loaded model.

    Attributes:
        name: folder or hub name it was loaded by; empty is the shipped model.
        control_token_ids: ids of the control tokens that families are detected by.
        is_chat: it follows instructions.
        context_length: tokens that prompt and answer have together at most.
        num_parameters: numbers in the weights; ``nbytes`` is the memory that they take.
        device, dtype, threads: where and how it runs.
        is_native: our own decoder runs it.
        cuda_graphs: how captured CUDA graphs are used, in words; empty without them.
        pass_cost: cost of a forward pass over eight tokens, relative to a pass over one.
        speed: of prompts and tokens on this machine, as measured when it was loaded.
        served_by: the service's name if another program serves the model, so that its vocabulary is unknown.
        listed_tokens: control tokens that the service says the model has.
    """

    name: str
    architecture: str = ""
    control_token_ids: tuple[tuple[str, int], ...] = ()
    is_chat: bool = False
    context_length: int = 0
    num_parameters: int = 0
    nbytes: int = 0
    device: str = ""
    dtype: str = ""
    threads: int = 0
    is_native: bool = False
    cuda_graphs: str = ""
    pass_cost: float = 1.0
    speed: Speed = field(default_factory=Speed)
    served_by: str = ""
    listed_tokens: tuple[str, ...] = ()

    def detect_family(self, configured: str = "") -> Family:
        """Return its row in the table of families.

        Raises:
            ValueError: the configured family does not fit.
        """
        if self.served_by:
            return detect_served_family(self.name, configured)
        return detect_family(self.architecture, self.name, dict(self.control_token_ids).get, configured)

    def select_edit_format(self, configured: str = "") -> EditFormat | None:
        """Return how it edits; ``None`` if it does not.

        Raises:
            ValueError: the configured family does not fit.
        """
        return select_edit_format(self.detect_family(configured), self.is_chat)

    def supports_edits(self, configured: str = "") -> bool:
        """Return whether it makes edits: by its training, or because it follows instructions.

        Raises:
            ValueError: the configured family does not fit.
        """
        return self.select_edit_format(configured) is not None

    def list_capabilities(self, configured: str = "") -> list[Capability]:
        """Return what it can do; a model that follows instructions edits, whatever its family is trained for.

        Raises:
            ValueError: the configured family does not fit.
        """
        capabilities = list(self.detect_family(configured).capabilities)
        if self.supports_edits(configured) and Capability.EDIT not in capabilities:
            capabilities.append(Capability.EDIT)
        return capabilities

    @property
    def short_name(self) -> str:
        """Its name in messages, without folders."""
        return shorten_model_name(self.name)

    def describe(self) -> str:
        """Describe it to the user: name, place, milliseconds a token if they were measured."""
        place = f" {'at' if self.served_by else 'on'} {self.device}" if self.device else ""
        seconds = self.speed.token_seconds
        return f"{self.short_name}{place}{f', {1000 * seconds:.2g} ms a token' if seconds else ''}"


def shorten_model_name(name: str) -> str:
    """Return a model's name in messages; the shipped model has none of its own."""
    return PurePath(name).name if name else "the shipped model"


def describe_status(name: str, status: ModelStatus) -> str:
    """Describe a new status of a model as a line of the log."""
    known = status.info.describe() if isinstance(status.info, ModelInfo) else shorten_model_name(name)
    detail = status.reason or known
    return f"model {status.state.value}: {detail}"


def describe_model(model: Any) -> ModelInfo:
    """Collect the metadata of a model that the engine has loaded."""
    return ModelInfo(
        model.name,
        model.architecture,
        collect_control_token_ids(model.tokenizer),
        model.chat is not None,
        model.context_length,
        model.num_parameters,
        model.nbytes,
        str(model.device),
        model.dtype,
        model.thread_tuner.count,
        model.module is None,
        str(getattr(model.runner, "graph_runner", None) or ""),
        round(model.pass_cost(8), 2),
        model.speed,
    )
