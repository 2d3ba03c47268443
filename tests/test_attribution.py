"""Suggestions copied from the corpus are detected, then hidden or marked; common code is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeclippy_ls.assist import attribution
from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.assist.proposals import Proposal, Refusal
from codeclippy_ls.settings import parse
from codeclippy_ls.text import Document
from tests.scripted import ScriptedWorker
from training import attribution as index_builder

ROOT = Path(__file__).parent.parent / "codeclippy_ls"
PASSAGE = "\n".join((ROOT / "text.py").read_text(encoding="utf-8").splitlines()[60:110])
COMMON = "\n".join((ROOT / "cli.py").read_text(encoding="utf-8").splitlines()[60:110])


@pytest.fixture(scope="module")
def known() -> attribution.AttributionIndex:
    """An index of two packages with a file each, a file that three packages share, and a table."""
    files = [
        {"package": "first", "text": f"x = 1\n{PASSAGE}\n"},
        {"package": "first", "text": COMMON},
        {"package": "second", "text": COMMON},
        {"package": "third", "text": COMMON + "\nrest = " + "0, " * 100},
    ]
    return attribution.AttributionIndex(index_builder.build_index(files, keep=1))


def test_hashes_of_training_and_server_are_equal() -> None:
    numbers = [attribution.hash_lexeme(lexeme) for lexeme in attribution.split_lexemes(PASSAGE)]
    expected = [
        attribution.hash_window(numbers[i : i + attribution.WINDOW])
        for i in range(len(numbers) - attribution.WINDOW + 1)
    ]
    assert index_builder.hash_ngrams(PASSAGE).tolist() == expected and len(expected) > 50


def test_copied_passage_names_its_package(known: attribution.AttributionIndex) -> None:
    words = attribution.split_lexemes(PASSAGE)
    for start in range(0, len(words) - attribution.WINDOW, 7):
        part = " ".join(words[start : start + attribution.WINDOW])
        assert known.find_source(part) == "first"
        assert known.find_source(part.replace(" ", "\n\t ")) == "first", "whitespace is ignored"
    assert known.find_source(" ".join(words[: attribution.WINDOW - 1])) == "", "shorter than an n-gram"
    assert known.find_source((ROOT / "doctor.py").read_text(encoding="utf-8")) == ""


def test_common_passages_and_tables_have_no_source(known: attribution.AttributionIndex) -> None:
    assert known.find_source(COMMON) == ""
    assert known.find_source("0, " * 90) == ""


def test_invalid_index_files_are_refused(known: attribution.AttributionIndex) -> None:
    content = index_builder.build_index([{"package": "a", "text": PASSAGE}], keep=1)
    with pytest.raises(ValueError, match="truncated"):
        attribution.AttributionIndex(content[:-3])
    with pytest.raises(ValueError, match="not an attribution index"):
        attribution.AttributionIndex(b"PK\x03\x04" + content)


@pytest.mark.parametrize(("choice", "texts", "sources"), [("hide", 0, []), ("mark", 1, ["first"]), ("show", 1, [""])])
async def test_copied_suggestions_follow_the_setting(
    choice: str, texts: int, sources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ScriptedWorker()
    settings, _ = parse({"completion": {"copiedCode": choice}})
    assistant = Assistant(worker.open(settings, lambda model, status: None), settings)
    body = "    result = [one.start for one in found if one.kind not in skipped and one.end < limit][: most + 1]"
    known_body = attribution.AttributionIndex(index_builder.build_index([{"package": "first", "text": body}], keep=1))
    monkeypatch.setattr(attribution, "load_index", lambda folder: known_body)
    await assistant.load()
    worker.response = body
    found = await assistant.complete(Document("file:///a.py", "def f():\n"), 9)
    assert [item.source for item in found.items] == sources and len(found.items) == texts
    worker.response = f" @@ -1,1 +1,2 @@\n def f():\n+{body}\n"
    made = await assistant.edit(Document("file:///a.py", "def f():\n"), "write the body")
    if choice == "hide":
        assert isinstance(made, Refusal) and "first" in made.reason and "completion.copiedCode" in made.reason
    else:
        assert isinstance(made, Proposal) and made.source == sources[0]
    await assistant.aclose()
