"""What the docs say of the tests is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/reliability.md", "docs/architecture.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    """A rule without its test is a wish."""
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    there = set(re.findall(r"def (test_\w+)", sources)) | {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"`(test_\w+)`", (ROOT / page).read_text(encoding="utf-8")))
    assert named and not named - there


# Where commands are written down, by what stands before them.
COMMANDS = {
    "README.md": r"(?m)(?:^    |`)make (\S+?)(?:`|\s|$)",
    "CONTRIBUTING.md": r"(?m)(?:^    |`)make (\S+?)(?:`|\s|$)",
    ".ci/run": r"(?m)^make (\S+)",
    ".github/workflows/ci.yml": r"run: make (\S+)",
    ".github/pull_request_template.md": r"`make (\S+)`",
}


@pytest.mark.parametrize("page", COMMANDS)
def test_make_targets_exist(page: str) -> None:
    """A command that a page or a workflow runs is one of the Makefile's."""
    targets = set(re.findall(r"(?m)^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    named = set(re.findall(COMMANDS[page], (ROOT / page).read_text(encoding="utf-8")))
    assert named and not named - targets


def test_nothing_advises_to_install_a_name_that_is_on_no_registry() -> None:
    """It is installed from a clone or from the wheel."""
    folders = ("codeclippy_ls", "editors", "docs")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.*") if "node_modules" not in path.parts]
    for path in (ROOT / "README.md", *files):
        if path.suffix in {".md", ".py", ".lua", ".txt", ".el", ".ts", ".json"}:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?:pip|uv|pipx|tool) install [\"']?codeclippy[-_]ls", text), path


PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file of the repository; other sites are not asked."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), target
