"""Where the time of one keystroke goes, from the change's arrival to the answer's bytes, with the shipped model.

    python -m bench.profile [--keys 60] [--svg FILE]

A server in this process, a client that types through a function of this repository; each stage is timed where it is
called. Stages that run beside each other (a pass of the model, the loop) are counted once, where the answer waits for
them. The median key's stages are printed, and drawn where a file is named; the last line is a JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codeclippy_ls.assist import suggester
from codeclippy_ls.assist.assistant import Assistant
from codeclippy_ls.engine import worker
from codeclippy_ls.engine.generation import decoding
from codeclippy_ls.engine.loading.model import Model
from codeclippy_ls.engines import open_thread_engine
from codeclippy_ls.server import convert
from codeclippy_ls.settings import CompletionSettings, Settings
from codeclippy_ls.tasks import completion
from codeclippy_ls.text import Change, Documents, Position

SAMPLE = Path(__file__).parent.parent / "codeclippy_ls" / "text.py"
STAGES = {
    "change": "taking the change in",
    "prompt": "prompt: cutting, tokens",
    "take": "finding the kept prefix",
    "read": "model: reading what is new",
    "write": "model: writing and checking drafts",
    "choose": "choosing tokens",
    "text": "tokens to text, stops",
    "tidy": "clean-up, does it parse",
    "answer": "the answer's values",
    "rest": "threads, loop, the rest",
}
_COLOURS = (
    "#8dd3c7",
    "#bebada",
    "#fdb462",
    "#80b1d3",
    "#fb8072",
    "#b3de69",
    "#fccde5",
    "#bc80bd",
    "#ccebc5",
    "#d9d9d9",
)


class Watch:
    """Seconds by stage of the key under way; a stage within a stage counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def around(self, owner: Any, name: str, stage: str | Callable[..., str]) -> None:
        """Time a function of a module or class."""
        original = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            started, inner = time.perf_counter(), sum(self.seconds.values())
            try:
                return original(*arguments, **options)
            finally:
                within = sum(self.seconds.values()) - inner
                key = stage if isinstance(stage, str) else stage(*arguments)
                self.seconds[key] += time.perf_counter() - started - within

        setattr(owner, name, timed)


def watched() -> Watch:
    """All stages' functions, timed."""
    watch = Watch()
    watch.around(completion, "completion_prompt", "prompt")
    watch.around(worker.ModelWorker, "start", "prompt")
    watch.around(
        Model,
        "forward",
        lambda model, inputs: "read" if len(inputs[0].token_ids) > inputs[0].num_logits else "write",
    )
    watch.around(decoding.DecodingState, "accept_logits", "choose")
    watch.around(decoding.DecodingState, "next_input", "choose")
    watch.around(worker, "_accept", "text")
    watch.around(suggester, "clean_up", "tidy")
    watch.around(suggester, "find_longest_valid_prefix", "tidy")
    watch.around(suggester.Suggester, "find_source", "tidy")
    watch.around(Documents, "change", "change")
    watch.around(convert, "to_inline_item", "answer")
    return watch


async def typed(keys: int) -> list[dict[str, float]]:
    """Milliseconds by stage of each key that got an answer from the model."""
    settings = Settings(completion=CompletionSettings(prefetch=False))  # which would be told as the next key's
    subject = Assistant(open_thread_engine(settings), settings)
    await subject.load()
    watch, rows = watched(), []
    text = SAMPLE.read_text(encoding="utf-8")
    place = text.index("def offset_at")
    documents = Documents()
    documents.open("file:///text.py", text[:place] + text[place + 400 :], 0, "python")
    line = text.count("\n", 0, place)
    column = 0
    for version, key in enumerate(text[place : place + keys], 1):
        watch.seconds.clear()
        started = time.perf_counter()
        documents.change("file:///text.py", version, [Change(key, Position(line, column), Position(line, column))])
        line, column = (line + 1, 0) if key == "\n" else (line, column + 1)
        document = documents.get("file:///text.py")
        assert document is not None
        subject.forget_document(document.uri)  # typing through what is shown would cost nothing
        found = await subject.complete(document, place + version)
        for item in found.items:
            convert.to_inline_item(document, item, None, "utf-16")
        total = time.perf_counter() - started
        if found.generation is not None:
            stages = {name: 1000 * watch.seconds[name] for name in STAGES if name != "rest"}
            rows.append({**stages, "rest": max(1000 * total - sum(stages.values()), 0.0), "total": 1000 * total})
    await subject.aclose()
    return rows


def drawn(figures: dict[str, float], title: str) -> str:
    """The stages as one bar with a legend, as SVG."""
    total, left, bars, legend = sum(figures.values()), 0.0, [], []
    for index, (name, value) in enumerate(figures.items()):
        width, colour = 760 * value / total, _COLOURS[index]
        bars.append(f'<rect x="{20 + left:.1f}" y="40" width="{width:.1f}" height="34" fill="{colour}"/>')
        x, y = 20 + 390 * (index % 2), 100 + 22 * (index // 2)
        legend.append(
            f'<rect x="{x}" y="{y - 11}" width="12" height="12" fill="{colour}"/>'
            f'<text x="{x + 20}" y="{y}">{STAGES[name]}: {value:.2f} ms</text>'
        )
        left += width
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="800" height="220" font-family="sans-serif" font-size="13">'
        '<rect width="800" height="220" fill="white"/>'
        f'<text x="20" y="26" font-size="15">{title}</text>{"".join(bars)}{"".join(legend)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=60)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    rows = asyncio.run(typed(options.keys))[5:]  # the first read the whole prompt
    middle = sorted(rows, key=lambda row: row["total"])[len(rows) // 4 : 3 * len(rows) // 4 + 1]
    figures = {name: statistics.mean(row[name] for row in middle) for name in STAGES}
    total = sum(figures.values())
    for name, value in figures.items():
        print(f"{STAGES[name]:34} {value:8.2f} ms {100 * value / total:5.1f} %")
    print(f"{'a key of the middle half':34} {total:8.2f} ms, of {len(rows)} keys")
    if options.svg:
        options.svg.write_text(drawn(figures, f"One keystroke, {total:.1f} ms"), encoding="utf-8")
    print(json.dumps({"stages_ms": figures, "keys": len(rows)}))


if __name__ == "__main__":
    main()
