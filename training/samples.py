"""Training samples as token ids: continuation, infill and edit, drawn afresh for every use, packed into rows.

The formats are the ones the server builds at inference, segment by segment; a control token is an id, text is encoded
by an encoder without added tokens:

- continuation: text, END
- infill: SUFFIX text PREFIX text MIDDLE text END (suffix first, what the server asks for), and a few with the prefix
  first: PREFIX text SUFFIX text MIDDLE text END
- edit: NAME " name\\n" BEFORE " file" MESSAGE " message\\n" DIFF " hunks" END

Rows come in groups; a group depends on the seed and its number alone, so that groups can be made by several processes
and a run can be resumed by a number. Knows nothing of models.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.edits import EditSample
from training.tokenizer import BEFORE, DIFF, END, MESSAGE, MIDDLE, NAME, PREFIX, SUFFIX, load_plain_tokenizer

Encode = Callable[[str], list[int]]
PSM_SHARE = 0.1  # of the infills: other programs ask in that order; the server does not
ROWS_PER_GROUP = 48  # about so many rows are packed together: enough that few gaps are left
ANSWER_WEIGHT = 3.0  # the middle and the hunks are what the server asks for; all other text counts 1
CHARACTERS_PER_TOKEN = 3.3  # low, so that most windows fit at the first try


@dataclass(frozen=True)
class Sample:
    """Token ids and the index at which the answer (the middle or the hunks) begins; 0 where all is answer."""

    ids: tuple[int, ...]
    answer_start: int


@dataclass(frozen=True)
class Row:
    """Samples back to back: ids, and for each id how much its prediction counts (0 for padding)."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]


def load_encoder(folder: Path) -> Encode:
    """Text to ids, by the tokenizer in a folder, never to a control token."""
    tokenizer = load_plain_tokenizer(folder)
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def make_continuation(encode: Encode, text: str) -> Sample:
    """Text and its end."""
    return Sample((*encode(text), END), 0)


def make_spm_infill(encode: Encode, prefix: str, middle: str, suffix: str) -> Sample:
    """Suffix first: while one types, only the end of the prompt is new."""
    prompt = (SUFFIX, *encode(suffix), PREFIX, *encode(prefix), MIDDLE)
    return Sample((*prompt, *encode(middle), END), len(prompt))


def make_psm_infill(encode: Encode, prefix: str, middle: str, suffix: str) -> Sample:
    """The other common order."""
    prompt = (PREFIX, *encode(prefix), SUFFIX, *encode(suffix), MIDDLE)
    return Sample((*prompt, *encode(middle), END), len(prompt))


def make_edit(encode: Encode, name: str, before: str, message: str, diff: str) -> Sample:
    """The format of the seed's diff models, with a final newline in every segment."""
    before = before if before.endswith("\n") else before + "\n"
    prompt = (NAME, *encode(f" {name}\n"), BEFORE, *encode(f" {before}"), MESSAGE, *encode(f" {message}\n"), DIFF)
    return Sample((*prompt, *encode(f" {diff}"), END), len(prompt))


def find_line_start(text: str, offset: int) -> int:
    """Where the line that holds the offset begins."""
    return text.rfind("\n", 0, offset) + 1


def find_line_end(text: str, offset: int) -> int:
    """The end of the line that holds the offset, before its newline."""
    end = text.find("\n", offset)
    return len(text) if end < 0 else end


def draw_cursor_span(text: str, rng: random.Random) -> tuple[int, int]:
    """A span as an editor's cursor meets it: mostly the rest of a line, at a place where one would stop typing."""
    at = rng.randrange(len(text))
    start, end = find_line_start(text, at), find_line_end(text, at)
    indent = start + len(text[start:end]) - len(text[start:end].lstrip())
    choice = rng.random()
    # More than half of the ends of lines in a middle must be its end, or a model this small hardly ever stops there:
    # after 11 million tokens with 45 % of the spans the rest of a line, the end token came first in 21 % of the places
    # where it was due.
    if choice < 0.66:  # the rest of the line, from the indentation, a boundary of words, or anywhere
        stops = [
            m.start() + start
            for m in re.finditer(r"(?<=[\s(\[.,=:{])|\b", text[start:end])
            if m.start() + start >= indent
        ]
        stops = [stop for stop in stops if stop < end] if rng.random() < 0.9 else stops
        return (rng.choice(stops or [at]) if rng.random() < 0.75 else rng.randint(min(indent, end), end)), end
    if choice < 0.73:  # the rest of the line and some more lines
        return rng.randint(min(indent, end), end), find_line_end(text, move_down(text, end, rng.randint(1, 4)))
    if choice < 0.82:  # whole lines, with or without the indentation of the first
        last = move_down(text, end, rng.choice([0, 0, 0, 1, 2]))
        return (start if rng.random() < 0.3 else indent), find_line_end(text, last)
    if choice < 0.88:  # inside brackets
        found = re.search(r"[(\[{]([^()\[\]{}]{1,80})[)\]}]", text[at : at + 400])
        return (at + found.start(1), at + found.end(1)) if found else (at, end)
    if choice < 0.94:  # a block that is indented deeper than its head
        return find_block(text, start) or (indent, end)
    return at, min(len(text), at + rng.randint(1, 120))


def move_down(text: str, offset: int, count: int) -> int:
    """An offset in the line `count` lines below."""
    for _ in range(count):
        offset = min(len(text), find_line_end(text, offset) + 1)
    return offset


def find_block(text: str, start: int) -> tuple[int, int] | None:
    """The body behind the next line that ends in a colon, at most twelve lines, from the end of that line."""
    head = re.compile(r"^([ \t]*)\S.*:\n", re.M).search(text, start)
    if head is None:
        return None
    body = re.compile(rf"(?:{head.group(1)}[ \t]+\S.*\n|[ \t]*\n){{1,12}}").match(text, head.end())
    return (head.end() - 1, head.end() + len(body.group().rstrip())) if body and body.group().strip() else None


def draw_infill(encode: Encode, text: str, rng: random.Random, most: int) -> Sample | None:
    """A window of a file around a span, so that all of it fits in `most` tokens."""
    budget = int(CHARACTERS_PER_TOKEN * most * rng.choice([0.15, 0.3, 0.5, 0.8, 1.0]))
    start, end = draw_cursor_span(text, rng)
    if end - start > budget // 2 or end < start:
        return None
    rest = budget - (end - start)
    share = rng.choice([0.0, 0.0, 0.1, 0.25, 0.35, 0.5])  # of the room that goes to the suffix; none: the end of a file
    after = text[end : end + int(rest * share)]
    if share == 0.0 and rng.random() < 0.5:  # a file whose last line one is writing ends in a newline or does not
        after = "\n"
    first = max(0, start - (rest - len(after)))
    first = first if first == 0 else min(start, find_line_end(text, first) + 1)
    form = make_psm_infill if rng.random() < PSM_SHARE else make_spm_infill
    found = form(encode, text[first:start], text[start:end], after)
    return found if len(found.ids) <= most else None


@dataclass(frozen=True)
class SampleSource:
    """What samples are drawn from."""

    files: Sequence[str]
    edits: Sequence[EditSample]
    encode: Encode
    cumulative_lengths: Sequence[int]  # running total of the files' lengths: a place in the corpus is drawn evenly

    def draw_sample(self, kind: str, number: int, seed: int, most: int) -> Sample | None:
        """Sample `number` of a kind, at most `most` tokens long; None where this draw does not fit."""
        rng = random.Random(f"{seed}/{kind}/{number}")
        if kind == "edit":
            one = self.edits[permute_index(number, len(self.edits), seed)]
            found = make_edit(self.encode, one.name, one.before, one.message, one.diff)
            return found if len(found.ids) <= most else None
        text = self.files[bisect_right(self.cumulative_lengths, rng.randrange(self.cumulative_lengths[-1]))]
        if kind == "infill":
            return draw_infill(self.encode, text, rng, most)
        start = 0 if rng.random() < 0.3 else find_line_start(text, rng.randrange(len(text)))
        ids = self.encode(text[start : start + int(most * 4.5)])[: rng.randint(most // 3, most - 1)]
        return Sample((*ids, END), 0)


def permute_index(number: int, size: int, seed: int) -> int:
    """The place of `number` in an order that visits everything once per epoch."""
    epoch, at = divmod(number, size)
    step = next(s for s in range(size // 3 + 7919 * (epoch + seed + 1), 2**40) if np.gcd(s, size) == 1)
    return (at * step + epoch) % size


Mixture = Mapping[str, float]  # kind to its share of the tokens


def make_group(source: SampleSource, width: int, seed: int, mixture: Mixture, number: int) -> list[Row]:
    """The rows of a group: samples packed first-fit by falling length, whole.

    An answer never loses its document to the edge of a row. The gap at the end of a row is padding, a few percent.
    """
    wanted = ROWS_PER_GROUP * width
    first = number * wanted  # more than the samples of the groups before: no sample is drawn twice
    edits = number * int(wanted * mixture.get("edit", 0) / MIN_EDIT_TOKENS)
    taken: list[Sample] = []
    counts = dict.fromkeys(mixture, 0)
    for drawn in range(wanted):
        if sum(counts.values()) >= wanted:
            break
        kind = max(mixture, key=lambda k: mixture[k] * (sum(counts.values()) + 1) - counts[k])
        edits += kind == "edit"
        found = source.draw_sample(kind, edits if kind == "edit" else first + drawn, seed, width)
        if found is not None:
            taken.append(found)
            counts[kind] += len(found.ids)
    packed = pack_samples(taken, width)
    random.Random(f"{seed}/{number}").shuffle(packed)
    return packed


MIN_EDIT_TOKENS = 100  # edits per group are numbered by this bound on their mean length, failed draws included


def iter_rows(
    source: SampleSource, width: int, seed: int, start: int, mixture: Mixture, processes: int = 0
) -> Iterator[tuple[Row, int]]:
    """Rows without end from group `start` on, each with the number of the group from which a later run may go on.

    With `processes` groups are made ahead, in the same order.
    """
    make = partial(make_group, source, width, seed, mixture)
    groups = (
        map(make, count(start)) if not processes else prefetch_groups(source, width, seed, start, mixture, processes)
    )
    for number, found in enumerate(groups, start):
        yield from ((row, number + 1) for row in found)


def prefetch_groups(
    source: SampleSource, width: int, seed: int, start: int, mixture: Mixture, processes: int
) -> Iterator[list[Row]]:
    """Groups in order, made by forked processes that share the corpus in memory."""
    global _SHARED
    _SHARED = (source, width, seed, mixture)
    pool = multiprocessing.get_context("fork").Pool(processes)
    waiting = deque(pool.apply_async(_make_shared_group, (number,)) for number in range(start, start + 2 * processes))
    try:
        for number in count(start + 2 * processes):
            yield waiting.popleft().get()
            waiting.append(pool.apply_async(_make_shared_group, (number,)))
    finally:
        pool.terminate()


_SHARED: tuple[SampleSource, int, int, Mixture]  # set before the fork: a corpus is not sent, but inherited


def _make_shared_group(number: int) -> list[Row]:
    source, width, seed, mixture = _SHARED
    return make_group(source, width, seed, mixture, number)


def pack_samples(samples: Sequence[Sample], width: int) -> list[Row]:
    """Whole samples into as few rows as first-fit by falling length finds."""
    bins: list[list[Sample]] = []
    room: list[int] = []
    for sample in sorted(samples, key=lambda s: -len(s.ids)):
        at = next((i for i, free in enumerate(room) if free >= len(sample.ids)), len(bins))
        if at == len(bins):
            bins.append([])
            room.append(width)
        bins[at].append(sample)
        room[at] -= len(sample.ids)
    return [make_row(samples, width) for samples in bins]


def make_row(samples: Sequence[Sample], width: int) -> Row:
    """Samples back to back, padded with END. Padding and the first id of a sample, which follows nothing, count 0."""
    ids = np.full(width, END, dtype=np.int64)
    weights = np.zeros(width, dtype=np.float32)
    at = 0
    for sample in samples:
        length = len(sample.ids)
        ids[at : at + length] = sample.ids
        weights[at + 1 : at + length] = 1.0
        if sample.answer_start:
            weights[at + sample.answer_start : at + length] = ANSWER_WEIGHT
        at += length
    return Row(ids, weights)


def load_source(work: Path, part: str = "train") -> SampleSource:
    """The corpus and the edits of a part, with the tokenizer of the work folder."""
    with (work / "corpus" / f"{part}.jsonl").open() as lines:
        files = [text for text in (json.loads(line)["text"] for line in lines) if text.strip()]
    with (work / "edits" / f"{part}.jsonl").open() as lines:
        edits = [EditSample(**json.loads(line)) for line in lines]
    return SampleSource(files, edits, load_encoder(work / "tokenizer"), list(accumulate(map(len, files))))
