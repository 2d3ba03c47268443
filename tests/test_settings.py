"""Settings: a bad value affects its own setting only and is named; workspaces are restricted; docs and code agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls.settings import SettingInfo, Settings, Source, WorkspaceRule, list_settings, parse

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
    options = {"model": {"completion": "/evil"}, "completion": {"maxTokens": 9}}
    settings, problems = parse(options, base, Source.WORKSPACE)
    assert settings.model.completion == "/mine" and settings.completion.max_tokens == 9
    assert problems == [
        'setting "model.completion" cannot be changed like this by a workspace, only by your own settings; '
        'using "/mine"'
    ]
    assert parse({"model": {"completion": "/mine"}}, base, Source.WORKSPACE)[1] == []
    assert "needs a restart" in parse(options, base, Source.USER)[1][0]


# By rule: what a user has, what a workspace wants, what then holds.
TRIED: dict[WorkspaceRule, list[tuple[Any, Any, Any]]] = {
    WorkspaceRule.OFF: [(False, True, False), (True, False, False), (True, True, True)],
    WorkspaceRule.ON: [(True, False, True), (False, True, True), (False, False, False)],
    WorkspaceRule.ADD: [(["a"], [], ("a",)), (["a"], ["b", "a"], ("a", "b"))],
    WorkspaceRule.REMOVE: [([], ["scope"], ()), (["scope", "overlap"], ["overlap"], ("overlap",))],
}


def _list_trials(setting: SettingInfo) -> list[tuple[Any, Any, Any]]:
    """List what is tried of a setting: the user's value, a workspace's, and the one that must then hold."""
    if setting.workspace in TRIED:
        return TRIED[setting.workspace]
    if setting.workspace in (WorkspaceRule.LOWER, WorkspaceRule.RAISE):
        assert setting.minimum is not None and setting.maximum is not None
        low, high = setting.minimum, setting.maximum
        strict, loose = (low, high) if setting.workspace is WorkspaceRule.LOWER else (high, low)
        return [(strict, loose, strict), (loose, strict, strict)]
    if setting.workspace in (WorkspaceRule.FIRST, WorkspaceRule.LAST):
        ordered = setting.choices if setting.workspace is WorkspaceRule.FIRST else setting.choices[::-1]
        return [(mine, theirs, min(mine, theirs, key=ordered.index)) for mine in ordered for theirs in ordered]
    assert setting.workspace in (WorkspaceRule.START, WorkspaceRule.USER)
    values = setting.choices or {bool: (True, False), int: (1, 2), float: (0.1, 0.2), str: ("a", "b")}.get(
        type(setting.default), (["a"], ["b"])
    )
    return [(mine, theirs, mine) for mine in values for theirs in values]


@pytest.mark.parametrize("setting", list_settings(), ids=lambda setting: setting.path)
def test_a_workspace_only_tightens_a_setting(setting: SettingInfo) -> None:
    """By the rule that the setting declares; for every setting there is."""
    section, name = setting.path.split(".")
    trials = _list_trials(setting)
    assert trials
    for mine, theirs, expected in trials:
        base, problems = parse({section: {name: mine}})
        assert not problems
        settings, _ = parse({section: {name: theirs}}, base, Source.WORKSPACE)
        others, _ = parse({section: {name: expected}})
        assert settings == others, f"{setting.path}: {mine} by the user, {theirs} by a workspace"


def test_a_workspace_adds_a_bounded_number_of_items() -> None:
    """Each costs time at every key."""
    base, _ = parse({"completion": {"disabledPaths": ["mine"]}})
    many = {"completion": {"disabledPaths": [f"*{number}" for number in range(100_000)]}}
    assert len(parse(many, base, Source.WORKSPACE)[0].completion.disabled_paths) <= 201


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
    rule = setting.workspace.value
    return f"| `{setting.path}` | {shown} | {values} | {rule} | {setting.description} |".replace("|  |", "| |")
