"""The subcommands: one job each from the shell, with the same ``assist`` and engine as the server.

Exit codes: 0 done, 1 the model failed, 2 bad arguments, 3 refused or no suggestion; the reason is on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.proposals import Proposal, Refusal, describe_written
from codeclippy_ls.assist.suggester import Suggestions
from codeclippy_ls.command_settings import UsageError, parse_settings
from codeclippy_ls.engines import open_engine
from codeclippy_ls.inference.engine import ModelState
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.progress_line import show_progress
from codeclippy_ls.settings import Settings
from codeclippy_ls.syntax.languages import language_of_file
from codeclippy_ls.tasks.model_info import shorten_model_name
from codeclippy_ls.text import Document

_Result = TypeVar("_Result")


def complete(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Print the suggestion at ``FILE:LINE:COL``."""

    async def work(assistant: Assistant) -> Suggestions:
        return await assistant.complete(document, offset, patient=True)

    try:
        document, offset = _read_position(args.position)
        # Nobody is typing, so the time budget is generous.
        result = _run(parse_settings({**options, "completion": {"invokedBudgetMs": 30000}}), work)
    except UsageError as error:
        return _fail(2, str(error))
    except EngineError as error:
        return _fail(1, str(error))
    if not result.items:
        return _fail(3, "no suggestion at this position")
    print(result.items[0].text)
    return 0


def edit(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Print the edit of a file by message as a unified diff; with ``--apply``, write it to the file."""
    from codeclippy_ls.diffs.writing import write_diff

    async def work(assistant: Assistant) -> Proposal | Refusal:
        return await assistant.edit(document, args.message, lines, written.append)

    written: list[str] = []

    try:
        document = _read_document(args.file)
        lines = _read_lines(args.lines, document)
        result = _run(parse_settings(options), work, lambda: describe_written("".join(written)))
    except UsageError as error:
        return _fail(2, str(error))
    except EngineError as error:
        return _fail(1, str(error))
    if isinstance(result, Refusal):
        return _fail(3, result.describe())
    bom = "\ufeff" if _has_bom(args.file) else ""
    sys.stdout.write(write_diff(bom + document.text, bom + result.after, args.file.as_posix().lstrip("/")))
    if args.apply:
        try:
            _replace_file(args.file, bom + result.after)
        except OSError as error:
            return _fail(2, f"{args.file} cannot be written: {error.strerror}")
    return 0


def show_context(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Print what a prompt at ``FILE:LINE:COL`` shows of other files of its project, and why."""
    import sqlite3

    from codeclippy_ls.assist.context import ContextChooser, Cursor
    from codeclippy_ls.index.building import update_index
    from codeclippy_ls.index.files import find_project, is_indexable_folder
    from codeclippy_ls.index.reader import FolderIndex
    from codeclippy_ls.syntax.tree import DocumentTrees

    try:
        document, offset = _read_position(args.position)
        settings = parse_settings(options)
    except UsageError as error:
        return _fail(2, str(error))
    file = Path(args.position.rpartition(":")[0].rpartition(":")[0]).absolute()
    folder = args.folder or find_project(file)
    index = None
    if is_indexable_folder(folder):
        try:
            update_index(folder)
            index = FolderIndex(folder)
        except (OSError, sqlite3.Error) as error:
            return _fail(1, f"the index of {folder} cannot be written: {error}")
    context = ContextChooser(lambda document: (), lambda document: index, DocumentTrees())
    cursor = Cursor(document, document.text[:offset], document.text[offset:])
    chosen = context.choose(settings, cursor, (), args.tokens)
    sys.stdout.write(chosen.describe(file.name, document.line_at(offset) + 1))
    return 0


def manage_cache(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """List the prepared models in the cache, the last used one first, or remove them."""
    from datetime import datetime

    from codeclippy_ls.catalog.prepared_cache import clear_cache, find_cache_folder, list_entries

    if args.action == "clear":
        print(f"removed {clear_cache() / 1e6:.0f} MB from {find_cache_folder()}")
        return 0
    entries = list_entries()
    for entry in entries:
        used = datetime.fromtimestamp(entry.used_at).strftime("%Y-%m-%d %H:%M")
        print(f"{entry.nbytes / 1e6:8.0f} MB  {entry.number_format:8}  last used {used}  {entry.source}")
    print(f"{sum(entry.nbytes for entry in entries) / 1e6:8.0f} MB in {find_cache_folder()}")
    return 0


def manage_indexes(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """List the indexes of projects, bring a folder's up to date, or remove them."""
    import sqlite3

    from codeclippy_ls.index.building import update_index
    from codeclippy_ls.index.files import is_indexable_folder
    from codeclippy_ls.index.store import clear_indexes, find_indexes_folder, list_indexes

    if args.clear:
        print(f"removed {clear_indexes(args.folder) / 1e6:.1f} MB from {find_indexes_folder()}")
        return 0
    if args.folder is None:
        sizes = list_indexes()
    else:
        if not is_indexable_folder(args.folder):
            return _fail(2, f"{args.folder} is no project's folder: it must exist, and not hold your home folder")
        try:
            size = update_index(args.folder)
        except (OSError, sqlite3.Error) as error:
            return _fail(1, f"the index of {args.folder} cannot be written: {error}")
        sizes = [size] if size is not None else []
    for size in sizes:
        print(f"{size.nbytes / 1e6:8.1f} MB  {size.files:6} files  {size.declarations:7} definitions  {size.folder}")
    print(f"{sum(size.nbytes for size in sizes) / 1e6:8.1f} MB in {find_indexes_folder()}")
    return 0


def run_doctor(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Check the installation."""
    from codeclippy_ls.doctor import check_installation

    return check_installation(options)


def run_demo(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Play a session with the real server."""
    from codeclippy_ls.demo import play_demo

    arguments = [
        f"--{key}={value}"
        for key, value in (
            ("model", args.model),
            ("edit-model", args.edit_model),
            ("family", args.family),
            ("device", args.device),
            ("dtype", args.dtype),
            ("threads", args.threads),
        )
        if value is not None
    ]
    return play_demo(arguments)


def _run(
    settings: Settings,
    work: Callable[[Assistant], Awaitable[_Result]],
    describe_work: Callable[[], str] = lambda: "writing",
) -> _Result:
    """Run work on the engine of the settings, with the model loaded; say on stderr what takes long.

    By default the engine is the host that the editors use, or will use: it has the model in memory.
    """

    async def run() -> _Result:
        assistant = Assistant(open_engine(settings), settings)
        try:
            with show_progress(lambda: _describe_progress(settings, assistant, describe_work())):
                await assistant.load()
                return await work(assistant)
        finally:
            await assistant.aclose()

    return asyncio.run(run())


def _describe_progress(settings: Settings, assistant: Assistant, work: str) -> tuple[str, str]:
    """Say which model is loaded and how far, or what it does."""
    names = {ModelRole.COMPLETE: settings.model.completion, ModelRole.EDIT: settings.model.edit}
    for role, name in names.items():
        status = assistant.status(role)
        if status.state is ModelState.LOADING:
            return f"loading {shorten_model_name(name)}", f", {status.percentage} %" if status.percentage else ""
    kind, colon, detail = work.partition(":")
    return kind, colon + detail


def _read_position(text: str) -> tuple[Document, int]:
    match = re.fullmatch(r"(.+):(\d+):(\d+)", text)
    if match is None:
        raise UsageError(f"{text}: expected FILE:LINE:COL, such as hello.py:12:5")
    document = _read_document(Path(match[1]))
    line, column = int(match[2]) - 1, int(match[3]) - 1
    if not 0 <= line < document.line_count:
        raise UsageError(f"{match[1]} has no line {line + 1}, only lines 1 to {document.line_count}")
    start, end = document.line_span(line)
    if not 0 <= column <= end - start:
        raise UsageError(
            f"line {line + 1} of {match[1]} has no column {column + 1}, only columns 1 to {end - start + 1}"
        )
    return document, start + column


def _read_lines(lines: str | None, document: Document) -> tuple[int, int] | None:
    if lines is None:
        return None
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", lines)
    if match is None:
        raise UsageError(f"--lines {lines}: expected A-B, such as 10-20")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= document.line_count:
        raise UsageError(f"--lines {lines}: the file has lines 1 to {document.line_count}")
    return first - 1, last - 1


def _read_document(path: Path) -> Document:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a UTF-8 text file") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    language = language_of_file(path.name)
    return Document(path.absolute().as_uri(), text, language=language.id if language is not None else "")


def _has_bom(path: Path) -> bool:
    """Return whether the file begins with a byte order mark, which is not part of its text and must be kept."""
    with path.open("rb") as stream:
        return stream.read(3) == b"\xef\xbb\xbf"


def _replace_file(path: Path, text: str) -> None:
    """Replace a file by renaming a new one, so that it is never half written; its mode is kept.

    Raises:
        OSError: it cannot be written, or it is read-only, which a rename would ignore.
    """
    target = path.resolve()
    if not target.stat().st_mode & 0o222 or not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "the file is read-only")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    new_file = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode("utf-8"))
        new_file.chmod(target.stat().st_mode & 0o7777)
        new_file.replace(target)
    except BaseException:
        new_file.unlink()
        raise


def _fail(code: int, reason: str) -> int:
    print(f"codeclippy-ls: {reason}", file=sys.stderr)
    return code


SUBCOMMANDS: dict[str, Callable[[argparse.Namespace, dict[str, Any]], int]] = {
    "complete": complete,
    "edit": edit,
    "context": show_context,
    "cache": manage_cache,
    "index": manage_indexes,
    "doctor": run_doctor,
    "demo": run_demo,
}
