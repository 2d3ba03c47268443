"""The files of a folder that an index may read, as paths relative to it.

By git, if the folder is part of a repository, else what its ``.gitignore`` files leave. Nothing out of the folder, also
not by a link, and no file that may hold keys or passwords.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from pathspec import GitIgnoreSpec

from codeclippy_ls.secret_files import is_secret_path
from codeclippy_ls.syntax.languages import BlockStyle, language_of_file

MAX_BYTES = 1 << 20  # of a file
MAX_FILES = 20_000  # of a folder
_GIT_SECONDS = 60.0
# Nothing that a repository's own configuration names is run.
_GIT = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--literal-pathspecs")
# Folders of other people's code, also if they are tracked (as GitHub's linguist counts them).
_VENDORED = re.compile(
    r"(?:^|/)(?:node_modules|bower_components|jspm_packages|vendors?|_?vendored|third[-_]?party|Pods|Carthage|Godeps|"
    r"site-packages|dist-packages|\.yarn|\.tox|\.nox|\.?venv|\.git|\.hg|\.svn|__pycache__|__pypackages__)/",
    re.IGNORECASE,
)
# Folders of built files, unless git tracks them.
_BUILT = re.compile(
    r"(?:^|/)(?:build|dist|out|target|bin|obj|\.next|\.nuxt|\.cache|coverage|htmlcov|\.eggs|[^/]+\.egg-info)/"
)
_GENERATED_NAME = re.compile(
    r"(?:[.-]min\.(?:js|mjs|css)|_pb2(?:_grpc)?\.pyi?|\.pb\.(?:go|cc|h)|\.g\.dart|\.freezed\.dart|\.designer\.cs|"
    r"\.bundle\.js|\.chunk\.js|_generated\.\w+|\.generated\.\w+|-lock\.json|\.lock)$",
    re.IGNORECASE,
)
_GENERATED_HEAD = re.compile(
    r"@generated\b|do not edit|(?:auto|automatically)[- ]?generated|generated (?:by|from|code)\b|code generated",
    re.IGNORECASE,
)
_PROJECT_MARKS = (".git", ".hg", "pyproject.toml", "setup.py", "package.json", "go.mod", "Cargo.toml", "pom.xml")
_HEAD = 1000  # characters in which a file says that a program wrote it
_MAX_MEAN_LINE, _MAX_LINE = 110, 5000  # characters; longer ones are a minifier's


def is_indexable_folder(folder: Path) -> bool:
    """Return whether a folder is a project's: neither the disk's root nor one that holds the user's home."""
    real, home = Path(os.path.realpath(folder)), Path(os.path.realpath(Path.home()))
    return real.is_dir() and real != home and real not in home.parents


def find_project(file: Path) -> Path:
    """Return the folder of the project that a file belongs to: the nearest one that says so, else the file's own."""
    parents = list(file.parents)
    return next((folder for folder in parents if any((folder / name).exists() for name in _PROJECT_MARKS)), parents[0])


def list_files(folder: Path, only: Sequence[str] = ()) -> list[str]:
    """List the files of a folder that an index may read.

    Args:
        folder: its real path.
        only: relative paths; only these are listed.
    """
    tracked = _list_by_git(folder, only)
    # A folder that its repository ignores as a whole was opened for a reason.
    found = tracked if tracked or (tracked is not None and only) else _walk(folder, only)
    return sorted(path for path in found if is_source_path(path) and is_inside(folder, path))[:MAX_FILES]


def is_source_path(path: str) -> bool:
    """Return whether a file of this relative path is source code that somebody of the project wrote, and no secret."""
    language = language_of_file(path)
    if language is None or language.style is BlockStyle.NONE:
        return False
    return not (_VENDORED.search(path) or _GENERATED_NAME.search(path) or is_secret_path(f"/{path}"))


def is_inside(folder: Path, path: str) -> bool:
    """Return whether a relative path stays in the folder, without any link on the way."""
    parent, _, _ = path.rpartition("/")
    return ".." not in path.split("/") and _is_real_folder(str(folder), parent)


@cache
def _is_real_folder(folder: str, relative: str) -> bool:
    whole = os.path.join(folder, relative) if relative else folder  # noqa: PTH118 - thousands of them
    return os.path.realpath(whole) == whole.rstrip("/")


def forget_links() -> None:
    """Look at folders again: one may have become a link."""
    _is_real_folder.cache_clear()


def read_source(folder: Path, path: str) -> tuple[str, os.stat_result] | None:
    """Read a file's text with LF line ends; ``None`` if it is not regular, too large, binary or a program's work."""
    found = read_text(folder, path)
    return None if found is None or is_generated(found[0]) else found


def read_text(folder: Path, path: str) -> tuple[str, os.stat_result] | None:
    """Read a file's text with LF line ends; ``None`` if it is not regular, too large or binary."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(folder / path, flags)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            return None
        try:
            content = stream.read(MAX_BYTES + 1)
        except OSError:
            return None
    if b"\0" in content[:8192]:
        return None
    text = content.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return text, status


def is_generated(text: str) -> bool:
    """Return whether a text is the work of a minifier or a generator."""
    lines = text.count("\n") + 1
    if len(text) > 2000 and len(text) / lines > _MAX_MEAN_LINE:
        return True
    return bool(_GENERATED_HEAD.search(text[:_HEAD])) or any(len(line) > _MAX_LINE for line in text.split("\n"))


def _list_by_git(folder: Path, only: Sequence[str]) -> list[str] | None:
    """List what git tracks or would track; ``None`` if there is no git, or the folder is no repository's."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, *_GIT, "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        environment.pop(name, None)
    try:
        done = subprocess.run(
            [*command, "--", *only],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode:
        return None
    found = {os.fsdecode(path) for path in done.stdout.split(b"\0") if path}
    return [path for path in found if _is_printable(path)]


def _walk(folder: Path, only: Sequence[str]) -> Iterator[str]:
    """Yield the files that no ``.gitignore`` and no name of a built folder leaves out; links are not followed."""
    wanted = set(only)
    waiting: list[tuple[str, tuple[tuple[str, GitIgnoreSpec], ...]]] = [("", ())]
    count = 0
    while waiting and count < 4 * MAX_FILES:
        relative, ignored = waiting.pop()
        if wanted and relative and not any(path.startswith(relative) for path in wanted):
            continue
        ignored = (*ignored, *_read_ignored(folder, relative))
        for entry in _scan(folder / relative):
            path = relative + entry.name
            if not _is_printable(path) or _is_ignored(path, entry, ignored):
                continue
            if entry.is_dir(follow_symlinks=False):
                if not _VENDORED.search(f"{path}/") and not _BUILT.search(f"{path}/"):
                    waiting.append((f"{path}/", ignored))
            elif entry.is_file(follow_symlinks=False) and (not wanted or path in wanted):
                count += 1
                yield path


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _read_ignored(folder: Path, relative: str) -> Iterable[tuple[str, GitIgnoreSpec]]:
    read = read_lines(folder / relative / ".gitignore")
    return [(relative, GitIgnoreSpec.from_lines(read))] if read else []


def read_lines(path: Path) -> list[str]:
    """Read the lines of a small text file; none if it cannot be read or is a link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return []
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        return stream.read(MAX_BYTES).decode("utf-8", "replace").splitlines()


def _is_ignored(path: str, entry: os.DirEntry[str], ignored: Sequence[tuple[str, GitIgnoreSpec]]) -> bool:
    name = f"{path}/" if entry.is_dir(follow_symlinks=False) else path
    result = False
    for relative, spec in ignored:
        if (match := spec.check_file(name[len(relative) :]).include) is not None:
            result = match
    return result


def _is_printable(path: str) -> bool:
    return path.isprintable() and "\\" not in path
