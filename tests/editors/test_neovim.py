"""The Neovim client in real Neovim processes: the tests type, and read the screen and the buffers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.editors.accounts import write_toy_model
from tests.editors.conftest import CLIENTS, REAL_SERVER, Script, require_installed
from tests.editors.hosts import EXIT_MESSAGE, LONG_EDITS, LONG_FILE, UNFINISHED, Hosts
from tests.editors.neovim import BINARIES, Nvim
from tests.editors.terminal import Terminal

Start = Callable[..., Nvim]
ADD = "def add(a, b):\n    \n"
HUNKS = "@@ -1,2 +1,3 @@\n def add(a, b):\n+    # adds\n     return a + b\n"
PLAIN = "def add(a, b):\n    return a + b\n"
CART = "def total(items):\n    return \n\n\ndef names(items):\n    return [item.name for item in items]\n"
CART_HUNKS = (
    "@@ -1,2 +1,3 @@\n def total(items):\n-    return \n"
    '+    """Return the price of all items."""\n+    return sum(item.price for item in items)\n'
)
COLOURS = "-c 'hi Normal guibg=#292929' -c 'hi NormalFloat guibg=#292929'"  # the colours of the picture's frame


@pytest.fixture(params=sorted(BINARIES))
def start(request: pytest.FixtureRequest, tmp_path: Path, script: Script) -> Iterator[Start]:
    """Return a function that starts an editor of each version, by default with the scripted server."""
    running: list[Nvim] = []

    def starter(command: list[str] | None = None, options: dict[str, Any] | None = None, **given: Any) -> Nvim:
        running.append(Nvim(request.param, tmp_path, command or script.command, options, **given))
        return running[-1]

    yield starter
    for editor in running:
        editor.close()


@pytest.fixture
def nvim(start: Start, script: Script, tmp_path: Path) -> Nvim:
    """Start an editor whose server suggests `return a + b`, and open an unfinished function."""
    script.set(complete="return a + b")
    editor = start()
    editor.open(tmp_path / "add.py", ADD)
    editor.wait_until_ready()
    return editor


def show_ghost_text(nvim: Nvim, text: str = "return a + b") -> None:
    """Start to type in the unfinished function, and wait until the suggestion is drawn but not inserted."""
    nvim.set_cursor(2, 4)
    nvim.press("A")
    nvim.wait_for_screen("    " + text)
    assert nvim.get_text() == ADD.rstrip("\n")


def test_ghost_text_is_accepted_whole_and_undone_in_one_step(nvim: Nvim) -> None:
    show_ghost_text(nvim)
    nvim.press("<Tab>")
    nvim.wait_until(lambda: nvim.get_text() == "def add(a, b):\n    return a + b", "the suggestion to be inserted")
    nvim.press("<Esc>u")
    nvim.wait_until(lambda: nvim.get_text() == ADD.rstrip("\n"), "one undo to revert it")


def test_ghost_text_is_accepted_by_word_and_by_line(nvim: Nvim, script: Script) -> None:
    script.set(complete="return a + b\n\nadd(1, 2)")
    show_ghost_text(nvim)
    nvim.press("<M-Right>")
    nvim.wait_until(lambda: nvim.get_text() == "def add(a, b):\n    return", "the first word")
    nvim.wait_for_screen("    return a + b")
    nvim.press("<M-C-Right>")
    nvim.wait_until(lambda: nvim.get_text() == "def add(a, b):\n    return a + b", "the rest of the line")


def test_typing_through_keeps_the_suggestion(nvim: Nvim, script: Script) -> None:
    show_ghost_text(nvim)
    script.set(complete="something else")
    nvim.press("ret")
    nvim.wait_until(lambda: nvim.get_text().endswith("    ret"), "the typed text")
    time.sleep(1.0)  # longer than any debounce: a wrong request would have been sent by now
    assert "    return a + b" in nvim.get_screen()
    nvim.press("<Tab>")
    nvim.wait_until(lambda: nvim.get_text() == "def add(a, b):\n    return a + b", "the suggestion, not twice")


def test_typing_something_else_hides_the_suggestion(nvim: Nvim, script: Script) -> None:
    show_ghost_text(nvim)
    script.set(delay=60)
    nvim.press("x = 1")
    nvim.wait_until(
        lambda: nvim.get_text().endswith("x = 1") and not nvim.has_ghost_text(),
        "the suggestion to disappear before any answer",
        5,
    )
    nvim.press("<Tab>")
    nvim.wait_until(
        lambda: nvim.get_text().endswith("x = 1\t") or nvim.get_text().endswith("x = 1   "), "an ordinary Tab"
    )


def test_the_completion_menu_inserts_the_suggestion(nvim: Nvim, script: Script) -> None:
    script.set(complete="eturn a + b\n\n\nadd(1, 2)")
    nvim.set_cursor(2, 4)
    nvim.press("Ar<C-x><C-o>")
    nvim.wait_until(lambda: nvim.exec_lua("return vim.fn.pumvisible()") == 1, "the menu")
    nvim.wait_for_screen("Code Clippy")
    nvim.press("<C-n><C-y>")
    nvim.wait_until(lambda: nvim.get_text().startswith("def add(a, b):\n    return a + b"), "the item to be inserted")


def test_edit_with_message_is_previewed_applied_and_undone(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.set(edit=HUNKS)
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.press(":CodeClippyEdit Add a comment<CR>")
    nvim.wait_for_screen("y apply")
    nvim.wait_for_screen("+    # adds")
    assert (
        nvim.exec_lua("return vim.api.nvim_buf_get_lines(vim.fn.bufnr('plain.py'), 0, -1, false)") == PLAIN.splitlines()
    )
    nvim.press("y")
    nvim.wait_until(lambda: nvim.get_text() == "def add(a, b):\n    # adds\n    return a + b", "the edit")
    nvim.press("u")
    nvim.wait_until(lambda: nvim.get_text() == PLAIN.rstrip("\n"), "one undo to revert it")


def test_a_discarded_edit_changes_nothing(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.set(edit=HUNKS)
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.press(":CodeClippyEdit Add a comment<CR>")
    nvim.wait_for_screen("y apply")
    nvim.press("n")
    nvim.wait_until(lambda: "y apply" not in nvim.get_screen(), "the preview to close")
    time.sleep(0.3)
    assert nvim.get_text() == PLAIN.rstrip("\n") and not nvim.get_messages()


def test_an_edit_without_confirmation_is_applied_at_once(start: Start, script: Script, tmp_path: Path) -> None:
    script.set(edit=HUNKS)
    nvim = start(options={"edit": {"confirm": False}})
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.wait_until_ready()
    nvim.press(":1,2CodeClippyEdit Add a comment<CR>")
    nvim.wait_until(lambda: nvim.get_text() == "def add(a, b):\n    # adds\n    return a + b", "the edit")


def test_a_diff_is_shown_and_the_next_candidate_is_chosen(start: Start, script: Script, tmp_path: Path) -> None:
    """With `edit.showDiff`, in one window that closes with the answer; a code action replaces the edit by the other."""
    script.set(edit=[HUNKS, HUNKS.replace("adds", "sums")])
    nvim = start(options={"edit": {"showDiff": True}})
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.wait_until_ready()
    nvim.press(":1,2CodeClippyEdit Add a comment<CR>")
    nvim.wait_for_screen("+    # adds")
    nvim.wait_for_screen("2: Next")
    nvim.press("2<CR>")
    nvim.wait_for_screen("(2 of 2)")
    nvim.wait_for_screen("+    # sums")
    assert "# adds" not in nvim.get_screen(), "both candidates use one window"
    nvim.press("1<CR>")
    nvim.wait_until(lambda: nvim.get_text().splitlines()[1] == "    # sums", "the edit")
    assert nvim.exec_lua("return { #vim.api.nvim_list_wins(), #vim.api.nvim_list_bufs() }") == [1, 1], (
        "no window or buffer is left"
    )
    nvim.exec_lua(
        "vim.lsp.buf.code_action({ apply = true, filter = function(action) "
        "return action.title:find('another version') ~= nil end })"
    )
    nvim.wait_until(lambda: nvim.get_text().splitlines()[1] == "    # adds", "the other edit")
    nvim.open(tmp_path / "other.py", PLAIN)
    nvim.press(":1,2CodeClippyEdit Add a comment<CR>")
    nvim.wait_for_screen("3: Discard")
    nvim.press("<CR>")
    nvim.wait_until(lambda: nvim.exec_lua("return #vim.api.nvim_list_wins()") == 1, "the diff to close")
    assert nvim.get_text() == PLAIN.rstrip("\n") and not nvim.get_messages()


def test_an_edit_is_refused_if_the_text_changed_during_the_preview(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.set(edit=HUNKS)
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.press(":CodeClippyEdit Add a comment<CR>")
    nvim.wait_for_screen("y apply")
    nvim.exec_lua("vim.api.nvim_buf_set_lines(vim.fn.bufnr('plain.py'), 0, 0, false, { 'import os' })")
    nvim.press("y")
    nvim.wait_until(lambda: any("the document has changed" in note for note in nvim.get_messages()), "the reason")
    assert nvim.get_text() == "import os\n" + PLAIN.rstrip("\n")


def test_the_prompt_for_the_message_has_history(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.set(edit=HUNKS)
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.press(":CodeClippyEdit<CR>")
    nvim.wait_for_screen("what should change?")
    nvim.press("Add a comment<CR>")
    nvim.wait_for_screen("y apply")
    nvim.press("n")
    nvim.wait_until(lambda: "y apply" not in nvim.get_screen(), "the preview to close")
    nvim.press(":CodeClippyEdit<CR>")
    nvim.wait_for_screen("what should change?")
    nvim.press("<Up>")
    nvim.wait_for_screen("Add a comment")
    nvim.press("<Esc>")
    nvim.wait_until(lambda: "what should change?" not in nvim.get_screen(), "the prompt to close")
    assert nvim.get_text() == PLAIN.rstrip("\n")


def test_a_preset_is_a_code_action(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.set(edit=HUNKS)
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.exec_lua(
        "vim.schedule(function() vim.lsp.buf.code_action({ apply = true, "
        "filter = function(action) return action.title == 'Code Clippy: Fix the bug' end }) end)"
    )
    nvim.wait_for_screen("y apply")
    nvim.press("y")
    nvim.wait_until(lambda: "# adds" in nvim.get_text(), "the edit")


def test_an_edit_in_progress_is_cancelled(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.set(edit=HUNKS, delay=60)
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.press(":CodeClippyEdit Add a comment<CR>")
    nvim.wait_until(
        lambda: nvim.exec_lua("return require('codeclippy').statusline()") == "Clippy: editing", "the edit to begin"
    )
    nvim.press(":CodeClippy cancel<CR>")
    nvim.wait_until(lambda: nvim.exec_lua("return require('codeclippy').statusline()") == "", "the edit to end", 10)
    assert nvim.get_text() == PLAIN.rstrip("\n")


def test_a_killed_server_is_restarted(start: Start, script: Script, tmp_path: Path) -> None:
    """Neovim shows a message that is longer than its window, which must not ask for Enter."""
    script.set(complete="return a + b")
    nvim = start(columns=80, notifier=False)
    nvim.open(tmp_path / "add.py", ADD)
    nvim.wait_until_ready()
    show_ghost_text(nvim)
    nvim.press("<Esc>")
    # The scripted server is the only child of the editor.
    pid = nvim.exec_lua("return vim.api.nvim_get_proc_children(vim.fn.getpid())")[0]
    os.kill(pid, signal.SIGKILL)
    nvim.wait_until(
        lambda: nvim.exec_lua("return require('codeclippy.status').state()") != "ready", "the client to notice the exit"
    )
    nvim.wait_until_ready()
    nvim.wait_for_screen("Code Clippy: the server crashed and is restarting")
    assert "exit code 0 and signal 9" in nvim.get_message_history()
    assert "hit-enter" in nvim.exec_lua("return vim.o.messagesopt") and nvim.exec_lua("return vim.o.more")
    show_ghost_text(nvim)


def test_a_long_message_does_not_ask_for_enter(start: Start, script: Script, tmp_path: Path) -> None:
    """In 80 columns, in any mode, and several in a row: the next key changes the text, and `:messages` has the whole
    message. A notifier of the user gets the whole message, too."""
    reason = "the model is made of cheese 🧀; " + "choose another, or eat it; " * 12
    message = f"Code Clippy: {reason}. Then run the command codeclippy.reloadModel"
    script.set(load_error=reason, load_delay=0.5)
    nvim = start(columns=80, notifier=False)

    def is_shown() -> bool:
        last_line = nvim.get_screen().splitlines()[-1]
        return last_line.startswith("Code Clippy: the model is made of cheese") and last_line.endswith("…")

    def fail_again(count: int) -> None:
        nvim.exec_lua("require('codeclippy').command('reload')")
        nvim.wait_until(
            lambda: nvim.exec_lua("return require('codeclippy.status').state()") == "loading", "the model to load"
        )
        nvim.wait_until(
            lambda: nvim.exec_lua("return require('codeclippy.status').state()") == "failed", "the model to fail"
        )
        time.sleep(0.5)  # the message comes after the status
        assert nvim.get_message_history().count(message) == count

    nvim.open(tmp_path / "add.py", ADD)
    nvim.wait_until(is_shown, "the message")
    assert nvim.get_message_history().count(message) == 1
    nvim.press("x")
    nvim.wait_until(lambda: nvim.get_text() == "ef add(a, b):\n    ", "the key to delete a character")

    nvim.press("i")
    fail_again(1)  # the command line shows the mode
    nvim.press("d")
    nvim.wait_until(lambda: nvim.get_text() == ADD.rstrip("\n"), "the key to be inserted")
    assert not is_shown()
    nvim.press("<Esc>")
    nvim.wait_until(is_shown, "the message")
    assert nvim.get_message_history().count(message) == 2

    nvim.press(":normal! A #")
    fail_again(2)
    fail_again(2)
    nvim.press(" adds<CR>")
    nvim.wait_until(lambda: nvim.get_text() == "def add(a, b): # adds\n    ", "the command to be executed")
    nvim.wait_until(is_shown, "the message")
    assert nvim.get_message_history().count(message) == 4
    nvim.press("x")
    nvim.wait_until(lambda: nvim.get_text() == "def add(a, b): # add\n    ", "the key to delete a character")

    nvim.install_notifier()
    fail_again(4)
    assert nvim.get_messages() == [message]


def test_suggestions_start_once_the_model_is_loaded(start: Start, script: Script, tmp_path: Path) -> None:
    script.set(complete="return a + b", load_delay=4)
    nvim = start()
    nvim.open(tmp_path / "add.py", ADD)
    nvim.wait_until(
        lambda: nvim.exec_lua("return require('codeclippy').statusline()") == "Clippy: loading", "the status"
    )
    nvim.set_cursor(2, 4)
    nvim.press("A")
    nvim.wait_until_ready()
    nvim.press(" <BS>")
    nvim.wait_for_screen("    return a + b")
    assert not nvim.get_messages()


def test_a_suggestion_whose_time_was_up_appears_when_it_is_finished(nvim: Nvim, script: Script) -> None:
    script.set(complete="return a + b", cut=True)
    show_ghost_text(nvim)


def test_the_server_is_told_where_the_cursor_rests(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    read = tmp_path / "read"
    script.set(read=str(read))
    nvim.press("j$")
    nvim.wait_until(lambda: read.exists() and read.read_text().endswith("def add(a, b):\n   "), "the prompt to be read")


def test_a_model_that_failed_to_load_is_reported_and_can_be_reloaded(
    start: Start, script: Script, tmp_path: Path
) -> None:
    script.set(load_error="no such model")
    nvim = start()
    nvim.open(tmp_path / "add.py", ADD)
    nvim.wait_until(
        lambda: nvim.exec_lua("return require('codeclippy').statusline()") == "Clippy: failed", "the status"
    )
    script.set(complete="return a + b")
    nvim.press(":CodeClippy reload<CR>")
    nvim.wait_until_ready()
    show_ghost_text(nvim)


def test_crlf_and_astral_characters_survive_an_edit(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    before = "# 😀 ü\r\ndef add(a, b):\r\n    return '😀', a  # ü\r\n".encode()
    script.set(edit="@@ -1,3 +1,4 @@\n # 😀 ü\n def add(a, b):\n+    # 𝛼\n     return '😀', a  # ü\n")
    nvim.open(tmp_path / "astral.py", before)
    nvim.press(":%CodeClippyEdit Add a comment<CR>")
    nvim.wait_for_screen("y apply")
    nvim.press("y")
    nvim.wait_until(lambda: "𝛼" in nvim.get_text(), "the edit")
    nvim.rpc.command("write")
    expected = before.replace(b"    return", "    # 𝛼\r\n    return".encode())
    assert (tmp_path / "astral.py").read_bytes() == expected


@pytest.mark.parametrize(("fileformat", "line_end"), [("dos", "\r\n"), ("mac", "\r")])
def test_ghost_text_has_no_carriage_returns(
    nvim: Nvim, script: Script, tmp_path: Path, fileformat: str, line_end: str
) -> None:
    """In files with other line ends than LF, the lines of a suggestion are drawn and inserted as the editor's own."""
    script.set(complete="total = a\n    total += b\n    return total")
    file = tmp_path / "ends.py"
    nvim.rpc.command("set fileformats=unix,dos,mac")
    nvim.open(file, ADD.replace("\n", line_end))
    assert nvim.exec_lua("return vim.bo.fileformat") == fileformat
    lines = ["    total = a", "    total += b", "    return total"]

    def is_drawn() -> bool:
        return [row.rstrip() for row in nvim.get_screen().splitlines()[1:4]] == lines

    nvim.set_cursor(2, 4)
    nvim.press("A")
    nvim.wait_until(is_drawn, "the suggestion, without ^M")
    nvim.press("<M-C-Right>")
    nvim.wait_until(lambda: nvim.get_text().endswith("a, b):\n    total = a"), "the first line")
    nvim.wait_until(is_drawn, "the lines that are left")
    nvim.press("<M-C-Right>")
    nvim.wait_until(lambda: nvim.get_text().endswith("\n    total = a\n    total += b"), "the second line")
    nvim.wait_until(is_drawn, "the rest")
    nvim.press("<Tab>")
    nvim.wait_until(lambda: nvim.get_text() == "\n".join(("def add(a, b):", *lines)), "the rest to be inserted")
    nvim.press("<Esc>")
    nvim.rpc.command("write")
    assert file.read_bytes().decode() == line_end.join(("def add(a, b):", *lines, ""))


def test_a_diff_of_a_crlf_file_has_no_carriage_returns(start: Start, script: Script, tmp_path: Path) -> None:
    """Neither in the document of `edit.showDiff`, nor in the preview."""
    script.set(edit=HUNKS)
    for shows_diff, key, prompt in ((True, "1<CR>", "1: Apply"), (False, "y", "y apply")):
        nvim = start(options={"edit": {"showDiff": shows_diff}})
        nvim.open(tmp_path / "plain.py", PLAIN.replace("\n", "\r\n"))
        nvim.wait_until_ready()
        nvim.press(":1,2CodeClippyEdit Add a comment<CR>")
        nvim.wait_for_screen("+    # adds")
        nvim.wait_for_screen(prompt)
        assert "^M" not in nvim.get_screen()
        nvim.press(key)
        nvim.wait_until(lambda: "# adds" in nvim.get_text(), "the edit")  # noqa: B023
        nvim.close()


def test_closing_brackets_of_the_editor_are_replaced(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.set(complete="path):")
    nvim.open(tmp_path / "brackets.py", "if exists()\n")
    nvim.set_cursor(1, 10)
    nvim.press("i")
    nvim.wait_for_screen("if exists(path):")
    nvim.press("<Tab>")
    nvim.wait_until(lambda: nvim.get_text() == "if exists(path):", "the brackets not to be doubled")


def test_metrics_are_shown(nvim: Nvim) -> None:
    show_ghost_text(nvim)
    nvim.press("<Tab>")
    nvim.wait_until(lambda: nvim.get_text() == "def add(a, b):\n    return a + b", "the suggestion to be inserted")
    nvim.press("<Esc>:CodeClippy metrics<CR>")
    nvim.wait_until(lambda: any("1 shown, 1 accepted" in note for note in nvim.get_messages()), "the metrics")


def test_the_model_is_chosen_from_a_list(start: Start, script: Script, tmp_path: Path) -> None:
    """The server lists them, `vim.ui.select` asks, and the choice is that of all editors; the server runs on."""
    script.set(complete="return a + b")
    model = write_toy_model(tmp_path / "models" / "coder.gguf")
    nvim = start(options={"model": {"folders": [str(model.parent)]}})
    nvim.open(tmp_path / "add.py", ADD)
    nvim.wait_until_ready()
    nvim.exec_lua(
        "_G.test_lists = {} vim.ui.select = function(items, options, on_choice) "
        "table.insert(_G.test_lists, vim.tbl_map(options.format_item, items)) on_choice(items[1]) end"
    )
    nvim.press("<Esc>:CodeClippy model<CR>")
    config = tmp_path / "config" / "codeclippy-ls" / "config.toml"
    nvim.wait_until(config.exists, "the choice to be written")
    assert config.read_text() == f'[model]\ncompletion = "{model}"\n'
    models, roles = nvim.exec_lua("return _G.test_lists")
    assert f"{model}: complete, infill, edit; about " in models[0]
    assert "ms a token; 360M Q4_K_M; 0 MB; apache-2.0" in models[0] and any(
        row.startswith("download Qwen/") for row in models
    )
    assert roles == ["suggestions and edits", "edits only"]
    nvim.wait_until(lambda: any("complete by" in note for note in nvim.get_messages()), "the model to be in use")
    show_ghost_text(nvim)
    assert len(script.find_folders()) == 1


def test_a_better_model_is_offered_as_a_message(nvim: Nvim) -> None:
    nvim.exec_lua("require('codeclippy.model').show_offer({ message = 'x is on this machine', name = 'x' })")
    nvim.wait_until(
        lambda: any("x is on this machine. To use it: :CodeClippy model" in note for note in nvim.get_messages()),
        "the offer",
    )


def test_the_server_starts_in_the_users_home(nvim: Nvim, script: Script) -> None:
    """Not in the folder of the project, which may be somebody else's."""
    assert script.find_folders() == {Path.home()}


def test_settings_can_change_at_run_time(nvim: Nvim) -> None:
    show_ghost_text(nvim)
    nvim.press("<Esc>")
    change = (
        "require('codeclippy').client():notify('workspace/didChangeConfiguration', "
        "{ settings = { codeclippy = { completion = { enabled = %s } } } })"
    )
    nvim.exec_lua(change % "false")
    nvim.press("A ")
    time.sleep(1.0)
    assert "return" not in nvim.get_screen()
    nvim.exec_lua(change % "true")
    nvim.press("<BS>")
    nvim.wait_for_screen("    return a + b")


def test_suggestions_are_paused_and_resumed(nvim: Nvim) -> None:
    nvim.press(":CodeClippy pause<CR>")
    nvim.set_cursor(2, 4)
    nvim.press("A")
    time.sleep(1.0)
    assert "return" not in nvim.get_screen()
    nvim.press("<Esc>:CodeClippy resume<CR>")
    show_ghost_text(nvim)


def test_two_windows_and_two_projects_share_one_server(nvim: Nvim, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / ".git").mkdir(parents=True)
    nvim.rpc.command("vsplit")
    nvim.open(other / "add.py", ADD)
    assert nvim.exec_lua("return #vim.lsp.get_clients({ name = 'codeclippy' })") == 1
    show_ghost_text(nvim)
    nvim.press("<Tab>")
    nvim.wait_until(lambda: nvim.get_text() == "def add(a, b):\n    return a + b", "the suggestion in this window")
    nvim.press("<Esc>")
    nvim.rpc.command("wincmd p")
    assert nvim.get_text() == ADD.rstrip("\n")
    show_ghost_text(nvim)


def test_mappings_of_the_user_are_kept(start: Start, script: Script, tmp_path: Path) -> None:
    nvim = start()
    nvim.exec_lua("vim.keymap.set('i', '<Tab>', 'mine')")
    nvim.open(tmp_path / "add.py", ADD)
    nvim.set_cursor(2, 4)
    nvim.press("A<Tab>")
    nvim.wait_until(lambda: nvim.get_text().endswith("    mine"), "the user's own mapping")


def test_health_report_and_help_exist(nvim: Nvim) -> None:
    nvim.rpc.command("checkhealth codeclippy")
    nvim.wait_until(lambda: "1 server for 1 buffers" in nvim.get_text(), "the health report")
    assert "ERROR" not in nvim.get_text()
    assert (CLIENTS / "neovim" / "doc" / "codeclippy.txt").read_text().count("*:CodeClippyEdit*") == 1


def test_the_real_server_suggests_and_edits(start: Start, tmp_path: Path) -> None:
    nvim = start(REAL_SERVER, {"completion": {"timeBudgetMs": 20000}})
    nvim.open(tmp_path / "add.py", f"{UNFINISHED}\n")
    nvim.wait_until_ready()
    nvim.press("GA")
    before = nvim.get_text()
    nvim.wait_until(nvim.has_ghost_text, "ghost text")
    nvim.press("<Tab>")
    nvim.wait_until(lambda: nvim.get_text() != before, "the suggestion to be inserted")
    assert nvim.get_text().startswith(before)
    before = nvim.get_text()
    nvim.press("<Esc>:1,2CodeClippyEdit Rename first to left<CR>")
    nvim.wait_until(
        lambda: "y apply" in nvim.get_screen() or any("no edit" in note for note in nvim.get_messages()),
        "an outcome",
        90,
    )
    if "y apply" in nvim.get_screen():
        nvim.press("y")
        nvim.wait_until(lambda: nvim.get_text() != before, "the edit")
        assert "".join(nvim.get_text().split("\n")[2:]) == "".join(before.split("\n")[2:]), "other lines are unchanged"


def test_a_killed_engine_host_shows_a_message_and_loses_no_text(
    start: Start, hosts: Hosts, report: Callable[[str, float], None], tmp_path: Path
) -> None:
    """The host of the real server is killed during an edit: one message. One that is suspended costs none."""
    nvim = start(hosts.command, LONG_EDITS)
    nvim.open(tmp_path / "many.py", f"{LONG_FILE}\n")
    nvim.wait_until_ready()
    nvim.press(":%CodeClippyEdit Add a docstring to each function<CR>")
    nvim.wait_until(lambda: "writing: " in nvim.exec_lua("return vim.lsp.status()"), "a part of the edit")
    first, when = hosts.kill()
    nvim.press("GA")
    nvim.wait_until(nvim.has_ghost_text, "ghost text")
    report("from the kill during an edit to the next suggestion", time.monotonic() - when)
    assert hosts.get_only() != first and nvim.get_text() == LONG_FILE
    assert nvim.get_messages() == [f"Code Clippy: no edit: {EXIT_MESSAGE}"]
    hosts.suspend()
    nvim.press("total = ")
    time.sleep(1.0)  # for the request to be sent
    second, when = hosts.kill()
    nvim.wait_until(lambda: nvim.has_ghost_text() and second not in hosts.list_running(), "ghost text")
    report("from the kill during a suggestion to the next one", time.monotonic() - when)
    assert nvim.get_messages()[1:] == [] and nvim.get_text() == f"{LONG_FILE}total = "
    assert max(map(len, nvim.get_messages())) < 68, "in 80 columns, Neovim would ask for Enter"


def test_screenshots_in_a_terminal(tmp_path: Path, script: Script, shots: Path, request: pytest.FixtureRequest) -> None:
    """Neovim 0.12 in tmux: ghost text, the completion menu and the preview of an edit are saved as pictures."""
    init = tmp_path / "init.lua"
    Nvim.write_init(init, script.command, {})
    file = tmp_path / "cart.py"
    file.write_text(CART)
    environment = {f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "STATE", "CACHE")}
    environment["COLORTERM"] = "truecolor"
    script.set(complete="sum(item.price * item.count for item in items)", edit=CART_HUNKS)
    binary = require_installed(BINARIES["0.12"], "Neovim 0.12")
    terminal = Terminal(f"{binary} -u {init} {COLOURS} {file}", tmp_path, environment)
    request.addfinalizer(terminal.close)
    terminal.wait_for_screen("def total")
    terminal.press("2", "G", "A")
    terminal.wait_for_screen("item.count for item in items")
    assert "item.count" not in file.read_text()
    terminal.save_picture(shots / "neovim-ghost.svg", "Neovim: Tab accepts, Alt-Right accepts a word")
    terminal.press("C-x", "C-o")
    terminal.wait_for_screen("Code Clippy")
    time.sleep(0.5)
    terminal.save_picture(shots / "neovim-menu.svg", "Neovim: the completion menu")
    terminal.press("Escape")
    time.sleep(0.3)
    terminal.press("u")
    terminal.type(":CodeClippyEdit Return the sum of the prices")
    terminal.press("Enter")
    terminal.wait_for_screen("y apply")
    terminal.save_picture(shots / "neovim-preview.svg", "Neovim: an edit with a message, before it is applied")
    terminal.press("y")
    terminal.wait_until(
        lambda: "y apply" not in terminal.get_screen() and "sum(item" in terminal.get_screen(), "the edit"
    )
