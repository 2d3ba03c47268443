"""What a model makes of held-out text: bits per byte, and exact ends of lines, next lines and blocks at cursors.

An answer counts where it is the text that stood there, blanks at its end aside, not where it would do as well. The
copy baseline answers with what followed the longest match of the text before the cursor in the same window; a model
that does not beat it has learned to copy at most.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training import samples
from training.figures import BitsPerByte, Proportion
from training.writer import Model

LANGUAGES = {
    "python": (".py", ".pyi"),
    "javascript/typescript": (".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".mts"),
    "c": (".c", ".h"),
    "markdown": (".md", ".markdown"),
    "toml/json/yaml": (".toml", ".json", ".yaml", ".yml"),
    "shell": (".sh", ".bash"),
}
PREFIX_CHARS, SUFFIX_CHARS = 1600, 600  # characters of prefix and suffix that every model is shown
MAX_BLOCK_LINES = 6
MAX_FILE_CHARS = 24_000  # characters
BLOCK_HEAD = re.compile(r"^([ \t]*)(?:def|class|if|elif|else|for|while|with|try|except|finally|async)\b.*:\n", re.M)
EXCLUDED_FOLDERS = {".git", ".venv", "node_modules", "__pycache__", "build", "dist", "work"}


@dataclass(frozen=True, slots=True)
class InfillCase:
    """A cursor: what stands before it, what should be written there, and what follows."""

    prefix: str
    middle: str
    suffix: str


@dataclass(frozen=True, slots=True)
class InfillTask:
    """A kind of hole: where they lie, and what of an answer counts."""

    name: str
    draw_cases: Callable[[Sequence[str], int, random.Random], list[InfillCase]]
    truncate_answer: Callable[[str, InfillCase], str]
    is_finished: Callable[[str, InfillCase], bool]
    max_tokens: int


def detect_language(path: str) -> str | None:
    """By the file's suffix."""
    return next((name for name, ends in LANGUAGES.items() if path.endswith(ends)), None)


def group_by_language(files: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Texts of (path, text) per language, in the table's order; other files are left out."""
    found: dict[str, list[str]] = {name: [] for name in LANGUAGES}
    for path, text in files:
        if text.strip() and (name := detect_language(path)):
            found[name].append(text)
    return {name: texts for name, texts in found.items() if texts}


def iter_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Paths and texts of a folder's files that are in a known language and are no build products."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and detect_language(path.name) and EXCLUDED_FOLDERS.isdisjoint(inside.parts):
            try:
                yield str(inside), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def select_files(texts: Sequence[str], limit: int, seed: int = 1) -> list[str]:
    """Files in an order that mixes the packages, until about `limit` bytes; of a large file the first part."""
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
    """Over all of the texts."""
    return BitsPerByte(
        sum(model.measure_bits(text) for text in texts), sum(len(text.encode()) for text in texts), len(texts)
    )


def truncate_prefix(prefix: str, characters: int = PREFIX_CHARS) -> str:
    """The end of the prefix, from the start of a line."""
    start = max(0, len(prefix) - characters)
    return prefix[start:] if start == 0 else prefix[prefix.find("\n", start) + 1 :]


def is_code_line(line: str) -> bool:
    """Whether a line is worth asking for: code, neither a comment nor the first line of a string."""
    return len(line.strip()) >= 8 and not line.lstrip().startswith(("#", '"', "'", "//", "/*", "*"))


def draw_at_random_offsets(
    texts: Sequence[str], count: int, rng: random.Random, one: Callable[[str, int], InfillCase | None]
) -> list[InfillCase]:
    """Holes at places drawn evenly; fewer where the texts hold too few."""
    found: list[InfillCase] = []
    for _ in range(count * 200):
        if len(found) == count or not texts:
            break
        text = rng.choice(texts)
        if text and (hole := one(text, rng.randrange(len(text)))):
            found.append(hole)
    return found


def draw_rests_of_lines(texts: Sequence[str], count: int, rng: random.Random) -> list[InfillCase]:
    """Cursors at word boundaries inside lines of code, with something left to write."""

    def one(text: str, at: int) -> InfillCase | None:
        start, end = samples.find_line_start(text, at), samples.find_line_end(text, at)
        line = text[start:end]
        if not is_code_line(line):
            return None
        stops = [m.start() for m in re.finditer(r"\b", line) if m.start() < len(line.rstrip()) - 1]
        cursor = start + rng.choice(stops or [0])
        return InfillCase(text[:cursor], text[cursor:end], text[end:])

    return draw_at_random_offsets(texts, count, rng, one)


def _find_next_line(text: str, at: int) -> tuple[int, int, int] | None:
    """The end of the line at a place, and start (behind the indentation) and end of the next, where both are code."""
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
    """The line below the cursor, which stands at the end of a line: line break, indentation and all."""

    def one(text: str, at: int) -> InfillCase | None:
        found = _find_next_line(text, at)
        return InfillCase(text[: found[0]], text[found[0] : found[2]], text[found[2] :]) if found else None

    return draw_at_random_offsets(texts, count, rng, one)


def draw_lines_from_indentation(texts: Sequence[str], count: int, rng: random.Random) -> list[InfillCase]:
    """The line that the cursor stands on, behind its indentation."""

    def one(text: str, at: int) -> InfillCase | None:
        found = _find_next_line(text, at)
        return InfillCase(text[: found[1]], text[found[1] : found[2]], text[found[2] :]) if found else None

    return draw_at_random_offsets(texts, count, rng, one)


def draw_blocks(texts: Sequence[str], count: int, rng: random.Random) -> list[InfillCase]:
    """The body of a statement, from behind its colon to the dedent; no body that begins with a docstring."""

    def one(text: str, at: int) -> InfillCase | None:
        head = BLOCK_HEAD.search(text, at)
        if head is None:
            return None
        end = head.end() - 1
        body = truncate_block(text[end:], measure_indentation(head.group()), MAX_BLOCK_LINES + 1)
        lines = body.count("\n")
        if not 1 <= lines <= MAX_BLOCK_LINES or body.lstrip().startswith(("#", '"', "'", 'r"')):
            return None
        return InfillCase(text[:end], body, text[end + len(body) :])

    return draw_at_random_offsets(texts, count, rng, one)


def measure_indentation(line: str) -> int:
    """How far a line is indented, in characters."""
    return len(line) - len(line.lstrip(" \t"))


def truncate_block(text: str, outer: int, most: int = MAX_BLOCK_LINES) -> str:
    """The lines behind the first line break that are indented deeper than `outer`, at most so many."""
    first, *rest = text.split("\n")
    kept = [first]
    for line in rest[:most]:
        if line.strip() and measure_indentation(line) <= outer:
            break
        kept.append(line)
    return "\n".join(kept).rstrip()


def _measure_outer_indentation(hole: InfillCase) -> int:
    return measure_indentation(hole.prefix[samples.find_line_start(hole.prefix, len(hole.prefix)) :])


def _is_block_finished(text: str, hole: InfillCase) -> bool:
    lines = text.split("\n")[1:]
    outer = _measure_outer_indentation(hole)
    return len(lines) > MAX_BLOCK_LINES or any(line.strip() and measure_indentation(line) <= outer for line in lines)


def take_first_line(text: str, hole: InfillCase) -> str:
    """What of an answer belongs on the cursor's line."""
    return text.split("\n")[0].rstrip()


INFILL_TASKS = (
    InfillTask("rest of line", draw_rests_of_lines, take_first_line, lambda text, hole: "\n" in text, 48),
    InfillTask(
        "next line, from its indentation",
        draw_lines_from_indentation,
        take_first_line,
        lambda text, hole: "\n" in text,
        48,
    ),
    InfillTask(
        "next line, from the line above",
        draw_lines_from_above,
        lambda text, hole: "\n".join(text.split("\n")[:2]).rstrip(),
        lambda text, hole: text.count("\n") > 1,
        56,
    ),
    InfillTask(
        "block",
        draw_blocks,
        lambda text, hole: truncate_block(text, _measure_outer_indentation(hole)),
        _is_block_finished,
        128,
    ),
)


def generate_answers(model: Model, measure: InfillTask, holes: Sequence[InfillCase], with_suffix: bool) -> list[str]:
    """The model's answers, cut to what counts."""
    asked = [
        model.make_request(
            truncate_prefix(hole.prefix),
            hole.suffix[:SUFFIX_CHARS] if with_suffix else "",
            lambda text, hole=hole: measure.is_finished(text, hole),  # type: ignore[misc]
            measure.max_tokens,
        )
        for hole in holes
    ]
    answers = model.generate_greedy(asked, measure.max_tokens)
    return [measure.truncate_answer(answer, hole) for answer, hole in zip(answers, holes, strict=True)]


def copy_longest_match(hole: InfillCase, measure: InfillTask, with_suffix: bool) -> str:
    """What followed the longest earlier match of what stands before the cursor, in the same window."""
    context = truncate_prefix(hole.prefix)
    around = (context, hole.suffix[:SUFFIX_CHARS]) if with_suffix else (context,)
    for length in range(min(60, len(context)), 2, -1):
        beginning = context[-length:]
        for text in around:
            at = text.rfind(beginning, 0, len(text) - 1 if text is context else len(text))
            if at >= 0:
                return measure.truncate_answer(text[at + length :], hole)
    return ""


def score_exact(answers: Iterable[str], holes: Iterable[InfillCase]) -> Proportion:
    """The share of answers that are what stood there."""
    return Proportion.from_results(answer == hole.middle.rstrip() for answer, hole in zip(answers, holes, strict=True))
