"""Bring a folder's index up to date: all of it by times and sizes, or some files by name."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from filelock import FileLock

from codeclippy_ls.index import files, store
from codeclippy_ls.index.reading import SourceFile, identify, read_file

_BATCH = 100  # files between two commits, which let others read
_MAX_NAMED = 200  # files by name; of more, as after a checkout, the whole folder is looked at

ShouldStop = Callable[[], bool]


def update_index(
    folder: Path, paths: Sequence[str] = (), should_stop: ShouldStop = lambda: False
) -> store.IndexSize | None:
    """Bring the index of a folder up to date; return its size, or ``None`` if it was stopped.

    Args:
        paths: absolute paths of the files that changed; without any, all of the folder.
        should_stop: asked after each file.

    Raises:
        OSError, sqlite3.Error: the index cannot be written.
    """
    folder = Path(os.path.realpath(folder))
    path = store.find_index(folder)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock, opened = FileLock(path.with_suffix(".lock"), mode=0o600), store.open_for_writing
    with lock, contextlib.closing(opened(path, folder)) as database:
        files.forget_links()
        named = [name for one in paths if (name := _make_relative(folder, one)) is not None]
        if paths and not named:
            return store.measure_index(database, path)
        is_partial = bool(named) and len(named) <= _MAX_NAMED and store.read_about(database, "complete") == "yes"
        if not _update(database, folder, named if is_partial else [], should_stop):
            return None
        store.write_about(database, "complete", "yes")
        store.write_about(database, "generation", str(int(store.read_about(database, "generation") or 0) + 1))
        database.commit()
        with contextlib.suppress(sqlite3.Error):
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return store.measure_index(database, path)


def _make_relative(folder: Path, path: str) -> str | None:
    """Return a path below the folder; ``None`` for others."""
    try:
        relative = Path(os.path.realpath(Path(path).parent), Path(path).name).relative_to(folder).as_posix()
    except ValueError:
        return None
    return relative if relative != "." else None


def _update(database: sqlite3.Connection, folder: Path, named: Sequence[str], should_stop: ShouldStop) -> bool:
    """Read what has changed and drop what is gone; return whether it was not stopped."""
    known = store.list_known(database)
    if named:
        known = {path: value for path, value in known.items() if _is_one_of(path, named)}
    present = {path: state for path in files.list_files(folder, named) if (state := _look_up(folder, path)) is not None}
    store.remove_files(database, known.keys() - present.keys())
    changed = [path for path, state in present.items() if known.get(path) != state]
    for number, path in enumerate(changed, 1):
        if should_stop():
            return False
        _replace_file(database, folder, path)
        if not number % _BATCH:
            database.commit()
    database.commit()
    return True


def _is_one_of(path: str, named: Iterable[str]) -> bool:
    """Return whether a file, or a folder that it is in, is named."""
    return any(path == name or path.startswith(f"{name}/") for name in named)


def _look_up(folder: Path, path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(folder / path)
    except OSError:
        return None
    return identify(status) if stat.S_ISREG(status.st_mode) and status.st_size <= files.MAX_BYTES else None


def _replace_file(database: sqlite3.Connection, folder: Path, path: str) -> None:
    store.remove_files(database, [path])
    file = read_file(folder, path)
    if file is None and (state := _look_up(folder, path)) is not None:
        file = SourceFile(path, *state, "", [], [], [])  # so that it is not read again until it changes
    if file is not None:
        store.add_file(database, file)
