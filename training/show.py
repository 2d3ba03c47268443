"""Print what an exported model writes for the prompts of `showcase.txt`, as Markdown for its card. Greedy, unedited.

The list is fixed, not chosen by what came out: text with a cursor to complete, or a first line `edit: message` above
a file to edit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from training import samples
from training.edits import EditSample
from training.evaluate import Model
from training.train import HERE

CURSOR = "▌"


def fenced(text: str, language: str = "python") -> str:
    """A fenced block of Markdown."""
    return f"```{language}\n{text.rstrip()}\n```"


def completed(model: Model, text: str) -> str:
    """A prompt with its cursor, and what the model writes there."""
    prefix, suffix = text.split(CURSOR)
    found = samples.infill(model.encode, prefix, "", suffix)
    written = model.write(found.ids[: found.answer], 40)
    answer = f"\n\n{fenced(written)}" if "\n" in written else f" `{written}`"
    return f"{fenced(text)}\n\n{CURSOR} →{answer}\n"


def edited(model: Model, message: str, before: str) -> str:
    """A file, a message, and the hunks the model writes."""
    written = model.diff(EditSample("", "example.py", before, message, ""), 100)
    return f"**{message}**\n\n{fenced(before)}\n\n{fenced(written, 'diff')}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE.parent / "codeclippy_ls" / "model")
    parser.add_argument("--prompts", type=Path, default=HERE / "showcase.txt")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = Model(options.model)
    for case in options.prompts.read_text().split("====\n"):
        message, _, before = case.partition("\n")
        is_edit = message.startswith("edit: ")
        print(edited(model, message.removeprefix("edit: "), before) if is_edit else completed(model, case))


if __name__ == "__main__":
    main()
