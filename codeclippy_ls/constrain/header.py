"""State of a partial hunk header: ``@@ -start,count +start,count @@``.

The model writes the old start and both counts; they help it to plan, and the old start is a hint if the hunk's lines
occur more than once. The new start follows from the hunks before. None of them reaches the diff, whose headers are
computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from codeclippy_ls.constrain.edit_script import CONTEXT
from codeclippy_ls.constrain.vocabulary import Vocabulary

OPENING = b"@@ -"
_MAX_COUNT = 999


@dataclass(frozen=True, slots=True)
class Header:
    """Position of the next byte in a header.

    Attributes:
        pending: fixed text that must come next; if it is empty, a number is being written.
        digits: of that number.
        numbers: the finished ones: old start, old count, new count.
        low, high: limits of the old start.
        shift: added less removed lines of the hunks before.
    """

    pending: bytes
    low: int
    high: int
    shift: int
    digits: bytes = b""
    numbers: tuple[int, ...] = ()

    @property
    def is_finished(self) -> bool:
        """True after the header's line end."""
        return len(self.numbers) == 3 and not self.pending

    @property
    def start(self) -> int:
        """Old start of the hunk, from 1, as the model wrote it."""
        return self.numbers[0]

    def get_allowed_tokens(self, vocabulary: Vocabulary) -> tuple[int, ...]:
        """Return ids that may come next."""
        if self.pending:
            return tuple(vocabulary.find_prefixes(self.pending))
        found = [id for id in vocabulary.digit_ids if self._can_become(self.digits + vocabulary.token_bytes[id])]
        if self.digits and self._is_valid(int(self.digits)):
            found += vocabulary.find_prefixes(self._get_terminator())
        return tuple(found)

    def get_forced_tokens(self, vocabulary: Vocabulary) -> Sequence[int]:
        """Return the fixed text that comes next, also after a number that cannot grow any more."""
        if self.pending:
            return vocabulary.encode(self.pending) or ()
        grows = any(self._can_become(self.digits + b"%d" % digit) for digit in range(10))
        return () if grows else vocabulary.encode(self._get_terminator()) or ()

    def advance(self, data: bytes) -> Header:
        """Return the header after a token's bytes."""
        if self.pending:
            return replace(self, pending=self.pending[len(data) :])
        if data.isdigit():
            return replace(self, digits=self.digits + data)
        pending = self._get_terminator()[len(data) :]
        return replace(self, pending=pending, digits=b"", numbers=(*self.numbers, int(self.digits)))

    def predict(self, lines: int) -> bytes:
        """Predict the rest of a header for one changed line with its context, in a document of ``lines`` lines."""
        if self.pending or not self.numbers:
            return b""
        header, text = self, b""
        while not header.is_finished and len(text) < 40:
            data = header.pending or (
                header._get_terminator() if header.digits else b"%d" % header._predict_count(lines)
            )
            header, text = header.advance(data), text + data
        return text

    def _predict_count(self, lines: int) -> int:
        """Predict the count of a hunk that replaces one line, within the document."""
        above = min(CONTEXT, self.start - 1)
        return max(min(above + 1 + CONTEXT, lines - self.start + 1), 1) if len(self.numbers) == 1 else self.numbers[1]

    def _get_limits(self) -> tuple[int, int]:
        if not self.numbers:
            return self.low, self.high
        return 0, self.high - self.start + 1 if len(self.numbers) == 1 else _MAX_COUNT

    def _is_valid(self, number: int) -> bool:
        low, high = self._get_limits()
        return low <= number <= high

    def _can_become(self, digits: bytes) -> bool:
        """Return whether a number that begins with these digits can be within its limits."""
        low, high = self._get_limits()
        if digits[:1] == b"0":
            return digits == b"0" and low == 0
        number, span = int(digits), 1
        while number <= high:
            if number + span > low:
                return True
            number, span = number * 10, span * 10
        return False

    def _get_terminator(self) -> bytes:
        """Return the text after the number."""
        if not self.numbers:
            return b","
        if len(self.numbers) == 2:
            return b" @@\n"
        count = int(self.digits)
        # A side without lines is numbered by the line before.
        return b" +%d," % max(self.start + self.shift + (count == 0), 0)
