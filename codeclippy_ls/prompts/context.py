"""Input of prompts: `CompletionContext` around a cursor, `EditTarget` for an edit. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from codeclippy_ls.prompts.context_snippets import IMPORT_REACH, SCOPE_REACH, Snippet
from codeclippy_ls.prompts.truncation import CHARACTERS_PER_TOKEN
from codeclippy_ls.syntax.languages import language_of_file

_SLACK = 4096  # characters beyond the window: a word that is cut off, and the text that the clean-up reads


@dataclass(frozen=True, slots=True)
class CompletionContext:
    """The text around a cursor, with any line ends, the file's name and language, and snippets of other files.

    Attributes:
        name: the file's, without folders.
        snippets: of other files, the most relevant last.
        skipped_lines: lines of the prefix that were left out, at a place that no prompt reaches.
        path: of the file as the snippets' paths are, if they are relative to a folder that holds it.
        repository: name of that folder.
    """

    prefix: str
    suffix: str
    name: str = ""
    language: str = ""
    snippets: tuple[Snippet, ...] = ()
    skipped_lines: int = 0
    path: str = ""
    repository: str = ""

    @property
    def language_id(self) -> str:
        """LSP's id of the language; by the file's name if none was given."""
        known = None if self.language else language_of_file(self.name)
        return known.id if known is not None else self.language

    def clip(self, context_length: int) -> CompletionContext:
        """Drop the text that no prompt of ``context_length`` tokens can show; every such prompt stays the same."""
        reach = context_length * CHARACTERS_PER_TOKEN + _SLACK
        # Twice: the reaches are counted with one character per line end.
        head, tail = 2 * IMPORT_REACH, reach + 2 * SCOPE_REACH
        prefix, skipped = self.prefix, self.skipped_lines
        if len(prefix) > head + tail:
            prefix, skipped = prefix[:head] + prefix[-tail:], skipped + prefix[head:-tail].count("\n")
        return replace(self, prefix=prefix, suffix=self.suffix[:reach], skipped_lines=skipped)


@dataclass(frozen=True, slots=True)
class EditTarget:
    """A document to edit and the user's message.

    Attributes:
        lines: without line ends.
        first, last: selected lines, which are shown whole even if the rest is cut to fit.
        is_new: the document is empty, so that a file is to be written.
        language: LSP's id.
        above, below: the other lines of the document.
    """

    lines: tuple[str, ...]
    first: int
    last: int
    name: str
    message: str
    is_new: bool = False
    language: str = ""
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
