"""Settings: bad values cost their own field only and are named; what a workspace may not set; docs and code agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls.settings import Settings, parse, reference

ROOT = Path(__file__).parent.parent


def test_defaults_and_camel_case() -> None:
    """Nothing given is the defaults; keys are the wire's."""
    assert parse(None) == (Settings(), [])
    settings, problems = parse({"codeclippy": {"completion": {"maxTokens": 7, "topP": 1}, "edit": {"presets": ["Do"]}}})
    assert not problems
    assert (settings.completion.max_tokens, settings.completion.top_p, settings.edit.presets) == (7, 1.0, ("Do",))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"completion": {"maxTokens": "9"}}, '"completion.maxTokens" must be a whole number'),
        ({"completion": {"maxTokens": True}}, '"completion.maxTokens" must be a whole number'),
        ({"completion": {"maxTokens": 0}}, "must lie between 1 and 1024"),
        ({"completion": {"temperature": float("nan")}}, "must lie between"),
        ({"completion": {"enabled": 1}}, "must be true or false"),
        ({"completion": 5}, '"completion" must be an object'),
        ({"model": {"dtype": "int3"}}, "must be one of auto, float32"),
        ({"edit": {"presets": ["", "x"]}}, "must be a list of strings"),
        ({"model": {"complte": "x"}}, '"model.complte" does not exist'),
        ({"modle": {}}, '"modle" does not exist'),
        ("nonsense", '"codeclippy" must be an object'),
    ],
)
def test_bad_values_are_named_and_cost_nothing_else(options: Any, problem: str) -> None:
    """The field keeps its default, its neighbours their values."""
    given = {"completion": {"timeBudgetMs": 123}, **options} if isinstance(options, dict) else options
    settings, problems = parse(given)
    assert len(problems) == 1 and problem in problems[0]
    assert settings.completion.max_tokens == 48 and settings.model == Settings().model
    if isinstance(options, dict) and "completion" not in options:
        assert settings.completion.time_budget_ms == 123


def test_a_workspace_cannot_choose_what_is_loaded() -> None:
    """Restricted keys are ignored with a reason; others are taken; the base is kept."""
    base, _ = parse({"model": {"completion": "/mine", "device": "cpu"}})
    settings, problems = parse({"model": {"completion": "/evil", "cacheMegabytes": 9}}, base, trusted=False)
    assert settings.model.completion == "/mine" and settings.model.cache_megabytes == 9
    assert problems == ['setting "model.completion" may not be set by a workspace; it is ignored']
    assert parse({"model": {"completion": "/mine"}}, base, trusted=False)[1] == []


def test_the_docs_list_every_setting_with_its_default() -> None:
    """docs/settings.md is what the code says."""
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for path, default, help, restricted in reference():
        rows = [line for line in text.splitlines() if line.startswith(f"| `{path}` |")]
        assert len(rows) == 1, f"{path} has no row, or several"
        assert help in rows[0] and (" yes |" in rows[0]) == restricted
        shown = str(default).lower() if isinstance(default, bool) else str(default) or "empty"
        texts = default if isinstance(default, tuple) else [f"| {shown} |"]
        assert all(text in rows[0] for text in texts), rows[0]
