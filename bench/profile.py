"""Measure the stages of one keystroke, from the arrival of the change to the answer, with the shipped model.

    python -m bench.profile [--keys 60] [--svg FILE]

The assistant runs in this process, and a function of this repository is typed; the functions of each stage are timed.
Concurrent stages (a pass of the model, the event loop) count once, for the one that the answer waits for. Prints the
mean stages of the middle half of the keys, and draws them with ``--svg``; the last line is a JSON object.
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
from codeclippy_ls.engine import generation_job
from codeclippy_ls.engine.generation import decoding, kv_cache
from codeclippy_ls.engine.loading.model import Model
from codeclippy_ls.engines import open_thread_engine
from codeclippy_ls.server import convert
from codeclippy_ls.settings import CompletionSettings, Settings
from codeclippy_ls.tasks import completion
from codeclippy_ls.text import Change, Documents, Position

SAMPLE = Path(__file__).parent.parent / "codeclippy_ls" / "text.py"
STAGES = {
    "change": "applying the change",
    "prompt": "prompt: truncation, tokens",
    "take": "lookup in the prefix cache",
    "read": "model: prefill",
    "write": "model: decoding, verifying drafts",
    "choose": "sampling",
    "text": "detokenizing, stop strings",
    "tidy": "clean-up, syntax check",
    "answer": "making the answer",
    "rest": "threads, event loop, the rest",
}
# Owner, function, stage.
TIMED: tuple[tuple[Any, str, str | Callable[..., str]], ...] = (
    (completion, "build_completion_prompt", "prompt"),
    (kv_cache.PrefixCache, "acquire", "take"),
    (Model, "forward", lambda model, inputs: "read" if len(inputs[0].token_ids) > inputs[0].num_logits else "write"),
    (decoding.DecodingState, "accept_logits", "choose"),
    (decoding.DecodingState, "next_input", "choose"),
    (generation_job.GenerationJob, "_append_token", "text"),
    (suggester, "clean_up", "tidy"),
    (suggester, "fit", "tidy"),
    (suggester.Suggester, "find_source", "tidy"),
    (Documents, "change", "change"),
    (convert, "to_inline_item", "answer"),
)
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


class StageTimer:
    """Seconds by stage of the current key; nested stages count only for the inner one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, owner: Any, name: str, stage: str | Callable[..., str]) -> None:
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


def time_stages() -> StageTimer:
    """Wrap the functions of all stages."""
    timer = StageTimer()
    for owner, name, stage in TIMED:
        timer.wrap(owner, name, stage)
    return timer


async def measure_keys(keys: int) -> list[dict[str, float]]:
    """Measure the milliseconds by stage of each key that the model answered."""
    settings = Settings(completion=CompletionSettings(prefetch=False))  # it would count for the next key
    assistant = Assistant(open_thread_engine(settings), settings)
    await assistant.load()
    timer, rows = time_stages(), []
    text = SAMPLE.read_text(encoding="utf-8")
    start = text.index("def offset_at")
    documents = Documents()
    documents.open("file:///text.py", text[:start] + text[start + 400 :], 0, "python")
    line = text.count("\n", 0, start)
    column = 0
    for version, key in enumerate(text[start : start + keys], 1):
        timer.seconds.clear()
        started = time.perf_counter()
        documents.change("file:///text.py", version, [Change(key, Position(line, column), Position(line, column))])
        line, column = (line + 1, 0) if key == "\n" else (line, column + 1)
        document = documents.get("file:///text.py")
        assert document is not None
        assistant.forget_document(document.uri)  # the suggestion cache would answer without the model
        found = await assistant.complete(document, start + version)
        for item in found.items:
            convert.to_inline_item(document, item, None, "utf-16")
        total = time.perf_counter() - started
        if found.generation is not None:
            stages = {name: 1000 * timer.seconds[name] for name in STAGES if name != "rest"}
            rows.append({**stages, "rest": max(1000 * total - sum(stages.values()), 0.0), "total": 1000 * total})
    await assistant.aclose()
    return rows


def draw_svg(stages: dict[str, float], title: str) -> str:
    """Draw the stages as one bar with a legend, as SVG."""
    total, left, bars, legend = sum(stages.values()), 0.0, [], []
    for index, (name, value) in enumerate(stages.items()):
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
    rows = asyncio.run(measure_keys(options.keys))[5:]  # the first ones prefill the whole prompt
    middle = sorted(rows, key=lambda row: row["total"])[len(rows) // 4 : 3 * len(rows) // 4 + 1]
    stages = {name: statistics.mean(row[name] for row in middle) for name in STAGES}
    total = sum(stages.values())
    for name, value in stages.items():
        print(f"{STAGES[name]:34} {value:8.2f} ms {100 * value / total:5.1f} %")
    print(f"{'a key of the middle half':34} {total:8.2f} ms, of {len(rows)} keys")
    if options.svg:
        options.svg.write_text(draw_svg(stages, f"One keystroke, {total:.1f} ms"), encoding="utf-8")
    print(json.dumps({"stages_ms": stages, "keys": len(rows)}))


if __name__ == "__main__":
    main()
