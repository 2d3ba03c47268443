"""Guess the rest of a line by copying: what followed the longest match of the text before the cursor elsewhere.

People repeat what stands in the same file or in one beside it, also in languages that a model does not know. A guess is
only proposed here; the model scores it, and `rank` decides between the two. All text has LF line ends. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from codeclippy_ls.inference.requests import Candidate
from codeclippy_ls.secret_text import remove_secret_lines

# Characters of a match. Fewer than six say nothing: with or without them as many guesses were right.
_MIN_MATCH, _MAX_MATCH = 6, 60
_MAX_OCCURRENCES = 8  # of the longest match, until one has something behind it
_MAX_TEXT = 200_000  # characters of a text that are searched
_SECRET_REACH = 16_000  # characters before a line in which a private key may have begun
# A copy is preferred if its mean log-probability, raised by this, is above the model's own: fitted on 1,000 places of
# held-out Python (bench/LOG.md).
_BONUS_PER_CHARACTER, _COST = 0.1, 1.5


@dataclass(frozen=True, slots=True)
class Guess:
    """The rest of a line as it stands elsewhere, and how many characters before the cursor are the same there."""

    text: str
    match_length: int

    def raise_logprob(self, logprob: float) -> float:
        """Raise a mean log-probability by what the length of the match is worth; to be held against a model's own."""
        return logprob + _BONUS_PER_CHARACTER * self.match_length - _COST


def find_guess(prefix: str, suffix: str, others: Iterable[str]) -> Guess | None:
    """Find the text that followed the longest match of the prefix's end: in the file itself, else in the others.

    Of matches of one length the last one before the cursor wins, then the first one after it.
    """
    prefix = prefix[-_MAX_TEXT:]
    # Without the last character: else the prefix's end would match itself.
    texts = [(prefix[:-1], True), (suffix[:_MAX_TEXT], False), *((text[:_MAX_TEXT], False) for text in others)]
    best, found = _MIN_MATCH - 1, None
    for text, is_before in texts:
        length = _measure_match(prefix, text, best)
        if length > best and prefix[-length:].strip():
            rest = _find_rest(text, prefix[-length:], is_before)
            best, found = length, Guess(rest, length) if rest else None
    return found


def _measure_match(prefix: str, text: str, shortest: int) -> int:
    """Return the length of the longest end of the prefix that occurs in a text, if it is longer than ``shortest``."""
    low, high = shortest, min(_MAX_MATCH, len(prefix))
    while low < high:
        middle = (low + high + 1) // 2
        if prefix[-middle:] in text:
            low = middle
        else:
            high = middle - 1
    return low


def _find_rest(text: str, match: str, is_before: bool) -> str:
    """Return the rest of the line behind an occurrence that has one; empty if it is secret or there is none."""
    at = text.rfind(match) if is_before else text.find(match)
    for _ in range(_MAX_OCCURRENCES):
        if at < 0:
            return ""
        start = at + len(match)
        end = text.find("\n", start)
        end = end if end >= 0 else len(text)
        if rest := text[start:end].rstrip():
            return rest if _is_public(text, start, end) else ""
        at = text.rfind(match, 0, at + len(match) - 1) if is_before else text.find(match, at + 1)
    return ""


def _is_public(text: str, start: int, end: int) -> bool:
    """Return whether a line may be shown: not if it holds a secret."""
    near = text[max(0, start - _SECRET_REACH) : end]
    return remove_secret_lines(near).endswith(text[start:end])


def rank(candidates: Sequence[Candidate], guess: Guess | None) -> list[tuple[Candidate, float]]:
    """Order candidates, the best first, each with the confidence in it: the mean probability of a token.

    By the whole text's probability: by the mean log-probability fewer of the first ones were right (`bench.suggest`).
    A scored guess comes first if its raised log-probability is above that of the first one, else last.
    """
    generated = [candidate for candidate in candidates if not candidate.is_guess]
    generated.sort(key=lambda candidate: -candidate.logprob * max(1, len(candidate.token_ids)))
    ranked = [(candidate, candidate.logprob) for candidate in generated]
    for candidate in candidates:
        if candidate.is_guess and guess is not None:
            logprob = guess.raise_logprob(candidate.logprob)
            is_first = not ranked or not ranked[0][0].text or logprob > ranked[0][1]
            ranked.insert(0 if is_first else len(ranked), (candidate, logprob))
    return [(candidate, math.exp(min(0.0, logprob))) for candidate, logprob in ranked]
