"""`Workspace`: the folders that a client has open, and their indexes, which processes of their own keep up to date."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from codeclippy_ls.index.files import is_indexable_folder
from codeclippy_ls.index.process import IndexProcess
from codeclippy_ls.index.reader import FolderIndex
from codeclippy_ls.text import Document
from codeclippy_ls.uris import parse_path

log = logging.getLogger(__name__)

_MAX_FOLDERS = 12
# Seconds after which a folder is looked at again while the user works in it: soon if the client reports no changes.
_INTERVAL, _WATCHED_INTERVAL = 10.0, 120.0


class Workspace:
    """The folders of one session. Belongs to the loop thread, but for `find_index`, which any thread may call.

    Attributes:
        is_watched: the client reports changes of files.
    """

    def __init__(self) -> None:
        self.is_watched = False
        self._folders: tuple[Path, ...] = ()
        self._indexes: dict[Path, FolderIndex] = {}
        self._processes: dict[Path, IndexProcess] = {}
        self._looked_at = 0.0

    def change_folders(self, added: Iterable[str], removed: Iterable[str] = ()) -> None:
        """Add and remove folders by their URIs; those that are no project's are left out."""
        gone = set(map(_to_path, removed))
        new = [path for uri in added if (path := _to_path(uri)) is not None and is_indexable_folder(path)]
        self._folders = tuple(dict.fromkeys((*(one for one in self._folders if one not in gone), *new)))[:_MAX_FOLDERS]
        if self._processes or self._indexes:
            self.start()

    @property
    def has_folders(self) -> bool:
        """There is something to index."""
        return bool(self._folders)

    def start(self) -> None:
        """Build the indexes of the folders, and drop those of folders that were removed."""
        for folder in self._processes.keys() - set(self._folders):
            self._processes.pop(folder).close()
        indexes = {folder: self._indexes.get(folder) or FolderIndex(folder) for folder in self._folders}
        self._indexes = indexes
        for folder in self._folders:
            if folder not in self._processes:
                try:
                    self._processes[folder] = IndexProcess(folder)
                except OSError as error:
                    log.warning("the workspace is not indexed: %s", error)
        self._looked_at = time.monotonic()

    def stop(self) -> None:
        """Stop building and asking; what is built stays on the disk."""
        indexes, self._indexes = self._indexes, {}
        for process in self._processes.values():
            process.close()
        self._processes = {}
        for index in indexes.values():
            index.close()

    def find_index(self, document: Document) -> FolderIndex | None:
        """Return the index of the innermost folder that a document is in."""
        indexes = self._indexes
        if not indexes or (path := _to_path(document.file_uri)) is None:
            return None
        found = [index for index in indexes.values() if index.contains(path) is not None]
        return max(found, key=lambda index: len(index.folder.parts), default=None)

    def get_generations(self) -> tuple[str, ...]:
        """Return a value that changes when an index was brought up to date."""
        return tuple(index.generation for index in self._indexes.values())

    def record_changes(self, uris: Sequence[str]) -> None:
        """Have files read again that were changed on the disk."""
        paths = [str(path) for uri in uris if (path := _to_path(uri)) is not None]
        for process in self._processes.values():
            if paths:
                process.update(paths)

    def look_again(self) -> None:
        """Have the folders looked at, if that was some time ago: changes are not always reported."""
        now = time.monotonic()
        if now - self._looked_at > (_WATCHED_INTERVAL if self.is_watched else _INTERVAL):
            self._looked_at = now
            for process in self._processes.values():
                process.update([])


def _to_path(uri: str) -> Path | None:
    """Return the path of a file on this machine."""
    return Path(parse_path(uri)) if uri.startswith("file:") else None
