"""`Session`: everything that belongs to one initialized client.

It exists from ``initialize`` on, whole: no part of it is optional. Handlers take it, take a snapshot of the document
first, await ``assist``, and drop what has become stale. They raise nothing that concerns the user, because clients show
errors as pop-ups. Knows of pygls only how a request to the client fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.context import resolve_context_mode
from codeclippy_ls.assist.suggester import Suggestions
from codeclippy_ls.assist.triggers import find_excluding_setting
from codeclippy_ls.inference.engine import Engine, ModelState, ModelStatus, StatusListener
from codeclippy_ls.inference.errors import DocumentRefusedError, EngineError
from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.next_edit.propose import NextEdit
from codeclippy_ls.notebooks import Notebooks
from codeclippy_ls.prompts.context_snippets import OpenFile
from codeclippy_ls.secret_files import is_secret_uri
from codeclippy_ls.server import convert
from codeclippy_ls.server.client import RELOAD_COMMAND, Client, Progress
from codeclippy_ls.server.edits import Edits
from codeclippy_ls.server.model_menu import ModelMenu
from codeclippy_ls.server.next_edits import NextEdits
from codeclippy_ls.server.workspace import Workspace
from codeclippy_ls.settings import Settings, Source, parse, split_workspace
from codeclippy_ls.syntax.languages import language_of_file
from codeclippy_ls.tasks.edit_context import find_marker, is_new_document
from codeclippy_ls.tasks.model_info import ModelInfo, describe_status
from codeclippy_ls.text import Change, Document, Documents, Edit
from codeclippy_ls.uris import parse_name, parse_path, relative_path

log = logging.getLogger(__name__)

_MAX_OPEN_FILES = 12  # that a prompt may show snippets of
_MAX_READ_AHEAD = 4000  # characters of a document that is read when it is opened, before the cursor is known
_INDEX_INTERVAL = 0.5  # seconds between two looks at an index that is being built
_PROGRESS_DELAY = 1.0  # seconds that a user waits for a suggestion before progress is shown
_MAX_SHOWN_PROBLEMS = 3  # of the settings, in one message
_MAX_REPORTS, _PROBLEMS_INTERVAL = 3, 60.0  # such messages, within these seconds

OpenEngine = Callable[[Settings, StatusListener], Engine]


class Session:
    """One client's documents, settings, assistant and edits. Belongs to the loop thread.

    Attributes:
        last_position: where the user was last, as far as the client tells.

    Args:
        settings: from the client's options and the command line; changes while running are laid over these.
        problems: what was wrong with the options, for the user.
        open_engine: makes the engine.
        workspace: the workspace's options, which only tighten the settings.
        folders: URIs of the workspace's folders, whose files prompts may show parts of; ``None`` if the client must not
            name any.
        file_settings: those of the user's own file.
    """

    def __init__(
        self,
        client: Client,
        documents: Documents,
        settings: Settings,
        problems: Sequence[str],
        open_engine: OpenEngine,
        workspace: Any = None,
        folders: Sequence[str] | None = None,
        file_settings: Settings | None = None,
    ) -> None:
        self.client = client
        self.documents = documents
        self.notebooks = Notebooks(documents)
        self.settings = settings
        self.edits = Edits(client, documents)
        self.workspace = Workspace()
        self.workspace.change_folders(folders or ())
        self._may_name_folders = folders is not None
        self._edited_lines: dict[str, int] = {}
        self.model_menu = ModelMenu(client, folders is not None, file_settings or Settings(), self._use_models)
        self.next_edits = NextEdits()
        self._initial_settings = settings
        self._tasks: set[asyncio.Task[None]] = set()
        self.last_position: tuple[str, types.Position] | None = None  # where the user was when the model was loading
        self._reported_problems: set[str] = set()
        self._report_times: list[float] = []
        self._is_started = self._is_watching = False
        self._num_loading = 0
        self._load_progress: Progress | None = None  # of the last load
        self._logged_states: dict[str, ModelState] = {}
        self._num_editing = 0
        self._may_offer_models = True
        loop = asyncio.get_running_loop()

        def on_status(model: str, status: ModelStatus) -> None:
            try:
                loop.call_soon_threadsafe(self._handle_status, model, status)
            except RuntimeError:  # the loop has closed
                pass

        self.assistant = Assistant(
            open_engine(settings, on_status),
            settings,
            self._other_files,
            self.notebooks.join_above,
            client.send_suggestion_ready,
            self.workspace.find_index,
        )
        self._problems = [*problems, *self.tighten_settings(workspace)]

    def start(self) -> None:
        """Load the model; only now is anything heavy imported, on the engine's thread. Later calls do nothing."""
        if self._is_started:
            log.warning("the client sent `initialized` again")
            return
        self._is_started = True
        if self._problems:
            self._report_problems(self._problems)
        self.run_in_background(self.load_model())
        self._start_indexing()

    def _start_indexing(self) -> None:
        """Build the indexes if prompts may show the workspace, else stop."""
        if not self._is_started or resolve_context_mode(self.settings) != "workspace":
            self.workspace.stop()
            return
        self.workspace.start()
        self.run_in_background(self._follow_indexes())
        if self.workspace.has_folders and not self._is_watching:
            self._is_watching = True
            self.run_in_background(self._watch_files())

    async def _watch_files(self) -> None:
        self.workspace.is_watched = await self.client.watch_files()

    def change_folders(self, added: Sequence[str], removed: Sequence[str]) -> None:
        """Index other folders; a client that may not name any at the start may not now."""
        if self._may_name_folders:
            self.workspace.change_folders(added, removed)
            self._start_indexing()

    async def _follow_indexes(self) -> None:
        """Read the user's place again once the indexes are built: its prompt begins with what they know."""
        before = generations = await asyncio.to_thread(self.workspace.get_generations)
        while generations and not all(generations):
            await asyncio.sleep(_INDEX_INTERVAL)
            generations = await asyncio.to_thread(self.workspace.get_generations)
        if generations != before and self.last_position is not None:
            self.read_ahead(*self.last_position)

    def close(self) -> None:
        """Close the engine, resolve waiting requests, cancel background work and remove temporary files."""
        self.assistant.close()
        self.edits.close()
        self.workspace.stop()
        self.model_menu.close()
        for task in list(self._tasks):
            task.cancel()

    def run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work beside the handlers; a failure is logged."""

        async def run() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("background work failed")

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Documents.

    def open_document(self, uri: str, text: str, version: int, language: str, notebook: str = "") -> None:
        """Track a document that was opened; a client that names no language leaves it to the file's name."""
        known = None if language else language_of_file(parse_name(uri))
        document = self.documents.open(uri, text, version, known.id if known is not None else language, notebook)
        self.client.reset_once(_desync_key(document.file_uri))
        self.workspace.look_again()
        if len(text) <= _MAX_READ_AHEAD:  # all of it: wherever the cursor is, the text before it has then been read
            self.read_ahead(uri, types.Position(text.count("\n") + 1, 0))

    def change_document(self, uri: str, version: int | None, changes: Sequence[Change]) -> None:
        """Apply changes; a document that cannot be followed any more is marked as desynced, with one message."""
        before = self.documents.get(uri)
        try:
            self.documents.change(uri, version, changes)
            if changes and (place := changes[-1].start) is not None:
                self._edited_lines[uri] = place.line + changes[-1].text.count("\n")
        except KeyError:
            log.warning("the client changed a document that is not open")
        except ValueError as error:
            log.warning("a change cannot be applied: %s", error)
            self.mark_desynced(uri)
        self.assistant.record_change(uri, self.documents.get(uri))
        self.next_edits.record_change(before, self.documents.get(uri))

    def read_ahead(self, uri: str, position: types.Position) -> None:
        """Let the model read the text around a position, now or when it is loaded."""
        self.last_position = uri, position
        document = self.documents.get(uri)
        if document is not None:
            self.assistant.read_ahead(document, convert.to_offset(document, position, self.documents.encoding))

    def close_document(self, uri: str) -> None:
        """Drop all state of a document that was closed."""
        self.documents.close(uri)
        self._edited_lines.pop(uri, None)
        self.assistant.forget_document(uri)
        self.edits.forget_document(uri)
        self.next_edits.forget_document(uri)

    def mark_desynced(self, uri: str) -> None:
        """Mark a document whose text is no longer known, and tell the user."""
        document = self.documents.mark_desynced(uri)
        file = document.file_uri if document is not None else uri
        self.client.show_message_once(
            f"the text of {parse_name(file)} is out of step with the editor; to get suggestions again, close and "
            "reopen the file",
            key=_desync_key(file),
        )

    def leave_document(self, uri: str) -> None:
        """Stop following a document that is too large, and tell the user; it may be opened again, or replaced whole."""
        if self.documents.mark_desynced(uri) is None:
            self.documents.open(uri, "", None, "")
            self.documents.mark_desynced(uri)
        self.assistant.record_change(uri, None)
        self.client.show_message_once(
            f"{parse_name(uri)} is too large to be followed (64 MB is the limit for a message of the editor); there "
            "are no suggestions in it",
            key=_desync_key(uri),
        )

    def _other_files(self, document: Document) -> list[OpenFile]:
        """Return the other open files, most recently used first, without those that no model may see.

        A notebook is one file, of its code.
        """
        seen = {document.file_uri}
        found: list[OpenFile] = []
        index = self.workspace.find_index(document)
        for other in self.documents.latest(len(self.documents)):
            file = other.file_uri
            if file in seen or is_secret_uri(file) or self._is_excluded(other):
                continue
            seen.add(file)
            is_cell = bool(other.notebook)
            text, language = self.notebooks.join_code(file) if is_cell else (other.text, other.language)
            path = parse_path(file) if file.startswith("file:") else ""
            inside = index.contains(Path(path)) if index is not None and path and not is_cell else None
            edited = -1 if is_cell else self._edited_lines.get(other.uri, -1)
            found.append(OpenFile(inside or relative_path(document.file_uri, file), text, language, edited, path))
            if len(found) == _MAX_OPEN_FILES:
                break
        return found

    def _is_excluded(self, document: Document) -> bool:
        """Return whether the settings keep a document from every model."""
        return bool(find_excluding_setting(document.file_uri, document.language, self.settings.completion))

    # Settings.

    async def update_settings(self, options: Any) -> None:
        """Lay changed settings over the initial ones.

        They are a workspace's, which may only tighten the user's, unless the client said that it tells them apart: then
        they are the user's, except for those under ``workspace``.

        Args:
            options: pushed by the client; ``None`` if it expects to be asked.
        """
        if options is None and self.client.supports_configuration:
            params = types.ConfigurationParams(items=[types.ConfigurationItem(section="codeclippy")])
            try:
                sections = await self.client.request(types.WORKSPACE_CONFIGURATION, params)
            except JsonRpcException as error:
                log.warning("the client sent no configuration: %s", error)
                return
            options = sections[0] if isinstance(sections, (list, tuple)) and sections else None
        our_keys = {"codeclippy", *(field.name for field in fields(Settings))}
        if isinstance(options, dict) and not our_keys & set(options):
            return  # another server's settings
        options, workspace = split_workspace(options)
        source = Source.USER if self.client.separates_settings else Source.WORKSPACE
        self.settings, problems = parse(options, self._initial_settings, source)
        problems += self.tighten_settings(workspace)
        self._report_problems(problems)

    def _report_problems(self, problems: Sequence[str]) -> None:
        """Tell the user of problems that the settings had not before: a few in a message, few messages a minute."""
        new = [problem for problem in dict.fromkeys(problems) if problem not in self._reported_problems]
        for problem in new:
            log.warning("%s", problem)
        self._reported_problems = set(problems)
        now = asyncio.get_running_loop().time()
        self._report_times = [time for time in self._report_times if now - time < _PROBLEMS_INTERVAL]
        if new and len(self._report_times) < _MAX_REPORTS:
            self._report_times.append(now)
            rest = len(new) - _MAX_SHOWN_PROBLEMS
            more = [f"and {rest} more, which are in the log"] if rest > 0 else []
            self.client.show_message("; ".join([*new[:_MAX_SHOWN_PROBLEMS], *more]), types.MessageType.Warning)

    def tighten_settings(self, options: Any) -> list[str]:
        """Lay a workspace's options over the settings; return one message for each that was ignored."""
        self.settings, problems = parse(options, self.settings, Source.WORKSPACE)
        self.assistant.set_settings(self.settings)
        if self._is_started:
            self._start_indexing()
        return problems

    # The model.

    async def load_model(self) -> None:
        """Load the model, with progress; a failure is one message that says why and what to do."""
        self._num_loading += 1
        progress = await self.client.begin_progress(convert.add_prefix("loading the model"))
        self._load_progress = progress
        try:
            await self.assistant.load()
        except EngineError as error:
            self.client.reset_once(str(error))
            self._show_failure(str(error))
        finally:
            self._num_loading -= 1
            progress.end()

    async def _use_models(self, settings: Settings) -> None:
        """Load the models that other settings name, without a restart, and say what does what then."""
        self.settings = settings
        self._initial_settings = replace(self._initial_settings, model=settings.model)
        self.assistant.use_models(settings)
        await self.load_model()
        if models := self.assistant.describe_models():
            self.client.show_message(models)

    async def list_models(self) -> dict[str, Any]:
        """Return the models to choose from."""
        return await self.model_menu.list_models(self.settings)

    async def use_model(self, name: str, role: ModelRole) -> None:
        """Make a model that of all editors, and load it."""
        await self.model_menu.use(self.settings, name, role)

    async def get_model(self, name: str, role: ModelRole) -> None:
        """Download a model and use it."""
        await self.model_menu.get(self.settings, name, role)

    def _is_busy(self) -> bool:
        """Return whether the user is at work, so that an offer would disturb."""
        return self.assistant.is_typing or self._num_editing > 0 or self._num_loading > 0

    def _offer_models_once(self) -> None:
        if self._may_offer_models:
            self._may_offer_models = False
            self.run_in_background(self.model_menu.offer_better(lambda: self.settings, self._is_busy))

    def _show_failure(self, reason: str) -> None:
        # The reason of an engine that can never work again already says what to do.
        remedy = "" if self.assistant.failure else f". Then run the command {RELOAD_COMMAND}"
        self.client.show_message_once(reason + remedy, types.MessageType.Error, key=reason)

    def _handle_status(self, model: str, status: ModelStatus) -> None:
        """Pass a model's new status on to the client."""
        if status.state is ModelState.LOADING and status.percentage:
            if self._load_progress is not None:
                self._load_progress.report(f"preparing it once: {status.percentage} %", status.percentage)
            return
        is_failed = status.state is ModelState.FAILED
        if self._logged_states.get(model) is not status.state:  # not each step of a long preparation
            self._logged_states[model] = status.state
            self._log_status(model, status)
        if model == ModelRole.COMPLETE:
            info: ModelInfo | None = status.info
            known = (self.assistant.describe_models(), info.speed.describe()) if info is not None else ()
            self.client.send_status(status.state.value, status.reason or "; ".join(part for part in known if part))
            if status.state is ModelState.READY:
                self._handle_ready()
            if is_failed and not self._num_loading and not self._num_editing:  # otherwise they report it
                self._show_failure(status.reason)
            elif status.state is ModelState.LOADING and status.reason:  # at each loss of the engine host
                self.client.show_message(status.reason, types.MessageType.Warning)
        elif is_failed:
            self.client.send_status(status.state.value, status.reason)
            if self.assistant.status(ModelRole.COMPLETE) != status:
                self.client.show_message_once(f"edits are unavailable: {status.reason}", types.MessageType.Error)

    def _handle_ready(self) -> None:
        """Do what waited for the completion model."""
        self._offer_models_once()
        if self.last_position is not None:
            self.read_ahead(*self.last_position)

    def _log_status(self, model: str, status: ModelStatus) -> None:
        """Log a model's new state by its role, and which model does what once that is known."""
        name = self.settings.model.completion
        if model == ModelRole.EDIT:
            name = self.settings.model.edit or name
        level = logging.ERROR if status.state is ModelState.FAILED else logging.INFO
        log.log(level, "%s %s", model, describe_status(name, status))
        if status.state is ModelState.READY and (models := self.assistant.describe_models()):
            log.info("%s", models)

    # Suggestions and edits.

    async def suggest(
        self,
        document: Document,
        offset: int,
        *,
        automatic: bool,
        patient: bool = False,
        hurried: bool = False,
        selected: Edit | None = None,
        candidates: int = 1,
        token: types.ProgressToken | None = None,
    ) -> Suggestions:
        """Return suggestions; none if the engine fails, with one message. ``token`` is the request's, for progress."""
        try:
            async with self._show_waiting(document.uri, token) if patient else nullcontext():
                suggestions = await self.assistant.complete(
                    document,
                    offset,
                    automatic=automatic,
                    patient=patient,
                    hurried=hurried,
                    selected=selected,
                    candidates=candidates,
                )
        except EngineError as error:
            if self.assistant.status(ModelRole.COMPLETE).state is ModelState.READY:
                # A failed load was reported when it failed. A document that is refused says so once.
                is_refused = isinstance(error, DocumentRefusedError)
                name = document.uri.rsplit("/", 1)[-1]
                message = f"no suggestions in {name}: {error}" if is_refused else str(error)
                self.client.show_message_once(message, key=f"refused {document.uri}" if is_refused else None)
            return Suggestions()
        if suggestions.notice:
            self.client.show_message_once(suggestions.notice)
        return suggestions

    @asynccontextmanager
    async def _show_waiting(self, uri: str, token: types.ProgressToken | None) -> AsyncIterator[None]:
        """Show progress if the block, which makes a suggestion, takes longer than a second; the user can cancel it."""

        async def show() -> None:
            await asyncio.sleep(_PROGRESS_DELAY)
            title, cancel = convert.add_prefix("writing a suggestion"), partial(self.assistant.cancel_completion, uri)
            progress = await self.client.begin_progress(title, cancel=cancel, token=token)
            try:
                await asyncio.Event().wait()  # until it is cancelled
            finally:
                progress.end()

        showing = asyncio.get_running_loop().create_task(show())
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

    async def propose_next_edit(self, document: Document, offset: int) -> NextEdit | None:
        """Return the next edit, unless the settings leave out next edits or the document."""
        if self.settings.next_edit.enabled == "off" or self._is_excluded(document):
            return None
        return await self.next_edits.propose(document, offset)

    async def list_edits(self, document: Document, lines: tuple[int, int]) -> list[tuple[str, str]]:
        """Return title and message of each edit to offer for these lines; an empty message is read from a comment."""
        if not self.assistant.supports_edits() or self._is_excluded(document):
            return []
        options = self.settings.edit
        marker = await asyncio.to_thread(find_marker, document, lines, options.comment_marker)
        # Presets have nothing to change in an empty document; a comment can ask for a new text.
        presets = () if is_new_document(document, marker) else options.presets
        edits = [(convert.add_prefix(preset), preset) for preset in presets]
        if marker:
            edits.insert(0, (convert.add_prefix(marker.message), ""))
        return edits

    async def edit(self, document: Document, message: str, lines: tuple[int, int] | None) -> None:
        """Make an edit and have the client apply it, or tell the user why there is none."""
        self._num_editing += 1
        try:
            await self.edits.make(self.assistant, self.settings, document, message, lines)
        finally:
            self._num_editing -= 1
            status = self.assistant.status(ModelRole.COMPLETE)
            if status.state is ModelState.FAILED and not self._num_loading:
                self._show_failure(status.reason)  # shown once: not if the edit reported it


def _desync_key(uri: str) -> str:
    return f"desynced {uri}"
