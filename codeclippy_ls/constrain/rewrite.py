"""Drafts of lines that are written anew: unchanged text is guessed from the old lines and checked in one pass.

Nothing is forbidden. The state follows the old lines beside the answer: as long as both agree, the rest of the old
lines is the draft. Behind a change it looks for the place where they agree again: a pair of tokens that occurs in the
old lines, or, at a line's start, the old line after the one that was replaced, or the same one after an insertion.
Knows token ids and their bytes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from codeclippy_ls.constrain.vocabulary import ConstraintTokenizer

_NGRAM = 2  # tokens that must agree before the rest of a changed line is guessed
_MAX_LINE = 400  # bytes of a line that are compared
_REACH = 400  # tokens of the old lines that are searched behind a change


class OldTokens:
    """The tokens of the old lines, with what is known of them; never changes.

    Args:
        ids: of all the old lines.
        token_bytes: the bytes of each id of the vocabulary.
    """

    def __init__(self, ids: Sequence[int], token_bytes: Sequence[bytes]) -> None:
        self.ids = tuple(ids)
        self.token_bytes = token_bytes
        self.lines: list[bytes] = []
        self.line_of: list[int] = []  # of each token: the line that it begins in
        self._starts: dict[int, int] = {}  # by line: the token that it begins with, if one begins there
        self._places: dict[tuple[int, ...], list[int]] = {}
        self._index()

    def _index(self) -> None:
        line, begins = 0, True
        texts = [self.token_bytes[id] for id in self.ids]
        for at, data in enumerate(texts):
            if begins:
                self._starts[line] = at
            self.line_of.append(line)
            line += data.count(b"\n")
            begins = data.endswith(b"\n")
            if at + 1 >= _NGRAM:
                self._places.setdefault(self.ids[at + 1 - _NGRAM : at + 1], []).append(at + 1)
        self.lines = b"".join(texts).split(b"\n")

    def find_line_start(self, line: int) -> int | None:
        """Return the first token of a line, or of the next line that a token begins with."""
        return next((self._starts[number] for number in range(line, line + 3) if number in self._starts), None)

    def find_after(self, ngram: tuple[int, ...], at: int) -> int | None:
        """Return the place after an n-gram: the first one behind ``at``, else the last one before it."""
        places = self._places.get(ngram, ())
        behind = next((place for place in places if at < place <= at + _REACH), None)
        return behind if behind is not None else next((place for place in reversed(places) if place <= at), None)


@dataclass(frozen=True, slots=True)
class RewriteState:
    """Place of the answer beside the old lines.

    Attributes:
        at: the old token that probably comes next; ``None`` within a change.
        lost_at: the old token at which the answer began to differ.
        recent: the last tokens of the answer since then.
        text: the bytes of the answer's current line.
    """

    old: OldTokens
    at: int | None = 0
    lost_at: int = 0
    recent: tuple[int, ...] = ()
    text: bytes = b""

    def get_allowed_tokens(self) -> Sequence[int] | None:
        """Return None: all ids may come next."""
        return None

    def get_choice_groups(self) -> Sequence[tuple[Sequence[int], int | None]]:
        """Return nothing: each id stands for itself."""
        return ()

    def get_substitutions(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return nothing: no id is forbidden."""
        return (), ()

    def get_forced_tokens(self) -> Sequence[int]:
        """Return nothing: no id is the only one that can follow."""
        return ()

    def draft(self, limit: int) -> Sequence[int]:
        """Return the old tokens that follow, if the answer agrees with them here."""
        return self.old.ids[self.at : self.at + limit] if self.at is not None else ()

    def advance(self, token_id: int) -> RewriteState:
        """Return the state after a token."""
        table = self.old.token_bytes
        data = table[token_id] if token_id < len(table) else b""
        head, newline, tail = data.rpartition(b"\n")
        text = tail if newline else (self.text + data)[:_MAX_LINE]
        if self.at is not None and self.at < len(self.old.ids) and self.old.ids[self.at] == token_id:
            return replace(self, at=self.at + 1, recent=(), text=text)
        lost_at = self.lost_at if self.at is None or self.recent else self.at
        recent = (*self.recent, token_id)[-_NGRAM:]
        if newline and not tail:
            written = (self.text + head).rpartition(b"\n")[2]
            at = self._find_next_line(written, lost_at)
            return replace(self, at=at, lost_at=lost_at if at is None else at, recent=recent, text=b"")
        found = self.old.find_after(recent, lost_at) if len(recent) == _NGRAM else None
        return replace(self, at=found, lost_at=lost_at, recent=recent, text=text)

    def _find_next_line(self, written: bytes, lost_at: int) -> int | None:
        """Return the first token of the old line that probably follows a written one."""
        lines = self.old.lines
        line = self.old.line_of[lost_at] if lost_at < len(self.old.line_of) else len(lines) - 1
        stripped = written.strip()
        if stripped:
            same = next((at for at in range(line, min(line + 40, len(lines))) if lines[at].strip() == stripped), None)
            if same is not None:
                return self.old.find_line_start(same + 1)
        return self.old.find_line_start(line + 1 if _is_alike(written, lines[line]) else line)


def _is_alike(one: bytes, other: bytes) -> bool:
    """Return whether a line probably replaces another one: half of the longer one begins or ends both."""
    one, other = one.strip(), other.strip()
    size = min(len(one), len(other))
    head = next((at for at in range(size) if one[at] != other[at]), size)
    tail = next((at for at in range(size - head) if one[-1 - at] != other[-1 - at]), size - head)
    return 2 * (head + tail) >= max(len(one), len(other)) > 0


def rewrite_constraint(tokenizer: ConstraintTokenizer, lines: Sequence[str]) -> RewriteState:
    """Return the start state of an answer that writes lines anew."""
    ids = tokenizer.encode_continuation("".join(line + "\n" for line in lines))
    return RewriteState(OldTokens(ids, tokenizer.token_bytes))
