"""The grammar of a unified diff of one document, over the tokens of one vocabulary."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from codeclippy_ls.constrain.script import CONTEXT, written
from codeclippy_ls.constrain.vocabulary import Tokenizer, Vocabulary, vocabulary

_LONGEST_LINE = 400  # bytes of an added line


class Mode(enum.Enum):
    """Where in a diff the next byte stands."""

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
    """

    def __init__(self, vocabulary: Vocabulary, lines: Sequence[bytes], ends: Iterable[int], max_added: int) -> None:
        self.vocabulary = vocabulary
        self.lines = tuple(lines)
        self.ends = tuple(sorted(ends))
        self.max_added = max_added
        self.depths = _depths(self.lines)
        self._after: dict[bytes, tuple[int, ...]] = {}

    def indents(self, text: bytes) -> bool:
        """Whether an added line may begin with ``text``, its sign included."""
        rest = text[1:].lstrip(b" ")
        depth = len(text) - 1 - len(rest)
        return not self.depths or (depth in self.depths if rest.strip() else depth <= max(self.depths))

    def after_indent(self, text: bytes) -> tuple[int, ...]:
        """Ids that may follow the blanks that an added line begins with."""
        if text not in self._after:
            table = self.vocabulary.bytes_of
            self._after[text] = tuple(id for id in self.vocabulary.line if self.indents(text + table[id]))
        return self._after[text]


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
        text: what was written since the last line end.
        at: the document's next line, ``None`` until the hunk's first kept or removed line has found its place.
        floor: the first line that a new hunk may stand at.
        since: kept lines since the last change of this hunk, or since its start.
        changed: whether this hunk changes anything.
        hunks: finished operations: per hunk its start line and its lines with their sign.
    """

    frame: Frame
    mode: Mode = Mode.HEADER
    text: bytes = b""
    at: int | None = None
    hint: int = 0
    floor: int = 0
    since: int = 0
    changed: bool = False
    added: int = 0
    body: tuple[bytes, ...] = ()
    start: int = 0
    hunks: tuple[tuple[int, tuple[bytes, ...]], ...] = ()

    def allowed(self) -> Sequence[int]:
        """Ids that may come next; the end ids where the diff may end here."""
        vocabulary = self.frame.vocabulary
        if self.mode is Mode.ADDED:
            return self._allowed_in_added()
        if self.mode is Mode.HEADER:
            return self._allowed_in_header()
        found: dict[int, None] = {}
        for target in self._targets():
            if target.startswith(self.text):
                found.update(dict.fromkeys(vocabulary.heads(target[len(self.text) :])))
        if not self.text and self._may_add():
            for data, id in vocabulary.beginning(b"+"):
                if data.find(b"\n") in (-1, len(data) - 1) and self.frame.indents(data):
                    found[id] = None
        if not self.text and self.complete:
            found.update(dict.fromkeys(self.frame.ends))
        return tuple(found)

    def _allowed_in_added(self) -> Sequence[int]:
        vocabulary = self.frame.vocabulary
        if len(self.text) >= _LONGEST_LINE:
            return tuple(vocabulary.heads(b"\n"))
        if self.text[1:].strip(b" "):
            return vocabulary.line
        return self.frame.after_indent(self.text)

    def step(self, token: int) -> DiffState:
        """The state after an allowed token."""
        state = self
        for byte in self.frame.vocabulary.bytes_of[token]:
            state = state._feed(bytes([byte]))
        return state

    def forced(self) -> Sequence[int]:
        """The rest of a line that only one text can complete, in the tokens that the whole line has."""
        if self.mode is Mode.ADDED:
            return ()
        if self.mode is Mode.HEADER:
            rest = self._forced_header()
            return self._encoded(rest) if rest else ()
        targets = {target for target in self._targets() if target.startswith(self.text)}
        if not self.text or len(targets) != 1:
            return ()
        return self._tokens(targets.pop())

    def _tokens(self, target: bytes) -> Sequence[int]:
        """Ids of what is left of a line; those of the whole line where its tokens divide at this place."""
        vocabulary = self.frame.vocabulary
        done = 0
        whole = self._encoded(target)
        for index, id in enumerate(whole):
            if done == len(self.text):
                return whole[index:]
            done += len(vocabulary.bytes_of[id])
        rest = target[len(self.text) :]
        return self._encoded(rest) if rest else ()

    def _encoded(self, rest: bytes) -> Sequence[int]:
        """Ids of bytes that begin inside a line; none where these are no text or the tokenizer would change them."""
        vocabulary = self.frame.vocabulary
        try:
            ids = vocabulary.tokenizer.encode_continued(rest.decode())
        except UnicodeDecodeError:
            return ()
        return ids if b"".join(vocabulary.bytes_of[id] for id in ids) == rest else ()

    @property
    def complete(self) -> bool:
        """Whether the diff may end here: at a line start, with a change in its last hunk."""
        return self.mode is Mode.LINE and not self.text and self.changed

    def diff(self) -> str:
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

    # The header: numbers are the model's, but only a hint where the hunk's first line stands more than once.

    def _allowed_in_header(self) -> Sequence[int]:
        vocabulary = self.frame.vocabulary
        found = list(vocabulary.digits) if self._digit_may_follow() else []
        for target in self._header_targets():
            found += vocabulary.heads(target)
        return tuple(found)

    def _numbers(self) -> list[bytes]:
        return re.findall(rb"\d+", self.text)

    def _digit_may_follow(self) -> bool:
        return self.text[-1:] in (b"-", b"+", b",") or (self.text[-1:].isdigit() and len(self._numbers()[-1]) < 4)

    def _header_targets(self) -> list[bytes]:
        text = self.text
        for opening in (b" @@ -", b"@@ -"):  # the seed format puts a blank between <DFF> and the first header
            if opening.startswith(text) and (self.hunks or opening[0] == 32 or text):
                return [opening[len(text) :]]
        if text.endswith(b"@@") and text.count(b"@@") == 2:
            return [b"\n"]
        if not text[-1:].isdigit():
            tail = re.search(rb"( \+?| @?@?)\Z", text)
            closing = b" @@" if b"+" in text else b" +"
            return [closing[len(tail.group()) :]] if tail and closing.startswith(tail.group()) else []
        last = re.search(rb"([-+]\d+)(,\d+)?\Z", text)
        closing = b" @@" if b"+" in text else b" +"
        return [closing] if last is None or last[2] else [b",", closing]

    def _forced_header(self) -> bytes:
        if not self._digit_may_follow() and len(targets := self._header_targets()) == 1:
            return targets[0]
        return b""

    # Lines.

    def _targets(self) -> list[bytes]:
        """The texts of which the line under way must become one; added lines aside."""
        lines, found = self.frame.lines, []
        places = range(self.floor, len(lines)) if self.at is None else range(self.at, min(self.at + 1, len(lines)))
        for sign in self._signs():
            found += [sign + lines[place] + b"\n" for place in places]
        if self.at is not None and self.changed and self.at < len(lines):
            found.append(b"@@ -")
        return found

    def _signs(self) -> tuple[bytes, ...]:
        """The signs a line of the document may have: it is kept only while a diff would show it as context."""
        most = 2 * CONTEXT if self.changed else CONTEXT
        return (b" ", b"-") if self.since < most else (b"-",)

    def _may_add(self) -> bool:
        if self.added >= self.frame.max_added:
            return False
        # A hunk that begins with an added line has a place only at the very start.
        return self.at is not None or (not self.hunks and (self.hint <= 1 or not self.frame.lines))

    def _feed(self, byte: bytes) -> DiffState:
        if byte != b"\n":
            if self.mode is Mode.LINE and not self.text and byte == b"+":
                return replace(self, mode=Mode.ADDED, text=byte)
            state = replace(self, text=self.text + byte)
            return state._new_hunk() if self.mode is Mode.LINE and state.text == b"@@ -" else state
        if self.mode is Mode.HEADER:
            numbers = self._numbers()
            return replace(self, mode=Mode.LINE, text=b"", hint=int(numbers[0]) if numbers else 0)
        return self._added() if self.mode is Mode.ADDED else self._document_line()

    def _new_hunk(self) -> DiffState:
        assert self.at is not None
        hunks = (*self.hunks, (self.start, self.body))
        return replace(self, mode=Mode.HEADER, hunks=hunks, floor=self.at, at=None, body=(), since=0, changed=False)

    def _added(self) -> DiffState:
        at = 0 if self.at is None else self.at
        return replace(self, mode=Mode.LINE, text=b"", at=at, since=0, changed=True, added=self.added + 1,
                       body=(*self.body, self.text), start=self.start if self.at is not None else at)

    def _document_line(self) -> DiffState:
        sign, line = self.text[:1], self.text[1:]
        place = self.at
        if place is None:
            places = [index for index in range(self.floor, len(self.frame.lines)) if self.frame.lines[index] == line]
            place = min(places, key=lambda index: abs(index + 1 - self.hint))
        removed = sign == b"-"
        return replace(
            self, text=b"", at=place + 1, start=place if self.at is None else self.start, body=(*self.body, self.text),
            changed=self.changed or removed, since=0 if removed else self.since + 1,
        )


def diff(tokenizer: Tokenizer, lines: Sequence[str], ends: Iterable[int], max_added: int = 200) -> DiffState:
    """The state before a diff of a document of these lines, given without their line ends.

    Args:
        ends: ids by which the model says that the diff is done.
        max_added: most lines that may be added.
    """
    document = tuple(line.encode() for line in lines)
    return DiffState(Frame(vocabulary(tokenizer), document, ends, max_added))
