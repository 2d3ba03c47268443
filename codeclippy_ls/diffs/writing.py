"""Write unified diffs that `patch -p1` and `git apply` accept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from codeclippy_ls.line_diff import LineChange, find_changes

_NO_NEWLINE = "\\ No newline at end of file\n"
_ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r", '"': '\\"', "\\": "\\\\"}


def write_diff(before: str, after: str, name: str, context: int = 3) -> str:
    """Write the diff that turns one text into the other; empty if they are equal.

    Lines end at LF only, as for all tools that read diffs; CR is part of a line.

    Args:
        before: the old text.
        after: the new text.
        name: the file's path, relative to where the diff is applied.
        context: kept lines around a change.
    """
    old, new = _split_lines(before), _split_lines(after)
    changes = find_changes(old, new)
    rows = [f"--- {_quote_path(f'a/{name}')}\n", f"+++ {_quote_path(f'b/{name}')}\n"] if changes else []
    for group in _group(changes, context):
        rows += _write_hunk(old, new, group, context)
    return "".join(rows)


def _group(changes: Sequence[LineChange], context: int) -> Iterator[list[LineChange]]:
    """Yield the changes of each hunk: those whose context touches."""
    group: list[LineChange] = []
    for change in changes:
        if group and change.start - group[-1].end > 2 * context:
            yield group
            group = []
        group.append(change)
    if group:
        yield group


def _write_hunk(old: Sequence[str], new: Sequence[str], changes: Sequence[LineChange], context: int) -> list[str]:
    """Return the rows of a hunk, with its header."""
    first, last = changes[0], changes[-1]
    above, below = min(first.start, context), min(len(old) - last.end, context)
    spans = (first.start - above, last.end + below), (first.new_start - above, last.new_end + below)
    rows = ["@@ -{} +{} @@\n".format(*(_format_range(start, end) for start, end in spans))]
    at = spans[0][0]
    for change in changes:
        rows += [_write_row(" ", line) for line in old[at : change.start]]
        rows += [_write_row("-", line) for line in old[change.start : change.end]]
        rows += [_write_row("+", line) for line in new[change.new_start : change.new_end]]
        at = change.end
    return rows + [_write_row(" ", line) for line in old[at : spans[0][1]]]


def _format_range(start: int, end: int) -> str:
    """Format the lines ``[start, end)`` as a header does; of no lines, it names the line before."""
    if end - start == 1:
        return str(start + 1)
    return f"{start + 1 if end > start else start},{end - start}"


def _write_row(line_type: str, line: str) -> str:
    return f"{line_type}{line}" if line.endswith("\n") else f"{line_type}{line}\n{_NO_NEWLINE}"


def _split_lines(text: str) -> list[str]:
    *complete, rest = text.split("\n")
    return [line + "\n" for line in complete] + ([rest] if rest else [])


def _quote_path(path: str) -> str:
    """Write a path as git does: in quotes if it has control characters, followed by a tab if it has spaces."""
    if any(char in _ESCAPES or char < " " for char in path):
        return '"' + "".join(_ESCAPES.get(char, char if char >= " " else f"\\{ord(char):03o}") for char in path) + '"'
    return path + "\t" if " " in path else path
