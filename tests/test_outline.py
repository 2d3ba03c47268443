"""The outline of code: imports, definitions, and the functions and classes around a place, in many languages."""

from __future__ import annotations

import pytest

from codeclippy_ls.syntax.languages import find_language, load_grammar
from codeclippy_ls.syntax.outline import find_definitions, find_imports, find_open_scopes, find_scope
from codeclippy_ls.syntax.tree import parse

# Text with the imports' lines, the names that are defined at the top, and the lines around the line that has `here`.
OUTLINES = {
    "python": (
        "from __future__ import a\nfrom d import (\n e,\n)\n@x\ndef func(): pass\nclass H:\n def m(self):\n  here\n",
        [(0, 0), (1, 3)],
        {"func": (5, 5), "H": (6, 8)},
        (7, 8),
    ),
    "javascript": (
        "import b from 'b';\nconst a = require('a');\nexport const func = async (x) => {\n here();\n};\nclass H {\n}\n",
        [(0, 0), (1, 1)],
        {"func": (2, 4), "H": (5, 6)},
        (2, 4),
    ),
    "typescript": (
        "import {a} from 'a';\nexport namespace N {\n export function func() {\n  here();\n }\n}\ninterface I {}\n",
        [(0, 0)],
        {"func": (2, 4), "I": (6, 6)},
        (2, 4),
    ),
    "c": (
        "#ifndef A\n#include <a.h>\nstruct s {\n int a;\n};\nint *func(int a)\n{\n return here;\n}\n#endif\n",
        [(1, 1)],
        {"s": (2, 4), "func": (5, 8)},
        (5, 8),
    ),
    "rust": (
        "use a::b;\nmod m {\n  pub fn func() {}\n}\n#[test]\nfn g() {\n  here\n}\nstruct S { a: i32 }\n",
        [(0, 0)],
        {"func": (2, 2), "g": (5, 7), "S": (8, 8)},
        (4, 7),
    ),
    "go": (
        'package a\nimport (\n\t"x"\n)\ntype S struct {\n\ta int\n}\nfunc (s *S) M() {\n\there()\n}\n',
        [(0, 0), (1, 3)],
        {"S": (4, 6), "M": (7, 9)},
        (7, 9),
    ),
    "java": (
        "package a;\nimport a.B;\npublic class A {\n  @Override\n  public int f() {\n    here();\n  }\n}\n",
        [(0, 0), (1, 1)],
        {"A": (2, 7)},
        (3, 6),
    ),
    "csharp": (
        "using System;\nnamespace N {\n  class A {\n    void F() {\n      here();\n    }\n  }\n}\n",
        [(0, 0)],
        {"A": (2, 6)},
        (3, 5),
    ),
    "ruby": (
        "require 'a'\nmodule M\n  class A\n    def f\n      here\n    end\n  end\nend\n",
        [(0, 0)],
        {"A": (2, 6)},
        (3, 5),
    ),
    "php": (
        "<?php\nnamespace N;\nuse A\\B;\nfunction func() {\n  here();\n}\nclass C {}\n",
        [(2, 2)],
        {"func": (3, 5), "C": (6, 6)},
        (3, 5),
    ),
    "lua": (
        "local a = require('b')\nlocal function func(x)\n  here()\nend\n",
        [(0, 0)],
        {"func": (1, 3)},
        (1, 3),
    ),
    "shellscript": ("func() {\n  here\n}\n", [], {"func": (0, 2)}, (0, 2)),
    "kotlin": (
        "package a\nimport b.C\nfun func() {\n  here()\n}\ndata class D(val a: Int)\n",
        [(0, 0), (1, 1)],
        {"func": (2, 4), "D": (5, 5)},
        (2, 4),
    ),
    "scala": (
        "package a\nimport b.C\nobject O {\n  def f = {\n    here\n  }\n}\n",
        [(0, 0), (1, 1)],
        {"O": (2, 6)},
        (3, 5),
    ),
    "swift": ("import A\nstruct S {\n  func f() {\n    here()\n  }\n}\n", [(0, 0)], {"S": (1, 5)}, (2, 4)),
}
# Where each text ends, these heads are open.
OPEN = {
    "python": "class A(B):\n  def one(self):\n    pass\n\n  @x\n  def two(self):\n    for i in x:\n      y\n",
    "javascript": "export class A {\n one() {\n  return '{';\n }\n\n async two(x) {\n  for (const i of x) {\n   y\n",
    "typescript": "export class A {\n one(): B {\n  return;\n }\n\n async two(x: C) {\n  for (const i of x) {\n   y\n",
    "java": "class A {\n int one() {\n  return 1;\n }\n\n @X\n int two(int x) {\n  for (int i : x) {\n   y;\n",
    "rust": "impl A {\n  fn one() -> i32 {\n    1\n  }\n\n  pub fn two(x: i32) {\n    for i in x {\n      y;\n",
    "cpp": "class A : B {\n  int one() { return 1; }\n\n  int two(int x) {\n    for (int i : x) {\n      y;\n",
    "ruby": "class A < B\n  def one\n    1\n  end\n\n  def two(x)\n    x.each do |i|\n      y\n",
    "php": "<?php\nclass A {\n function one() { return 1; }\n\n function two($x) {\n  foreach ($x as $i) {\n   $y;\n",
    "csharp": "class A : B {\n int One() { return 1; }\n\n int two(int x) {\n  foreach (var i in x) {\n   y();\n",
    "kotlin": "class A : B() {\n  fun one() { }\n\n  fun two(x: Int) {\n    for (i in x) {\n      y\n",
    "scala": "class A extends B {\n  def one = 1\n\n  def two(x: Int) = {\n    for (i <- x) {\n      y\n",
    "swift": "class A: B {\n  func one() {}\n\n  func two(x: Int) {\n    for i in x {\n      y\n",
}


def require_grammar(language: str) -> None:
    """Skip the test if the language's grammar is in an extra that is not installed."""
    row = find_language(language)
    assert row is not None
    if load_grammar(row) is None:
        pytest.skip(f"the grammar of {language} is not installed (extra `languages`)")


@pytest.mark.parametrize("language", OUTLINES)
def test_imports_definitions_and_the_function_around_a_line(language: str) -> None:
    """Imports with all their lines, what is defined at the top, the innermost function with its decorators."""
    require_grammar(language)
    text, imports, definitions, scope = OUTLINES[language]
    row = find_language(language)
    assert find_imports(text, row) == imports
    assert find_definitions(text, row) == definitions
    here = next(number for number, line in enumerate(text.split("\n")) if "here" in line)
    assert find_scope(parse(text, row), here) == scope


@pytest.mark.parametrize("language", OPEN)
def test_heads_that_are_open_at_the_end(language: str) -> None:
    """Of the class and the method, not of the loop, nor of what was closed."""
    require_grammar(language)
    text = OPEN[language]
    lines = text.split("\n")
    heads = [lines[row].strip() for row in find_open_scopes(text, find_language(language))]
    assert len(heads) == 2 and "A" in heads[0] and "two" in heads[1]


def test_nothing_is_known_without_a_grammar() -> None:
    """Nor of a language that is not known at all."""
    for language in (find_language("perl"), None):
        text = "use strict;\nsub f {\n  1;\n}\n"
        assert find_imports(text, language) == [] and find_definitions(text, language) == {}
        assert find_open_scopes(text, language) == () and find_scope(parse(text, language), 2) is None


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("def f():\n    x = 1\n    # note\n\ny = 2\n", 2, (0, 2)),
        ("def f():\n    x = 1\n# note\n\ny = 2\n", 2, None),
        ("def f():\n    x = (\n    # note\n\n\ndef g():\n    pass\n", 6, (5, 6)),
        ("x = 1\n", 0, None),
    ],
)
def test_comments_and_broken_code_in_python(text: str, line: int, expected: tuple[int, int] | None) -> None:
    """A comment below a block belongs to it by its columns."""
    assert find_scope(parse(text, find_language("python")), line) == expected
