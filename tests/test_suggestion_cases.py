"""Documents with a model's answer between ⟪ and ⟫, and the text that should be inserted.

The set lies beside the project, in ``../shared/cases``; without it these tests are skipped. Our own cases are in
`test_fit` and `test_cleanup`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from codeclippy_ls.postprocess.cleanup import CursorContext, clean_up
from codeclippy_ls.postprocess.fit import fit
from codeclippy_ls.syntax.tree import DocumentTrees
from tests.shared import SHARED

FILE = SHARED / "cases" / "suggestions.jsonl"
CASES: list[dict[str, Any]] = (
    [json.loads(line) for line in FILE.read_text("utf-8").splitlines()] if FILE.exists() else []
)


@pytest.mark.skipif(not CASES, reason=f"there is no file {FILE}")
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_inserted_text_is_the_expected_one(case: dict[str, Any]) -> None:
    prefix, _, rest = case["document"].partition("⟪")
    answer, _, suffix = rest.partition("⟫")
    context = CursorContext(prefix, suffix, "\n" in case["expected"], case["language"])
    text, _ = fit(clean_up(answer, context), context, DocumentTrees(), "")
    assert text == case["expected"]
