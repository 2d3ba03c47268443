"""The one offer of a better model, to users of the shipped one: which model, and whether it was made before.

It is made once for each user, in whatever editor: a file in the user's state folder is the note of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import platformdirs

from codeclippy_ls.catalog.speeds import SpeedEstimator
from codeclippy_ls.model_choices.choices import ModelChoice, list_local_models
from codeclippy_ls.model_choices.recommendations import choose_best, list_recommended
from codeclippy_ls.settings import Settings

_MIN_WEIGHTS = 100_000_000  # the shipped model has 7 million


def find_better_model(settings: Settings) -> ModelChoice | None:
    """Return the best model that is fast enough here: one on this machine, else one that can be downloaded."""
    estimator = SpeedEstimator(settings.model.device)
    here = [choice for choice in list_local_models(settings, estimator) if choice.num_weights >= _MIN_WEIGHTS]
    return choose_best(here) or choose_best(list_recommended(estimator))


def describe_offer(choice: ModelChoice) -> dict[str, Any]:
    """Return what an editor shows of an offer."""
    if choice.is_here:
        where = f"is on this machine ({choice.program})"
    else:
        where = f"can be downloaded ({choice.nbytes / 1e6:.0f} MB, {choice.licence})"
    name = choice.name if choice.is_here else choice.title
    message = (
        f"{name} {where} and suggests better code than the small model that came with Code Clippy; here it takes "
        f"{choice.token_time.describe()}"
    )
    return {"name": choice.name, "installed": choice.is_here, "message": message}


def was_offered() -> bool:
    """Return whether the offer was made before."""
    return find_note().exists()


def note_offer(name: str) -> bool:
    """Note that the offer is made now; return False if another editor was faster, or it cannot be noted."""
    try:
        find_note().parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(
            os.open(find_note(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as note:
            note.write(name + "\n")
    except OSError:
        return False
    return True


def find_note() -> Path:
    """Return the path of the note, on Linux in ``$XDG_STATE_HOME/codeclippy-ls``."""
    return platformdirs.user_state_path("codeclippy-ls", appauthor=False) / "model-offer"
