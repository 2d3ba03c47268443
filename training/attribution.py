"""Build the index that detects suggestions copied from the corpus, and measure how often it matches.

`codeclippy_ls.assist.attribution` documents the format. NumPy computes the hashes of all n-grams of a file, one lexeme
of the n-gram at a time; they equal those of the server (a test compares them). N-grams that occur in three or more
packages are excluded.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codeclippy_ls.assist.attribution import BASE, MAGIC, WINDOW, AttributionIndex, hash_lexeme, split_lexemes

HERE = Path(__file__).resolve().parent
MIN_COMMON_PACKAGES = 3  # an n-gram in this many packages belongs to none of them
BITS = 14
Hashes = NDArray[np.uint64]


def hash_ngrams(text: str) -> Hashes:
    """Hash every n-gram of a text."""
    numbers = np.array([hash_lexeme(lexeme) for lexeme in split_lexemes(text)], dtype=np.uint64)
    count = len(numbers) - WINDOW + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    total = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for at in range(WINDOW):
            total = total * np.uint64(BASE) + numbers[at : at + count]
        total = (total ^ (total >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        total = (total ^ (total >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Hashes = total ^ (total >> np.uint64(31))
    return found


def sample_hashes(
    files: Iterable[dict[str, str]], keep: int, packages: dict[str, int]
) -> tuple[Hashes, NDArray[np.uint16]]:
    """Return one in `keep` of the hashes and the numbers of their packages, as sorted unique pairs."""
    hashes, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint16)]
    for file in files:
        found = hash_ngrams(file["text"])
        found = found[found % np.uint64(keep) == 0]
        hashes.append(found)
        owners.append(np.full(len(found), packages.setdefault(file["package"], len(packages)), np.uint16))
    every, owner = np.concatenate(hashes), np.concatenate(owners)
    order = np.lexsort((owner, every))
    every, owner = every[order], owner[order]
    first = np.ones(len(every), bool)
    first[1:] = (every[1:] != every[:-1]) | (owner[1:] != owner[:-1])
    return every[first], owner[first]


def build_index(files: Iterable[dict[str, str]], keep: int) -> bytes:
    """Build the content of the index file."""
    packages: dict[str, int] = {}
    hashes, owners = sample_hashes(files, keep, packages)
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    chosen = first[counts < MIN_COMMON_PACKAGES]
    hashes, owners = hashes[chosen], owners[chosen]
    buckets = (hashes >> np.uint64(64 - BITS)).astype(np.int64)
    starts = np.searchsorted(buckets, np.arange((1 << BITS) + 1)).astype("<u4")
    remainders = (hashes >> np.uint64(64 - BITS - 16) & np.uint64(0xFFFF)).astype("<u2")
    about = json.dumps({"keep": keep, "bits": BITS, "packages": list(packages)}).encode() + b"\n"
    return MAGIC + about + starts.tobytes() + remainders.tobytes() + owners.astype("<u2").tobytes()


def iter_files(corpus: Path) -> Iterator[dict[str, str]]:
    """Iterate over the files of a corpus."""
    with corpus.open() as lines:
        yield from map(json.loads, lines)


def draw_passages(corpus: Path, length: int, count: int, seed: int = 1) -> list[str]:
    """Draw passages of `length` lexemes from random files of the corpus."""
    lines = corpus.read_bytes().splitlines()
    rng, found = random.Random(seed), list[str]()
    while len(found) < count:
        words = split_lexemes(json.loads(rng.choice(lines))["text"])
        if len(words) >= length:
            start = rng.randrange(len(words) - length + 1)
            found.append(" ".join(words[start : start + length]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--to", type=Path, default=HERE.parent / "codeclippy_ls" / "model" / "copies.bin")
    parser.add_argument("--keep", type=int, default=64, help="keep one n-gram in this many")
    options = parser.parse_args()
    train, valid = options.work / "corpus" / "train.jsonl", options.work / "corpus" / "valid.jsonl"
    options.to.write_bytes(build_index(iter_files(train), options.keep))
    copies = AttributionIndex(options.to.read_bytes())
    print(f"{len(copies)} windows of {len(copies.packages)} packages in {options.to.stat().st_size} bytes")
    for length in (40, 60, 100, 200):
        seen, new = (
            sum(bool(copies.find_source(text)) for text in draw_passages(part, length, 500)) for part in (train, valid)
        )
        print(f"of 500 passages of {length} lexemes flagged: {seen} of the corpus, {new} of held-out files")


if __name__ == "__main__":
    main()
