"""Places in real files whose next text is known: the rest of a line, what closes a bracket, the next block.

Knows files and the table of languages; nothing of suggestions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from codeclippy_ls.syntax.languages import BlockStyle, Language

_MAX_BYTES, _MIN_BYTES = 60_000, 400
_MAX_BLOCK = 8  # lines
_WORD_BORDER = re.compile(r"(?<!\w)(?=\w)|(?<=\w)(?=\W)|(?<=\s)(?=\S)")
_ELEMENT = re.compile(r"<([A-Za-z][\w.-]*)(?:\s[^<>]*)?(?<!/)>")
_TAGGED = ("typescriptreact", "javascript")  # beside those whose blocks are tags


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor in a file whose next text is known.

    Attributes:
        answer: the text at the cursor in the file.
        closed: the text that the editor has put behind the cursor.
    """

    kind: str
    language: Language
    path: Path
    prefix: str
    answer: str
    suffix: str
    closed: str = ""

    @property
    def text(self) -> str:
        """The file's text, which a kept suggestion gives again."""
        return self.prefix + self.answer + self.suffix


def find_files(folders: Sequence[str], language: Language, limit: int, chance: random.Random) -> list[Path]:
    """Find readable files of a language, at random, at most ``limit`` of them."""
    found: list[Path] = []
    for folder in folders:
        for suffix in language.suffixes:
            found += list(Path(folder).rglob(f"*{suffix}"))[:20_000]
    chance.shuffle(found)
    kept: list[Path] = []
    for path in found:
        if len(kept) >= limit:
            break
        try:
            if path.is_file() and _MIN_BYTES < path.stat().st_size < _MAX_BYTES and _is_source(path.read_text("utf-8")):
                kept.append(path)
        except (OSError, UnicodeDecodeError):
            continue
    return kept


def _is_source(text: str) -> bool:
    lines = text.split("\n")
    return "\r" not in text and "\f" not in text and len(lines) > 15 and max(map(len, lines)) < 300


def find_places(path: Path, language: Language, chance: random.Random, count: int = 1) -> Iterator[Place]:
    """Yield up to ``count`` places of each kind in a file."""
    text = path.read_text("utf-8")
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    numbers = [number for number, line in enumerate(lines) if len(line.strip()) > 5]
    for number in chance.sample(numbers, min(count, len(numbers))):
        start, line = starts[number], lines[number]
        cuts = [match.start() for match in _WORD_BORDER.finditer(line) if line[: match.start()].strip()]
        if cuts and line[(cut := chance.choice(cuts)) :].strip():
            end = start + len(line.rstrip())
            yield Place("rest of line", language, path, text[: start + cut], text[start + cut : end], text[end:])
        last = _find_block_end(lines, number)
        if last > number:
            start += len(line) - len(line.lstrip())
            end = starts[last] + len(lines[last].rstrip())
            yield Place("block", language, path, text[:start], text[start:end], text[end:])
    for number in chance.sample(numbers, min(4 * count, len(numbers)))[:count]:
        closing = list(_find_closed(lines[number], language))
        if closing:
            cut, end, closed = chance.choice(closing)
            start, line = starts[number], lines[number]
            yield Place("closed", language, path, text[: start + cut], line[cut:end], text[start + end :], closed)


def _find_closed(line: str, language: Language) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, closing) of the rest of lines whose typed brackets, quotes or tags the editor has closed."""
    end = len(line.rstrip())
    for start, closing in _find_opened(line, language):
        rest = line[start:end]
        if line[:start].strip() and rest.strip() and _closes(rest, closing):
            yield start, end, "".join(closing)
    if language.style is BlockStyle.TAGS or language.id in _TAGGED:
        for match in _ELEMENT.finditer(line):
            if f"</{match[1]}>" in line[match.end() + 1 : end]:
                yield match.end(), end, f"</{match[1]}>"


def _find_opened(line: str, language: Language) -> Iterator[tuple[int, list[str]]]:
    """Yield the columns behind an opened pair, or before a word in one, with all that is to close there."""
    opens = {pair[0]: pair[1] for pair in language.pairs if pair[0] != pair[1]}
    quotes = {pair[0] for pair in language.pairs if pair[0] == pair[1]}
    stack: list[str] = []
    quote = ""
    for index, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
            continue
        if character in "\"'`":
            quote = character
            before = line[index - 1 : index]
            if character in quotes and not before.isalnum() and before != character:
                yield index + 1, [quote, *reversed(stack)]
            continue
        if character in opens:
            stack.append(opens[character])
        elif stack and character == stack[-1]:
            stack.pop()
        if stack and (character in opens or line[index + 1 : index + 2].isalnum()):
            yield index + 1, stack[::-1]


def _closes(rest: str, closing: Sequence[str]) -> bool:
    """Return whether the rest of a line closes all that is open, the innermost first."""
    left = list(reversed(closing))
    if left[-1] in "\"'`":
        body, found, rest = rest.partition(left.pop())
        if not found or "\\" in body:
            return False
    for character in rest:
        if not left:
            return True
        if character in "([{<":
            left.append({"(": ")", "[": "]", "{": "}", "<": ">"}[character])
        elif character == left[-1]:
            left.pop()
    return not left


def _find_block_end(lines: list[str], first: int) -> int:
    """Return the last line of the block that begins at a line: up to eight lines that are not indented less."""
    indent = len(lines[first]) - len(lines[first].lstrip())
    last = first
    for number in range(first + 1, min(first + _MAX_BLOCK, len(lines))):
        line = lines[number]
        if line.strip() and len(line) - len(line.lstrip()) < indent:
            break
        if line.strip():
            last = number
    return last
