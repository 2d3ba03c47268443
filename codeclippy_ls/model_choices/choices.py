"""`ModelChoice`: a model that can be chosen, or the reason why it cannot. Joins the catalog with the families' facts.

Reads headers and names only. Knows no editor and no command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from codeclippy_ls.catalog.descriptions import ModelDescription, describe
from codeclippy_ls.catalog.machine import Machine
from codeclippy_ls.catalog.speeds import SpeedEstimator, TokenTime
from codeclippy_ls.catalog.stores import DOWNLOADS, list_stored_models
from codeclippy_ls.families import Capability, Family, detect_family, detect_served_family
from codeclippy_ls.settings import Settings

# A line of 20 tokens behind 32 new ones of its prompt, which cost as much as two, in the two seconds that a suggestion
# by typing has at most.
MAX_TYPING_TOKEN_SECONDS = 2.0 / 22
_MEMORY_FACTOR, _BASE_MEMORY = 1.3, 600 << 20  # of the weights in int8, and of the program itself
_MAX_SHARE_OF_MEMORY = 0.6  # editors, browsers and tests need the rest
_JOBS = {Capability.COMPLETION: "complete", Capability.FIM: "infill", Capability.EDIT: "edit"}


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model to choose.

    Attributes:
        name: what a setting calls it; of one that must be downloaded, what `models get` calls it.
        family: the row of the table of families that its name belongs to.
        jobs: what it can do: ``complete``, ``infill``, ``edit``.
        parameters: their number as its owner writes it, such as ``0.5B``; empty if it is unknown.
        nbytes: size on the disk, or of the download; 0 is unknown.
        program: whose it is; empty if it must be downloaded first.
        num_weights: those that a token reads; 0 is unknown.
        problem: why it cannot be used; empty if it can.
        path: its file or folder, if it is here.
    """

    name: str
    title: str
    family: str = ""
    jobs: tuple[str, ...] = ()
    parameters: str = ""
    number_format: str = ""
    nbytes: int = 0
    licence: str = ""
    program: str = ""
    num_weights: int = 0
    token_time: TokenTime = field(default_factory=TokenTime)
    problem: str = ""
    path: Path | None = None

    @property
    def is_here(self) -> bool:
        """It is on this machine."""
        return bool(self.program)

    @property
    def is_fast(self) -> bool:
        """It writes a usual line while the user types."""
        return 0 < self.token_time.seconds <= MAX_TYPING_TOKEN_SECONDS

    def fits(self, machine: Machine) -> bool:
        """Return whether the machine's memory has room for it and for other programs."""
        return not machine.memory_bytes or self.needed_memory <= _MAX_SHARE_OF_MEMORY * machine.memory_bytes

    @property
    def needed_memory(self) -> int:
        """Bytes of memory that it needs on a CPU."""
        return int(_MEMORY_FACTOR * self.num_weights) + _BASE_MEMORY

    def describe(self) -> str:
        """Describe it to the user in one line, without its name."""
        parts = [f"{self.family}: {', '.join(self.jobs)}", *self._describe_size(), self.token_time.describe()]
        return "; ".join(part for part in (*parts, self.licence) if part)

    def describe_briefly(self) -> str:
        """Describe it in a line of an editor's list, which may be cut off at its end."""
        parts = [", ".join(self.jobs), self.token_time.describe(), *self._describe_size(), self.licence]
        return "; ".join(part for part in parts if part)

    def _describe_size(self) -> tuple[str, str]:
        size = f"{self.nbytes / 1e6:.0f} MB" if self.nbytes < 1e9 else f"{self.nbytes / 1e9:.1f} GB"
        what = " ".join(part for part in (self.parameters, self.number_format) if part)
        return what, size if self.nbytes else ""

    def to_json(self) -> dict[str, Any]:
        """Return what an editor's list shows."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.describe_briefly(),
            "jobs": list(self.jobs),
            "program": self.program,
            "installed": self.is_here,
            "milliseconds": round(1000 * self.token_time.seconds, 1),
            "problem": self.problem,
        }


def list_local_models(settings: Settings, estimator: SpeedEstimator, folders: Iterable[str] = ()) -> list[ModelChoice]:
    """List the models on this machine: first those that infill, the best that are fast enough in front.

    Args:
        folders: more folders to look into than the settings name.
    """
    stored = list_stored_models((*settings.model.folders, *folders))
    return sorted((_make_choice(describe(one), estimator) for one in stored), key=rank)


def rank(choice: ModelChoice) -> tuple[Any, ...]:
    """Return a model's place in a list: usable, infills, fast; of fast ones the largest, of slow ones the fastest."""
    return (
        bool(choice.problem),
        "infill" not in choice.jobs,
        not choice.is_fast,
        -choice.num_weights if choice.is_fast else choice.token_time.seconds,
        PurePath(choice.name).is_absolute(),  # of the same model, the one with a short name first
        choice.name,
    )


def _make_choice(description: ModelDescription, estimator: SpeedEstimator) -> ModelChoice:
    stored = description.stored
    if description.problem:
        return ModelChoice(
            stored.name, description.title, program=stored.program, problem=description.problem, path=stored.path
        )
    family = _detect_family(description)
    jobs = [_JOBS[capability] for capability in family.capabilities]
    if description.is_chat and "edit" not in jobs:
        jobs.append("edit")
    return ModelChoice(
        stored.name,
        description.title,
        family.name,
        tuple(jobs),
        description.size_label or _count_in_words(description.num_weights),
        description.number_format,
        description.nbytes,
        description.licence or family.licence,
        stored.program,
        description.num_weights,
        estimator.estimate(description.num_weights, stored.path),
        path=stored.path,
    )


def _detect_family(description: ModelDescription) -> Family:
    """Detect the family by the tokens of a folder's tokenizer; a GGUF file's are too many to read, so by its names."""
    stored = description.stored
    if description.added_tokens:
        return detect_family(description.model_type, stored.name, description.added_tokens.get)
    return detect_served_family(f"{stored.name} {description.title}".replace(" ", "-"))


def _count_in_words(num_weights: int) -> str:
    if not num_weights:
        return ""
    return f"{num_weights / 1e9:.1f}B" if num_weights >= 1e9 else f"{num_weights / 1e6:.0f}M"


def is_downloaded(choice: ModelChoice) -> bool:
    """Return whether `models get` downloaded it, so that `models remove` may remove it."""
    return choice.program == DOWNLOADS
