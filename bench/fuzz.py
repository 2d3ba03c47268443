"""Coverage-guided fuzzing of the parsers of untrusted bytes: frames, diffs of models, changes of editors.

    python -m bench.fuzz frames|diffs|changes [--seconds 60] [--corpus FOLDER]

Needs Atheris (``pip install -e '.[fuzz]'``; libFuzzer inside). Targets are functions of bytes that raise if a law is
broken; `tests/test_fuzz.py` runs the corpus in ``tests/cases/fuzz`` through them, without Atheris.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from codeclippy_ls.diffs.reading import read_diff
from codeclippy_ls.framing import MAX_HEADER, FrameError, encode_frame, read_frame
from codeclippy_ls.text import Change, Document, Documents, Position, apply_edits, split_lines

CORPUS = Path(__file__).parent.parent / "tests" / "cases" / "fuzz"
_SLOW = 1.0  # seconds: instrumented code on a busy machine


class Broken(Exception):
    """A law does not hold."""


def frames(data: bytes) -> None:
    """Any bytes are messages up to an end or a refusal; a framed message is read back unchanged."""

    async def followed() -> None:
        reader = asyncio.StreamReader(limit=MAX_HEADER)
        reader.feed_data(encode_frame(data) + data)
        reader.feed_eof()
        if await read_frame(reader) != data:
            raise Broken("a frame changed its message")
        try:
            while await read_frame(reader) is not None:
                pass
        except FrameError:
            pass

    asyncio.run(followed())


def diffs(data: bytes) -> None:
    """Any diff of any document is read to edits that apply, or refused, quickly; lines not named in it stay."""
    text = data.decode("utf-8", "replace")
    held, _, diff = text.partition("\x00")
    document = Document("file:///a", held, 1, "python")
    began = time.monotonic()
    edits, problems = read_diff(diff, document)
    if time.monotonic() - began > _SLOW:
        raise Broken(f"{time.monotonic() - began:.2f} s")
    if edits and any(problem.fatal for problem in problems):
        raise Broken("edits and a fatal problem")
    after = apply_edits(document.text, edits)
    gone = sum(line.startswith("-") or not line.strip() for line in split_lines(diff))  # an empty line may be a removal
    if document.line_count - Document("", after).line_count > gone:
        raise Broken("more lines are gone than the diff removes")


def changes(data: bytes) -> None:
    """Any change of any text is made as the client counts it, or refused, and the document is desynced."""
    numbers, _, rest = data.partition(b"\x00")
    held, _, new = rest.decode("utf-8", "replace").partition("\x01")
    places = [*numbers, 0, 0, 0, 0][:4]
    documents = Documents("utf-16")
    documents.open("file:///a", held, 1, "python")
    change = Change(new, Position(places[0], places[1]), Position(places[2], places[3]))
    try:
        found = documents.change("file:///a", 2, [change])
    except ValueError:
        if documents.get("file:///a") is not None:
            raise Broken("a change was refused, and the document goes on") from None
        return
    if len(found.text) > len(held) + len(new) or not found.text.endswith(held[len(held) :]):
        raise Broken("text came from nowhere")
    if new not in found.text and "\ufffd" not in found.text:
        raise Broken("the new text is not there")


TARGETS: dict[str, Callable[[bytes], None]] = {"frames": frames, "diffs": diffs, "changes": changes}


def main() -> None:
    """Fuzz a target for some time; libFuzzer writes inputs that break a law to a file, for the corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, default=None, help="where new inputs are kept; by default nowhere")
    parsed = parser.parse_args()
    import atheris

    with atheris.instrument_imports(include=["codeclippy_ls"]):
        for name in [name for name in sys.modules if name.startswith("codeclippy_ls")]:
            del sys.modules[name]
        import codeclippy_ls.diffs.reading
        import codeclippy_ls.framing
        import codeclippy_ls.text
    globals().update(
        read_diff=codeclippy_ls.diffs.reading.read_diff,
        read_frame=codeclippy_ls.framing.read_frame,
        FrameError=codeclippy_ls.framing.FrameError,
        Document=codeclippy_ls.text.Document,
        Documents=codeclippy_ls.text.Documents,
        Change=codeclippy_ls.text.Change,
        Position=codeclippy_ls.text.Position,
        apply_edits=codeclippy_ls.text.apply_edits,
        split_lines=codeclippy_ls.text.split_lines,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folders = [str(parsed.corpus or scratch), str(CORPUS / parsed.target)]
        options = [f"-max_total_time={parsed.seconds}", "-max_len=600"]
        atheris.Setup([sys.argv[0], *options, *folders], TARGETS[parsed.target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
