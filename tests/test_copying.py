"""Copying as a candidate: what is found is what stands elsewhere, and the model's own probabilities decide."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.copying import Guess, find_guess, rank
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.engines import open_thread_engine
from codeclippy_ls.inference.requests import Candidate, FinishReason, Request, Sampling
from codeclippy_ls.inference.spec import ModelSpec
from codeclippy_ls.prompts.context_snippets import OpenFile
from codeclippy_ls.settings import parse
from codeclippy_ls.text import Document
from tests import checkpoints
from tests.editor import TIMEOUT
from tests.scripted import PrebuiltTask
from tests.test_engine import CASES, PreloadedWorker, model, original, token_prompt

SOURCES = sorted(Path(__file__).parent.parent.joinpath("codeclippy_ls").rglob("*.py"))


def search_all(prefix: str, suffix: str, others: list[str]) -> int:
    """Return the length of the longest match by trying all lengths."""
    texts = [prefix[:-1], suffix, *others]
    lengths = (length for length in range(60, 5, -1) if length <= len(prefix))
    return next((length for length in lengths if any(prefix[-length:] in text for text in texts)), 0)


def test_the_guess_follows_the_longest_match() -> None:
    """At 300 cursors in real files, against a search by all lengths."""
    chance = random.Random(1)
    texts = [path.read_text() for path in SOURCES]
    found = 0
    for _ in range(300):
        text, other = chance.choice(texts), chance.choice(texts)
        at = chance.randrange(len(text))
        prefix, suffix = text[:at], text[at:].partition("\n")[2]
        guess = find_guess(prefix, suffix, [other])
        if guess is None:
            continue
        found += 1
        line = prefix[-guess.match_length :] + guess.text
        assert guess.match_length == search_all(prefix, suffix, [other])
        assert "\n" not in guess.text and guess.text == guess.text.rstrip()
        assert any(line in source for source in (prefix, suffix, other))
    assert found > 100


@pytest.mark.parametrize(
    ("prefix", "suffix", "others", "expected"),
    [
        ("total = count(a, b)\ntotal = ", "", [], "count(a, b)"),
        ("first.total = 1\nfirst.total = 2\nfirst.total = ", "", [], "2"),  # the last one before the cursor
        ("x = ", "\nself.x = 1\n", [], None),  # too short a match says nothing
        ("self.x = ", "\nself.x = 1\nself.x = 2\n", [], "1"),  # the first one after it
        ("self.size = ", "", ["self.size = 3  \n"], "3"),
        ("\n\n\n\n        ", "", ["\n\n\n\n        pass\n"], None),  # nothing but white space
        ("wanted\n\nwanted", "", [], None),  # the line ended there, too
        ("API_KEY = ", "", ['API_KEY = "ghp_' + "a1B2" * 9 + '"\n'], None),
        ("-----BEGIN RSA PRIVATE KEY-----\n", "", ["-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEow" * 12 + "\n"], None),
        ("", "", [""], None),
    ],
)
def test_what_is_copied_and_what_is_not(prefix: str, suffix: str, others: list[str], expected: str | None) -> None:
    """A line of the file itself before one of another file; never a secret."""
    guess = find_guess(prefix, suffix, others)
    assert (guess.text if guess is not None else None) == expected


def test_a_copy_comes_first_if_the_model_finds_it_likely_for_its_match() -> None:
    """A long match makes up for a low probability; without one the model's own comes first, and the copy last."""
    own = Candidate("own", (1, 2), -0.5, FinishReason.END)
    copied = Candidate("copied", (3,), -1.0, FinishReason.STOP, is_guess=True)
    for match_length, first in ((30, copied), (8, own)):
        ranked = rank((own, copied), Guess("copied", match_length))
        assert ranked[0][0] is first and len(ranked) == 2
        assert all(0 < confidence <= 1 for _, confidence in ranked)
    assert rank((own, copied), None) == rank((own,), None)


@dataclass(frozen=True, slots=True)
class GuessTask(PrebuiltTask):
    """A task with a guess."""

    guess: str

    def list_guesses(self, prompt: Any) -> tuple[str, ...]:
        """Return it."""
        return (self.guess,)


@pytest.mark.parametrize("case", CASES)
async def test_a_guess_is_scored_as_the_model_would_score_it(case: str) -> None:
    """Against the logits of transformers over the whole text; what is generated beside it stays the same."""
    subject = model(case)
    engine = ThreadEngine(lambda: PreloadedWorker(subject), {"default": ModelSpec()})
    tokens, text = list(range(20, 60)), "value = count(value)"
    sampling = Sampling(max_tokens=30)
    try:
        plain = await engine.submit(Request(PrebuiltTask(token_prompt(tokens)), sampling)).result()
        scored = await engine.submit(Request(GuessTask(token_prompt(tokens), text), sampling)).result()
        again = await engine.submit(Request(GuessTask(token_prompt(tokens), text), sampling)).result()
    finally:
        engine.close()
        assert engine.join(TIMEOUT)
    assert [candidate.is_guess for candidate in scored.candidates] == [False, True]
    assert scored.candidates[0].token_ids == again.candidates[0].token_ids == plain.candidates[0].token_ids
    guess_ids = subject.tokenizer.encode_continuation(text)
    with torch.inference_mode():
        logits = original(subject.name)(torch.tensor([tokens + guess_ids])).logits[0, len(tokens) - 1 :].float()
    logprobs = logits.log_softmax(-1)
    line_ends = {i for i in range(checkpoints.VOCAB_SIZE) if subject.tokenizer.decode([i])[:1] in ("\n", "\r")}
    ends = sorted(subject.stop_token_ids | line_ends)
    expected = [float(logprobs[at, token]) for at, token in enumerate(guess_ids)]
    expected.append(float(logprobs[-1, ends].exp().sum().log()))
    for generation in (scored, again):
        assert generation.candidates[1].logprob == pytest.approx(sum(expected) / len(expected), abs=1e-3)
        assert generation.candidates[1].text == text


async def test_a_guess_that_does_not_fit_is_left_out() -> None:
    """Longer than the answer may be, or than the context."""
    subject = model(CASES[0])
    engine = ThreadEngine(lambda: PreloadedWorker(subject), {"default": ModelSpec()})
    try:
        for count, limit in ((40, 4), (subject.context_length - 5, 30)):
            tokens = [20 + at % 40 for at in range(count)]
            request = Request(GuessTask(token_prompt(tokens), "value = count(value)"), Sampling(max_tokens=limit))
            assert len((await engine.submit(request).result()).candidates) == 1
    finally:
        engine.close()
        assert engine.join(TIMEOUT)


async def test_the_shipped_model_repeats_what_stands_in_the_file() -> None:
    """In a language it was hardly trained on, and what stands in another file that is open."""
    line = "local success, result = pcall(vim.fn.json_decode, raw)"
    function = f"local function read(raw)\n  {line}\n  return success and result\nend\n\n"
    before = f"{function}local function load(raw)\n  local succ"
    settings, _ = parse({"completion": {"prefetch": False, "debounce": False, "timeBudgetMs": 60_000}})
    others = [OpenFile("read.lua", function, "lua")]
    files: dict[str, Any] = {"file:///a.lua": (), "file:///b.lua": others}
    assistant = Assistant(open_thread_engine(settings), settings, lambda document: files[document.uri])
    await assistant.load()
    try:
        for uri, text in (("file:///a.lua", before), ("file:///b.lua", "local function load(raw)\n  local succ")):
            document = Document(uri, text + "\nend\n", 1, "lua")
            found = await assistant.complete(document, len(text), automatic=True, candidates=1)
            assert [item.text for item in found.items] == ["ess, result = pcall(vim.fn.json_decode, raw)"]
    finally:
        await assistant.aclose()
