"""Grammar of a unified diff of one document, over the tokens of one vocabulary."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from codeclippy_ls.constrain.edit_script import CONTEXT, format_script
from codeclippy_ls.constrain.header import OPENING, Header
from codeclippy_ls.constrain.vocabulary import (
    ConstraintTokenizer,
    Vocabulary,
    find_incomplete_character,
    get_vocabulary,
)

_MAX_LINE = 400  # bytes of an added line
_MAX_PERIOD = 8  # lines of a block whose repetition is noticed


class Mode(enum.Enum):
    """Position of the next token in a diff."""

    HEADER = "header"
    LINE = "line"  # at a line's start or inside a kept or removed line
    ADDED = "added"  # inside an added line


class DiffGrammar:
    """The part of a diff's state that never changes.

    Attributes:
        lines: of the document, without line ends.
        stop_token_ids: ids by which the model ends its diff, in order.
        max_added: limit of added lines.
        prefix: text that a diff begins with.
        indent_widths: indentations, in spaces, that an added line may have; empty if the document indents by tabs. They
            are those of the document, one step more or less: small models miscount spaces.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        lines: Sequence[bytes],
        stop_token_ids: Iterable[int],
        max_added: int,
        prefix: bytes,
    ) -> None:
        self.vocabulary = vocabulary
        self.lines = tuple(lines)
        self.stop_token_ids = tuple(sorted(stop_token_ids))
        self.max_added = max_added
        self.prefix = prefix
        self.indent_widths = _collect_indent_widths(self.lines)
        self.header_ids = vocabulary.encode(OPENING) or ()
        self._line_ids: dict[bytes, tuple[int, ...] | None] = {}
        self._added_ids: dict[bytes, tuple[int, ...]] = {}

    def encode_line(self, line: bytes) -> tuple[int, ...] | None:
        """Encode a line of the diff, with its line type; return ``None`` if the vocabulary cannot."""
        if line not in self._line_ids:
            self._line_ids[line] = self.vocabulary.encode(line + b"\n")
        return self._line_ids[line]

    def allows_indent(self, text: bytes) -> bool:
        """Return whether an added line may begin with ``text``, which includes the plus."""
        rest = text[1:].lstrip(b" ")
        depth = len(text) - 1 - len(rest)
        return not self.indent_widths or (
            depth in self.indent_widths if rest.strip() else depth <= max(self.indent_widths)
        )

    def list_added_tokens(self, text: bytes, partial: bytes) -> tuple[int, ...]:
        """List ids that may follow ``text`` in an added line; it ends in the incomplete character ``partial``."""
        if text[1:].strip(b" ") or not self.indent_widths:
            return self.vocabulary.within_line(partial)
        if text not in self._added_ids:
            table, (words, spaces) = self.vocabulary.token_bytes, self.vocabulary.ids_by_space
            self._added_ids[text] = (words if self.allows_indent(text + b"x") else ()) + tuple(
                id for id in spaces if self.allows_indent(text + table[id])
            )
        return self._added_ids[text]

    def list_added_starts(self) -> tuple[int, ...]:
        """List ids that an added line may begin with."""
        if b"" not in self._added_ids:
            self._added_ids[b""] = tuple(
                id
                for data, id in self.vocabulary.iterate_starting_with(b"+")
                if data.find(b"\n") in (-1, len(data) - 1)
                and b"\r" not in data
                and find_incomplete_character(data) is not None
                and self.allows_indent(data)
            )
        return self._added_ids[b""]


def _collect_indent_widths(lines: Sequence[bytes]) -> frozenset[int]:
    if any(line.startswith(b"\t") for line in lines):
        return frozenset()
    found = {len(line) - len(line.lstrip(b" ")) for line in lines if line.strip()} | {0}
    steps = [deeper - depth for depth, deeper in zip(sorted(found), sorted(found)[1:])]  # noqa: B905 - by pairs
    step = min((step for step in steps if step > 1), default=4)
    return frozenset(found | {depth + step for depth in found} | {depth - step for depth in found if depth >= step})


@dataclass(frozen=True, slots=True)
class DiffState:
    """State of a partial diff.

    Attributes:
        header: of the hunk that is being opened.
        text: of the current added line, with its plus.
        partial_ids: ids of the current kept or removed line.
        next_line: the document's next line; ``None`` until the hunk's first kept or removed line is located.
        hinted_line: the line, from 1, in the hunk's header.
        min_line: the first line at which a new hunk may start.
        num_kept: kept lines since the last change of this hunk, or since its start.
        has_change: this hunk has an added or a removed line.
        num_added: lines added so far.
        is_repeating: added lines began to repeat, so no line may be added now.
        body: the hunk's lines, each with its line type in front: a space, a minus or a plus.
        start: the document's line that the hunk starts at.
        hunks: finished hunks, as start and lines.
    """

    grammar: DiffGrammar
    mode: Mode = Mode.HEADER
    header: Header = field(default=Header(b"", 0, 0, 0))
    text: bytes = b""
    partial_ids: tuple[int, ...] = ()
    next_line: int | None = None
    hinted_line: int = 0
    min_line: int = 0
    num_kept: int = 0
    has_change: bool = False
    num_added: int = 0
    is_repeating: bool = False
    body: tuple[bytes, ...] = ()
    start: int = 0
    hunks: tuple[tuple[int, tuple[bytes, ...]], ...] = ()

    def get_allowed_tokens(self) -> Sequence[int]:
        """Return ids that may come next, stop tokens included if the diff may end here."""
        if self.mode is Mode.HEADER:
            return self.header.get_allowed_tokens(self.grammar.vocabulary)
        if self.mode is Mode.ADDED:
            partial = find_incomplete_character(self.text) or b""
            if not partial and (len(self.text) >= _MAX_LINE or _repeats_words(self.text)):
                return tuple(self.grammar.vocabulary.find_prefixes(b"\n"))
            return self.grammar.list_added_tokens(self.text, partial)
        if self.partial_ids:
            size = len(self.partial_ids)
            return tuple(dict.fromkeys(ids[size] for _, ids in self._list_partial_matches()))
        return tuple(id for group, only in self.get_choice_groups() for id in (group if only is None else (only,)))

    def get_choice_groups(self) -> Sequence[tuple[Sequence[int], int | None]]:
        """Return the choices at a line start: keep a line, remove one, add one, open a hunk, end the diff.

        A kept or removed line that is located is continued in its own tokens, whichever token the model would begin it
        with.
        """
        if self.mode is not Mode.LINE or self.partial_ids:
            return ()
        found: list[tuple[Sequence[int], int | None]] = []
        for line_type in self._list_line_types():
            candidates = list(self._list_candidates(line_type))
            if self.next_line is not None and candidates:
                ((line, ids),) = candidates
                found.append((self.grammar.vocabulary.find_prefixes(line), ids[0]))
            elif candidates:
                found.append((tuple(dict.fromkeys(ids[0] for _, ids in candidates)), None))
        if self._can_add() and (starts := self.grammar.list_added_starts()):
            found.append((starts, None))
        if self._can_open_hunk():
            found.append((self.grammar.vocabulary.find_prefixes(OPENING), self.grammar.header_ids[0]))
        if self.is_complete:
            found.append((self.grammar.stop_token_ids, None))
        return found

    def get_substitutions(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return tokens that end a line and continue in the next one, which count as the line end."""
        return self.grammar.vocabulary.substitutions

    def get_forced_tokens(self) -> Sequence[int]:
        """Return the rest of the line or header if only one text can follow, in the tokens of the whole."""
        if self.mode is Mode.HEADER:
            return self.header.get_forced_tokens(self.grammar.vocabulary)
        if self.mode is Mode.ADDED or not self.partial_ids:
            return ()
        matches = self._list_partial_matches()
        return matches[0][1][len(self.partial_ids) :] if len(matches) == 1 else ()

    def draft(self, limit: int) -> Sequence[int]:
        """Draft the usual continuation: context around a change, and an added line like the one it replaces."""
        state, found = self, list[int]()
        while len(found) < limit and (tokens := state._predict()):
            for token in tokens:
                found.append(token)
                state = state.advance(token)
        return found[:limit]

    @property
    def is_complete(self) -> bool:
        """True if the diff may end here: at a line start, after a removed or added line in its last hunk.

        The added line may equal the removed one, so that a model can leave the text unchanged. If a real change was
        required, the shipped model wrote three quarters more edits, and not one more that was right.
        """
        return self.mode is Mode.LINE and not self.partial_ids and self.has_change

    def _list_line_types(self) -> tuple[bytes, ...]:
        """List the types that a document line may have; it is kept only if a diff would show it as context."""
        limit = 2 * CONTEXT if self.has_change else CONTEXT
        return (b" ", b"-") if self.num_kept < limit else (b"-",)

    def _list_candidates(self, line_type: bytes) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """Yield the document lines that may come next with a line type, and their ids."""
        lines = self.grammar.lines
        next_lines: Iterable[bytes] = (
            lines[self.next_line : self.next_line + 1]
            if self.next_line is not None
            else dict.fromkeys(lines[self.min_line :])
        )
        for line in next_lines:
            if (ids := self.grammar.encode_line(line_type + line)) is not None:
                yield line_type + line, ids

    def _list_partial_matches(self) -> list[tuple[bytes, tuple[int, ...]]]:
        """List the lines that the current partial line can become."""
        size = len(self.partial_ids)
        return [
            (line, ids)
            for line_type in self._list_line_types()
            for line, ids in self._list_candidates(line_type)
            if ids[:size] == self.partial_ids
        ]

    def _can_add(self) -> bool:
        if self.num_added >= self.grammar.max_added or self.is_repeating:
            return False
        # A hunk that begins with an added line can only be located at the start of the document.
        return self.next_line is not None or (not self.hunks and (self.hinted_line <= 1 or not self.grammar.lines))

    def _can_open_hunk(self) -> bool:
        return (
            self.next_line is not None
            and self.has_change
            and self.next_line < len(self.grammar.lines)
            and bool(self.grammar.header_ids)
        )

    def _predict(self) -> Sequence[int]:
        """Predict the next ids, at least up to the next choice; empty if nothing is likely."""
        encode = self.grammar.vocabulary.encode
        if self.mode is Mode.HEADER:
            return encode(self.header.predict(len(self.grammar.lines))) or ()
        if self.mode is Mode.ADDED or self.partial_ids:
            return self._continue_removed_line() if self.mode is Mode.ADDED else self.get_forced_tokens()
        line = self.hinted_line - 1 if self.next_line is None else self.next_line
        last = self.body[-1][:1] if self.body else b" "
        may_keep = not self.has_change or self.num_kept > 0 or (last == b"+" and self._count_unreplaced() <= 0)
        if self.min_line <= line < len(self.grammar.lines) and may_keep and self.num_kept < CONTEXT:
            return self.grammar.encode_line(b" " + self.grammar.lines[line]) or ()
        if self.has_change and self._count_unreplaced() > 0 and self._can_add():
            return (encode(b"+" + self.body[-1][1:]) or ())[:1]
        return ()

    def _count_unreplaced(self) -> int:
        """Count the removed less the added lines of the current change."""
        balance = 0
        for line in reversed(self.body):
            if line[:1] == b" ":
                break
            balance += 1 if line[:1] == b"-" else -1
        return balance

    def _continue_removed_line(self) -> Sequence[int]:
        """Return the rest of the removed line that the added line replaces, if it begins in the same way."""
        removed: list[bytes] = []
        added = 0
        for line in reversed(self.body):
            if line[:1] == b" ":
                break
            removed, added = ([line, *removed], added) if line[:1] == b"-" else (removed, added + 1)
        if added >= len(removed) or not removed[added][1:].startswith(self.text[1:]):
            return ()
        rest = removed[added][len(self.text) :]
        ids = self.grammar.encode_line(b"+" + removed[added][1:]) if rest else None
        if ids is None:
            return ()
        size = 0
        for index, id in enumerate(ids):  # the line's own tokens, if one of them begins here
            if size == len(self.text):
                return ids[index:-1]
            size += len(self.grammar.vocabulary.token_bytes[id])
        return ()

    def advance(self, token_id: int) -> DiffState:
        """Return the state after an allowed token."""
        data = self.grammar.vocabulary.token_bytes[token_id]
        if self.mode is Mode.HEADER:
            header = self.header.advance(data)
            if not header.is_finished:
                return replace(self, header=header)
            return replace(self, header=header, mode=Mode.LINE, hinted_line=header.start)
        if self.mode is Mode.ADDED:
            return replace(self, text=self.text + data)._end_added_line()
        if not self.partial_ids and data[:1] == b"+":
            return replace(self, mode=Mode.ADDED, text=data)._end_added_line()
        if not self.partial_ids and data[:1] == b"@":
            return self._open_hunk().advance(token_id)
        state = replace(self, partial_ids=(*self.partial_ids, token_id))
        line = next((line for line, ids in state._list_partial_matches() if ids == state.partial_ids), None)
        return state if line is None else state._end_document_line(line)

    def _open_hunk(self) -> DiffState:
        """Return the state at the header of another hunk."""
        assert self.next_line is not None
        shift = sum(_count_growth(body) for _, body in self.hunks) + _count_growth(self.body)
        header = Header(OPENING, self.next_line + 1, len(self.grammar.lines), shift)
        hunks = (*self.hunks, (self.start, self.body))
        return replace(
            self,
            mode=Mode.HEADER,
            header=header,
            hunks=hunks,
            min_line=self.next_line,
            next_line=None,
            body=(),
            num_kept=0,
            has_change=False,
            is_repeating=False,
        )

    def _end_added_line(self) -> DiffState:
        """Return the state after an added line, if it has ended; drop lines that repeat the ones before."""
        if not self.text.endswith(b"\n"):
            return self
        at = 0 if self.next_line is None else self.next_line
        body = (*self.body, self.text[:-1])
        kept = _drop_repetition(body)
        return replace(
            self,
            mode=Mode.LINE,
            text=b"",
            next_line=at,
            num_kept=0,
            has_change=True,
            num_added=self.num_added + 1,
            body=kept,
            is_repeating=len(kept) < len(body),
            start=self.start if self.next_line is not None else at,
        )

    def _end_document_line(self, line: bytes) -> DiffState:
        """Return the state after a kept or removed line."""
        index = self.next_line
        if index is None:
            lines = self.grammar.lines
            found = [index for index in range(self.min_line, len(lines)) if lines[index] == line[1:]]
            index = min(found, key=lambda index: abs(index + 1 - self.hinted_line))
        removed = line[:1] == b"-"
        return replace(
            self,
            partial_ids=(),
            next_line=index + 1,
            start=index if self.next_line is None else self.start,
            body=(*self.body, line),
            has_change=self.has_change or removed,
            num_kept=0 if removed else self.num_kept + 1,
            is_repeating=False,
        )

    def drop_open_hunk(self) -> DiffState:
        """Drop the open hunk: in a diff that was cut off it may be incomplete."""
        return replace(self, body=(), has_change=False)

    def format_diff(self) -> str:
        """Format the whole lines so far as a diff with three lines of context and correct headers.

        It is formatted from the operations: GNU patch assumes that a hunk with less context after its changes than
        before them is at the end of the file, and models do not follow that. Lines that were removed and added again
        become context; without other changes the diff is empty.
        """
        hunks = [*self.hunks, (self.start, self.body)] if self.has_change else list(self.hunks)
        script: list[bytes] = []
        done = 0
        for start, body in hunks:
            script += [b" " + line for line in self.grammar.lines[done:start]] + list(body)
            done = start + sum(line[:1] != b"+" for line in body)
        return format_script([*script, *(b" " + line for line in self.grammar.lines[done:])])


def _count_growth(body: Sequence[bytes]) -> int:
    return sum(line[:1] == b"+" for line in body) - sum(line[:1] == b"-" for line in body)


def _drop_repetition(body: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Drop a block of lines that was added again: small models repeat themselves.

    A single line is dropped at its third occurrence, a longer block at its second. Empty lines and closing brackets
    alone do not count as a block.
    """
    run = next((size for size in range(len(body)) if body[-1 - size][:1] != b"+"), len(body))
    for period in range(1, _MAX_PERIOD + 1):
        times = 3 if period == 1 else 2
        block = body[-period:]
        if times * period > run or not any(char.isalnum() for char in b"".join(block).decode()):
            continue
        if all(body[-(index + 1) * period : len(body) - index * period] == block for index in range(1, times)):
            return body[: len(body) - (times - 1) * period]
    return body


def _repeats_words(text: bytes) -> bool:
    """Return whether a line ends in the third occurrence of some words, or in the sixth of one word."""
    for period in range(4, len(text) // 3 + 1):
        block = text[-period:]
        if block == text[-2 * period : -period] == text[-3 * period : -2 * period]:
            words = sum(any(char.isalpha() for char in word) for word in block.decode("utf-8", "ignore").split())
            if words > 1 or (words == 1 and text.endswith(block * 6)):
                return True
    return False


def diff_constraint(
    tokenizer: ConstraintTokenizer,
    lines: Sequence[str],
    stop_token_ids: Iterable[int],
    max_added: int = 200,
    prefix: str = " @@ -",
) -> DiffState:
    """Return the start state of a diff of a document.

    Args:
        lines: of the document, without their line ends.
        stop_token_ids: ids by which the model ends the diff.
        max_added: limit of added lines.
        prefix: text that the family's diffs begin with; the seed format has a space between <DFF> and the first header.
    """
    document = tuple(line.encode() for line in lines)
    grammar = DiffGrammar(get_vocabulary(tokenizer), document, stop_token_ids, max_added, prefix.encode())
    return DiffState(grammar, header=Header(grammar.prefix, min(len(document), 1), len(document), 0))
