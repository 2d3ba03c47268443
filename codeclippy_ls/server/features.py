"""A thin handler for each LSP feature: convert, await the server's job, convert back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lsprotocol import types
from pygls.exceptions import JsonRpcInvalidParams

from codeclippy_ls.server import convert
from codeclippy_ls.server.client import EDIT_COMMAND, FIGURES_COMMAND, NEXT_COMMAND, RELOAD_COMMAND
from codeclippy_ls.server.edits import SCHEME
from codeclippy_ls.server.protocol import survives_exit
from codeclippy_ls.text import Document, Edit

if TYPE_CHECKING:
    from codeclippy_ls.server.server import Server

_KINDS = (types.CodeActionKind.RefactorRewrite, types.CodeActionKind.Refactor, types.CodeActionKind.Empty)
# No letters: clients ask at word characters by themselves. These are where continuations begin.
_TRIGGERS = [".", "(", "[", "{", ",", "=", ":", " "]


async def initialize(server: Server, params: types.InitializeParams) -> None:
    """Take the options in; nothing heavy happens before the answer."""
    server.configure(params)


async def initialized(server: Server, params: types.InitializedParams) -> None:
    """Start the engine."""
    server.start()


async def shutdown(server: Server, params: Any) -> None:
    """Stop the engine: some clients kill the server right after this."""
    if server.assistant is not None:
        server.assistant.engine.close()


async def completion(server: Server, params: types.CompletionParams) -> types.CompletionList:
    """Suggestions as items of the completion list."""
    document = server.documents.get(params.text_document.uri)
    if document is None:
        return types.CompletionList(is_incomplete=True, items=[])
    encoding = server.documents.encoding
    offset = convert.from_position(document, params.position, encoding)
    typed = params.context is not None and params.context.trigger_kind != types.CompletionTriggerKind.Invoked
    candidates = 1 if typed else server.settings.completion.candidates
    suggestions = await server.suggest(document, offset, automatic=typed, candidates=candidates)
    if server.documents.get(document.uri) is not document:
        return types.CompletionList(is_incomplete=True, items=[])
    server.shows(document, suggestions)
    items = [
        convert.completion_item(document, suggestion, encoding, order)
        for order, suggestion in enumerate(suggestions.items)
    ]
    # Always incomplete: the next keystroke makes another suggestion, and clients cache complete lists.
    return types.CompletionList(is_incomplete=True, items=items)


async def inline_completion(server: Server, params: types.InlineCompletionParams) -> types.InlineCompletionList | None:
    """Suggestions as ghost text; ``None`` for a text that has changed meanwhile, which leaves what is shown alone."""
    document = server.documents.get(params.text_document.uri)
    if document is None:
        return types.InlineCompletionList(items=[])
    encoding = server.documents.encoding
    offset = convert.from_position(document, params.position, encoding)
    selected = _selected(document, params.context.selected_completion_info, server)
    invoked = params.context.trigger_kind == types.InlineCompletionTriggerKind.Invoked
    candidates = server.settings.completion.candidates if invoked else 1
    suggestions = await server.suggest(
        document, offset, automatic=not invoked, selected=selected, candidates=candidates
    )
    if server.documents.get(document.uri) is not document:
        return None
    server.shows(document, suggestions)
    items = [convert.inline_item(document, suggestion, selected, encoding) for suggestion in suggestions.items]
    return types.InlineCompletionList(items=items)


def _selected(document: Document, chosen: types.SelectedCompletionInfo | None, server: Server) -> Edit | None:
    if chosen is None:
        return None
    encoding = server.documents.encoding
    start = convert.from_position(document, chosen.range.start, encoding)
    end = convert.from_position(document, chosen.range.end, encoding)
    text = getattr(chosen.text, "value", chosen.text)
    return Edit(start, max(start, end), str(text))


async def code_action(server: Server, params: types.CodeActionParams) -> list[types.CodeAction]:
    """Edits by message. Clients ask at every stop of the cursor, so this only lists; the work is in the command."""
    document = server.documents.get(params.text_document.uri)
    only = params.context.only
    if document is None or (only is not None and not any(kind in _KINDS for kind in only)):
        return []
    lines = convert.selected_lines(document, params.range, server.documents.encoding)
    assert server.client is not None
    actions = []
    for title, message in server.actions(document, lines):
        command = _command_for(title, document, params.range, message)
        action = types.CodeAction(title=title, kind=types.CodeActionKind.RefactorRewrite)
        if server.client.resolves_commands:
            action.data = command.arguments
        else:
            action.command = command
        actions.append(action)
    if server.edits is not None and server.edits.another(document):
        title = convert.title("another version of the last edit")
        command = types.Command(title=title, command=NEXT_COMMAND, arguments=[{"uri": document.uri}])
        actions.insert(0, types.CodeAction(title=title, kind=types.CodeActionKind.RefactorRewrite, command=command))
    return actions


async def code_action_resolve(server: Server, action: types.CodeAction) -> types.CodeAction:
    """Give an action its command. Never an ``edit``: clients apply that without looking at the version."""
    if isinstance(action.data, list) and len(action.data) == 1:
        action.command = types.Command(title=action.title, command=EDIT_COMMAND, arguments=action.data)
    return action


def _command_for(title: str, document: Document, range: types.Range, message: str) -> types.Command:
    plain = {
        "start": {"line": range.start.line, "character": range.start.character},
        "end": {"line": range.end.line, "character": range.end.character},
    }
    arguments = [{"uri": document.uri, "version": document.version, "range": plain, "message": message}]
    return types.Command(title=title, command=EDIT_COMMAND, arguments=arguments)


async def edit(server: Server, arguments: list[Any]) -> None:
    """The edit command: one object with ``uri``, ``message`` and, if wanted, ``range`` and ``version``.

    Answers at once, because clients give a command ten seconds; the edit follows as ``workspace/applyEdit``.
    """
    given = arguments[0] if len(arguments) == 1 else None
    uri = given.get("uri") if isinstance(given, dict) else None
    message = given.get("message", "") if isinstance(given, dict) else None
    if not isinstance(uri, str) or not isinstance(message, str):
        raise JsonRpcInvalidParams('codeclippy.edit takes one object {"uri": ..., "message": ..., "range": ...}')
    assert server.client is not None and isinstance(given, dict)
    document = server.documents.get(uri)
    if document is None:
        server.client.say("no edit: the document is not open")
        return
    if given.get("version") not in (None, document.version):
        server.client.say("no edit: the document changed meanwhile; ask again")
        return
    server.background(server.edit(document, message, _lines(server, document, given.get("range"))))


def _lines(server: Server, document: Document, range: Any) -> tuple[int, int] | None:
    if range is None:
        return None
    try:
        structured = types.Range(types.Position(**range["start"]), types.Position(**range["end"]))
    except (TypeError, KeyError, ValueError) as error:
        raise JsonRpcInvalidParams("codeclippy.edit: range is not a range") from error
    return convert.selected_lines(document, structured, server.documents.encoding)


async def next_edit(server: Server, arguments: list[Any]) -> None:
    """The command to replace the last edit of a document by the next best: one object with ``uri``."""
    given = arguments[0] if len(arguments) == 1 else None
    uri = given.get("uri") if isinstance(given, dict) else None
    if not isinstance(uri, str):
        raise JsonRpcInvalidParams('codeclippy.replaceLastEdit takes one object {"uri": ...}')
    assert server.client is not None and server.edits is not None
    document = server.documents.get(uri)
    if document is None:
        server.client.say("no edit: the document is not open")
        return
    server.background(server.edits.replace_last(document, server.settings))


async def text_document_content(
    server: Server, params: types.TextDocumentContentParams
) -> types.TextDocumentContentResult:
    """The text of a diff that is shown."""
    found = server.edits.shown(params.uri) if server.edits is not None else None
    if found is None:
        raise JsonRpcInvalidParams("no such document")
    return types.TextDocumentContentResult(text=found)


async def reload(server: Server, arguments: list[Any]) -> None:
    """The reload command: try to load the model again."""
    if server.assistant is not None:
        server.background(server.load())


async def accepted(server: Server, arguments: list[Any]) -> None:
    """The command of every item: one object with ``uri``, whose suggestion was accepted."""
    given = arguments[0] if len(arguments) == 1 else None
    uri = given.get("uri") if isinstance(given, dict) else None
    if not isinstance(uri, str):
        raise JsonRpcInvalidParams('codeclippy.didAcceptSuggestion takes one object {"uri": ...}')
    if server.assistant is not None:
        server.assistant.suggester.figures.accept(uri)


async def figures(server: Server, arguments: list[Any]) -> dict[str, Any]:
    """Show the metrics of suggestions in a message, and return them.

    There is no message if the command's one argument has ``quiet``.
    """
    assert server.client is not None
    if server.assistant is None:
        return {}
    found = server.assistant.suggester.figures
    if not (arguments and isinstance(arguments[0], dict) and arguments[0].get("quiet") is True):
        server.client.say(found.sentence(), types.MessageType.Info)
    return found.exported()


async def work_done_progress_cancel(server: Server, params: types.WorkDoneProgressCancelParams) -> None:
    """The user cancelled what a progress bar shows."""
    if server.client is not None and (cancel := server.client.cancels.get(str(params.token))) is not None:
        cancel()


async def did_change_configuration(server: Server, params: types.DidChangeConfigurationParams) -> None:
    """Settings changed."""
    await server.reconfigure(params.settings)


FEATURES: dict[str, tuple[Callable[..., Any], Any]] = {
    types.INITIALIZE: (initialize, None),
    types.INITIALIZED: (initialized, None),
    types.SHUTDOWN: (shutdown, None),
    types.TEXT_DOCUMENT_COMPLETION: (completion, types.CompletionOptions(trigger_characters=_TRIGGERS)),
    types.TEXT_DOCUMENT_INLINE_COMPLETION: (inline_completion, types.InlineCompletionOptions()),
    types.TEXT_DOCUMENT_CODE_ACTION: (
        code_action,
        types.CodeActionOptions(code_action_kinds=[types.CodeActionKind.RefactorRewrite]),
    ),
    types.CODE_ACTION_RESOLVE: (code_action_resolve, None),
    types.WORKSPACE_TEXT_DOCUMENT_CONTENT: (
        text_document_content,
        types.TextDocumentContentRegistrationOptions(schemes=[SCHEME]),
    ),
    types.WORKSPACE_DID_CHANGE_CONFIGURATION: (did_change_configuration, None),
    types.WINDOW_WORK_DONE_PROGRESS_CANCEL: (work_done_progress_cancel, None),
}


COMMANDS: dict[str, Callable[..., Any]] = {
    EDIT_COMMAND: edit,
    NEXT_COMMAND: next_edit,
    RELOAD_COMMAND: reload,
    FIGURES_COMMAND: figures,
    convert.ACCEPTED_COMMAND: accepted,
}


def bound(handler: Callable[..., Any], server: Server) -> Callable[..., Any]:
    """A feature's handler for one server."""

    async def handle(params: Any) -> Any:
        return await handler(server, params)

    return survives_exit(handle)


def bound_command(handler: Callable[..., Any], server: Server) -> Callable[..., Any]:
    """A command's handler for one server; it gets its arguments as a list, unchecked."""

    async def handle(*arguments: Any) -> Any:
        return await handler(server, list(arguments))

    return survives_exit(handle)
