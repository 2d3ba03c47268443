"""The edit benchmark: which commits become cases, the teacher's output, the counts."""

from __future__ import annotations

import json
import os
import random
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import edit_cases, edit_documents, edit_law, edits
from bench.edit_asking import EditInput, EditResult, ForwardHook, ModelStats, Way
from bench.edit_cases import Case, Clone
from bench.edit_instructed import TaskOutcome, print_table
from bench.edit_metrics import Outcome, compute_ratios, summarize
from bench.edit_replay import Teacher, make_true_diff
from bench.edit_tasks import can_run, passes_test, read_tasks
from codeclippy_ls.constrain.grammar import diff_constraint
from codeclippy_ls.engine.loading.model import Model
from codeclippy_ls.engine.loading.tokenizer import Tokenizer
from codeclippy_ls.engine.loading.transformers_module import ModuleRunner
from codeclippy_ls.inference.requests import Candidate, FinishReason, Generation
from codeclippy_ls.tasks.edit import ContextDiff
from codeclippy_ls.tasks.edit_context import EditContext
from codeclippy_ls.text import Document
from tests import checkpoints

MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy of this software"
LINES = [f"name_{index} = {index}" for index in range(24)]
BEFORE = "\n".join([*LINES[:10], "def work(x):", "    y = x", "    return y", "", *LINES[10:]]) + "\n"
AFTER = BEFORE.replace("    y = x\n", "    y = x + 1\n    z = y\n")
CASE = Case("owner/name", "0" * 40, "MIT", "pkg/work.py", "add one to y", BEFORE, AFTER)


class History:
    """A git repository that grows by commits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._git("init", "-q", "-b", "main")

    def commit(self, subject: str, files: dict[str, str]) -> None:
        """Commit these files."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self._git("add", "-A")
        self._git("commit", "-q", "--allow-empty", "-m", subject)

    def _git(self, *arguments: str) -> None:
        who = {
            f"GIT_{role}_{key}": value
            for role in ("AUTHOR", "COMMITTER")
            for key, value in (("NAME", "a"), ("EMAIL", "a@b.c"), ("DATE", "2020-01-01T00:00:00Z"))
        }
        environment = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        subprocess.run(["git", *arguments], cwd=self.folder, env=environment, check=True)


def replace_line(line: int, text: str, before: list[str] = LINES) -> str:
    """Return the lines as a file, with one of them replaced."""
    return "\n".join([*before[:line], text, *before[line + 1 :]]) + "\n"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Make a history with one suitable commit among all kinds of others."""
    history = History(tmp_path_factory.mktemp("clone"))
    other = [line + "0" for line in LINES]
    whole = "\n".join(LINES) + "\n"
    history.commit(
        "Begin all of it",
        {
            "LICENSE": MIT,
            "pkg/__init__.py": "",
            "pkg/a.py": whole,
            "pkg/b.py": whole,
            "pkg/c.py": "x = 1\ny = 2\n",
            "tests/test_a.py": whole,
        },
    )
    history.commit(
        "fix: count from one instead (#12)", {"pkg/a.py": replace_line(3, "name_3 = 4"), "tests/test_a.py": ""}
    )
    history.commit("Bump to the next number", {"pkg/a.py": replace_line(4, "name_4 = 5")})
    history.commit("Fix it", {"pkg/a.py": replace_line(5, "name_5 = 6")})
    history.commit("Change two files at once", {"pkg/a.py": whole, "pkg/b.py": replace_line(5, "name_5 = 6")})
    history.commit("Rewrite the whole file anew", {"pkg/a.py": "\n".join(other) + "\n"})
    history.commit("Change nothing but the spaces", {"pkg/a.py": replace_line(2, "name_2  =  20", other)})
    history.commit("Break the file for everybody", {"pkg/a.py": replace_line(2, "name_2 = (", other)})
    history.commit("Only the tests are better", {"tests/test_a.py": whole})
    history.commit("Change a file that is short", {"pkg/c.py": "x = 1\ny = 3\n"})
    return Clone("owner/fresh", history.folder)


def test_small_commits_with_a_message_become_cases(clone: Clone) -> None:
    """Only the one that is small, valid, of one file, and described; references to issues are left out."""
    found = edit_cases.collect_cases(clone, 10, frozenset())
    assert [(case.path, case.message, case.licence) for case in found] == [
        ("pkg/a.py", "fix: count from one instead", "MIT")
    ]
    assert found[0].before.replace("name_3 = 3", "name_3 = 4") == found[0].after
    assert found == edit_cases.collect_cases(clone, 10, frozenset()) and not edit_cases.collect_cases(
        clone, 0, frozenset()
    )


def test_packages_that_were_trained_on_are_refused(clone: Clone, tmp_path: Path) -> None:
    """Found by the repository's name or by its folders, in any spelling."""
    for name in ("fresh", "pkg"):
        with pytest.raises(ValueError, match=f"has seen {name}"):
            edit_cases.collect_cases(clone, 10, frozenset({name}))
    (tmp_path / "packages.txt").write_text("# list\nFoo_Bar==1.0  # held-out\n", encoding="utf-8")
    (tmp_path / "packages-npm.txt").write_text("@scope/pkg@1.2\n", encoding="utf-8")
    (tmp_path / "NOTICE").write_text("Packages\n\nbaz   1.0   10  training  MIT\n", encoding="utf-8")
    assert edit_cases.read_training_packages(tmp_path) == {"foo-bar", "@scope/pkg", "baz"}


def test_licences_are_detected_by_their_wording(tmp_path: Path) -> None:
    """A licence that is not known to be permissive is refused."""
    texts = {
        MIT: "MIT",
        "Apache License\n   Version 2.0, January 2004": "Apache-2.0",
        "Redistribution and use in source and binary forms": "BSD-2-Clause",
        "Redistribution and use in source and binary forms. Neither the name of": "BSD-3-Clause",
        "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee": "ISC",
        "GNU GENERAL PUBLIC LICENSE": None,
        MIT + " or the GNU Lesser General Public License": None,
        "mine": None,
    }
    assert {text: edit_cases.detect_licence(text) for text in texts} == texts
    history = History(tmp_path)
    history.commit("Begin all of it", {"LICENSE": "all rights reserved"})
    with pytest.raises(ValueError, match="found no licence"):
        edit_cases.collect_cases(Clone("owner/fresh", tmp_path), 10, frozenset())


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("Fix the parser of dates (#12)", "Fix the parser of dates"),
        ("fix: drop old code. Fixes #3", "fix: drop old code"),
        ("Merge branch main into dev", None),
        ("Fix typo in the docs", None),
        ("release 1.2 of it", None),
        ("Fix it", None),
        ("1.2.3 is out at last", None),
        ("Update __init__.py", None),
        ("Bumped all the things", None),
        ("Handle empty lists, closes GH-12", "Handle empty lists, closes"),
    ],
)
def test_commit_subjects_are_cleaned(subject: str, message: str | None) -> None:
    """References to issues are removed; a subject that does not describe the change is left out."""
    assert edit_cases.clean_subject(subject) == message


def test_selection_is_function_around_change() -> None:
    """Or the file if it is small, or some lines."""
    assert edits.select_lines(CASE) == (0, 27)
    long = replace(CASE, before=BEFORE + "\n".join(LINES) + "\n", after=AFTER + "\n".join(LINES) + "\n")
    assert edits.select_lines(long) == (10, 12) and edits.find_changed_lines(long) == (11, 11)
    outside = replace(long, after=long.before.replace("name_0 = 0\n", "", 1))
    assert edits.select_lines(outside) == (0, 15)
    added = replace(long, after=long.before.replace("    return y\n", "    return y\n    # end\n"))
    assert edits.select_lines(added) == (10, 12)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Return a small byte-level tokenizer."""
    return Tokenizer(checkpoints.make_tokenizer_json())


DIFF = make_true_diff(BEFORE.split("\n")[:-1], AFTER.split("\n")[:-1])


def test_true_diff_has_training_format() -> None:
    """A space before the first header, counts, three lines of context."""
    assert DIFF.split("\n")[0] == " @@ -9,7 +9,8 @@"
    assert DIFF.split("\n")[4:7] == ["-    y = x", "+    y = x + 1", "+    z = y"]


def test_teacher_writes_text_in_its_own_tokens(tokenizer: Tokenizer) -> None:
    """Without a constraint."""
    prompt, written = [1, 2, 3], list[int]()
    teacher = Teacher(tokenizer, len(prompt), DIFF, [0])
    while 0 not in written:
        written.append(int(teacher.bias_logits(torch.zeros(tokenizer.vocab_size), [*prompt, *written]).argmax()))
    assert written == [*tokenizer.encode_continuation(DIFF), 0]


def test_teacher_writes_text_under_grammar(tokenizer: Tokenizer) -> None:
    """With any tokens that are allowed and continue the text."""
    state = diff_constraint(tokenizer, BEFORE.split("\n")[:-1], [0])
    teacher, written = Teacher(tokenizer, 0, DIFF, [0]), list(state.get_forced_tokens())
    for token in written:
        state = state.advance(token)
    for _ in range(300):
        allowed = list(state.get_allowed_tokens())
        token = allowed[int(teacher.bias_logits(torch.zeros(tokenizer.vocab_size), written)[allowed].argmax())]
        if token == 0:
            break
        for each in (token, *state.advance(token).get_forced_tokens()):
            state = state.advance(each)
            written.append(each)
    assert state.format_diff().split("\n")[1:] == DIFF.split("\n")[1:]


def test_teacher_resumes_at_next_line(tokenizer: Tokenizer) -> None:
    """After other numbers, or without a space before the header, the rest of the line is given up."""
    teacher = Teacher(tokenizer, 0, " @@ -1,2 +1,2 @@\n a\n-b\n+c\n", [0])
    assert teacher.find_rest(b" @@ -1") == b",2 +1,2 @@\n a\n-b\n+c\n" == teacher.find_rest(b"@@ -1")
    assert teacher.find_rest(b"@@ -7") == b"\n" and teacher.find_rest(b"@@ -7,2 +1 @@\n") == b" a\n-b\n+c\n"
    assert teacher.find_rest(b" @@ -1,2 +1,2 @@\n a\n-b\n+c\n") == b""


class Cache:
    """A cache of a given length."""

    def __init__(self, length: int = 0) -> None:
        self.length = length


def test_passes_are_counted_and_histories_follow_the_caches() -> None:
    """Also if a cache was cropped, and if logits of several positions are requested at once."""
    seen: list[tuple[int, ...]] = []

    def forward(inputs: Any) -> list[torch.Tensor]:
        for one in inputs:
            one.kv_cache.length += len(one.token_ids)
        return [torch.zeros(one.num_logits, 4) for one in inputs]

    def change(logits: torch.Tensor, history: Any) -> torch.Tensor:
        seen.append(tuple(history))
        return logits + 1

    model: Any = SimpleNamespace(forward=forward)
    hook, cache = ForwardHook(model, change), Cache()
    hook.reset(3)

    def make_input(token_ids: list[int], num_logits: int, cache: Cache = cache) -> Any:
        return SimpleNamespace(token_ids=token_ids, kv_cache=cache, num_logits=num_logits)

    model.forward([make_input([1, 2], 0)])
    assert not seen
    model.forward([make_input([3], 1)])
    assert float(model.forward([make_input([4, 5, 6], 2)])[0].sum()) == 8
    cache.length = 4
    model.forward([make_input([7], 1)])
    model.forward([make_input([8], 1), make_input([9], 1, Cache(5))])
    assert seen == [
        (1, 2, 3),
        (1, 2, 3, 4, 5),
        (1, 2, 3, 4, 5, 6),
        (1, 2, 3, 4, 7),
        (1, 2, 3, 4, 7, 8),
        (1, 2, 3, 4, 7, 9),
    ]
    assert (hook.passes, hook.prefill_passes) == (5, 2)


async def test_model_with_teacher_is_exact_in_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the engine, with a real architecture: the same text, with the fewest passes under the grammar."""
    monkeypatch.setattr(
        "bench.edits.make_random_codegen",
        lambda tokenizer: Model(
            ModuleRunner(checkpoints.make_module("codegen", context_length=2048)),
            tokenizer,
            "diff-codegen-toy",
            stop_token_ids=frozenset({0}),
        ),
    )
    monkeypatch.setattr(
        "codeclippy_ls.engine.loading.tokenizer.read_tokenizer",
        lambda folder: Tokenizer(checkpoints.make_tokenizer_json()),
    )
    stats = ModelStats()
    found = await edits.run_replay([CASE], Path(), stats)
    plain, constrained = found["plain"][0], found["constrained"][0]
    assert all(row.exact and row.ended and row.parses for rows in found.values() for row in rows), found
    assert plain.passes - plain.prefill_passes == plain.tokens and constrained.passes < plain.passes / 2
    assert stats.as_dict()["context_length"] == 2048 and stats.weights > 0


def make_outcome(passes: int, prefill_passes: int = 2, ended: bool = True, reason: str = "") -> Outcome:
    """Make an outcome that took this many passes."""
    return Outcome(not reason, not reason, not reason, reason, ended, 10, 5, passes, prefill_passes, float(passes))


def test_sums_and_ratios() -> None:
    """Sums over the cases that both ways answered; reasons are counted."""
    plain = [make_outcome(22), make_outcome(12, ended=False, reason="bad 7"), make_outcome(0, 0, False, "too long")]
    other = [make_outcome(4), make_outcome(4), make_outcome(0, 0, False, "too long")]
    row = summarize(plain)
    assert (row["exact"], row["passes"], row["writing"]) == (1, 34, 30)
    assert row["reasons"] == {"bad N": 1, "too long": 1}
    found = compute_ratios(plain, other)
    assert (found["cases"], found["passes"], found["writing"], found["ended"]) == (2, 4.25, 7.5, 1)
    assert (found["passes_ended"], found["median_passes"]) == (5.5, 4.25)


def test_cases_are_sampled_evenly_and_round_trip(tmp_path: Path) -> None:
    """The same ones each time."""
    cases = [replace(CASE, commit=str(index)) for index in range(10)]
    assert [case.commit for case in edits.sample_evenly(cases, 3)] == ["0", "3", "6"]
    assert edits.sample_evenly(cases, 30) == cases
    assert Case(**json.loads(json.dumps({field: getattr(CASE, field) for field in Case.__slots__}))) == CASE


GOOD = "@@ -1,2 +1,2 @@\n-a\n+A\n b\n"


@pytest.mark.parametrize(
    ("diff", "expected"),
    [
        (GOOD, ""),
        (GOOD.replace(" b", " c"), "patch"),
        (GOOD.replace("+1,2", "+1,3"), "not well formed"),
        (GOOD.replace("-1,2", "-9,2"), "patch"),
        (GOOD + "x\n", "not well formed"),
        (GOOD.replace("+A", "+B"), "the edits"),
    ],
)
def test_wrong_diffs_break_the_law(diff: str, expected: str, tmp_path: Path) -> None:
    """A wrong line, count or position, and edits that differ from the diff."""
    edit_input = EditInput(Document("file:///f", "a\r\nb"), EditContext(("a", "b"), (0, 1), 0, 1), "x")
    trial = edit_law.Trial("", "", "", edit_input, {}, (0, 0), True)
    candidate = Candidate(diff, (), 0.0, FinishReason.END, ContextDiff(diff, 0, 2))
    found = EditResult(Generation(FinishReason.END, (candidate,)), "A\r\nb", diff)
    tools = edit_law.PatchTools(tmp_path)
    error = edit_law.find_problem(trial, found, tools)
    assert error.startswith(expected) and bool(error) == bool(expected), error
    assert edit_law.find_problem(trial, EditResult(reason="it was Tuesday"), tools)
    assert not edit_law.find_problem(
        trial, EditResult(reason="the model proposed no change"), edit_law.PatchTools(tmp_path)
    )


def test_documents_are_of_every_kind_and_the_same_for_a_seed() -> None:
    """With all styles of line ends, with the final one and without."""
    documents = [edit_documents.make_text(random.Random(seed)) for seed in range(300)]
    assert documents == [edit_documents.make_text(random.Random(seed)) for seed in range(300)]
    assert {kind for kind, _ in documents} == set(edit_documents.KINDS)
    texts = [text for _, text in documents]
    assert any("\r\n" in text for text in texts) and any(text and text[-1] not in "\r\n" for text in texts)
    assert Way("x", True).drafts and edit_law.make_trial(1, 2, ("shipped",)) == edit_law.make_trial(1, 2, ("shipped",))


def test_instructed_tasks_are_of_two_halves_and_fail_before_the_edit() -> None:
    """What a test checks of the unchanged file passes; the whole test does not, and its process is limited."""
    tasks = [task for task in read_tasks() if can_run(task)]
    files = {task.path: task for task in tasks}
    assert len(read_tasks()) >= 60 and len(read_tasks("kept")) == len(read_tasks("search")) == len(read_tasks()) / 2
    for task in files.values():
        assert 15 <= task.before.count("\n") <= 80
        assert passes_test(replace(task, test=task.always), task.before), task.path
        assert not passes_test(task, task.before), task.name
    solved = next(task for task in tasks if task.name == "inventory/sorting")
    assert passes_test(solved, solved.before.replace("list(self.counts)", "sorted(self.counts)"))
    assert not passes_test(solved, solved.before.replace("list(self.counts)", "sorted(self.prices)"))


def test_instructed_outcomes_are_summed_by_way(capsys: pytest.CaptureFixture[str]) -> None:
    """Right, applied, refused, and whether any candidate was right."""
    rows = [
        TaskOutcome("ours", "a/b", True, True, "", 10, 5, 1.0, (True, False)),
        TaskOutcome("ours", "a/c", False, True, "", 10, 5, 1.0, (False, True)),
        TaskOutcome("ours", "a/d", False, False, "no change", 10, 5, 1.0),
    ]
    found = print_table(rows)["ours"]
    assert (found["tasks"], found["right"], found["applied"], found["refused"], found["any right"]) == (3, 1, 2, 1, 2)
    assert "a/d: no change" in capsys.readouterr().out
