"""Say at the end of a run which tests it left out, and how to run them. Hooks, which ``conftest.py`` takes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

COMMANDS = {"slow": "make test-all", "editors": "make test-editors"}
_COUNTS = pytest.StashKey["Counter[str]"]()


def _counts(config: pytest.Config) -> Counter[str]:
    return config.stash.setdefault(_COUNTS, Counter())


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count by marker."""
    for item in items:
        for marker in COMMANDS:
            if item.get_closest_marker(marker):
                _counts(item.config)[marker] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the controller of pytest-xdist, which collects nothing."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["left_out"] = dict(_counts(session.config))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """Take a worker's counts; those of all workers are the same."""
    if counts := getattr(node, "workeroutput", {}).get("left_out"):
        node.config.stash[_COUNTS] = Counter(counts)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """One line for each way in which tests were left out."""
    for marker, count in _counts(config).items():
        terminalreporter.write_line(f"left out: {count} tests marked `{marker}`; `{COMMANDS[marker]}` runs them")
    if skipped := terminalreporter.stats.get("skipped"):
        terminalreporter.write_line(f"skipped: {len(skipped)} tests, for want of something; `pytest -rs` says of what")
