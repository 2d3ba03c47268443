"""The path and the name of the file that a URI stands for, as people and models are told them.

Clients send more than ``file:`` URIs: cells of notebooks, unsaved files, terminals and pull requests, some of which no
URI parser accepts. So every text has a path here, and nothing raises. Knows no disk.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote

# Two letters at least: one letter is a drive of Windows.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_DRIVE = re.compile(r"/?([A-Za-z]:)(?=[/\\]|\Z)")
# Line ends would end a prompt's line, and no encoding carries a lone surrogate.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ON_DISK = ("file:", "vscode-notebook-cell:")  # schemes whose paths are those of files


def parse_path(uri: str) -> str:
    """Return the path of a URI: decoded, with slashes, without scheme, host, query and fragment.

    A path of Windows begins with its drive. A URI without a path has its host instead, and a text without a scheme is a
    path already.
    """
    scheme = _SCHEME.match(uri)
    if scheme is None:
        path = uri
    else:
        rest = uri[scheme.end() :].partition("#")[0].partition("?")[0]
        if rest.startswith("//"):
            host, slash, path = rest[2:].partition("/")
            rest = slash + path if path else host
        path = unquote(rest)
    path = _UNPRINTABLE.sub("\ufffd", path)
    return path.lstrip("/").replace("\\", "/") if _DRIVE.match(path) else path


def parse_name(uri: str) -> str:
    """Return the last part of a URI's path."""
    return parse_path(uri).rstrip("/").rpartition("/")[2]


def relative_path(uri: str, other: str) -> str:
    """Return another file's path relative to a file's folder; only its name if it is far away."""
    path, other_path = parse_path(uri), parse_path(other)
    root = _find_root(uri, path)
    if root is not None and root == _find_root(other, other_path):
        relative = posixpath.relpath(_drop_drive(other_path), posixpath.dirname(_drop_drive(path)))
        if not relative.startswith("../../../"):
            return relative
    return parse_name(other)


def _find_root(uri: str, path: str) -> tuple[str, str] | None:
    """Return the file system and the drive that an absolute path belongs to."""
    scheme = _SCHEME.match(uri)
    place = scheme.group().lower() if scheme is not None else "file:"
    drive = _DRIVE.match(path)
    if drive is None and not path.startswith("/"):
        return None
    return "file:" if place in _ON_DISK else place, drive[1].lower() if drive is not None else ""


def _drop_drive(path: str) -> str:
    return path[2:] or "/" if _DRIVE.match(path) else path
