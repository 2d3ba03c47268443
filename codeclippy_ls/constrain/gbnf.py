"""GBNF grammar of a unified diff of one document, for services that constrain a model, and how to apply such a diff.

llama.cpp and xgrammar read GBNF: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md

It is the language of `grammar` without the parts that need a tokenizer: hunks begin at a line of the document and
continue with its lines, in order, kept or removed; only added lines are the model's own. A hunk changes something and
has a line of the document, so that it can be located; hunks come in order. Counts are the model's and are ignored. A
diff that followed the grammar applies as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

MAX_LINES = 400  # the grammar has five rules for each, and services parse it for each request
_MAX_LINE = 400  # characters of an added line
_HEADER = re.compile(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@")
# Characters that a string of the grammar must escape.
_ESCAPES = {ord("\\"): "\\\\", ord('"'): '\\"', ord("\t"): "\\t", ord("\r"): "\\r"}


def write_gbnf(lines: Sequence[str]) -> str:
    """Write the grammar of all diffs of a document's lines; empty if there are too many.

    Args:
        lines: without their ends.
    """
    if len(lines) > MAX_LINES:
        return ""
    return "\n".join(_generate_rules(lines)) + "\n"


def _generate_rules(lines: Sequence[str]) -> Iterator[str]:
    """Yield the rules, one for each state.

    ``t``: the number of a hunk's first line. Within a hunk, before line i: ``s`` start, ``u`` lines were kept, ``x``
    lines were added, ``c`` something was changed and a document line was used.
    """
    count = len(lines)
    yield 'n ::= [0-9]{1,4} ("," [0-9]{1,4})?'
    yield f'add ::= "+" [^\\r\\n]{{0,{_MAX_LINE}}} "\\n"'
    if not count:
        yield 'root ::= " "? "@@ -0,0 +" n " @@\\n" add+'
        return
    yield 'root ::= " "? "@@ -" t0'
    for index, line in enumerate(lines):
        keep, drop = (f'"{line_type}{line.translate(_ESCAPES)}\\n"' for line_type in " -")
        after = index + 1
        later = f" | t{after}" if after < count else ""
        yield f't{index} ::= "{after}" ("," [0-9]{{1,4}})? " +" n " @@\\n" s{index}{later}'
        yield f"s{index} ::= {keep} u{after} | {drop} c{after} | add x{index}"
        yield f"u{index} ::= {keep} u{after} | {drop} c{after} | add c{index}"
        yield f"x{index} ::= {keep} c{after} | {drop} c{after} | add x{index}"
        yield f'c{index} ::= {keep} c{after} | {drop} c{after} | add c{index} | "" | "@@ -" t{index}'
    yield f"u{count} ::= add c{count}"
    yield f'c{count} ::= add c{count} | ""'


def apply_gbnf_diff(text: str, lines: Sequence[str], complete: bool) -> list[str] | None:
    """Apply a diff to the document's lines; return ``None`` if it did not follow the grammar.

    Args:
        complete: the model ended the diff; else its last hunk is dropped.
    """
    *diff_lines, rest = text.removeprefix(" ").split("\n")
    if rest and complete:
        return None
    result: list[str] = []
    finished: tuple[int, int] = (0, 0)  # lines of the result and of the document at the last hunk's end
    at = 0
    for number, line in enumerate(diff_lines):
        line_type, body = line[:1], line[1:]
        if line_type == "@":
            header = _HEADER.fullmatch(line)
            start = max(int(header[1]) - 1, 0) if header else -1
            if not at <= start <= len(lines):
                return None
            result += lines[at:start]
            finished, at = (len(result), start), start
        elif not number:
            return None
        elif line_type == "+":
            result.append(body)
        elif line_type in (" ", "-") and at < len(lines) and body == lines[at]:
            at += 1
            result += [body] if line_type == " " else []
        else:
            return None
    if not complete and not rest.startswith("@"):
        del result[finished[0] :]
        at = finished[1]
    return result + list(lines[at:])
