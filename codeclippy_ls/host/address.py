"""Where a configuration's host is found: a socket, a lock and a log in a folder that nobody else can reach.

A host is of one version, one interpreter, one environment and one way to use the machine; all of that makes its name,
so hosts that differ do not meet. Where there are no Unix-domain sockets it is a loopback port, and a file beside the
lock says which, with a token that callers must show.
"""

from __future__ import annotations

import asyncio
import contextlib
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

PACKAGE = Path(__file__).parent.parent
# What a host inherits and its work depends on. Of Python's, where modules are found: others (PYTHONSTARTUP,
# PYTHON_BASIC_REPL) an editor sets in its terminal, and an editor started there would have a host of its own.
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
STARTER = "CODECLIPPY_STARTER"  # in a host's environment: the process that started it
ALREADY_RUNNING = 75  # a host's exit code where another is there already

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class HostError(EngineError):
    """There is no host to talk to; the message says why and what to do. ``permanent``: trying again is of no use."""

    def __init__(self, message: str, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class HostAddress:
    """One host's files. ``loopback``: a port in the place of a socket."""

    folder: Path
    name: str
    loopback: bool = LOOPBACK

    @property
    def socket(self) -> Path:
        """The Unix-domain socket, or the file that holds port and token."""
        return self.folder / f"{self.name}.{'json' if self.loopback else 'sock'}"

    @property
    def lock(self) -> Path:
        """Held by the host as long as it lives."""
        return self.folder / f"{self.name}.lock"

    @property
    def log(self) -> Path:
        """What the host had to say."""
        return self.folder / f"{self.name}.log"


def resolve_host_address(settings: Settings) -> HostAddress:
    """The place of the host for these settings.

    Raises:
        HostError: there is no folder for it that is the user's alone.
    """
    model = settings.model
    environment = sorted((name, value) for name, value in os.environ.items() if name.upper().startswith(_ENVIRONMENT))
    facts = [
        version(),
        sys.executable,
        sys.version,
        str(PACKAGE),
        model.cache_megabytes,
        model.device,
        model.threads,
        environment,
    ]
    return HostAddress(prepare_runtime_folder(), hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16])


def version() -> str:
    """The package's version and the newest of its files: code that was changed in place is another version."""
    stamps = [0]
    for path in PACKAGE.rglob("*.py"):
        with contextlib.suppress(OSError):  # it is being replaced at this moment
            stamps.append(path.stat().st_mtime_ns)
    return f"{__version__} {max(stamps)} {len(stamps)}"


def prepare_runtime_folder() -> Path:
    """The folder for sockets, made where it is missing, and checked.

    Raises:
        HostError: it is not the user's, or others can reach it.
    """
    if sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or tempfile.gettempdir()) / "codeclippy"
    elif os.environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        folder = Path(os.environ["XDG_RUNTIME_DIR"]) / "codeclippy"
    else:
        folder = Path(tempfile.gettempdir()) / f"codeclippy-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise HostError(
            f'the engine host has no place: {folder}: {error.strerror}; the setting "model.engine" can be "in-process"',
            permanent=True,
        ) from error
    if not stat.S_ISDIR(found.st_mode) or (
        sys.platform != "win32" and (found.st_uid != os.getuid() or found.st_mode & 0o077)
    ):
        raise HostError(
            f"the engine host has no safe place: {folder} is not a folder that only you can reach; remove "
            'it, or set "model.engine" to "in-process"',
            permanent=True,
        )
    return folder


async def connect(place: HostAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """The streams to a host and the token to show it.

    Raises:
        OSError: no host listens.
    """
    if sys.platform == "win32" or place.loopback:
        try:
            address = json.loads(place.socket.read_text(encoding="utf-8"))
            port, token = int(address["port"]), str(address["token"])
        except (ValueError, KeyError) as error:
            raise OSError("the host's address cannot be read") from error
        return *await asyncio.open_connection("127.0.0.1", port, limit=MAX_HEADER), token
    reader, writer = await asyncio.open_unix_connection(place.socket, limit=MAX_HEADER)
    if not is_own(writer):
        writer.close()
        raise OSError("the host is another user's")
    return reader, writer, ""


async def listen(place: HostAddress, connected: Connected) -> tuple[asyncio.Server, str]:
    """Listen as the host of a place, whose lock is held; a socket that is left of a dead one is replaced.

    Returns:
        The listening server, and the token that callers must show.
    """
    if sys.platform == "win32" or place.loopback:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=MAX_HEADER)
        token = secrets.token_hex(32)
        aside = place.socket.with_suffix(".new")
        aside.unlink(missing_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            json.dump({"port": server.sockets[0].getsockname()[1], "token": token}, stream)
        aside.replace(place.socket)
        return server, token
    before = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(connected, place.socket, limit=MAX_HEADER), ""
    finally:
        os.umask(before)


def is_own(writer: asyncio.StreamWriter) -> bool:
    """Whether the other end is the same user's; true where the system does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    one = writer.get_extra_info("socket")
    if one.family != socket.AF_UNIX:
        return True
    _, user, _ = struct.unpack("3i", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(user == os.getuid())
