"""A thin handler per LSP feature and command: convert, await the session, convert back; stale answers are dropped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcInvalidParams

from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.server import convert
from codeclippy_ls.server.client import (
    CONTEXT_COMMAND,
    EDIT_COMMAND,
    GET_MODEL_COMMAND,
    LIST_MODELS_COMMAND,
    METRICS_COMMAND,
    RELOAD_COMMAND,
    REPLACE_EDIT_COMMAND,
    USE_MODEL_COMMAND,
)
from codeclippy_ls.server.edits import DIFF_SCHEME
from codeclippy_ls.server.next_edits import ACCEPT_NEXT_EDIT_COMMAND, to_inline_edit
from codeclippy_ls.server.protocol import CURSOR_NOTIFICATION, INLINE_EDIT_REQUEST
from codeclippy_ls.server.session import Session
from codeclippy_ls.text import Document, Edit
from codeclippy_ls.uris import parse_name

Handler = Callable[[Session, Any], Awaitable[Any]]

_EDIT_KINDS = (types.CodeActionKind.RefactorRewrite, types.CodeActionKind.Refactor, types.CodeActionKind.Empty)
# Clients ask at word characters without being told. These are where continuations begin.
_TRIGGER_CHARACTERS = [".", "(", "[", "{", ",", "=", ":", " "]


# The life cycle.


async def initialized(session: Session, params: types.InitializedParams) -> None:
    """Load the model."""
    session.start()


async def shutdown(session: Session, params: None) -> None:
    """Close the engine: some clients kill the server right after this request."""
    session.assistant.close()


async def did_change_configuration(session: Session, params: types.DidChangeConfigurationParams) -> None:
    """Update the settings."""
    await session.update_settings(params.settings)


async def work_done_progress_cancel(session: Session, params: types.WorkDoneProgressCancelParams) -> None:
    """Cancel the work that a progress bar shows."""
    if (cancel := session.client.cancel_callbacks.get(str(params.token))) is not None:
        cancel()


# Files of the workspace.


async def did_save(session: Session, params: types.DidSaveTextDocumentParams) -> None:
    """Have a file read again that was saved."""
    session.workspace.record_changes([params.text_document.uri])


async def did_change_watched_files(session: Session, params: types.DidChangeWatchedFilesParams) -> None:
    """Have files read again that were changed on the disk."""
    session.workspace.record_changes([change.uri for change in params.changes])


async def did_change_workspace_folders(session: Session, params: types.DidChangeWorkspaceFoldersParams) -> None:
    """Index other folders."""
    event = params.event
    session.change_folders([folder.uri for folder in event.added], [folder.uri for folder in event.removed])


# Suggestions.


async def completion(session: Session, params: types.CompletionParams) -> types.CompletionList:
    """Return suggestions as items of the completion list."""
    document = session.documents.get(params.text_document.uri)
    if document is None:
        return types.CompletionList(is_incomplete=True, items=[])
    encoding = session.documents.encoding
    offset = convert.to_offset(document, params.position, encoding)
    automatic = params.context is not None and params.context.trigger_kind != types.CompletionTriggerKind.Invoked
    candidates = 1 if automatic else session.settings.completion.candidates
    # Editors send "invoked" for letters, too; whoever has typed nothing for a second has asked by key.
    patient = not automatic and not session.assistant.is_typing
    suggestions = await session.suggest(
        document,
        offset,
        automatic=automatic,
        patient=patient,
        hurried=True,  # some editors show the lists of all servers only when they have them all
        candidates=candidates,
        token=params.work_done_token,
    )
    if session.documents.get(document.uri) is not document:
        return types.CompletionList(is_incomplete=True, items=[])
    session.assistant.record_shown(document, suggestions)
    items = [
        convert.to_completion_item(document, suggestion, encoding, rank, session.client.supports_markdown)
        for rank, suggestion in enumerate(suggestions.items)
    ]
    # Always incomplete: the next keystroke makes another suggestion, and clients cache complete lists.
    return types.CompletionList(is_incomplete=True, items=items)


async def inline_completion(
    session: Session, params: types.InlineCompletionParams
) -> types.InlineCompletionList | None:
    """Return suggestions as ghost text; ``None`` if the text has changed, so that the client keeps what it shows."""
    document = session.documents.get(params.text_document.uri)
    if document is None:
        return types.InlineCompletionList(items=[])
    encoding = session.documents.encoding
    offset = convert.to_offset(document, params.position, encoding)
    selected = _selected_item(session, document, params.context.selected_completion_info)
    automatic = params.context.trigger_kind != types.InlineCompletionTriggerKind.Invoked
    candidates = 1 if automatic else session.settings.completion.candidates
    suggestions = await session.suggest(
        document,
        offset,
        automatic=automatic,
        patient=not automatic,
        selected=selected,
        candidates=candidates,
        token=params.work_done_token,
    )
    if session.documents.get(document.uri) is not document:
        return None
    session.assistant.record_shown(document, suggestions)
    items = [convert.to_inline_item(document, suggestion, selected, encoding) for suggestion in suggestions.items]
    return types.InlineCompletionList(items=items)


def _selected_item(session: Session, document: Document, info: types.SelectedCompletionInfo | None) -> Edit | None:
    """Return what the selected item of the completion list would insert."""
    if info is None:
        return None
    encoding = session.documents.encoding
    start = convert.to_offset(document, info.range.start, encoding)
    end = convert.to_offset(document, info.range.end, encoding)
    text = getattr(info.text, "value", info.text)
    return Edit(start, max(start, end), str(text))


async def did_move_cursor(session: Session, params: types.TextDocumentPositionParams) -> None:
    """Read the text around a cursor that rests somewhere, so that the first key there is fast."""
    session.read_ahead(params.text_document.uri, params.position)


async def inline_edit(session: Session, params: types.TextDocumentPositionParams) -> dict[str, Any]:
    """Return the next edit, in a list of one; an empty list if there is none: clients show errors to the user."""
    document = session.documents.get(params.text_document.uri)
    if document is None:
        return {"edits": []}
    encoding = session.documents.encoding
    found = await session.propose_next_edit(document, convert.to_offset(document, params.position, encoding))
    if found is None or session.documents.get(document.uri) is not document:
        return {"edits": []}
    return {"edits": [to_inline_edit(document, found, encoding)]}


async def did_accept_next_edit(session: Session, arguments: list[Any]) -> None:
    """Count an accepted next edit; the command of every one, with one object with ``uri``."""
    session.assistant.metrics.next_edits += 1


async def did_accept_suggestion(session: Session, arguments: list[Any]) -> None:
    """Count an accepted suggestion; the command of every item, with one object with ``uri``."""
    session.assistant.metrics.record_accepted(_read_uri(arguments, convert.ACCEPT_COMMAND))


# Edits.


async def code_action(session: Session, params: types.CodeActionParams) -> list[types.CodeAction]:
    """List the edits on offer. Clients ask at every stop of the cursor: the work is done by the commands."""
    document = session.documents.get(params.text_document.uri)
    only = params.context.only
    if document is None or (only is not None and not any(kind in _EDIT_KINDS for kind in only)):
        return []
    session.read_ahead(document.uri, params.range.start)  # the only request of many editors when the cursor rests
    lines = convert.to_lines(document, params.range, session.documents.encoding)
    actions = []
    if session.edits.has_alternative(document):
        title = convert.add_prefix("another version of the last edit")
        command = types.Command(title=title, command=REPLACE_EDIT_COMMAND, arguments=[{"uri": document.uri}])
        actions.append(types.CodeAction(title=title, kind=types.CodeActionKind.RefactorRewrite, command=command))
    for title, message in await session.list_edits(document, lines):
        command = _make_edit_command(title, document, params.range, message)
        action = types.CodeAction(title=title, kind=types.CodeActionKind.RefactorRewrite)
        if session.client.supports_command_resolve:
            action.data = command.arguments
        else:
            action.command = command
        actions.append(action)
    return actions


async def code_action_resolve(session: Session, action: types.CodeAction) -> types.CodeAction:
    """Add an action's command. Never an ``edit``: clients apply that without checking the version."""
    if isinstance(action.data, list) and len(action.data) == 1:
        action.command = types.Command(title=action.title, command=EDIT_COMMAND, arguments=action.data)
    return action


def _make_edit_command(title: str, document: Document, range: types.Range, message: str) -> types.Command:
    plain_range = {
        "start": {"line": range.start.line, "character": range.start.character},
        "end": {"line": range.end.line, "character": range.end.character},
    }
    arguments = [{"uri": document.uri, "version": document.version, "range": plain_range, "message": message}]
    return types.Command(title=title, command=EDIT_COMMAND, arguments=arguments)


async def edit(session: Session, arguments: list[Any]) -> None:
    """Make an edit: one object with ``uri``, ``message`` and optionally ``range`` and ``version``.

    Answers at once, because clients give a command ten seconds; the edit follows as ``workspace/applyEdit``.
    """
    argument = _read_object(arguments)
    uri, message = argument.get("uri"), argument.get("message", "")
    if not isinstance(uri, str) or not isinstance(message, str):
        raise JsonRpcInvalidParams(f'{EDIT_COMMAND} takes one object {{"uri": ..., "message": ..., "range": ...}}')
    document = session.documents.get(uri)
    if document is None:
        session.client.show_message("no edit: the document is not open")
        return
    if argument.get("version") not in (None, document.version):
        session.client.show_message("no edit: the document has changed since the edit was requested; request it again")
        return
    lines = _read_lines(session, document, argument.get("range"))
    session.run_in_background(session.edit(document, message, lines))


def _read_lines(session: Session, document: Document, range: Any) -> tuple[int, int] | None:
    """Read the command's range; ``None`` is the whole document."""
    if range is None:
        return None
    try:
        structured = types.Range(types.Position(**range["start"]), types.Position(**range["end"]))
    except (TypeError, KeyError, ValueError) as error:
        raise JsonRpcInvalidParams(f"{EDIT_COMMAND}: not a range") from error
    return convert.to_lines(document, structured, session.documents.encoding)


async def replace_last_edit(session: Session, arguments: list[Any]) -> None:
    """Replace the last edit of a document with the next best proposal: one object with ``uri``."""
    document = session.documents.get(_read_uri(arguments, REPLACE_EDIT_COMMAND))
    if document is None:
        session.client.show_message("no edit: the document is not open")
        return
    session.run_in_background(session.edits.replace_last(document))


async def text_document_content(
    session: Session, params: types.TextDocumentContentParams
) -> types.TextDocumentContentResult:
    """Return the text of a diff that is shown."""
    text = session.edits.diff_text(params.uri)
    if text is None:
        raise JsonRpcInvalidParams("no such document")
    return types.TextDocumentContentResult(text=text)


# Status commands.


async def reload_model(session: Session, arguments: list[Any]) -> None:
    """Try to load the model again."""
    session.run_in_background(session.load_model())


async def list_models(session: Session, arguments: list[Any]) -> dict[str, Any]:
    """Return the models on this machine, then those that can be downloaded, for a client's list."""
    return await session.list_models()


async def use_model(session: Session, arguments: list[Any]) -> None:
    """Make a model that of all editors, and load it: one object with ``name``, and ``role`` (complete or edit)."""
    session.run_in_background(session.use_model(*_read_model(arguments, USE_MODEL_COMMAND)))


async def get_model(session: Session, arguments: list[Any]) -> None:
    """Ask the user about a model's size and licence, download it and use it; arguments as those of `use_model`."""
    session.run_in_background(session.get_model(*_read_model(arguments, GET_MODEL_COMMAND)))


def _read_model(arguments: list[Any], command: str) -> tuple[str, ModelRole]:
    argument = _read_object(arguments)
    name, role = argument.get("name"), argument.get("role", ModelRole.COMPLETE.value)
    if not isinstance(name, str) or role not in {one.value for one in ModelRole}:
        raise JsonRpcInvalidParams(f'{command} takes one object {{"name": ..., "role": "complete" or "edit"}}')
    return name, ModelRole(role)


async def show_metrics(session: Session, arguments: list[Any]) -> dict[str, Any]:
    """Return what became of the suggestions, and show it as a message unless the one argument has ``quiet``."""
    metrics = session.assistant.metrics
    if _read_object(arguments).get("quiet") is not True:
        session.client.show_message(metrics.summary())
    return metrics.to_json()


async def show_context(session: Session, arguments: list[Any]) -> dict[str, Any]:
    """Return what a prompt shows of other files, and why, and show it unless the one argument has ``quiet``.

    For its ``uri`` and ``position``, or where the user was last.
    """
    argument = _read_object(arguments)
    place = session.last_position
    if isinstance(uri := argument.get("uri"), str) and isinstance(argument.get("position"), dict):
        try:
            place = uri, types.Position(**argument["position"])
        except TypeError as error:
            raise JsonRpcInvalidParams(f"{CONTEXT_COMMAND}: not a position") from error
    document = session.documents.get(place[0]) if place is not None else None
    if place is None or document is None:
        session.client.show_message("no context: the document is not open")
        return {"text": "", "parts": []}
    offset = convert.to_offset(document, place[1], session.documents.encoding)
    chosen = await session.assistant.choose_context(document, offset)
    text = chosen.describe(parse_name(document.file_uri), place[1].line + 1)
    if argument.get("quiet") is not True:
        if session.client.supports_show_document:
            await session.edits.show_text(text, "context.txt")
        else:
            session.client.show_message(text.partition("\n")[0])
    return {"text": text, "parts": [part.to_json() for part in chosen.parts]}


def _read_object(arguments: list[Any]) -> dict[str, Any]:
    """Return a command's one argument; an empty object if it is anything else."""
    argument = arguments[0] if len(arguments) == 1 else None
    return argument if isinstance(argument, dict) else {}


def _read_uri(arguments: list[Any], command: str) -> str:
    uri = _read_object(arguments).get("uri")
    if not isinstance(uri, str):
        raise JsonRpcInvalidParams(f'{command} takes one object {{"uri": ...}}')
    return uri


FEATURES: dict[str, tuple[Handler, Any]] = {
    types.INITIALIZED: (initialized, None),
    types.SHUTDOWN: (shutdown, None),
    types.TEXT_DOCUMENT_COMPLETION: (
        completion,
        types.CompletionOptions(trigger_characters=_TRIGGER_CHARACTERS, work_done_progress=True),
    ),
    types.TEXT_DOCUMENT_INLINE_COMPLETION: (inline_completion, types.InlineCompletionOptions(work_done_progress=True)),
    types.TEXT_DOCUMENT_CODE_ACTION: (
        code_action,
        types.CodeActionOptions(code_action_kinds=[types.CodeActionKind.RefactorRewrite]),
    ),
    types.CODE_ACTION_RESOLVE: (code_action_resolve, None),
    types.WORKSPACE_TEXT_DOCUMENT_CONTENT: (
        text_document_content,
        types.TextDocumentContentRegistrationOptions(schemes=[DIFF_SCHEME]),
    ),
    types.TEXT_DOCUMENT_DID_SAVE: (did_save, types.SaveOptions(include_text=False)),
    types.WORKSPACE_DID_CHANGE_WATCHED_FILES: (did_change_watched_files, None),
    types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS: (did_change_workspace_folders, None),
    CURSOR_NOTIFICATION: (did_move_cursor, None),
    INLINE_EDIT_REQUEST: (inline_edit, None),
    types.WORKSPACE_DID_CHANGE_CONFIGURATION: (did_change_configuration, None),
    types.WINDOW_WORK_DONE_PROGRESS_CANCEL: (work_done_progress_cancel, None),
}

COMMANDS: dict[str, Handler] = {
    EDIT_COMMAND: edit,
    REPLACE_EDIT_COMMAND: replace_last_edit,
    RELOAD_COMMAND: reload_model,
    METRICS_COMMAND: show_metrics,
    LIST_MODELS_COMMAND: list_models,
    USE_MODEL_COMMAND: use_model,
    GET_MODEL_COMMAND: get_model,
    CONTEXT_COMMAND: show_context,
    convert.ACCEPT_COMMAND: did_accept_suggestion,
    ACCEPT_NEXT_EDIT_COMMAND: did_accept_next_edit,
}


def refine_capabilities(session: Session, capabilities: types.ServerCapabilities) -> None:
    """Adapt the announced capabilities to what the client supports."""
    client = session.client
    if isinstance(capabilities.code_action_provider, types.CodeActionOptions):
        capabilities.code_action_provider.resolve_provider = client.supports_command_resolve
    if client.supports_inline_completion and capabilities.completion_provider is not None:
        # A list that opens at every space would cover the ghost text.
        capabilities.completion_provider.trigger_characters = None
    if client.supports_text_document_content:  # pygls does not announce this one
        capabilities.workspace = capabilities.workspace or types.WorkspaceOptions()
        capabilities.workspace.text_document_content = types.TextDocumentContentOptions(schemes=[DIFF_SCHEME])
