"""Constraints: every token is one that was allowed, every diff is well formed and applies, judged by GNU patch."""

from __future__ import annotations

import math
import random
import subprocess
from pathlib import Path

import pytest
import torch

from codeclippy_ls.constrain.grammar import DiffState, diff_constraint
from codeclippy_ls.constrain.healing import healing_constraint
from codeclippy_ls.constrain.vocabulary import find_incomplete_character
from codeclippy_ls.engine.generation.decoding import Sampler
from codeclippy_ls.engine.loading.tokenizer import Tokenizer, read_tokenizer
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
    """Make a small byte-level tokenizer."""
    return Tokenizer(checkpoints.make_tokenizer_json())


def walk(tokenizer: Tokenizer, lines: list[str], chance: random.Random, limit: int = 160) -> DiffState:
    """Choose allowed tokens at random; end with some probability once that is allowed."""
    state = diff_constraint(tokenizer, lines, [END], max_added=8)
    for _ in range(limit):
        allowed = state.get_allowed_tokens()
        if set(allowed) <= {END} or (END in allowed and chance.random() < 0.3):
            return state
        newline = [token for token in allowed if tokenizer.token_bytes[token] == b"\n"]
        token = newline[0] if newline and chance.random() < 0.4 else chance.choice([t for t in allowed if t != END])
        state = state.advance(token)
        for forced in state.get_forced_tokens():
            assert forced in state.get_allowed_tokens(), "a forced token that is not allowed"
            state = state.advance(forced)
    return state


def patched(folder: Path, before: str, diff: str) -> str:
    """Apply a diff with GNU patch, without fuzz or offset."""
    (folder / "f").write_text(before, encoding="utf-8", newline="")
    done = subprocess.run(
        ["patch", "-F0", "-o", "out", "f"],
        input=f"--- f\n+++ f\n{diff}".encode(),
        cwd=folder,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0 and b"offset" not in done.stdout, (done.stdout.decode(), before, diff)
    return (folder / "out").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_random_diff_applies_with_gnu_patch(tokenizer: Tokenizer, document: str, tmp_path: Path) -> None:
    """Any choice among the allowed tokens gives such a diff."""
    lines = document.split("\n")[:-1]
    changed = 0
    for seed in range(25):
        state = walk(tokenizer, lines, random.Random(seed))
        if diff := state.format_diff():
            changed += 1
            assert "\ufffd" not in diff
            assert patched(tmp_path, document, diff) is not None
    assert changed > 12, "hardly a walk changed anything, so nothing was shown"


@pytest.mark.parametrize("name", ["codegen", "fim-neox"])
def test_random_diffs_with_published_vocabularies(name: str, tmp_path: Path) -> None:
    """With tokens that mix spaces and text, and a tokenizer that normalises."""
    tokenizer = read_tokenizer(tokenizer_folder(name))
    document = "def f():\n    e\u0301 = [ 1 ]\n    return e\u0301  # über\n"
    for seed in range(15):
        state = walk(tokenizer, document.split("\n")[:-1], random.Random(seed))
        if diff := state.format_diff():
            patched(tmp_path, document, diff)


def choose(tokenizer: Tokenizer, lines: list[str], written: str) -> DiffState:
    """Return the state after a diff's text; check that each token is allowed."""
    state = diff_constraint(tokenizer, lines, [END])
    rest = written.encode()
    while rest:
        found_prefixes = [
            token
            for token in state.get_allowed_tokens()
            if token != END and rest.startswith(tokenizer.token_bytes[token])
        ]
        assert found_prefixes, f"{rest[:40]!r} is not allowed here"
        token = max(found_prefixes, key=lambda token: len(tokenizer.token_bytes[token]))
        state, rest = state.advance(token), rest[len(tokenizer.token_bytes[token]) :]
    return state


def test_headers_are_computed_from_the_operations(tokenizer: Tokenizer) -> None:
    """The model's numbers are wrong; the computed ones are right."""
    lines = ["a", "b", "c", "d", "e"]
    state = choose(tokenizer, lines, " @@ -5,1 +5,9 @@\n b\n-c\n+C\n+CC\n@@ -4,2 +5,1 @@\n-e\n")
    assert state.is_complete
    assert state.format_diff() == "@@ -1,5 +1,5 @@\n a\n b\n-c\n+C\n+CC\n d\n-e\n"


def test_header_chooses_between_equal_lines(tokenizer: Tokenizer) -> None:
    """Of two equal lines the one nearer to the number is meant."""
    lines = ["x", "y", "x", "z"]
    assert choose(tokenizer, lines, " @@ -3,1 +3,1 @@\n-x\n").format_diff() == "@@ -1,4 +1,3 @@\n x\n y\n-x\n z\n"
    assert choose(tokenizer, lines, " @@ -1,1 +1,1 @@\n-x\n").format_diff() == "@@ -1,4 +1,3 @@\n-x\n y\n x\n z\n"


def test_only_document_lines_are_kept_or_removed(tokenizer: Tokenizer) -> None:
    """And only in order."""
    lines = ["alpha", "beta", "gamma"]
    head = " @@ -1,1 +1,1 @@\n"
    for wrong in (head + " delta", head + " beta\n-alpha", "@@ -1", head + "\n", " @@ -4", " @@ -1,4", " @@ -1,1 +2"):
        with pytest.raises(AssertionError, match="is not allowed"):
            choose(tokenizer, lines, wrong)


def test_diff_needs_a_change_and_context_is_limited(tokenizer: Tokenizer) -> None:
    """The end needs a change; more context than a diff shows must lead to a change."""
    lines = [f"line {index}" for index in range(20)]
    state = choose(tokenizer, lines, " @@ -1,4 +1,4 @@\n line 0\n line 1\n line 2\n")
    assert not state.is_complete and END not in state.get_allowed_tokens()
    assert {tokenizer.token_bytes[token][:1] for token in state.get_allowed_tokens()} == {b"-", b"+"}
    assert choose(tokenizer, lines, " @@ -1,4 +1,4 @@\n line 0\n+new\n").is_complete
    assert choose(tokenizer, lines, " @@ -5,1 +5,2 @@\n line 4\n+new\n").format_diff() == (
        "@@ -3,6 +3,7 @@\n line 2\n line 3\n line 4\n+new\n line 5\n line 6\n line 7\n"
    )


def test_empty_document_allows_added_lines_only(tokenizer: Tokenizer) -> None:
    """As in the diff of a new file."""
    state = choose(tokenizer, [], " @@ -0,0 +1,2 @@\n+one\n+two\n")
    assert state.format_diff() == "@@ -0,0 +1,2 @@\n+one\n+two\n"


def test_forced_tokens_are_the_rest_of_the_line(tokenizer: Tokenizer) -> None:
    """As soon as only one line is possible, in the tokens of the whole line."""
    state = choose(tokenizer, ["first line", "second line"], " @@ -1,1 +1,1 @@\n")
    line = tokenizer.encode_continuation(" second line\n")
    while not state.get_forced_tokens():
        state = state.advance(line[len(state.partial_ids)])
    assert [*state.partial_ids, *state.get_forced_tokens()] == line and len(state.partial_ids) < len(line)


def test_model_chooses_the_line_but_not_its_tokens(tokenizer: Tokenizer) -> None:
    """All tokens that begin the kept line count for keeping it; it continues in the line's own tokens."""
    lines = ["    indented", "    more"]
    state = choose(tokenizer, lines, " @@ -1,2 +1,2 @@\n     indented\n")
    groups = {tokenizer.token_bytes[ids[0]][:1]: (ids, only) for ids, only in state.get_choice_groups()}
    keep, first = groups[b" "]
    assert first == tokenizer.encode_continuation("     more\n")[0]
    assert len(keep) > 1 and {tokenizer.token_bytes[id].strip() for id in keep} == {b""}
    assert groups[b"+"][1] is None
    # Three spellings of keeping at 0.2 each outweigh one removal at 0.4.
    logits = torch.full((tokenizer.vocab_size,), -20.0)
    for id in keep[:3]:
        logits[id] = math.log(0.2)
    logits[groups[b"-"][0][0]] = math.log(0.4)
    token, logprob = Sampler().sample(logits, state)
    assert token == first and math.exp(logprob) == pytest.approx(0.6, abs=1e-3)


def test_token_across_a_line_end_counts_as_the_line_end() -> None:
    """In a vocabulary with tokens of a newline and more, such as NeoX's."""
    tokenizer = read_tokenizer(tokenizer_folder("fim-neox"))
    state = choose(tokenizer, ["x = 1"], " @@ -1,1 +1,1 @@\n-x = 1\n+x = 2")
    over, newline = (tokenizer.token_bytes.index(text) for text in (b"\n\n", b"\n"))
    assert over not in state.get_allowed_tokens()
    logits = torch.full((tokenizer.vocab_size,), -20.0)
    logits[over], logits[tokenizer.token_bytes.index(b"0")] = math.log(0.6), math.log(0.4)
    assert Sampler().sample(logits, state)[0] == newline


def test_added_text_is_utf_8_at_every_token(tokenizer: Tokenizer) -> None:
    """A character may be written byte by byte, but only as valid UTF-8."""
    head = " @@ -1,1 +1,1 @@\n-x\n"
    assert choose(tokenizer, ["x"], head + "+é😀\u2028日\n").format_diff() == "@@ -1,1 +1,1 @@\n-x\n+é😀\u2028日\n"
    table = tokenizer.token_bytes
    for begun in (b"\xc3", b"\xf0\x9f", b"\xed"):
        state = choose(tokenizer, ["x"], head + "+")
        for byte in begun:
            state = state.advance(table.index(bytes([byte])))
        for id in state.get_allowed_tokens():
            begun_and_more = begun + table[id]
            assert begun_and_more.decode("utf-8", "ignore") or find_incomplete_character(begun_and_more), begun_and_more
        assert not {b"\n", b"a", b"\xff", b"\xc3"} & {table[id] for id in state.get_allowed_tokens()}


@pytest.mark.parametrize(
    ("added", "kept"),
    [
        ("a = 1\na = 1\na = 1\n", "a = 1\n"),
        ("a = 1\nb = 2\na = 1\nb = 2\n", "a = 1\nb = 2\n"),
        ("a = 1\na = 1\nb\n", "a = 1\na = 1\nb\n"),
        ("}\n}\n}\n\n\n\n", "}\n}\n}\n\n\n\n"),
    ],
)
def test_repeated_added_lines_are_dropped(tokenizer: Tokenizer, added: str, kept: str) -> None:
    """After them the model must do something else."""
    text = "".join(f"+{line}\n" for line in added.splitlines())
    state = choose(tokenizer, ["x", "y"], f" @@ -1,1 +1,9 @@\n-x\n{text}")
    assert state.is_repeating == (added != kept)
    assert any(tokenizer.token_bytes[id][:1] == b"+" for id in state.get_allowed_tokens()) != state.is_repeating
    assert "".join(line[1:] + "\n" for line in state.format_diff().splitlines() if line[0] == "+") == kept


@pytest.mark.parametrize("document", DOCUMENTS)
def test_drafts_are_allowed_by_the_grammar(tokenizer: Tokenizer, document: str) -> None:
    """From every state of a random walk; and all context around a change is drafted."""
    lines = document.split("\n")[:-1]
    for seed in range(10):
        chance, state = random.Random(seed), diff_constraint(tokenizer, lines, [END])
        for _ in range(60):
            drafted = state
            for token in state.draft(24):
                assert token in drafted.get_allowed_tokens()
                drafted = drafted.advance(token)
            allowed = [token for token in state.get_allowed_tokens() if token != END]
            if not allowed:
                break
            state = state.advance(chance.choice(allowed))


def test_context_and_the_replaced_line_are_drafted(tokenizer: Tokenizer) -> None:
    """The end of a header with the context before the change; after the change the context that follows."""
    lines = [f"line number {index} of many" for index in range(30)]
    state = choose(tokenizer, lines, " @@ -12,")
    assert tokenizer.decode(state.draft(200)).startswith(f"7 +12,7 @@\n {lines[11]}\n {lines[12]}\n {lines[13]}\n")
    context = "".join(f" {line}\n" for line in lines[11:14])
    state = choose(tokenizer, lines, f" @@ -12,7 +12,7 @@\n{context}-{lines[14]}\n+line")
    assert tokenizer.decode(state.draft(200)) == lines[14][4:]
    state = choose(tokenizer, lines, f" @@ -12,7 +12,7 @@\n {lines[11]}\n-{lines[12]}\n+new\n")
    assert tokenizer.decode(state.draft(200)) == "".join(f" {line}\n" for line in lines[13:16])


@pytest.mark.parametrize("typed", ["retu", " retu", "\n    ", "é", "x"])
def test_healing_restores_the_cut_text(tokenizer: Tokenizer, typed: str) -> None:
    """Any random walk begins with the cut text, and then is free."""
    for seed in range(20):
        chance, state, written = random.Random(seed), healing_constraint(tokenizer, typed), b""
        while state is not None:
            token = chance.choice(state.get_allowed_tokens())
            written += tokenizer.token_bytes[token]
            state = state.advance(token)
        assert written.startswith(typed.encode())
    assert healing_constraint(tokenizer, "") is None


def test_added_lines_are_indented_like_the_document(tokenizer: Tokenizer) -> None:
    """By widths that occur, one step more or less; by any width if the document indents by tabs; also empty lines."""
    lines = ["def f():", "    return 1"]
    head = " @@ -1,2 +1,3 @@\n def f():\n"
    for good in ("+    x = 1\n", "+        x = 1\n", "+x = 1\n", "+\n", "+    \n"):
        assert choose(tokenizer, lines, head + good).is_complete
    for bad in ("+   x", "+  x", "+     x", "+            x"):
        with pytest.raises(AssertionError, match="is not allowed"):
            choose(tokenizer, lines, head + bad)
    assert choose(tokenizer, ["def f():", "\treturn 1"], head + "+   x = 1\n").is_complete


def test_lines_removed_and_added_again_become_context(tokenizer: Tokenizer) -> None:
    """The diff is minimal."""
    lines = ["a", "b", "c"]
    assert choose(tokenizer, lines, " @@ -1,1 +1,1 @@\n-a\n+a\n").format_diff() == ""
    state = choose(tokenizer, lines, " @@ -1,3 +1,3 @@\n-a\n-b\n-c\n+a\n+B\n+c\n")
    assert state.format_diff() == "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
