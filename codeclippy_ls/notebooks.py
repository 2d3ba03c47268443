"""`Notebooks`: which of the open documents are cells of notebooks, in which order, and what is above a cell.

A cell is a document like any other; what a notebook adds is the order of its cells. Knows no LSP and no disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from codeclippy_ls.text import Document, Documents, to_lf


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell: the URI of its document, and whether it is code or prose."""

    uri: str
    is_code: bool = True


class Notebooks:
    """The open notebooks of one client. Belongs to the loop thread."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._cells: dict[str, list[Cell]] = {}

    def open(self, uri: str, cells: Sequence[Cell]) -> None:
        """Add a notebook, also in place of one that is open already."""
        self._cells[uri] = list(cells)

    def splice(self, uri: str, start: int, delete_count: int, cells: Sequence[Cell]) -> None:
        """Replace ``delete_count`` cells from the cell ``start`` on.

        Raises:
            KeyError: the notebook is not open.
            IndexError: it has fewer cells.
        """
        known = self._cells[uri]
        if not 0 <= start <= start + delete_count <= len(known):
            raise IndexError(f"cells {start} to {start + delete_count} of {len(known)}")
        known[start : start + delete_count] = cells

    def update(self, uri: str, cells: Iterable[Cell]) -> None:
        """Change the kinds of cells; those of another notebook, or of none, are left out."""
        changed = {cell.uri: cell for cell in cells}
        known = self._cells.get(uri, [])
        known[:] = [changed.get(cell.uri, cell) for cell in known]

    def close(self, uri: str) -> None:
        """Remove a notebook; closing one that is not open is no error."""
        self._cells.pop(uri, None)

    def list_cells(self, uri: str) -> tuple[Cell, ...]:
        """Return the cells of a notebook in order."""
        return tuple(self._cells.get(uri, ()))

    def join_code(self, uri: str) -> tuple[str, str]:
        """Return the text of a notebook's code cells as one file, and the language of the first."""
        code = list(self._documents_of(cell for cell in self._cells.get(uri, ()) if cell.is_code))
        language = code[0].language if code else ""
        return _join(one for one in code if one.language == language), language

    def join_above(self, document: Document) -> str:
        """Return the text of the cells above a cell that are of its kind and language, as one file; else nothing."""
        cells = self._cells.get(document.notebook, [])
        at = next((index for index, cell in enumerate(cells) if cell.uri == document.uri), 0)
        above = self._documents_of(cell for cell in cells[:at] if cell.is_code == cells[at].is_code)
        return _join(other for other in above if other.language == document.language)

    def _documents_of(self, cells: Iterable[Cell]) -> Iterator[Document]:
        for cell in cells:
            if (document := self._documents.get(cell.uri)) is not None:
                yield document


def _join(documents: Iterable[Document]) -> str:
    """Join the texts of cells, with an empty line after each."""
    return "".join(f"{to_lf(one.text).rstrip()}\n\n" for one in documents if one.text.strip())
