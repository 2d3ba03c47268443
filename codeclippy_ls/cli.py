"""The command line: ``codeclippy-ls`` is the server, its subcommands do one job each with the same code.

Nothing heavy is imported before it is needed: ``--version`` and ``--help`` answer at once, and stdin and stdout are
guarded before any library can touch them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
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
from codeclippy_ls.option_parser import Example, OptionParser

_DESCRIPTION = "Code completion, fill-in-the-middle and edits by message, with open models that run on this machine."
_EXAMPLES: dict[str, tuple[Example, ...]] = {
    "": (
        ("codeclippy-ls", "serve an editor on stdin and stdout"),
        ("codeclippy-ls doctor", "check that everything works, and how fast"),
        ("codeclippy-ls demo", "see it work in the terminal"),
        ("codeclippy-ls complete hello.py:12:5", "print the suggestion at a line and column"),
        ('codeclippy-ls edit hello.py -m "Add docstrings"', "print an edit as a diff"),
        ("codeclippy-ls models", "list the models on this machine"),
    ),
    "complete": (
        ("codeclippy-ls complete hello.py:12:5", "the suggestion at line 12, column 5"),
        ("codeclippy-ls complete hello.py:12:5 --model ~/models/coder.gguf", "by another model"),
    ),
    "edit": (
        ('codeclippy-ls edit hello.py -m "Add docstrings"', "print the diff"),
        ('codeclippy-ls edit hello.py -m "Use a set" --lines 10-20', "edit only these lines"),
        ('codeclippy-ls edit hello.py -m "Use a set" --apply', "also write it to the file"),
    ),
    "models": (
        ("codeclippy-ls models", "list the models on this machine, with their speed here"),
        ("codeclippy-ls models use ollama:qwen2.5-coder:0.5b", "let all editors use a model of this machine"),
        ("codeclippy-ls models use ~/models/chat.gguf --for edit", "let it write the edits only"),
        ("codeclippy-ls models recommend", "list what can be downloaded, the best for this machine first"),
        ("codeclippy-ls models get --use", "download that one, and let all editors use it"),
        ("codeclippy-ls models remove NAME", "remove a model that was downloaded like this"),
        ("codeclippy-ls models families", "list the kinds of models that are supported"),
    ),
    "context": (
        ("codeclippy-ls context hello.py:12:5", "what a model is shown of other files there, and why"),
        ("codeclippy-ls context hello.py:12:5 --tokens 300", "the most needed 300 tokens of it"),
    ),
    "cache": (
        ("codeclippy-ls cache", "list the prepared models and their sizes"),
        ("codeclippy-ls cache clear", "remove them"),
    ),
    "index": (
        ("codeclippy-ls index", "list the indexes of your projects and their sizes"),
        ("codeclippy-ls index ~/project", "bring the index of a folder up to date"),
        ("codeclippy-ls index --clear", "remove all indexes"),
    ),
    "doctor": (
        ("codeclippy-ls doctor", "check the installation with the model of the settings"),
        ("codeclippy-ls doctor --model ~/models/coder.gguf", "check another model, and how fast it is"),
    ),
    "demo": (("codeclippy-ls demo", "complete, fill in and edit a small file"),),
}
_TOKEN_VARIABLE = "CODECLIPPY_TOKEN"
_MIN_TOKEN = 16  # characters: not to be guessed
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_streams()
    # The processes that servers start; users are not told of them.
    make_parser = {"host": _make_host_parser, "indexer": _make_indexer_parser}.get(arguments[0] if arguments else "")
    args = make_parser().parse_args(arguments[1:]) if make_parser else _make_parser().parse_args(arguments)
    _set_up_logging(args.log_file, args.verbose, subcommand=args.subcommand)
    if args.subcommand is None:
        return _run_server(args)
    if args.subcommand == "host":
        return _run_host(args)
    if args.subcommand == "indexer":
        from codeclippy_ls.index.process import run_indexer

        return run_indexer(args.folder)
    # An interrupt ends a subcommand at once, as it ends other programs: neither an import nor the loading of a model is
    # worth waiting for.
    previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        code = _run_subcommand(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    finally:
        signal.signal(signal.SIGINT, previous)


def _run_subcommand(args: argparse.Namespace) -> int:
    if args.subcommand == "models":
        from codeclippy_ls.model_commands import manage_models

        return manage_models(args, _read_options(args))
    from codeclippy_ls import commands

    return commands.SUBCOMMANDS[args.subcommand](args, _read_options(args))


def _open_streams() -> None:
    """Reopen closed stdio descriptors on the null device; escape unencodable output."""
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free descriptor: this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _make_host_parser() -> OptionParser:
    parser = OptionParser("codeclippy-ls host")
    parser.add_argument("--at", metavar="PATH", type=Path, required=True, help="path of its socket, without the suffix")
    parser.add_argument(
        "--cache-megabytes", metavar="N", type=int, default=512, help="memory for KV caches, per model; default 512"
    )
    _add_common_options(parser)
    parser.set_defaults(subcommand="host")
    return parser


def _make_indexer_parser() -> OptionParser:
    parser = OptionParser("codeclippy-ls indexer")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the folder to index")
    _add_common_options(parser)
    parser.set_defaults(subcommand="indexer")
    return parser


def _make_parser() -> OptionParser:
    parser = OptionParser(
        "codeclippy-ls",
        _DESCRIPTION,
        _EXAMPLES[""],
        epilog="Without a subcommand it runs the language server, by default on stdin and stdout. "
        "See `codeclippy-ls SUBCOMMAND --help` for the options of a subcommand.",
    )
    parser.add_argument("--version", action="version", version=f"codeclippy-ls {__version__}")
    _add_common_options(parser)
    transport = parser.add_mutually_exclusive_group()
    transport.add_argument("--stdio", action="store_true", help="serve on stdin and stdout (the default)")
    transport.add_argument("--tcp", metavar="HOST:PORT", help="listen for editors on a loopback address")
    transport.add_argument("--pipe", metavar="PATH", help="connect to an editor's pipe")
    transport.add_argument("--socket", metavar="PORT", type=int, help="connect to an editor's port on this machine")
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help="let --tcp listen on any address: everybody who reaches the port can use it",
    )
    parser.add_argument(
        "--token",
        metavar="TEXT",
        help="with --tcp, the secret with which an editor may choose models and endpoints (its option `token`), "
        f"{_MIN_TOKEN} characters or more; others can see command lines: set the variable {_TOKEN_VARIABLE} instead",
    )
    parser.add_argument("--clientProcessId", metavar="PID", type=int, help=argparse.SUPPRESS)  # some editors pass it
    _add_subcommands(parser)
    return parser


def _add_subcommands(parser: OptionParser) -> None:
    subparsers = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", title="subcommands")

    def add(name: str, summary: str) -> OptionParser:
        return parser.add_subcommand(subparsers, name, summary, _EXAMPLES[name])

    complete = add("complete", "print the suggestion at a position of a file")
    complete.add_argument("position", metavar="FILE:LINE:COL", help="line and column, counted from 1")
    edit = add("edit", "edit a file as a message says, and print the edit as a unified diff")
    edit.add_argument("file", type=Path, metavar="FILE", help="the file to edit")
    edit.add_argument("--message", "-m", metavar="TEXT", required=True, help="what to change")
    edit.add_argument("--lines", metavar="A-B", help="edit only these lines, counted from 1")
    edit.add_argument("--apply", action="store_true", help="also write the edit to the file")
    models = add("models", "list the models on this machine and what they can do; get, choose or remove one")
    models.add_argument(
        "action",
        choices=("list", "recommend", "get", "use", "remove", "families"),
        nargs="?",
        default="list",
        help="default: list",
    )
    models.add_argument("name", metavar="NAME", nargs="?", help="the model, as the lists name it, or a name of the hub")
    models.add_argument(
        "--for",
        dest="role",
        choices=("complete", "edit"),
        default="complete",
        help="with `use`: what the model does; default: complete",
    )
    models.add_argument("--use", action="store_true", help="with `get`: also make it the model of all editors")
    models.add_argument("--folder", action="append", metavar="PATH", help="look for models in this folder, too")
    context = add("context", "print what a model is shown of other files at a position, and why")
    context.add_argument("position", metavar="FILE:LINE:COL", help="line and column, counted from 1")
    context.add_argument("--folder", metavar="PATH", type=Path, help="the project's folder; default: by its files")
    context.add_argument(
        "--tokens",
        metavar="N",
        type=int,
        default=1000,
        help="show so many at most",
    )
    cache = add("cache", "list the models that were prepared in the cache, or remove them")
    cache.add_argument("action", choices=("list", "clear"), nargs="?", default="list", help="default: list")
    index = add("index", "list the indexes of your projects, bring one up to date, or remove them")
    index.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", help="bring this folder's index up to date")
    index.add_argument("--clear", action="store_true", help="remove the index of FOLDER, or all")
    doctor = add("doctor", "check the installation and say how to fix each problem")
    demo = add("demo", "play a short editing session with the real server in the terminal")
    for subcommand in (complete, edit, context, models, cache, index, doctor, demo):
        _add_common_options(subcommand, default=argparse.SUPPRESS)


def _add_common_options(parser: argparse.ArgumentParser, default: Any = None) -> None:
    """Add the options that are accepted before and after a subcommand."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="NAME",
        default=default,
        help="a folder, a GGUF file, ollama:NAME or a Hugging Face model name; default: the shipped model",
    )
    group.add_argument(
        "--edit-model",
        metavar="NAME",
        default=default,
        help="the model for edits; default: --model, or the shipped model if that makes no edits",
    )
    group.add_argument(
        "--family",
        metavar="NAME",
        default=default,
        help="the model's family, if it is not recognized; see `codeclippy-ls models families`",
    )
    group.add_argument(
        "--endpoint",
        metavar="URL",
        default=default,
        help="run the model on another server with OpenAI's completions API, such as http://127.0.0.1:8080/v1; "
        "--model is its name there",
    )
    group.add_argument(
        "--endpoint-key-variable",
        metavar="NAME",
        default=default,
        help="the environment variable that contains the endpoint's API key",
    )
    group.add_argument("--device", default=default, help="auto, cpu, cuda, cuda:1, mps or balanced; default: auto")
    group.add_argument(
        "--dtype", default=default, help="auto, float32, bfloat16, float16 or int8; default: auto, the fastest here"
    )
    group.add_argument(
        "--threads", metavar="N", default=default, type=int, help="CPU threads; default: as many as are fastest"
    )
    parser.add_argument("--log-file", metavar="PATH", default=default, help="write the log to this file, not to stderr")
    parser.add_argument("--verbose", "-v", action="store_true", default=default or False, help="log more")


def _read_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings on the command line, in the form of a client's options."""
    values = {
        "completion": args.model,
        "edit": args.edit_model,
        "family": args.family,
        "endpoint": args.endpoint,
        "endpointKeyVariable": args.endpoint_key_variable,
        "device": args.device,
        "dtype": args.dtype,
        "threads": args.threads,
    }
    model = {key: value for key, value in values.items() if value is not None}
    return {"model": model} if model else {}


class _NonBlockingHandler(logging.Handler):
    """Logs to stderr on a thread of its own: an editor that does not read stderr loses messages but never blocks us.

    At exit the standard library's `QueueListener` would wait for its last message without a limit.
    """

    _MAX_WAITING = 1000  # messages
    _FLUSH_TIMEOUT = 0.5  # seconds at exit

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str | None] = queue.Queue(self._MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="codeclippy-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self._lines.put_nowait(self.format(record))

    def close(self) -> None:
        with suppress(queue.Full):
            self._lines.put_nowait(None)
            self._thread.join(self._FLUSH_TIMEOUT)
        super().close()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            unwritten = (line + "\n").encode("utf-8", "backslashreplace")
            with suppress(OSError):
                while unwritten:
                    unwritten = unwritten[os.write(2, unwritten) :]


def _set_up_logging(path: str | None, verbose: bool, subcommand: str | None) -> None:
    """Log to a file or to stderr. A service logs each load of a model, too; a subcommand prints what matters."""
    level = logging.INFO if verbose else logging.WARNING
    line_format = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler = logging.StreamHandler(sys.stderr) if subcommand is not None or path is not None else _NonBlockingHandler()
    if path is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            handler = logging.StreamHandler(os.fdopen(os.open(path, flags, 0o600), "a", encoding="utf-8"))
        except OSError as error:
            _exit_with_usage_error(f"--log-file {path} cannot be opened: {error.strerror}")
    logging.basicConfig(level=level, format=line_format, handlers=[handler], force=True)
    if subcommand in (None, "host", "indexer") or path is not None:
        logging.getLogger("codeclippy_ls").setLevel(logging.INFO)
    # pygls logs the body of every message at INFO, and our log contains no source text.
    logging.getLogger("pygls").setLevel(logging.WARNING)


def _run_server(args: argparse.Namespace) -> int:
    gc.disable()  # while importing, it takes a tenth of the time and finds nothing; `_serve` enables it again
    from codeclippy_ls.settings import parse

    overrides = _read_options(args)
    if problems := parse(overrides)[1]:
        _exit_with_usage_error("; ".join(problems))
    address = _parse_tcp_address(args.tcp, args.allow_remote) if args.tcp else None
    token = _read_token(args.token)
    if args.socket is not None and not 0 < args.socket < 65536:
        _exit_with_usage_error(f"--socket {args.socket}: a port is a number from 1 to 65535")
    if address is None and args.pipe is None and args.socket is None and sys.stdin.isatty():
        print(
            "codeclippy-ls: the language server waits for an editor on stdin; for other uses, see codeclippy-ls --help",
            file=sys.stderr,
        )
    from codeclippy_ls.server.transport import guard_stdio

    stdio = guard_stdio()  # with any transport: no library may wait for an answer on stdin
    try:
        code = asyncio.run(_serve(args, overrides, address, token, stdio))
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = 130
    except OSError as error:
        print(f"codeclippy-ls: cannot connect to the editor: {error}", file=sys.stderr)
        code = 1
    logging.shutdown()
    sys.stderr.flush()
    # The engine's thread may be in a long step; there is nothing to save, so exit at once.
    os._exit(code)


def _run_host(args: argparse.Namespace) -> int:
    from codeclippy_ls.engines import make_thread_engine
    from codeclippy_ls.host.address import HostAddress
    from codeclippy_ls.host.engine_host import run_host

    address = HostAddress(args.at.parent, args.at.name)
    log = logging.getLogger("codeclippy_ls.host")
    log.info("engine host of codeclippy-ls %s, process %d", __version__, os.getpid())
    return run_host(address, lambda on_status: make_thread_engine(args.cache_megabytes, {}, on_status))


async def _serve(
    args: argparse.Namespace,
    overrides: dict[str, Any],
    address: tuple[str, int] | None,
    token: str,
    stdio: tuple[int, int],
) -> int:
    from codeclippy_ls.server import transport
    from codeclippy_ls.server.loop_watch import LoopWatch
    from codeclippy_ls.server.server import Server

    gc.enable()
    watch = LoopWatch()
    try:
        if address is not None:
            return await transport.listen_tcp(lambda: Server(overrides, token=token).serve, *address)
        serve = Server(overrides, watch=watch).serve
        if args.pipe is not None or args.socket is not None:
            return await transport.serve_connected(serve, port=args.socket, path=args.pipe)
        watch.input = stdio[0]
        return await transport.serve_stdio(serve, *stdio)
    finally:
        watch.stop()


def _read_token(argument: str | None) -> str:
    """Return the token for clients of a port; empty without one. The processes that we start do not inherit it."""
    token = os.environ.pop(_TOKEN_VARIABLE, "") if argument is None else argument
    if (token or argument is not None) and len(token) < _MIN_TOKEN:
        name = "--token" if argument is not None else _TOKEN_VARIABLE
        _exit_with_usage_error(f"{name}: a token has {_MIN_TOKEN} characters or more")
    return token


def _parse_tcp_address(text: str, allow_remote: bool) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdigit() or int(port) > 65535 or (not colon and not port):
        _exit_with_usage_error(f"--tcp {text}: expected HOST:PORT, such as 127.0.0.1:5007")
    if host not in _LOOPBACK and not allow_remote:
        _exit_with_usage_error(
            f"--tcp {text}: not a loopback address; to allow it, add --allow-remote: then everybody who can reach the "
            "port can use the server"
        )
    return host, int(port)


def _exit_with_usage_error(message: str) -> NoReturn:
    print(f"codeclippy-ls: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    raise SystemExit(main())
