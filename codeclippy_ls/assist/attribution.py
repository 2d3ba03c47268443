"""Whether a text copies a passage of what the shipped model was trained on, and from which package.

The filter beside the weights holds a sample of the corpus's windows of lexemes (words, numbers, single signs; blanks do
not count): those whose hash is divisible by a number, as sixteen bits of the hash and a package. A window that several
packages share is nobody's and is not held. ``training.attribution`` writes the file; the format stands here.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

MAGIC = b"codeclippy copies 1\n"
WINDOW = 30  # lexemes: two to four lines; shorter ones are idioms
DISTINCT = 10  # lexemes that a window must at least hold: tables and rulers are nobody's
BASE = 0x9E3779B97F4A7C15  # of the polynomial over a window's lexemes
MASK = 2**64 - 1
_LEXEME = re.compile(r"\w+|[^\w\s]")


def lexemes(text: str) -> list[str]:
    """The text without its blanks."""
    return _LEXEME.findall(text)


@lru_cache(1 << 16)
def number_of(lexeme: str) -> int:
    """A lexeme as 64 bits."""
    return int.from_bytes(hashlib.blake2b(lexeme.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hash_of(numbers: Sequence[int]) -> int:
    """A window's hash: the polynomial of its lexemes' numbers modulo 2**64, mixed as splitmix64 does at its end."""
    total = 0
    for number in numbers:
        total = (total * BASE + number) & MASK
    total = ((total ^ (total >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    total = ((total ^ (total >> 27)) * 0x94D049BB133111EB) & MASK
    return total ^ (total >> 31)


class Copies:
    """A filter file in memory.

    After the magic line: a JSON line (``keep``: the number that divides the kept hashes; ``bits``: how many bits of a
    quotient choose the bucket; ``packages``: names), then little-endian arrays: where buckets start (uint32), the next
    sixteen bits of the quotients, sorted in their bucket (uint16), and the packages' numbers (uint16).

    Raises:
        ValueError: it is no such file.
    """

    def __init__(self, content: bytes) -> None:
        if not content.startswith(MAGIC):
            raise ValueError("no filter of copies")
        end = content.index(b"\n", len(MAGIC)) + 1
        about = json.loads(content[len(MAGIC) : end])
        self.keep: int = about["keep"]
        self.packages: list[str] = about["packages"]
        self._shift = 64 - about["bits"]
        buckets = (1 << about["bits"]) + 1
        self._starts = _array("I", content[end : end + 4 * buckets])
        rest = content[end + 4 * buckets :]
        if self._starts[-1] * 4 != len(rest):
            raise ValueError("the filter of copies is cut off")
        self._remainders = _array("H", rest[: len(rest) // 2])
        self._owners = _array("H", rest[len(rest) // 2 :])

    def __len__(self) -> int:
        return len(self._remainders)

    def source(self, text: str) -> str:
        """The package that a passage of the text stands in, or nothing."""
        for hashed in self._sampled(lexemes(text)):
            bucket, remainder = hashed >> self._shift, hashed >> (self._shift - 16) & 0xFFFF
            low, high = self._starts[bucket], self._starts[bucket + 1]
            at = bisect_left(self._remainders, remainder, low, high)
            if at < high and self._remainders[at] == remainder:
                return self.packages[self._owners[at]]
        return ""

    def _sampled(self, found: list[str]) -> Iterator[int]:
        numbers = [number_of(lexeme) for lexeme in found]
        for start in range(len(found) - WINDOW + 1):
            hashed = hash_of(numbers[start : start + WINDOW])
            if hashed % self.keep == 0 and len(set(found[start : start + WINDOW])) >= DISTINCT:
                yield hashed


def _array(kind: str, content: bytes) -> array[int]:
    values = array(kind)
    values.frombytes(content)
    if sys.byteorder == "big":
        values.byteswap()
    return values


@lru_cache(1)
def shipped(folder: Path) -> Copies | None:
    """The filter beside a model's weights, read once; ``None`` where there is none."""
    file = folder / "copies.bin"
    return Copies(file.read_bytes()) if file.is_file() else None
