"""Settings: a bad value affects its own setting only and is named; workspaces are restricted; docs and code agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls.settings import SettingInfo, Settings, list_settings, parse

DOCS = Path(__file__).parent.parent / "docs" / "settings.md"


def test_defaults_and_camel_case() -> None:
    """Without options the settings are the defaults; keys are camelCase."""
    assert parse(None) == (Settings(), [])
    settings, problems = parse({"codeclippy": {"completion": {"maxTokens": 7, "topP": 1}, "edit": {"presets": ["Do"]}}})
    assert not problems
    assert (settings.completion.max_tokens, settings.completion.top_p, settings.edit.presets) == (7, 1.0, ("Do",))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"completion": {"maxTokens": "9"}}, "\"completion.maxTokens\" must be an integer, not '9'; using 48"),
        ({"completion": {"maxTokens": True}}, '"completion.maxTokens" must be an integer'),
        ({"completion": {"maxTokens": 0}}, "must be between 1 and 1024, not 0"),
        ({"completion": {"temperature": float("nan")}}, "must be between"),
        ({"completion": {"enabled": 1}}, "must be true or false"),
        ({"completion": 5}, '"completion" must be an object'),
        ({"model": {"dtype": "int3"}}, "unknown value 'int3' for \"model.dtype\"; expected one of auto, float32"),
        (
            {"completion": {"disabledFilters": ["scope", "fence"]}},
            "unknown value 'fence' for \"completion.disabledFilters\"; expected one of",
        ),
        ({"edit": {"presets": ["", "x"]}}, "must be a list of strings"),
        ({"model": {"complte": "x"}}, 'unknown setting "model.complte"'),
        ({"modle": {}}, 'unknown setting "modle"'),
        ("nonsense", '"codeclippy" must be an object'),
    ],
)
def test_a_bad_value_is_named_and_affects_no_other_setting(options: Any, problem: str) -> None:
    """The setting keeps its default, the others get their values."""
    given = {"completion": {"timeBudgetMs": 123}, **options} if isinstance(options, dict) else options
    settings, problems = parse(given)
    assert len(problems) == 1 and problem in problems[0]
    assert settings.completion.max_tokens == 48 and settings.model == Settings().model
    if isinstance(options, dict) and "completion" not in options:
        assert settings.completion.time_budget_ms == 123


def test_a_workspace_cannot_choose_what_is_loaded() -> None:
    """Restricted settings of a workspace are ignored with a reason, others are used, and the base is kept."""
    base, _ = parse({"model": {"completion": "/mine", "device": "cpu"}})
    settings, problems = parse({"model": {"completion": "/evil", "cacheMegabytes": 9}}, base, trusted=False)
    assert settings.model.completion == "/mine" and settings.model.cache_megabytes == 9
    assert problems == ['setting "model.completion" cannot be set by a workspace; it is ignored']
    assert parse({"model": {"completion": "/mine"}}, base, trusted=False)[1] == []


@pytest.mark.parametrize("setting", list_settings(), ids=lambda setting: setting.path)
def test_a_setting_has_its_row_in_the_docs(setting: SettingInfo) -> None:
    """Its default, its values, its restriction and its description are those of the code."""
    rows = [line for line in _table() if line.startswith(f"| `{setting.path}` |")]
    assert rows == [_format_row(setting)], f"{DOCS.name}: the row of {setting.path} must be:\n{_format_row(setting)}"


def test_docs_list_the_settings_in_order_and_no_others() -> None:
    names = [line.split("`")[1] for line in _table()]
    assert names == [setting.path for setting in list_settings()]


def _table() -> list[str]:
    return [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]


def _format_row(setting: SettingInfo) -> str:
    """Format the row of a setting in docs/settings.md."""
    default = setting.default
    if isinstance(default, bool):
        shown = str(default).lower()
    else:
        shown = (", ".join(default) if isinstance(default, tuple) else str(default)) or "empty"
    values = ", ".join(f"`{choice}`" for choice in setting.choices)
    if setting.minimum is not None:
        values = f"{setting.minimum:.9g} to {setting.maximum:.9g}" if setting.maximum is not None else ""
    restricted = "yes" if setting.restricted else "no"
    return f"| `{setting.path}` | {shown} | {values} | {restricted} | {setting.description} |".replace("|  |", "| |")
