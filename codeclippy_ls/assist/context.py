"""`ContextChooser`: which parts of other files a prompt shows beside the text around the cursor, and why.

From the index of the workspace come definitions that the place needs, from open files what was edited last and what is
like the text around the cursor. They are chosen when the cursor comes into another definition, or the files change, and
not at each key: they stand at the prompt's front, and another choice costs the whole KV cache. Knows no LSP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codeclippy_ls.assist.triggers import find_excluding_setting
from codeclippy_ls.index.question import Finding, Place
from codeclippy_ls.index.reader import FolderIndex
from codeclippy_ls.index.rendering import write_excerpts
from codeclippy_ls.prompts.context_snippets import MAX_FILE, OpenFile, Snippet, select_snippets
from codeclippy_ls.secret_files import is_secret_path
from codeclippy_ls.secret_text import remove_secret_lines
from codeclippy_ls.settings import Settings
from codeclippy_ls.syntax.declarations import list_declarations
from codeclippy_ls.syntax.languages import find_language, language_of_file
from codeclippy_ls.syntax.outline import find_scope_name
from codeclippy_ls.syntax.tree import DocumentTrees, parse
from codeclippy_ls.text import Document, to_lf
from codeclippy_ls.uris import parse_path

CHARACTERS_PER_TOKEN = 3  # of signatures, on the safe side
_MAX_CHARACTERS = 3000  # of open files alone, and while the model is unknown
_LINES = 32  # that the cursor may move until snippets are chosen again in the same definition
_LINES_OUTSIDE = 16  # the same outside of any
_EDITED_BEFORE, _EDITED_AFTER = 4, 8  # lines around the last edit of another file
_MAX_REASONS = 4  # of a part, in words
_MAX_KEPT = 64  # documents

FindIndex = Callable[[Document], FolderIndex | None]
OpenFiles = Callable[[Document], Sequence[OpenFile]]


@dataclass(frozen=True, slots=True)
class ContextPart:
    """A snippet that a prompt shows, and why."""

    snippet: Snippet
    reasons: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Number of its tokens, roughly: vocabularies differ."""
        return -(-(len(self.snippet.path) + len(self.snippet.text)) // CHARACTERS_PER_TOKEN)

    def to_json(self) -> dict[str, Any]:
        """Return it as a client gets it."""
        return {
            "path": self.snippet.path,
            "text": self.snippet.text,
            "reasons": list(self.reasons),
            "tokens": self.tokens,
        }


@dataclass(frozen=True, slots=True)
class ChosenContext:
    """The parts of other files for a place, the most needed last.

    Attributes:
        path: the document's path as those of the parts are; empty if they are relative to the document.
        repository: name of the folder that they are relative to.
    """

    parts: tuple[ContextPart, ...] = ()
    path: str = ""
    repository: str = ""

    @property
    def snippets(self) -> tuple[Snippet, ...]:
        """The snippets alone."""
        return tuple(part.snippet for part in self.parts)

    def describe(self, name: str, line: int) -> str:
        """Describe to the user what a prompt at a line of a file shows of other files, and why."""
        if not self.parts:
            return f"nothing of other files is shown at line {line} of {name}\n"
        tokens = sum(part.tokens for part in self.parts)
        files = f"{len(self.parts)} other files" if len(self.parts) > 1 else "another file"
        sections = [f"parts of {files} are shown at line {line} of {name}: about {tokens} tokens, the most needed last"]
        for part in self.parts:
            reasons = "; ".join(part.reasons[:_MAX_REASONS])
            sections.append(f"--- {part.snippet.path}, about {part.tokens} tokens: {reasons}\n{part.snippet.text}")
        return "\n\n".join(sections) + "\n"


@dataclass(frozen=True, slots=True)
class _Choice:
    scope: str
    line: int
    state: object
    context: ChosenContext


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place of a suggestion: the text before and after it, with the document's own line ends."""

    document: Document
    prefix: str
    suffix: str


def resolve_context_mode(settings: Settings) -> str:
    """Return where snippets come from: ``workspace``, ``open`` or ``off``."""
    if settings.completion.context != "auto":
        return settings.completion.context
    # Nothing of a file that is not open leaves the machine unless the user says so.
    return "open" if settings.model.endpoint else "workspace"


class ContextChooser:
    """Chooses what prompts show of other files. Any thread may ask; each document's last choice is kept."""

    def __init__(self, open_files: OpenFiles, find_index: FindIndex, trees: DocumentTrees) -> None:
        self._open_files, self._find_index, self._trees = open_files, find_index, trees
        self._choices: dict[str, _Choice] = {}
        self._lock = threading.Lock()

    def list_open_files(self, settings: Settings, document: Document) -> Sequence[OpenFile]:
        """List the other open files that may be shown; on the loop."""
        return () if resolve_context_mode(settings) == "off" else self._open_files(document)

    def choose(self, settings: Settings, cursor: Cursor, files: Sequence[OpenFile], limit_tokens: int) -> ChosenContext:
        """Choose the parts of other files for a cursor, or return those of the last choice; takes milliseconds.

        Args:
            files: of `list_open_files`.
            limit_tokens: of all parts; 0 if the model is not known.
        """
        mode = resolve_context_mode(settings)
        if mode == "off":
            return ChosenContext()
        index = self._find_index(cursor.document) if mode == "workspace" else None
        if index is None and not files:
            return ChosenContext()
        prefix, suffix = to_lf(cursor.prefix), to_lf(cursor.suffix)
        uri, line = cursor.document.uri, prefix.count("\n")
        # A cell's text comes with that of the cells above: another text than the document's own.
        key = f"{uri} with cells" if cursor.document.notebook else uri
        tree = self._trees.parse(key, prefix + suffix, find_language(cursor.document.language))
        scope = find_scope_name(tree, len(prefix[: prefix.rfind("\n") + 1].encode("utf-8", "replace")))
        state = (
            index.generation if index is not None else "",
            limit_tokens,
            tuple((file.path, len(file.text)) for file in files),
            settings.completion.disabled_paths,
            settings.completion.disabled_languages,
        )
        known = self._choices.get(uri)
        if known is not None and known.state == state and _is_near(known, scope, line):
            return known.context
        limit = limit_tokens * CHARACTERS_PER_TOKEN or _MAX_CHARACTERS
        parts: list[ContextPart] = []
        path = index.contains(Path(parse_path(cursor.document.file_uri))) if index is not None else None
        if index is not None and path is not None:
            place = Place(path, prefix, suffix, tree, cursor.document.language)
            parts = _ask_index(index, place, settings, files, limit)
        shown = {part.snippet.path for part in parts}
        left = min(_MAX_CHARACTERS, limit - sum(len(part.snippet.text) + len(part.snippet.path) for part in parts))
        parts = [*_choose_open(prefix, suffix, files, shown, left), *parts]
        chosen = ChosenContext(tuple(parts), path or "", index.folder.name if index is not None and path else "")
        self._keep(uri, _Choice(scope, line, state, chosen))
        return chosen

    def forget(self, uri: str) -> None:
        """Drop the choice of a document that was closed."""
        with self._lock:
            self._choices.pop(uri, None)

    def _keep(self, uri: str, choice: _Choice) -> None:
        with self._lock:
            self._choices.pop(uri, None)
            self._choices[uri] = choice
            while len(self._choices) > _MAX_KEPT:
                del self._choices[next(iter(self._choices))]


def _is_near(known: _Choice, scope: str, line: int) -> bool:
    """Return whether a choice still holds.

    Code that is being typed may have no scope for a moment: that is no change.
    """
    if scope and known.scope:
        return scope == known.scope and abs(line - known.line) < _LINES
    return abs(line - known.line) < _LINES_OUTSIDE


def _ask_index(
    index: FolderIndex, place: Place, settings: Settings, files: Sequence[OpenFile], limit: int
) -> list[ContextPart]:
    """Ask the index, and write what it finds; a file that is open counts as it is in the editor."""
    opened = {path: file for file in files if file.file and (path := index.contains(Path(file.file))) is not None}
    findings = [finding for finding in index.find(place) if _may_show(index, finding.path, settings)]
    findings = _update_opened(findings, opened)
    return [ContextPart(Snippet(one.path, one.text), one.reasons) for one in write_excerpts(findings, limit)]


def _may_show(index: FolderIndex, path: str, settings: Settings) -> bool:
    language = language_of_file(path)
    uri = (index.folder / path).as_uri()
    id = language.id if language is not None else ""
    return not is_secret_path(f"/{path}") and not find_excluding_setting(uri, id, settings.completion)


def _update_opened(findings: Sequence[Finding], opened: dict[str, OpenFile]) -> list[Finding]:
    """Return findings with the definitions of open files as they are in the editor; those that are gone are dropped."""
    own: dict[str, dict[tuple[str, str], Finding]] = {}
    kept: list[Finding] = []
    for finding in findings:
        file, declaration = opened.get(finding.path), finding.declaration
        if file is None:
            kept.append(finding)
            continue
        if finding.path not in own:
            text = remove_secret_lines(to_lf(file.text[:MAX_FILE]))
            tree = parse(text, find_language(file.language) or language_of_file(file.path))
            found = list_declarations(tree) if tree is not None else []
            own[finding.path] = {
                (one.parent, one.name): replace(finding, declaration=one, line=one.line, text="") for one in found
            }
        if declaration is None:
            continue  # lines of an open file are looked for in its text
        if (current := own[finding.path].get((declaration.parent, declaration.name))) is not None:
            kept.append(replace(finding, declaration=current.declaration, line=current.line))
    return kept


def _choose_open(prefix: str, suffix: str, files: Sequence[OpenFile], shown: set[str], limit: int) -> list[ContextPart]:
    """Choose the place that was edited last in another open file, and snippets that are like this place."""
    clean = [replace(file, text=remove_secret_lines(file.text[:MAX_FILE])) for file in files]
    edited = [part for file in clean if file.edited_line >= 0 and (part := _show_edited(file)) is not None][:1]
    parts: list[ContextPart] = []
    for part in edited:
        if (size := len(part.snippet.text) + len(part.snippet.path)) <= limit // 2:
            parts, limit = [part], limit - size
    snippets = select_snippets(prefix, suffix, clean, limit) if limit > 0 else ()
    reasons = ("open in the editor: defines a name that is used here, or is much like the lines here",)
    return [*(ContextPart(one, reasons) for one in snippets if one.path not in shown), *parts]


def _show_edited(file: OpenFile) -> ContextPart | None:
    lines = to_lf(file.text).split("\n")
    text = "\n".join(lines[max(0, file.edited_line - _EDITED_BEFORE) : file.edited_line + _EDITED_AFTER]).strip("\n")
    return ContextPart(Snippet(file.path, text), ("edited a moment ago",)) if text.strip() else None
