"""The places that `bench.cross_file` measures: lines that use what another file of a tree defines."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import cross_file
from bench.cross_file_places import find_places, move_to_name

FILLER = "\n".join(f"# {number}" for number in range(12))
SHAPES = "class Shape:\n    def scale_by(self, factor): ...\n\n\ndef make_shape(width) -> Shape: ...\n"
MAIN = f'''from shapes import make_shape
{FILLER}


def grow(width, shape):
    """Use make_shape."""
    first = width * 1234
    made = make_shape(width)
    made.scale_by(first)
    scale_by = 1234567890
    return "make_shape"
'''


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of two files, and a user's cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tree").mkdir()
    for name, text in {"shapes.py": SHAPES, "main.py": MAIN}.items():
        (tmp_path / "tree" / name).write_text(text, encoding="utf-8")
    return tmp_path / "tree"


def test_places_use_names_that_another_file_defines(tree: Path) -> None:
    """Not in texts, and members only where they are taken of something."""
    places = find_places([tree], [".py"], 10, 0, needed=True)
    assert sorted((place.line, place.wanted) for place in places) == [
        ("made = make_shape(width)", ("make_shape",)),
        ("made.scale_by(first)", ("scale_by",)),
    ]
    for place in places:
        assert place.prefix + place.line + place.suffix == MAIN
        moved = move_to_name(place)
        assert moved.prefix + moved.line + moved.suffix == MAIN and moved.line.startswith(place.wanted[0])
    assert "first = width * 1234" in {place.line for place in find_places([tree], [".py"], 10, 0, needed=False)}


def test_the_share_of_wanted_names_that_are_shown(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the oracle, all."""
    folders = [tree]
    places = find_places(folders, [".py"], 10, 0, needed=True)
    choosers = cross_file.Choosers(cross_file.Trees(folders), 300)
    cross_file.report_recall(choosers, places, ("alone", "workspace", "oracle"))
    printed = capsys.readouterr().out
    assert "alone: shown at 0 of 2" in printed and "oracle: shown at 2 of 2" in printed
    assert "workspace: shown at 2 of 2" in printed
