"""``codeclippy-ls demo``: the real server as a subprocess, a short editing session, and what an editor would show.

Nothing is prepared: the suggestions are whatever the model says now, and where it says nothing the demo says so.
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
_SURROUNDING = 3


@dataclass(frozen=True, slots=True)
class Scene:
    """Something a user does in the sample: the cursor goes behind ``anchor``, where ``gone`` is deleted first."""

    title: str
    anchor: str
    gone: str = ""
    to_end: bool = False  # delete the rest of the file too: the cursor is at its end
    message: str = ""  # an edit of the function around the anchor rather than a suggestion


SCENES = (
    Scene("Completion: typing at the end of the file", "            best = price\n    return ", to_end=True),
    Scene(
        "Infilling: a line is missing between others",
        "        self.owner = owner\n        ",
        gone="self.items = items or []",
    ),
    Scene('Edit with a message: "Add a docstring"', "def cheapest(basket, default=None):", message="Add a docstring"),
)


class Paint:
    """ANSI colours, or none where the terminal or the user wants none."""

    def __init__(self) -> None:
        self.on = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.on = self.on or "FORCE_COLOR" in os.environ

    def __call__(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.on else text

    def ghost(self, text: str) -> str:
        """Suggested text; between arrows where there is no colour."""
        return self("3;38;5;245", text) if self.on else f"»{text}«"


class Player(LanguageClient):
    """The editor's side of the session."""

    def __init__(self) -> None:
        super().__init__("codeclippy-demo", __version__)
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.outcome: asyncio.Queue[Any] = asyncio.Queue()

        @self.feature("codeclippy/status")
        def status(params: Any) -> None:
            if params.state in ("ready", "failed") and not self.ready.done():
                self.ready.set_result(params.message if params.state == "failed" else "")

        @self.feature(types.WORKSPACE_APPLY_EDIT)
        def apply_edit(params: types.ApplyWorkspaceEditParams) -> types.ApplyWorkspaceEditResult:
            self.outcome.put_nowait(params.edit)
            return types.ApplyWorkspaceEditResult(applied=True)

        @self.feature(types.WINDOW_SHOW_MESSAGE)
        def show_message(params: types.ShowMessageParams) -> None:
            self.outcome.put_nowait(params.message)

    def show(self, text: str, version: int) -> None:
        """Give the server the document's text."""
        whole = types.TextDocumentContentChangeWholeDocument(text)
        identifier = types.VersionedTextDocumentIdentifier(uri=_URI, version=version)
        self.text_document_did_change(types.DidChangeTextDocumentParams(identifier, [whole]))


def play(arguments: list[str]) -> int:
    """Play the session with a server started with these arguments; 0 where every scene had a result."""
    return asyncio.run(_play(arguments))


async def _play(arguments: list[str]) -> int:
    paint, player, started = Paint(), Player(), time.monotonic()
    await player.start_io(sys.executable, "-m", "codeclippy_ls", *arguments)
    await player.initialize_async(
        types.InitializeParams(
            capabilities=types.ClientCapabilities(),
            process_id=os.getpid(),
            initialization_options={
                "statusNotification": True,
                "completion": {"timeBudgetMs": 5000},
                "model": {"engine": "in-process"},
            },  # it leaves nothing running
        )
    )
    print(f"The server answered {paint('1', 'initialize')} after {_ms(started)}.")
    player.initialized(types.InitializedParams())
    text = SAMPLE.read_text(encoding="utf-8")
    item = types.TextDocumentItem(uri=_URI, language_id="python", version=1, text=text)
    player.text_document_did_open(types.DidOpenTextDocumentParams(item))
    if failure := await player.ready:
        print(paint("31", failure))
        return 1
    print(f"The model was ready after {_ms(started)}.")
    shown = [await _scene(player, scene, text, number, paint) for number, scene in enumerate(SCENES, 2)]
    await player.shutdown_async(None)
    player.exit(None)
    await player.stop()
    return 0 if all(shown) else 1


async def _scene(player: Player, scene: Scene, text: str, version: int, paint: Paint) -> bool:
    print(f"\n{paint('1;36', scene.title)}")
    place = text.index(scene.anchor) + len(scene.anchor)
    rest = "" if scene.to_end else text[place + len(scene.gone) :]
    document = Document(_URI, text[:place] + rest, version)
    player.show(document.text, version)
    started = time.monotonic()
    if scene.message:
        return await _edit(player, scene, document, place, started, paint)
    line, character = position_at(document, place, "utf-16")
    answer = await player.text_document_inline_completion_async(
        types.InlineCompletionParams(
            context=types.InlineCompletionContext(types.InlineCompletionTriggerKind.Automatic),
            text_document=types.TextDocumentIdentifier(_URI),
            position=types.Position(line, character),
        )
    )
    items = answer.items if isinstance(answer, types.InlineCompletionList) else []
    if not items:
        print(paint("33", f"  nothing to suggest ({_ms(started)})"))
        return False
    _draw(document, place, str(items[0].insert_text), paint)
    print(paint("32", f"  {_ms(started)} from request to answer"))
    return True


def _draw(document: Document, place: int, ghost: str, paint: Paint) -> None:
    """The lines around the cursor, with the suggestion in them as ghost text."""
    line = document.line_at(place)
    start = document.starts[max(line - _SURROUNDING, 0)]
    last = min(line + _SURROUNDING, document.line_count - 1)
    end = document.line_span(last)[1]
    marked = "\n".join(paint.ghost(part) if part else part for part in ghost.split("\n"))
    drawn = document.text[start:place] + marked + document.text[place:end]
    number = max(line - _SURROUNDING, 0)
    for row in drawn.split("\n"):
        number += 1
        print(f"  {paint('2', f'{number:3} |')} {row}")


async def _edit(player: Player, scene: Scene, document: Document, place: int, started: float, paint: Paint) -> bool:
    line, character = position_at(document, place, "utf-16")
    point = {"line": line, "character": character}
    argument = {"uri": _URI, "message": scene.message, "range": {"start": point, "end": point}}
    await player.workspace_execute_command_async(types.ExecuteCommandParams("codeclippy.edit", [argument]))
    outcome = await player.outcome.get()
    if isinstance(outcome, str):
        print(paint("33", f"  {outcome} ({_ms(started)})"))
        return False
    after = apply_edits(document.text, _edits(document, outcome))
    for row in write_diff(document.text, after, "basket.py").splitlines():
        colour = {"+": "32", "-": "31", "@": "36"}.get(row[:1], "0")
        print(f"  {paint(colour, row)}")
    print(paint("32", f"  {_ms(started)} from request to edit"))
    return True


def _edits(document: Document, edit: Any) -> list[Edit]:
    changes = edit.document_changes[0].edits

    def offset(position: types.Position) -> int:
        return offset_at(document, Position(position.line, position.character), "utf-16")

    return [Edit(offset(change.range.start), offset(change.range.end), change.new_text) for change in changes]


def _ms(started: float) -> str:
    return f"{(time.monotonic() - started) * 1000:.0f} ms"
