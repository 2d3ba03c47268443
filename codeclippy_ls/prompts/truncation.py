"""Truncation to a context length: the lines of an edit's document, and the start of a long prefix. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# No tokenizer here packs more characters into a token on average over code, so that a longer text than the budget
# times this never fits and need not be encoded: one line can have megabytes.
CHARACTERS_PER_TOKEN = 8
_ALIGNMENT = 16  # lines
_MIN_ANSWER = 160  # tokens kept for a diff: a small change with its context


def find_aligned_start(text: str, cut: int, skipped: int) -> int | None:
    """Find the first line start at or after ``cut`` whose line number is a multiple of 16; ``None`` without one.

    ``skipped`` lines precede the text. If the lines are long, the nearest line start is returned.
    """
    newline = text.find("\n", max(cut - 1, 0))
    if newline < 0:  # one long line
        return None
    start = newline + 1
    aligned = start
    for _ in range(-(skipped + text.count("\n", 0, start)) % _ALIGNMENT):
        aligned = text.find("\n", aligned) + 1
        if not aligned:
            break
    # With long lines a whole step would drop most of the text.
    return start if not aligned or len(text) - aligned < (len(text) - start) // 2 else aligned


def fit_lines(
    count: Callable[[str], int], lines: Sequence[str], first: int, last: int, room: int, reserve: int
) -> tuple[int, int]:
    """Return the lines ``[first, last]`` and as many around them as fit, as ``[start, end)``.

    They fit into ``room`` tokens less ``reserve``, or less the smallest answer if the selection needs that.

    Args:
        count: counts the tokens of a text.

    Raises:
        ValueError: the selection does not fit; the message is for the user.
    """
    try:
        return _grow_selection(count, lines, first, last, room - reserve)
    except ValueError:
        if reserve <= _MIN_ANSWER:
            raise
        # The selection is shown whole, and the answer gets the rest.
        return _grow_selection(count, lines, first, last, room - _MIN_ANSWER)


def _grow_selection(
    count: Callable[[str], int], lines: Sequence[str], first: int, last: int, budget: int
) -> tuple[int, int]:
    """Grow the selection by a line below and a line above in turn, while they fit."""
    if budget <= 0:
        raise ValueError("the message is too long for the model; use fewer words")
    if sum(map(len, lines)) <= budget * CHARACTERS_PER_TOKEN and count("\n".join(lines)) <= budget:
        return 0, len(lines)

    def count_line(line: int) -> int:
        return count(lines[line][: budget * CHARACTERS_PER_TOKEN]) + 2

    start, end = first, min(last + 1, len(lines))
    used = sum(count_line(line) for line in range(start, end))
    if used > budget:
        raise ValueError(f"the selection is too long for the model ({used} tokens, {budget} fit); select fewer lines")
    above = below = True
    while above or below:
        if below := below and end < len(lines) and used + count_line(end) <= budget:
            used, end = used + count_line(end), end + 1
        if above := above and start > 0 and used + count_line(start - 1) <= budget:
            used, start = used + count_line(start - 1), start - 1
    return start, end
