"""Leave out of a task what must not leave this machine: files and lines that hold secrets. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from codeclippy_ls.prompts.context import CompletionContext
from codeclippy_ls.prompts.control_tokens import RefusedTextError
from codeclippy_ls.prompts.text_prompts import TextPrompt
from codeclippy_ls.secret_files import is_secret_path
from codeclippy_ls.secret_text import find_secret_lines, holds_secret
from codeclippy_ls.tasks.edit_context import EditContext

_CHARACTERS_PER_TOKEN = 2  # at most, of a prompt as text
_SLACK = 8000  # characters beyond the window: most private keys are shorter, and their ends are known without the rest


def refuse_secret_file(name: str, is_secret: bool) -> None:
    """Refuse a file that may hold keys or passwords, by its path (``is_secret``) or its name.

    Raises:
        RefusedTextError: it may.
    """
    if is_secret or is_secret_path(name):
        raise RefusedTextError(
            f"{name} may hold keys or passwords; such files never leave this machine, and the model runs elsewhere"
        )


def redact_context(context: CompletionContext, context_length: int) -> CompletionContext:
    """Return the context of a cursor without snippets and lines that hold secrets.

    Args:
        context_length: tokens of the prompt; text that no such prompt shows as it stands is not looked at.

    Raises:
        RefusedTextError: the cursor's own line holds one.
    """
    reach = context_length * _CHARACTERS_PER_TOKEN + _SLACK
    head, prefix = context.prefix[:-reach], context.prefix[-reach:]
    suffix = context.suffix[:reach]
    spans = find_secret_lines(prefix + suffix)
    cursor = len(prefix)
    if any(start <= cursor < end or (start < cursor <= end and not _ends_line(prefix)) for start, end in spans):
        raise RefusedTextError("the line of the cursor holds what looks like a key, token or password")
    snippets = tuple(
        snippet
        for snippet in context.snippets
        if not is_secret_path(snippet.path) and not holds_secret(f"{snippet.path}\n{snippet.text}")
    )
    before = [span for span in spans if span[1] <= cursor]
    after = [(start - cursor, end - cursor) for start, end in spans if start >= cursor]
    return replace(context, prefix=head + _cut(prefix, before), suffix=_cut(suffix, after), snippets=snippets)


def select_clean_lines(context: EditContext) -> tuple[int, int]:
    """Return the lines ``[start, end)`` around the selection of an edit that hold no secret.

    Raises:
        RefusedTextError: the selection holds one.
    """
    position, offsets = 0, [0]
    for line in context.lines:
        position += len(line) + 1
        offsets.append(position)
    start, end = 0, len(context.lines)
    for first, last in find_secret_lines("".join(f"{line}\n" for line in context.lines)):
        first_line, last_line = offsets.index(first), offsets.index(last)
        if last_line <= context.first:
            start = last_line
        elif first_line > context.last:
            end = min(end, first_line)
        else:
            raise RefusedTextError(
                "the selected lines hold what looks like a key, token or password; select others, or take it out"
            )
    return start, end


def drop_secret_lines(lines: Sequence[str]) -> tuple[str, ...]:
    """Return lines without those that hold secrets."""
    text = "".join(f"{line}\n" for line in lines)
    return tuple(_cut(text, list(find_secret_lines(text))).split("\n")[:-1]) if lines else ()


def check_prompt(prompt: TextPrompt) -> TextPrompt:
    """Return a prompt that holds no secret; the message of an edit may, or an outline of distant lines.

    Raises:
        RefusedTextError: it does.
    """
    if holds_secret(prompt.text) or (prompt.suffix and holds_secret(prompt.suffix)):
        raise RefusedTextError("the text to send holds what looks like a key, token or password")
    return prompt


def _ends_line(prefix: str) -> bool:
    return not prefix or prefix[-1] in "\r\n"


def _cut(text: str, spans: list[tuple[int, int]]) -> str:
    """Return a text without the spans."""
    kept, position = [], 0
    for start, end in spans:
        kept.append(text[position:start])
        position = end
    return "".join((*kept, text[position:]))
