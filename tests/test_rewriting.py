"""Lines that a model writes anew: what is asked, what is drafted, what of the answer reaches the file."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from codeclippy_ls.assist.proposals import Proposal, Refusal, make_proposal
from codeclippy_ls.constrain.rewrite import rewrite_constraint
from codeclippy_ls.diffs.rewriting import restore_lines
from codeclippy_ls.engine.loading.tokenizer import Tokenizer
from codeclippy_ls.families import FAMILIES, EditFormat, select_edit_format
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation
from codeclippy_ls.prompts.context import EditTarget
from codeclippy_ls.prompts.rewriting import extract_lines, format_rewrite, format_window, is_fence_closed
from codeclippy_ls.prompts.token_prompts import TokenPrompt
from codeclippy_ls.tasks.edit import EditTask
from codeclippy_ls.tasks.edit_context import select_edit_context
from codeclippy_ls.text import Document
from tests import checkpoints

SHOP = '''"""A shop."""

import json

LIMIT = 3


class Shop:
    def __init__(self):
        self.items = []

    def add(self, item):
        self.items.append(item)

    def total(self):
        return sum(item.price for item in self.items)


def load(path):
    with open(path) as f:
        return json.load(f)


def save(shop, path):
    return None
'''


def propose(
    text: str, cursor: str, answer: str, message: str, reason: FinishReason = FinishReason.STOP, *others: str
) -> Proposal | Refusal:
    """Make the proposal of answers to an edit at the first line that holds ``cursor``; empty: the whole file."""
    uri = "a.py"
    document = Document(f"file:///{uri}", text, 1, "python")
    line = next(number for number in range(document.line_count) if cursor in document.line(number))
    context = select_edit_context(document, (line, line) if cursor else None, None, message)
    task = EditTask(uri, context, message, 400)
    lines = (0, len(context.lines))
    prompt = TokenPrompt((), frozenset(), FAMILIES[-1], line_range=lines, edit_format=EditFormat.REWRITE)
    candidates = [Candidate(text, (), -0.1 * bool(at == 0), reason) for at, text in enumerate((answer, *others))]
    parsed = tuple(replace(one, answer=task.parse_answer(one, prompt)) for one in candidates)
    return make_proposal(document, context, None, Generation(reason, parsed))


def test_a_method_is_written_without_its_indentation_and_put_back_with_it() -> None:
    """Only the changed lines are edits, one for each place."""
    answer = (
        "def add(self, item):\n    if item is None:\n        raise ValueError\n    self.items.append(item)\n"
        "    return item\n```\nThis checks the item."
    )
    found = propose(SHOP, "def add", answer, "check the item")
    assert isinstance(found, Proposal), found
    new = "        if item is None:\n            raise ValueError\n"
    kept = "        self.items.append(item)\n"
    assert found.after == SHOP.replace(kept, new + kept + "        return item\n")
    assert [edit.text for edit in found.edits] == [new, "        return item\n"]


@pytest.mark.parametrize(
    ("cursor", "answer", "message", "reason"),
    [
        ("def load", "def load(path):\n    # ... rest of the code ...\n", "add a docstring", "leaves out code"),
        ("def load", "def load(path):\n    ...\n", "add a docstring", "leaves out code"),
        ("class Shop", "class Shop:\n    def add(self, item):\n        pass\n", "add a docstring", "loses __init__"),
        ("", "LIMIT = 3\n", "add a docstring", "loses Shop"),
        ("", SHOP.replace("LIMIT = 3\n", "x = LIMIT\n"), "add a docstring", "loses LIMIT"),
        ("def load", "def load(path):\n    with open(path as f:\n        return 1\n", "check", "syntax error"),
        ("def load", "def load(path):\n    with open(path) as f:\n        return json.load(f)\n", "check", "no change"),
        ("def load", "\n", "check", "it is empty"),
    ],
)
def test_lines_that_lack_something_are_refused(cursor: str, answer: str, message: str, reason: str) -> None:
    """With the reason."""
    found = propose(SHOP, cursor, answer + "```\n", message)
    assert isinstance(found, Refusal) and reason in found.reason, found


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.TIME])
def test_lines_that_were_cut_off_are_refused(reason: FinishReason) -> None:
    """Unless the fence was closed before."""
    answer = "def load(path):\n    return 1\n"
    found = propose(SHOP, "def load", answer, "simplify", reason)
    assert isinstance(found, Refusal) and f"within the {reason.value} budget" in found.reason
    assert isinstance(propose(SHOP, "def load", answer + "```\n", "simplify", reason), Proposal)
    assert isinstance(propose(SHOP, "def load", answer, "simplify", FinishReason.END), Proposal)


DATACLASS = "class Shop:\n    items: list\n    def add(self, item):\n        pass\n    def total(self):\n        pass\n"


@pytest.mark.parametrize(
    ("cursor", "answer", "message", "gone"),
    [
        ("def load", "def read(path):\n    return json.load(open(path))\n", "rename it to read", "load"),
        ("class Shop", "class Shop:\n    def add(self, item):\n        pass\n", "remove the unused methods", "total"),
        ("class Shop", DATACLASS, "turn it into a dataclass", "__init__"),
    ],
)
def test_definitions_go_if_the_message_asks_for_it(cursor: str, answer: str, message: str, gone: str) -> None:
    """By its verbs."""
    found = propose(SHOP, cursor, answer + "```\n", message)
    assert isinstance(found, Proposal) and f"def {gone}(" not in found.after, found


def test_code_around_the_lines_is_not_written_twice() -> None:
    """Imports go to the others, those that are there already go nowhere, as do known functions and examples."""
    answer = (
        "import json\nimport os\nfrom pathlib import Path\n\ndef load(path):\n    os.stat(path)\n"
        "    with open(path) as f:\n        return json.load(f)\n\n"
        "def save(shop, path):\n    pass\n\n# Example usage\nprint(load('x'))\n```\n"
    )
    found = propose(SHOP, "def load", answer, "check that the file exists")
    assert isinstance(found, Proposal), found
    expected = SHOP.replace("import json\n", "import json\nimport os\n")
    assert found.after == expected.replace("    with open", "    os.stat(path)\n    with open")
    wrapped = "class Shop:\n    def add(self, item):\n        self.items.insert(0, item)\n```\n"
    found = propose(SHOP, "def add", wrapped, "insert it in front")
    assert isinstance(found, Proposal) and found.after == SHOP.replace("append(item)", "insert(0, item)"), found


def test_white_space_is_that_of_the_file() -> None:
    """Line ends, blank lines around, trailing spaces of untouched lines, tabs."""
    text = "\r\n\tdef f(x):\r\n\t\ty = x   \r\n\t\treturn y\r\n\r\n\r\n\tdef g(x):\r\n\t\treturn x\r\n"
    answer = "\n\ndef f(x):\n    y = x\n    if y:\n        return 1\n    return y\n\n\n\n```\n"
    found = propose("class A:\r\n" + text, "def f", answer, "return 1 if it is set")
    assert isinstance(found, Proposal), found
    assert found.after == "class A:\r\n" + text.replace("\t\treturn y", "\t\tif y:\r\n\t\t\treturn 1\r\n\t\treturn y")
    narrow = ["function f() {", "  g();", "  return 1;", "}"]
    wide = ["function f() {", "    if (x) {", "        g();", "    }", "    return 1;", "}"]
    assert restore_lines(narrow, wide, "", "check")[1:3] == ["  if (x) {", "    g();"]
    spaced = ["a = 1", "", "b = 2"]
    assert restore_lines(["a = 1", "b = 2"], spaced, "", "double b") == ["a = 1", "b = 2"]
    assert restore_lines(["a = 1", "b = 2"], spaced, "", "separate them by a blank line") == spaced


def test_request_and_answer_in_a_fence_that_the_lines_cannot_close() -> None:
    """A service that does not continue the answer writes a fence of its own."""
    lines = ("    x = '''", "    ```", "    '''")
    request = format_rewrite(EditTarget(lines, 0, 2, "a.py", " change\nit ", language="python"))
    assert request.message == "````python\nx = '''\n```\n'''\n````\n\nchange\nit" and request.indent == "    "
    assert request.answer_start.endswith("\n\n````python\n")
    assert not is_fence_closed("x\n```", "```") and is_fence_closed("x\n```\n", "```")
    assert extract_lines("x\ny\n```\nmore", "```", [], True, True) == ["x", "y"]
    assert extract_lines("x\ny", "```", [], True, False) is None and extract_lines("x\ny", "```", [], True, True)
    own = "Your code:\n```python\na = 1\n```\nNow it is:\n```python\na = 2\n```\nRun it:\n```sh\npython a.py\n```\n"
    for is_begun in (False, True):
        assert extract_lines(own, "```", ["a = 1"], is_begun, True) == ["a = 2"]
    assert extract_lines("a = 2\n", "```", ["a = 1"], False, True) is None


def test_window_has_the_message_as_a_comment() -> None:
    """In the format of the next-edit models: the file, the lines as they were, as they are, as they will be."""
    family = next(row for row in FAMILIES if row.name == "qwen-coder")
    target = EditTarget(("  f();",), 0, 0, "a.js", "call g", language="javascript", above=("{",), below=("}",))
    text = "".join(part if isinstance(part, str) else part.token for part in format_window(target, family))
    assert text == (
        "<|file_sep|>a.js\n{\n  f();\n}\n<|file_sep|>original/a.js\n  f();\n"
        "<|file_sep|>current/a.js\n  // TODO: call g\n  f();\n<|file_sep|>updated/a.js\n"
    )


def test_format_by_family() -> None:
    """The row decides, then the chat template, then training on several files; the setting if it can be."""
    rows = {family.name: family for family in FAMILIES}
    assert select_edit_format(rows["clippy"], False) is EditFormat.DIFF
    assert select_edit_format(rows["diff-codegen"], True) is EditFormat.DIFF
    assert select_edit_format(rows["qwen-coder"], True) is EditFormat.REWRITE
    assert select_edit_format(rows["qwen-coder"], False) is EditFormat.WINDOW
    assert select_edit_format(rows["causal"], False) is None
    assert select_edit_format(rows["causal"], True, "diff") is EditFormat.DIFF
    with pytest.raises(ValueError, match=r'setting "edit.format".*follows instructions'):
        select_edit_format(rows["clippy"], False, "rewrite")


def test_drafts_cost_at_most_half_of_the_passes() -> None:
    """On regions of 20 to 120 lines with a few changed lines; drafts of eight tokens."""
    chance = random.Random(7)
    tokenizer = Tokenizer(checkpoints.make_tokenizer_json())
    words = ["alpha", "beta", "gamma", "delta", "total", "items", "price", "count"]
    for size in (20, 60, 120):
        lines = [
            f"    {chance.choice(words)}_{n} = {chance.choice(words)}({chance.choice(words)})" for n in range(size)
        ]
        new = list(lines)
        new[3] = new[3].replace("=", "= 1 +")
        new.insert(10, "    if alpha is None:")
        new.insert(11, "        raise ValueError(alpha)")
        del new[15]
        state, passes = rewrite_constraint(tokenizer, lines), 0
        rest = tokenizer.encode_continuation("".join(line + "\n" for line in new))
        total = len(rest)
        while rest:
            draft = list(state.draft(8))
            right = next((at for at, (a, b) in enumerate(zip(draft, rest, strict=False)) if a != b), len(draft))
            passes += 1
            for token in rest[: right + 1]:
                state = state.advance(token)
            rest = rest[right + 1 :]
        assert passes <= total / 2, (size, passes, total)


def test_the_greedy_lines_are_proposed_first_unless_they_are_refused() -> None:
    """Most tokens are copies, so that the model's probability tells little."""
    one, other = "def load(path):\n    return 1\n```\n", "def load(path):\n    return 2\n```\n"
    found = propose(SHOP, "def load", one, "return a number", FinishReason.STOP, other, other)
    assert isinstance(found, Proposal) and "return 1" in found.after and "return 2" in found.alternatives[0].after
    named = one.replace("return 1", "raise ValueError")
    found = propose(SHOP, "def load", one, "raise a ValueError", FinishReason.STOP, other, named)
    assert (
        isinstance(found, Proposal) and "raise ValueError" in found.after and "return 1" in found.alternatives[0].after
    )
    cut = "def load(path):\n    # ...\n```\n"
    found = propose(SHOP, "def load", cut, "return a number", FinishReason.STOP, other)
    assert isinstance(found, Proposal) and "return 2" in found.after and not found.alternatives
