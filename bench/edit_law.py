"""The law: whatever a model generates, every diff is well formed, applies, and has the same effect as the edits.

Real architectures with random weights and random sampling edit documents of every kind, with several vocabularies,
through the assistant's own code. Each diff is checked by GNU patch and ``git apply``, without fuzz and offset.
Some trials bias the logits towards line ends and stop tokens, because random weights rarely stop within their few
tokens.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench import edit_documents
from bench.edit_asking import EditInput, EditResult, ModelStats, Way, open_engine, replace_loader, request_edit
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.inference.spec import SHIPPED_FOLDER
from codeclippy_ls.prompts.token_prompts import TokenPrompt
from codeclippy_ls.tasks.edit_context import find_marker, select_edit_context
from codeclippy_ls.text import Document, replace_surrogates, split_lines, to_lf

TOKENIZERS = Path(__file__).parent.parent.parent / "shared" / "tokenizers"
_WEIGHTS = {"shipped": 14, "codegen": 3, "gpt2": 2, "neox": 2, "fim-neox": 1}
_MAX_PRINTED = 20
# Allowed refusals: nothing was changed, or the user is told the cause. All others break the law.
_ALLOWED = re.compile(
    "the model proposed no change|invisible characters|mixes kinds of line ends|changes nothing|the text contains <"
    "|selection is too long|message is too long|introduce a syntax error"
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One document with its message and sampling parameters, made from a seed."""

    name: str
    kind: str
    model: str
    edit_input: EditInput
    sampling: dict[str, Any]
    bias: tuple[float, float]  # added to the logits of line ends, and of stop tokens
    drafts: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A trial that broke the law."""

    trial: Trial
    problem: str
    diff: str

    def describe(self) -> str:
        """Return all that is needed to reproduce it."""
        edit_input = self.trial.edit_input
        return (
            f"{self.trial.name} ({self.trial.kind}, {self.trial.model}): {self.problem}\n"
            f"  {edit_input.document.text!r}\n"
            f"  lines {edit_input.context.line_numbers[:1]} to {edit_input.context.line_numbers[-1:]}, "
            f"message {edit_input.message!r}, {self.trial.sampling}, bias {self.trial.bias}\n  {self.diff!r}"
        )


def make_trial(seed: int, index: int, names: Sequence[str]) -> Trial:
    """Make the trial of this number."""
    rng = random.Random(f"{seed}/{index}")
    kind, text = edit_documents.make_text(rng)
    # An edit that breaks valid code is refused, and random edits do. So these texts are in no programming language.
    document = Document(f"file:///law/{index}.txt", text, 1, "plaintext")
    last = document.line_count - 1
    cursor = rng.randint(0, last)
    span = rng.choice((None, None, (cursor, cursor), (cursor, min(cursor + rng.randint(1, 40), last))))
    marker = find_marker(document, span, "clippy:") if kind == "marked" else None
    message = marker.message if marker else replace_surrogates(edit_documents.make_message(rng).strip()) or "x"
    sampling = {
        "max_tokens": rng.choice((16, 48, 96, 128)),
        "temperature": rng.choice((1.0, 1.0, 1.0, 1.5, 3.0)),
        "top_p": rng.choice((1.0, 1.0, 0.95)),
        "seed": rng.randrange(1 << 30),
        "candidates": rng.choice((1, 1, 1, 1, 1, 1, 1, 2)),
    }
    model = rng.choices(names, [_WEIGHTS[name] for name in names])[0]
    bias = rng.choice((0.0, 9.0, 10.0, 11.0, 12.0, 13.0)), rng.choice((0.0, 4.0, 8.0))
    edit_input = EditInput(document, select_edit_context(document, span, marker), message, marker)
    return Trial(f"seed {seed} document {index}", kind, model, edit_input, sampling, bias, rng.random() < 0.7)


def list_tokenizers() -> tuple[str, ...]:
    """Return the names of the tokenizers that are available."""
    return tuple(name for name in _WEIGHTS if name == "shipped" or (TOKENIZERS / name).is_dir())


def make_random_model(name: str) -> Any:
    """Make a small model of a real architecture with a published vocabulary, or with the shipped one."""
    import torch
    import transformers

    from codeclippy_ls.engine.loading.config import read_stop_token_ids
    from codeclippy_ls.engine.loading.model import Model
    from codeclippy_ls.engine.loading.tokenizer import read_tokenizer
    from codeclippy_ls.engine.loading.transformers_module import ModuleRunner

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = read_tokenizer(SHIPPED_FOLDER if name == "shipped" else TOKENIZERS / name)
    end = tokenizer.token_to_id("<|endoftext|>")
    common = {"vocab_size": tokenizer.vocab_size, "bos_token_id": end, "eos_token_id": end}
    if name == "codegen":
        config = transformers.CodeGenConfig(
            n_embd=64,
            n_layer=2,
            n_head=4,
            rotary_dim=8,
            n_inner=128,
            n_positions=2048,
            n_ctx=2048,
            tie_word_embeddings=False,
            **common,
        )
    else:
        config = transformers.GPTNeoXConfig(
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=1024,
            **common,
        )
    module = transformers.AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        module.get_output_embeddings().weight.normal_(0.0, 0.2)  # so that some tokens are likelier than others
    name = f"diff-codegen-{name}"
    stop_token_ids = read_stop_token_ids(config, module.generation_config.eos_token_id)
    return Model(ModuleRunner(module, name), tokenizer, name, stop_token_ids=stop_token_ids)


@lru_cache(maxsize=64)
def _make_bias(tokenizer: Any, stop_token_ids: frozenset[int], size: int, line: float, stop: float) -> Any:
    """Return the bias that is added to the logits, (vocab_size,)."""
    import torch

    bias = torch.zeros(size)
    bias[[id for id, data in enumerate(tokenizer.token_bytes) if data.endswith(b"\n")]] = line
    bias[list(stop_token_ids)] = stop
    return bias


def is_well_formed(diff: str) -> bool:
    """Return whether each header counts the lines that follow it, and every line begins with space, - or +."""
    rows = diff.split("\n")
    if rows.pop():
        return False
    at = 0
    while at < len(rows):
        header = re.fullmatch(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", rows[at])
        if header is None:
            return False
        old, new = (int(count) if count is not None else 1 for count in header.groups())
        at += 1
        while (old or new) and at < len(rows):
            old, new, at = old - (rows[at][:1] in (" ", "-")), new - (rows[at][:1] in (" ", "+")), at + 1
            if rows[at - 1][:1] not in (" ", "-", "+"):
                return False
        if old or new:
            return False
    return True


class PatchTools:
    """GNU patch and git, run in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "GIT_CEILING_DIRECTORIES": str(folder.parent),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

    def apply_patch(self, before: str, diff: str) -> tuple[str, str]:
        """Apply a diff; return the patched text, and the error if one of the tools rejects the diff."""
        file, out = self._folder / "f", self._folder / "out"
        file.write_bytes(before.encode())
        out.unlink(missing_ok=True)
        patch = f"--- a/f\n+++ b/f\n{diff}".encode()
        said = self._run(["patch", "-F0", "-p1", "-o", "out", "f"], patch)
        if said:
            return "", f"patch: {said}"
        patched = out.read_bytes() if out.is_file() else b""
        if said := self._run(["git", "apply", "-v", "--whitespace=nowarn", "-"], patch):
            return "", f"git apply: {said}"
        by_git = file.read_bytes() if file.is_file() else b""
        return patched.decode(), "" if by_git == patched else "the results of patch and git apply differ"

    def _run(self, command: list[str], stdin: bytes) -> str:
        done = subprocess.run(
            command, input=stdin, cwd=self._folder, env=self._environment, capture_output=True, check=False
        )
        # Both report hunks that are not at the line they claim, unless they are told to be silent.
        rows = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
        usual = ("patching file", "Checking patch f", "Applied patch f cleanly")
        said = " ".join(row for row in rows if not row.startswith(usual))
        return said or (f"exit status {done.returncode}" if done.returncode else "")


def find_problem(trial: Trial, found: EditResult, tools: PatchTools) -> str:
    """Describe how an answer breaks the law; empty if it does not."""
    if found.after is None:
        return "" if _ALLOWED.search(found.reason) else f"refused: {found.reason}"
    if not is_well_formed(found.diff):
        return "not well formed"
    assert found.generation is not None
    shown = found.generation.candidates[0].answer
    document, numbers = trial.edit_input.document, trial.edit_input.context.line_numbers[shown.start : shown.end]
    patched, error = tools.apply_patch("".join(document.line(number) + "\n" for number in numbers), found.diff)
    if error:
        return error
    after = to_lf(found.after)
    if not numbers:  # a new file, which may contain whitespace
        core = patched.removesuffix("\n")
        good = core in after and not after.replace(core, "", 1).strip()
        return "" if good else f"the edits make {after!r} of nothing"
    expected = make_expected_text(trial, numbers, patched)
    if document.text[-1:] not in "\r\n":  # the final line end stays as it is
        expected = expected.removesuffix("\n")
    return "" if after == expected else f"the edits make {after!r}, not {expected!r}"


def make_expected_text(trial: Trial, numbers: Sequence[int], patched: str) -> str:
    """Return the whole document with the patched lines and without the marker's line, with LF line ends."""
    document, marker = trial.edit_input.document, trial.edit_input.marker
    removed = {marker.line} if marker else set()
    every = [line.rstrip("\r\n") + "\n" for line in split_lines(document.text)]
    head = [every[number] for number in range(numbers[0]) if number not in removed]
    tail = [every[number] for number in range(numbers[-1] + 1, len(every)) if number not in removed]
    return "".join([*head, patched, *tail])


async def _run_trials(trials: Iterator[Trial], engine: ThreadEngine, stats: dict[str, ModelStats]) -> Any:
    for trial in trials:
        known = stats[trial.model]

        def on_prompt(view: Any, prompt: TokenPrompt, trial: Trial = trial, known: ModelStats = known) -> None:
            assert known.hook is not None
            known.hook.reset(len(prompt.token_ids))
            stop_token_ids, temperature = view.stop_token_ids | prompt.stop_token_ids, trial.sampling["temperature"]

            def add_bias(logits: Any, history: Sequence[int]) -> Any:
                return logits + temperature * _make_bias(view.tokenizer, stop_token_ids, len(logits), *trial.bias)

            known.hook.process_logits = add_bias

        family = "" if trial.model == "shipped" else "diff-codegen"
        way = Way("constrained", True, trial.drafts)
        yield trial, await request_edit(engine, trial.model, trial.edit_input, way, trial.sampling, family, on_prompt)


@dataclass(slots=True)
class Tally:
    """Results of the trials so far."""

    documents: int = 0
    diffs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, trial: Trial, found: EditResult, tools: PatchTools) -> list[Failure]:
        """Check an answer with all its candidates; return its failures."""
        self.documents += 1
        if found.after is None:
            self.refused[re.sub(r"\d+", "N", found.reason)] += 1
        else:
            self.diffs += 1 + len(found.others)
            self.kinds[trial.kind] += 1
        checked = [(each, find_problem(trial, each, tools)) for each in (found, *found.others)]
        failures = [Failure(trial, error, each.diff) for each, error in checked if error]
        self.failures += failures
        return failures


async def check(documents: int, seed: int, names: Sequence[str], progress: bool = False) -> Tally:
    """Try documents; with ``progress``, print the progress now and then, and each failure at once."""
    stats, tally = {name: ModelStats() for name in names}, Tally()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        replace_loader(lambda spec: stats[spec.name].record(make_random_model(spec.name))),
    ):
        tools, engine = PatchTools(Path(folder)), open_engine(*names)
        try:
            trials = (make_trial(seed, index, names) for index in range(documents))
            async for trial, found in _run_trials(trials, engine, stats):
                failures = tally.add(trial, found, tools)
                if progress and len(tally.failures) <= _MAX_PRINTED:
                    print("".join(failure.describe() + "\n" for failure in failures), end="", flush=True)
                if progress and tally.documents % 1000 == 0:
                    print(
                        f"{tally.documents:6} documents, {tally.diffs} diffs, {len(tally.failures)} failures, "
                        f"{time.monotonic() - started:.0f} s",
                        flush=True,
                    )
        finally:
            engine.close()
            await asyncio.to_thread(engine.join, 10.0)
    return tally


def main(documents: int, seed: int) -> int:
    """Try documents and print the results; return 1 if the law was broken."""
    names, started = list_tokenizers(), time.monotonic()
    tally = asyncio.run(check(documents, seed, names, progress=True))
    seconds = round(time.monotonic() - started, 1)
    print(
        f"{documents} documents, {tally.diffs} diffs, {len(tally.failures)} break the law; seed {seed}; vocabularies "
        f"{', '.join(names)}; {seconds} s on one thread"
    )
    for reason, count in tally.refused.most_common():
        print(f"{count:7} without a diff: {reason}")
    print(
        json.dumps(
            {
                "documents": documents,
                "seed": seed,
                "diffs": tally.diffs,
                "failures": len(tally.failures),
                "seconds": seconds,
                "kinds": dict(tally.kinds),
                "refused": dict(tally.refused.most_common()),
                "vocabularies": names,
            }
        )
    )
    return 1 if tally.failures else 0
