"""Write findings as excerpts, one for each file: what a reader of the file would see of it, without bodies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from codeclippy_ls.index.question import Finding
from codeclippy_ls.syntax.declarations import Declaration
from codeclippy_ls.syntax.languages import BlockStyle, language_of_file

# Of fewer characters, definitions are worth more than words about them: at 900, the names that the next line needs are
# among them at 52 % of the places instead of 47 % (bench.cross_file --recall).
_MIN_FOR_DOCS = 2400
_PATH_COST = 12  # characters beside the path that an excerpt costs


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Text of another file that a place needs.

    Attributes:
        path: relative to the folder.
        score: of its most needed part.
        reasons: why, the most needed first.
    """

    path: str
    text: str
    score: float
    reasons: tuple[str, ...]


def write_excerpts(findings: Sequence[Finding], limit: int) -> list[Excerpt]:
    """Write the most needed findings, ``limit`` characters together; the most needed file comes last."""
    if limit < _MIN_FOR_DOCS:
        findings = [_drop_docs(finding) for finding in findings]
    chosen: dict[str, list[Finding]] = {}
    for finding in findings:
        kept = chosen.get(finding.path, [])
        before = len(_write(finding.path, kept)) if kept else 0
        cost = len(_write(finding.path, [*kept, finding])) - before + (0 if kept else len(finding.path) + _PATH_COST)
        if cost <= limit:
            limit -= cost
            chosen[finding.path] = [*kept, finding]
    excerpts = [
        Excerpt(path, _write(path, found), found[0].score, tuple(dict.fromkeys(one.reason for one in found)))
        for path, found in chosen.items()
    ]
    return sorted(excerpts, key=lambda excerpt: excerpt.score)


def _drop_docs(finding: Finding) -> Finding:
    """Return a finding without the first line of what is documented."""
    declaration, owner = (
        replace(one, doc="") if one is not None else None for one in (finding.declaration, finding.owner)
    )
    return replace(finding, declaration=declaration, owner=owner)


def _write(path: str, findings: Iterable[Finding]) -> str:
    """Write the findings of a file in the order in which they stand there, members below their class."""
    language = language_of_file(path)
    is_python = language is not None and language.style is BlockStyle.INDENTATION
    has_braces = language is not None and language.style is BlockStyle.BRACES
    groups: dict[str, list[Finding]] = {}
    heads: dict[str, Declaration] = {}
    for finding in findings:
        declaration = finding.declaration
        if declaration is None:
            groups.setdefault(f" {finding.line}", []).append(finding)
            continue
        name = declaration.parent or declaration.name
        groups.setdefault(name, []).append(finding)
        head = finding.owner if declaration.parent else declaration
        if head is not None:
            heads[name] = head
    blocks: list[tuple[int, str]] = []
    for name, group in groups.items():
        line = min(one.line for one in group)
        blocks.append((line, _write_group(heads.get(name), name, group, is_python, has_braces)))
    return "\n".join(text for _, text in sorted(blocks))


def _write_group(
    head: Declaration | None, name: str, group: Sequence[Finding], is_python: bool, has_braces: bool
) -> str:
    """Write lines of a file, a definition, or a class with members."""
    if group[0].declaration is None:
        return group[0].text
    members = sorted(
        (one.declaration for one in group if one.declaration is not None and one.declaration.parent),
        key=lambda declaration: declaration.line,
    )
    if not members:
        assert head is not None
        return _write_declaration(head, "", is_python)
    signature = head.signature if head is not None else f"class {name}:" if is_python else f"class {name}"
    lines = [f"{signature} {{" if has_braces else signature]
    indent = "    " if is_python else "  "
    if is_python and head is not None and head.doc:
        lines.append(f'{indent}"""{head.doc}"""')
    lines += [_write_declaration(member, indent, is_python) for member in members]
    return "\n".join([*lines, "}"] if has_braces else lines)


def _write_declaration(declaration: Declaration, indent: str, is_python: bool) -> str:
    lines = declaration.signature.split("\n")
    if is_python and declaration.kind in ("function", "class") and declaration.signature.endswith(":"):
        if declaration.doc:
            lines.append(f'    """{declaration.doc}"""')
        else:
            lines[-1] += " ..."
    elif declaration.doc and declaration.kind == "function" and not is_python:
        lines.insert(0, f"// {declaration.doc}")
    return "\n".join(indent + line for line in lines)
