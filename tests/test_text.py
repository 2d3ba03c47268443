"""Laws of documents, coordinates and edits, against an editor that holds its text as code units."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codeclippy_ls.line_diff import LineChange, find_changes
from codeclippy_ls.text import (
    Change,
    Document,
    Documents,
    Edit,
    Encoding,
    Position,
    apply_edits,
    compute_minimal_edits,
    offset_at,
    position_at,
    replace_surrogates,
    split_lines,
    to_lf,
    trim_edit,
    with_eol,
)

LAW = settings(derandomize=True, deadline=None, max_examples=150, database=None)
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
URI = "untitled:Untitled-1"
# Line ends, what other tools take for line ends, and characters of one to four bytes.
CHARACTERS = ["a", "b", " ", "\n", "\r", "\r\n", "\f", "\v", "\x1c", "\x85", "\u2028", "\ufeff", "é", "中", "😀", "𝒳"]
texts = st.lists(st.sampled_from(CHARACTERS), max_size=24).map("".join)
# With halves of surrogate pairs, which only an editor that counts UTF-16 has.
torn_texts = st.lists(st.sampled_from([*CHARACTERS, "\ud83d", "\ude00"]), max_size=12).map("".join)
encodings = st.sampled_from(ENCODINGS)
positions = st.builds(Position, st.integers(0, 7), st.integers(0, 12))


class Editor:
    """An editor as clients implement it: lines by code units, columns past the end clamped, nothing else."""

    def __init__(self, text: str, encoding: Encoding) -> None:
        self.width = {"utf-8": 1, "utf-16": 2, "utf-32": 4}[encoding]
        self.codec = {"utf-8": "utf-8", "utf-16": "utf-16-be", "utf-32": "utf-32-be"}[encoding]
        self.units = self.encoded(text)

    def encoded(self, text: str) -> list[int]:
        data = text.encode(self.codec, "surrogatepass")
        return [int.from_bytes(data[at : at + self.width], "big") for at in range(0, len(data), self.width)]

    @property
    def text(self) -> str:
        data = b"".join(unit.to_bytes(self.width, "big") for unit in self.units)
        return re.sub("[\ud800-\udfff]", "\ufffd", data.decode(self.codec, "surrogatepass"))

    def spans(self) -> list[tuple[int, int]]:
        """Units ``[start, end)`` of each line without its line end."""
        found, start, at = [], 0, 0
        while at < len(self.units):
            size = 2 if self.units[at : at + 2] == [13, 10] else int(self.units[at] in (10, 13))
            if size:
                found.append((start, at))
                start = at + size
            at += size or 1
        return [*found, (start, len(self.units))]

    def inside(self, at: int) -> bool:
        """Return whether a unit continues a character."""
        if at >= len(self.units):
            return False
        return (self.width == 1 and 0x80 <= self.units[at] < 0xC0) or (
            self.width == 2 and 0xDC00 <= self.units[at] < 0xE000 and at > 0 and 0xD800 <= self.units[at - 1] < 0xDC00
        )

    def index(self, position: Position) -> int:
        spans = self.spans()
        if position.line >= len(spans):
            return len(self.units)
        start, end = spans[position.line]
        at = min(start + position.character, end)
        while self.inside(at):
            at -= 1
        return at

    def replace(self, start: Position, end: Position, text: str) -> None:
        self.units[self.index(start) : self.index(end)] = self.encoded(text)

    def places(self) -> list[Position]:
        """Every valid position, in order."""
        found = []
        for line, (start, end) in enumerate(self.spans()):
            found += [Position(line, at - start) for at in range(start, end + 1) if at == end or not self.inside(at)]
        return found


@LAW
@given(texts, encodings)
@example("a\r\n😀b\r中\n\nx", "utf-16")
def test_position_and_offset_round_trip(text: str, encoding: Encoding) -> None:
    document, editor = Document(URI, text), Editor(text, encoding)
    for position in editor.places():
        offset = offset_at(document, position, encoding)
        assert len(editor.encoded(text[:offset])) == editor.index(position)
        assert position_at(document, offset, encoding) == position


@LAW
@given(texts, encodings, positions)
def test_positions_equal_the_editor_s(text: str, encoding: Encoding, position: Position) -> None:
    document, editor = Document(URI, text), Editor(text, encoding)
    offset = offset_at(document, position, encoding)
    assert len(editor.encoded(text[:offset])) == editor.index(position)


@LAW
@given(texts, encodings, st.lists(st.tuples(positions, positions, texts), max_size=8))
@example("a\r\nb", "utf-16", [(Position(0, 1), Position(1, 0), "\r"), (Position(0, 2), Position(0, 9), "\n")])
def test_server_text_equals_the_editor_s(
    text: str, encoding: Encoding, changes: list[tuple[Position, Position, str]]
) -> None:
    documents, editor = Documents(encoding), Editor(text, encoding)
    documents.open(URI, text, 0, "python")
    for version, (one, other, new) in enumerate(changes):
        start, end = sorted((one, other))
        editor.replace(start, end, new)
        assert documents.change(URI, version, [Change(new, start, end)]).text == editor.text
    document = documents.get(URI)
    assert document and [document.line(line) for line in range(document.line_count)] == [
        line.rstrip("\r\n") for line in [*split_lines(editor.text), ""][: document.line_count]
    ]


@LAW
@given(torn_texts, st.lists(st.tuples(positions, positions, torn_texts), max_size=8))
@example("", [(Position(0, 0), Position(0, 0), "\ud83d"), (Position(0, 1), Position(0, 1), "\ude00")])
@example("\ud83dx\ude00", [(Position(0, 1), Position(0, 2), ""), (Position(0, 1), Position(0, 1), "y")])
@example("\ude00\ud83d", [(Position(0, 0), Position(0, 1), ""), (Position(0, 1), Position(0, 1), "\ude00")])
def test_halves_of_a_character_become_one_as_in_the_editor(
    text: str, changes: list[tuple[Position, Position, str]]
) -> None:
    """Whatever is inserted and deleted between them; what stays alone is U+FFFD."""
    documents, editor = Documents("utf-16"), Editor(text, "utf-16")
    assert documents.open(URI, text, 0, "python").text == editor.text
    for version, (one, other, new) in enumerate(changes):
        start, end = sorted((one, other))
        editor.replace(start, end, new)
        assert documents.change(URI, version, [Change(new, start, end)]).text == editor.text
    assert documents.open(URI, "ab", 0, "python").text == "ab" and not documents._raw
    documents.open(URI, "\ud83d", 0, "python")
    documents.close(URI)
    assert not documents._raw


@LAW
@given(texts, texts, encodings)
@example("a\r\nb", "a\nb", "utf-16")
@example("a\rb", "a\r\nb", "utf-16")
@example("x\r\ny", "x\r😀\ny", "utf-8")
def test_computed_edits_give_the_new_text_in_any_editor(before: str, after: str, encoding: Encoding) -> None:
    edits = compute_minimal_edits(before, after)
    assert apply_edits(before, edits) == after
    assert all(edit.text or edit.start < edit.end for edit in edits)
    document, editor = Document(URI, before), Editor(before, encoding)
    for edit in reversed(edits):
        start, end = (position_at(document, offset, encoding) for offset in (edit.start, edit.end))
        assert (offset_at(document, start, encoding), offset_at(document, end, encoding)) == (edit.start, edit.end)
        editor.replace(start, end, edit.text)
    assert editor.text == after


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("one\ntwo\nthree\n", "one\n2\nthree\n", [Edit(4, 7, "2")]),
        ("f(a)\n", "f(a, b)\n", [Edit(3, 3, ", b")]),
        ("a\r\nb\r\n", "a\nb\r\n", [Edit(1, 3, "\n")]),
        ("aa", "aaa", [Edit(2, 2, "a")]),
        ("same\n", "same\n", []),
    ],
)
def test_computed_edits_are_small(before: str, after: str, expected: list[Edit]) -> None:
    assert compute_minimal_edits(before, after) == expected


PAIRS = {
    "one line among equal ones": lambda count: ("x\n" * count, "x\n" * (count // 2) + "y\n" + "x\n" * (count // 2)),
    "every tenth of equal ones": lambda count: ("x\n" * count, ("x\n" * 9 + "y\n") * (count // 10)),
    "two that alternate": lambda count: ("a\nb\n" * (count // 2), "b\na\na\n" * (count // 3)),
    "all in reverse": lambda count: tuple("".join(f"{n}\n" for n in range(count)[::step]) for step in (1, -1)),
    "nothing in common": lambda count: ("a\nb\n" * (count // 2), "c\nd\n" * (count // 2)),
}


@pytest.mark.parametrize("make_pair", PAIRS.values(), ids=PAIRS)
def test_minimal_edits_take_linear_time(make_pair: Callable[[int], tuple[str, str]]) -> None:
    """Four times the lines take about four times the steps: 4,000 equal lines took up to 18 s."""

    def count_steps(count: int) -> int:
        before, after = make_pair(count)
        steps = 0

        def trace(*arguments: Any) -> Any:
            nonlocal steps
            steps += 1
            return trace

        previous = sys.gettrace()
        sys.settrace(trace)
        try:
            edits = compute_minimal_edits(before, after)
        finally:
            sys.settrace(previous)
        assert apply_edits(before, edits) == after
        return steps

    assert count_steps(1200) < 5 * count_steps(300) + 1000


@LAW
@given(st.lists(st.sampled_from("ab c"), max_size=30), st.lists(st.sampled_from("ab c"), max_size=30))
def test_changes_are_those_between_equal_lines(old: list[str], new: list[str]) -> None:
    """They are in order, each changes something, and what lies between them is equal in both texts."""
    at, new_at = 0, 0
    for change in (*find_changes(old, new), LineChange(len(old), len(old), len(new), len(new))):
        assert old[at : change.start] == new[new_at : change.new_start]
        at, new_at = change.end, change.new_end
    assert all(one.start < one.end or one.new_start < one.new_end for one in find_changes(old, new))


def test_changes_are_as_few_as_those_of_gnu_diff(tmp_path: Path) -> None:
    """Over 200 random texts, within five per cent: few changed lines keep cursors and folds."""
    rng, ours, theirs = random.Random(5), 0, 0
    for _ in range(200):
        old = [rng.choice("abcdefgh") + "\n" for _ in range(60)]
        new = [line for line in old if rng.random() > 0.1 for line in [line, "new\n"][: rng.choice([1, 1, 1, 2])]]
        for name, lines in (("old", old), ("new", new)):
            (tmp_path / name).write_text("".join(lines))
        done = subprocess.run(["diff", "-d", "old", "new"], cwd=tmp_path, capture_output=True, text=True, check=False)
        theirs += sum(line[:1] in "<>" for line in done.stdout.splitlines())
        ours += sum(change.end - change.start + change.new_end - change.new_start for change in find_changes(old, new))
    assert theirs <= ours <= 1.05 * theirs


def test_trimming_a_very_long_line_is_fast() -> None:
    long = "x" * 5_000_000
    assert trim_edit(f"{long}a{long}", 0, 10_000_001, f"{long}b{long}") == Edit(5_000_000, 5_000_001, "b")


def test_ten_megabytes_in_one_line() -> None:
    documents = Documents("utf-16")
    documents.open(URI, "😀" + "x" * 10_000_000, 1, "json")
    document = documents.change(URI, 2, [Change("y", Position(0, 9_000_002), Position(0, 9_000_003))])
    assert document.text[9_000_001] == "y" and len(document.text) == 10_000_001
    assert position_at(document, 9_000_001, "utf-16") == Position(0, 9_000_002)
    assert offset_at(document, Position(0, 1), "utf-16") == 0
    assert offset_at(document, Position(0, 2**31 - 1), "utf-16") == 10_000_001


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_positions_outside_are_clamped(encoding: Encoding) -> None:
    document = Document(URI, "one\r\ntwo")
    assert offset_at(document, Position(0, 99), encoding) == 3
    assert offset_at(document, Position(1, 99), encoding) == 8
    assert offset_at(document, Position(9, 0), encoding) == 8
    assert offset_at(document, Position(-1, 5), encoding) == 0
    assert position_at(document, 4, encoding) == Position(0, 3)
    assert position_at(document, 99, encoding) == Position(1, 3)
    assert position_at(document, -1, encoding) == Position(0, 0)


def test_only_lf_crlf_and_cr_end_a_line() -> None:
    text = "a\fb\vc\x1cd\x85e\u2028f\u2029g"
    assert Document(URI, text).line_count == 1
    assert split_lines(text + "\r\r\nx\n\n") == [text + "\r", "\r\n", "x\n", "\n"]
    assert Document(URI, "\r\r\nx\n\n").line_count == 5


@LAW
@given(texts)
def test_split_lines_join_to_the_text(text: str) -> None:
    assert "".join(split_lines(text)) == text
    assert len(split_lines(text + "x")) == Document(URI, text).line_count
    assert "\r" not in to_lf(text)
    for eol in ("\n", "\r\n", "\r"):
        assert to_lf(with_eol(to_lf(text), eol)) == to_lf(text)


@pytest.mark.parametrize(("text", "eol"), [("", "\n"), ("a", "\n"), ("a\r\nb\n", "\r\n"), ("a\rb\n", "\r")])
def test_eol_is_that_of_the_first_line(text: str, eol: str) -> None:
    assert Document(URI, text).eol == eol


def test_apply_refuses_overlapping_and_outside_edits() -> None:
    assert apply_edits("abc", [Edit(2, 3, "C"), Edit(0, 1, "A")]) == "AbC"
    assert apply_edits("abc", [Edit(1, 1, "x"), Edit(1, 2, "y")]) == "axyc"
    for edits in ([Edit(0, 2, ""), Edit(1, 3, "")], [Edit(2, 9, "")], [Edit(2, 1, "")], [Edit(-1, 1, "")]):
        with pytest.raises(ValueError, match="overlaps"):
            apply_edits("abc", edits)


@pytest.mark.parametrize(
    ("start", "end"),
    [(Position(1, 0), Position(0, 0)), (Position(0, -1), Position(0, 1)), (Position(-2, 0), Position(0, 1))],
)
def test_bad_change_desyncs_the_document_until_it_is_replaced(start: Position, end: Position) -> None:
    documents = Documents()
    documents.open(URI, "one\ntwo\n", 1, "python")
    with pytest.raises(ValueError, match="range"):
        documents.change(URI, 2, [Change("x", Position(0, 0), Position(0, 0)), Change("y", start, end)])
    assert documents.get(URI) is None and documents.is_desynced(URI)
    documents.change(URI, 3, [Change("z", Position(0, 0), Position(0, 0))])
    assert documents.get(URI) is None, "what follows a bad change is uncertain too"
    documents.change(URI, 4, [Change("whole")])
    assert documents.get(URI) == Document(URI, "whole", 4, "python")
    documents.mark_desynced(URI)
    documents.open(URI, "again", 1, "python")
    assert documents.get(URI) == Document(URI, "again", 1, "python")


def test_document_that_is_not_open() -> None:
    documents = Documents()
    with pytest.raises(KeyError):
        documents.change(URI, 1, [Change("x")])
    documents.close(URI)
    assert documents.get(URI) is None and not documents.is_desynced(URI) and len(documents) == 0
    documents.open(URI, "a", 1, "")
    documents.mark_desynced(URI)
    documents.close(URI)
    assert not documents.is_desynced(URI) and len(documents) == 0


def test_snapshots_are_frozen_and_keep_the_client_s_version() -> None:
    documents = Documents()
    before = documents.open(URI, "a", None, "c")
    after = documents.change(URI, 7, [])
    assert (before.version, before.text) == (None, "a") and (after.version, after.text, after.language) == (7, "a", "c")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lone_surrogates_are_replaced(encoding: Encoding) -> None:
    documents = Documents(encoding)
    assert documents.open(URI, "a\ud800b", 1, "").text == "a\ufffdb"
    changed = documents.change(URI, 2, [Change("\udfff", Position(0, 0), Position(0, 1)), Change("x\udc00")])
    assert changed.text == "x\ufffd" and replace_surrogates("😀") == "😀"
    # A document made by hand may hold one; it is a unit wide, as an editor counts it.
    assert offset_at(Document(URI, "\ud800b"), Position(0, 1), "utf-16") == 1
    assert position_at(Document(URI, "\ud800b"), 1, "utf-16") == Position(0, 1)
