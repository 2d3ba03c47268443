"""Suggestions keep code valid: case files, and a law that the parser checks."""

from __future__ import annotations

import ast
import random
import re
from pathlib import Path

import pytest

from codeclippy_ls.postprocess.syntax_check import breaks_syntax, find_longest_valid_prefix, introduces_syntax_error

_TEXT = (Path(__file__).parent / "cases" / "syntax_check.txt").read_text(encoding="utf-8")
CASES = dict(re.findall(r"^=== (.+)\n([\s\S]*?)(?=^=== |\Z)", _TEXT, re.MULTILINE))
SOURCES = sorted((Path(__file__).parent.parent / "codeclippy_ls").rglob("*.py"))


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    """One case of the file."""
    document, expected = re.split(r"^---\n?", CASES[name], maxsplit=1, flags=re.MULTILINE)
    before, answer, after = re.split("[⟪⟫]", document.removesuffix("\n"))
    language = name.rpartition("(")[2].rstrip(")")
    assert find_longest_valid_prefix(answer, before, after + "\n", language) == expected.removesuffix("\n")


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def test_original_text_is_kept_and_valid_files_stay_valid() -> None:
    """Cut from real files: the original text is kept, and a valid file stays valid with any text that is kept."""
    rng = random.Random(5)
    kept = refused = 0
    for _ in range(1200):
        text = rng.choice(SOURCES).read_text(encoding="utf-8")
        start = rng.randrange(len(text))
        end = text.find("\n", start)
        if end <= start or not text[start:end].strip():
            continue
        prefix, hole, suffix = text[:start], text[start:end], text[end:]
        if prefix[-1:] in ("'", '"') and hole[0] == prefix[-1]:
            continue  # inside a string's delimiter: a case of the file
        assert not breaks_syntax(hole, prefix, suffix, "python"), (prefix[-80:], hole)
        other = rng.choice(text.split("\n")).strip()[: rng.randrange(1, 40)]
        found = find_longest_valid_prefix(other, prefix, hole + suffix, "python")
        if found:
            kept += 1
            whole = _parses(prefix + found + hole + suffix)
            assert whole or found.endswith(":"), (prefix[-80:], found, hole)
        else:
            refused += 1
    assert kept > 20 and refused > 20


@pytest.mark.parametrize("language", ["python", "javascript", "c", "plaintext", ""])
def test_brackets_of_real_lines_balance_in_any_language(language: str) -> None:
    for answer in ("f(a)[0]", "{'a': (1, 2)}", "x = [1, 2]", "a + b"):
        assert find_longest_valid_prefix(answer, "y = 1\n", "\n", language) == answer
    for answer in ("f(a", "a)", "(]"):
        assert (
            not breaks_syntax(answer, "\n", "\n", language)
            or find_longest_valid_prefix(answer, "\n", "\n", language) != answer
        )


@pytest.mark.parametrize(
    ("before", "after", "language", "worse"),
    [
        ("x = 1\n", "x = (1\n", "python", True),
        ("x = (\n", "x = ((\n", "python", False),
        ("{}", "{", "json", True),
        ("{", "[", "json", False),
        ("f();\n", "f(;\n", "javascript", True),
        ("f();\n", "// don't (\n", "javascript", False),
        ("a\n", "a :-)\n", "plaintext", False),
        ("a\n", "a :-)\n", "", False),
    ],
)
def test_edit_introduces_a_syntax_error(before: str, after: str, language: str, worse: bool) -> None:
    """Only if the text was valid before, and only in a language whose validity can be checked."""
    assert introduces_syntax_error(before, after, language) == worse
