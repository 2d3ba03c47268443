"""The user's own configuration file, which all editors share: ``config.toml`` in the platform's folder.

Its options have the same names as a client's. Command line and client's settings take precedence. A mistake in it is a
message and never stops anything.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any

import platformdirs

from codeclippy_ls.settings import Settings, parse

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

_MAX_BYTES = 1 << 20
_TABLE = re.compile(r"^\s*\[\s*([\w.]+)\s*\]\s*(#.*)?$")


class UserConfigError(Exception):
    """The file cannot be read or changed; the message is for the user."""


def find_user_config() -> Path:
    """Return the path of the file, on Linux ``$XDG_CONFIG_HOME/codeclippy-ls/config.toml``."""
    return platformdirs.user_config_path("codeclippy-ls", appauthor=False) / "config.toml"


def read_user_settings() -> tuple[Settings, list[str]]:
    """Return the settings of the file, and the problems; the defaults if there is no file or it cannot be used."""
    try:
        settings, problems = parse(_parse(_read()))
    except UserConfigError as error:
        return Settings(), [str(error)]
    return settings, [f"{find_user_config()}: {problem}" for problem in problems]


def set_user_model(key: str, name: str) -> Path:
    """Set ``model.<key>`` in the file, and leave everything else in it as it is; return its path.

    Raises:
        UserConfigError: the file cannot be used or written.
    """
    path, text = find_user_config(), _read()
    before = _parse(text)
    changed = _set_line(text, key, f"{key} = {_quote(name)}")
    model = before.get("model", {})
    expected = {**before, "model": {**model, key: name}} if isinstance(model, dict) else None
    try:
        after = _parse(changed)
    except UserConfigError:
        after = {}
    if after != expected:
        raise UserConfigError(f'{path} is not written in the usual form; set "{key}" under [model] in it by hand')
    _write(path, changed)
    return path


def _read() -> str:
    path = find_user_config()
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserConfigError(f"{path} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise UserConfigError(f"{path} is not a file of less than 1 MiB; it is ignored")
        try:
            return stream.read().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserConfigError(f"{path} cannot be read: it is not UTF-8 text") from error


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserConfigError(f"{find_user_config()} is ignored: {error}") from error


def _set_line(text: str, key: str, line: str) -> str:
    """Replace the line of a key under ``[model]``, or add it, and the table if necessary."""
    lines = text.splitlines()
    tables = [(index, match[1]) for index, old in enumerate(lines) if (match := _TABLE.match(old))]
    start = next((index for index, name in tables if name == "model"), None)
    if start is None:
        return "\n".join([*lines, *([""] if lines else []), "[model]", line]) + "\n"
    end = next((index for index, _ in tables if index > start), len(lines))
    for index in range(start + 1, end):
        if re.match(rf"\s*{key}\s*=", lines[index]):
            return "\n".join([*lines[:index], line, *lines[index + 1 :]]) + "\n"
    return "\n".join([*lines[: start + 1], line, *lines[start + 1 :]]) + "\n"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a basic string of TOML


def _write(path: Path, text: str) -> None:
    """Replace the file by renaming a new one; of a link, replace what it points to."""
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".config.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
                stream.write(text)
            if target.exists():
                Path(name).chmod(target.stat().st_mode & 0o7777)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserConfigError(f"{path} cannot be written: {error.strerror}") from error
