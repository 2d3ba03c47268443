"""Token healing: a constraint that makes the answer begin with text that was cut from the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from codeclippy_ls.constrain.vocabulary import Tokenizer, Vocabulary, vocabulary

_NOTHING: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


@dataclass(frozen=True)
class HealingConstraint:
    """The answer begins with ``rest``; after it nothing is constrained."""

    vocabulary: Vocabulary
    rest: bytes

    def get_allowed_tokens(self) -> Sequence[int]:
        """Tokens inside the rest, and tokens that complete it and go on."""
        longer = [id for data, id in self.vocabulary.beginning(self.rest) if data != self.rest]
        return tuple(self.vocabulary.heads(self.rest) + longer)

    def get_choice_groups(self) -> Sequence[tuple[Sequence[int], int | None]]:
        """None: each token stands for itself."""
        return ()

    def get_substitutions(self) -> tuple[Sequence[int], Sequence[int]]:
        """None."""
        return _NOTHING

    def advance(self, token_id: int) -> HealingConstraint | None:
        """The rest after a token; free once it is written."""
        data = self.vocabulary.token_bytes[token_id]
        return None if len(data) >= len(self.rest) else replace(self, rest=self.rest[len(data) :])

    def get_forced_tokens(self) -> Sequence[int]:
        """Nothing: how the rest is cut into tokens is for the model to weigh."""
        return ()

    def draft(self, limit: int) -> Sequence[int]:
        """Nothing."""
        return ()


def healing_constraint(tokenizer: Tokenizer, text: str) -> HealingConstraint | None:
    """A constraint to begin with ``text``, none where that is empty."""
    return HealingConstraint(vocabulary(tokenizer), text.encode()) if text else None
