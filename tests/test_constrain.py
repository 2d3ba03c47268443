"""Constraints: every token is one that was allowed, every diff is well formed and applies, judged by GNU patch."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from codeclippy_ls import constrain
from codeclippy_ls.engine.tokenizer import Tokenizer, read_tokenizer
from tests import checkpoints
from tests.shared import tokenizer_folder

END = 0
DOCUMENTS = (
    "",
    "x = 1\n",
    "a\n\n\na\n\n\na\n",
    "def f(x):\n    return x\n\n\ndef g(y):\n    return y\n",
    "    indented = 'é😀'\n\ttabbed = \"日本\"\n" * 3,
    "\n".join(f"line {index % 5}" for index in range(40)) + "\n",
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A small byte-level tokenizer."""
    return Tokenizer(checkpoints.definition())


def walk(tokenizer: Tokenizer, lines: list[str], chance: random.Random, most: int = 160) -> constrain.DiffState:
    """A model without any sense: any allowed token, ends as soon as it may with some probability."""
    state = constrain.diff(tokenizer, lines, [END], max_added=8)
    for _ in range(most):
        allowed = state.allowed()
        if set(allowed) <= {END} or (END in allowed and chance.random() < 0.3):
            return state
        newline = [token for token in allowed if tokenizer.bytes_of[token] == b"\n"]
        token = newline[0] if newline and chance.random() < 0.4 else chance.choice([t for t in allowed if t != END])
        state = state.step(token)
        for forced in state.forced():
            assert forced in state.allowed(), "a forced token that is not allowed"
            state = state.step(forced)
    return state


def patched(folder: Path, before: str, diff: str) -> str:
    """What GNU patch makes of it, strictly: no fuzz, no offset."""
    (folder / "f").write_text(before, encoding="utf-8", newline="")
    done = subprocess.run(["patch", "-F0", "-s", "-o", "out", "f"], input=f"--- f\n+++ f\n{diff}".encode(), cwd=folder,
                          capture_output=True, check=False)
    assert done.returncode == 0 and b"offset" not in done.stdout, (done.stdout.decode(), before, diff)
    return (folder / "out").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_any_walk_gives_a_diff_that_applies(tokenizer: Tokenizer, document: str, tmp_path: Path) -> None:
    """Whatever a model chooses among the allowed tokens."""
    lines = document.split("\n")[:-1]
    changed = 0
    for seed in range(25):
        state = walk(tokenizer, lines, random.Random(seed))
        if diff := state.diff():
            changed += 1
            assert "\ufffd" not in diff
            assert patched(tmp_path, document, diff) is not None
    assert changed > 12, "hardly a walk changed anything, so nothing was shown"


@pytest.mark.parametrize("name", ["codegen", "fim-neox"])
def test_walks_over_published_vocabularies(name: str, tmp_path: Path) -> None:
    """The same with tokens that mix blanks and text, and a tokenizer that normalises."""
    tokenizer = read_tokenizer(tokenizer_folder(name))
    document = "def f():\n    e\u0301 = [ 1 ]\n    return e\u0301  # über\n"
    for seed in range(15):
        state = walk(tokenizer, document.split("\n")[:-1], random.Random(seed))
        if diff := state.diff():
            patched(tmp_path, document, diff)


def choose(tokenizer: Tokenizer, lines: list[str], written: str) -> constrain.DiffState:
    """The state after a diff's text, each token checked to be allowed."""
    state = constrain.diff(tokenizer, lines, [END])
    rest = written.encode()
    while rest:
        heads = [token for token in state.allowed() if token != END and rest.startswith(tokenizer.bytes_of[token])]
        assert heads, f"{rest[:40]!r} is not allowed after {state.text!r}"
        token = max(heads, key=lambda token: len(tokenizer.bytes_of[token]))
        state, rest = state.step(token), rest[len(tokenizer.bytes_of[token]) :]
    return state


def test_headers_are_rewritten_from_what_was_done(tokenizer: Tokenizer) -> None:
    """The model's numbers are wrong; ours are right."""
    lines = ["a", "b", "c", "d", "e"]
    state = choose(tokenizer, lines, " @@ -9,9 +9,9 @@\n b\n-c\n+C\n+CC\n@@ -1,1 +1,1 @@\n-e\n")
    assert state.complete
    assert state.diff() == "@@ -1,5 +1,5 @@\n a\n b\n-c\n+C\n+CC\n d\n-e\n"


def test_the_header_breaks_ties_between_equal_lines(tokenizer: Tokenizer) -> None:
    """A line that stands twice is the one nearer to the number."""
    lines = ["x", "y", "x", "z"]
    assert choose(tokenizer, lines, " @@ -3,1 +3,1 @@\n-x\n").diff() == "@@ -1,4 +1,3 @@\n x\n y\n-x\n z\n"
    assert choose(tokenizer, lines, " @@ -1,1 +1,1 @@\n-x\n").diff() == "@@ -1,4 +1,3 @@\n-x\n y\n x\n z\n"


def test_lines_that_are_not_the_document_s_are_not_allowed(tokenizer: Tokenizer) -> None:
    """Neither as context nor as removed lines, and none out of order."""
    lines = ["alpha", "beta", "gamma"]
    for wrong in (" @@ -1 +1 @@\n delta", " @@ -1 +1 @@\n beta\n-alpha", "@@ -1", " @@ -1 +1 @@\n\n"):
        with pytest.raises(AssertionError, match="is not allowed"):
            choose(tokenizer, lines, wrong)


def test_nothing_ends_without_a_change_and_context_is_bounded(tokenizer: Tokenizer) -> None:
    """The end needs a change; more context than a diff shows must lead to a change."""
    lines = [f"line {index}" for index in range(20)]
    state = choose(tokenizer, lines, " @@ -1,4 +1,4 @@\n line 0\n line 1\n line 2\n")
    assert not state.complete and END not in state.allowed()
    assert {tokenizer.bytes_of[token][:1] for token in state.allowed()} == {b"-", b"+"}
    assert choose(tokenizer, lines, " @@ -1,4 +1,4 @@\n line 0\n+new\n").complete
    assert choose(tokenizer, lines, " @@ -5,0 +5,1 @@\n line 4\n+new\n").diff() == (
        "@@ -3,6 +3,7 @@\n line 2\n line 3\n line 4\n+new\n line 5\n line 6\n line 7\n")


def test_an_empty_document_takes_added_lines_only(tokenizer: Tokenizer) -> None:
    """The form of a new file."""
    state = choose(tokenizer, [], " @@ -0,0 +1,2 @@\n+one\n+two\n")
    assert state.diff() == "@@ -0,0 +1,2 @@\n+one\n+two\n"


def test_forced_text_is_the_rest_of_the_line(tokenizer: Tokenizer) -> None:
    """As soon as one line only is possible, the whole of it."""
    lines = ["first line", "second line"]
    state = choose(tokenizer, lines, " @@ -1,1 +1,1 @@\n s")
    assert tokenizer.decode(state.forced()) == "econd line\n"


@pytest.mark.parametrize("typed", ["retu", " retu", "\n    ", "é", "x"])
def test_healing_writes_what_was_cut(tokenizer: Tokenizer, typed: str) -> None:
    """Any walk begins with the text that was cut, and then is free."""
    for seed in range(20):
        chance, state, written = random.Random(seed), constrain.heal(tokenizer, typed), b""
        while state is not None:
            token = chance.choice(state.allowed())
            written += tokenizer.bytes_of[token]
            state = state.step(token)
        assert written.startswith(typed.encode())
    assert constrain.heal(tokenizer, "") is None


def test_added_lines_are_indented_like_the_document(tokenizer: Tokenizer) -> None:
    """By depths that occur or one step more or less; any depth where the document indents by tabs; blank lines too."""
    lines = ["def f():", "    return 1"]
    head = " @@ -1,2 +1,3 @@\n def f():\n"
    for good in ("+    x = 1\n", "+        x = 1\n", "+x = 1\n", "+\n", "+    \n"):
        assert choose(tokenizer, lines, head + good).complete
    for bad in ("+   x", "+  x", "+     x", "+            x"):
        with pytest.raises(AssertionError, match="is not allowed"):
            choose(tokenizer, lines, head + bad)
    assert choose(tokenizer, ["def f():", "\treturn 1"], head + "+   x = 1\n").complete


def test_lines_removed_and_added_again_are_context(tokenizer: Tokenizer) -> None:
    """What is done again is not done; the diff is as small as its meaning."""
    lines = ["a", "b", "c"]
    assert choose(tokenizer, lines, " @@ -1,1 +1,1 @@\n-a\n+a\n").diff() == ""
    state = choose(tokenizer, lines, " @@ -1,3 +1,3 @@\n-a\n-b\n-c\n+a\n+B\n+c\n")
    assert state.diff() == "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
