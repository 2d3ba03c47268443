"""Table of the models that we recommend to download, and which of them suits a machine.

Facts: names and licences as in the table of families and on the models' cards; sizes are those of the files that are
downloaded. Asks no network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from codeclippy_ls.catalog.speeds import SpeedEstimator
from codeclippy_ls.model_choices.choices import ModelChoice, rank

_ALL_JOBS = ("complete", "infill", "edit")


def _make_qwen(size: str, num_weights: int, nbytes: int) -> ModelChoice:
    name = f"Qwen/Qwen2.5-Coder-{size}-Instruct-GGUF:Q4_K_M"
    title = f"Qwen2.5-Coder {size} Instruct"
    return ModelChoice(name, title, "qwen-coder", _ALL_JOBS, size, "Q4_K_M", nbytes, "Apache-2.0", "", num_weights)


# The 3B of the same family is for research only.
RECOMMENDED: tuple[ModelChoice, ...] = (
    _make_qwen("0.5B", 494_000_000, 491_400_064),
    _make_qwen("1.5B", 1_500_000_000, 1_120_000_000),
    _make_qwen("7B", 7_000_000_000, 4_700_000_000),
    ModelChoice(
        "JetBrains/Mellum-4b-base",
        "Mellum 4B",
        "mellum",
        ("complete", "infill"),
        "4B",
        "bfloat16",
        8_000_000_000,
        "Apache-2.0",
        "",
        4_000_000_000,
    ),
)


def list_recommended(estimator: SpeedEstimator, here: Iterable[ModelChoice] = ()) -> list[ModelChoice]:
    """List the table with the speed on this machine, what suits it best first; what does not fit says so.

    Args:
        here: models on this machine; those of the same family and size are left out.
    """
    known = {(choice.family, choice.parameters.upper()) for choice in here if not choice.problem}
    choices = []
    for one in RECOMMENDED:
        if (one.family, one.parameters) in known:
            continue
        choice = replace(one, token_time=estimator.estimate(one.num_weights))
        if not choice.fits(estimator.machine):
            needed = choice.needed_memory / 2**30
            choice = replace(choice, problem=f"needs about {needed:.0f} GiB of memory and room for other programs")
        choices.append(choice)
    return sorted(choices, key=rank)


def choose_best(choices: list[ModelChoice]) -> ModelChoice | None:
    """Return the first of ranked models that infills and is fast enough while the user types, if there is one."""
    return next((one for one in choices if one.is_fast and not one.problem and "infill" in one.jobs), None)
