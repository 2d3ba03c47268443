"""The user's cache of prepared models: folders that are written once per model, whole or not at all, and used again.

An entry is named by the identity of the files that it was made from (path, size, time, inode), the number format and
the version of the code that made it, so it is never stale. The least recently used ones make room for new ones. Knows
nothing of what is in an entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

VERSION = 5  # of what is written into an entry; another one makes every entry anew
_MANIFEST = "entry.json"
_MAX_BYTES = 40 << 30  # of all entries: a model of 30 billion parameters in int8, or two dozen small ones
_MAX_SHARE_OF_DISK = 0.5  # of the bytes that are free or ours
_ABANDONED_SECONDS = 86400.0  # age of an unfinished entry whose maker must have died


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A prepared model.

    Attributes:
        source: the file or folder that it was made from.
        number_format: of its matrices.
        used_at: seconds since the epoch.
    """

    folder: Path
    source: str
    number_format: str
    nbytes: int
    used_at: float


class CacheFullError(Exception):
    """The disk has no room for an entry; the message says how much is needed and where."""


def find_cache_folder() -> Path:
    """Return the folder of everything that is made from checkpoints, on Linux ``$XDG_CACHE_HOME/codeclippy-ls``."""
    return platformdirs.user_cache_path("codeclippy-ls", appauthor=False)


def _find_entries_folder() -> Path:
    return find_cache_folder() / "prepared"


def identify(files: Iterable[Path], *more: str) -> str:
    """Return the name of the entry that belongs to files as they are now, and to ``more``.

    Raises:
        OSError: a file cannot be looked up.
    """
    parts = [str(VERSION), *more]
    for file in files:
        status = file.stat()
        parts.append(f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}")
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:20]


def is_entry(folder: Path) -> bool:
    """Return whether a folder is an entry, whose files nobody changes."""
    return folder.parent == _find_entries_folder()


def find_entry(name: str) -> Path | None:
    """Return an entry's folder if it is whole, and note that it was used; remove one that is not."""
    folder = _find_entries_folder() / name
    if not folder.is_dir():
        return None
    entry = _read_entry(folder)
    if entry is None:
        remove_entry(folder)
        return None
    with contextlib.suppress(OSError):
        os.utime(folder / _MANIFEST)
    return folder


def make_entry(name: str, source: Path, number_format: str, nbytes: int, write: Callable[[Path], None]) -> Path:
    """Make an entry by ``write``, which fills a folder; return the entry's folder.

    It appears under its name only when it is whole. If another process was faster, that one's is returned.

    Args:
        nbytes: its size, roughly; older entries are removed to make room for it.

    Raises:
        CacheFullError: there is no room for it.
        OSError: it cannot be written.
    """
    entries, target = _find_entries_folder(), _find_entries_folder() / name
    entries.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(entries)
    _make_room(entries, nbytes)
    temporary = Path(tempfile.mkdtemp(dir=entries, prefix=".new-"))
    try:
        write(temporary)
        sizes = {file.name: file.stat().st_size for file in temporary.iterdir()}
        manifest = {"source": str(source), "format": number_format, "version": VERSION, "files": sizes}
        (temporary / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        try:
            temporary.rename(target)
        except OSError:
            if _read_entry(target) is None:
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def remove_entry(folder: Path) -> None:
    """Remove an entry; a process that has it open keeps what it has mapped."""
    with contextlib.suppress(OSError):
        (folder / _MANIFEST).unlink()  # first, so that what cannot be removed is no entry any more
    shutil.rmtree(folder, ignore_errors=True)


def list_entries() -> list[CacheEntry]:
    """List the entries, the last used one first."""
    return sorted(_iterate_entries(_find_entries_folder()), key=lambda entry: -entry.used_at)


def clear_cache() -> int:
    """Remove everything that was made from checkpoints; return the number of bytes."""
    folder = find_cache_folder()
    made = [folder / "prepared", folder / "converted"]
    nbytes = sum(_measure(part) for part in made)
    for part in made:
        shutil.rmtree(part, ignore_errors=True)
    return nbytes


def _measure(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _iterate_entries(entries: Path) -> Iterator[CacheEntry]:
    if entries.is_dir():
        for folder in entries.iterdir():
            if not folder.name.startswith(".") and (entry := _read_entry(folder)) is not None:
                yield entry


def _read_entry(folder: Path) -> CacheEntry | None:
    """Read an entry; ``None`` if it is not whole: each file has the size that it was written with."""
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sizes = {str(name): int(size) for name, size in manifest["files"].items()}
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
        used_at = path.stat().st_mtime
        return CacheEntry(folder, manifest["source"], manifest["format"], sum(sizes.values()), used_at)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _remove_abandoned(entries: Path) -> None:
    """Remove unfinished entries whose makers died."""
    for folder in entries.glob(".new-*"):
        with contextlib.suppress(OSError):
            if time.time() - max(file.stat().st_mtime for file in (folder, *folder.iterdir())) > _ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _make_room(entries: Path, nbytes: int) -> None:
    """Remove the least recently used entries until there is room for ``nbytes``."""
    kept = sorted(_iterate_entries(entries), key=lambda entry: entry.used_at)
    used = sum(entry.nbytes for entry in kept)
    free = shutil.disk_usage(entries).free
    limit = min(_MAX_BYTES, int((free + used) * _MAX_SHARE_OF_DISK))
    while kept and used + nbytes > limit:
        oldest = kept.pop(0)
        remove_entry(oldest.folder)
        used -= oldest.nbytes
    free = shutil.disk_usage(entries).free
    if nbytes > free - (64 << 20):
        raise CacheFullError(
            f"it needs {nbytes / 1e9:.1f} GB in {entries}, and only {max(free, 0) / 1e9:.1f} GB are free; make room, "
            "or choose a smaller model"
        )
