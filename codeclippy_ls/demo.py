"""``codeclippy-ls demo``: a short editing session with the real server, drawn as an editor would show it.

Nothing is prepared: the suggestions are what the model generates now, and if it generates nothing the demo says so.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.lsp.client import LanguageClient

from codeclippy_ls import __version__
from codeclippy_ls.diffs.writing import write_diff
from codeclippy_ls.text import Document, Edit, Position, apply_edits, offset_at, position_at

SAMPLE = Path(__file__).parent / "samples" / "basket.py"
_URI = "file:///demo/basket.py"
_CONTEXT_LINES = 3


@dataclass(frozen=True, slots=True)
class Scene:
    """Something a user does in the sample file.

    Attributes:
        anchor: the cursor goes behind this text.
        deleted: text behind the anchor that is deleted first.
        deletes_rest: delete the rest of the file too, so that the cursor is at its end.
        message: ask for an edit of the function around the anchor, not for a suggestion.
    """

    title: str
    anchor: str
    deleted: str = ""
    deletes_rest: bool = False
    message: str = ""


SCENES = (
    Scene("Completion: typing at the end of the file", "            best = price\n    return ", deletes_rest=True),
    Scene(
        "Fill-in-the-middle: a line is missing between others",
        "        result = 0\n        ",
        deleted="for name, price, count in self.items:",
    ),
    Scene(
        'Edit with a message: "raise ValueError if count is negative"',
        "    def add(self, name, price, count=1):",
        message="raise ValueError if count is negative",
    ),
)


class Painter:
    """Adds ANSI colors, unless the terminal or the user does not want them."""

    def __init__(self) -> None:
        self.is_enabled = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.is_enabled = self.is_enabled or "FORCE_COLOR" in os.environ

    def __call__(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.is_enabled else text

    def ghost(self, text: str) -> str:
        """Return suggested text in grey; without colors, between arrows."""
        return self("3;38;5;245", text) if self.is_enabled else f"»{text}«"


class DemoClient(LanguageClient):
    """The editor's side of the session.

    Attributes:
        ready: resolved once the model is loaded, with the reason if that failed, otherwise empty.
        outcomes: of edits: workspace edits, and messages that say why there is none.
    """

    def __init__(self) -> None:
        super().__init__("codeclippy-demo", __version__)
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.outcomes: asyncio.Queue[Any] = asyncio.Queue()

        @self.feature("codeclippy/status")
        def status(params: Any) -> None:
            if params.state in ("ready", "failed") and not self.ready.done():
                self.ready.set_result(params.message if params.state == "failed" else "")

        @self.feature(types.WORKSPACE_APPLY_EDIT)
        def apply_edit(params: types.ApplyWorkspaceEditParams) -> types.ApplyWorkspaceEditResult:
            self.outcomes.put_nowait(params.edit)
            return types.ApplyWorkspaceEditResult(applied=True)

        @self.feature(types.WINDOW_SHOW_MESSAGE)
        def show_message(params: types.ShowMessageParams) -> None:
            self.outcomes.put_nowait(params.message)

    def send_text(self, text: str, version: int) -> None:
        """Send the document's new text to the server."""
        whole = types.TextDocumentContentChangeWholeDocument(text)
        identifier = types.VersionedTextDocumentIdentifier(uri=_URI, version=version)
        self.text_document_did_change(types.DidChangeTextDocumentParams(identifier, [whole]))


def play_demo(arguments: list[str]) -> int:
    """Play the session with a server started with these arguments; return 0 if every scene had a result."""
    return asyncio.run(_play_scenes(arguments))


async def _play_scenes(arguments: list[str]) -> int:
    painter, client, started = Painter(), DemoClient(), time.monotonic()
    await client.start_io(sys.executable, "-m", "codeclippy_ls", *arguments)
    await client.initialize_async(
        types.InitializeParams(
            capabilities=types.ClientCapabilities(),
            process_id=os.getpid(),
            initialization_options={
                "statusNotification": True,
                "completion": {"timeBudgetMs": 5000},
                "model": {"engine": "in-process"},
            },  # so that no engine host stays behind
        )
    )
    print(f"The server answered {painter('1', 'initialize')} after {_format_elapsed(started)}.")
    client.initialized(types.InitializedParams())
    text = SAMPLE.read_text(encoding="utf-8")
    item = types.TextDocumentItem(uri=_URI, language_id="python", version=1, text=text)
    client.text_document_did_open(types.DidOpenTextDocumentParams(item))
    if failure := await client.ready:
        print(painter("31", failure))
        return 1
    print(f"The model was ready after {_format_elapsed(started)}.")
    results = [await _play_scene(client, scene, text, version, painter) for version, scene in enumerate(SCENES, 2)]
    await client.shutdown_async(None)
    client.exit(None)
    await client.stop()
    return 0 if all(results) else 1


async def _play_scene(client: DemoClient, scene: Scene, text: str, version: int, painter: Painter) -> bool:
    print(f"\n{painter('1;36', scene.title)}")
    offset = text.index(scene.anchor) + len(scene.anchor)
    rest = "" if scene.deletes_rest else text[offset + len(scene.deleted) :]
    document = Document(_URI, text[:offset] + rest, version)
    client.send_text(document.text, version)
    started = time.monotonic()
    if scene.message:
        return await _play_edit(client, scene, document, offset, started, painter)
    line, character = position_at(document, offset, "utf-16")
    answer = await client.text_document_inline_completion_async(
        types.InlineCompletionParams(
            context=types.InlineCompletionContext(types.InlineCompletionTriggerKind.Automatic),
            text_document=types.TextDocumentIdentifier(_URI),
            position=types.Position(line, character),
        )
    )
    items = answer.items if isinstance(answer, types.InlineCompletionList) else []
    if not items:
        print(painter("33", f"  nothing to suggest ({_format_elapsed(started)})"))
        return False
    _print_suggestion(document, offset, str(items[0].insert_text), painter)
    print(painter("32", f"  {_format_elapsed(started)} from request to answer"))
    return True


def _print_suggestion(document: Document, offset: int, ghost: str, painter: Painter) -> None:
    """Print the lines around the cursor, with the suggestion as ghost text."""
    line = document.line_at(offset)
    start = document.starts[max(line - _CONTEXT_LINES, 0)]
    last = min(line + _CONTEXT_LINES, document.line_count - 1)
    end = document.line_span(last)[1]
    marked = "\n".join(painter.ghost(part) if part else part for part in ghost.split("\n"))
    drawn = document.text[start:offset] + marked + document.text[offset:end]
    number = max(line - _CONTEXT_LINES, 0)
    for row in drawn.split("\n"):
        number += 1
        print(f"  {painter('2', f'{number:3} |')} {row}")


async def _play_edit(
    client: DemoClient, scene: Scene, document: Document, offset: int, started: float, painter: Painter
) -> bool:
    line, character = position_at(document, offset, "utf-16")
    point = {"line": line, "character": character}
    argument = {"uri": _URI, "message": scene.message, "range": {"start": point, "end": point}}
    await client.workspace_execute_command_async(types.ExecuteCommandParams("codeclippy.edit", [argument]))
    outcome = await client.outcomes.get()
    if isinstance(outcome, str):
        print(painter("33", f"  {outcome} ({_format_elapsed(started)})"))
        return False
    after = apply_edits(document.text, _read_edits(document, outcome))
    for row in write_diff(document.text, after, "basket.py").splitlines():
        color = {"+": "32", "-": "31", "@": "36"}.get(row[:1], "0")
        print(f"  {painter(color, row)}")
    print(painter("32", f"  {_format_elapsed(started)} from request to edit"))
    return True


def _read_edits(document: Document, edit: Any) -> list[Edit]:
    changes = edit.document_changes[0].edits

    def to_offset(position: types.Position) -> int:
        return offset_at(document, Position(position.line, position.character), "utf-16")

    return [Edit(to_offset(change.range.start), to_offset(change.range.end), change.new_text) for change in changes]


def _format_elapsed(started: float) -> str:
    return f"{(time.monotonic() - started) * 1000:.0f} ms"
