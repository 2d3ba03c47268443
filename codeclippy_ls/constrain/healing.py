"""Token healing: a constraint that makes the answer begin with text that was cut from the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from codeclippy_ls.constrain.vocabulary import ConstraintTokenizer, Vocabulary, get_vocabulary

_NO_SUBSTITUTIONS: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


@dataclass(frozen=True)
class HealingConstraint:
    """The answer must begin with ``rest``; the text after it is free."""

    vocabulary: Vocabulary
    rest: bytes

    def get_allowed_tokens(self) -> Sequence[int]:
        """Return tokens inside the rest, and tokens that complete it and continue."""
        longer = [id for data, id in self.vocabulary.iterate_starting_with(self.rest) if data != self.rest]
        return tuple(self.vocabulary.find_prefixes(self.rest) + longer)

    def get_choice_groups(self) -> Sequence[tuple[Sequence[int], int | None]]:
        """Return no groups: each token is its own choice."""
        return ()

    def get_substitutions(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return no substitutions."""
        return _NO_SUBSTITUTIONS

    def advance(self, token_id: int) -> HealingConstraint | None:
        """Return the constraint after a token, or ``None`` once the rest is complete."""
        data = self.vocabulary.token_bytes[token_id]
        return None if len(data) >= len(self.rest) else replace(self, rest=self.rest[len(data) :])

    def get_forced_tokens(self) -> Sequence[int]:
        """Return no tokens: the model decides how the rest is split into tokens."""
        return ()

    def draft(self, limit: int) -> Sequence[int]:
        """Draft nothing."""
        return ()


def healing_constraint(tokenizer: ConstraintTokenizer, text: str) -> HealingConstraint | None:
    """Return a constraint to begin with ``text``, or ``None`` if that is empty."""
    return HealingConstraint(get_vocabulary(tokenizer), text.encode()) if text else None
