"""Read a checkpoint's JSON files, reject files that are placeholders, and summarize errors in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from codeclippy_ls.inference.errors import ModelError


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
        ModelError: it cannot be read, or contains something else.
    """
    reject_placeholder(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be used: {summarize_error(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} cannot be used: it contains no JSON object")
    return content


def reject_placeholder(file: Path) -> None:
    """Reject a Git LFS pointer or a web page that was saved in place of a checkpoint's file.

    Raises:
        ModelError: the file is one of these.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(64).lstrip().lower()
    except OSError:  # missing: its reader will say so
        return
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{file} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    if head.startswith((b"<!doctype", b"<html")):
        raise ModelError(f"{file} is a web page, not a part of a model; download it again")


def summarize_error(error: BaseException) -> str:
    """Return the first line of an error's message, without its full stop, to be put into a longer sentence."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:")
    return first_line if len(first_line) <= 300 else first_line[:299] + "…"
