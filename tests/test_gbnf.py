"""The grammar of diffs as it is written down for services: what follows it applies, and does what `applied` says."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest

from codeclippy_ls.constrain.gbnf import MAX_LINES, apply_gbnf_diff, write_gbnf
from codeclippy_ls.diffs.reading import read_diff
from codeclippy_ls.diffs.writing import write_diff
from codeclippy_ls.inference.requests import Candidate, FinishReason
from codeclippy_ls.prompts.text_prompts import RemoteModel
from codeclippy_ls.tasks.edit import ContextDiff, EditTask
from codeclippy_ls.tasks.edit_context import EditContext
from codeclippy_ls.text import Document, apply_edits

DOCUMENTS = [
    ["import os", "", "def f(a):", "    return a", ""],
    ["x"] * 6,
    ['print("\\d\\t", \'\\\\\')  # "ü" ☃ \t', "\ttab", "a\rb", "++ b", "-- a", "@@ -1 +1 @@", " ", "]"],
    ["only"],
    [],
]


class Grammar:
    """A parser of the subset of GBNF that is used, which generates random texts."""

    def __init__(self, text: str) -> None:
        self.rules = {name: _alternatives(body) for name, body in re.findall(r"^([a-z]\w*) ::= (.*)$", text, re.M)}

    def walk(self, chance: random.Random, rule: str = "root", steps: int = 40) -> str:
        """Generate a text of the grammar; after a number of rules take the shortest way to an end."""
        made = ""
        while rule:
            ways = self.rules[rule]
            steps -= 1
            way = next((way for way in ways if steps < 0 and way == ['""']), None) or chance.choice(ways)
            *parts, last = way
            for part in parts:
                made += self._written(part, chance)
            # The last of a sequence is the rule to go on with, as all rules here are linear.
            rule, tail = (last, "") if last in self.rules and last not in ("n", "add") else ("", last)
            made += self._written(tail, chance) if tail else ""
        return made

    def _written(self, part: str, chance: random.Random) -> str:
        if (part.endswith(("+", "?")) and part[:-1] in self.rules) or part in self.rules:
            name = part.rstrip("+?")
            times = chance.randint(1, 3) if part.endswith("+") else 1
            return "".join(self.walk(chance, name) for _ in range(times))
        if part.endswith("?"):
            return self._written(part[:-1], chance) if chance.random() < 0.5 else ""
        if part.startswith("("):
            return "".join(self._written(one, chance) for one in _parts(part[1:-1]))
        if part.startswith("["):
            if "^" in part:
                return "".join(chance.choice('abc +-@ "\\ü\t') for _ in range(chance.randint(0, 9)))
            return "".join(chance.choice("0123456789") for _ in range(chance.randint(1, 4)))
        assert part[0] == part[-1] == '"', part
        return re.sub(r'\\([\\"ntr])', lambda m: {"n": "\n", "t": "\t", "r": "\r"}.get(m[1], m[1]), part[1:-1])


_PART = re.compile(
    r'"(?:[^"\\]|\\.)*"\??|\[[^\]]*\](?:\{\d+,\d+\})?|\((?:[^()"]|"(?:[^"\\]|\\.)*")*\)\??'
    r"|[a-z]\w*[+?]?|\|"
)


def _parts(body: str) -> list[str]:
    found = _PART.findall(body)
    assert "".join(found).replace(" ", "") == body.replace(" ", ""), body
    return found


def _alternatives(body: str) -> list[list[str]]:
    ways: list[list[str]] = [[]]
    for part in _parts(body):
        if part == "|":
            ways.append([])
        else:
            ways[-1].append(part)
    return ways


def patched(folder: Path, before: str, diff: str) -> str:
    """Apply a diff with GNU patch."""
    file = folder / "file"
    file.write_bytes(before.encode())
    made = subprocess.run(["patch", "--binary", "-s", "-F0", str(file)], input=diff.encode(), capture_output=True)
    assert made.returncode == 0, (before, diff, made.stdout)
    return file.read_bytes().decode() if file.exists() else ""


@pytest.mark.parametrize("lines", DOCUMENTS)
def test_random_texts_of_the_grammar_apply(lines: list[str], tmp_path: Path) -> None:
    """Random walks: each is a diff of the document's lines, and what it makes is what GNU patch makes of the diff that
    is written from it."""
    grammar = Grammar(write_gbnf(lines))
    before = "".join(line + "\n" for line in lines)
    hunks = 0
    for seed in range(60):
        text = grammar.walk(random.Random(seed))
        hunks += text.count("@@ -")
        made = apply_gbnf_diff(text, lines, complete=True)
        assert made is not None, text
        after = "".join(line + "\n" for line in made)
        assert after != before or "+" in text or "\n-" in text
        if after != before and "\r" not in after:  # patch takes a CR before an LF for a line end of another kind
            assert patched(tmp_path, before, write_diff(before, after, "file")) == after
    assert hunks > 60 or len(lines) < 2


def test_lines_are_applied_by_their_type() -> None:
    """By hand."""
    lines = ["a", "b", "c", "d", "b"]
    text = " @@ -2,1 +2,1 @@\n b\n+B\n-c\n@@ -5 +5 @@\n+x\n b\n"
    assert apply_gbnf_diff(text, lines, True) == [
        "a",
        "b",
        "B",
        "d",
        "x",
        "b",
    ]
    assert apply_gbnf_diff("@@ -0,0 +1,2 @@\n+one\n+two\n", [], True) == ["one", "two"]


def test_text_outside_the_grammar_is_detected() -> None:
    """Other lines, out of order, prose, hunks in the wrong order."""
    lines = ["a", "b", "c"]
    for text in (
        "Sure!\n@@ -1 +1 @@\n-a\n",
        "@@ -1 +1 @@\n-b\n",
        "@@ -2 +2 @@\n-b\n@@ -1 +1 @@\n-a\n",
        "@@ -9 +9 @@\n+x\n",
        "@@ -3 +3 @@\n-c\n-d\n",
        "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n",
        "@@ -1 +1 @@\n-a",
        "@@ nonsense\n-a\n",
    ):
        assert apply_gbnf_diff(text, lines, True) is None, text


def test_open_hunk_of_a_cut_diff_is_dropped() -> None:
    """Cut at every character, half a hunk is never applied."""
    lines = ["a", "b", "c", "d"]
    text = "@@ -1 +1 @@\n-a\n+A\n@@ -3 +3 @@\n-c\n+C\n"
    first, both = ["A", "b", "c", "d"], ["A", "b", "C", "d"]
    for end in range(1, len(text)):
        made = apply_gbnf_diff(text[:end], lines, complete=False)
        assert made is None or made in (lines, first), text[:end]
        if end > text.index("@@ -3") + 3:
            assert made is None or made == first
    assert apply_gbnf_diff(text, lines, complete=True) == both


def test_long_document_has_no_grammar() -> None:
    """Services parse the grammar for each request."""
    assert write_gbnf(["x"] * MAX_LINES) and not write_gbnf(["x"] * (MAX_LINES + 1))


@pytest.mark.parametrize("answer", ["@@ -2 +2 @@\n-b\n+B\n", "Here it is:\n```diff\n@@ -2 +2 @@\n a\n-b\n+B\n```\n"])
def test_edit_accepts_answers_inside_and_outside_the_grammar(answer: str) -> None:
    """A service without grammars is still supported."""
    document = Document("file:///a.py", "a\nb\nc\n")
    ask = EditTask("a.py", EditContext(("a", "b", "c"), (0, 1, 2), 0, 3), "Make b large", 200, edit_format="diff")
    prompt = ask.build_text_prompt(RemoteModel("qwen2.5-coder-7b-instruct", 4096, is_chat=True))
    assert 't1 ::= "2"' in prompt.grammar
    made = ask.parse_answer(Candidate(answer, (), 0.0, FinishReason.END), prompt)
    assert isinstance(made, ContextDiff)
    assert apply_edits(document.text, read_diff(made.text, document).edits) == "a\nB\nc\n"
