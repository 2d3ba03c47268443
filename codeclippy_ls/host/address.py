"""The address of a configuration's host: a socket, a lock and a log in a folder that only the user can reach.

A host has one version, one interpreter, one environment and one way to use the machine. All of that makes its name, so
hosts that differ do not meet. Without Unix-domain sockets the host listens on a loopback port; a file beside the lock
holds the port, with a token that clients must show.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from codeclippy_ls import __version__
from codeclippy_ls.framing import MAX_HEADER
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.settings import Settings

PACKAGE_FOLDER = Path(__file__).parent.parent
# Environment variables that a host inherits and that change its work. Of Python's, only those that say where to find
# modules: editors set others in their terminals (PYTHONSTARTUP, PYTHON_BASIC_REPL), and an editor that is started there
# would have a host of its own.
_ENVIRONMENT = (
    "CUDA_",
    "HF_",
    "HUGGINGFACE_",
    "TRANSFORMERS_",
    "TORCH",
    "PYTORCH_",
    "OMP_",
    "MKL_",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONUSERBASE",
    "PYTHONNOUSERSITE",
    "LD_",
    "DYLD_",
    "XDG_CACHE_HOME",
    "HTTP_PROXY",
    "HTTPS_PROXY",
)
LOOPBACK = sys.platform == "win32"
_MAX_FOLDER = 103 - len("/0123456789abcdef.sock")  # bytes; a socket's path has 103 on macOS, 107 on Linux
STARTER_VARIABLE = "CODECLIPPY_STARTER"  # in a host's environment: id of the process that started it
ALREADY_RUNNING = 75  # a host's exit code if another one is running

ConnectionHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class HostError(EngineError):
    """The host cannot be reached; the message says why and what to do. ``permanent``: trying again does not help."""

    def __init__(self, message: str, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class HostRejectedError(HostError):
    """The host refuses this client, whose code or token is not the host's."""

    def __init__(self, message: str) -> None:
        super().__init__(message, permanent=True)


@dataclass(frozen=True, slots=True)
class HostAddress:
    """The files of one host. ``loopback``: it listens on a port instead of a socket."""

    folder: Path
    name: str
    loopback: bool = LOOPBACK

    @property
    def socket(self) -> Path:
        """The Unix-domain socket, or the file that holds port and token."""
        return self.folder / f"{self.name}.{'json' if self.loopback else 'sock'}"

    @property
    def lock(self) -> Path:
        """The lock that the host holds as long as it lives."""
        return self.folder / f"{self.name}.lock"

    @property
    def process(self) -> Path:
        """The file that holds the host's process id."""
        return self.folder / f"{self.name}.pid"

    @property
    def log(self) -> Path:
        """The host's log, which is its stderr."""
        return self.folder / f"{self.name}.log"


def resolve_host_address(settings: Settings) -> HostAddress:
    """Return the address of the host for these settings.

    Raises:
        HostError: there is no folder for it that only the user can reach.
    """
    model = settings.model
    environment = sorted((name, value) for name, value in os.environ.items() if name.upper().startswith(_ENVIRONMENT))
    identity = [
        CODE_VERSION,
        sys.executable,
        sys.version,
        str(PACKAGE_FOLDER),
        model.cache_megabytes,
        model.device,
        model.threads,
        environment,
    ]
    return HostAddress(prepare_runtime_folder(), hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16])


def fingerprint_code(package: Path) -> str:
    """Return the package's version with a checksum of its sources: code that was changed is another version."""
    checksum = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        with contextlib.suppress(OSError):  # the file is being replaced at this moment
            checksum.update(b"%s\0%s\0" % (os.fsencode(path.relative_to(package)), path.read_bytes()))
    return f"{__version__} {checksum.hexdigest()[:16]}"


# That of the code which this process runs, taken when it is imported: an upgrade in place replaces the files under it.
CODE_VERSION = fingerprint_code(PACKAGE_FOLDER)


def prepare_runtime_folder() -> Path:
    """Return the folder for sockets, made if it is missing, and checked.

    Raises:
        HostError: it is not the user's, or others can reach it.
    """
    folder = _choose_runtime_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise HostError(
            f"the engine host cannot make its folder {folder} ({error.strerror}); restart the server with "
            '"model.engine" set to "auto", or make the parent writable',
            permanent=True,
        ) from error
    if not stat.S_ISDIR(found.st_mode) or (
        sys.platform != "win32" and (found.st_uid != os.getuid() or found.st_mode & 0o077)
    ):
        raise HostError(
            f"the engine host cannot use {folder}: it is not a folder that only you can reach; restart the server with "
            '"model.engine" set to "auto", or remove it',
            permanent=True,
        )
    return folder


def _choose_runtime_folder() -> Path:
    """Return the folder for the sockets; if their paths would be too long there, one with a short name."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or tempfile.gettempdir()) / "codeclippy"
    own = f"codeclippy-{os.getuid()}"
    folders = [Path(tempfile.gettempdir()) / own, Path("/tmp") / own]
    if os.environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        folders.insert(0, Path(os.environ["XDG_RUNTIME_DIR"]) / "codeclippy")
    return next((folder for folder in folders if len(os.fsencode(folder)) <= _MAX_FOLDER), folders[-1])


def open_regular_file(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file of the host's folder and return its descriptor; never waits, as opening a FIFO does.

    Raises:
        OSError: it cannot be opened, is a link, or is no regular file.
    """
    descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), mode)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_regular_file(path: Path) -> str:
    """Read a small text file of the host's folder.

    Raises:
        OSError: it cannot be read, is a link, or is no regular file.
    """
    with os.fdopen(open_regular_file(path, os.O_RDONLY), encoding="utf-8", errors="replace") as stream:
        return stream.read(4096)


async def open_connection(address: HostAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """Connect to the host; returns the streams and the token to show it.

    Raises:
        OSError: no host listens.
    """
    if sys.platform == "win32" or address.loopback:
        try:
            found = json.loads(read_regular_file(address.socket))
            port, token = int(found["port"]), str(found["token"])
        except (ValueError, KeyError) as error:
            raise OSError("the file with the host's port cannot be read") from error
        return *await asyncio.open_connection("127.0.0.1", port, limit=MAX_HEADER), token
    reader, writer = await asyncio.open_unix_connection(address.socket, limit=MAX_HEADER)
    if not is_same_user(writer):
        writer.close()
        raise OSError("the host is another user's")
    return reader, writer, ""


async def listen(address: HostAddress, on_connection: ConnectionHandler) -> tuple[asyncio.Server, str]:
    """Listen as the host of an address, whose lock is held; the socket of a dead host is replaced.

    Returns:
        The listening server, and the token that clients must show.
    """
    if sys.platform == "win32" or address.loopback:
        server = await asyncio.start_server(on_connection, "127.0.0.1", 0, limit=MAX_HEADER)
        token = secrets.token_hex(32)
        new_file = address.socket.with_suffix(".new")
        new_file.unlink(missing_ok=True)
        with os.fdopen(os.open(new_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            json.dump({"port": server.sockets[0].getsockname()[1], "token": token}, stream)
        new_file.replace(address.socket)
        return server, token
    umask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(on_connection, address.socket, limit=MAX_HEADER), ""
    finally:
        os.umask(umask)


def is_same_user(writer: asyncio.StreamWriter) -> bool:
    """Return whether the other end is a process of the same user; True if the system does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    peer = writer.get_extra_info("socket")
    if peer.family != socket.AF_UNIX:
        return True
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(user == os.getuid())
