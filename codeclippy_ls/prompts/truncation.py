"""What of a text a window shows: which lines of an edit's document, and where the end of a long prefix begins. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# No tokenizer here packs more than this many characters into a token on average over code, so that more text than
# `budget` times this never fits and need not be encoded: one line can have megabytes.
CHARACTERS_PER_TOKEN = 8
_PREFIX_STEP = 16  # lines
_LEAST_ANSWER = 160  # tokens kept for a diff: a small change with its context


def find_aligned_start(text: str, cut: int, skipped: int) -> int | None:
    """Return where a window over the end of ``text`` begins that may not begin before ``cut``.

    At a line whose number is a multiple of a step; ``None`` if no line starts there.
    """
    newline = text.find("\n", max(cut - 1, 0))
    if newline < 0:  # one long line
        return None
    start = newline + 1
    coarse = start
    for _ in range(-(skipped + text.count("\n", 0, start)) % _PREFIX_STEP):
        coarse = text.find("\n", coarse) + 1
        if not coarse:
            break
    # Long lines: a whole step would throw most of the window away, so the nearest line start has to do.
    return start if not coarse or len(text) - coarse < (len(text) - start) // 2 else coarse


def fit_lines(
    count: Callable[[str], int], lines: Sequence[str], first: int, last: int, room: int, reserve: int
) -> tuple[int, int]:
    """Return the lines ``[first, last]`` and as many around them as fit.

    They fit into ``room`` tokens less ``reserve``, or less the smallest answer if the selection needs that.

    Args:
        count: tokens of a text.

    Raises:
        ValueError: the selection does not fit; the message is for the user.
    """
    try:
        return _lines_within(count, lines, first, last, room - reserve)
    except ValueError:
        if reserve <= _LEAST_ANSWER:
            raise
        # What was selected is shown whole, and the answer gets what is left.
        return _lines_within(count, lines, first, last, room - _LEAST_ANSWER)


def _lines_within(
    count: Callable[[str], int], lines: Sequence[str], first: int, last: int, budget: int
) -> tuple[int, int]:
    """The lines to show: grown from the selection, a line below and a line above in turn, while they fit."""
    if budget <= 0:
        raise ValueError("the message is too long for the model's window; say it in fewer words")
    costs = [len(line) for line in lines]
    if sum(costs) <= budget * CHARACTERS_PER_TOKEN:
        if count("\n".join(lines)) <= budget:
            return 0, len(lines)

    def cost(line: int) -> int:
        return count(lines[line][: budget * CHARACTERS_PER_TOKEN]) + 2

    start, end = first, min(last + 1, len(lines))
    used = sum(cost(line) for line in range(start, end))
    if used > budget:
        raise ValueError(f"the selection is too long for the model ({used} tokens, {budget} fit); select fewer lines")
    above = below = True
    while above or below:
        if below := below and end < len(lines) and used + cost(end) <= budget:
            used, end = used + cost(end), end + 1
        if above := above and start > 0 and used + cost(start - 1) <= budget:
            used, start = used + cost(start - 1), start - 1
    return start, end
