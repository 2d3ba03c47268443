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
from training.figures import Bits, Share
from training.writer import Model

LANGUAGES = {
    "python": (".py", ".pyi"),
    "javascript/typescript": (".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".mts"),
    "c": (".c", ".h"),
    "markdown": (".md", ".markdown"),
    "toml/json/yaml": (".toml", ".json", ".yaml", ".yml"),
    "shell": (".sh", ".bash"),
}
BEFORE, AFTER = 1600, 600  # characters of prefix and suffix that every model is shown
LONGEST_BLOCK = 6
MOST_OF_A_FILE = 24_000  # characters
HEAD = re.compile(r"^([ \t]*)(?:def|class|if|elif|else|for|while|with|try|except|finally|async)\b.*:\n", re.M)
SKIPPED = {".git", ".venv", "node_modules", "__pycache__", "build", "dist", "work"}


@dataclass(frozen=True, slots=True)
class Hole:
    """A cursor: what stands before it, what should be written there, and what follows."""

    prefix: str
    middle: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Measure:
    """A kind of hole: where they lie, and what of an answer counts."""

    name: str
    holes: Callable[[Sequence[str], int, random.Random], list[Hole]]
    cut: Callable[[str, Hole], str]
    finished: Callable[[str, Hole], bool]
    tokens: int


def language(path: str) -> str | None:
    """By the file's suffix."""
    return next((name for name, ends in LANGUAGES.items() if path.endswith(ends)), None)


def by_language(files: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Texts of (path, text) per language, in the table's order; other files are left out."""
    found: dict[str, list[str]] = {name: [] for name in LANGUAGES}
    for path, text in files:
        if text.strip() and (name := language(path)):
            found[name].append(text)
    return {name: texts for name, texts in found.items() if texts}


def files_under(folder: Path) -> Iterator[tuple[str, str]]:
    """Paths and texts of a folder's files that are in a known language and are no build products."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and language(path.name) and SKIPPED.isdisjoint(inside.parts):
            try:
                yield str(inside), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def chosen(texts: Sequence[str], limit: int, seed: int = 1) -> list[str]:
    """Files in an order that mixes the packages, until about `limit` bytes; of a large file the first part."""
    order, size, found = list(texts), 0, list[str]()
    random.Random(seed).shuffle(order)
    for text in order:
        if size >= limit:
            break
        text = text[:MOST_OF_A_FILE]
        found.append(text)
        size += len(text.encode())
    return found


def bits_per_byte(model: Model, texts: Sequence[str]) -> Bits:
    """Over all of the texts."""
    return Bits(sum(model.bits(text) for text in texts), sum(len(text.encode()) for text in texts), len(texts))


def fitting_prefix(prefix: str, characters: int = BEFORE) -> str:
    """The end of the prefix, from the start of a line."""
    start = max(0, len(prefix) - characters)
    return prefix[start:] if start == 0 else prefix[prefix.find("\n", start) + 1 :]


def code_line(line: str) -> bool:
    """Whether a line is worth asking for: code, neither a comment nor the first line of a string."""
    return len(line.strip()) >= 8 and not line.lstrip().startswith(("#", '"', "'", "//", "/*", "*"))


def drawn(texts: Sequence[str], count: int, rng: random.Random, one: Callable[[str, int], Hole | None]) -> list[Hole]:
    """Holes at places drawn evenly; fewer where the texts hold too few."""
    found: list[Hole] = []
    for _ in range(count * 200):
        if len(found) == count or not texts:
            break
        text = rng.choice(texts)
        if text and (hole := one(text, rng.randrange(len(text)))):
            found.append(hole)
    return found


def rests_of_lines(texts: Sequence[str], count: int, rng: random.Random) -> list[Hole]:
    """Cursors at word boundaries inside lines of code, with something left to write."""

    def one(text: str, at: int) -> Hole | None:
        start, end = samples.line_start(text, at), samples.line_end(text, at)
        line = text[start:end]
        if not code_line(line):
            return None
        stops = [m.start() for m in re.finditer(r"\b", line) if m.start() < len(line.rstrip()) - 1]
        cursor = start + rng.choice(stops or [0])
        return Hole(text[:cursor], text[cursor:end], text[end:])

    return drawn(texts, count, rng, one)


def _next_line(text: str, at: int) -> tuple[int, int, int] | None:
    """The end of the line at a place, and start (behind the indentation) and end of the next, where both are code."""
    above = samples.line_end(text, at)
    start, end = above + 1, samples.line_end(text, min(above + 1, len(text)))
    if start >= len(text) or not code_line(text[start:end]) or not text[samples.line_start(text, at) : above].strip():
        return None
    return above, start + len(text[start:end]) - len(text[start:end].lstrip()), end


def lines_from_above(texts: Sequence[str], count: int, rng: random.Random) -> list[Hole]:
    """The line below the cursor, which stands at the end of a line: line break, indentation and all."""

    def one(text: str, at: int) -> Hole | None:
        found = _next_line(text, at)
        return Hole(text[: found[0]], text[found[0] : found[2]], text[found[2] :]) if found else None

    return drawn(texts, count, rng, one)


def lines_from_indentation(texts: Sequence[str], count: int, rng: random.Random) -> list[Hole]:
    """The line that the cursor stands on, behind its indentation."""

    def one(text: str, at: int) -> Hole | None:
        found = _next_line(text, at)
        return Hole(text[: found[1]], text[found[1] : found[2]], text[found[2] :]) if found else None

    return drawn(texts, count, rng, one)


def blocks(texts: Sequence[str], count: int, rng: random.Random) -> list[Hole]:
    """The body of a statement, from behind its colon to the dedent; no body that begins with a docstring."""

    def one(text: str, at: int) -> Hole | None:
        head = HEAD.search(text, at)
        if head is None:
            return None
        end = head.end() - 1
        body = block(text[end:], margin(head.group()), LONGEST_BLOCK + 1)
        lines = body.count("\n")
        if not 1 <= lines <= LONGEST_BLOCK or body.lstrip().startswith(("#", '"', "'", 'r"')):
            return None
        return Hole(text[:end], body, text[end + len(body) :])

    return drawn(texts, count, rng, one)


def margin(line: str) -> int:
    """How far a line is indented, in characters."""
    return len(line) - len(line.lstrip(" \t"))


def block(text: str, outer: int, most: int = LONGEST_BLOCK) -> str:
    """The lines behind the first line break that are indented deeper than `outer`, at most so many."""
    first, *rest = text.split("\n")
    kept = [first]
    for line in rest[:most]:
        if line.strip() and margin(line) <= outer:
            break
        kept.append(line)
    return "\n".join(kept).rstrip()


def _outer(hole: Hole) -> int:
    return margin(hole.prefix[samples.line_start(hole.prefix, len(hole.prefix)) :])


def _block_is_over(text: str, hole: Hole) -> bool:
    lines = text.split("\n")[1:]
    outer = _outer(hole)
    return len(lines) > LONGEST_BLOCK or any(line.strip() and margin(line) <= outer for line in lines)


def first_line(text: str, hole: Hole) -> str:
    """What of an answer belongs on the cursor's line."""
    return text.split("\n")[0].rstrip()


MEASURES = (
    Measure("rest of line", rests_of_lines, first_line, lambda text, hole: "\n" in text, 48),
    Measure("next line, from its indentation", lines_from_indentation, first_line, lambda text, hole: "\n" in text, 48),
    Measure(
        "next line, from the line above",
        lines_from_above,
        lambda text, hole: "\n".join(text.split("\n")[:2]).rstrip(),
        lambda text, hole: text.count("\n") > 1,
        56,
    ),
    Measure("block", blocks, lambda text, hole: block(text, _outer(hole)), _block_is_over, 128),
)


def written(model: Model, measure: Measure, holes: Sequence[Hole], with_suffix: bool) -> list[str]:
    """The model's answers, cut to what counts."""
    asked = [
        model.at_cursor(
            fitting_prefix(hole.prefix),
            hole.suffix[:AFTER] if with_suffix else "",
            lambda text, hole=hole: measure.finished(text, hole),  # type: ignore[misc]
            measure.tokens,
        )
        for hole in holes
    ]
    answers = model.texts(asked, measure.tokens)
    return [measure.cut(answer, hole) for answer, hole in zip(answers, holes, strict=True)]


def copied(hole: Hole, measure: Measure, with_suffix: bool) -> str:
    """What followed the longest earlier match of what stands before the cursor, in the same window."""
    context = fitting_prefix(hole.prefix)
    around = (context, hole.suffix[:AFTER]) if with_suffix else (context,)
    for length in range(min(60, len(context)), 2, -1):
        beginning = context[-length:]
        for text in around:
            at = text.rfind(beginning, 0, len(text) - 1 if text is context else len(text))
            if at >= 0:
                return measure.cut(text[at + length :], hole)
    return ""


def exact(answers: Iterable[str], holes: Iterable[Hole]) -> Share:
    """The share of answers that are what stood there."""
    return Share.of(answer == hole.middle.rstrip() for answer, hole in zip(answers, holes, strict=True))
