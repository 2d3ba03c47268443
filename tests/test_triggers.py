"""Triggers: when not to request a suggestion, and when more than one line fits."""

from __future__ import annotations

import pytest

from codeclippy_ls.assist.triggers import expects_block, find_disabling_setting, is_inside_word, is_statement_complete
from codeclippy_ls.settings import parse as parse_settings
from codeclippy_ls.syntax.languages import find_language
from codeclippy_ls.syntax.tree import parse


def around(text: str) -> tuple[str, str]:
    """The text before and after a cursor that is written as `|`."""
    before, after = text.split("|")
    return before, after


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("x = f(1)|\n", "python", True),
        ("x = f(1|)\n", "python", False),
        ("def f(x)|\n", "python", False),
        ("if f(x)|\n", "python", False),
        ("for i in range(3)|\n", "python", False),
        ("    return [1]|\n", "python", True),
        ("    elif f(x)|\n", "python", False),
        ("x = y|\n", "python", False),
        ("x = f(\n    1,\n)|\n", "python", True),
        ("x = f(\n    g(1)|\n", "python", False),
        ("x = {\n    'a': [1]|\n", "python", False),
        ("import os\n\n\nbreak|\n", "python", True),
        ("@cached()|\n", "python", False),
        ("# f(x)|\n", "python", False),
        ("x = 'a'|\n", "python", True),
        ("x = 'a' |\n", "python", False),
        ('def f():\n    """Doc."""|\n', "python", True),
        ("f(a);|\n", "javascript", True),
        ("f(a)|\n", "javascript", False),
        ("f({a: 1}|\n", "javascript", False),
        ("class A {\n}|\n", "java", True),
        ("for (i = 0;|\n", "c", False),
        ("f(a);| // why\n", "c", False),
        ("f(a)|\n", "plaintext", False),
    ],
)
def test_behind_a_finished_statement(text: str, language: str, expected: bool) -> None:
    """Nothing is missing there; where nobody can tell, something may be."""
    before, after = around(text)
    assert is_statement_complete(parse(before + after, find_language(language)), before, after) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f():\n    |\n", True),
        ("def f():\n    |\n    return 1\n", True),
        ('def f():\n    """Doc."""\n    |\n', True),
        ('def f():\n    """Doc.\n\n    More.\n    """\n    |\n\ndef g():\n    pass\n', True),
        ('def f():\n    """Doc."""\n    |\n    return 1\n', False),
        ("def f():\n    # Add them up.\n    |\n", True),
        ("if (a) {\n    // Both.\n    |\n}\n", True),
        ("def f():\n    a = 1\n    |\n", False),
        ("# see:\n|\n", False),
        ("x = 1\n|\n", False),
        ("def f():\n    x|\n", False),
        ("x = (\n    |\n)\n", True),
        ('x = """a"""\n|\n', False),
    ],
)
def test_where_a_block_fits(text: str, expected: bool) -> None:
    """Below a head, its docstring, its comments, unless the body follows already."""
    before, after = around(text)
    language = find_language("javascript" if "{" in text else "python")
    assert expects_block(parse(before + after, language), language, before, after) is expected


@pytest.mark.parametrize(("text", "expected"), [("a|b", True), ("a|_", True), ("a| b", False), ("a|", False)])
def test_inside_a_word(text: str, expected: bool) -> None:
    """Before a letter."""
    assert is_inside_word(*around(text)) is expected


@pytest.mark.parametrize(
    ("uri", "language", "expected"),
    [
        ("file:///home/a/secret.env", "dotenv", "completion.disabledPaths"),
        ("file:///home/a/vendor/b/c.py", "python", "completion.disabledPaths"),
        ("file:///home/a/b%20c.min.js", "javascript", "completion.disabledPaths"),
        ("file:///home/a/b.md", "markdown", "completion.disabledLanguages"),
        ("untitled:Untitled-1", "python", ""),
        ("file:///home/a/b.py", "python", ""),
    ],
)
def test_switches_for_languages_and_paths(uri: str, language: str, expected: str) -> None:
    """The whole path or the name may match; the answer names the setting."""
    settings, problems = parse_settings(
        {"completion": {"disabledLanguages": ["markdown"], "disabledPaths": ["*.env", "*/vendor/*", "b c.min.js"]}}
    )
    assert not problems
    assert find_disabling_setting(uri, language, settings.completion) == expected
    off, _ = parse_settings({"completion": {"enabled": False}})
    assert find_disabling_setting(uri, language, off.completion) == "completion.enabled"
