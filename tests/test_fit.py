"""Suggestions leave code intact: case files, the cases of the editors' closing characters, and a law with Python's own
parser as its judge."""

from __future__ import annotations

import ast
import random
import re
from pathlib import Path

import pytest

from codeclippy_ls.postprocess.cleanup import CursorContext
from codeclippy_ls.postprocess.fit import fit
from codeclippy_ls.syntax.insertion import introduces_error
from codeclippy_ls.syntax.languages import find_language
from codeclippy_ls.syntax.tree import DocumentTrees

_TEXT = (Path(__file__).parent / "cases" / "fit.txt").read_text(encoding="utf-8")
CASES = dict(re.findall(r"^=== (.+)\n([\s\S]*?)(?=^=== |\Z)", _TEXT, re.MULTILINE))
SOURCES = sorted((Path(__file__).parent.parent / "codeclippy_ls").rglob("*.py"))


def fitted(answer: str, prefix: str, suffix: str, language: str) -> tuple[str, int]:
    """Fit an answer into a document of its own."""
    return fit(answer, CursorContext(prefix, suffix, True, language), DocumentTrees(), "")


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    """One case of the file."""
    document, expected = re.split(r"^---\n?", CASES[name], maxsplit=1, flags=re.MULTILINE)
    before, answer, after = re.split("[⟪⟫]", document.removesuffix("\n"))
    language = name.rpartition("(")[2].rstrip(")")
    assert fitted(answer, before, after + "\n", language)[0] == expected.removesuffix("\n")


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def test_what_stood_there_always_fits_and_what_breaks_a_whole_file_hardly_ever_does() -> None:
    """Middles of real files: the true text is kept; an intact file is intact with nearly everything that is kept."""
    rng = random.Random(5)
    kept = refused = broken = 0
    for _ in range(600):
        text = rng.choice(SOURCES).read_text(encoding="utf-8")
        start = rng.randrange(len(text))
        end = text.find("\n", start)
        if end <= start or not text[start:end].strip():
            continue
        prefix, middle, suffix = text[:start], text[start:end], text[end:]
        if prefix[-1:] in ("'", '"') and middle[0] == prefix[-1]:
            continue  # inside a string's delimiter: a case of the file
        shown, replaces = fitted(middle, prefix, suffix, "python")
        assert prefix + shown + suffix[replaces:] == text, (prefix[-80:], middle, shown)
        other = rng.choice(text.split("\n")).strip()[: rng.randrange(1, 40)]
        found, replaces = fitted(other, prefix, middle + suffix, "python")
        if found:
            kept += 1
            intact = _parses(prefix + found + (middle + suffix)[replaces:])
            broken += not intact and not found.endswith(":")
        else:
            refused += 1
    assert kept > 20 and refused > 20 and broken <= 0.06 * kept  # the grammar takes some text that Python does not


@pytest.mark.parametrize(
    ("text", "suffix", "shown", "replaces"),
    [
        ("a, b):", ")", "a, b):", 1),
        ("a):", "):", "a", 0),
        ("a", ")", "a", 0),
        ("f(a)", ")", "f(a)", 0),
        ("f(a))", ")", "f(a)", 0),
        ("a)];", ")]", "a)];", 2),
        ("x", "", "x", 0),
        ("a) + (b)", ")", "a) + (b", 0),
        ('name"] = 1', '"]', 'name"] = 1', 2),
        ("a);", " );", "a);", 3),
    ],
)
@pytest.mark.parametrize("language", ["plaintext", "makefile"])
def test_closing_characters_that_the_answer_brings_along_are_replaced(
    text: str, suffix: str, shown: str, replaces: int, language: str
) -> None:
    """Without a grammar, by the answer's own brackets; what would only be written again stays."""
    assert fitted(text, "x", suffix, language) == (shown, replaces)


@pytest.mark.parametrize("language", [None, "plaintext", "unknown", "makefile"])
def test_in_a_language_without_a_grammar_everything_passes(language: str | None) -> None:
    """A rule that no tree can tell is no rule."""
    for answer in ("f(a", "a)", "(]", "don't"):
        assert fitted(answer, "y\n", "\n", language or "") == (answer, 0)


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
def test_an_edit_spoils_what_was_whole(before: str, after: str, language: str, worse: bool) -> None:
    """Only what was whole before can be spoilt, and only where the language says what is whole."""
    assert introduces_error(before, after, find_language(language)) == worse
