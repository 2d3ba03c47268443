"""A notebook as an editor has it: cells with texts of their own, and the notifications that tell a server of it."""

from __future__ import annotations

from typing import Any

from tests.editor import Buffer, Editor

CODE, PROSE = 2, 1  # LSP's kinds of cells


class Notebook:
    """An open notebook of a fake editor, as VS Code sends it."""

    def __init__(self, editor: Editor, texts: list[tuple[str, str]], uri: str = "file:///work/my%20nb.ipynb") -> None:
        self.editor, self.uri, self.version = editor, uri, 1
        self._count = 0
        self.cells = [self.make(text, language) for text, language in texts]
        editor.notify(
            "notebookDocument/didOpen",
            {
                "notebookDocument": {
                    "uri": uri,
                    "notebookType": "jupyter-notebook",
                    "version": 1,
                    "cells": list(map(self.describe, self.cells)),
                },
                "cellTextDocuments": list(map(self.item, self.cells)),
            },
        )

    def make(self, text: str, language: str = "python") -> Buffer:
        """Make a cell that is not in the notebook yet."""
        self._count += 1
        uri = f"{self.uri.replace('file://', 'vscode-notebook-cell:')}#W{self._count}sZmlsZQ%3D%3D"
        buffer = self.editor.buffers[uri] = Buffer(uri, text, language=language)
        return buffer

    @staticmethod
    def describe(cell: Buffer) -> dict[str, Any]:
        """Return a cell as an element of the notebook's array."""
        return {"kind": PROSE if cell.language == "markdown" else CODE, "document": cell.uri}

    @staticmethod
    def item(cell: Buffer) -> dict[str, Any]:
        """Return a cell's document as it is opened."""
        return {"uri": cell.uri, "languageId": cell.language, "version": cell.version, "text": cell.text}

    def change(self, **cells: Any) -> None:
        """Send a change of the cells."""
        self.version += 1
        self.editor.notify(
            "notebookDocument/didChange",
            {"notebookDocument": {"uri": self.uri, "version": self.version}, "change": {"cells": cells}},
        )

    def type(self, cell: Buffer, offset: int, text: str, end: int | None = None) -> int:
        """Replace ``[offset, end)`` of a cell; return the offset after the text."""
        start, stop = cell.position(offset), cell.position(offset if end is None else end)
        cell.text = cell.text[:offset] + text + cell.text[offset if end is None else end :]
        cell.version += 1
        change = {"range": {"start": start, "end": stop}, "text": text}
        self.change(textContent=[{"document": cell.identifier, "changes": [change]}])
        return offset + len(text)

    def splice(self, start: int, delete_count: int, new: list[Buffer]) -> None:
        """Replace cells; those that stay in the notebook are neither closed nor opened."""
        old = self.cells[start : start + delete_count]
        self.cells[start : start + delete_count] = new
        kept = {cell.uri for cell in old} & {cell.uri for cell in new}
        self.change(
            structure={
                "array": {"start": start, "deleteCount": delete_count, "cells": list(map(self.describe, new))},
                "didOpen": [self.item(cell) for cell in new if cell.uri not in kept],
                "didClose": [{"uri": cell.uri} for cell in old if cell.uri not in kept],
            }
        )

    def change_language(self, cell: Buffer, language: str) -> None:
        """Close a cell's document and open it again by the same URI, in another language, perhaps of another kind."""
        cell.language, cell.version = language, cell.version + 1
        at = self.cells.index(cell)
        array = {"start": at, "deleteCount": 1, "cells": [self.describe(cell)]}
        self.change(structure={"array": array, "didOpen": [self.item(cell)], "didClose": [{"uri": cell.uri}]})

    def close(self) -> None:
        """Close the notebook with its cells."""
        self.editor.notify(
            "notebookDocument/didClose",
            {
                "notebookDocument": {"uri": self.uri},
                "cellTextDocuments": [{"uri": cell.uri} for cell in self.cells],
            },
        )
