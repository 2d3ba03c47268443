"""`FolderIndex`: the reader's end of a folder's index. Answers with nothing while there is none."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from pathlib import Path

from codeclippy_ls.index.question import Finding, Place, find_context
from codeclippy_ls.index.store import find_index, open_for_reading, read_about

log = logging.getLogger(__name__)


class FolderIndex:
    """An index that is read. Any thread may ask; questions wait for each other.

    Args:
        folder: the indexed folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.realpath(folder))
        self._path = find_index(self.folder)
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def contains(self, path: Path) -> str | None:
        """Return a file's path relative to the folder; ``None`` if it is not in it."""
        try:
            return path.relative_to(self.folder).as_posix()
        except ValueError:
            pass
        try:
            return Path(os.path.realpath(path)).relative_to(self.folder).as_posix()
        except (ValueError, OSError):
            return None

    @property
    def generation(self) -> str:
        """Changes each time that the index was brought up to date; empty until it is there."""
        with self._lock:
            try:
                return read_about(self._open(), "generation")
            except sqlite3.Error:
                self._drop()
                return ""

    def find(self, place: Place) -> list[Finding]:
        """Find what a place may need from other files, the most needed first; nothing if the index cannot be read."""
        with self._lock:
            try:
                return find_context(self._open(), self.folder, place)
            except sqlite3.Error:
                self._drop()
            except Exception:  # a suggestion without it is better than none
                log.exception("the index could not be asked")
            return []

    def close(self) -> None:
        """Close the database; the next question opens it again."""
        with self._lock:
            self._drop()

    def _open(self) -> sqlite3.Connection:
        if self._database is not None and not self._path.exists():  # it was cleared
            self._drop()
        if self._database is None:
            self._database = open_for_reading(self._path)
        return self._database

    def _drop(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
