"""A real model in a new account: found where four programs keep it, chosen in each editor, loaded and completing.

The model is Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, as a file beside the project (``../models``), or the one that the
variable ``CODECLIPPY_TEST_MODEL`` names; without it the tests are skipped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.editors.accounts import OLLAMA_NAME, fill_account
from tests.editors.code_server import USER, Window, drive, make_profile, serve, set_command
from tests.editors.conftest import REAL_SERVER, REPOSITORY
from tests.editors.emacs import Emacs, quote
from tests.editors.neovim import Nvim

FILE = REPOSITORY.parent / "models" / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
MEAN = "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return"
EXPECTED = "total / len(values)"


class Account:
    """The account of a user who has models of four programs, and a server that runs in it."""

    def __init__(self, home: Path, model: Path) -> None:
        self.home = home
        self.names = fill_account(home, model)
        own = {
            "HOME": home,
            **{f"XDG_{kind}_HOME": home / kind.lower() for kind in ("CONFIG", "DATA", "STATE", "CACHE")},
        }
        own["HF_HOME"] = home / ".cache" / "huggingface"
        note = home / "state" / "codeclippy-ls" / "model-offer"
        note.parent.mkdir(parents=True)
        note.touch()  # the offer would come at any time
        assignments = [f"{name}={value}" for name, value in own.items()]
        self.command = ["env", *assignments, *REAL_SERVER]
        self.options = {"model": {"folders": [str(home / "mine")], "engine": "in-process"}}
        self.config = home / "config" / "codeclippy-ls" / "config.toml"

    def forget_choice(self) -> None:
        """Let the next editor start with the shipped model; what was prepared stays in the cache."""
        self.config.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def module_account(tmp_path_factory: pytest.TempPathFactory) -> Account:
    model = Path(os.environ.get("CODECLIPPY_TEST_MODEL") or FILE)
    if not model.is_file():
        pytest.skip(f"{model.name} is not beside the project, and CODECLIPPY_TEST_MODEL names no other file")
    return Account(tmp_path_factory.mktemp("account"), model)


@pytest.fixture
def account(module_account: Account) -> Account:
    module_account.forget_choice()
    return module_account


def test_neovim(account: Account, tmp_path: Path) -> None:
    nvim = Nvim("0.12", tmp_path, account.command, account.options)
    try:
        nvim.open(tmp_path / "mean.py", MEAN)
        nvim.wait_until_ready()
        nvim.exec_lua(
            "vim.ui.select = function(items, options, on_choice) local lines = vim.tbl_map(options.format_item, items) "
            "_G.test_models = _G.test_models or lines for index, line in ipairs(lines) do "
            "if vim.startswith(line, 'ollama:') or #lines == 2 then return on_choice(items[index]) end end end"
        )
        nvim.press("<Esc>:CodeClippy model<CR>")
        nvim.wait_until(lambda: any("complete by ollama" in note for note in nvim.get_messages()), "the model in use")
        listed = nvim.exec_lua("return _G.test_models")
        assert all(any(name in line for line in listed) for name in account.names.values())
        nvim.set_cursor(5, 9)
        nvim.press("A ")
        nvim.wait_for_screen(EXPECTED)
        assert account.config.read_text() == f'[model]\ncompletion = "{OLLAMA_NAME}"\n'
    finally:
        nvim.close()


def test_emacs(account: Account, tmp_path: Path, shots: Path) -> None:
    emacs = Emacs("30", tmp_path, account.command)
    try:
        folders = quote(account.home / "mine")
        emacs.eval_lisp(
            f'(progn (setq codeclippy-settings \'(:model (:folders [{folders}] :engine "in-process"))) nil)'
        )
        emacs.open(tmp_path / "mean.py", MEAN)
        emacs.wait_until_ready()
        emacs.run_with_meta_x("codeclippy-choose-model")
        emacs.wait_for_screen("The model of all your editors:")
        emacs.press("Tab")
        emacs.wait_for_screen(OLLAMA_NAME)
        emacs.take_screenshot(shots / "emacs-models.svg", "Emacs")
        listed = emacs.eval_lisp('(with-current-buffer "*Completions*" (buffer-string))')
        assert all(Path(name).name in listed for name in account.names.values())
        emacs.type("ollama")
        emacs.press("Tab")
        emacs.press("Enter")
        emacs.wait_until(lambda: "complete by ollama" in emacs.get_messages(), "the model in use")
        emacs.type(" ")
        emacs.wait_for_screen(EXPECTED)
        assert account.config.read_text() == f'[model]\ncompletion = "{OLLAMA_NAME}"\n'
    finally:
        emacs.close()


def test_vscode(account: Account, tmp_path: Path, shots: Path) -> None:
    make_profile(tmp_path, USER)
    (tmp_path / "command.json.started").touch()
    set_command(tmp_path, account.command)
    with serve(tmp_path) as port, drive(port, shots) as driver:
        window = Window(driver, tmp_path / "project", tmp_path / "command.json", "mean")
        window.write_settings(model_folders=account.options["model"]["folders"], model_engine="in-process")
        window.open(MEAN)
        window.run("runCommand", title="Code Clippy: Choose Model")
        rows = window.run("listRows", row=OLLAMA_NAME, shot="real-models")
        assert {program for program in account.names if any(program in row for row in rows)} == set(account.names)
        window.run("pickRow", row=OLLAMA_NAME)
        window.run("waitForStatus", expected="Code Clippy: loading the model")
        window.run("waitForStatus", expected="Code Clippy: ready")
        (notification,) = window.run("takeNotifications")
        assert "complete by ollama:qwen2.5-coder:0.5b on cpu" in notification
        assert EXPECTED in window.run("typeForGhostText", line=5, type=" ", expected=EXPECTED)
        assert account.config.read_text() == f'[model]\ncompletion = "{OLLAMA_NAME}"\n'


def test_the_command_line_lists_them(account: Account, tmp_path: Path) -> None:
    import subprocess

    command = [*account.command, "models", "--folder", str(account.home / "mine")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and sys.platform != "win32"
    for program, name in account.names.items():
        shown = name.replace(str(account.home), "~", 1)
        row = done.stdout.partition(f"{shown}\n")[2].partition("\n")[0]
        assert row.endswith(program) and "qwen-coder: complete, infill, edit; 0.5B Q4_K_M; 491 MB; " in row, done.stdout
