"""The syntax room: every grammar loads, trees follow edits, and what they tell of code in many languages."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeclippy_ls.syntax.code import ends_statement, opens_block
from codeclippy_ls.syntax.insertion import InsertionCheck
from codeclippy_ls.syntax.languages import LANGUAGES, BlockStyle, find_language, language_of_file, load_grammar
from codeclippy_ls.syntax.tree import MAX_BYTES, DocumentTrees, parse

SOURCES = sorted((Path(__file__).parent.parent / "codeclippy_ls").rglob("*.py"))
# Grammars of the extra `languages`, which may be missing.
OPTIONAL = {"kotlin", "scala", "haskell", "elixir", "swift", "zig", "dart"}


@pytest.mark.parametrize("language", [row for row in LANGUAGES if row.grammar], ids=lambda row: row.id)
def test_every_grammar_loads(language: object) -> None:
    """Those that the package requires; others if they are installed."""
    row = next(one for one in LANGUAGES if one is language)
    grammar = load_grammar(row)
    if grammar is None and row.grammar in OPTIONAL:
        pytest.skip(f"tree-sitter-{row.grammar} is not installed")
    assert grammar is not None and parse("", row) is not None


def test_the_table_is_consistent() -> None:
    """Ids and suffixes belong to one language each."""
    ids = [id for row in LANGUAGES for id in (row.id, *row.ids)]
    suffixes = [suffix for row in LANGUAGES for suffix in row.suffixes]
    assert len(set(ids)) == len(ids) and len(set(suffixes)) == len(suffixes)
    assert all(len(pair) == 2 for row in LANGUAGES for pair in row.pairs)
    found = language_of_file("a.b/Makefile"), language_of_file("x.PY"), language_of_file("x.unknown")
    assert [row.id if row is not None else None for row in found] == ["makefile", "python", None]


pieces = st.lists(
    st.sampled_from(["def f(x):\n", "    return x\n", "(", ")", '"', "'''", "é", "\n", "x = 1\n", "if a:"])
)


@settings(derandomize=True, max_examples=100)
@given(pieces, pieces, st.integers(0, 60), st.integers(0, 60))
def test_a_kept_tree_is_the_tree_of_the_new_text(
    first: list[str], inserted: list[str], start: int, length: int
) -> None:
    """After any edit, the tree that was parsed on from the last one is that of a fresh parse."""
    python, trees = find_language("python"), DocumentTrees()
    before = "".join(first)
    after = before[:start] + "".join(inserted) + before[start + length :]
    assert python is not None
    for text in (before, after, before):
        kept, fresh = trees.parse("a", text, python), parse(text, python)
        assert kept is not None and fresh is not None and str(kept.tree.root_node) == str(fresh.tree.root_node)


def test_a_text_that_is_too_long_is_not_parsed() -> None:
    """Nor one in a language without a grammar."""
    assert parse("x" * (MAX_BYTES + 1), find_language("python")) is None
    assert parse("x", find_language("makefile")) is None and parse("x", None) is None


def check(document: str, language: str) -> InsertionCheck:
    """Return the check at ``|``."""
    prefix, suffix = document.split("|")
    base = parse(prefix + suffix, find_language(language))
    assert base is not None
    return InsertionCheck(base, prefix, suffix)


@pytest.mark.parametrize(
    ("document", "language", "text", "breaks"),
    [
        ("x = |\n", "python", "foo(1)", False),
        ("x = |\n", "python", "foo(1", True),
        ("x = |\n", "python", "foo 1", True),
        ("def f(x):\n    |\n", "python", "if x:", False),
        ("def f(x):\n    a = 1\n    |\n", "python", "b = 2\n  c = 3", True),
        ("%timeit |\n", "python", "foo(x) --loops", False),
        ("const a = |;\n", "javascript", 'b.replace(/\'/g, "")', False),
        ("const a = |;\n", "javascript", "b.replace(", True),
        ("function f() {\n  |\n}\n", "javascript", "if (a) {", False),
        ("fn f<'a>(x: &'a str) -> usize {\n    |\n}\n", "rust", "let n = x.len();", False),
        ("fn f<'a>(x: &'a str) -> usize {\n    |\n}\n", "rust", "let n = x.len(;", True),
        ("#include <a>\nAPI |\nvoid f();\n", "cpp", "int g(int x);", False),
    ],
)
def test_a_text_breaks_the_code_around_it_or_not(document: str, language: str, text: str, breaks: bool) -> None:
    """With nothing replaced behind the cursor."""
    assert check(document, language).best(text, [0], 0)[1] is breaks


def test_the_option_that_breaks_least_is_taken() -> None:
    """What the editor closed is replaced only if the text has it, too."""
    at = check("foo(bar(|))\n", "python")
    assert at.best("a), b)", [0, 1, 2], 2) == (2, False)
    assert at.best("a", [0], 0) == (0, False)


def test_text_of_a_real_file_always_fits() -> None:
    """Whatever stood there; and what fits instead leaves Python that its own parser takes."""
    chance = random.Random(7)
    python, judged, broken = find_language("python"), 0, 0
    for _ in range(150):
        text = chance.choice(SOURCES).read_text(encoding="utf-8")
        start = chance.randrange(len(text))
        end = text.find("\n", start)
        if end <= start or not text[start:end].strip():
            continue
        prefix, suffix = text[:start], text[end:]
        base = parse(prefix + suffix, python)
        assert base is not None
        at = InsertionCheck(base, prefix, suffix)
        assert not at.best(text[start:end], [0], 0)[1], (prefix[-60:], text[start:end])
        other = chance.choice(text.split("\n")).strip()
        if not at.best(other, [0], 0)[1] and not other.endswith(":") and _parses(prefix + suffix):
            judged += 1
            broken += not _parses(prefix + other + suffix)  # the grammar takes a comma behind an import, for one
    assert judged > 5 and broken <= 2 + judged // 10


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


@pytest.mark.parametrize(
    ("language", "prefix", "suffix", "expected"),
    [
        ("python", "x = f(1)", "\n", True),
        ("python", "x = f(1", "\n", False),
        ("python", "x = a", "\n", False),
        ("python", "def f():\n    return", "\n", False),
        ("python", "def f():\n    pass", "\n", True),
        ("python", "# f(1)", "\n", False),
        ("python", "x = [f(1)", "]\n", False),
        ("javascript", "f(1);", "\n", True),
        ("javascript", "for (i = 0;", ")\n", False),
        ("javascript", "if (a) { b() }", "\n", True),
        ("rust", "fn f() {\n    let x = 'a';", "\n}\n", True),
        ("go", "package a\nfunc f() {\n\tx := 1", "\n}\n", False),
    ],
)
def test_the_end_of_a_statement(language: str, prefix: str, suffix: str, expected: bool) -> None:
    """By the tree, with the character that ends it."""
    tree = parse(prefix + suffix, find_language(language))
    assert tree is not None and ends_statement(tree, prefix) is expected


@pytest.mark.parametrize(
    ("language", "prefix", "expected"),
    [
        ("python", "def f(x):\n    ", True),
        ("python", 'def f(x):\n    """Doc."""\n    ', True),
        ("python", "def f(x):\n    # why:\n    ", True),
        ("python", "x = 1\n# why:\n", False),
        ("python", "def f(x):\n    a = 1\n    ", False),
        ("python", 'def f(x):\n    a = 1\n    """Doc."""\n    ', False),
        ("javascript", "if (a) {\n  ", True),
        ("javascript", "// if (a) {\n", False),
        ("javascript", "a();\n", False),
        ("emacs-lisp", ";; a licence:\n" * 34, False),
        ("emacs-lisp", "(defun f ()\n  ", False),
        ("unknown", "a:\n", True),
    ],
)
def test_an_opened_block(language: str, prefix: str, expected: bool) -> None:
    """Comments and a docstring may stand between; a comment opens nothing."""
    row = find_language(language)
    assert opens_block(parse(prefix, row), prefix, row) is expected


def test_block_styles_have_languages() -> None:
    """Each style is used."""
    assert {row.style for row in LANGUAGES} == set(BlockStyle)
