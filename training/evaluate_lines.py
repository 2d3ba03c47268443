"""Measure bits per byte on held-out text, and exact line ends, next lines and blocks at cursors.

An answer is correct only if it equals the original text, except for trailing whitespace. The copy baseline answers with
the text that followed the longest match of the text before the cursor in the same context; a model that is no better
has learned nothing beyond copying.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training import samples
from training.generation import Model
from training.metrics import BitsPerByte, Proportion

LANGUAGES = {
    "python": (".py", ".pyi"),
    "javascript/typescript": (".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".mts"),
    "c": (".c", ".h"),
    "markdown": (".md", ".markdown"),
    "toml/json/yaml": (".toml", ".json", ".yaml", ".yml"),
    "shell": (".sh", ".bash"),
}
PREFIX_CHARS, SUFFIX_CHARS = 1600, 600  # characters of prefix and suffix for every model
MAX_BLOCK_LINES = 6
MAX_FILE_CHARS = 24_000  # characters
BLOCK_HEAD = re.compile(r"^([ \t]*)(?:def|class|if|elif|else|for|while|with|try|except|finally|async)\b.*:\n", re.M)
EXCLUDED_FOLDERS = {".git", ".venv", "node_modules", "__pycache__", "build", "dist", "work"}


@dataclass(frozen=True, slots=True)
class InfillCase:
    """The text before a cursor, the expected text at it, and the text after it."""

    prefix: str
    middle: str
    suffix: str


@dataclass(frozen=True, slots=True)
class InfillTask:
    """A kind of case: how to draw cases, truncate answers, and stop generation."""

    name: str
    draw_cases: Callable[[Sequence[str], int, random.Random], list[InfillCase]]
    truncate_answer: Callable[[str, InfillCase], str]
    is_finished: Callable[[str, InfillCase], bool]
    max_tokens: int


def detect_language(path: str) -> str | None:
    """Return the language of a file suffix, or None."""
    return next((name for name, ends in LANGUAGES.items() if path.endswith(ends)), None)


def group_by_language(files: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Group the texts of (path, text) by language, in the order of the table; skip other files."""
    found: dict[str, list[str]] = {name: [] for name in LANGUAGES}
    for path, text in files:
        if text.strip() and (name := detect_language(path)):
            found[name].append(text)
    return {name: texts for name, texts in found.items() if texts}


def iter_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield paths and texts of the files in a known language, without build products."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and detect_language(path.name) and EXCLUDED_FOLDERS.isdisjoint(inside.parts):
            try:
                yield str(inside), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def select_files(texts: Sequence[str], limit: int, seed: int = 1) -> list[str]:
    """Select about `limit` bytes of files in random order, at most the first MAX_FILE_CHARS of each."""
    order, size, found = list(texts), 0, list[str]()
    random.Random(seed).shuffle(order)
    for text in order:
        if size >= limit:
            break
        text = text[:MAX_FILE_CHARS]
        found.append(text)
        size += len(text.encode())
    return found


def measure_bits_per_byte(model: Model, texts: Sequence[str]) -> BitsPerByte:
    """Measure the bits per byte of a model over all texts."""
    return BitsPerByte(
        sum(model.measure_bits(text) for text in texts), sum(len(text.encode()) for text in texts), len(texts)
    )


def truncate_prefix(prefix: str, characters: int = PREFIX_CHARS) -> str:
    """Return the last characters of the prefix, from the start of a line."""
    start = max(0, len(prefix) - characters)
    return prefix[start:] if start == 0 else prefix[prefix.find("\n", start) + 1 :]


def is_code_line(line: str) -> bool:
    """Return True for a line of code of some length, not a comment or the first line of a string."""
    return len(line.strip()) >= 8 and not line.lstrip().startswith(("#", '"', "'", "//", "/*", "*"))


def draw_at_random_offsets(
    texts: Sequence[str], count: int, rng: random.Random, make_case: Callable[[str, int], InfillCase | None]
) -> list[InfillCase]:
    """Draw cases at random offsets; fewer if the texts have too few."""
    found: list[InfillCase] = []
    for _ in range(count * 200):
        if len(found) == count or not texts:
            break
        text = rng.choice(texts)
        if text and (case := make_case(text, rng.randrange(len(text)))):
            found.append(case)
    return found


def draw_rests_of_lines(texts: Sequence[str], count: int, rng: random.Random) -> list[InfillCase]:
    """Draw cursors at word boundaries in lines of code, before the end of the line."""

    def make_case(text: str, at: int) -> InfillCase | None:
        start, end = samples.find_line_start(text, at), samples.find_line_end(text, at)
        line = text[start:end]
        if not is_code_line(line):
            return None
        stops = [m.start() for m in re.finditer(r"\b", line) if m.start() < len(line.rstrip()) - 1]
        cursor = start + rng.choice(stops or [0])
        return InfillCase(text[:cursor], text[cursor:end], text[end:])

    return draw_at_random_offsets(texts, count, rng, make_case)


def _find_next_line(text: str, at: int) -> tuple[int, int, int] | None:
    """Return the end of the line at an offset, and start (after indentation) and end of the next line of code."""
    above = samples.find_line_end(text, at)
    start, end = above + 1, samples.find_line_end(text, min(above + 1, len(text)))
    if (
        start >= len(text)
        or not is_code_line(text[start:end])
        or not text[samples.find_line_start(text, at) : above].strip()
    ):
        return None
    return above, start + len(text[start:end]) - len(text[start:end].lstrip()), end


def draw_lines_from_above(texts: Sequence[str], count: int, rng: random.Random) -> list[InfillCase]:
    """Draw cursors at the end of a line; expect a newline and the next line with its indentation."""

    def make_case(text: str, at: int) -> InfillCase | None:
        found = _find_next_line(text, at)
        return InfillCase(text[: found[0]], text[found[0] : found[2]], text[found[2] :]) if found else None

    return draw_at_random_offsets(texts, count, rng, make_case)


def draw_lines_from_indentation(texts: Sequence[str], count: int, rng: random.Random) -> list[InfillCase]:
    """Draw cursors after the indentation of a line; expect the line."""

    def make_case(text: str, at: int) -> InfillCase | None:
        found = _find_next_line(text, at)
        return InfillCase(text[: found[1]], text[found[1] : found[2]], text[found[2] :]) if found else None

    return draw_at_random_offsets(texts, count, rng, make_case)


def draw_blocks(texts: Sequence[str], count: int, rng: random.Random) -> list[InfillCase]:
    """Draw cursors after the colon of a statement; expect its block, which must not begin with a docstring."""

    def make_case(text: str, at: int) -> InfillCase | None:
        head = BLOCK_HEAD.search(text, at)
        if head is None:
            return None
        end = head.end() - 1
        body = truncate_block(text[end:], measure_indentation(head.group()), MAX_BLOCK_LINES + 1)
        lines = body.count("\n")
        if not 1 <= lines <= MAX_BLOCK_LINES or body.lstrip().startswith(("#", '"', "'", 'r"')):
            return None
        return InfillCase(text[:end], body, text[end + len(body) :])

    return draw_at_random_offsets(texts, count, rng, make_case)


def measure_indentation(line: str) -> int:
    """Return the number of characters of indentation."""
    return len(line) - len(line.lstrip(" \t"))


def truncate_block(text: str, outer: int, max_lines: int = MAX_BLOCK_LINES) -> str:
    """Keep the lines that are indented deeper than `outer`, at most `max_lines` after the first."""
    first, *rest = text.split("\n")
    kept = [first]
    for line in rest[:max_lines]:
        if line.strip() and measure_indentation(line) <= outer:
            break
        kept.append(line)
    return "\n".join(kept).rstrip()


def _measure_outer_indentation(case: InfillCase) -> int:
    return measure_indentation(case.prefix[samples.find_line_start(case.prefix, len(case.prefix)) :])


def _is_block_finished(text: str, case: InfillCase) -> bool:
    lines = text.split("\n")[1:]
    outer = _measure_outer_indentation(case)
    return len(lines) > MAX_BLOCK_LINES or any(line.strip() and measure_indentation(line) <= outer for line in lines)


def take_first_line(text: str, case: InfillCase) -> str:
    """Return the part of an answer on the line of the cursor."""
    return text.split("\n")[0].rstrip()


INFILL_TASKS = (
    InfillTask("rest of line", draw_rests_of_lines, take_first_line, lambda text, case: "\n" in text, 48),
    InfillTask(
        "next line, from its indentation",
        draw_lines_from_indentation,
        take_first_line,
        lambda text, case: "\n" in text,
        48,
    ),
    InfillTask(
        "next line, from the line above",
        draw_lines_from_above,
        lambda text, case: "\n".join(text.split("\n")[:2]).rstrip(),
        lambda text, case: text.count("\n") > 1,
        56,
    ),
    InfillTask(
        "block",
        draw_blocks,
        lambda text, case: truncate_block(text, _measure_outer_indentation(case)),
        _is_block_finished,
        128,
    ),
)


def generate_answers(model: Model, task: InfillTask, cases: Sequence[InfillCase], with_suffix: bool) -> list[str]:
    """Generate the answers of a model, truncated to the part that counts."""
    requests = [
        model.make_request(
            truncate_prefix(case.prefix),
            case.suffix[:SUFFIX_CHARS] if with_suffix else "",
            lambda text, case=case: task.is_finished(text, case),  # type: ignore[misc]
            task.max_tokens,
        )
        for case in cases
    ]
    answers = model.generate_greedy(requests, task.max_tokens)
    return [task.truncate_answer(answer, case) for answer, case in zip(answers, cases, strict=True)]


def copy_longest_match(case: InfillCase, task: InfillTask, with_suffix: bool) -> str:
    """Return the text that followed the longest match of the text before the cursor, in the same context."""
    context = truncate_prefix(case.prefix)
    around = (context, case.suffix[:SUFFIX_CHARS]) if with_suffix else (context,)
    for length in range(min(60, len(context)), 2, -1):
        beginning = context[-length:]
        for text in around:
            at = text.rfind(beginning, 0, len(text) - 1 if text is context else len(text))
            if at >= 0:
                return task.truncate_answer(text[at + length :], case)
    return ""


def score_exact(answers: Iterable[str], cases: Iterable[InfillCase]) -> Proportion:
    """Count the answers that equal the original text."""
    return Proportion.from_results(answer == case.middle.rstrip() for answer, case in zip(answers, cases, strict=True))
