"""Resolve the settings to the `ModelSpec` of each role's model. Pure."""

from __future__ import annotations

from codeclippy_ls.inference.spec import ModelRole, ModelSpec
from codeclippy_ls.settings import Settings


def resolve_model_specs(settings: Settings) -> dict[str, ModelSpec]:
    """Return the spec of each role's model; edits use the completion model unless the settings name another."""
    complete = resolve_model_spec(settings, settings.model.completion)
    edit = resolve_model_spec(settings, settings.model.edit) if settings.model.edit else complete
    return {ModelRole.COMPLETE: complete, ModelRole.EDIT: edit}


def resolve_model_spec(settings: Settings, name: str) -> ModelSpec:
    """Return the spec of a model by name, with the settings' device, number format and threads."""
    model = settings.model
    return ModelSpec(name, model.device, model.dtype, model.threads)
