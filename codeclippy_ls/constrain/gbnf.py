"""The grammar of a unified diff of one document, for services that constrain a model, and what such a diff does.

The grammar is written in GBNF, as llama.cpp and xgrammar read it.

It is the language of ``diff`` without what needs a tokenizer: hunks begin at a line of the document and go on with its
lines, in order, kept or removed; only added lines are the model's own. A hunk changes something and has a line of the
document, so that it can be placed; hunks come in order. Counts are the model's and mean nothing. A diff that followed
it applies as it stands. GBNF: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

MOST_LINES = 400  # the grammar has five rules for each, and services read it anew for each request
_LONGEST_LINE = 400  # characters of an added line
_HEADER = re.compile(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@")
# What stands in a string of the grammar only in another spelling.
_ESCAPED = {ord("\\"): "\\\\", ord('"'): '\\"', ord("\t"): "\\t", ord("\r"): "\\r"}


def write_gbnf(lines: Sequence[str]) -> str:
    """The grammar of all diffs of a document's lines; nothing where there are too many.

    Args:
        lines: without their ends.
    """
    if len(lines) > MOST_LINES:
        return ""
    return "\n".join(_rules(lines)) + "\n"


def _rules(lines: Sequence[str]) -> Iterator[str]:
    """Yield the rules, one for each state.

    ``t``: the number of a hunk's first line. Within a hunk, before line i: ``s`` nothing was written, ``u`` lines were
    kept, ``x`` lines were added, ``c`` something was changed and a line stands there.
    """
    count = len(lines)
    yield 'n ::= [0-9]{1,4} ("," [0-9]{1,4})?'
    yield f'add ::= "+" [^\\r\\n]{{0,{_LONGEST_LINE}}} "\\n"'
    if not count:
        yield 'root ::= " "? "@@ -0,0 +" n " @@\\n" add+'
        return
    yield 'root ::= " "? "@@ -" t0'
    for index, line in enumerate(lines):
        keep, drop = (f'"{sign}{line.translate(_ESCAPED)}\\n"' for sign in " -")
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
    """The document's lines after a diff that followed the grammar; ``None`` where it did not.

    Args:
        complete: whether the model came to its end; else the hunk under way is left out.
    """
    *written, rest = text.removeprefix(" ").split("\n")
    if rest and complete:
        return None
    made: list[str] = []
    safe: tuple[int, int] = (0, 0)  # what is made, and what was read, at the last hunk's end
    at = 0
    for number, line in enumerate(written):
        sign, body = line[:1], line[1:]
        if sign == "@":
            header = _HEADER.fullmatch(line)
            start = max(int(header[1]) - 1, 0) if header else -1
            if not at <= start <= len(lines):
                return None
            made += lines[at:start]
            safe, at = (len(made), start), start
        elif not number:
            return None
        elif sign == "+":
            made.append(body)
        elif sign in (" ", "-") and at < len(lines) and body == lines[at]:
            at += 1
            made += [body] if sign == " " else []
        else:
            return None
    if not complete and not rest.startswith("@"):
        del made[safe[0] :]
        at = safe[1]
    return made + list(lines[at:])
