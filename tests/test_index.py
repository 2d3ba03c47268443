"""The index of a folder: which files are in it, what is found for a place, and that it follows the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from codeclippy_ls import cli
from codeclippy_ls.index import store
from codeclippy_ls.index.building import update_index
from codeclippy_ls.index.files import is_generated, is_indexable_folder, list_files
from codeclippy_ls.index.process import IndexProcess
from codeclippy_ls.index.question import Finding, Place
from codeclippy_ls.index.reader import FolderIndex
from codeclippy_ls.index.reading import blank_secret_lines
from codeclippy_ls.index.rendering import write_excerpts
from codeclippy_ls.syntax.languages import language_of_file
from codeclippy_ls.syntax.tree import parse
from tests.editor import TIMEOUT

TOKEN = "ghp_" + "a1B2c3D4" * 5
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files of a project."""

    def write_files(**files: str) -> Path:
        return write_tree(
            tmp_path / "project", {name.removesuffix("_py") + ".py": text for name, text in files.items()}
        )

    return write_files


def write_tree(folder: Path, files: dict[str, str]) -> Path:
    """Write files below a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@contextlib.contextmanager
def indexed(folder: Path) -> Iterator[FolderIndex]:
    """Build a folder's index, and read it."""
    update_index(folder)
    index = FolderIndex(folder)
    try:
        yield index
    finally:
        index.close()


def find(index: FolderIndex, path: str, text: str) -> list[Finding]:
    """Ask at the mark ``|`` of a text."""
    prefix, _, suffix = text.partition("|")
    language = language_of_file(path)
    assert language is not None
    return index.find(Place(path, prefix, suffix, parse(prefix + suffix, language), language.id))


def found_names(index: FolderIndex, path: str, text: str) -> list[str]:
    """Ask, and name what is found, the most needed first."""
    found = find(index, path, text)
    return [f"{one.path}:{one.declaration.name if one.declaration else one.line}" for one in found]


# Which files are in it.


def test_only_source_files_of_the_folder_are_listed(tmp_path: Path) -> None:
    outside = write_tree(tmp_path / "outside", {"other.py": "x = 1\n", "deep/more.py": "x = 1\n"})
    folder = write_tree(
        tmp_path / "project",
        {
            ".gitignore": "ignored.py\nout*/\n!outer/\n",
            "a.py": "",
            "sub/b.ts": "",
            "sub/.gitignore": "c.*\n",
            "sub/c.py": "",
            "ignored.py": "",
            "output/d.py": "",
            "outer/e.py": "",
            "node_modules/f.js": "",
            "vendor/g.go": "",
            "build/h.py": "",
            "app.min.js": "",
            "x_pb2.py": "",
            "notes.txt": "",
            "data.json": "{}",
            "secrets.py": "",
            ".env.py": "",
            ".ssh/i.py": "",
        },
    )
    (folder / "link.py").symlink_to(outside / "other.py")
    (folder / "linked").symlink_to(outside, target_is_directory=True)
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    assert list_files(folder) == ["a.py", "outer/e.py", "sub/b.ts"]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_says_which_files_there_are(tmp_path: Path) -> None:
    """What it tracks, also in a folder of built files, and what it would; nothing of a folder that became a link."""
    folder = write_tree(
        tmp_path / "project",
        {".gitignore": "ignored.py\n", "a.py": "", "build/b.py": "", "new.py": "", "ignored.py": "", "moved/c.py": ""},
    )
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "a.py", "build/b.py", "moved/c.py"], check=True)
    # What a repository's configuration names is not run.
    subprocess.run([*git, "config", "core.fsmonitor", f"touch {tmp_path / 'ran'}; false"], check=True)
    outside = write_tree(tmp_path / "outside", {"c.py": ""})
    shutil.rmtree(folder / "moved")
    (folder / "moved").symlink_to(outside, target_is_directory=True)
    assert list_files(folder) == ["a.py", "build/b.py", "new.py"]
    assert not (tmp_path / "ran").exists()


def test_a_home_folder_is_not_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    project = write_tree(tmp_path / "project", {"a.py": ""})
    assert is_indexable_folder(project)
    assert not any(map(is_indexable_folder, (tmp_path, tmp_path.parent, Path("/"), tmp_path / "missing")))


def test_what_programs_wrote_is_left_out() -> None:
    assert is_generated("// Code generated by protoc-gen-go. DO NOT EDIT.\npackage a\n")
    assert is_generated("x=1;" * 3000)
    assert not is_generated('"""A generator of tables."""\n' + "x = 1\n" * 3000)


def test_odd_files_are_left_out_and_do_no_harm(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "project", {"ok.py": "def good(): pass\n", "big.py": "x = 1\n" * 200_000})
    (folder / "binary.py").write_bytes(b"def a(): pass\n\0\0")
    (folder / "latin.py").write_bytes(b"# \xe9\ndef latin(): pass\n")
    os.mkfifo(folder / "pipe.py")
    size = update_index(folder)
    assert size is not None and size.declarations == 2
    with indexed(folder) as index:
        found = found_names(index, "new.py", "from ok import good\nfrom latin import latin\n|")
        assert sorted(found) == ["latin.py:latin", "ok.py:good"]


def test_secret_lines_are_not_kept(tmp_path: Path) -> None:
    folder = write_tree(
        tmp_path / "project", {"a.py": f'def connect(token="{TOKEN}"): ...\nTOKEN = "{TOKEN}"\nX = 1\n'}
    )
    update_index(folder)
    assert TOKEN.encode() not in store.find_index(folder).read_bytes()
    assert blank_secret_lines(f'a = 1\nkey = "{TOKEN}"\nb = 2\n') == "a = 1\n\nb = 2\n"


def test_the_index_is_its_users_alone(write: Write, cache: Path) -> None:
    update_index(write(a_py="X = 1\n"))
    files = list((cache / "codeclippy-ls" / "index").iterdir())
    assert files and all(file.stat().st_mode & 0o077 == 0 for file in (*files, files[0].parent))


# What is found.

HELPER = '''class Shape(Base):
    """A shape."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self._secret = 1

    @property
    def area(self) -> int:
        return 1

    def scale_by(self, factor: float) -> "Shape":
        """Return a larger one."""


def make_shape(
    width: int,
) -> Shape:
    """Make a square."""
    return Shape(width, width)


LIMIT: int = 3
'''


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("pkg/main.py", "from pkg.shapes import make_shape\n\nx = |\n"),
        ("pkg/main.py", "from .shapes import make_shape as make\n\nx = |\n"),
        ("pkg/sub/main.py", "from ..shapes import make_shape\n\nx = |\n"),
        ("pkg/main.py", "from pkg import make_shape\n\nx = |\n"),
        ("pkg/main.py", "from . import shapes\n\nx = shapes.make_shape(|\n"),
        ("tests/test_it.py", "import pkg.shapes as s\n\nx = s.make_shape(|\n"),
        ("main.py", "if TYPE_CHECKING:\n    from src.pkg.again import make_shape\nx = |\n"),
        ("main.py", "import pkg.shapes\nx = pkg.shapes.make_shape(|\n"),
    ],
)
def test_python_imports_are_resolved(tmp_path: Path, path: str, text: str) -> None:
    """Packages, relative ones, names that an ``__init__`` passes on, modules, star imports, with or without ``src``."""
    inner = {"pkg/shapes.py": HELPER, "pkg/__init__.py": "from .shapes import make_shape\n", "pkg/sub/__init__.py": ""}
    inner["pkg/again.py"] = "from .shapes import *\n"
    folder = write_tree(tmp_path / "project", {f"src/{name}": value for name, value in inner.items()})
    with indexed(folder) as index:
        own = path if path.startswith("tests") else f"src/{path}"
        assert found_names(index, own, text)[0] == "src/pkg/shapes.py:make_shape"


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("src/main.ts", "./lib/shapes"),
        ("src/main.tsx", "./lib/shapes.js"),
        ("src/lib/main.ts", "."),
        ("src/main.ts", "./lib"),
        ("src/deep/main.ts", "@/lib/shapes"),
        ("src/main.js", "~shapes"),
    ],
)
def test_script_imports_are_resolved(tmp_path: Path, path: str, module: str) -> None:
    """Relative paths, those of ``tsconfig.json``, index files, and names that a file passes on."""
    folder = write_tree(
        tmp_path / "project",
        {
            "tsconfig.json": '{"compilerOptions": {"baseUrl": ".", // a comment\n "paths": {"@/*": ["src/*"], '
            '"~shapes": ["./src/lib/shapes.ts"],}}}',
            "src/lib/index.ts": "export * from './shapes';\nexport {other as thing} from './other';\n",
            "src/lib/shapes.ts": "export const makeShape = (width: number): Shape => {\n  return null;\n};\n",
        },
    )
    with indexed(folder) as index:
        text = f"import {{ makeShape }} from '{module}';\nconst x = |\n"
        assert found_names(index, path, text)[0] == "src/lib/shapes.ts:makeShape"


@pytest.mark.parametrize(
    ("files", "path", "text", "expected"),
    [
        (
            {"go.mod": "module example.com/app\n", "util/size.go": "package util\nfunc Size(a int) int { return a }\n"},
            "main.go",
            'package main\nimport "example.com/app/util"\nfunc main() {\n\tutil.Size(|\n}\n',
            "util/size.go:Size",
        ),
        (
            {"a/one.go": "package a\ntype Thing struct {\n\tName string\n}\n"},
            "a/two.go",
            "package a\nfunc f(t *Thing) {\n\t|\n}\n",
            "a/one.go:Thing",
        ),
        (
            {"src/shape/mod.rs": "pub fn area(width: u32) -> u32 { width }\n"},
            "src/main.rs",
            "use crate::shape::{area, Other};\nfn main() {\n    |\n}\n",
            "src/shape/mod.rs:area",
        ),
        (
            {"src/org/app/Shape.java": "package org.app;\npublic class Shape {\n  int area(int x) { return x; }\n}\n"},
            "src/org/Main.java",
            "package org;\nimport org.app.Shape;\nclass Main {\n  int f(Shape shape) {\n    |\n  }\n}\n",
            "src/org/app/Shape.java:Shape",
        ),
        (
            {"lib/shape.rb": "class Shape\n  def area\n    1\n  end\nend\n"},
            "main.rb",
            "shape = Shape.new\n|\n",
            "lib/shape.rb:Shape",
        ),
    ],
)
def test_other_languages_are_resolved(
    tmp_path: Path, files: dict[str, str], path: str, text: str, expected: str
) -> None:
    """By module where that is cheap, else by name."""
    with indexed(write_tree(tmp_path / "project", files)) as index:
        assert found_names(index, path, text)[0] == expected


def test_members_of_what_is_used_come_along(write: Write) -> None:
    """Of a parameter's class by its annotation; what the parent of the class around the cursor defines."""
    with indexed(write(shapes_py=HELPER)) as index:
        text = "from shapes import Shape\n\ndef grow(shape: Shape):\n    shape.|\n"
        assert {"shapes.py:area", "shapes.py:scale_by", "shapes.py:width"} <= set(
            found_names(index, "main.py", text)[:6]
        )
        text = "class Box(Shape):\n    def f(self):\n        |\n"
        found = find(index, "main.py", text)
        assert "member of the parent Shape" in {one.reason for one in found if one.declaration is not None}


def test_an_excerpt_shows_signatures_and_no_bodies(write: Write) -> None:
    with indexed(write(shapes_py=HELPER)) as index:
        text = "from shapes import Shape, make_shape\n\ndef grow(shape: Shape):\n    shape.|\n"
        found = find(index, "main.py", text)
        (excerpt,), (short,) = write_excerpts(found, 3000), write_excerpts(found, 2000)
    assert "Return a larger one" in excerpt.text and "Return a larger one" not in short.text
    assert excerpt.path == "shapes.py"
    assert excerpt.text == (
        'class Shape(Base):\n    """A shape."""\n'
        "    def __init__(self, width: int, height: int) -> None: ...\n"
        "    self.width = width\n    self._secret = 1\n"
        "    @property\n    def area(self) -> int: ...\n"
        '    def scale_by(self, factor: float) -> "Shape":\n        """Return a larger one."""\n'
        'def make_shape(\n    width: int,\n) -> Shape:\n    """Make a square."""'
    )


def test_excerpts_fit_the_limit_with_the_most_needed(write: Write) -> None:
    with indexed(write(shapes_py=HELPER, far_py="def distant_thing(a): pass\n")) as index:
        found = find(index, "main.py", "from far import distant_thing\nfrom shapes import make_shape\n\nmake_shape(|\n")
        for limit in range(0, 400, 7):
            excerpts = write_excerpts(found, limit)
            assert sum(len(one.text) + len(one.path) + 12 for one in excerpts) <= limit + 2 * len(excerpts)
        assert [one.path for one in write_excerpts(found, 80)] == ["shapes.py"]
        assert [one.path for one in write_excerpts(found, 400)] == ["far.py", "shapes.py"]


def test_similar_lines_are_found_unless_they_repeat(write: Write) -> None:
    """By rare words; more than half alike is what the file has already."""
    lines = "total_price = discount_table[customer_group] * basket_weight\nother_thing = 1\nmore_words = unrelated\n"
    near = "def compute(basket_weight, customer_group):\n    result = discount_table[|\n"
    with indexed(write(prices_py=lines)) as index:
        assert "prices.py:0" in found_names(index, "main.py", near)
        assert "prices.py:0" not in found_names(index, "main.py", lines + "total|\n")


# It follows the disk.


def test_changes_on_the_disk_are_followed(tmp_path: Path) -> None:
    """By a look at all files, and by name; a file that is gone, ignored or a link now is dropped."""
    folder = write_tree(tmp_path / "project", {"a.py": "def first(): pass\n", "b/c.py": "def third(): pass\n"})
    with indexed(folder) as index:

        def names() -> list[str]:
            found = found_names(
                index, "m.py", "from a import *\nfirst; second; third; fourth\nfirst(second(third(fourth(|\n"
            )
            return sorted(name.partition(":")[2] for name in found if ":" in name)

        before = index.generation
        assert names() == ["first", "third"]
        (folder / "a.py").write_text("def second(x): pass\n# longer\n", encoding="utf-8")
        update_index(folder, [str(folder / "a.py"), str(tmp_path / "elsewhere.py")])
        assert names() == ["second", "third"] and index.generation != before
        shutil.rmtree(folder / "b")
        (folder / "d.py").write_text("def fourth(): pass\n", encoding="utf-8")
        update_index(folder, [str(folder / "b"), str(folder / "d.py")])
        assert names() == ["fourth", "second"]
        (folder / "d.py").unlink()
        (folder / "d.py").symlink_to(folder / "a.py")
        update_index(folder)
        assert names() == ["second"]


def test_unchanged_files_are_not_read_again(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(a_py="X = 1\n", b_py="Y = 1\n", big_py="x = 1\n" * 200_000, min_py="x=1;" * 3000)
    update_index(folder)

    def refuse(folder: Path, path: str) -> None:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("codeclippy_ls.index.building.read_file", refuse)
    assert update_index(folder) is not None


def test_a_broken_index_is_made_anew(write: Write) -> None:
    folder = write(a_py="def useful(): pass\n")
    update_index(folder)
    store.find_index(folder).write_bytes(b"not a database" * 1000)
    index = FolderIndex(folder)
    assert index.generation == "" and find(index, "m.py", "useful(|") == []
    index.close()
    with indexed(folder) as index:
        assert found_names(index, "m.py", "useful(|") == ["a.py:useful"]


def test_an_index_of_another_version_is_made_anew(write: Write) -> None:
    folder = write(a_py="def useful(): pass\n")
    update_index(folder)
    with contextlib.closing(sqlite3.connect(store.find_index(folder))) as database:
        database.execute("UPDATE about SET value = '0' WHERE name = 'version'")
        database.commit()
    with indexed(folder) as index:
        assert found_names(index, "m.py", "useful(|") == ["a.py:useful"]


def test_a_stopped_build_goes_on(write: Write) -> None:
    folder = write(**{f"f{number}_py": f"def useful_{number}(): pass\n" for number in range(5)})
    asked = iter([False, False, True])
    assert update_index(folder, should_stop=lambda: next(asked)) is None
    size = update_index(folder)
    assert size is not None and size.files == 5


def test_indexes_are_listed_and_cleared(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(a_py="def useful(): pass\n")
    assert cli.main(["index", str(folder)]) == 0
    assert "1 files" in capsys.readouterr().out
    assert cli.main(["index"]) == 0
    assert str(folder) in capsys.readouterr().out
    assert cli.main(["index", "--clear"]) == 0
    assert "removed" in capsys.readouterr().out and not store.list_indexes()
    assert cli.main(["index", str(folder / "missing")]) == 2


# The process that builds it.


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_builds_the_index_and_follows_changes(write: Write) -> None:
    folder = write(a_py="def first(): pass\n")
    process, index = IndexProcess(folder), FolderIndex(folder)
    try:
        wait_for(lambda: found_names(index, "m.py", "first(second(|") == ["a.py:first"])
        before = index.generation
        (folder / "a.py").write_text("def second(x): pass\n# longer\n", encoding="utf-8")
        assert process.update([str(folder / "a.py")])
        wait_for(lambda: index.generation != before)
        assert found_names(index, "m.py", "first(second(|") == ["a.py:second"]
        process.close()
        assert not process.update([])
    finally:
        index.close()
        process.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no process can be stopped there")
def test_a_stopped_process_does_not_stop_its_server(write: Write) -> None:
    """What it does not read is refused once the pipe is full, not waited for."""
    folder = write(a_py="def first(): pass\n")
    process = IndexProcess(folder)
    try:
        os.kill(process._process.pid, signal.SIGSTOP)
        names = [str(folder / f"{number}.py") for number in range(300)]
        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(lambda: [process.update(names) for _ in range(200)])
            try:
                assert not all(told.result(TIMEOUT))
            finally:
                os.kill(process._process.pid, signal.SIGCONT)
    finally:
        process.close()


def test_the_process_ends_with_its_server(write: Write) -> None:
    """A server that is killed closes the pipe."""
    process = subprocess.Popen(
        [sys.executable, "-m", "codeclippy_ls", "indexer", str(write(a_py=""))], stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(TIMEOUT) == 0
