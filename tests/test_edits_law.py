"""Any document, any message, any seed, random weights: a diff that comes out is well formed and applies.

Judged by GNU patch and ``git apply``; the same at scale is ``python -m bench.edits law``.
"""

from __future__ import annotations

import pytest

from bench import edit_law


@pytest.mark.slow
async def test_edits_of_a_random_model_apply() -> None:
    """Through the assistant's own path."""
    names = [name for name in edit_law.list_tokenizers() if name in ("shipped", "codegen")]
    found = await edit_law.check(150, 7, names)
    assert not found.failures, "\n".join(failure.describe() for failure in found.failures)
    assert found.diffs > 40, f"hardly a document was edited, so little was shown: {found}"
