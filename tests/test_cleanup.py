"""Clean-up of answers: case files, and laws that hold for any answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeclippy_ls.families import list_control_tokens
from codeclippy_ls.postprocess.cleanup import STEPS, CursorContext, clean_up, cut_repetition, is_finished
from codeclippy_ls.settings import CLEAN_UP_STEPS

_TEXT = (Path(__file__).parent / "cases" / "cleanup.txt").read_text(encoding="utf-8")
_DOCS = (Path(__file__).parent.parent / "docs" / "suggestions.md").read_text(encoding="utf-8")
CASES = dict(re.findall(r"^=== (.+)\n([\s\S]*?)(?=^=== |\Z)", _TEXT, re.MULTILINE))


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    """One case of the file."""
    document, expected = re.split(r"^---\n?", CASES[name], maxsplit=1, flags=re.MULTILINE)
    before, answer, after = re.split("[⟪⟫]", document.removesuffix("\n"))
    context = CursorContext(before, after, name.endswith("block"))
    assert clean_up(answer, context) == expected.removesuffix("\n")


code = st.text(st.sampled_from("ab ()[]{}:\n\t\"'=+é"), max_size=60)


@settings(derandomize=True, max_examples=300)
@given(code, code, code, st.booleans())
def test_result_is_a_prefix_of_the_answer(answer: str, before: str, after: str, multiline: bool) -> None:
    """Nothing is invented, a single line stays one, and a suggestion is never only white space."""
    kept = clean_up(answer, CursorContext(before, after, multiline), {"indentation", "lineStart"})
    assert answer.startswith(kept) or answer.lstrip(" \t").startswith(kept)
    assert not kept or kept.strip()
    assert multiline or set(kept) & set("([{") or kept.lstrip("\n").count("\n") <= 1  # a bracket is kept to its end


@settings(derandomize=True, max_examples=300)
@given(code, code, code, st.booleans())
def test_generation_stops_only_if_nothing_more_would_be_kept(
    answer: str, more: str, before: str, multiline: bool
) -> None:
    """The suggestion is the same, whatever the model would have written after the stop."""
    if is_finished(answer, before, multiline):
        context = CursorContext(before, "", multiline)
        assert clean_up(answer + more, context) == clean_up(answer, context)


@settings(derandomize=True, max_examples=300)
@given(st.text(st.sampled_from("ab\n"), max_size=60))
def test_repetition_is_noticed_during_generation(answer: str) -> None:
    """Character by character, any text that would be cut as a repetition ends the answer."""
    if cut_repetition(answer) != answer:
        assert any(is_finished(f"{answer}\n"[:end], "", multiline=True) for end in range(len(answer) + 2))


@settings(derandomize=True, max_examples=300)
@given(code, code, code)
def test_only_indentation_is_ever_changed(answer: str, before: str, after: str) -> None:
    """A file's own style changes white space at the start of lines and nothing else."""
    kept, plain = (clean_up(answer, CursorContext(before, after, True), disabled) for disabled in ((), {"indentation"}))
    assert [line.lstrip() for line in kept.split("\n")] == [line.lstrip() for line in plain.split("\n")]


@pytest.mark.parametrize("token", list_control_tokens())
def test_every_family_control_token_is_cut(token: str) -> None:
    """The pattern comes from the table of families: DeepSeek, Code Llama, Codestral and Seed-Coder count, too."""
    assert clean_up(f"value {token}more", CursorContext("x = ", "", False)) == "value"
    known = CursorContext(f"x = {token!r}\ny = ", "", False)
    assert clean_up(f"value {token}more", known) == f"value {token}more"


def test_code_like_control_tokens_are_kept_after_a_name() -> None:
    """An index and a type parameter are code."""
    for text in ("names[PREFIX] + 1", "f(x)[SUFFIX]", "vector<s> y"):
        assert clean_up(text, CursorContext("x = ", "", False)) == text


def test_every_step_can_be_disabled_and_is_documented() -> None:
    """The setting's values and the table in the docs name the steps of the pipeline in its order, then the syntax
    check."""
    documented = re.findall(r"^\| `(\w+)` \|", _DOCS.partition("## The clean-up")[2], re.MULTILINE)
    steps = [*STEPS, "closingBrackets", "syntaxCheck"]
    assert list(CLEAN_UP_STEPS) == steps, "CLEAN_UP_STEPS in codeclippy_ls/settings.py differs from the pipeline"
    assert documented == steps, "the table in docs/suggestions.md differs from the pipeline"


@pytest.mark.parametrize("name", STEPS)
def test_every_step_has_a_case_that_needs_it(name: str) -> None:
    """With the step disabled, the result of some case differs."""

    def outcome(case: str) -> str:
        document = re.split(r"^---\n?", CASES[case], maxsplit=1, flags=re.MULTILINE)[0]
        before, answer, after = re.split("[⟪⟫]", document.removesuffix("\n"))
        return clean_up(answer, CursorContext(before, after, case.endswith("block")), {name})

    kept = {case: re.split(r"^---\n?", CASES[case], maxsplit=1, flags=re.MULTILINE)[1] for case in CASES}
    needed = any(outcome(case) != kept[case].removesuffix("\n") for case in CASES)
    assert needed, f"tests/cases/cleanup.txt has no case that needs the step {name!r}"
