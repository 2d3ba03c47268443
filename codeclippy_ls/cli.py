"""The command line: ``codeclippy-ls`` is the server, its verbs are one-shots over the same code.

Nothing heavy is imported before it is needed: ``--version`` and ``--help`` answer at once, and stdin and stdout are
guarded before any library can touch them.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from codeclippy_ls import __version__

_DESCRIPTION = "Code completion, infilling and edits by message from open models, on this machine."
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_streams()
    parsed = _parser().parse_args(arguments)
    _log_to(parsed.log_file, parsed.verbose, blocking=parsed.verb is not None)
    if parsed.verb is None:
        return _serve(parsed)
    if parsed.verb == "host":
        return _host(parsed)
    # An interrupt ends a verb at once, as it does other programs: neither a library that is being imported nor a model
    # that is being loaded is worth waiting for.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from codeclippy_ls import commands

        code: int = getattr(commands, parsed.verb)(parsed, _options(parsed))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    finally:
        signal.signal(signal.SIGINT, before)


def _open_streams() -> None:
    """Let closed standard streams read nothing and write nowhere, and every character be written somehow."""
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number: this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "codeclippy-ls",
        description=_DESCRIPTION,
        epilog="Without a verb it is the language server, on stdin and stdout.",
    )
    parser.add_argument("--version", action="version", version=f"codeclippy-ls {__version__}")
    _add_shared(parser)
    transport = parser.add_mutually_exclusive_group()
    transport.add_argument("--stdio", action="store_true", help="serve on stdin and stdout (the default)")
    transport.add_argument("--tcp", metavar="HOST:PORT", help="listen for clients, on a loopback address")
    transport.add_argument("--pipe", metavar="PATH", help="connect to a client's pipe")
    transport.add_argument("--socket", metavar="PORT", type=int, help="connect to a client's loopback port")
    parser.add_argument(
        "--allow-remote", action="store_true", help="let --tcp listen on any address; anyone who reaches it can use it"
    )
    parser.add_argument("--clientProcessId", metavar="PID", type=int, help=argparse.SUPPRESS)  # some clients add it
    verbs = parser.add_subparsers(dest="verb", metavar="verb")
    _add_verbs(verbs)
    return parser


def _add_verbs(verbs: Any) -> None:
    complete = verbs.add_parser("complete", help="print the suggestion at a place in a file")
    complete.add_argument("place", metavar="FILE:LINE:COL", help="line and column count from 1")
    edit = verbs.add_parser("edit", help="print an edit of a file as a unified diff")
    edit.add_argument("file", type=Path)
    edit.add_argument("--message", "-m", required=True, help="what to change")
    edit.add_argument("--lines", metavar="A-B", help="only these lines, counted from 1")
    edit.add_argument("--apply", action="store_true", help="write the edit to the file")
    models = verbs.add_parser("models", help="the model families, and what is on this machine")
    doctor = verbs.add_parser("doctor", help="check that everything works, and say what to do where it does not")
    demo = verbs.add_parser("demo", help="a short editing session with the real server, in the terminal")
    host = verbs.add_parser("host")  # without help: servers start it, not users
    host.add_argument("--at", metavar="PATH", type=Path, required=True, help="where its socket is, without the ending")
    host.add_argument("--cache-megabytes", metavar="N", type=int, default=512, help="memory for KV caches, per model")
    for verb in (complete, edit, models, doctor, demo, host):
        _add_shared(verb, default=argparse.SUPPRESS)


def _add_shared(parser: argparse.ArgumentParser, default: Any = None) -> None:
    """Options that hold before and after a verb."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", default=default, help="a folder or hub name; the shipped model if not given")
    group.add_argument("--edit-model", default=default, help="another model for edits")
    group.add_argument("--family", default=default, help="the model's family, where it is not recognised")
    group.add_argument(
        "--endpoint",
        metavar="URL",
        default=default,
        help="where another program serves the models, by OpenAI's interface, as in "
        "http://127.0.0.1:8080/v1; --model is the name there",
    )
    group.add_argument(
        "--endpoint-key-variable", metavar="NAME", default=default, help="the environment variable that holds its key"
    )
    group.add_argument("--device", default=default, help="auto, cpu, cuda, cuda:1, mps, balanced")
    group.add_argument("--dtype", default=default, help="auto, float32, bfloat16, float16, int8")
    group.add_argument("--threads", default=default, type=int, help="CPU threads of the engine")
    parser.add_argument("--log-file", default=default, metavar="PATH", help="log there instead of stderr")
    parser.add_argument("--verbose", "-v", action="store_true", default=default or False, help="log more")


def _options(parsed: argparse.Namespace) -> dict[str, Any]:
    """The command line's part of the settings, in the form of a client's options."""
    given = {
        "completion": parsed.model,
        "edit": parsed.edit_model,
        "family": parsed.family,
        "endpoint": parsed.endpoint,
        "endpointKeyVariable": parsed.endpoint_key_variable,
        "device": parsed.device,
        "dtype": parsed.dtype,
        "threads": parsed.threads,
    }
    model = {key: value for key, value in given.items() if value is not None}
    return {"model": model} if model else {}


class _NonBlockingHandler(logging.Handler):
    """Logs to stderr by a thread of its own: a client that does not read it loses messages, and never holds us up.

    The standard library's `QueueListener` waits at the end for its last message, however long that takes.
    """

    _WAITING = 1000  # messages
    _SECONDS = 0.5  # for those that are left at the end

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str | None] = queue.Queue(self._WAITING)
        self._thread = threading.Thread(target=self._run, name="codeclippy-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self._lines.put_nowait(self.format(record))

    def close(self) -> None:
        with suppress(queue.Full):
            self._lines.put_nowait(None)
            self._thread.join(self._SECONDS)
        super().close()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            left = (line + "\n").encode("utf-8", "backslashreplace")
            with suppress(OSError):
                while left:
                    left = left[os.write(2, left) :]


def _log_to(path: str | None, verbose: bool, blocking: bool) -> None:
    level = logging.INFO if verbose else logging.WARNING
    style = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler = logging.StreamHandler(sys.stderr) if blocking or path is not None else _NonBlockingHandler()
    if path is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            handler = logging.StreamHandler(os.fdopen(os.open(path, flags, 0o600), "a", encoding="utf-8"))
        except OSError as error:
            _die(f"--log-file {path}: {error.strerror}")
    logging.basicConfig(level=level, format=style, handlers=[handler], force=True)
    # pygls logs the body of every message at INFO, and a log holds no source text.
    logging.getLogger("pygls").setLevel(logging.WARNING)


def _serve(parsed: argparse.Namespace) -> int:
    from codeclippy_ls.settings import parse

    overrides = _options(parsed)
    if problems := parse(overrides)[1]:
        _die("; ".join(problems))
    address = _tcp_address(parsed.tcp, parsed.allow_remote) if parsed.tcp else None
    if parsed.socket is not None and not 0 < parsed.socket < 65536:
        _die(f"--socket {parsed.socket}: a port is a number from 1 to 65535")
    if address is None and parsed.pipe is None and parsed.socket is None and sys.stdin.isatty():
        print(
            "codeclippy-ls: a language server, waiting for an editor on stdin; "
            "see codeclippy-ls --help for what else it does",
            file=sys.stderr,
        )
    from codeclippy_ls.server.transport import guard_stdio

    stdio = guard_stdio()  # whatever it speaks through: no library may wait for somebody who answers its question
    try:
        code = asyncio.run(_session(parsed, overrides, address, stdio))
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = 130
    except OSError as error:
        print(f"codeclippy-ls: cannot connect: {error}", file=sys.stderr)
        code = 1
    logging.shutdown()
    sys.stderr.flush()
    # The engine's thread may be inside a long step; nothing of it is worth waiting for.
    os._exit(code)


def _host(parsed: argparse.Namespace) -> int:
    from codeclippy_ls.engines import make_thread_engine
    from codeclippy_ls.host.address import HostAddress
    from codeclippy_ls.host.engine_host import run_host

    place = HostAddress(parsed.at.parent, parsed.at.name)
    return run_host(place, lambda on_status: make_thread_engine(parsed.cache_megabytes, {}, on_status))


async def _session(
    parsed: argparse.Namespace,
    overrides: dict[str, Any],
    address: tuple[str, int] | None,
    stdio: tuple[int, int],
) -> int:
    from codeclippy_ls.server import transport
    from codeclippy_ls.server.server import Server

    if address is not None:
        return await transport.listen_tcp(lambda: Server(overrides).serve, *address)
    if parsed.pipe is not None or parsed.socket is not None:
        return await transport.serve_connected(Server(overrides).serve, port=parsed.socket, path=parsed.pipe)
    return await transport.serve_stdio(Server(overrides).serve, *stdio)


def _tcp_address(text: str, allow_remote: bool) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdigit() or int(port) > 65535 or (not colon and not port):
        _die(f"--tcp {text}: HOST:PORT is needed, as in 127.0.0.1:5007")
    if host not in _LOOPBACK and not allow_remote:
        _die(
            f"--tcp {text}: only loopback addresses; --allow-remote lifts this, and then anyone who reaches the "
            "port can use the server"
        )
    return host, int(port)


def _die(message: str) -> NoReturn:
    print(f"codeclippy-ls: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    raise SystemExit(main())
