"""The law: whatever a model says, a diff that comes out is well formed, applies, and means what the edits do.

Real architectures with random weights, sampling at random, edit documents of every kind over several vocabularies,
through the assistant's own path. Judges of each diff are GNU patch and ``git apply``, with neither fuzz nor offset.
Some of the models lean towards ends of lines and of the answer, for the others seldom come to an end within their few
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
from bench.edit_asking import Asking, Facts, Made, Way, loading, made, open_engine
from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.inference.spec import SHIPPED_FOLDER
from codeclippy_ls.prompts.token_prompts import TokenPrompt
from codeclippy_ls.tasks.edit_context import find_marker, select_edit_context
from codeclippy_ls.text import Document, replace_surrogates, split_lines, to_lf

TOKENIZERS = Path(__file__).parent.parent.parent / "shared" / "tokenizers"
_WEIGHTS = {"shipped": 14, "codegen": 3, "gpt2": 2, "neox": 2, "fim-neox": 1}
_MOST_SHOWN = 20
# What may be refused: nothing was changed, or the user is told what stands in the way. All else breaks the law.
_ALLOWED = re.compile(
    "the model proposed no change|invisible characters|mixes kinds of line ends|changes nothing|the text contains <"
    "|selection is too long|message is too long|would break the code"
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One document with its message and how it is sampled, made from a seed."""

    name: str
    kind: str
    model: str
    asking: Asking
    sampling: dict[str, Any]
    lean: tuple[float, float]  # towards the ends of lines, and of the answer
    drafts: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A broken law."""

    trial: Trial
    problem: str
    diff: str

    def shown(self) -> str:
        """All that is needed to see it again."""
        one = self.trial.asking
        return (
            f"{self.trial.name} ({self.trial.kind}, {self.trial.model}): {self.problem}\n  {one.document.text!r}\n"
            f"  lines {one.shown.line_numbers[:1]} to {one.shown.line_numbers[-1:]}, message {one.message!r}, "
            f"{self.trial.sampling}, lean {self.trial.lean}\n  {self.diff!r}"
        )


def trial(seed: int, index: int, names: Sequence[str]) -> Trial:
    """The trial of that number."""
    chance = random.Random(f"{seed}/{index}")
    kind, text = edit_documents.text(chance)
    # An edit that breaks whole code is refused, and random ones do. None of these is whole JSON.
    document = Document(f"file:///law/{index}.json", text, 1, "json")
    last = document.line_count - 1
    cursor = chance.randint(0, last)
    span = chance.choice((None, None, (cursor, cursor), (cursor, min(cursor + chance.randint(1, 40), last))))
    marker = find_marker(document, span, "clippy:") if kind == "marked" else None
    message = marker.message if marker else replace_surrogates(edit_documents.message(chance).strip()) or "x"
    sampling = {
        "max_tokens": chance.choice((16, 48, 96, 128)),
        "temperature": chance.choice((1.0, 1.0, 1.0, 1.5, 3.0)),
        "top_p": chance.choice((1.0, 1.0, 0.95)),
        "seed": chance.randrange(1 << 30),
        "candidates": chance.choice((1, 1, 1, 1, 1, 1, 1, 2)),
    }
    model = chance.choices(names, [_WEIGHTS[name] for name in names])[0]
    lean = chance.choice((0.0, 9.0, 10.0, 11.0, 12.0, 13.0)), chance.choice((0.0, 4.0, 8.0))
    asking = Asking(document, select_edit_context(document, span, marker), message, marker)
    return Trial(f"seed {seed} document {index}", kind, model, asking, sampling, lean, chance.random() < 0.7)


def tokenizer_names() -> tuple[str, ...]:
    """The vocabularies at hand."""
    return tuple(name for name in _WEIGHTS if name == "shipped" or (TOKENIZERS / name).is_dir())


def random_model(name: str) -> Any:
    """A small model of real code over a published vocabulary, or the shipped one."""
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
def _leaning(tokenizer: Any, ends: frozenset[int], rows: int, line: float, end: float) -> Any:
    """What is added to the model's scores."""
    import torch

    bias = torch.zeros(rows)
    bias[[id for id, data in enumerate(tokenizer.token_bytes) if data.endswith(b"\n")]] = line
    bias[list(ends)] = end
    return bias


def well_formed(diff: str) -> bool:
    """Whether each header counts the lines that follow it, and every line has its sign."""
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


class Judges:
    """GNU patch and git in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "GIT_CEILING_DIRECTORIES": str(folder.parent),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

    def patched(self, before: str, diff: str) -> tuple[str, str]:
        """What patch makes of a text, and why the diff is wrong where one of the judges says so."""
        file, out = self._folder / "f", self._folder / "out"
        file.write_bytes(before.encode())
        out.unlink(missing_ok=True)
        patch = f"--- a/f\n+++ b/f\n{diff}".encode()
        said = self._run(["patch", "-F0", "-p1", "-o", "out", "f"], patch)
        if said:
            return "", f"patch: {said}"
        made = out.read_bytes() if out.is_file() else b""
        if said := self._run(["git", "apply", "-v", "--whitespace=nowarn", "-"], patch):
            return "", f"git apply: {said}"
        theirs = file.read_bytes() if file.is_file() else b""
        return made.decode(), "" if theirs == made else "patch and git apply make different texts of it"

    def _run(self, command: list[str], given: bytes) -> str:
        done = subprocess.run(
            command, input=given, cwd=self._folder, env=self._environment, capture_output=True, check=False
        )
        # Both say so where a hunk stands elsewhere than it claims, unless they are told to be silent.
        rows = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
        usual = ("patching file", "Checking patch f", "Applied patch f cleanly")
        said = " ".join(row for row in rows if not row.startswith(usual))
        return said or (f"exit status {done.returncode}" if done.returncode else "")


def problem(trial: Trial, found: Made, judges: Judges) -> str:
    """How an answer breaks the law; empty where it does not."""
    if found.after is None:
        return "" if _ALLOWED.search(found.reason) else f"refused: {found.reason}"
    if not well_formed(found.diff):
        return "not well formed"
    assert found.generation is not None
    shown = found.generation.candidates[0].answer
    document, numbers = trial.asking.document, trial.asking.shown.line_numbers[shown.start : shown.end]
    patched, said = judges.patched("".join(document.line(number) + "\n" for number in numbers), found.diff)
    if said:
        return said
    after = to_lf(found.after)
    if not numbers:  # a new file, in which there may be blanks
        core = patched.removesuffix("\n")
        good = core in after and not after.replace(core, "", 1).strip()
        return "" if good else f"the edits make {after!r} of nothing"
    wanted = expected(trial, numbers, patched)
    if document.text[-1:] not in "\r\n":  # the final line end stays as it is
        wanted = wanted.removesuffix("\n")
    return "" if after == wanted else f"the edits make {after!r}, not {wanted!r}"


def expected(trial: Trial, numbers: Sequence[int], patched: str) -> str:
    """The whole document with the patched lines in it and without the marker's, each line ended by LF."""
    document, marker = trial.asking.document, trial.asking.marker
    gone = {marker.line} if marker else set()
    every = [line.rstrip("\r\n") + "\n" for line in split_lines(document.text)]
    head = [every[number] for number in range(numbers[0]) if number not in gone]
    tail = [every[number] for number in range(numbers[-1] + 1, len(every)) if number not in gone]
    return "".join([*head, patched, *tail])


async def _answers(trials: Iterator[Trial], engine: ThreadEngine, facts: dict[str, Facts]) -> Any:
    for one in trials:
        known = facts[one.model]

        def begin(view: Any, prompt: TokenPrompt, one: Trial = one, known: Facts = known) -> None:
            assert known.watch is not None
            known.watch.begin(len(prompt.token_ids))
            ends, heat = view.stop_token_ids | prompt.stop_token_ids, one.sampling["temperature"]

            def leaning(logits: Any, history: Sequence[int]) -> Any:
                return logits + heat * _leaning(view.tokenizer, ends, len(logits), *one.lean)

            known.watch.change = leaning

        family = "" if one.model == "shipped" else "diff-codegen"
        way = Way("constrained", True, one.drafts)
        yield one, await made(engine, one.model, one.asking, way, one.sampling, family, begin)


@dataclass(slots=True)
class Tally:
    """What came of the trials so far."""

    documents: int = 0
    diffs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, one: Trial, found: Made, judges: Judges) -> list[Failure]:
        """Judge an answer with all its candidates; returns how it breaks the law."""
        self.documents += 1
        if found.after is None:
            self.refused[re.sub(r"\d+", "N", found.reason)] += 1
        else:
            self.diffs += 1 + len(found.others)
            self.kinds[one.kind] += 1
        judged = [(each, problem(one, each, judges)) for each in (found, *found.others)]
        failures = [Failure(one, said, each.diff) for each, said in judged if said]
        self.failures += failures
        return failures


async def check(documents: int, seed: int, names: Sequence[str], progress: bool = False) -> Tally:
    """Try so many documents; with ``progress``, say now and then how far it is, and at once what breaks the law."""
    facts, tally = {name: Facts() for name in names}, Tally()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, loading(lambda spec: facts[spec.name].note(random_model(spec.name))):
        judges, engine = Judges(Path(folder)), open_engine(*names)
        try:
            every = (trial(seed, index, names) for index in range(documents))
            async for one, found in _answers(every, engine, facts):
                failures = tally.add(one, found, judges)
                if progress and len(tally.failures) <= _MOST_SHOWN:
                    print("".join(failure.shown() + "\n" for failure in failures), end="", flush=True)
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
    """Try, and say what came of it; 1 where the law was broken."""
    names, started = tokenizer_names(), time.monotonic()
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
