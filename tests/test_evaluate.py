"""Evaluation: programs are isolated, batches equal single prompts, metrics have their counts."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

pytest.importorskip("tokenizers")
pytest.importorskip("numpy")

from tests import checkpoints, shared
from training import evaluate_edits, evaluate_human, evaluate_lines, sandbox, show, smollm
from training.edits import EditSample
from training.evaluate import Report, SampleSizes, group_rows, measure_infill
from training.generation import GenerationRequest, Model, Sampling, sample_top_p
from training.metrics import BitsPerByte, Proportion, compute_wilson_interval, estimate_pass_at_k, format_table
from training.tokenizer import CONTROL_TOKENS

posix = pytest.mark.skipif(os.name != "posix", reason="programs are run on POSIX systems only")
LIMITS = sandbox.Limits(seconds=5.0, cpu_seconds=1)
SHOWCASE = Path(__file__).resolve().parent.parent / "training" / "showcase.txt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model with this project's control tokens and formats."""
    return checkpoints.save_checkpoint(tmp_path_factory.mktemp("toy"), control_tokens=CONTROL_TOKENS)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return cast_to_float32(Model(folder))


def cast_to_float32(model: Model) -> Model:
    """Cast to float32: sums in another order must not change a toy model's choice."""
    model.module.float()
    return model


# Programs and their possible ends.
ENDS = {
    "pass": ("import hashlib, math, random, re, string\nassert math.gcd(4, 6) == 2", {"passed"}),
    "assertion": ("assert False", {"AssertionError"}),
    "infinite loop": ("while True: pass", {"time"}),
    "fork bomb": ("import os\nwhile True: os.fork()", {"PermissionError"}),
    "subprocess": ("import subprocess; subprocess.run(['true'])", {"PermissionError"}),
    "memory hog": ("x = []\nwhile True: x.append(bytearray(1 << 28))", {"MemoryError"}),
    "file outside": ("open('../outside', 'w')", {"PermissionError"}),
    "path outside": ("import os, pathlib\nos.open(pathlib.Path('/nowhere'), os.O_CREAT)", {"PermissionError"}),
    "remove outside": ("import os; os.remove('/nowhere/file')", {"PermissionError"}),
    "file inside": ("open('inside', 'w').write('x')", {"passed"}),
    "large file": ("open('inside', 'wb').write(bytes(1 << 22))", {"OSError", "signal 25"}),
    "socket": ("import socket; socket.socket()", {"PermissionError"}),
    "foreign functions": ("import ctypes", {"PermissionError"}),
    "kill": ("import os; os.kill(os.getppid(), 9)", {"PermissionError"}),
    "stdin": ("input()", {"EOFError"}),
    "environment": ("import os; assert not {k for k in os.environ if k not in ('LC_CTYPE', 'PWD')}", {"passed"}),
    "packages": ("import torch", {"ModuleNotFoundError"}),
    "early success": ("raise SystemExit(0)", {"SystemExit"}),
    "silent exit": ("import os; os._exit(0)", {"left early"}),
    "no program": ("def", {"SyntaxError"}),
    "deep recursion": ("def f(): f()\nf()", {"RecursionError"}),
}


@posix
@pytest.mark.parametrize("case", ENDS)
def test_programs_end_as_expected(case: str) -> None:
    program, ends = ENDS[case]
    outcome = sandbox.run_program(program, LIMITS)
    assert outcome.status in ends
    assert outcome.passed == (ends == {"passed"})


@posix
def test_sleeping_program_ends_at_the_time_limit() -> None:
    assert sandbox.run_program("import time; time.sleep(60)", sandbox.Limits(seconds=0.5)).status == "time"


@posix
def test_kernel_refuses_threads_that_the_hook_does_not_see() -> None:
    """Not every Python reports new threads to the hook; the kernel counts them as processes."""
    if os.geteuid() == 0 and "--reuid" not in sandbox.find_isolation_command():
        pytest.skip("running as root without setpriv: the kernel's limit does not apply")
    program = "import threading\nthread = threading.Thread(target=print)\nthread.start()"
    assert sandbox.run_program(program, LIMITS).status in {"RuntimeError", "PermissionError"}


@posix
def test_sandbox_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert sandbox.run_program("open('inside', 'w').write('x')", LIMITS).passed
    assert not list(tmp_path.iterdir())


def test_proportions_have_wilson_intervals() -> None:
    low, high = compute_wilson_interval(10, 100)
    assert (round(low, 4), round(high, 4)) == (0.0552, 0.1744)  # Brown, Cai, DasGupta 2001's formula, by hand
    assert (
        compute_wilson_interval(0, 10)[0] == 0
        and compute_wilson_interval(10, 10)[1] == pytest.approx(1)
        and compute_wilson_interval(0, 0) == (0.0, 1.0)
    )
    assert Proportion.from_results([True, False]).to_dict()["of"] == 2


def test_pass_at_k_is_unbiased() -> None:
    """It equals the mean over all subsets of k samples."""
    from itertools import combinations

    for passed in ([True] * 3 + [False] * 7, [False] * 10, [True] * 10, [True] + [False] * 4):
        for k in (1, 2, len(passed)):
            every = [any(choice) for choice in combinations(passed, k)]
            assert estimate_pass_at_k(k, passed) == pytest.approx(sum(every) / len(every))


def test_table_has_a_dash_for_missing_values() -> None:
    shown = format_table({"a": {"model": Proportion(1, 2)}, "b": {"copy": BitsPerByte(8.0, 4, 1)}}, ["model", "copy"])
    assert shown.splitlines()[1].split() == ["a", "50.0%", "1/2", "(9.5%-90.5%)", "-"]
    assert "2.000 4 B, 1 files" in shown


def test_batch_generates_the_same_as_single_prompts(model: Model) -> None:
    """Padding, finished rows and repeated rows change nothing."""
    prefixes = ["def a(", "x = 1\nfor", "import os\n\n\nclass Line:\n    def __init__(self", "return "]
    requests = [model.make_request(text, "\n)", lambda text: len(text) > 12, 16) for text in prefixes]
    together = model.generate_greedy(requests, 16)
    assert together == [model.generate_greedy([one], 16)[0] for one in requests]
    assert len(set(together)) > 1
    cold = model.generate(requests, 16, Sampling(count=3, temperature=1e-6, top_p=1.0))
    assert cold == [[text] * 3 for text in together]


def test_batch_generates_the_same_as_transformers(model: Model) -> None:
    request = model.make_request("def start_of(lines", "", lambda text: False, 20)
    given = torch.tensor([request.prompt_ids])
    expected = model.module.generate(given, max_new_tokens=20, do_sample=False)[0, len(request.prompt_ids) :].tolist()
    expected = expected[: expected.index(0)] if 0 in expected else expected
    assert model.generate_greedy([request], 20) == [model.tokenizer.decode(expected)]


def test_top_p_excludes_the_tail() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(400, 1)
    drawn = sample_top_p(logits, Sampling(temperature=1.0, top_p=0.7), torch.Generator().manual_seed(1))
    assert set(drawn.tolist()) == {0, 1}


def test_model_without_infill_generates_the_healing_prefix_first(tmp_path: Path) -> None:
    other = cast_to_float32(Model(checkpoints.save_checkpoint(tmp_path, "llama", control_tokens=("<|endoftext|>",))))
    assert not other.supports_infill
    request = other.make_request("def f(lines):\n    ret", "ignored", lambda text: False, 12)
    assert request.healing_prefix == " ret"
    free = GenerationRequest(request.prompt_ids)
    [healed], [plain] = other.generate([request], 12)[0], other.generate([free], 12)[0]
    assert not plain.startswith(" ret"), "the toy model must not generate it anyway"
    decoded = other.tokenizer.decode(list(request.prompt_ids)) + request.healing_prefix + healed
    assert decoded.startswith("def f(lines):\n    ret")


def test_prompts_fit_the_context_length(model: Model) -> None:
    request = model.make_request("x = 1\n" * 1000, "y = 2\n" * 1000, lambda text: False, 16)
    assert len(request.prompt_ids) <= model.context_length - 16
    assert request.prompt_ids[0] == 1 and request.prompt_ids[-1] == 3, "control tokens are kept"


def test_bits_are_the_sum_over_all_tokens(model: Model) -> None:
    text = "def line_start(text, offset):\n    return 0\n" * 20
    ids = [0, *model.encode(text)]
    assert len(ids) > model.context_length
    with torch.inference_mode():
        logits = [
            model.module(torch.tensor([ids[at : at + model.context_length]])).logits[0].log_softmax(-1)
            for at in range(0, len(ids) - 1, model.context_length - 1)
        ]
    spent = -sum(
        float(logits[(i - 1) // (model.context_length - 1)][(i - 1) % (model.context_length - 1), ids[i]])
        for i in range(1, len(ids))
    )
    assert model.measure_bits(text) == pytest.approx(spent / 0.6931472, rel=1e-4)


SOURCE = Path(evaluate_lines.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("task", evaluate_lines.INFILL_TASKS, ids=lambda task: task.name)
def test_cases_are_parts_of_the_text(task: evaluate_lines.InfillTask) -> None:
    cases = task.draw_cases([SOURCE], 40, random.Random(1))
    assert len(cases) == 40
    assert cases == task.draw_cases([SOURCE], 40, random.Random(1)), "the same for every model"
    for case in cases:
        assert case.prefix + case.middle + case.suffix == SOURCE and case.middle.strip()
        whole = case.middle + case.suffix
        assert task.truncate_answer(whole, case) == case.middle.rstrip(), "the original text is correct"
        assert task.is_finished(whole[: len(case.middle) + 200], case) or not case.suffix.strip()
    assert evaluate_lines.score_exact([case.middle.rstrip() for case in cases], cases).value == 1.0


def test_blocks_end_at_the_dedent() -> None:
    assert evaluate_lines.truncate_block("\n        a\n\n        b\n    c\n", 4) == "\n        a\n\n        b"
    assert evaluate_lines.truncate_block("\n" + "    a\n" * 9, 0).count("\n") == evaluate_lines.MAX_BLOCK_LINES


def test_baseline_copies_the_longest_match() -> None:
    rest = evaluate_lines.INFILL_TASKS[0]
    case = evaluate_lines.InfillCase("total = price * count\ntotal = pri", "ce * count", "\n")
    assert evaluate_lines.copy_longest_match(case, rest, False) == "ce * count"
    in_suffix = evaluate_lines.InfillCase("total = pri", "ce", "\ntotal = price\n")
    assert (
        evaluate_lines.copy_longest_match(in_suffix, rest, True) == "ce"
        and evaluate_lines.copy_longest_match(in_suffix, rest, False) == ""
    )


def test_languages_are_detected_by_suffix(tmp_path: Path) -> None:
    for name in ("a.py", "b.ts", "c.h", "d.md", "e.toml", "f.sh", "g.bin", "node_modules/h.js"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    found = evaluate_lines.group_by_language(evaluate_lines.iter_files(tmp_path))
    assert {name: len(texts) for name, texts in found.items()} == dict.fromkeys(evaluate_lines.LANGUAGES, 1)


TASK = evaluate_human.HumanEvalTask(
    "one", evaluate_lines.InfillCase("def double(x):\n", "    return 2 * x", "\n"), "\nassert double(4) == 8\n"
)


@posix
def test_line_passes_if_its_test_passes() -> None:
    runs = evaluate_human.ProgramRunner(LIMITS)
    broken = evaluate_human.HumanEvalTask("two", TASK.case, "\nassert double(4) == 9\n")
    assert evaluate_human.filter_solvable([TASK, broken], runs) == [TASK], (
        "a task whose canonical solution fails is dropped"
    )
    answers = [["    return x + x", "    return x", "    return ("]]
    assert evaluate_human.run_answers([TASK], answers, runs) == [[True, False, False]]
    assert evaluate_human.score_exact([TASK], answers).hits == 0
    assert evaluate_human.score_pass_at_k(1, [[True, False, False]]).value == pytest.approx(1 / 3)


@posix
def test_bug_counts_as_fixed_if_its_test_passes() -> None:
    bug = evaluate_human.FixTask(
        "double",
        "def double(x):\n    return 3 * x\n",
        "def double(x):\n    return 2 * x\n",
        "assert double(4) == 8",
        "Write a function",
    )
    runs = evaluate_human.ProgramRunner(LIMITS)
    no_bug = evaluate_human.FixTask("double", bug.after, bug.after, bug.test, "")
    assert evaluate_human.filter_reproducible([bug, no_bug], runs) == [bug]
    assert evaluate_human.score_fixes([bug] * 3, [bug.after, bug.before, None], runs).hits == 1


@posix
def test_canonical_solutions_of_the_reference_files_pass() -> None:
    runs = evaluate_human.ProgramRunner(evaluate_human.LIMITS)
    tasks = evaluate_human.load_tasks(shared.benchmark("HumanEval-SingleLineInfilling.jsonl.gz"), 12)
    assert evaluate_human.filter_solvable(tasks, runs) == tasks and len(tasks) == 12
    bugs = evaluate_human.load_fix_tasks(shared.benchmark("humanevalpack-python.jsonl"), 8)
    assert evaluate_human.filter_reproducible(bugs, runs) == bugs and len(bugs) == 8


EDIT = EditSample("kind", "a.py", "x = 1\n", "Fix it", "@@ -1,1 +1,1 @@\n-x = 1\n+x = 2\n")


def test_edits_are_counted_by_kind() -> None:
    other = EditSample("other", "a.py", "x = 1\n", "Fix it", EDIT.diff)
    found = evaluate_edits.score_by_kind([EDIT, EDIT, other], ["x = 2\n", "x = 3\n", None])
    assert {kind: (fits.hits, right.hits, fits.total) for kind, (fits, right) in found.items()} == {
        "all": (2, 1, 3),
        "kind": (2, 1, 2),
        "other": (0, 0, 1),
    }


def test_diff_is_abandoned_only_if_it_cannot_apply() -> None:
    assert not any(evaluate_edits.is_unusable(EDIT.before, f" {EDIT.diff}"[:at]) for at in range(len(EDIT.diff) + 2))
    assert evaluate_edits.is_unusable(EDIT.before, " @@ -1,1 +1,1 @@\nx = 1\n")
    assert evaluate_edits.is_unusable(EDIT.before, " @@ -1,9 +1,9 @@\n" + "-x = 1\n" * 3)


async def test_edits_are_made_by_plain_decoding_and_by_the_server(model: Model, folder: Path) -> None:
    assert len(evaluate_edits.generate_diffs(model, [EDIT, EDIT])) == 2
    [after] = await evaluate_edits.edit_by_server(folder, [evaluate_edits.make_request(EDIT)])
    assert after is None or after != EDIT.before


def test_rows_of_a_metric_are_grouped(model: Model) -> None:
    report = Report()
    measure_infill(report, "copy", None, [SOURCE], SampleSizes(0, 6, 0, 0, 0))
    measure_infill(report, "model", model, [SOURCE], SampleSizes(0, 2, 0, 0, 0))
    assert all(set(row) == {"copy", "model"} for row in report.metrics.values()) and len(report.metrics) == 8
    rows = dict.fromkeys(("a, x", "b", "a, y"), report.metrics["block, with suffix"])
    assert list(group_rows(rows)) == ["a, x", "a, y", "b"]


def test_rotary_rows_of_gguf_are_reordered() -> None:
    """Adjacent dimensions of a pair become half a head apart."""
    weight = torch.arange(8.0)[:, None]
    assert smollm.unpermute_rotary(weight, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert smollm.map_tensor_name("blk.3.attn_q.weight") == "model.layers.3.self_attn.q_proj.weight"
    assert smollm.map_tensor_name("token_embd.weight") == "model.embed_tokens.weight"


def test_showcase_has_twenty_cases_of_each_job() -> None:
    cases = show.read_cases(SHOWCASE)
    assert [case.number for case in cases] == list(range(1, 61))
    assert [case.job for case in cases] == ["complete"] * 20 + ["infill"] * 20 + ["edit"] * 20
    assert all((show.split_at_cursor(case)[1] == "") == (case.job == "complete") for case in cases[:40])
    for wrong in ("edit a.py\nx\n", "complete a.py\nx\n", "infill a.py: why\n▌\n", "draw a.py\n▌\n"):
        with pytest.raises(ValueError, match="case 1"):
            show.parse_case(1, wrong)


def test_card_section_contains_the_answers(folder: Path) -> None:
    cases = [case for case in show.read_cases(SHOWCASE) if case.number in (1, 25, 41)]
    found = show.generate_answers(folder, cases)
    section = show.format_card(cases, found)
    assert "### Completions" in section and "### Infills" in section and "### Edits" in section
    assert f"self.owner = owner\n        ▌{found[1]}▐" in section
    assert "**Add a docstring**" in section
