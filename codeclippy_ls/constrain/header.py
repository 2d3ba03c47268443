"""The header of a hunk in the making: ``@@ -start,count +start,count @@``.

The model writes the old start and both counts; they help it to plan, and the old start is a hint where its lines stand
more than once. The new start follows from what was done before. None of them reaches the diff, whose headers are
written from what was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from codeclippy_ls.constrain.edit_script import CONTEXT
from codeclippy_ls.constrain.vocabulary import Vocabulary

OPENING = b"@@ -"
_MOST_COUNT = 999


@dataclass(frozen=True, slots=True)
class Header:
    """Where in a header the next byte stands.

    Attributes:
        due: fixed text that must come next; where it is empty, a number is being written.
        digits: of that number.
        numbers: those that were written: the old start, the old count, the new count.
        low, high: limits of the old start.
        shift: lines that the hunks before have added, less those they have removed.
    """

    due: bytes
    low: int
    high: int
    shift: int
    digits: bytes = b""
    numbers: tuple[int, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the header's line has ended."""
        return len(self.numbers) == 3 and not self.due

    @property
    def start(self) -> int:
        """The line, from 1, at which the model puts the hunk."""
        return self.numbers[0]

    def get_allowed_tokens(self, vocabulary: Vocabulary) -> tuple[int, ...]:
        """Ids that may come next."""
        if self.due:
            return tuple(vocabulary.heads(self.due))
        found = [id for id in vocabulary.digits if self._may_become(self.digits + vocabulary.token_bytes[id])]
        if self.digits and self._whole(int(self.digits)):
            found += vocabulary.heads(self._closing())
        return tuple(found)

    def get_forced_tokens(self, vocabulary: Vocabulary) -> Sequence[int]:
        """The fixed text that comes next, also where a number cannot grow any more."""
        if self.due:
            return vocabulary.encoded(self.due) or ()
        grows = any(self._may_become(self.digits + b"%d" % digit) for digit in range(10))
        return () if grows else vocabulary.encoded(self._closing()) or ()

    def advance(self, data: bytes) -> Header:
        """The header after a token's bytes."""
        if self.due:
            return replace(self, due=self.due[len(data) :])
        if data.isdigit():
            return replace(self, digits=self.digits + data)
        due = self._closing()[len(data) :]
        return replace(self, due=due, digits=b"", numbers=(*self.numbers, int(self.digits)))

    def guess(self, lines: int) -> bytes:
        """The rest of a header about one changed line with its context, in a document of so many lines."""
        if self.due or not self.numbers:
            return b""
        header, text = self, b""
        while not header.finished and len(text) < 40:
            data = header.due or (header._closing() if header.digits else b"%d" % header._usual(lines))
            header, text = header.advance(data), text + data
        return text

    def _usual(self, lines: int) -> int:
        """The count of a hunk that replaces one line, as far as the document goes."""
        above = min(CONTEXT, self.start - 1)
        return max(min(above + 1 + CONTEXT, lines - self.start + 1), 1) if len(self.numbers) == 1 else self.numbers[1]

    def _limits(self) -> tuple[int, int]:
        if not self.numbers:
            return self.low, self.high
        return 0, self.high - self.start + 1 if len(self.numbers) == 1 else _MOST_COUNT

    def _whole(self, number: int) -> bool:
        low, high = self._limits()
        return low <= number <= high

    def _may_become(self, digits: bytes) -> bool:
        """Whether a number that begins with these digits lies within its limits."""
        low, high = self._limits()
        if digits[:1] == b"0":
            return digits == b"0" and low == 0
        number, span = int(digits), 1
        while number <= high:
            if number + span > low:
                return True
            number, span = number * 10, span * 10
        return False

    def _closing(self) -> bytes:
        """What follows the number."""
        if not self.numbers:
            return b","
        if len(self.numbers) == 2:
            return b" @@\n"
        count = int(self.digits)
        # A side without lines is numbered by the line before.
        return b" +%d," % max(self.start + self.shift + (count == 0), 0)
