"""docs/editors.md says what is tested where; every name in its table is a test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def names_in(editor: str) -> set[str]:
    source = (ROOT / "tests" / "editors" / f"test_{editor}.py").read_text(encoding="utf-8")
    return set(re.findall(r"^(?:async )?def (test_\w+)", source, re.M))


def test_every_cell_of_the_table_is_a_test_and_every_test_has_a_cell() -> None:
    text = (ROOT / "docs" / "editors.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    head, named = [cell.strip() for cell in rows[0]], {"vscode": set[str](), "neovim": set[str](), "emacs": set[str]()}
    assert head[1:] == ["VS Code", "Neovim", "Emacs"]
    for row in rows[2:]:
        for editor, cell in zip(named, row[1:], strict=True):
            named[editor] |= {f"test_{name}" for name in re.findall(r"`(\w+)`", cell)}
    for editor, names in named.items():
        assert names == names_in(editor), names ^ names_in(editor)
