"""Find out whether a text copies code that the shipped model was trained on, and from which package.

The index beside the weights holds a sample of the training corpus's windows of lexemes (words, numbers, single
punctuation characters; whitespace does not count): those whose hash is divisible by ``keep``, as sixteen bits of the
hash and a package. Windows that several packages share cannot be attributed and are excluded. ``training.attribution``
writes the file; its format is defined here.
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

from codeclippy_ls.inference.spec import SHIPPED_FOLDER

MAGIC = b"codeclippy copies 1\n"
WINDOW = 30  # lexemes: two to four lines; shorter ones are idioms
MIN_DISTINCT = 10  # different lexemes in a window: tables and rulers cannot be attributed
BASE = 0x9E3779B97F4A7C15  # of the polynomial over a window's lexemes
MASK = 2**64 - 1
_LEXEME = re.compile(r"\w+|[^\w\s]")


def split_lexemes(text: str) -> list[str]:
    """Split a text into lexemes, without its whitespace."""
    return _LEXEME.findall(text)


@lru_cache(1 << 16)
def hash_lexeme(lexeme: str) -> int:
    """Return a lexeme's 64-bit hash."""
    return int.from_bytes(hashlib.blake2b(lexeme.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hash_window(hashes: Sequence[int]) -> int:
    """Hash a window: the polynomial of its lexemes' hashes modulo 2**64, with splitmix64's finalizer."""
    total = 0
    for value in hashes:
        total = (total * BASE + value) & MASK
    total = ((total ^ (total >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    total = ((total ^ (total >> 27)) * 0x94D049BB133111EB) & MASK
    return total ^ (total >> 31)


class AttributionIndex:
    """An index file in memory.

    After the magic line: a JSON line (``keep``: the divisor of the sampled hashes; ``bits``: how many leading bits of
    a hash choose the bucket; ``packages``: names), then little-endian arrays: the buckets' starts (uint32), the
    next sixteen bits of the hashes, sorted within their bucket (uint16), and the packages' numbers (uint16).

    Raises:
        ValueError: the content is not such a file.
    """

    def __init__(self, content: bytes) -> None:
        if not content.startswith(MAGIC):
            raise ValueError("not an attribution index")
        end = content.index(b"\n", len(MAGIC)) + 1
        header = json.loads(content[len(MAGIC) : end])
        self.keep: int = header["keep"]
        self.packages: list[str] = header["packages"]
        self._shift = 64 - header["bits"]
        num_starts = (1 << header["bits"]) + 1
        self._starts = _read_array("I", content[end : end + 4 * num_starts])
        entries = content[end + 4 * num_starts :]
        if self._starts[-1] * 4 != len(entries):
            raise ValueError("the attribution index is truncated")
        self._remainders = _read_array("H", entries[: len(entries) // 2])
        self._packages = _read_array("H", entries[len(entries) // 2 :])

    def __len__(self) -> int:
        return len(self._remainders)

    def find_source(self, text: str) -> str:
        """Return the package that contains a passage of the text, or an empty string."""
        for window_hash in self._sampled_hashes(split_lexemes(text)):
            bucket, remainder = window_hash >> self._shift, window_hash >> (self._shift - 16) & 0xFFFF
            low, high = self._starts[bucket], self._starts[bucket + 1]
            index = bisect_left(self._remainders, remainder, low, high)
            if index < high and self._remainders[index] == remainder:
                return self.packages[self._packages[index]]
        return ""

    def _sampled_hashes(self, lexemes: list[str]) -> Iterator[int]:
        hashes = [hash_lexeme(lexeme) for lexeme in lexemes]
        for start in range(len(lexemes) - WINDOW + 1):
            window_hash = hash_window(hashes[start : start + WINDOW])
            if window_hash % self.keep == 0 and len(set(lexemes[start : start + WINDOW])) >= MIN_DISTINCT:
                yield window_hash


def find_source(text: str) -> str:
    """Return the package of the shipped model's training corpus that a text copies, or an empty string."""
    index = load_index(SHIPPED_FOLDER)
    return index.find_source(text) if index is not None else ""


@lru_cache(1)
def load_index(folder: Path) -> AttributionIndex | None:
    """Load the index beside a model's weights, once; ``None`` if there is no such file."""
    file = folder / "copies.bin"
    return AttributionIndex(file.read_bytes()) if file.is_file() else None


def _read_array(kind: str, content: bytes) -> array[int]:
    values = array(kind)
    values.frombytes(content)
    if sys.byteorder == "big":
        values.byteswap()
    return values
