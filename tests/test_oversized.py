"""Messages above 64 MB are read past: their document is not followed, and all else goes on, in the same session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls.server.protocol import INVALID_REQUEST, _find_value
from tests.editor import ServerError
from tests.test_engine_faults import start_session
from tests.transports import TRANSPORT_PARAMS

LARGE = "x = 1\n" * (11 << 20)  # 66 MB
LARGE_URI = "file:///work/a%20large%20file.py"


@pytest.mark.parametrize("transport", TRANSPORT_PARAMS)
async def test_document_that_is_too_large_costs_only_itself(transport: str, tmp_path: Path) -> None:
    """It is opened, changed and closed; a change makes another one too large; a request is too large."""
    async with start_session(transport, tmp_path) as session:
        editor = session.editor
        large = editor.open(LARGE, LARGE_URI)
        shown = await editor.until("window/showMessage")
        assert "a large file.py is too large to be followed (64 MB" in shown["message"]
        await session.check_works()
        assert await editor.complete(large, 3) == []
        editor.type(large, 0, "y")
        assert await editor.complete(large, 3) == []
        await session.check_works()

        grown = editor.open("a = 1\nb = ", "file:///work/grown.py")
        editor.type(grown, 5, LARGE)
        shown = await editor.until("window/showMessage")
        assert "grown.py is too large" in shown["message"]
        assert await editor.complete(grown, 3) == []

        with pytest.raises(ServerError) as refused:
            await editor.call("textDocument/hover", {"textDocument": {"uri": LARGE_URI}, "text": LARGE})
        assert refused.value.code == INVALID_REQUEST and "the limit is" in refused.value.message
        # The whole text, short again: it is followed from here on.
        grown.text, grown.version = "value = ", grown.version + 1
        change = {"textDocument": grown.identifier, "contentChanges": [{"text": grown.text}]}
        editor.notify("textDocument/didChange", change)
        assert await editor.complete(grown, len(grown.text))
        await session.check_works()
    assert b"x = 1" not in session.server.stderr.read_bytes()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"id": 5, "method": "a/b", "params": {"text": "', {"id": 5, "method": "a/b"}),
        ('"uri":"file:\\/\\/\\/a\\u0020b"', {"uri": "file:///a b"}),
        ('"text": "\\"method\\": \\"x\\", \\"id\\": 7, ', {"method": None, "id": None}),
        ('"method": "cut of', {"method": None}),
        ('"id": 12345678901234567890', {"id": None}),
        ("", {"id": None}),
    ],
)
def test_values_are_found_in_the_ends_of_a_message(text: str, found: dict[str, Any]) -> None:
    """Not in the text of a document, where quotes are escaped."""
    assert {name: _find_value(text, name) for name in found} == found
