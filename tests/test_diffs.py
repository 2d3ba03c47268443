"""Diffs into edits: scenario folders, and laws with GNU diff and GNU patch as the oracle.

A scenario is a folder in ``cases/diffs`` with the files ``document`` and ``diff``, and ``expected`` (the text
afterwards), ``problem`` (a regular expression for a line ``hunk: reason``), or both where a note comes with edits. The
cursor's line, from 1, stands in ``near``; an empty file ``whole`` says that the diff was not cut.
"""

from __future__ import annotations

import difflib
import itertools
import random
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from codeclippy_ls.diffs.reading import MAX_DOCUMENT_LINES, MAX_SEARCHED_LINES, read_diff, read_diff_at
from codeclippy_ls.diffs.writing import write_diff
from codeclippy_ls.text import Document, Edit, apply_edits, split_lines, to_lf, with_eol

CASES = Path(__file__).parent / "cases" / "diffs"
LAW = settings(derandomize=True, deadline=None, max_examples=80, database=None)
MARKER = "\\ No newline at end of file\n"


def read(text: str, before: str, near: int | None = None, *, whole: bool = False) -> tuple[str | None, list[str]]:
    """Return the text afterwards, ``None`` if the diff is refused, and the problems as lines."""
    edits, problems = read_diff(text, Document("untitled:1", before), near, complete=whole)
    assert bool(edits) != any(problem.fatal for problem in problems)
    assert edits == sorted(edits, key=lambda edit: edit.start)
    assert all(one.end < other.start for one, other in itertools.pairwise(edits)), "edits touch"
    assert all(before[at - 1 : at + 1] != "\r\n" for e in edits for at in (e.start, e.end) if at), "inside a CRLF"
    return (apply_edits(before, edits) if edits else None), [
        f"{problem.hunk}: {problem.reason}" for problem in problems
    ]


# Scenarios


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir() if path.is_dir()))
def test_scenario(name: str) -> None:
    files = {path.name: path.read_bytes().decode() for path in (CASES / name).iterdir()}
    assert files.keys() <= {"document", "diff", "expected", "problem", "near", "whole"}
    before = files["document"]
    near = Document("", before).starts[int(files["near"]) - 1] if "near" in files else None
    after, problems = read(files["diff"], before, near, whole="whole" in files)
    assert after == files.get("expected"), problems
    found = "\n".join(problems)
    assert re.search(files["problem"].strip(), found) if "problem" in files else not problems, found


# The oracle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oracle")


def gnu_diff(folder: Path, before: str, after: str, context: int) -> str:
    (folder / "before").write_bytes(before.encode())
    (folder / "after").write_bytes(after.encode())
    labels = ["--label", "a/f", "--label", "b/f"]
    command = ["diff", "--text", f"-U{context}", *labels, "before", "after"]
    return subprocess.run(command, cwd=folder, capture_output=True).stdout.decode()


def gnu_patch(folder: Path, before: str, diff: str) -> str | None:
    (folder / "before").write_bytes(before.encode())
    (folder / "diff").write_bytes(diff.encode())
    command = ["patch", "-s", "-f", "--fuzz=0", "-r", "-", "-o", "patched", "before", "diff"]
    done = subprocess.run(command, cwd=folder, capture_output=True)
    return (folder / "patched").read_bytes().decode() if done.returncode == 0 else None


# Documents and edits of them

PIECES = ["a", "b", "  c", "}", "", "\t", "@@ -1 +1 @@", "é😀", "f\fg\u2028", "-- a/f", "++ b/f", "--- a/f", "\\ x"]
STYLES = ["\n", "\r\n", "\r"]
few_lines = st.lists(st.sampled_from(PIECES), max_size=2)


@st.composite
def edited(draw: st.DrawFn, alike: bool = True) -> tuple[list[str], list[str]]:
    """Generate lines, and lines edited in a few places; without ``alike`` every line occurs only once."""
    size = draw(st.integers(0 if alike else 1, 30))
    if alike:
        before = draw(st.lists(st.sampled_from(PIECES), min_size=size, max_size=size))
    else:
        before = [f"{'  ' * (at % 3)}line {at}" for at in range(size)]
    after = list(before)
    for change in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(after)))
        new = draw(few_lines) if alike else [f"new {change}.{k}" for k in range(draw(st.integers(0, 2)))]
        after[at : at + draw(st.integers(0, 3))] = new
    return before, after


@st.composite
def written(draw: st.DrawFn, texts: tuple[list[str], list[str]]) -> tuple[str, str]:
    """Give both texts line ends of one style or several, with a final one or not."""
    kinds = draw(st.sampled_from([STYLES[:1], STYLES[1:2], STYLES[:2], STYLES]))
    ended = []
    for side in texts:
        found = [line + draw(st.sampled_from(kinds)) for line in side]
        ended.append("".join(found)[: draw(st.sampled_from([None, -1]))])
    before, after = ended
    # A document's one style is kept whatever the diff has, so an oracle that knows no styles must not change it.
    styles = {line[len(line.rstrip("\r\n")) :] for line in split_lines(before)} - {""}
    return before, with_eol(to_lf(after), styles.pop()) if len(styles) == 1 else after


def first_difference(before: str, after: str) -> int:
    shorter = min(len(before), len(after))
    return next((at for at in range(shorter) if before[at] != after[at]), shorter)


# Laws


@LAW
@given(edited().flatmap(written), st.integers(0, 5))
@example(("a\nb", "a\nb\nc"), 3)
@example(("a\r\nb\r", "a\nb\r"), 1)
@example(("", "a"), 0)
def test_intact_diff_applies_like_gnu_patch(folder: Path, texts: tuple[str, str], context: int) -> None:
    before, after = texts
    assume(before != after)
    diff = gnu_diff(folder, before, after, context)
    result, problems = read(diff, before, first_difference(before, after))
    counted_alike = "\n" not in before or "\r" not in before.replace("\r\n", "")
    if result is not None or (context and counted_alike):
        assert result == after == gnu_patch(folder, before, diff), (diff, problems)


@LAW
@given(edited(alike=False), st.integers(1, 4), st.booleans(), st.data())
def test_damaged_headers_do_not_matter_if_the_text_is_unique(
    folder: Path, texts: tuple[list[str], list[str]], context: int, whole: bool, data: st.DataObject
) -> None:
    before, after = ("".join(line + "\n" for line in side) for side in texts)
    assume(before != after)
    diff = gnu_diff(folder, before, after, context)

    def damaged(match: re.Match[str]) -> str:
        return data.draw(st.sampled_from([match[0], "0", "1", "7", "99", "123456789012345678901"]))

    hunks = re.split(r"(?m)^(?=@@)", diff)
    heads = [re.sub(r"\d+", damaged, hunk.split("\n")[0]) for hunk in hunks[1:]]
    broken = hunks[0] + "".join(head + hunk[hunk.index("\n") :] for head, hunk in zip(heads, hunks[1:], strict=True))
    result, problems = read(broken, before, whole=whole)
    if whole:
        assert result == after, (broken, problems)
    elif result != after:
        assert "cut off" in problems[-1]
        assert result == (gnu_patch(folder, before, "".join(hunks[:-1])) if len(hunks) > 2 else None)


def numbered(count: int) -> list[str]:
    return [f"line {at}" if at % 7 else "" for at in range(count)]


def truncated_samples() -> list[tuple[list[str], list[str]]]:
    far = numbered(40)
    return [
        (far, [*far[:5], "new", *far[5:20], "other", "third", *far[22:36], *far[38:]]),
        (far, [*far[3:], "last", "lines"]),
        ([], ["a", "b"]),
        (["-- a", "b", "++ c", "d"], ["-- b", "++ d", "b"]),
    ]


@pytest.mark.parametrize(("before", "after"), truncated_samples())
@pytest.mark.parametrize("eol", ["\n", "\r\n"])
@pytest.mark.parametrize("context", [1, 3])
def test_diff_cut_at_any_byte_applies_whole_hunks_only(
    folder: Path, before: list[str], after: list[str], eol: str, context: int
) -> None:
    text = "".join(line + eol for line in before)
    diff = gnu_diff(folder, text, "".join(line + eol for line in after), context)
    starts = [match.start() for match in re.finditer(r"(?m)^@@", diff)]
    ends = [*starts[1:], len(diff)]
    results = [None, *(gnu_patch(folder, text, diff[:end]) for end in ends)]
    for cut in range(len(diff)):
        result, problems = read(diff[:cut], text)
        assert result == results[sum(end <= cut for end in ends)], (diff[:cut], problems)


def test_diff_cut_at_a_no_newline_marker_leaves_only_the_final_newline_open(folder: Path) -> None:
    before, after = "a\nb\nc", "a\nx\ny"
    diff = gnu_diff(folder, before, after, 3)
    results = {read(diff[:cut], before)[0] for cut in range(len(diff) + 1)}
    assert results == {None, after, after + "\n"}


@LAW
@given(edited(alike=False), st.integers(1, 3), st.sampled_from(["```", "```\nDone.\n", "\nDone.\n"]))
def test_line_ends_and_surrounding_prose_do_not_matter(
    folder: Path, texts: tuple[list[str], list[str]], context: int, below: str
) -> None:
    before, after = ("".join(line + "\n" for line in side) for side in texts)
    assume(before != after)
    diff = gnu_diff(folder, before, after, context)
    for eol in STYLES:
        assert read(diff, with_eol(before, eol))[0] == with_eol(after, eol)
        assert read(with_eol(diff, eol), before)[0] == after
    hunks = diff.split("\n", 2)[2]
    assert read(f" {hunks}", before)[0] == after
    assert read(f"So:\n- this\n\n```diff\n{diff}{below}", before)[0] == after


@LAW
@given(edited(alike=False), st.integers(1, 3))
def test_kept_lines_keep_their_trailing_spaces(folder: Path, texts: tuple[list[str], list[str]], context: int) -> None:
    before, after = ("".join(line + "\n" for line in side) for side in texts)
    assume(before != after)
    kept = set(texts[0])
    expected = "".join(f"{line} \t\n" if line in kept else f"{line}\n" for line in texts[1])
    assert read(gnu_diff(folder, before, after, context), before.replace("\n", " \t\n"))[0] == expected


@LAW
@given(edited(alike=False), st.integers(1, 3), st.sampled_from(["  ", "\t", "        "]))
def test_common_indentation_shift_is_undone(
    folder: Path, texts: tuple[list[str], list[str]], context: int, shift: str
) -> None:
    sides = [[line + "\n" for line in side] for side in texts]
    before, after = map("".join, sides)
    deep_before, deep_after = ("".join(shift + line for line in side) for side in sides)
    assume(before != after)
    for one, other, document, expected in [
        (before, after, deep_before, deep_after),
        (deep_before, deep_after, before, after),
    ]:
        assert read(gnu_diff(folder, one, other, context), document)[0] == expected


@LAW
@given(edited().flatmap(written), st.integers(0, 3), st.data())
def test_damaged_diff_adds_only_its_own_lines(
    folder: Path, texts: tuple[str, str], context: int, data: st.DataObject
) -> None:
    before, after = texts
    damaged = gnu_diff(folder, before, after, context).split("\n")
    for _ in range(data.draw(st.integers(1, 4))):
        damaged = damaged or [""]
        at = data.draw(st.integers(0, len(damaged) - 1))
        line = damaged[data.draw(st.integers(0, len(damaged) - 1))]
        others = data.draw(st.sampled_from([[], [line], [line[1:]], [line] * 3]))
        damaged[at : at + data.draw(st.integers(0, 2))] = others
    text = "\n".join(damaged)
    near = data.draw(st.none() | st.integers(-1, len(before) + 1))
    whole = data.draw(st.booleans())
    result, problems = read(text, before, near, whole=whole)
    assert (result, problems) == read(text, before, near, whole=whole)
    if result is not None:
        added = split_lines("".join(line[1:] + "\n" for line in text.split("\n") if line.startswith("+")))
        assert {line.strip() for line in split_lines(result)} <= {
            line.strip() for line in [*split_lines(before), *added, ""]
        }


@LAW
@given(st.text(max_size=60), st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str, before: str) -> None:
    read(text, before.encode("utf-8", "replace").decode())
    read(f"@@ -1 +1 @@\n{text}\n", before.encode("utf-8", "replace").decode())


# Writing


@LAW
@given(edited().flatmap(written), st.integers(0, 4), st.sampled_from(["f.py", "a dir/my file.py", 'x/"q"\\.py']))
def test_written_diff_is_accepted_by_patch_and_read_back(
    folder: Path, texts: tuple[str, str], context: int, name: str
) -> None:
    before, after = texts
    diff = write_diff(before, after, name, context)
    assert (diff == "") == (before == after)
    assume(diff)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(before.encode())
    (folder / "diff").write_bytes(diff.encode())
    done = subprocess.run(["patch", "-p1", "-s", "-f", "--fuzz=0", "-i", "diff"], cwd=folder, capture_output=True)
    assert done.returncode == 0, (done.stdout, diff)
    assert (folder / name).read_bytes().decode() == after if (folder / name).exists() else after == ""
    result, _ = read(diff, before, first_difference(before, after))
    assert result in (after, None)


@pytest.mark.parametrize(
    ("before", "after", "body"),
    [
        ("a\n", "b\n", "@@ -1 +1 @@\n-a\n+b\n"),
        ("a", "b\n", f"@@ -1 +1 @@\n-a\n{MARKER}+b\n"),
        ("a\n", "b", f"@@ -1 +1 @@\n-a\n+b\n{MARKER}"),
        ("x\na", "y\na", f"@@ -1,2 +1,2 @@\n-x\n+y\n a\n{MARKER}"),
        ("", "a\n", "@@ -0,0 +1 @@\n+a\n"),
        ("a\rb\u2028c\r\n", "", "@@ -1 +0,0 @@\n-a\rb\u2028c\r\n"),
    ],
)
def test_written_diffs(before: str, after: str, body: str) -> None:
    assert write_diff(before, after, "src/f.py") == f"--- a/src/f.py\n+++ b/src/f.py\n{body}"


# Limits


def slow(document: Sequence[str], diff: str) -> tuple[str, str]:
    return "".join(line + "\n" for line in document), diff


BIG = 49_000
MANY = MAX_SEARCHED_LINES // BIG - 1
CRAFTED = {
    "look-alikes": slow(["x"] * BIG, "@@ -5 +5 @@\n" + " x\n" * 4900 + "-x\n"),
    "many hunks": slow([f"{at}" for at in range(BIG)], "".join(f"@@ -1 +1 @@\n-{at}\n+y\n" for at in range(MANY))),
    "many look-alikes": slow(["x"] * BIG, "".join(f"@@ -{at} +1 @@\n-x\n+y\n" for at in range(MANY))),
    "shifted": slow(["  x"] * BIG, "@@ -1 +1 @@\n" + " x\n" * 4900 + "-   x\n"),
    "shifted a few times": slow(["  x"] * 4904, "@@ -1 +1 @@\n" + " x\n" * 4900 + "-   x\n"),
    "shifted in many hunks": slow(["  x", "   x"] * (BIG // 2), "@@ -1 +1 @@\n-x\n+y\n" * MANY),
    "nearly periodic": slow(["a", "b"] * (BIG // 2), "@@ -1 +1 @@\n" + " a\n b\n" * 2400 + "-b\n+y\n"),
    "nearly periodic in many hunks": slow(
        [*["a", "b"] * (BIG // 2), "a", "c"], ("@@ -1 +1 @@\n" + " a\n b\n" * 12 + " a\n-c\n+y\n") * MANY
    ),
    "long lines": slow(["x" * 1_000_000], "@@ -1 +1 @@\n-" + "x" * 190_000 + "\n+y\n"),
    "blanks": slow(["x"], "@@ -1 +1 @@\n-x" + " " * 190_000 + "\n+y\n"),
    "digits": slow(["x"], "@@ -" + "1" * 190_000),
    "signs": slow(["x"], "@@" * 99_000),
    "headers": slow(["x"], "@@\n" * 990),
    "file heads": slow(["x"], "--- a\n+++ b\n" * 1500 + "@@ -1 +1 @@\n" + "--- a\n+++ b\n" * 900 + "@@ -1 +1 @@\n"),
    "returns": slow(["x"], "@@ -1 +1 @@\n-x\n" + "+y\r\r\r\r\n" * 900),
    "markers": slow(["x"], "@@ -1 +1 @@\n-x\n+y\n" + "\\ No newline\n" * 4900),
    "mixed ends": slow(["x\ry\nz\r"] * (BIG // 4), "@@ -1 +1 @@\n" + " x\n y\n" * 2400 + "-z\n+a\n"),
    "too long": slow(["x"], "@@ -1 +1 @@\n-x\n+y\n" * 1_000_000),
}


@pytest.mark.parametrize(("before", "text"), CRAFTED.values(), ids=CRAFTED)
def test_crafted_texts_are_read_quickly(before: str, text: str) -> None:
    document = Document("untitled:1", before)
    start = time.process_time()
    problems = read_diff(text, document, 0, complete=True).problems
    assert time.process_time() - start < 20  # of the CPU's time, 0.1 s; quadratic code takes minutes
    assert not any("longer than" in problem.reason for problem in problems) or len(text) > 10**6, "not read at all"


@pytest.mark.parametrize(
    ("diff", "reason"),
    [
        ("@@ -1 +1 @@\n-x\n+" + "y" * 200_000, "longer than 200000 characters"),
        ("@@ -1 +1 @@\n-x\n" + "+y\n" * 5_000, "longer than 5000 lines"),
        ("@@ -1 +1 @@\n-x\n+y\n" * 1001, "more than 1000 hunks"),
    ],
)
def test_diff_over_the_limits_is_refused(diff: str, reason: str) -> None:
    result, problems = read(diff, "x\n")
    assert result is None and reason in problems[0]


def test_document_over_the_limit_is_refused() -> None:
    result, problems = read("@@ -1 +1 @@\n-x\n+y\n", "x\n" * MAX_DOCUMENT_LINES)
    assert result is None and "more than 50000 lines" in problems[0]


def test_many_hunks_in_a_long_document_are_refused() -> None:
    """Each is searched for in the whole document: 999 took 0.9 s in one of 49,000 lines."""
    before, hunk = "a\nb\n" * 20_000 + "a\nc\n", "@@ -1 +1 @@\n a\n-c\n+y\n"
    assert read(hunk, before)[0] is not None
    result, problems = read(hunk * 201, before)
    assert result is None and "201 hunks, too many for a document of this length" in problems[0]


def test_edits_are_minimal() -> None:
    diff = "@@ -1,4 +1,4 @@\n a\n-f(x)\n+f(x, y)\n b\n-c\n@@ -9 +9,2 @@\n d\n+e\n"
    edits, _ = read_diff(diff, Document("", "a\nf(x)\nb\nc\nd\n"))
    assert edits == [Edit(5, 5, ", y"), Edit(9, 11, ""), Edit(13, 13, "e\n")]


def test_partial_diff_applies_to_its_lines_with_any_line_ends() -> None:
    """Random lines of random documents, many of them equal, line ends mixed, a dropped line among them."""
    rng, refused = random.Random(11), 0
    for _ in range(3000):
        ends = rng.choice([["\n"], ["\r\n"], ["\r"], ["\n", "\r\n"], ["\n", "\r", "\r\n"]])
        texts = [rng.choice(["a", "b", "", "  c", "é😀"]) for _ in range(rng.randrange(1, 9))]
        text = "".join(line + rng.choice(ends) for line in texts)
        if rng.random() < 0.3:
            text = text.rstrip("\r\n") or "a"
        document = Document("file:///a", text)
        whole = [document.line(i) for i in range(document.line_count)]
        count = len(whole) - (whole[-1] == "")
        first = rng.randrange(count)
        last = rng.randrange(first, count)
        dropped = (rng.randrange(first, last + 1),) if rng.random() < 0.4 and last > first else ()
        numbers = [i for i in range(first, last + 1) if i not in dropped]
        before = [whole[i] for i in numbers]
        after = list(before)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(after) + 1)
            after[at : at + rng.randrange(2)] = [rng.choice(["a", "new", "b"])] * rng.randrange(2)
        diff = "".join(difflib.unified_diff([line + "\n" for line in before], [line + "\n" for line in after], n=1))
        diff = re.sub(r"^(---|\+\+\+).*\n", "", diff, flags=re.M)
        edits, problems = read_diff_at(diff, document, numbers, dropped)
        if before == after:
            assert not edits and problems
            continue
        if not edits and whole[:first] + after + whole[last + 1 :] == whole:
            continue  # what the diff adds is what the dropped line was
        if not edits:  # where an end would melt into a neighbour's
            assert "mixes kinds of line ends" in problems[0].reason and "\r" in ends and len(ends) > 1, (text, diff)
            refused += 1
            continue
        result = Document("file:///a", apply_edits(text, edits))
        lines_after = [result.line(i) for i in range(result.line_count)]
        expected = whole[:first] + after + whole[last + 1 :]
        ended = text[-1:] in ("\r", "\n")
        assert "\n".join(lines_after).rstrip("\n") == "\n".join(expected).rstrip("\n"), (text, diff)
        if "".join(expected) and (ended or expected[-1]):  # the end of the text stays ended, or not, as it was
            assert (result.text[-1:] in ("\r", "\n")) == ended
        above = text[: document.starts[first]]
        assert result.text.startswith(above if ended else above.rstrip("\r\n"))
    assert refused < 60


@pytest.mark.parametrize("fence", ["", "```\n", "```diff\n"])
def test_line_between_the_lines_of_a_hunk_refuses_it(fence: str) -> None:
    """In a fence or not: the lines behind it are part of the edit."""
    diff = f"{fence}@@ -1 +1,3 @@\n a\n+b\nThen:\n+c\n"
    after, problems = read(diff, "a\n", whole=True)
    assert after is None and "breaks off" in problems[0]


@pytest.mark.parametrize("header", ["@@ -1,3 +1,5 @@", "@@", "@@ -1,9 +1,9 @@"])
@pytest.mark.parametrize("fence", ["```sh", "```", "~~~"])
def test_fence_line_that_lost_its_space_does_not_halve_an_edit(header: str, fence: str) -> None:
    """In a document with such a line it does not close the answer's fence; elsewhere it does."""
    before = f"Run:\n{fence}\nmake\n"
    diff = f"{header}\n Run:\n+Now:\n{fence}\n+make clean\n make\n"
    assert read(diff, before, whole=True)[0] is None
    assert read(diff.replace(f"\n{fence}", f"\n {fence}"), before, whole=True)[0] == (
        f"Run:\nNow:\n{fence}\nmake clean\nmake\n"
    )
    closed = f"```\n{header}\n Run:\n+Now:\n make\n```\n\n- says when\n"
    assert read(closed, "Run:\nmake\n", whole=True)[0] == "Run:\nNow:\nmake\n"


def test_diff_that_does_not_match_its_header_is_refused() -> None:
    document = Document("file:///a", "a\nb\na\n")
    edits, problems = read_diff_at("@@ -1,1 +1,1 @@\n-a\n+x\n", document, [1, 2])
    assert not edits and "Hunk 1 is not where" in problems[0].reason
    assert apply_edits(document.text, read_diff_at("@@ -2,1 +2,1 @@\n-a\n+x\n", document, [1, 2])[0]) == "a\nb\nx\n"


def test_header_that_the_model_left_empty_is_no_hint() -> None:
    """Line 0 cannot be the place of lines that are there: between look-alikes the diff is refused."""
    text = "a\nx\nb\n" + "y\n" * 20 + "a\nx\nb\n"
    diff = "@@ -0,0 +0,0 @@\n a\n-x\n+z\n b\n"
    found = read_diff(diff, Document("file:///a", text), complete=True)
    assert not found.edits and "more than once" in found.problems[-1].reason
    found = read_diff(diff, Document("file:///a", text), text.rindex("x"), complete=True)
    assert apply_edits(text, found.edits) == text[: text.rindex("x")] + "z\nb\n"
