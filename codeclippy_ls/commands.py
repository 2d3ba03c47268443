"""The verbs: one job from the shell, over the same ``assist`` and engine as the server.

Exit codes: 0 done, 1 the model failed, 2 bad arguments, 3 refused or nothing to suggest, with the reason on stderr.
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
from codeclippy_ls.assist.proposals import Proposal, Refusal
from codeclippy_ls.assist.suggester import Suggestions
from codeclippy_ls.engines import open_engine
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.settings import Settings, parse
from codeclippy_ls.text import Document

_Result = TypeVar("_Result")

# What editors call the languages whose code is looked at more closely.
_LANGUAGES = {
    ".py": "python",
    ".pyi": "python",
    ".json": "json",
    ".sh": "shellscript",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".toml": "toml",
    ".rb": "ruby",
    ".pl": "perl",
    ".r": "r",
    ".jl": "julia",
    ".mk": "makefile",
}


class _Usage(Exception):
    """An argument that cannot be used; the message is for the user."""


def complete(parsed: argparse.Namespace, options: dict[str, Any]) -> int:
    """``complete FILE:LINE:COL``: print the suggestion."""

    async def job(assistant: Assistant) -> Suggestions:
        return await assistant.complete(document, offset)

    try:
        document, offset = _place(parsed.place)
        # Nobody waits at a keystroke here, so the budget is generous.
        result = _run(_settings({**options, "completion": {"timeBudgetMs": 30000}}), job)
    except _Usage as error:
        return _fail(2, str(error))
    except EngineError as error:
        return _fail(1, str(error))
    if not result.items:
        return _fail(3, "no suggestion here")
    print(result.items[0].text)
    return 0


def edit(parsed: argparse.Namespace, options: dict[str, Any]) -> int:
    """``edit FILE --message TEXT``: print the edit as a unified diff, or write it to the file."""
    from codeclippy_ls.diffs.writing import write_diff

    async def job(assistant: Assistant) -> Proposal | Refusal:
        return await assistant.edit(document, parsed.message, span)

    try:
        document = _read(parsed.file)
        span = _span(parsed.lines, document)
        result = _run(_settings(options), job)
    except _Usage as error:
        return _fail(2, str(error))
    except EngineError as error:
        return _fail(1, str(error))
    if isinstance(result, Refusal):
        return _fail(3, f"no edit: {result.reason}")
    mark = "\ufeff" if _marked(parsed.file) else ""
    sys.stdout.write(write_diff(mark + document.text, mark + result.after, parsed.file.as_posix().lstrip("/")))
    if parsed.apply:
        try:
            _replace(parsed.file, mark + result.after)
        except OSError as error:
            return _fail(2, f"{parsed.file} cannot be written: {error.strerror}")
    return 0


def models(parsed: argparse.Namespace, options: dict[str, Any]) -> int:
    """``models``: the families with their jobs, window, licence and cautions, and what is on this machine."""
    import textwrap

    from codeclippy_ls.families import FAMILIES
    from codeclippy_ls.inference.spec import list_cached_hub_models, read_shipped_card

    found = list_cached_hub_models()
    for family in FAMILIES:
        print(
            f"{family.name}: {', '.join(one.value for one in family.capabilities)}; context {family.context_length}; "
            f"licence: {family.licence}"
        )
        print(f"  models: {', '.join(family.examples)}")
        print(textwrap.fill(family.cautions, 100, initial_indent="  ", subsequent_indent="  "))
        here = [name for name in found if name in family.examples]
        if here:
            print(f"  on this machine: {', '.join(here)}")
    try:
        card = read_shipped_card()
        print(f"\nshipped: {card['name']} {card['version']}, {card['parameters'] / 1e6:.1f} million parameters")
    except OSError:
        print("\nshipped: none; this installation is not whole")
    print(f"on this machine: {', '.join(found) or 'no other model'}")
    return 0


def doctor(parsed: argparse.Namespace, options: dict[str, Any]) -> int:
    """``doctor``: check everything."""
    from codeclippy_ls.doctor import examine

    return examine(options)


def demo(parsed: argparse.Namespace, options: dict[str, Any]) -> int:
    """``demo``: play a session with the real server."""
    from codeclippy_ls.demo import play

    arguments = [
        f"--{key}={value}"
        for key, value in (
            ("model", parsed.model),
            ("edit-model", parsed.edit_model),
            ("family", parsed.family),
            ("device", parsed.device),
            ("dtype", parsed.dtype),
            ("threads", parsed.threads),
        )
        if value is not None
    ]
    return play(arguments)


def _settings(options: dict[str, Any]) -> Settings:
    settings, problems = parse({**options, "model": {"engine": "in-process", **options.get("model", {})}})
    if problems:
        raise _Usage("; ".join(problems))
    return settings


def _run(settings: Settings, job: Callable[[Assistant], Awaitable[_Result]]) -> _Result:
    """Run a job on an engine of its own, or the endpoint, with the model there."""

    async def run() -> _Result:
        assistant = Assistant(open_engine(settings), settings)
        try:
            await assistant.load()
            return await job(assistant)
        finally:
            await assistant.aclose()

    return asyncio.run(run())


def _place(text: str) -> tuple[Document, int]:
    match = re.fullmatch(r"(.+):(\d+):(\d+)", text)
    if match is None:
        raise _Usage(f"{text}: FILE:LINE:COL is needed, as in hello.py:12:5")
    document = _read(Path(match[1]))
    line, column = int(match[2]) - 1, int(match[3]) - 1
    if not 0 <= line < document.line_count:
        raise _Usage(f"{match[1]} has {document.line_count} lines, and no line {line + 1}")
    start, end = document.line_span(line)
    if not 0 <= column <= end - start:
        raise _Usage(f"line {line + 1} of {match[1]} has {end - start} characters; column {column + 1} is not in it")
    return document, start + column


def _span(lines: str | None, document: Document) -> tuple[int, int] | None:
    if lines is None:
        return None
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", lines)
    if match is None:
        raise _Usage(f"--lines {lines}: A-B is needed, as in 10-20")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= document.line_count:
        raise _Usage(f"--lines {lines}: the file has lines 1 to {document.line_count}")
    return first - 1, last - 1


def _read(path: Path) -> Document:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _Usage(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise _Usage(f"{path}: {error.strerror}") from None
    return Document(path.as_posix(), text, language=_LANGUAGES.get(path.suffix.lower(), ""))


def _marked(path: Path) -> bool:
    """Whether the file begins with a byte order mark, which is no part of its text and must stay where it is."""
    with path.open("rb") as stream:
        return stream.read(3) == b"\xef\xbb\xbf"


def _replace(path: Path, text: str) -> None:
    """Write beside the file and rename, so that the file is never half written; its mode is kept.

    Raises:
        OSError: it cannot be written, or is marked as read-only, which a rename would not respect.
    """
    target = path.resolve()
    if not target.stat().st_mode & 0o222 or not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it is read-only")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode("utf-8"))
        aside.chmod(target.stat().st_mode & 0o7777)
        aside.replace(target)
    except BaseException:
        aside.unlink()
        raise


def _fail(code: int, reason: str) -> int:
    print(f"codeclippy-ls: {reason}", file=sys.stderr)
    return code
