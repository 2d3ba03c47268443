"""Outline of a long file and snippets of other files."""

from __future__ import annotations

from codeclippy_ls.prompts.context_snippets import (
    OpenFile,
    Snippet,
    extract_outline,
    format_as_comment,
    select_snippets,
)

FILE = '''"""Doc."""
import os
from a import (
    b,
    c,
)

X = 1


class Outer:
    def other(self):
        pass

    class Inner:
        def method(self, x):
            first = 1
'''


def test_outline_of_a_long_file() -> None:
    """Imports with all their lines, then the headers of the enclosing scopes, outermost first, and nothing else."""
    assert extract_outline(FILE, "            second = 2\n", 1000, "python") == (
        "import os\nfrom a import (\n    b,\n    c,\n)\nclass Outer:\n    class Inner:\n        def method(self, x):\n"
    )


def test_outline_at_the_left_margin_has_imports_only() -> None:
    """It has no enclosing scope."""
    assert (
        extract_outline(FILE, "def f():\n    pass\n", 1000, "python")
        == "import os\nfrom a import (\n    b,\n    c,\n)\n"
    )


def test_outline_drops_imports_first() -> None:
    """All scopes are kept, then as many imports as fit."""
    heads = "class Outer:\n    class Inner:\n        def method(self, x):\n"
    assert extract_outline(FILE, "            second = 2\n", len(heads) + 10, "python") == f"import os\n{heads}"
    assert extract_outline("", "x", 100, "python") == ""


HELPERS = '''import math


def area_of_circle(radius: float) -> float:
    """The area."""
    return math.pi * radius ** 2


def perimeter_of_circle(radius: float) -> float:
    return 2 * math.pi * radius
'''


def test_snippets_define_names_that_are_used() -> None:
    """With the lines up to the next definition; a name that the file defines itself needs no snippet."""
    other = [OpenFile("shapes.py", HELPERS)]
    found = select_snippets("from shapes import area_of_circle\n\ntotal = area_of_circle(", "", other, 2000)
    assert Snippet("shapes.py", HELPERS.split("\n\n\n")[1]) in found
    assert not select_snippets("def area_of_circle(r):\n    pass\n\nx = area_of_circle(", "", other, 2000)


def test_similar_snippets_are_selected_unless_copied() -> None:
    """Common words select a snippet; common lines exclude it."""
    cart = "class Cart:\n    def total_price(self, items, discount):\n        return sum(items) - discount\n"
    near = "def total_price(items, discount):\n    return sum(items"
    assert [one.path for one in select_snippets(near, "", [OpenFile("cart.py", cart)], 2000)] == ["cart.py"]
    assert not select_snippets(cart + near, "", [OpenFile("copy.py", cart)], 2000)
    assert not select_snippets(near, "", [OpenFile("other.py", "alpha beta gamma delta\n" * 9)], 2000)


def test_snippets_fit_the_limit() -> None:
    """The least relevant is dropped first."""
    other = [OpenFile("shapes.py", HELPERS)]
    assert select_snippets("area_of_circle perimeter_of_circle", "", other, 40) == ()
    found = select_snippets("area_of_circle perimeter_of_circle", "", other, 120)
    assert sum(len(one.text) for one in found) <= 120 and found


def test_snippet_is_formatted_as_a_comment() -> None:
    """Each line becomes a comment."""
    snippet = Snippet("a/b.py", "def f():\n\n    pass")
    assert format_as_comment(snippet, "python") == "# Path: a/b.py\n# def f():\n#\n#     pass\n"
    assert format_as_comment(snippet, "go").startswith("// Path: a/b.py\n// def f():\n")
