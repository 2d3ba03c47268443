"""An index on the disk: one SQLite database per folder in the user's cache.

One process writes at a time, under a lock; any number may read at the same time (write-ahead log). Its content can be
made anew at any time, so another version or a broken file is simply removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from codeclippy_ls.index.reading import SourceFile

_VERSION = 1  # of the tables and of what is read from a file
_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE file (id INTEGER PRIMARY KEY, path TEXT UNIQUE, stem TEXT, folder TEXT, time INTEGER, size INTEGER,
    language TEXT);
CREATE INDEX file_stem ON file (stem);
CREATE INDEX file_folder ON file (folder);
CREATE TABLE declaration (file INTEGER, name TEXT, kind TEXT, parent TEXT, line INTEGER, end_line INTEGER,
    signature TEXT, doc TEXT, bases TEXT);
CREATE INDEX declaration_file ON declaration (file, parent, name);
CREATE INDEX declaration_name ON declaration (name, parent);
CREATE TABLE import (file INTEGER, module TEXT, name TEXT, alias TEXT);
CREATE INDEX import_file ON import (file, alias);
CREATE TABLE window (id INTEGER PRIMARY KEY, file INTEGER, line INTEGER, words TEXT);
CREATE INDEX window_file ON window (file);
CREATE VIRTUAL TABLE word USING fts5 (words, content='window', content_rowid='id', detail=none,
    tokenize="unicode61 tokenchars '_'");
CREATE VIRTUAL TABLE word_count USING fts5vocab (word, row);
"""


@dataclass(frozen=True, slots=True)
class IndexSize:
    """The size of an index: its folder, files, definitions and bytes."""

    folder: str
    files: int
    declarations: int
    nbytes: int


def find_indexes_folder() -> Path:
    """Return the folder of all indexes, on Linux ``$XDG_CACHE_HOME/codeclippy-ls/index``."""
    return platformdirs.user_cache_path("codeclippy-ls", appauthor=False) / "index"


def find_index(folder: Path) -> Path:
    """Return the path of a folder's database."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:20]
    return find_indexes_folder() / f"{name}.db"


def list_indexes() -> list[IndexSize]:
    """List the indexes that there are."""
    found = []
    for path in sorted(find_indexes_folder().glob("*.db")):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(open_for_reading(path)) as database:
            found.append(measure_index(database, path))
    return found


def measure_index(database: sqlite3.Connection, path: Path) -> IndexSize:
    """Measure an index."""
    files, declarations = (
        int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in ("file", "declaration")
    )
    return IndexSize(read_about(database, "folder"), files, declarations, path.stat().st_size)


def clear_indexes(folder: Path | None = None) -> int:
    """Remove a folder's index, or all; return the number of bytes."""
    nbytes = 0
    path = find_indexes_folder()
    for file in path.glob(f"{find_index(folder).stem}.*" if folder is not None else "*"):
        with contextlib.suppress(OSError):
            nbytes += file.stat().st_size
            file.unlink()
    return nbytes


def open_for_writing(path: Path, folder: Path) -> sqlite3.Connection:
    """Open a folder's database, or make it; only its user can read it.

    Raises:
        OSError, sqlite3.Error: it cannot be made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for attempt in (1, 2):
        database = _connect(path)
        try:
            known = _read_version(database)
            if known == f"{_VERSION} {folder}":
                return database
            if known:
                raise sqlite3.DatabaseError("another version")
            database.executescript(_SCHEMA)
            database.execute("INSERT INTO about VALUES ('folder', ?), ('version', ?)", (str(folder), str(_VERSION)))
            database.commit()
            return database
        except sqlite3.DatabaseError:
            database.close()
            if attempt == 2:
                raise
            for end in ("", "-wal", "-shm"):
                Path(f"{path}{end}").unlink(missing_ok=True)
    raise AssertionError("unreachable")


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    database = sqlite3.connect(path, timeout=30, isolation_level="DEFERRED")
    with contextlib.suppress(sqlite3.DatabaseError):
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")  # it can be made anew
        database.execute("PRAGMA cache_size = -8000")
    return database


def _read_version(database: sqlite3.Connection) -> str:
    if database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
        return ""
    return f"{read_about(database, 'version')} {read_about(database, 'folder')}"


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a database that exists, for any one thread at a time.

    Raises:
        sqlite3.Error: there is none, or it is of another version.
    """
    database = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False, timeout=0.05)
    try:
        if read_about(database, "version") != str(_VERSION):
            raise sqlite3.DatabaseError("another version")
    except BaseException:
        database.close()
        raise
    return database


def read_about(database: sqlite3.Connection, name: str) -> str:
    """Return a fact about the index; empty if it has none of that name."""
    row = database.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row is not None else ""


def write_about(database: sqlite3.Connection, name: str, value: str) -> None:
    """Write a fact about the index."""
    database.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))


def list_known(database: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Return the time and size of each file as it was read."""
    return {path: (time, size) for path, time, size in database.execute("SELECT path, time, size FROM file")}


def remove_files(database: sqlite3.Connection, paths: Iterable[str]) -> None:
    """Remove what the index keeps of files."""
    for path in paths:
        row = database.execute("SELECT id FROM file WHERE path = ?", (path,)).fetchone()
        if row is None:
            continue
        windows = database.execute("SELECT id, words FROM window WHERE file = ?", row).fetchall()
        database.executemany("INSERT INTO word (word, rowid, words) VALUES ('delete', ?, ?)", windows)
        for table in ("window", "declaration", "import"):
            database.execute(f"DELETE FROM {table} WHERE file = ?", row)
        database.execute("DELETE FROM file WHERE id = ?", row)


def add_file(database: sqlite3.Connection, file: SourceFile) -> None:
    """Add what the index keeps of a file, which it must not have."""
    folder, _, name = file.path.rpartition("/")
    stem = name.partition(".")[0]
    if stem in ("__init__", "index", "mod"):  # a folder's own module
        stem = folder.rpartition("/")[2] or stem
    columns = "path, stem, folder, time, size, language"
    row = (file.path, stem, folder, file.time, file.size, file.language)
    id = database.execute(f"INSERT INTO file ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row).lastrowid
    database.executemany(
        "INSERT INTO declaration VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (id, one.name, one.kind, one.parent, one.line, one.end_line, one.signature, one.doc, " ".join(one.bases))
            for one in file.declarations
        ),
    )
    database.executemany(
        "INSERT INTO import VALUES (?, ?, ?, ?)", ((id, one.module, one.name, one.alias) for one in file.imports)
    )
    for line, words in file.windows:
        inserted = database.execute("INSERT INTO window (file, line, words) VALUES (?, ?, ?)", (id, line, words))
        database.execute("INSERT INTO word (rowid, words) VALUES (?, ?)", (inserted.lastrowid, words))
