"""The command line as a user meets it: good and bad arguments, exit codes, diffs that ``patch -p1`` accepts."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls import cli, commands
from tests import checkpoints

SOURCE = """def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)
"""


def run(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "codeclippy_ls", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=600,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of the user's."""
    path = tmp_path / "mean.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def test_version_and_help_import_nothing_heavy() -> None:
    """Otherwise they would take seconds."""
    done = run("--version")
    assert done.stdout == "codeclippy-ls 0.1.0\n"
    helped = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\nfrom codeclippy_ls.cli import main\ntry: main(['--help'])\n"
            "except SystemExit: pass\nassert not {'torch', 'pygls', 'transformers'} & set(sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert helped.returncode == 0 and "complete" in helped.stdout and "--tcp" in helped.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--modle", "x", "complete", "a.py:1:1"], "unknown option --modle: did you mean --model?"),
        (["--modle=x", "doctor"], "unknown option --modle: did you mean --model?"),
        (["--model", "x", "complet", "a.py:1:1"], "unknown subcommand complet: did you mean complete?"),
        (["edit", "a.py", "--mesage", "x"], "unknown option --mesage: did you mean --message?"),
        (["doctor", "--modle", "x"], "unknown option --modle: did you mean --model?"),
        (["-v", "hots"], "unknown subcommand hots: expected one of complete, edit, models"),
        (["--client", "1", "nonsense"], "unknown subcommand nonsense"),
        (["--xyzzy"], "unknown option --xyzzy; see"),
        (["models", "lst"], "choose from"),
    ],
)
def test_unknown_name_is_an_error_that_says_what_was_meant(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line and with exit code 2; what only servers use is never named."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and reason in error and error.count("\n") == 1
    assert "'host'" not in error and " host" not in error


@pytest.mark.parametrize("subcommand", [*commands.SUBCOMMANDS, ""])
def test_help_begins_with_examples_that_parse(subcommand: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each subcommand has examples of itself, and what servers alone use is hidden."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*subcommand.split(), "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and text.index("examples:") < text.index("usage:") and "host  " not in text
    lines = text[text.index("examples:") : text.index("usage:")].splitlines()[1:]
    commands_shown = [line.strip().split("  ")[0] for line in lines if line.strip()]
    assert commands_shown
    for command in commands_shown:
        program, *arguments = shlex.split(command)
        args = cli._make_parser().parse_args(arguments)
        assert program == "codeclippy-ls" and (not subcommand or args.subcommand == subcommand)


def test_values_that_look_like_names_are_values() -> None:
    """A model may be called as a subcommand is, and a message may begin with dashes and have spaces."""
    parser = cli._make_parser()
    assert parser.parse_args(["--model", "dmeo", "doctor"]).subcommand == "doctor"
    assert parser.parse_args(["--model", "demo", "doctor"]).model == "demo"
    assert parser.parse_args(["edit", "a.py", "-m", "--modle is a typing error"]).message == "--modle is a typing error"
    assert parser.parse_args(["complete", "--", "--modle"]).position == "--modle"
    assert parser.parse_args(["--clientProcessId", "1"]).subcommand is None


def test_complete_prints_a_suggestion(source: Path) -> None:
    """At FILE:LINE:COL, counted from 1."""
    source.write_text(SOURCE[: SOURCE.index("in values")], encoding="utf-8")
    done = run("complete", f"{source}:3:15")
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        ("nothing", "expected FILE:LINE:COL"),
        ("absent.py:1:1", "No such file"),
        ("mean.py:99:1", "no line 99"),
        ("mean.py:1:99", "no column 99"),
        ("mean.py:0:1", "no line 0"),
    ],
)
def test_invalid_position_is_an_error(source: Path, position: str, reason: str) -> None:
    """Exit code 2 and one line on stderr."""
    done = run("complete", position, cwd=source.parent)
    assert done.returncode == 2 and reason in done.stderr and "Traceback" not in done.stderr


def test_edit_prints_a_diff_that_patch_accepts(source: Path) -> None:
    """Or it refuses with the reason and exit code 3; the file is only written with --apply."""
    done = run("edit", source.name, "--message", "Rename total to result", "--lines", "1-5", cwd=source.parent)
    assert source.read_text(encoding="utf-8") == SOURCE
    if done.returncode == 3:
        assert "no edit" in done.stderr and not done.stdout
        return
    assert done.returncode == 0, done.stderr
    patched = subprocess.run(
        ["patch", "-p1", "-F0"], input=done.stdout, text=True, capture_output=True, cwd=source.parent, check=False
    )
    assert patched.returncode == 0, patched.stdout
    by_patch = source.read_text(encoding="utf-8")
    source.write_text(SOURCE, encoding="utf-8")
    source.chmod(0o640)
    applied = run(
        "edit", source.name, "--message", "Rename total to result", "--lines", "1-5", "--apply", cwd=source.parent
    )
    assert applied.stdout == done.stdout and source.read_text(encoding="utf-8") == by_patch != SOURCE
    assert source.stat().st_mode & 0o777 == 0o640 and list(source.parent.iterdir()) == [source]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["absent.py", "-m", "x"], 2, "No such file"),
        (["mean.py", "-m", "x", "--lines", "4-2"], 2, "lines 1 to"),
        (["mean.py", "-m", "x", "--lines", "abc"], 2, "expected A-B"),
        (["mean.py", "-m", "  "], 3, "needs a message"),
        (["mean.py", "-m", "x", "--model", "/nowhere"], 1, "is neither a folder"),
        (["mean.py", "-m", "x", "--dtype", "int3"], 2, "expected one of"),
        (["binary.py", "-m", "x"], 2, "not a UTF-8"),
        (["mean.py"], 2, "--message"),
    ],
)
def test_invalid_edit_is_an_error(source: Path, arguments: list[str], code: int, reason: str) -> None:
    """Each with its exit code and one line."""
    (source.parent / "binary.py").write_bytes(b"\xff\x00")
    done = run("edit", *arguments, cwd=source.parent)
    assert done.returncode == code and reason in done.stderr and "Traceback" not in done.stderr


def test_models_says_which_model_does_what(tmp_path: Path) -> None:
    """By the settings; whether an unknown model edits shows when it is loaded."""
    alone = run("models").stdout
    assert alone.startswith("complete by the shipped model on device auto; edit by the shipped model (")
    chosen = run("models", "--model", tmp_path / "coder.gguf", "--device", "cpu").stdout
    assert chosen.startswith("complete by coder.gguf on device cpu; edit by coder.gguf if it follows instructions, ")
    both = run("models", "--model", "a/b", "--edit-model", "c/d").stdout
    assert both.startswith("complete by b on device auto; edit by d (")
    wrong = run("models", "--dtype", "int3")
    assert wrong.returncode == 2 and "expected one of" in wrong.stderr and "Traceback" not in wrong.stderr


def test_models_lists_families() -> None:
    """With capabilities, license and cautions."""
    done = run("models", "families")
    assert done.returncode == 0
    for expected in (
        "fim-neox: completion, fim",
        "diff-codegen: edit",
        "Salesforce/codegen-16B-mono",
        "BSD-3-Clause",
        "sandbox",
    ):
        assert expected in done.stdout


@pytest.mark.slow
def test_doctor_accepts_the_shipped_model_and_reports_a_damaged_one(tmp_path: Path) -> None:
    """Exit code 0 with the shipped model; 1 and a fix with a damaged one."""
    healthy = run("doctor")
    assert (
        healthy.returncode == 0
        and "everything works" in healthy.stdout
        and " ms a token; edit by the shipped model" in healthy.stdout
        and "checksum correct" in healthy.stdout
    ), healthy.stdout
    broken = checkpoints.save_checkpoint(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    damaged = run("doctor", "--model", broken)
    assert damaged.returncode == 1 and "Git LFS pointer" in damaged.stdout and "->" in damaged.stdout


def test_listening_on_other_addresses_needs_allow_remote() -> None:
    """Anyone who reaches the port could use the server."""
    done = run("--tcp", "0.0.0.0:0")
    assert done.returncode == 2 and "--allow-remote" in done.stderr
    assert run("--tcp", "nonsense").returncode == 2


@pytest.mark.slow
def test_demo_shows_three_right_results() -> None:
    """With the real server: each is what a programmer would have written there."""
    done = run("demo", NO_COLOR="1")
    assert done.returncode == 0, done.stdout
    completion, infill, edit = done.stdout.split("\n\n")[1:4]
    assert "return »best«" in completion
    assert "        »for name, price, count in self.items:«" in infill
    added = [line[3:] for line in edit.splitlines() if line.startswith("  +") and "+++" not in line]
    names: dict[str, Any] = {"count": -1}
    program = textwrap.dedent("\n".join(added))
    with pytest.raises(ValueError, match="count"):
        exec(program, names)
    exec(program, {"count": 0})
    assert not [line for line in edit.splitlines() if line.startswith("  -") and "---" not in line]


def test_log_file_is_private(tmp_path: Path) -> None:
    """Mode 0600, and no symbolic link is followed."""
    log = tmp_path / "log"
    assert run("--log-file", log, "models").returncode == 0
    assert log.stat().st_mode & 0o777 == 0o600
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    assert run("--log-file", link, "models").returncode == 2 and not (tmp_path / "target").exists()


@pytest.mark.slow
def test_closed_streams_byte_order_marks_and_read_only_files(source: Path) -> None:
    """A byte order mark and a read-only file stay as they are, and a closed stream causes no traceback."""
    source.write_bytes(b"\xef\xbb\xbf" + SOURCE.encode())
    done = run("edit", source, "-m", "Add a docstring", "--apply")
    assert done.returncode in (0, 3) and source.read_bytes().count(b"\xef\xbb\xbf") == 1
    assert source.read_bytes().startswith(b"\xef\xbb\xbf")
    before = source.read_bytes()
    source.chmod(0o444)
    kept = run("edit", source, "-m", "Rename mean to average", "--apply")
    assert kept.returncode in (2, 3) and source.read_bytes() == before and "Traceback" not in kept.stderr
    for closing in ("<&-", ">&-", "2>&-", "<&- >&-"):
        shell = subprocess.run(
            f"{sys.executable} -m codeclippy_ls models {closing}",
            shell=True,
            capture_output=True,
            text=True,
            check=False,
        )
        assert shell.returncode == 0 and "Traceback" not in shell.stderr
    piped = subprocess.run(
        f"{sys.executable} -m codeclippy_ls models | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Exception" not in piped.stderr
    assert run("--socket", "0").returncode == 2 == run("--socket", "99999999").returncode


@pytest.mark.skipif(sys.platform == "win32", reason="there is no host by default")
def test_a_host_is_started_once_and_asked_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The subcommand says what it waits for, and does not load the model itself."""
    source.write_text(SOURCE[: SOURCE.index("in values")], encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="cc-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        first = run("complete", f"{source}:3:15")
        logs = {path: path.read_text() for path in Path(folder).rglob("*.log")}
        again = run("complete", f"{source}:3:15")
        assert {path: path.read_text() for path in Path(folder).rglob("*.log")} == logs
    assert len(logs) == 1 and "the shipped model" in "".join(logs.values())
    assert first.stderr.splitlines()[:1] == ["codeclippy-ls: loading the shipped model …"]
    assert first.stdout == again.stdout != "" and "loading" not in again.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see what a process has mapped")
@pytest.mark.parametrize("mapped", ["libtorch", "model.safetensors"])
def test_interrupt_ends_a_subcommand_at_once(source: Path, mapped: str, tmp_path: Path) -> None:
    """During import or loading: by the signal, as shells expect it, and without a traceback."""
    config = tmp_path / "config" / "codeclippy-ls" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[model]\nengine = "in-process"\n')
    child = subprocess.Popen(
        [sys.executable, "-m", "codeclippy_ls", "edit", source, "-m", "Rename mean", "--apply"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")},
    )
    while mapped not in Path(f"/proc/{child.pid}/maps").read_text():
        assert child.poll() is None, "the process has ended"
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=600)
    assert child.returncode == -signal.SIGINT and "Traceback" not in stderr
    assert source.read_text() == SOURCE
