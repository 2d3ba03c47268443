"""Training data: which files of a package are used, and that messages of edits are exact."""

from __future__ import annotations

import importlib.metadata
import io
import json
import random
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from training import archives, corpus, releases
from training.edit_kinds import Draft
from training.edits import KINDS, EditSample, make_edits, vary_phrasing
from training.snippets import apply_diff, find_snippets

PYTHON = "".join(f"def area_{word}(width, height):\n    return width * height\n\n\n" for word in ("one", "two", "six"))
SCRIPT = "".join(f"export function area{word}(width, height) {{\n  return width * height;\n}}\n" for word in "ABC")


def make_wheel(folder: Path, name: str, version: str, licence: str, files: dict[str, str]) -> Path:
    """Write a wheel as pip downloads it."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: {licence}\n"
    about += "Description-Content-Type: text/markdown\n\n# Areas\n\n" + "Areas of rectangles, in words. " * 8
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{name}-{version}.dist-info/METADATA": about}.items():
            archive.writestr(file, text)
    return path


def make_tarball(folder: Path, name: str, version: str, licence: str, files: dict[str, str]) -> Path:
    """Write a tarball as npm downloads it."""
    about = {"name": name, "version": version, "license": licence}
    path = folder / archives.get_tarball_name(f"{name}@{version}")
    with tarfile.open(path, "w:gz") as archive:
        for file, text in {"package.json": json.dumps(about), **files}.items():
            member = tarfile.TarInfo(f"package/{file}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_wheel_gives_sources_and_readme(tmp_path: Path) -> None:
    files = {"areas/area.py": PYTHON, "areas/tests/test_area.py": PYTHON, "areas/x.dat": "1 2 3"}
    found = archives.read_wheel(make_wheel(tmp_path, "areas", "1.0", "MIT", files))
    assert found is not None and (found.name, found.version, found.licence) == ("areas", "1.0", "MIT")
    assert [file.path for file in found.files] == ["README.md", "areas/area.py"]
    assert archives.read_wheel(make_wheel(tmp_path, "others", "1.0", "GPLv3", files)) is None


def test_tarball_gives_sources_without_bundles(tmp_path: Path) -> None:
    compiled = SCRIPT + '\nObject.defineProperty(exports, "__esModule", { value: true });\n'
    files = {"src/area.js": SCRIPT, "dist/area.js": SCRIPT, "lib/area.min.js": SCRIPT, "lib/compiled.js": compiled}
    found = archives.read_npm_tarball(make_tarball(tmp_path, "@areas/core", "1.0.0", "MIT", files))
    assert found is not None and found.name == "npm:@areas/core"
    assert [file.path for file in found.files] == ["src/area.js"]
    assert archives.read_npm_tarball(make_tarball(tmp_path, "b", "1.0.0", "GPL-2.0 OR MIT", files)) is None


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("include/area.h", True),
        ("src/area.tsx", True),
        ("docs/area.md", True),
        ("dist/docs/area.md", True),
        ("a/static/area.py", True),
        ("a/static/area.js", False),
        ("src/area.test.ts", False),
        ("package-lock.json", False),
        ("area.c", False),
    ],
)
def test_wanted_paths_depend_on_the_language(path: str, wanted: bool) -> None:
    assert archives.is_wanted_path(PurePosixPath(path)) == wanted


def test_files_under_another_licence_than_their_package_are_skipped() -> None:
    head = "# This file is free software under the terms of the GNU Lesser General Public License.\n"
    assert archives.clean_source_file("a", "a.py", (head + PYTHON).encode()) is None


@pytest.mark.parametrize(
    ("head", "path"),
    [("/* Copyright me.\n * MIT licence. */\n", "a.js"), ("// Copyright me\n// MIT licence\n", "a.ts")],
)
def test_licence_headers_of_other_languages_are_removed(head: str, path: str) -> None:
    found = archives.clean_source_file("a", path, (head + SCRIPT).encode())
    assert found is not None and found.text == SCRIPT
    kept = archives.clean_source_file("a", path, ("// Areas of shapes\n" + SCRIPT).encode())
    assert kept is not None and kept.text.startswith("// Areas of shapes\n")


def test_held_out_packages_come_first_and_keep_duplicate_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = [one for one in importlib.metadata.distributions() if one.metadata["Name"] in ("pluggy", "iniconfig")]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: installed)
    for folder in ("wheels", "npm"):
        (tmp_path / folder).mkdir()
    make_wheel(tmp_path / "wheels", "copier", "2.0", "MIT", {"copier/area.py": PYTHON})
    make_wheel(tmp_path / "wheels", "copier", "1.0", "MIT", {"copier/old.py": "x = 1\n" * 40})
    make_wheel(tmp_path / "wheels", "original", "1.0", "BSD-3-Clause", {"original/area.py": PYTHON})
    make_tarball(tmp_path / "npm", "areas", "1.0.0", "MIT", {"src/area.js": SCRIPT})
    listing = tmp_path / "packages.txt"
    listing.write_text("# a comment\ncopier==2.0\noriginal==1.0  # held-out\nareas@1.0.0\n")
    listed = corpus.read_package_list(listing)
    assert listed == {"copier==2.0": False, "original==1.0": True, "areas@1.0.0": False}
    found = list(corpus.iter_packages(listed, tmp_path))
    assert [p.name for p in found[3:]] == ["iniconfig", "pluggy"]
    found = found[:3]
    assert [(p.name, p.version) for p in found] == [("original", "1.0"), ("copier", "2.0"), ("npm:areas", "1.0.0")]
    notice, sizes = corpus.write_corpus(found, frozenset({"original"}), frozenset(), tmp_path / "corpus")
    assert sizes["valid"]["Python"] == len(PYTHON) and sizes["train"] == {"JavaScript": len(SCRIPT)}
    files = [json.loads(line) for line in (tmp_path / "corpus" / "train.jsonl").read_text().splitlines()]
    assert files == [{"package": "npm:areas", "path": "src/area.js", "text": SCRIPT}]
    assert any(line.startswith("original ") and " validation " in line and "BSD-3-Clause" in line for line in notice)
    assert not list((tmp_path / "corpus").glob("*.part"))


def test_byte_limits_are_per_language() -> None:
    long = archives.SourceFile("a", "a.json", "[1]\n" * 20_000)
    short = archives.SourceFile("a", "a.py", long.text)
    assert list(corpus.limit_bytes([long, short])) == [short]


def test_buggy_solutions_of_a_benchmark_are_also_excluded(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(20)]
    task = {"prompt": "def f(): ", "canonical_solution": "return 1", "buggy_solution": " ".join(words)}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task))
    windows = corpus.collect_benchmark_ngrams([tmp_path / "tasks.jsonl"])
    assert not windows.isdisjoint(corpus.iter_ngrams(words))


@pytest.mark.parametrize("message", ["total -> count", "Account is the wrong class", "add is slow"])
def test_identifier_keeps_its_case_in_message(message: str) -> None:
    document = "class Account:\n    def add(self):\n        return total\n"
    for seed in range(60):
        varied = vary_phrasing(message, document, random.Random(seed))
        assert message in varied
    assert any(vary_phrasing("Rename a", document, random.Random(seed)) == "rename a" for seed in range(60))


OLD_RELEASE = '''\
from typing import Optional


def area(width, height, unit: Optional[str] = None):
    """The area of a rectangle."""
    total = width * height
    if total > 10:
        raise ValueError("too large")
    return total


def label(shape):
    name = shape.title()
    return "shape " + name


def corner(left, top):
    return left, top


def log(text):
    print(text)
    return text
'''
NEW_RELEASE = '''\
from typing import Optional


def area(width, height, unit: str | None = None):
    """The area of a rectangle."""
    total = width * height
    if total > 100:
        raise ValueError("too large")
    return total


def label(shape):
    title = shape.title()
    return "shape " + title


def corner(left, top, depth=0):
    return left, top


def log(text):
    return text
'''


def test_changes_between_releases_are_described_exactly(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    old = make_wheel(tmp_path / "old", "areas", "1.0", "MIT", {"areas/area.py": OLD_RELEASE})
    new = make_wheel(tmp_path, "areas", "1.1", "MIT", {"areas/area.py": NEW_RELEASE})
    found = {e.kind: e for seed in range(8) for e in releases.make_release_edits(old, new, random.Random(seed))}
    named = {
        "union type": "Optional",
        "condition": "100",
        "rename": "title",
        "add parameter": "depth=0",
        "remove line": "print(text)",
    }
    assert set(found) == {f"release: {kind}" for kind in named}
    for kind, word in named.items():
        assert word in found[f"release: {kind}"].message
        assert apply_diff(found[f"release: {kind}"].before, found[f"release: {kind}"].diff) is not None


def test_change_that_matches_no_rule_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    old = make_wheel(tmp_path / "old", "areas", "1.0", "MIT", {"areas/area.py": PYTHON})
    other = PYTHON.replace("    return width * height\n", "    sides = width, height\n    return product(sides)\n", 1)
    new = make_wheel(tmp_path, "areas", "1.1", "MIT", {"areas/area.py": other})
    assert releases.make_release_edits(old, new, random.Random(1)) == []


def test_release_edits_replace_those_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"kind": "rename variable"}) + "\n" + json.dumps({"kind": "release: rename"}) + "\n")
    edit = EditSample("release: condition", "a.py", "x\n", "m", "d")
    releases.merge_edits(path, [edit, edit])
    kinds = [json.loads(line)["kind"] for line in path.read_text().splitlines()]
    assert kinds == ["rename variable", "release: condition", "release: condition"]


def make_drafts(kind: str, source: str) -> list[Draft]:
    """Make the drafts of a kind for a source, with many seeds."""
    drafts = (KINDS[kind][1](snippet, random.Random(seed)) for seed in range(60) for snippet in find_snippets(source))
    return [draft for draft in drafts if draft is not None]


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("annotate", "def f(a: int, b: str) -> bool:\n    return a == b\n"),
        ("add docstring text", 'def f(a):\n    """Say how large it is."""\n    return a\n'),
        ("add comment", "def f(a):\n    # Say how large it is\n    b = measure(a)\n    # Then leave\n    return b\n"),
        ("change default", "def f(a, b=2):\n    return a\n"),
        ("change return", "def f(a):\n    b = 2\n    return a + b\n"),
        ("add assert", "def f(a):\n    return a\n"),
        ("accept more", "def f(a):\n    return a\n"),
    ],
)
def test_message_contains_every_new_word(kind: str, source: str) -> None:
    drafts = make_drafts(kind, source)
    assert drafts
    for draft in drafts:
        known = set(corpus.WORD.findall(draft.before + draft.message)) | {"assert", "0"}
        assert set(corpus.WORD.findall(draft.after)) <= known, draft


def test_editor_presets_occur_verbatim_as_messages() -> None:
    from codeclippy_ls.settings import DEFAULT_PRESETS

    source = OLD_RELEASE + "\n\ndef far(left: int, right: int) -> int:\n    return left - right\n"
    messages = {edit.message for seed in range(150) for edit in make_edits("a.py", source, random.Random(seed), 3)}
    assert set(DEFAULT_PRESETS) <= messages
