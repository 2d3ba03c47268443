"""The grammar of a unified diff of one document, over the tokens of one vocabulary."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from codeclippy_ls.constrain.edit_script import CONTEXT, written
from codeclippy_ls.constrain.header import OPENING, Header
from codeclippy_ls.constrain.vocabulary import Tokenizer, Vocabulary, unfinished, vocabulary

_LONGEST_LINE = 400  # bytes of an added line
_MOST_PERIOD = 8  # lines of a block whose repetition is noticed


class Mode(enum.Enum):
    """Where in a diff the next token stands."""

    HEADER = "header"
    LINE = "line"  # at a line's start or inside a kept or removed line
    ADDED = "added"  # inside an added line


class Frame:
    """What does not change while a diff is written.

    Attributes:
        lines: the document's, without line ends.
        ends: ids by which the model ends its diff, in order.
        max_added: most lines that may be added.
        depths: indentations, in blanks, that an added line may have; none where the document indents by tabs. They are
            those that occur, and whole steps of the smallest: small models miscount blanks.
        opening: what a diff begins with.
    """

    def __init__(
        self, vocabulary: Vocabulary, lines: Sequence[bytes], ends: Iterable[int], max_added: int, opening: bytes
    ) -> None:
        self.vocabulary = vocabulary
        self.lines = tuple(lines)
        self.ends = tuple(sorted(ends))
        self.max_added = max_added
        self.opening = opening
        self.depths = _depths(self.lines)
        self.header = vocabulary.encoded(OPENING) or ()
        self._tokens: dict[bytes, tuple[int, ...] | None] = {}
        self._after: dict[bytes, tuple[int, ...]] = {}

    def tokens(self, line: bytes) -> tuple[int, ...] | None:
        """Ids of a line of the diff with its sign and end; ``None`` where the vocabulary cannot write it."""
        if line not in self._tokens:
            self._tokens[line] = self.vocabulary.encoded(line + b"\n")
        return self._tokens[line]

    def indents(self, text: bytes) -> bool:
        """Whether an added line may begin with ``text``, its sign included."""
        rest = text[1:].lstrip(b" ")
        depth = len(text) - 1 - len(rest)
        return not self.depths or (depth in self.depths if rest.strip() else depth <= max(self.depths))

    def added(self, text: bytes, begun: bytes) -> tuple[int, ...]:
        """Ids that may follow ``text`` in an added line, which breaks off in the character ``begun``."""
        if text[1:].strip(b" ") or not self.depths:
            return self.vocabulary.within(begun)
        if text not in self._after:
            table, (words, blanks) = self.vocabulary.token_bytes, self.vocabulary.by_blanks
            self._after[text] = (words if self.indents(text + b"x") else ()) + tuple(
                id for id in blanks if self.indents(text + table[id])
            )
        return self._after[text]

    def beginnings(self) -> tuple[int, ...]:
        """Ids that an added line may begin with."""
        if b"" not in self._after:
            self._after[b""] = tuple(
                id
                for data, id in self.vocabulary.beginning(b"+")
                if data.find(b"\n") in (-1, len(data) - 1)
                and b"\r" not in data
                and unfinished(data) is not None
                and self.indents(data)
            )
        return self._after[b""]


def _depths(lines: Sequence[bytes]) -> frozenset[int]:
    if any(line.startswith(b"\t") for line in lines):
        return frozenset()
    found = {len(line) - len(line.lstrip(b" ")) for line in lines if line.strip()} | {0}
    steps = [deeper - depth for depth, deeper in zip(sorted(found), sorted(found)[1:])]  # noqa: B905 - by pairs
    step = min((step for step in steps if step > 1), default=4)
    return frozenset(found | {depth + step for depth in found} | {depth - step for depth in found if depth >= step})


@dataclass(frozen=True, slots=True)
class DiffState:
    """A diff in the making.

    Attributes:
        header: of the hunk that is being opened.
        text: of the added line under way, with its sign.
        begun: ids of the kept or removed line under way.
        at: the document's next line, ``None`` until the hunk's first kept or removed line has found its place.
        hint: the line, from 1, at which the hunk's header puts it.
        floor: the first line that a new hunk may stand at.
        since: kept lines since the last change of this hunk, or since its start.
        changed: whether this hunk changes anything.
        added: lines that were added so far.
        tired: whether added lines began to repeat: then something else must follow.
        body: the hunk's lines with their sign.
        start: the document's line that the hunk starts at.
        hunks: finished ones: start and lines.
    """

    frame: Frame
    mode: Mode = Mode.HEADER
    header: Header = field(default=Header(b"", 0, 0, 0))
    text: bytes = b""
    begun: tuple[int, ...] = ()
    at: int | None = None
    hint: int = 0
    floor: int = 0
    since: int = 0
    changed: bool = False
    added: int = 0
    tired: bool = False
    body: tuple[bytes, ...] = ()
    start: int = 0
    hunks: tuple[tuple[int, tuple[bytes, ...]], ...] = ()

    # What may come.

    def get_allowed_tokens(self) -> Sequence[int]:
        """Ids that may come next; the end ids where the diff may end here."""
        if self.mode is Mode.HEADER:
            return self.header.get_allowed_tokens(self.frame.vocabulary)
        if self.mode is Mode.ADDED:
            begun = unfinished(self.text) or b""
            if not begun and (len(self.text) >= _LONGEST_LINE or _stutters(self.text)):
                return tuple(self.frame.vocabulary.heads(b"\n"))
            return self.frame.added(self.text, begun)
        if self.begun:
            size = len(self.begun)
            return tuple(dict.fromkeys(ids[size] for _, ids in self._under_way()))
        return tuple(id for group, only in self.get_choice_groups() for id in (group if only is None else (only,)))

    def get_choice_groups(self) -> Sequence[tuple[Sequence[int], int | None]]:
        """At a line's start: to keep a line, to remove one, to add one, another hunk, the end.

        A kept or removed line whose place is known goes on in the line's own tokens, whichever token the model would
        begin it with.
        """
        if self.mode is not Mode.LINE or self.begun:
            return ()
        found: list[tuple[Sequence[int], int | None]] = []
        for sign in self._signs():
            targets = list(self._targets(sign))
            if self.at is not None and targets:
                ((line, ids),) = targets
                found.append((self.frame.vocabulary.heads(line), ids[0]))
            elif targets:
                found.append((tuple(dict.fromkeys(ids[0] for _, ids in targets)), None))
        if self._may_add() and (beginnings := self.frame.beginnings()):
            found.append((beginnings, None))
        if self._may_open():
            found.append((self.frame.vocabulary.heads(OPENING), self.frame.header[0]))
        if self.complete:
            found.append((self.frame.ends, None))
        return found

    def get_substitutions(self) -> tuple[Sequence[int], Sequence[int]]:
        """Tokens that end a line and go on in the next one count as the line's end."""
        return self.frame.vocabulary.substitutions

    def get_forced_tokens(self) -> Sequence[int]:
        """The rest of what only one text can complete, in the tokens that the whole has."""
        if self.mode is Mode.HEADER:
            return self.header.get_forced_tokens(self.frame.vocabulary)
        if self.mode is Mode.ADDED or not self.begun:
            return ()
        under_way = self._under_way()
        return under_way[0][1][len(self.begun) :] if len(under_way) == 1 else ()

    def draft(self, limit: int) -> Sequence[int]:
        """What usually follows: context around a change, and an added line that begins like the one it replaces."""
        state, found = self, list[int]()
        while len(found) < limit and (guess := state._guess()):
            for token in guess:
                found.append(token)
                state = state.advance(token)
        return found[:limit]

    @property
    def complete(self) -> bool:
        """Whether the diff may end here: at a line start, with something removed or added in its last hunk.

        That may be the same: a model that has nothing to say should not be made to say something. Held to a real
        change, the shipped model wrote three quarters more edits, and not one more that was right.
        """
        return self.mode is Mode.LINE and not self.begun and self.changed

    def _signs(self) -> tuple[bytes, ...]:
        """The signs a line of the document may have: it is kept only while a diff would show it as context."""
        most = 2 * CONTEXT if self.changed else CONTEXT
        return (b" ", b"-") if self.since < most else (b"-",)

    def _targets(self, sign: bytes) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """The lines of the document that may stand next with a sign, and their ids."""
        lines = self.frame.lines
        places: Iterable[bytes] = (
            lines[self.at : self.at + 1] if self.at is not None else dict.fromkeys(lines[self.floor :])
        )
        for line in places:
            if (ids := self.frame.tokens(sign + line)) is not None:
                yield sign + line, ids

    def _under_way(self) -> list[tuple[bytes, tuple[int, ...]]]:
        """The lines that what was written of one can become."""
        size = len(self.begun)
        return [(line, ids) for sign in self._signs() for line, ids in self._targets(sign) if ids[:size] == self.begun]

    def _may_add(self) -> bool:
        if self.added >= self.frame.max_added or self.tired:
            return False
        # A hunk that begins with an added line has a place only at the very start.
        return self.at is not None or (not self.hunks and (self.hint <= 1 or not self.frame.lines))

    def _may_open(self) -> bool:
        return self.at is not None and self.changed and self.at < len(self.frame.lines) and bool(self.frame.header)

    def _guess(self) -> Sequence[int]:
        """Ids that may well come next, up to the next choice at least; none where there is no saying."""
        encoded = self.frame.vocabulary.encoded
        if self.mode is Mode.HEADER:
            return encoded(self.header.guess(len(self.frame.lines))) or ()
        if self.mode is Mode.ADDED or self.begun:
            return self._like_removed() if self.mode is Mode.ADDED else self.get_forced_tokens()
        place = self.hint - 1 if self.at is None else self.at
        last = self.body[-1][:1] if self.body else b" "
        keeps = not self.changed or self.since > 0 or (last == b"+" and self._replaced() <= 0)
        if self.floor <= place < len(self.frame.lines) and keeps and self.since < CONTEXT:
            return self.frame.tokens(b" " + self.frame.lines[place]) or ()
        if self.changed and self._replaced() > 0 and self._may_add():
            return (encoded(b"+" + self.body[-1][1:]) or ())[:1]
        return ()

    def _replaced(self) -> int:
        """How many lines more the change under way has removed than added."""
        balance = 0
        for line in reversed(self.body):
            if line[:1] == b" ":
                break
            balance += 1 if line[:1] == b"-" else -1
        return balance

    def _like_removed(self) -> Sequence[int]:
        """The rest of the removed line that an added line takes the place of, where it begins like that."""
        removed: list[bytes] = []
        added = 0
        for line in reversed(self.body):
            if line[:1] == b" ":
                break
            removed, added = ([line, *removed], added) if line[:1] == b"-" else (removed, added + 1)
        if added >= len(removed) or not removed[added][1:].startswith(self.text[1:]):
            return ()
        rest = removed[added][len(self.text) :]
        ids = self.frame.tokens(b"+" + removed[added][1:]) if rest else None
        if ids is None:
            return ()
        size = 0
        for index, id in enumerate(ids):  # the line's own tokens, where they divide at this place
            if size == len(self.text):
                return ids[index:-1]
            size += len(self.frame.vocabulary.token_bytes[id])
        return ()

    # What follows.

    def advance(self, token_id: int) -> DiffState:
        """The state after an allowed token."""
        data = self.frame.vocabulary.token_bytes[token_id]
        if self.mode is Mode.HEADER:
            header = self.header.advance(data)
            if not header.finished:
                return replace(self, header=header)
            return replace(self, header=header, mode=Mode.LINE, hint=header.start)
        if self.mode is Mode.ADDED:
            return replace(self, text=self.text + data)._line_ended()
        if not self.begun and data[:1] == b"+":
            return replace(self, mode=Mode.ADDED, text=data)._line_ended()
        if not self.begun and data[:1] == b"@":
            return self._opened().advance(token_id)
        state = replace(self, begun=(*self.begun, token_id))
        line = next((line for line, ids in state._under_way() if ids == state.begun), None)
        return state if line is None else state._placed(line)

    def _opened(self) -> DiffState:
        """At the header of another hunk."""
        assert self.at is not None
        shift = sum(_balance(body) for _, body in self.hunks) + _balance(self.body)
        header = Header(OPENING, self.at + 1, len(self.frame.lines), shift)
        hunks = (*self.hunks, (self.start, self.body))
        return replace(
            self,
            mode=Mode.HEADER,
            header=header,
            hunks=hunks,
            floor=self.at,
            at=None,
            body=(),
            since=0,
            changed=False,
            tired=False,
        )

    def _line_ended(self) -> DiffState:
        """After an added line, where it has ended; lines that repeat what was just added are dropped."""
        if not self.text.endswith(b"\n"):
            return self
        at = 0 if self.at is None else self.at
        body = (*self.body, self.text[:-1])
        kept = _without_repetition(body)
        return replace(
            self,
            mode=Mode.LINE,
            text=b"",
            at=at,
            since=0,
            changed=True,
            added=self.added + 1,
            body=kept,
            tired=len(kept) < len(body),
            start=self.start if self.at is not None else at,
        )

    def _placed(self, line: bytes) -> DiffState:
        """After a kept or removed line."""
        place = self.at
        if place is None:
            lines = self.frame.lines
            places = [index for index in range(self.floor, len(lines)) if lines[index] == line[1:]]
            place = min(places, key=lambda index: abs(index + 1 - self.hint))
        removed = line[:1] == b"-"
        return replace(
            self,
            begun=(),
            at=place + 1,
            start=place if self.at is None else self.start,
            body=(*self.body, line),
            changed=self.changed or removed,
            since=0 if removed else self.since + 1,
            tired=False,
        )

    def drop_open_hunk(self) -> DiffState:
        """Without the hunk under way: of a diff that was cut off, it may lack its other half."""
        return replace(self, body=(), changed=False)

    def format_diff(self) -> str:
        """What was done by whole lines so far, as a diff with three lines of context and headers that are right.

        Written anew from the operations: GNU patch takes a hunk with less context after its changes than before them
        to stand at the end of the file, and models do not keep to that. Lines that were removed and added again are
        context; where nothing else was done, the diff is empty.
        """
        hunks = [*self.hunks, (self.start, self.body)] if self.changed else list(self.hunks)
        script: list[bytes] = []
        done = 0
        for start, body in hunks:
            script += [b" " + line for line in self.frame.lines[done:start]] + list(body)
            done = start + sum(line[:1] != b"+" for line in body)
        return written([*script, *(b" " + line for line in self.frame.lines[done:])])


def _balance(body: Sequence[bytes]) -> int:
    return sum(line[:1] == b"+" for line in body) - sum(line[:1] == b"-" for line in body)


def _without_repetition(body: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The lines without a block that was just added again: small models write on and on.

    A single line is one too many when it stands for the third time, a longer block when it stands for the second;
    blank lines and closing brackets alone make no block.
    """
    run = next((size for size in range(len(body)) if body[-1 - size][:1] != b"+"), len(body))
    for period in range(1, _MOST_PERIOD + 1):
        times = 3 if period == 1 else 2
        block = body[-period:]
        if times * period > run or not any(char.isalnum() for char in b"".join(block).decode()):
            continue
        if all(body[-(index + 1) * period : len(body) - index * period] == block for index in range(1, times)):
            return body[: len(body) - (times - 1) * period]
    return body


def _stutters(text: bytes) -> bool:
    """Whether a line ends with some words for the third time, or with one word for the sixth: nothing good follows."""
    for period in range(4, len(text) // 3 + 1):
        block = text[-period:]
        if block == text[-2 * period : -period] == text[-3 * period : -2 * period]:
            words = sum(any(char.isalpha() for char in word) for word in block.decode("utf-8", "ignore").split())
            if words > 1 or (words == 1 and text.endswith(block * 6)):
                return True
    return False


def diff_constraint(
    tokenizer: Tokenizer, lines: Sequence[str], ends: Iterable[int], max_added: int = 200, prefix: str = " @@ -"
) -> DiffState:
    """The state before a diff of a document of these lines, given without their line ends.

    Args:
        ends: ids by which the model says that the diff is done.
        max_added: most lines that may be added.
        opening: what the family's diffs begin with; the seed format puts a blank between <DFF> and the first header.
    """
    document = tuple(line.encode() for line in lines)
    frame = Frame(vocabulary(tokenizer), document, ends, max_added, prefix.encode())
    return DiffState(frame, header=Header(frame.opening, min(len(document), 1), len(document), 0))
