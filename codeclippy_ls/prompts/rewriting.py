"""Ask a model to write lines anew, and read its answer. Knows text only.

Measured with Qwen2.5-Coder-0.5B-Instruct on instructed edits with tests (`bench.edits --set instructed`): the code in a
fence, then the message as it is, and an answer that is begun for the model, with a sentence and the opening fence, is
right more than twice as often as a unified diff.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from codeclippy_ls.families import Control, Family
from codeclippy_ls.prompts.context import EditTarget
from codeclippy_ls.syntax.languages import find_language, write_comment
from codeclippy_ls.text import find_common_indent, remove_indent

_TICKS = re.compile(r"\s*(`{3,})")
_ANSWER = "Here is the updated code:\n\n"
_NEW_FILE = "Write the file {name}: {message}"


@dataclass(frozen=True, slots=True)
class RewriteRequest:
    """A user's message, and the text that the answer begins with.

    Attributes:
        fence: the line that ends the answer.
        indent: what all lines with text begin with; they are shown and written without it.
    """

    message: str
    answer_start: str
    fence: str
    indent: str = ""


def format_rewrite(target: EditTarget) -> RewriteRequest:
    """Format the request to write a document's lines anew."""
    fence, indent = choose_fence(target.lines), find_common_indent(target.lines)
    opening = f"{fence}{target.language}\n"
    message = target.message.strip()
    if target.is_new:
        return RewriteRequest(_NEW_FILE.format(name=target.name or "file", message=message), _ANSWER + opening, fence)
    code = "".join(line + "\n" for line in remove_indent(target.lines, indent))
    return RewriteRequest(f"{opening}{code}{fence}\n\n{message}", _ANSWER + opening, fence, indent)


def format_window(target: EditTarget, family: Family) -> list[str | Control]:
    """Format the request for the next version of a document's lines, in the format of the Sweep models.

    https://huggingface.co/sweepai/sweep-next-edit-0.5B has it: the file, then the lines as they were, as they are, and
    as they will be. The message is a comment above the lines as they are.
    """
    name, separator = target.name or "file", Control(family.file_token)
    code = "".join(line + "\n" for line in target.lines)
    around = "".join(line + "\n" for line in (*target.above, *target.lines, *target.below))
    note = format_note(target)
    return [
        *(separator, f"{name}\n{around}"),
        *(separator, f"original/{name}\n{code}"),
        *(separator, f"current/{name}\n{note}{code}"),
        *(separator, f"updated/{name}\n"),
    ]


def format_note(target: EditTarget) -> str:
    """Format the message as a comment, indented like the first line."""
    first = next((line for line in target.lines if line.strip()), "")
    indent = first[: len(first) - len(first.lstrip())]
    lines = [f"TODO: {line}" for line in target.message.strip().split("\n")]
    comment = write_comment(lines, find_language(target.language)) or "".join(f"# {line}\n" for line in lines)
    return "".join(f"{indent}{line}\n" for line in comment.splitlines())


def choose_fence(lines: Sequence[str]) -> str:
    """Return a fence that no line could be taken for."""
    ticks = [len(match[1]) for line in lines if (match := _TICKS.match(line))]
    return "`" * max(3, *(size + 1 for size in ticks)) if ticks else "```"


def is_fence_closed(text: str, fence: str) -> bool:
    """Return whether an answer that was begun with a fence has a whole line that ends it."""
    return re.search(rf"^{fence}[ \t]*\n", text, re.MULTILINE) is not None


def extract_window(text: str, target: EditTarget) -> list[str]:
    """Return the lines that the next version of a document's lines has, without the message's comment."""
    note = {line.strip() for line in format_note(target).split("\n") if line.strip()}
    return [line for line in text.removesuffix("\n").split("\n") if line.strip() not in note] if text.strip() else []


def extract_lines(text: str, fence: str, old: Sequence[str], is_begun: bool, is_ended: bool) -> list[str] | None:
    """Return the lines that an answer writes; ``None`` if they are not whole, or not in a fence.

    Args:
        old: the lines that were shown.
        is_begun: the answer began with the fence. If it was not, or the answer opens a fence of its own all the same,
            the block that is most like the old lines without being the same counts.
        is_ended: the model ended the answer.
    """
    lines = text.removesuffix("\n").split("\n")
    first = next((line for line in lines if line.startswith(fence)), "")
    if is_begun and not _opens_fence(first, fence):
        end = next((at for at, line in enumerate(lines) if line.rstrip() == fence), None)
        if end is None and not is_ended:
            return None
        return lines[:end] if any(line.strip() for line in lines[:end]) else []
    blocks = _find_blocks(lines, fence)
    return max(blocks, key=lambda block: (block != [*old], _count_common(block, old))) if blocks else None


def _find_blocks(lines: Sequence[str], fence: str) -> list[list[str]]:
    """Find the blocks of an answer that a fence opens and another one closes."""
    blocks: list[list[str]] = []
    block: list[str] | None = None
    for line in lines:
        if block is None:
            block = [] if line.startswith(fence) else None
        elif line.rstrip() == fence:
            blocks.append(block)
            block = None
        else:
            block.append(line)
    return blocks


def _opens_fence(line: str, fence: str) -> bool:
    """Return whether a line opens a fence with a language, and so does not close one."""
    return line.startswith(fence) and line[len(fence) :].strip() != "" and "`" not in line[len(fence) :]


def _count_common(lines: Sequence[str], old: Sequence[str]) -> int:
    """Count the lines that are among the old ones, less those that are not."""
    known = {line.strip() for line in old}
    return sum(1 if line.strip() in known else -1 for line in lines if line.strip())
