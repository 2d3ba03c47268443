"""The Neovim client in real Neovims: what a user types, sees and gets."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.editors.conftest import CLIENTS, REAL_SERVER, Script, installed
from tests.editors.hosts import HOLE, LONG_EDITS, MANY, TOLD, Hosts
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
COLOURS = "-c 'hi Normal guibg=#292929' -c 'hi NormalFloat guibg=#292929'"  # those of the picture's frame


@pytest.fixture(params=sorted(BINARIES))
def start(request: pytest.FixtureRequest, tmp_path: Path, script: Script) -> Iterator[Start]:
    """Starts an editor of each version, by default with the scripted server."""
    running: list[Nvim] = []

    def starter(command: list[str] | None = None, options: dict[str, Any] | None = None, **given: Any) -> Nvim:
        running.append(Nvim(request.param, tmp_path, command or script.command, options, **given))
        return running[-1]

    yield starter
    for editor in running:
        editor.close()


@pytest.fixture
def nvim(start: Start, script: Script, tmp_path: Path) -> Nvim:
    """An editor whose server suggests `return a + b`, with a function to finish."""
    script.says(complete="return a + b")
    editor = start()
    editor.open(tmp_path / "add.py", ADD)
    editor.ready()
    return editor


def ghost(nvim: Nvim, text: str = "return a + b") -> None:
    """Begin to type at the hole and wait for the suggestion to be drawn, and not to be text."""
    nvim.at(2, 4)
    nvim.keys("A")
    nvim.until_drawn("    " + text)
    assert nvim.text() == ADD.rstrip("\n")


def test_ghost_text_is_accepted_whole_and_undone_in_one_step(nvim: Nvim) -> None:
    ghost(nvim)
    nvim.keys("<Tab>")
    nvim.until(lambda: nvim.text() == "def add(a, b):\n    return a + b", "the suggestion to be text")
    nvim.keys("<Esc>u")
    nvim.until(lambda: nvim.text() == ADD.rstrip("\n"), "one undo to take it back")


def test_ghost_text_is_accepted_by_word_and_by_line(nvim: Nvim, script: Script) -> None:
    script.says(complete="return a + b\n\nadd(1, 2)")
    ghost(nvim)
    nvim.keys("<M-Right>")
    nvim.until(lambda: nvim.text() == "def add(a, b):\n    return", "the first word")
    nvim.until_drawn("    return a + b")
    nvim.keys("<M-C-Right>")
    nvim.until(lambda: nvim.text() == "def add(a, b):\n    return a + b", "the rest of the line")


def test_typing_through_keeps_the_suggestion(nvim: Nvim, script: Script) -> None:
    ghost(nvim)
    script.says(complete="something else")
    nvim.keys("ret")
    nvim.until(lambda: nvim.text().endswith("    ret"), "the typed text")
    time.sleep(1.0)  # longer than any debounce: a wrong request would have come by now
    assert "    return a + b" in nvim.screen()
    nvim.keys("<Tab>")
    nvim.until(lambda: nvim.text() == "def add(a, b):\n    return a + b", "the suggestion, not twice")


def test_typing_something_else_hides_the_suggestion(nvim: Nvim, script: Script) -> None:
    ghost(nvim)
    script.says(delay=60)
    nvim.keys("x = 1")
    nvim.until(lambda: nvim.text().endswith("x = 1") and not nvim.has_ghost(), "the suggestion to go, answer or not", 5)
    nvim.keys("<Tab>")
    nvim.until(lambda: nvim.text().endswith("x = 1\t") or nvim.text().endswith("x = 1   "), "an ordinary Tab")


def test_the_completion_menu_inserts_the_suggestion(nvim: Nvim, script: Script) -> None:
    script.says(complete="eturn a + b\n\n\nadd(1, 2)")
    nvim.at(2, 4)
    nvim.keys("Ar<C-x><C-o>")
    nvim.until(lambda: nvim.lua("return vim.fn.pumvisible()") == 1, "the menu")
    nvim.until_drawn("Code Clippy")
    nvim.keys("<C-n><C-y>")
    nvim.until(lambda: nvim.text().startswith("def add(a, b):\n    return a + b"), "the item to be text")


def test_edit_with_message_is_previewed_applied_and_undone(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.says(edit=HUNKS)
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.keys(":CodeClippyEdit Add a comment<CR>")
    nvim.until_drawn("y apply")
    nvim.until_drawn("+    # adds")
    assert nvim.lua("return vim.api.nvim_buf_get_lines(vim.fn.bufnr('plain.py'), 0, -1, false)") == PLAIN.splitlines()
    nvim.keys("y")
    nvim.until(lambda: nvim.text() == "def add(a, b):\n    # adds\n    return a + b", "the edit")
    nvim.keys("u")
    nvim.until(lambda: nvim.text() == PLAIN.rstrip("\n"), "one undo to take it back")


def test_a_discarded_edit_changes_nothing(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.says(edit=HUNKS)
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.keys(":CodeClippyEdit Add a comment<CR>")
    nvim.until_drawn("y apply")
    nvim.keys("n")
    nvim.until(lambda: "y apply" not in nvim.screen(), "the preview to close")
    time.sleep(0.3)
    assert nvim.text() == PLAIN.rstrip("\n") and not nvim.notes()


def test_an_edit_without_confirmation_is_applied_at_once(start: Start, script: Script, tmp_path: Path) -> None:
    script.says(edit=HUNKS)
    nvim = start(options={"edit": {"confirm": False}})
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.ready()
    nvim.keys(":1,2CodeClippyEdit Add a comment<CR>")
    nvim.until(lambda: nvim.text() == "def add(a, b):\n    # adds\n    return a + b", "the edit")


def test_a_diff_is_shown_and_the_next_candidate_is_chosen(start: Start, script: Script, tmp_path: Path) -> None:
    """With the setting for it, in one window that goes with the answer; a code action puts the other in its place."""
    script.says(edit=[HUNKS, HUNKS.replace("adds", "sums")])
    nvim = start(options={"edit": {"showDiff": True}})
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.ready()
    nvim.keys(":1,2CodeClippyEdit Add a comment<CR>")
    nvim.until_drawn("+    # adds")
    nvim.until_drawn("2: Next")
    nvim.keys("2<CR>")
    nvim.until_drawn("(2 of 2)")
    nvim.until_drawn("+    # sums")
    assert "# adds" not in nvim.screen(), "one window serves both"
    nvim.keys("1<CR>")
    nvim.until(lambda: nvim.text().splitlines()[1] == "    # sums", "the edit")
    assert nvim.lua("return { #vim.api.nvim_list_wins(), #vim.api.nvim_list_bufs() }") == [1, 1], "nothing is left"
    nvim.lua(
        "vim.lsp.buf.code_action({ apply = true, filter = function(action) "
        "return action.title:find('another version') ~= nil end })"
    )
    nvim.until(lambda: nvim.text().splitlines()[1] == "    # adds", "the other edit")
    nvim.open(tmp_path / "other.py", PLAIN)
    nvim.keys(":1,2CodeClippyEdit Add a comment<CR>")
    nvim.until_drawn("3: Discard")
    nvim.keys("<CR>")
    nvim.until(lambda: nvim.lua("return #vim.api.nvim_list_wins()") == 1, "the diff to go")
    assert nvim.text() == PLAIN.rstrip("\n") and not nvim.notes()


def test_an_edit_is_refused_if_the_text_changed_during_the_preview(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.says(edit=HUNKS)
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.keys(":CodeClippyEdit Add a comment<CR>")
    nvim.until_drawn("y apply")
    nvim.lua("vim.api.nvim_buf_set_lines(vim.fn.bufnr('plain.py'), 0, 0, false, { 'import os' })")
    nvim.keys("y")
    nvim.until(lambda: any("the document has changed" in note for note in nvim.notes()), "the reason")
    assert nvim.text() == "import os\n" + PLAIN.rstrip("\n")


def test_the_prompt_for_the_message_has_history(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.says(edit=HUNKS)
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.keys(":CodeClippyEdit<CR>")
    nvim.until_drawn("what should change?")
    nvim.keys("Add a comment<CR>")
    nvim.until_drawn("y apply")
    nvim.keys("n")
    nvim.until(lambda: "y apply" not in nvim.screen(), "the preview to close")
    nvim.keys(":CodeClippyEdit<CR>")
    nvim.until_drawn("what should change?")
    nvim.keys("<Up>")
    nvim.until_drawn("Add a comment")
    nvim.keys("<Esc>")
    nvim.until(lambda: "what should change?" not in nvim.screen(), "the prompt to close")
    assert nvim.text() == PLAIN.rstrip("\n")


def test_a_preset_is_a_code_action(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.says(edit=HUNKS)
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.lua(
        "vim.schedule(function() vim.lsp.buf.code_action({ apply = true, "
        "filter = function(action) return action.title == 'Code Clippy: Fix the bug' end }) end)"
    )
    nvim.until_drawn("y apply")
    nvim.keys("y")
    nvim.until(lambda: "# adds" in nvim.text(), "the edit")


def test_an_edit_in_progress_is_cancelled(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.says(edit=HUNKS, delay=60)
    nvim.open(tmp_path / "plain.py", PLAIN)
    nvim.keys(":CodeClippyEdit Add a comment<CR>")
    nvim.until(lambda: nvim.lua("return require('codeclippy').statusline()") == "Clippy: editing", "the edit to begin")
    nvim.keys(":CodeClippy cancel<CR>")
    nvim.until(lambda: nvim.lua("return require('codeclippy').statusline()") == "", "the edit to end", 10)
    assert nvim.text() == PLAIN.rstrip("\n")


def test_a_killed_server_is_restarted(start: Start, script: Script, tmp_path: Path) -> None:
    """Neovim itself says so, in a sentence longer than its window: nobody has to press Enter."""
    script.says(complete="return a + b")
    nvim = start(columns=80, notifier=False)
    nvim.open(tmp_path / "add.py", ADD)
    nvim.ready()
    ghost(nvim)
    nvim.keys("<Esc>")
    # The scripted server is the only child of the editor.
    pid = nvim.lua("return vim.api.nvim_get_proc_children(vim.fn.getpid())")[0]
    os.kill(pid, signal.SIGKILL)
    nvim.until(lambda: nvim.lua("return require('codeclippy.status').state()") != "ready", "the death to be noticed")
    nvim.ready()
    nvim.until_drawn("Code Clippy: the server crashed and is restarting")
    assert "exit code 0 and signal 9" in nvim.messages()
    assert "hit-enter" in nvim.lua("return vim.o.messagesopt") and nvim.lua("return vim.o.more")
    ghost(nvim)


def test_a_long_message_does_not_ask_for_enter(start: Start, script: Script, tmp_path: Path) -> None:
    """In 80 columns, whatever the user is doing, and several in a row: the next key is the text's, and `:messages` has
    all of it. A notifier of the user's gets it whole."""
    reason = "the model is made of cheese 🧀; " + "choose another, or eat it; " * 12
    said = f"Code Clippy: {reason}. Then run the command codeclippy.reloadModel"
    script.says(load_error=reason, load_delay=0.5)
    nvim = start(columns=80, notifier=False)

    def shown() -> bool:
        bar = nvim.screen().splitlines()[-1]
        return bar.startswith("Code Clippy: the model is made of cheese") and bar.endswith("…")

    def fail_again(count: int) -> None:
        nvim.lua("require('codeclippy').command('reload')")
        nvim.until(lambda: nvim.lua("return require('codeclippy.status').state()") == "loading", "it to load")
        nvim.until(lambda: nvim.lua("return require('codeclippy.status').state()") == "failed", "it to fail")
        time.sleep(0.5)  # the message follows the state
        assert nvim.messages().count(said) == count

    nvim.open(tmp_path / "add.py", ADD)
    nvim.until(shown, "the message")
    assert nvim.messages().count(said) == 1
    nvim.keys("x")
    nvim.until(lambda: nvim.text() == "ef add(a, b):\n    ", "the key to do what it does")

    nvim.keys("i")
    fail_again(1)  # the line shows the mode
    nvim.keys("d")
    nvim.until(lambda: nvim.text() == ADD.rstrip("\n"), "the key to be text")
    assert not shown()
    nvim.keys("<Esc>")
    nvim.until(shown, "the message")
    assert nvim.messages().count(said) == 2

    nvim.keys(":normal! A #")
    fail_again(2)
    fail_again(2)
    nvim.keys(" adds<CR>")
    nvim.until(lambda: nvim.text() == "def add(a, b): # adds\n    ", "the command that was being typed")
    nvim.until(shown, "the message")
    assert nvim.messages().count(said) == 4
    nvim.keys("x")
    nvim.until(lambda: nvim.text() == "def add(a, b): # add\n    ", "the key to do what it does")

    nvim.take_notes()
    fail_again(4)
    assert nvim.notes() == [said]


def test_suggestions_start_once_the_model_is_loaded(start: Start, script: Script, tmp_path: Path) -> None:
    script.says(complete="return a + b", load_delay=4)
    nvim = start()
    nvim.open(tmp_path / "add.py", ADD)
    nvim.until(lambda: nvim.lua("return require('codeclippy').statusline()") == "Clippy: loading", "the status")
    nvim.at(2, 4)
    nvim.keys("A")
    nvim.ready()
    nvim.keys(" <BS>")
    nvim.until_drawn("    return a + b")
    assert not nvim.notes()


def test_a_model_that_failed_to_load_is_reported_and_can_be_reloaded(
    start: Start, script: Script, tmp_path: Path
) -> None:
    script.says(load_error="no such model")
    nvim = start()
    nvim.open(tmp_path / "add.py", ADD)
    nvim.until(lambda: nvim.lua("return require('codeclippy').statusline()") == "Clippy: failed", "the status")
    script.says(complete="return a + b")
    nvim.keys(":CodeClippy reload<CR>")
    nvim.ready()
    ghost(nvim)


def test_crlf_and_astral_characters_survive_an_edit(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    before = "# 😀 ü\r\ndef add(a, b):\r\n    return '😀', a  # ü\r\n".encode()
    script.says(edit="@@ -1,3 +1,4 @@\n # 😀 ü\n def add(a, b):\n+    # 𝛼\n     return '😀', a  # ü\n")
    nvim.open(tmp_path / "astral.py", before)
    nvim.keys(":%CodeClippyEdit Add a comment<CR>")
    nvim.until_drawn("y apply")
    nvim.keys("y")
    nvim.until(lambda: "𝛼" in nvim.text(), "the edit")
    nvim.rpc.command("write")
    expected = before.replace(b"    return", "    # 𝛼\r\n    return".encode())
    assert (tmp_path / "astral.py").read_bytes() == expected


def test_closing_brackets_of_the_editor_are_replaced(nvim: Nvim, script: Script, tmp_path: Path) -> None:
    script.says(complete="path):")
    nvim.open(tmp_path / "brackets.py", "if exists()\n")
    nvim.at(1, 10)
    nvim.keys("i")
    nvim.until_drawn("if exists(path):")
    nvim.keys("<Tab>")
    nvim.until(lambda: nvim.text() == "if exists(path):", "the brackets not to be doubled")


def test_metrics_are_shown(nvim: Nvim) -> None:
    ghost(nvim)
    nvim.keys("<Tab>")
    nvim.until(lambda: nvim.text() == "def add(a, b):\n    return a + b", "the suggestion to be text")
    nvim.keys("<Esc>:CodeClippy metrics<CR>")
    nvim.until(lambda: any("1 shown, 1 accepted" in note for note in nvim.notes()), "the metrics")


def test_settings_can_change_at_run_time(nvim: Nvim) -> None:
    ghost(nvim)
    nvim.keys("<Esc>")
    change = (
        "require('codeclippy').client():notify('workspace/didChangeConfiguration', "
        "{ settings = { codeclippy = { completion = { enabled = %s } } } })"
    )
    nvim.lua(change % "false")
    nvim.keys("A ")
    time.sleep(1.0)
    assert "return" not in nvim.screen()
    nvim.lua(change % "true")
    nvim.keys("<BS>")
    nvim.until_drawn("    return a + b")


def test_suggestions_are_paused_and_resumed(nvim: Nvim) -> None:
    nvim.keys(":CodeClippy pause<CR>")
    nvim.at(2, 4)
    nvim.keys("A")
    time.sleep(1.0)
    assert "return" not in nvim.screen()
    nvim.keys("<Esc>:CodeClippy resume<CR>")
    ghost(nvim)


def test_two_windows_and_two_projects_share_one_server(nvim: Nvim, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / ".git").mkdir(parents=True)
    nvim.rpc.command("vsplit")
    nvim.open(other / "add.py", ADD)
    assert nvim.lua("return #vim.lsp.get_clients({ name = 'codeclippy' })") == 1
    ghost(nvim)
    nvim.keys("<Tab>")
    nvim.until(lambda: nvim.text() == "def add(a, b):\n    return a + b", "the suggestion in this window")
    nvim.keys("<Esc>")
    nvim.rpc.command("wincmd p")
    assert nvim.text() == ADD.rstrip("\n")
    ghost(nvim)


def test_mappings_of_the_user_are_kept(start: Start, script: Script, tmp_path: Path) -> None:
    nvim = start()
    nvim.lua("vim.keymap.set('i', '<Tab>', 'mine')")
    nvim.open(tmp_path / "add.py", ADD)
    nvim.at(2, 4)
    nvim.keys("A<Tab>")
    nvim.until(lambda: nvim.text().endswith("    mine"), "the user's own mapping")


def test_health_report_and_help_exist(nvim: Nvim) -> None:
    nvim.rpc.command("checkhealth codeclippy")
    nvim.until(lambda: "1 server for 1 buffers" in nvim.text(), "the health report")
    assert "ERROR" not in nvim.text()
    assert (CLIENTS / "neovim" / "doc" / "codeclippy.txt").read_text().count("*:CodeClippyEdit*") == 1


def test_the_real_server_suggests_and_edits(start: Start, tmp_path: Path) -> None:
    nvim = start(REAL_SERVER, {"completion": {"timeBudgetMs": 20000}})
    nvim.open(tmp_path / "add.py", f"{HOLE}\n")
    nvim.ready()
    nvim.keys("GA")
    hole = nvim.text()
    nvim.until(nvim.has_ghost, "ghost text")
    nvim.keys("<Tab>")
    nvim.until(lambda: nvim.text() != hole, "the suggestion to be text")
    assert nvim.text().startswith(hole)
    before = nvim.text()
    nvim.keys("<Esc>:1,2CodeClippyEdit Rename first to left<CR>")
    nvim.until(lambda: "y apply" in nvim.screen() or any("no edit" in note for note in nvim.notes()), "an outcome", 90)
    if "y apply" in nvim.screen():
        nvim.keys("y")
        nvim.until(lambda: nvim.text() != before, "the edit")
        assert "".join(nvim.text().split("\n")[2:]) == "".join(before.split("\n")[2:]), "other lines are untouched"


def test_a_killed_engine_host_shows_a_message_and_loses_no_text(
    start: Start, hosts: Hosts, report: Callable[[str, float], None], tmp_path: Path
) -> None:
    """The real one, in the middle of an edit, and while a suggestion is waited for: one message each."""
    nvim = start(hosts.command, LONG_EDITS)
    nvim.open(tmp_path / "many.py", f"{MANY}\n")
    nvim.ready()
    nvim.keys(":%CodeClippyEdit Add a docstring to each function<CR>")
    nvim.until(lambda: "hunk 1, line" in nvim.lua("return vim.lsp.status()"), "a part of the edit to be written")
    first, when = hosts.kill()
    nvim.keys("GA")
    nvim.until(nvim.has_ghost, "ghost text")
    report("killed during an edit, to the next suggestion", time.monotonic() - when)
    assert hosts.only() != first and nvim.text() == MANY
    assert nvim.notes() == [f"Code Clippy: no edit: {TOLD}"]
    hosts.stop()
    nvim.keys("total = ")
    time.sleep(1.0)  # for it to be asked for
    assert not nvim.has_ghost(), nvim.screen()
    assert "pending" in nvim.lua("return vim.inspect(require('codeclippy').client().requests)")
    second, when = hosts.kill()
    nvim.until(lambda: nvim.has_ghost() and second not in hosts.running(), "ghost text")
    report("killed during a suggestion, to the next one", time.monotonic() - when)
    assert nvim.notes()[1:] == [f"Code Clippy: {TOLD}"] and nvim.text() == f"{MANY}total = "
    assert max(map(len, nvim.notes())) < 68, "in 80 columns a user would have to press Enter"


def test_screenshots_in_a_terminal(tmp_path: Path, script: Script, shots: Path, request: pytest.FixtureRequest) -> None:
    """Neovim 0.12 in tmux: ghost text, the completion menu and the preview of an edit, as pictures."""
    init = tmp_path / "init.lua"
    Nvim.write_init(init, script.command, {})
    file = tmp_path / "cart.py"
    file.write_text(CART)
    environment = {f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "STATE", "CACHE")}
    environment["COLORTERM"] = "truecolor"
    script.says(complete="sum(item.price * item.count for item in items)", edit=CART_HUNKS)
    binary = installed(BINARIES["0.12"], "Neovim 0.12")
    terminal = Terminal(f"{binary} -u {init} {COLOURS} {file}", tmp_path, environment)
    request.addfinalizer(terminal.close)
    terminal.until_drawn("def total")
    terminal.keys("2", "G", "A")
    terminal.until_drawn("item.count for item in items")
    assert "item.count" not in file.read_text()
    terminal.picture(shots / "neovim-ghost.svg", "Neovim: Tab accepts, Alt-Right accepts a word")
    terminal.keys("C-x", "C-o")
    terminal.until_drawn("Code Clippy")
    time.sleep(0.5)
    terminal.picture(shots / "neovim-menu.svg", "Neovim: the completion menu")
    terminal.keys("Escape")
    time.sleep(0.3)
    terminal.keys("u")
    terminal.type(":CodeClippyEdit Return the sum of the prices")
    terminal.keys("Enter")
    terminal.until_drawn("y apply")
    terminal.picture(shots / "neovim-preview.svg", "Neovim: an edit with a message, before it is applied")
    terminal.keys("y")
    terminal.until(lambda: "y apply" not in terminal.screen() and "sum(item" in terminal.screen(), "the edit")
