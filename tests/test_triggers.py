"""When an automatic request is skipped, and where more than one line is expected."""

from __future__ import annotations

import pytest

from codeclippy_ls.assist.triggers import expects_block, find_disabling_setting, is_inside_word, is_statement_complete
from codeclippy_ls.settings import parse


def split_at_cursor(text: str) -> tuple[str, str]:
    """Split a text at the cursor, which is written as `|`."""
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
        ("}|\n", "java", True),
        ("for (i = 0;|\n", "c", False),
        ("f(a);| // why\n", "c", False),
        ("f(a)|\n", "plaintext", False),
    ],
)
def test_statement_complete_before_the_cursor(text: str, language: str, expected: bool) -> None:
    """Python is parsed, other languages are judged by the last character, unknown ones never."""
    assert is_statement_complete(*split_at_cursor(text), language) is expected


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
def test_block_is_expected_below_its_header(text: str, expected: bool) -> None:
    """Also below its docstring and comments, unless the body already follows."""
    assert expects_block(*split_at_cursor(text)) is expected


@pytest.mark.parametrize(("text", "expected"), [("a|b", True), ("a|_", True), ("a| b", False), ("a|", False)])
def test_cursor_inside_a_word(text: str, expected: bool) -> None:
    """A letter or underscore follows."""
    assert is_inside_word(*split_at_cursor(text)) is expected


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
def test_disabling_setting_for_languages_and_paths(uri: str, language: str, expected: str) -> None:
    """A pattern may match the whole path or the name; the result is the setting's name."""
    settings, problems = parse(
        {"completion": {"disabledLanguages": ["markdown"], "disabledPaths": ["*.env", "*/vendor/*", "b c.min.js"]}}
    )
    assert not problems
    assert find_disabling_setting(uri, language, settings.completion) == expected
    off, _ = parse({"completion": {"enabled": False}})
    assert find_disabling_setting(uri, language, off.completion) == "completion.enabled"
