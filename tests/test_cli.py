"""The command line as a user meets it: good and bad arguments, exit codes, diffs that ``patch -p1`` accepts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    """Else they would take seconds."""
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


def test_complete_prints_a_suggestion(source: Path) -> None:
    """At FILE:LINE:COL, counted from 1."""
    source.write_text(SOURCE[: SOURCE.index("in values")], encoding="utf-8")
    done = run("complete", f"{source}:3:15")
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("nothing", "FILE:LINE:COL is needed"),
        ("absent.py:1:1", "No such file"),
        ("mean.py:99:1", "no line 99"),
        ("mean.py:1:99", "column 99 is not in it"),
        ("mean.py:0:1", "no line 0"),
    ],
)
def test_bad_places_are_named(source: Path, place: str, reason: str) -> None:
    """Exit code 2 and one line on stderr."""
    done = run("complete", place, cwd=source.parent)
    assert done.returncode == 2 and reason in done.stderr and "Traceback" not in done.stderr


def test_edit_prints_a_diff_that_patch_accepts(source: Path) -> None:
    """Or refuses with the reason and exit code 3; the file is only written with --apply."""
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
        (["mean.py", "-m", "x", "--lines", "abc"], 2, "A-B is needed"),
        (["mean.py", "-m", "  "], 3, "needs a message"),
        (["mean.py", "-m", "x", "--model", "/nowhere"], 1, "is neither a folder"),
        (["mean.py", "-m", "x", "--dtype", "int3"], 2, "expected one of"),
        (["binary.py", "-m", "x"], 2, "not UTF-8"),
        (["mean.py"], 2, "--message"),
    ],
)
def test_bad_edits_are_named(source: Path, arguments: list[str], code: int, reason: str) -> None:
    """Each with its exit code and one line."""
    (source.parent / "binary.py").write_bytes(b"\xff\x00")
    done = run("edit", *arguments, cwd=source.parent)
    assert done.returncode == code and reason in done.stderr and "Traceback" not in done.stderr


def test_models_lists_every_family_and_what_is_here() -> None:
    """With jobs, licence and cautions."""
    done = run("models")
    assert done.returncode == 0
    for expected in (
        "fim-neox: completion, fim",
        "diff-codegen: edit",
        "Salesforce/codegen-16B-mono",
        "BSD-3-Clause",
        "sandbox",
        "shipped: clippy",
    ):
        assert expected in done.stdout


@pytest.mark.slow
def test_doctor_finds_everything_well_and_names_what_is_not(tmp_path: Path) -> None:
    """Exit code 0 with the shipped model; 1 and a cure with a damaged one."""
    well = run("doctor")
    assert well.returncode == 0 and "everything works" in well.stdout and "hash right" in well.stdout, well.stdout
    broken = checkpoints.save_checkpoint(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    ill = run("doctor", "--model", broken)
    assert ill.returncode == 1 and "Git LFS pointer" in ill.stdout and "->" in ill.stdout


def test_listening_on_other_addresses_must_be_forced() -> None:
    """Anyone who reaches the port could use the server."""
    done = run("--tcp", "0.0.0.0:0")
    assert done.returncode == 2 and "--allow-remote" in done.stderr
    assert run("--tcp", "nonsense").returncode == 2


@pytest.mark.slow
def test_the_demo_shows_three_results() -> None:
    """With the real server; its exit code says whether each scene had one."""
    done = run("demo", NO_COLOR="1")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(" ms ") >= 3 and "»" in done.stdout and "+++ b/basket.py" in done.stdout


def test_log_files_are_private(tmp_path: Path) -> None:
    """Mode 0600, and no symbolic link is followed."""
    log = tmp_path / "log"
    assert run("--log-file", log, "models").returncode == 0
    assert log.stat().st_mode & 0o777 == 0o600
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    assert run("--log-file", link, "models").returncode == 2 and not (tmp_path / "target").exists()


@pytest.mark.slow
def test_closed_streams_and_marks_and_read_only_files(source: Path) -> None:
    """A byte order mark stays where it is, a read-only file as it is, and a closed stream is no traceback."""
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


@pytest.mark.skipif(sys.platform != "linux", reason="looks at what a process has mapped by /proc")
@pytest.mark.parametrize("mapped", ["libtorch", "model.safetensors"])
def test_an_interrupt_ends_a_verb_at_once(source: Path, mapped: str) -> None:
    """While it imports or loads: by the signal, as shells expect it, and without a traceback."""
    child = subprocess.Popen(
        [sys.executable, "-m", "codeclippy_ls", "edit", source, "-m", "Rename mean", "--apply"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while mapped not in Path(f"/proc/{child.pid}/maps").read_text():
        assert child.poll() is None, "it has ended"
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=600)
    assert child.returncode == -signal.SIGINT and "Traceback" not in said
    assert source.read_text() == SOURCE
