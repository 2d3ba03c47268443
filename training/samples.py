r"""Draw training samples (continuation, infill, edit) as token ids and pack them into rows.

The formats are those that the server builds at inference, segment by segment. A control token is an id; text is encoded
by a tokenizer without added tokens:

- continuation: text, END
- infill, SPM (suffix first, as the server does): SUFFIX text PREFIX text MIDDLE text END; a few are PSM (prefix first):
  PREFIX text SUFFIX text MIDDLE text END
- edit: NAME " name\n" BEFORE " file" MESSAGE " message\n" DIFF " hunks" END

Every use draws new samples. Rows come in groups. A group depends only on the seed and its number, so that several
processes can make groups, and a run can resume from a number. Knows nothing of models.
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
PSM_SHARE = 0.1  # of the infill samples: other programs use this order, the server does not
ROWS_PER_GROUP = 48  # approximate number of rows packed together: enough to leave few gaps
ANSWER_WEIGHT = 3.0  # loss weight of the middle and of the hunks, which the server asks for; other text has 1
CHARACTERS_PER_TOKEN = 3.3  # low, so that most excerpts fit at the first attempt


@dataclass(frozen=True)
class Sample:
    """Token ids, and the index at which the answer (the middle or the hunks) begins; 0 if all of it is the answer."""

    ids: tuple[int, ...]
    answer_start: int


@dataclass(frozen=True)
class Row:
    """Consecutive samples: ids, and the loss weight of predicting each id (0 for padding)."""

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]


def load_encoder(folder: Path) -> Encode:
    """Load a function that encodes text with the tokenizer of a folder, never to a control token."""
    tokenizer = load_plain_tokenizer(folder)
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def make_continuation(encode: Encode, text: str) -> Sample:
    """Make a sample of text and the end token."""
    return Sample((*encode(text), END), 0)


def make_spm_infill(encode: Encode, prefix: str, middle: str, suffix: str) -> Sample:
    """Make an infill sample in suffix-prefix-middle order: while one types, only the end of the prompt changes."""
    prompt = (SUFFIX, *encode(suffix), PREFIX, *encode(prefix), MIDDLE)
    return Sample((*prompt, *encode(middle), END), len(prompt))


def make_psm_infill(encode: Encode, prefix: str, middle: str, suffix: str) -> Sample:
    """Make an infill sample in prefix-suffix-middle order."""
    prompt = (PREFIX, *encode(prefix), SUFFIX, *encode(suffix), MIDDLE)
    return Sample((*prompt, *encode(middle), END), len(prompt))


def make_edit(encode: Encode, name: str, before: str, message: str, diff: str) -> Sample:
    """Make an edit sample in the format of the diff-codegen models, with a final newline in every segment."""
    before = before if before.endswith("\n") else before + "\n"
    prompt = (NAME, *encode(f" {name}\n"), BEFORE, *encode(f" {before}"), MESSAGE, *encode(f" {message}\n"), DIFF)
    return Sample((*prompt, *encode(f" {diff}"), END), len(prompt))


def find_line_start(text: str, offset: int) -> int:
    """Return the start of the line that contains the offset."""
    return text.rfind("\n", 0, offset) + 1


def find_line_end(text: str, offset: int) -> int:
    """Return the end of the line that contains the offset, before its newline."""
    end = text.find("\n", offset)
    return len(text) if end < 0 else end


def draw_cursor_span(text: str, rng: random.Random) -> tuple[int, int]:
    """Draw a span that an editor would ask for: mostly the rest of a line, from a place where typing may pause."""
    at = rng.randrange(len(text))
    start, end = find_line_start(text, at), find_line_end(text, at)
    indent = start + len(text[start:end]) - len(text[start:end].lstrip())
    choice = rng.random()
    # More than half of the line ends in a middle must be the end of the middle, or a model this small rarely stops
    # there: with 45 % rests of lines, after 11 million tokens, the end token ranked first at 21 % of its positions.
    if choice < 0.66:  # rest of the line, from the indentation, a word boundary, or anywhere
        stops = [
            m.start() + start
            for m in re.finditer(r"(?<=[\s(\[.,=:{])|\b", text[start:end])
            if m.start() + start >= indent
        ]
        stops = [stop for stop in stops if stop < end] if rng.random() < 0.9 else stops
        return (rng.choice(stops or [at]) if rng.random() < 0.75 else rng.randint(min(indent, end), end)), end
    if choice < 0.73:  # rest of the line and more lines
        return rng.randint(min(indent, end), end), find_line_end(text, move_down(text, end, rng.randint(1, 4)))
    if choice < 0.82:  # whole lines, with or without the indentation of the first
        last = move_down(text, end, rng.choice([0, 0, 0, 1, 2]))
        return (start if rng.random() < 0.3 else indent), find_line_end(text, last)
    if choice < 0.88:  # inside brackets
        found = re.search(r"[(\[{]([^()\[\]{}]{1,80})[)\]}]", text[at : at + 400])
        return (at + found.start(1), at + found.end(1)) if found else (at, end)
    if choice < 0.94:  # an indented block after its header
        return find_block(text, start) or (indent, end)
    return at, min(len(text), at + rng.randint(1, 120))


def move_down(text: str, offset: int, count: int) -> int:
    """Return the start of the line `count` lines below, or the end of the text."""
    for _ in range(count):
        offset = min(len(text), find_line_end(text, offset) + 1)
    return offset


def find_block(text: str, start: int) -> tuple[int, int] | None:
    """Find the block after the next line that ends in a colon: from the end of that line, at most twelve lines."""
    head = re.compile(r"^([ \t]*)\S.*:\n", re.M).search(text, start)
    if head is None:
        return None
    body = re.compile(rf"(?:{head.group(1)}[ \t]+\S.*\n|[ \t]*\n){{1,12}}").match(text, head.end())
    return (head.end() - 1, head.end() + len(body.group().rstrip())) if body and body.group().strip() else None


def draw_infill(encode: Encode, text: str, rng: random.Random, max_tokens: int) -> Sample | None:
    """Draw a span of a file and an excerpt around it; None if the sample exceeds `max_tokens`."""
    budget = int(CHARACTERS_PER_TOKEN * max_tokens * rng.choice([0.15, 0.3, 0.5, 0.8, 1.0]))
    start, end = draw_cursor_span(text, rng)
    if end - start > budget // 2 or end < start:
        return None
    rest = budget - (end - start)
    share = rng.choice([0.0, 0.0, 0.1, 0.25, 0.35, 0.5])  # of the budget for the suffix; 0 is the end of a file
    after = text[end : end + int(rest * share)]
    if share == 0.0 and rng.random() < 0.5:  # the last line of a file ends in a newline or does not
        after = "\n"
    first = max(0, start - (rest - len(after)))
    first = first if first == 0 else min(start, find_line_end(text, first) + 1)
    make = make_psm_infill if rng.random() < PSM_SHARE else make_spm_infill
    sample = make(encode, text[first:start], text[start:end], after)
    return sample if len(sample.ids) <= max_tokens else None


@dataclass(frozen=True)
class SampleSource:
    """The texts and edits that samples are drawn from."""

    files: Sequence[str]
    edits: Sequence[EditSample]
    encode: Encode
    cumulative_lengths: Sequence[int]  # of the files, to draw a position of the corpus uniformly

    def draw_sample(self, kind: str, number: int, seed: int, max_tokens: int) -> Sample | None:
        """Draw sample `number` of a kind; None if it exceeds `max_tokens`."""
        rng = random.Random(f"{seed}/{kind}/{number}")
        if kind == "edit":
            edit = self.edits[permute_index(number, len(self.edits), seed)]
            sample = make_edit(self.encode, edit.name, edit.before, edit.message, edit.diff)
            return sample if len(sample.ids) <= max_tokens else None
        text = self.files[bisect_right(self.cumulative_lengths, rng.randrange(self.cumulative_lengths[-1]))]
        if kind == "infill":
            return draw_infill(self.encode, text, rng, max_tokens)
        start = 0 if rng.random() < 0.3 else find_line_start(text, rng.randrange(len(text)))
        ids = self.encode(text[start : start + int(max_tokens * 4.5)])[: rng.randint(max_tokens // 3, max_tokens - 1)]
        return Sample((*ids, END), 0)


def permute_index(number: int, size: int, seed: int) -> int:
    """Map `number` to an index in an order that visits every index once per epoch."""
    epoch, at = divmod(number, size)
    step = next(s for s in range(size // 3 + 7919 * (epoch + seed + 1), 2**40) if np.gcd(s, size) == 1)
    return (at * step + epoch) % size


Mixture = Mapping[str, float]  # kind to its share of the tokens


def make_group(source: SampleSource, width: int, seed: int, mixture: Mixture, number: int) -> list[Row]:
    """Make the rows of a group from whole samples, packed first-fit in decreasing order of length.

    No sample is split between rows. The gap at the end of a row is padding, a few percent.
    """
    target_tokens = ROWS_PER_GROUP * width
    first = number * target_tokens  # more than the samples of all earlier groups: no sample is attempt twice
    edits = number * int(target_tokens * mixture.get("edit", 0) / MIN_EDIT_TOKENS)
    samples: list[Sample] = []
    counts = dict.fromkeys(mixture, 0)
    for attempt in range(target_tokens):
        if sum(counts.values()) >= target_tokens:
            break
        kind = max(mixture, key=lambda k: mixture[k] * (sum(counts.values()) + 1) - counts[k])
        edits += kind == "edit"
        sample = source.draw_sample(kind, edits if kind == "edit" else first + attempt, seed, width)
        if sample is not None:
            samples.append(sample)
            counts[kind] += len(sample.ids)
    packed = pack_samples(samples, width)
    random.Random(f"{seed}/{number}").shuffle(packed)
    return packed


MIN_EDIT_TOKENS = 100  # lower bound on the mean length: spaces out the edit numbers of the groups


def iter_rows(
    source: SampleSource, width: int, seed: int, start: int, mixture: Mixture, processes: int = 0
) -> Iterator[tuple[Row, int]]:
    """Yield rows endlessly from group `start` on, each with the number of the group from which to resume.

    `processes` worker processes make groups in advance, in the same order.
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
    """Yield groups in order, made by forked processes that share the corpus in memory."""
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


_SHARED: tuple[SampleSource, int, int, Mixture]  # set before the fork: the corpus is inherited, not sent


def _make_shared_group(number: int) -> list[Row]:
    source, width, seed, mixture = _SHARED
    return make_group(source, width, seed, mixture, number)


def pack_samples(samples: Sequence[Sample], width: int) -> list[Row]:
    """Pack whole samples into rows, first-fit in decreasing order of length."""
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
    """Concatenate samples and pad with END. Padding and the first id of each sample have the weight 0."""
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


def load_source(work: Path, split: str = "train") -> SampleSource:
    """Load the corpus and the edits of a split, with the tokenizer of the work folder."""
    with (work / "corpus" / f"{split}.jsonl").open() as lines:
        files = [text for text in (json.loads(line)["text"] for line in lines) if text.strip()]
    with (work / "edits" / f"{split}.jsonl").open() as lines:
        edits = [EditSample(**json.loads(line)) for line in lines]
    return SampleSource(files, edits, load_encoder(work / "tokenizer"), list(accumulate(map(len, files))))
