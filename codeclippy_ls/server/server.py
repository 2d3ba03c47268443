"""The server: one session's documents, settings and assistant, and a thin handler for each feature.

One object serves one client. Handlers take a snapshot first, await ``assist``, and drop what has become stale; none
of them raises on a user's behalf, because clients show errors as pop-ups.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import fields
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer
from pygls.protocol import default_converter

from codeclippy_ls import __version__
from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.suggester import Suggestions
from codeclippy_ls.engines import open_engine
from codeclippy_ls.inference.engine import Engine, ModelState, ModelStatus
from codeclippy_ls.inference.errors import EngineError
from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.prompts.context_snippets import OpenFile
from codeclippy_ls.secret_files import is_secret_uri
from codeclippy_ls.server import convert
from codeclippy_ls.server.client import RELOAD_COMMAND, Client
from codeclippy_ls.server.edits import Edits
from codeclippy_ls.server.features import COMMANDS, FEATURES, bound, bound_command
from codeclippy_ls.server.protocol import GuardedProtocol
from codeclippy_ls.settings import Settings, parse
from codeclippy_ls.tasks.edit_context import find_marker, is_new_document
from codeclippy_ls.text import Change, Document, Documents, Edit

log = logging.getLogger(__name__)

_MOST_OTHERS = 12  # files that a prompt may show passages of

OpenEngine = Callable[[Settings, Callable[[str, ModelStatus], None]], Engine]


class Server(LanguageServer):
    """One client's server.

    Args:
        overrides: options from the command line, which win over the client's.
        engine: makes the engine; tests give one that needs no model.
    """

    protocol: GuardedProtocol

    def __init__(self, overrides: Mapping[str, Any] | None = None, engine: OpenEngine = open_engine) -> None:
        self.documents = Documents()
        super().__init__(
            "codeclippy-ls", __version__, protocol_cls=GuardedProtocol, converter_factory=default_converter
        )
        self._overrides = dict(overrides or {})
        self.settings, self._problems = parse(self._overrides)
        self.assistant: Assistant | None = None
        self.client: Client | None = None
        self.edits: Edits | None = None
        self._base = self.settings
        self._open_engine = engine
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reader: asyncio.StreamReader | None = None
        self._watched: int | None = None
        self._loading = 0
        self._editing = 0
        for method, (handler, options) in FEATURES.items():
            self.protocol.fm.feature(method, options)(bound(handler, self))
        for name, handler in COMMANDS.items():
            self.protocol.fm.command(name)(bound_command(handler, self))

    async def serve(self, reader: asyncio.StreamReader, writer: Any) -> int:
        """Serve a client until it leaves; returns the exit code. The engine is closed, waiting work answered."""
        self._reader = reader
        try:
            return await self.protocol.serve(reader, writer)
        finally:
            if self.assistant is not None:
                self.assistant.engine.close()
            if self.edits is not None:
                self.edits.close()
            for task in list(self._tasks):
                task.cancel()
            # One turn, so that cancelled requests send their answers.
            await asyncio.sleep(0)

    def background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run work beside the handlers; failures go to the log."""

        async def logged() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("background work failed")

        task = asyncio.get_running_loop().create_task(logged())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Documents: called by the protocol.

    def opened(self, uri: str, text: str, version: int, language: str) -> None:
        """A document was opened."""
        self.documents.open(uri, text, version, language)
        if self.client is not None:
            self.client.forget(f"lost {uri}")

    def changed(self, uri: str, version: int | None, changes: list[Change]) -> None:
        """A document changed; one that cannot be followed any more is marked lost, with one notice."""
        try:
            self.documents.change(uri, version, changes)
        except KeyError:
            log.warning("a change of a document that is not open")
        except ValueError as error:
            log.warning("a change cannot be applied: %s", error)
            self._lose(uri)
        if self.assistant is not None:
            self.assistant.changed(uri, self.documents.get(uri))

    def closed(self, uri: str) -> None:
        """A document was closed."""
        self.documents.close(uri)
        if self.assistant is not None:
            self.assistant.forget(uri)
        if self.edits is not None:
            self.edits.forget(uri)

    def lost_notification(self, method: str, params: Any) -> None:
        """A notification whose params cannot be read: after a change like that the text is unknown."""
        if method != types.TEXT_DOCUMENT_DID_CHANGE or not isinstance(params, dict):
            return
        identifier = params.get("textDocument")
        uri = identifier.get("uri") if isinstance(identifier, dict) else None
        if isinstance(uri, str) and self.documents.get(uri) is not None:
            self._lose(uri)

    def _lose(self, uri: str) -> None:
        self.documents.mark_desynced(uri)
        if self.client is not None:
            name = uri.rsplit("/", 1)[-1]
            self.client.say_once(
                f"the text of {name} got out of step with the editor; close it and open it again", key=f"lost {uri}"
            )

    # Life cycle.

    def configure(self, params: types.InitializeParams) -> None:
        """Take the client's options in. They are trusted: clients keep workspace settings out of them."""
        options = params.initialization_options
        self.client = Client(self.protocol, params.capabilities, options)
        self.edits = Edits(self.client, self.documents)
        # In another container the editor's process cannot be seen at all, and its absence says nothing.
        self._watched = params.process_id if params.process_id and _lives(params.process_id) else None
        if isinstance(options, dict):
            options = {key: value for key, value in options.items() if key != "statusNotification"}
        settings, self._problems = parse(options)
        self.settings, _ = parse(self._overrides, settings)
        self._base = self.settings

    def start(self) -> None:
        """Open the engine; only now is anything heavy imported, on its thread."""
        if self.assistant is not None:
            log.warning("the client sent `initialized` again")
            return
        loop = asyncio.get_running_loop()

        def watch(model: str, status: ModelStatus) -> None:
            try:
                loop.call_soon_threadsafe(self._status_changed, model, status)
            except RuntimeError:  # the loop has closed
                pass

        self.assistant = Assistant(self._open_engine(self.settings, watch), self.settings)
        self.assistant.suggester.others = self._other_files
        assert self.client is not None
        if self._problems:
            self.client.say("; ".join(self._problems), types.MessageType.Warning)
        self.background(self.load())
        if self._watched is not None:
            self.background(self._watch_parent(self._watched))

    async def _watch_parent(self, process: int) -> None:
        """End the session when the editor's process is gone, also where its end of the stream stays open."""
        while _lives(process):  # noqa: ASYNC110 - nothing tells of another process's end
            await asyncio.sleep(1.0)
        log.warning("the editor's process is gone")
        if self._reader is not None:
            self._reader.feed_eof()

    async def load(self) -> None:
        """Load the model, with progress; a failure is one message that names cause and cure."""
        assert self.assistant is not None and self.client is not None
        self._loading += 1
        progress = await self.client.progress(convert.title("loading the model"))
        try:
            await self.assistant.prepare()
        except EngineError as error:
            self.client.forget(str(error))
            self._say_failure(str(error))
        finally:
            self._loading -= 1
            progress.end()

    def _say_failure(self, reason: str) -> None:
        assert self.client is not None and self.assistant is not None
        # An engine that failed for good says itself what is left to do.
        cure = "" if self.assistant.engine.failure else f". Then run the command {RELOAD_COMMAND}"
        self.client.say_once(reason + cure, types.MessageType.Error, key=reason)

    def _status_changed(self, model: str, status: ModelStatus) -> None:
        assert self.client is not None and self.assistant is not None
        if model == ModelRole.COMPLETE or status.state is ModelState.FAILED:
            self.client.status(status.state.value, status.reason)
        if model == ModelRole.COMPLETE and status.state is ModelState.FAILED:
            if not self._loading and not self._editing:  # else they tell
                self._say_failure(status.reason)
        elif (
            model == ModelRole.EDIT
            and status.state is ModelState.FAILED
            and self.assistant.engine.status(ModelRole.COMPLETE) != status
        ):
            self.client.say_once(f"no edits: {status.reason}", types.MessageType.Error)
        elif (
            model == ModelRole.COMPLETE and status.state is ModelState.LOADING and status.reason
        ):  # each time that it was lost
            self.client.say(status.reason, types.MessageType.Warning)

    async def reconfigure(self, options: Any) -> None:
        """Settings changed while running; what may come from a workspace only."""
        assert self.client is not None
        if options is None and self.client.configures:
            item = types.ConfigurationItem(section="codeclippy")
            params = types.ConfigurationParams(items=[item])
            try:
                found = await self.client.request(types.WORKSPACE_CONFIGURATION, params)
            except JsonRpcException as error:
                log.warning("the client gave no configuration: %s", error)
                return
            options = found[0] if isinstance(found, (list, tuple)) and found else None
        ours = {"codeclippy", *(field.name for field in fields(Settings))}
        if isinstance(options, dict) and not ours & set(options):
            return  # another server's settings
        self.settings, problems = parse(options, self._base, trusted=False)
        if self.assistant is not None:
            self.assistant.settings = self.settings
        for problem in problems:
            self.client.say_once(problem)

    # The jobs.

    async def suggest(
        self, document: Document, offset: int, *, automatic: bool, selected: Edit | None = None, candidates: int = 1
    ) -> Suggestions:
        """Suggestions, or none and one message where the engine fails."""
        assert self.client is not None
        if self.assistant is None:
            return Suggestions(complete=False)
        started = time.monotonic()
        try:
            found = await self.assistant.complete(
                document, offset, automatic=automatic, selected=selected, candidates=candidates
            )
        except EngineError as error:
            if self.assistant.engine.status(ModelRole.COMPLETE).state is ModelState.READY:
                self.client.say_once(str(error))  # a failed load was told when it failed
            return Suggestions()
        if found.notice:
            self.client.say_once(found.notice)
        if found.items:
            self.assistant.suggester.figures.answers.append(time.monotonic() - started)
        return found

    def shows(self, document: Document, found: Suggestions) -> None:
        """Suggestions go out to be shown: the first of them is what the user sees."""
        if self.assistant is not None and found.items:
            first = found.items[0]
            self.assistant.suggester.figures.offer(document, first.offset, first.text, first.replaces)

    def _other_files(self, uri: str) -> list[OpenFile]:
        """The other files that are open, the one opened or changed last first; none that holds secrets."""
        return [
            OpenFile(convert.path_from(uri, other.uri), other.text)
            for other in self.documents.latest(_MOST_OTHERS)
            if other.uri != uri and not is_secret_uri(other.uri)
        ]

    def actions(self, document: Document, lines: tuple[int, int]) -> list[tuple[str, str]]:
        """Title and message of each edit that is offered for these lines; an empty message is read from a comment."""
        if self.assistant is None or not self.assistant.edits_possible():
            return []
        settings = self.settings.edit
        marker = find_marker(document, lines, settings.comment_marker)
        # There is nothing in an empty document that a preset could be about; a comment can ask for a new text.
        presets = () if is_new_document(document, marker) else settings.presets
        found = [(convert.title(preset), preset) for preset in presets]
        if marker:
            found.insert(0, (convert.title(marker.message), ""))
        return found

    async def edit(self, document: Document, message: str, lines: tuple[int, int] | None) -> None:
        """Make an edit and have the client apply it, or say why there is none."""
        assert self.client is not None and self.edits is not None
        if self.assistant is None:
            self.client.say("the server is still starting")
            return
        self._editing += 1
        try:
            await self.edits.make(self.assistant, document, message, lines)
        finally:
            self._editing -= 1
            if (
                status := self.assistant.engine.status(ModelRole.COMPLETE)
            ).state is ModelState.FAILED and not self._loading:
                self._say_failure(status.reason)  # unless the edit did


def _lives(process: int) -> bool:
    """Whether a process exists; where that cannot be asked without harm, it is taken to."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
