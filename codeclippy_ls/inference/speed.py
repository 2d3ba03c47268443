"""`Speed`: how fast a model reads prompts and writes tokens on this machine, and what fits into a time. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

# A person who asks by key in a file that was never read waits for the whole prompt.
_PROMPT_SECONDS = 4.0
_MIN_PROMPT, _MAX_PROMPT = 512, 32768
_SNIPPET_SHARE, _SNIPPET_SECONDS, _MAX_SNIPPETS = 0.25, 1.2, 1500
# Families that have the suffix behind the prefix read it again at every key.
_SUFFIX_SECONDS, _MIN_SUFFIX = 0.25, 64
# A key waits for the chunk that is being read. Below 64 tokens a chunk costs a model of 0.5 billion parameters 7 % more
# for each token, below 32 tokens 25 %; above 192 nothing is gained.
_CHUNK_SECONDS = 0.2
_CHUNKS = (192, 128, 96, 64, 32)
# Tokens of a line with what is new in its prompt: the time that a suggestion by typing is given if the model is slow.
_LINE_TOKENS, _NEW_TOKENS = 20, 32
MIN_TYPING_SECONDS, _MAX_TYPING_SECONDS = 0.6, 2.0


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for a token of a prompt that is read in chunks, and for a token that is written; 0 is unknown."""

    prefill_seconds: float = 0.0
    token_seconds: float = 0.0

    def limit_prompt(self, context_length: int) -> int:
        """Return the longest prompt worth reading while somebody waits: a power of two, or all of the context.

        It is chosen once, so that the text that a prompt shows does not depend on how busy the machine is.
        """
        if not self.prefill_seconds:
            return context_length
        steps = round(math.log2(_PROMPT_SECONDS / self.prefill_seconds))
        return min(context_length, max(_MIN_PROMPT, min(1 << max(steps, 0), _MAX_PROMPT)))

    def limit_snippets(self, context_length: int) -> int:
        """Return the number of tokens of a prompt that snippets of other files may take: a share of all, and of a time.

        They stand at the prompt's front and are read once for many keys, before the first of them if the editor rests.
        """
        limit = min(int(context_length * _SNIPPET_SHARE), _MAX_SNIPPETS)
        return min(limit, int(_SNIPPET_SECONDS / self.prefill_seconds)) if self.prefill_seconds else limit

    @property
    def suffix_limit(self) -> int | None:
        """Tokens behind the cursor that may be read again at each key; ``None`` is any number."""
        if not self.prefill_seconds:
            return None
        return max(_MIN_SUFFIX, int(_SUFFIX_SECONDS / self.prefill_seconds) // _MIN_SUFFIX * _MIN_SUFFIX)

    @property
    def prefill_chunk(self) -> int:
        """Tokens that are read in one pass."""
        limit = _CHUNK_SECONDS / self.prefill_seconds if self.prefill_seconds else _CHUNKS[0]
        return next((chunk for chunk in _CHUNKS if chunk <= limit), _CHUNKS[-1])

    @property
    def typing_seconds(self) -> float:
        """Time for a suggestion while the user types: for a line, but not so long that the pause is over."""
        needed = _LINE_TOKENS * self.token_seconds + _NEW_TOKENS * self.prefill_seconds
        return min(max(needed, MIN_TYPING_SECONDS), _MAX_TYPING_SECONDS)

    def count_tokens(self, seconds: float) -> int:
        """Return how many tokens can be written in a time, behind a prompt that was read but for a few new tokens."""
        if not self.token_seconds:
            return 0
        return max(0, int((seconds - _NEW_TOKENS * self.prefill_seconds) / self.token_seconds))

    @property
    def writes_a_line(self) -> bool:
        """A usual line is written in the time that a suggestion has while the user types."""
        return self.count_tokens(self.typing_seconds) >= _LINE_TOKENS - 1

    def describe(self) -> str:
        """Describe it to the user; empty if it is unknown."""
        if not self.token_seconds:
            return ""
        read, write, limit = (1000 * part for part in (self.prefill_seconds, self.token_seconds, self.typing_seconds))
        in_time = self.count_tokens(self.typing_seconds)
        return (
            f"{read:.2g} ms a token to read, {write:.2g} ms a token to write; {in_time} tokens (a line has about "
            f"{_LINE_TOKENS}) in {limit:.0f} ms while you type"
        )
