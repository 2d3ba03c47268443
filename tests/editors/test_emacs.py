"""The Emacs client in real Emacs processes: the tests type, and read the screen and the buffers.

All tests share one process of each version; each test uses its own files, as suggestions are cached by their text.
"""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.editors.accounts import write_toy_model
from tests.editors.conftest import REAL_SERVER, Script
from tests.editors.emacs import CLIENT, VERSIONS, Emacs, quote, run_batch
from tests.editors.hosts import EXIT_MESSAGE, LONG_FILE, UNFINISHED, Hosts

SUGGESTION = "return a + b"
BODY = "    # adds\n"
PLAIN = "def add(a, b):\n    return a + b\n"
HUNKS = "@@ -2,2 +2,3 @@\n def add(a, b):\n+    # adds\n     return a + b\n"
COMMENTED = "def add(a, b):\n    # adds\n    return a + b\n"

File = Callable[..., Path]


@pytest.fixture(scope="session")
def shared_script() -> Iterator[Script]:
    """Make the script of the servers of the shared editors."""
    with tempfile.TemporaryDirectory(prefix="clippy") as folder:
        script = Script(Path(folder) / "script.json")
        script.set()
        yield script


@pytest.fixture(scope="session", params=VERSIONS)
def running(request: pytest.FixtureRequest, shared_script: Script) -> Iterator[Emacs]:
    """Start an editor of each version, with the scripted server."""
    with tempfile.TemporaryDirectory(prefix="clippy", ignore_cleanup_errors=True) as folder:
        shared_script.set()
        emacs = Emacs(request.param, Path(folder), shared_script.command)
        yield emacs
        messages = emacs.get_messages()
        emacs.close()
        assert "Error running timer" not in messages and "error in process filter" not in messages, messages


@pytest.fixture
def script(shared_script: Script) -> Script:
    """Reset the script: no suggestions."""
    shared_script.set()
    return shared_script


@pytest.fixture
def emacs(running: Emacs, script: Script) -> Emacs:
    """Close everything that an earlier test has opened in the editor."""
    running.reset()
    return running


@pytest.fixture
def file(emacs: Emacs, tmp_path: Path) -> File:
    """Return a function that opens a file in the folder of the test."""

    def opened(text: str, name: str = "add.py", mode: bool = True) -> Path:
        path = tmp_path / name
        emacs.open(path, f"# Two numbers.\n{text}", mode)
        if mode:
            emacs.wait_until_ready()
        return path

    return opened


def get_body(emacs: Emacs) -> str:
    """Return the text after the first line."""
    return emacs.get_text().partition("\n")[2]


def show_ghost_text(emacs: Emacs, file: File, script: Script, text: str = SUGGESTION) -> None:
    """Type in an unfinished function, and wait until the suggestion is drawn but not inserted."""
    script.set(complete=text)
    file("def add(a, b):\n   ")
    emacs.type(" ")
    emacs.wait_for_screen("    " + text.partition("\n")[0])
    assert get_body(emacs) == "def add(a, b):\n    "


def wait_for_body(emacs: Emacs, text: str, description: str) -> None:
    """Wait until the text after the first line is as expected."""
    emacs.wait_until(lambda: get_body(emacs) == text, f"{description}: {text!r}")


def test_ghost_text_is_accepted_whole_and_undone_in_one_step(
    emacs: Emacs, file: File, script: Script, shots: Path, running: Emacs, request: pytest.FixtureRequest
) -> None:
    show_ghost_text(emacs, file, script, "total = a + b\n    return total")
    emacs.wait_for_screen("    return total")
    emacs.take_screenshot(shots / f"emacs-{request.node.callspec.params['running']}-ghost.svg", "Emacs: a suggestion")
    script.set()
    emacs.press("Tab")
    wait_for_body(emacs, "def add(a, b):\n    total = a + b\n    return total", "the suggestion to be inserted")
    emacs.press("C-_")
    wait_for_body(emacs, "def add(a, b):\n    ", "one undo to revert it")


def test_ghost_text_has_no_carriage_returns(emacs: Emacs, script: Script, tmp_path: Path) -> None:
    """In a file with CRLF; Emacs' buffer and the server have LF."""
    script.set(complete="total = a\n    total += b\n    return total")
    path = tmp_path / "ends.py"
    emacs.open(path, f"# {tmp_path}\r\ndef add(a, b):\r\n   ".encode())
    emacs.wait_until_ready()
    emacs.type(" ")
    emacs.wait_for_screen("    return total")
    assert "^M" not in emacs.get_screen()
    emacs.press("Tab")
    emacs.wait_until(lambda: emacs.get_text().endswith("a\n    total += b\n    return total"), "the suggestion")
    emacs.press("C-x", "C-s")
    expected = f"# {tmp_path}\r\ndef add(a, b):\r\n    total = a\r\n    total += b\r\n    return total".encode()
    emacs.wait_until(lambda: path.read_bytes().rstrip() == expected, f"the file {path.read_bytes()!r}")


def test_closing_brackets_of_the_editor_are_replaced(emacs: Emacs, script: Script) -> None:
    script.set(complete="path):")
    emacs.open(Path(emacs.folder) / "brackets.py", "if exists()")
    emacs.wait_until_ready()
    emacs.eval_lisp("(progn (goto-char 11) nil)")
    emacs.type(" ")
    emacs.wait_for_screen("path):")
    script.set()
    emacs.press("Tab")
    emacs.wait_until(
        lambda: emacs.eval_lisp("(buffer-string)") == "if exists( path):", "the brackets not to be doubled"
    )


def test_ghost_text_is_accepted_by_word(emacs: Emacs, file: File, script: Script) -> None:
    show_ghost_text(emacs, file, script)
    emacs.press("M-f")
    wait_for_body(emacs, "def add(a, b):\n    return", "the first word")
    emacs.wait_for_screen("    return a + b")
    emacs.press("M-Right")
    wait_for_body(emacs, "def add(a, b):\n    return a", "the second word")


def test_ghost_text_is_accepted_by_line(emacs: Emacs, file: File, script: Script) -> None:
    show_ghost_text(emacs, file, script, "total = a + b\n    return total")
    emacs.press("C-M-f")
    wait_for_body(emacs, "def add(a, b):\n    total = a + b", "the first line")
    emacs.wait_for_screen("    return total")
    emacs.press("C-M-Right")
    wait_for_body(emacs, "def add(a, b):\n    total = a + b\n    return total", "the second line")


def test_typing_through_keeps_the_suggestion(emacs: Emacs, file: File, script: Script) -> None:
    show_ghost_text(emacs, file, script)
    script.set(complete="something else")
    emacs.type("ret")
    wait_for_body(emacs, "def add(a, b):\n    ret", "the typed text")
    time.sleep(1.0)  # longer than any delay: a wrong request would have been sent by now
    assert "    return a + b" in emacs.get_screen()
    emacs.press("Tab")
    wait_for_body(emacs, f"def add(a, b):\n    {SUGGESTION}", "the suggestion, not twice")


def test_typing_something_else_hides_the_suggestion(emacs: Emacs, file: File, script: Script) -> None:
    show_ghost_text(emacs, file, script)
    script.set()
    emacs.type("x = 1")
    wait_for_body(emacs, "def add(a, b):\n    x = 1", "the typed text")
    emacs.wait_until(lambda: "return" not in emacs.get_screen(), "the suggestion to disappear")
    assert emacs.eval_lisp('(eq (key-binding (kbd "TAB")) \'indent-for-tab-command)'), "an ordinary Tab"


def test_c_g_and_moving_the_cursor_hide_the_suggestion(emacs: Emacs, file: File, script: Script) -> None:
    show_ghost_text(emacs, file, script)
    emacs.press("C-g")
    emacs.wait_until(lambda: "return" not in emacs.get_screen(), "C-g to hide it")
    emacs.run_command("codeclippy-complete")
    emacs.wait_for_screen("    return a + b")
    emacs.press("Up")
    emacs.wait_until(lambda: "return" not in emacs.get_screen(), "moving the cursor to hide it")
    assert get_body(emacs) == "def add(a, b):\n    "


def test_two_windows_and_two_projects_share_one_server(
    emacs: Emacs, file: File, script: Script, tmp_path: Path
) -> None:
    show_ghost_text(emacs, file, script)
    server = emacs.get_server_pid()
    (tmp_path / "other" / ".git").mkdir(parents=True)
    emacs.eval_lisp("(progn (split-window-right) (other-window 1) nil)")
    file("def sub(a, b):\n   ", "other/sub.py")
    emacs.wait_until(lambda: "return" not in emacs.get_screen(), "the suggestion of the other window to disappear")
    script.set(complete="return a - b")
    emacs.type(" ")
    emacs.wait_for_screen("    return a - b")
    emacs.press("Tab")
    wait_for_body(emacs, "def sub(a, b):\n    return a - b", "the suggestion in this window")
    emacs.eval_lisp("(progn (other-window 1) nil)")
    assert get_body(emacs) == "def add(a, b):\n    "
    assert emacs.get_server_pid() == server
    # The same file in both windows: the suggestion is drawn in the selected one.
    script.set(complete="return b + a")
    emacs.eval_lisp("(progn (set-window-buffer (next-window) (current-buffer)) nil)")
    emacs.type("\t")
    emacs.run_command("codeclippy-complete")
    emacs.wait_for_screen("return b + a")
    assert emacs.get_screen().count("return b + a") == 1


def test_completion_at_point_of_plain_eglot(
    emacs: Emacs, file: File, script: Script, shots: Path, request: pytest.FixtureRequest
) -> None:
    script.set(complete="sum(a, b)")
    emacs.eval_lisp("(progn (setf (alist-get 'python-mode eglot-server-programs) #'codeclippy-eglot-contact) nil)")
    file("def add(a, b):\n    return checked_", mode=False)
    emacs.run_with_meta_x("eglot")
    emacs.wait_until(lambda: emacs.eval_lisp("(and (eglot-current-server) t)"), "eglot to connect")
    emacs.eval_lisp(
        "(progn (require 'company) (setq company-idle-delay nil"
        " company-frontends '(company-pseudo-tooltip-frontend)) (company-mode 1) nil)"
    )
    emacs.run_with_meta_x("company-manual-begin")
    emacs.wait_until(lambda: emacs.eval_lisp("(length company-candidates)"), "the menu")
    emacs.wait_for_screen("checked_sum(a, b)")
    emacs.take_screenshot(
        shots / f"emacs-{request.node.callspec.params['running']}-menu.svg", "Emacs: completion at point"
    )
    emacs.press("C-g")
    emacs.eval_lisp("(progn (company-mode -1) nil)")
    emacs.press("C-M-i")
    wait_for_body(emacs, "def add(a, b):\n    return checked_sum(a, b)", "completion at point")


def test_plain_eglot_serves_a_mode_without_another_server(emacs: Emacs, file: File, script: Script) -> None:
    script.set(edit="@@ -2,2 +2,2 @@\n proc add {a b} {\n-  return $a\n+  return [expr {$a + $b}]\n }\n")
    file("proc add {a b} {\n  return $a\n}\n", "add.tcl", mode=False)
    emacs.run_with_meta_x("eglot")
    emacs.wait_until(lambda: emacs.eval_lisp("(and (eglot-current-server) t)"), "eglot to connect")
    assert emacs.eval_lisp('(format "%s" (eieio-object-class (eglot-current-server)))') == "codeclippy-eglot-server"
    assert emacs.eval_lisp("(equal (car (last eglot-server-programs)) '(prog-mode . codeclippy-eglot-contact))"), (
        "it is at the end"
    )


def test_a_command_starts_eglot_in_python_without_another_server(emacs: Emacs, file: File, script: Script) -> None:
    """Eglot itself knows servers for Python only that are not installed, and would ask for a program."""
    script.set(complete="return a + b", edit=HUNKS)
    file(PLAIN, mode=False)
    emacs.run_with_meta_x("codeclippy-eglot")
    emacs.wait_until(lambda: emacs.eval_lisp("(and (eglot-current-server) t)"), "eglot to connect")
    assert emacs.eval_lisp('(format "%s" (eieio-object-class (eglot-current-server)))') == "codeclippy-eglot-server"


def test_a_preset_is_a_code_action_of_plain_eglot(emacs: Emacs, file: File, script: Script) -> None:
    script.set(edit=HUNKS)
    emacs.eval_lisp("(progn (setf (alist-get 'python-mode eglot-server-programs) #'codeclippy-eglot-contact) nil)")
    file(PLAIN, mode=False)
    emacs.run_with_meta_x("eglot")
    emacs.wait_until(lambda: emacs.eval_lisp("(and (eglot-current-server) t)"), "eglot to connect")
    emacs.eval_lisp("(progn (goto-char (point-min)) (forward-line 2) nil)")
    emacs.run_with_meta_x("eglot-code-actions")
    emacs.wait_until(lambda: emacs.eval_lisp("(minibuffer-depth)") == 1, "the list of code actions")
    emacs.type("Code Clippy: Fix the bug")
    emacs.press("Enter")
    emacs.wait_for_screen("y apply", "+    # adds")
    emacs.press("y")
    wait_for_body(emacs, COMMENTED, "the edit")


def test_an_edit_through_eglot_needs_no_minor_mode(emacs: Emacs, file: File, script: Script) -> None:
    script.set(edit=HUNKS)
    emacs.eval_lisp("(progn (setf (alist-get 'python-mode eglot-server-programs) #'codeclippy-eglot-contact) nil)")
    file(PLAIN, mode=False)
    emacs.run_with_meta_x("eglot")
    emacs.wait_until(lambda: emacs.eval_lisp("(and (eglot-current-server) t)"), "eglot to connect")
    emacs.eval_lisp(
        '(progn (goto-char (point-max)) (insert "\\n# unsent") (forward-line -2) (codeclippy-edit "Add a comment") nil)'
    )
    emacs.wait_for_screen("y apply", "+    # adds")
    assert emacs.eval_lisp('(with-current-buffer "add.py" codeclippy-mode)') is None
    emacs.press("y")
    wait_for_body(emacs, COMMENTED + "\n# unsent", "the edit")


def show_preview(emacs: Emacs, file: File, script: Script, message: str = "Add a comment") -> Path:
    """Request an edit by typing a message, and wait for its preview."""
    script.set(edit=HUNKS)
    path = file(PLAIN)
    emacs.eval_lisp("(progn (goto-char (point-min)) (forward-line 2) nil)")
    emacs.run_command("codeclippy-edit")
    emacs.wait_for_screen("Edit: what should change?")
    emacs.type(message)
    emacs.press("Enter")
    emacs.wait_for_screen("y apply", "n discard", "+    # adds")
    return path


def test_edit_with_message_is_previewed_applied_and_undone(
    emacs: Emacs, file: File, script: Script, shots: Path, request: pytest.FixtureRequest
) -> None:
    path = show_preview(emacs, file, script)
    assert emacs.eval_lisp(f"(with-current-buffer {quote(path.name)} (buffer-modified-p))") is None
    emacs.take_screenshot(
        shots / f"emacs-{request.node.callspec.params['running']}-preview.svg", "Emacs: an edit's preview"
    )
    emacs.press("y")
    wait_for_body(emacs, COMMENTED, "the edit")
    assert "y apply" not in emacs.get_screen()
    emacs.press("C-_")
    wait_for_body(emacs, PLAIN, "one undo to revert it")


def test_a_discarded_edit_changes_nothing(emacs: Emacs, file: File, script: Script) -> None:
    show_preview(emacs, file, script)
    before = emacs.get_messages().count("not applied")
    emacs.press("n")
    emacs.wait_until(lambda: "y apply" not in emacs.get_screen(), "the preview to close")
    time.sleep(0.3)
    assert get_body(emacs) == PLAIN and emacs.get_messages().count("not applied") == before


def test_an_edit_is_refused_if_the_text_changed_during_the_preview(emacs: Emacs, file: File, script: Script) -> None:
    path = show_preview(emacs, file, script)
    emacs.eval_lisp(f'(progn (with-current-buffer {quote(path.name)} (goto-char (point-max)) (insert "x = 1")) nil)')
    emacs.press("y")
    emacs.wait_for_screen("the document has changed")
    assert get_body(emacs) == PLAIN + "x = 1"


def test_the_prompt_for_the_message_has_history_and_presets(emacs: Emacs, file: File, script: Script) -> None:
    show_preview(emacs, file, script, "Add the comment")
    emacs.press("n")
    emacs.wait_until(lambda: "y apply" not in emacs.get_screen(), "the preview to close")
    emacs.run_command("codeclippy-edit")
    emacs.wait_for_screen("Edit: what should change?")
    emacs.press("M-p")
    emacs.wait_for_screen("what should change? Add the comment")
    emacs.press("C-a", "C-k")
    emacs.type("Add a d")
    emacs.press("Tab")
    emacs.wait_for_screen("what should change? Add a docstring")
    emacs.press("C-g")
    emacs.wait_until(lambda: emacs.eval_lisp("(minibuffer-depth)") == 0, "the prompt to close")
    assert get_body(emacs) == PLAIN


def test_an_edit_without_confirmation_is_applied_at_once(emacs: Emacs, file: File, script: Script) -> None:
    script.set(edit=HUNKS)
    emacs.eval_lisp("(progn (customize-set-variable 'codeclippy-settings '(:edit (:confirm nil))) nil)")
    try:
        file(PLAIN)
        emacs.eval_lisp(
            "(progn (goto-char (point-min)) (forward-line 1) (push-mark (point-max) t t)"
            ' (codeclippy-edit "Add a comment" (region-beginning) (region-end)) nil)'
        )
        wait_for_body(emacs, COMMENTED, "the edit")
        assert "y apply" not in emacs.get_screen()
    finally:
        emacs.eval_lisp("(progn (customize-set-variable 'codeclippy-settings nil) nil)")


@pytest.mark.parametrize("eglot", [False, True], ids=["mode", "eglot"])
def test_a_diff_is_shown_and_the_next_candidate_is_chosen(
    emacs: Emacs, file: File, script: Script, eglot: bool
) -> None:
    """With `edit.showDiff`, in our own connection and in eglot's; q discards all candidates."""
    script.set(edit=[HUNKS, HUNKS.replace("adds", "sums")])
    emacs.eval_lisp(
        "(progn (setq codeclippy-settings '(:edit (:showDiff t))) (codeclippy-restart)"
        " (setf (alist-get 'python-mode eglot-server-programs) #'codeclippy-eglot-contact) nil)"
    )
    try:
        path = file(PLAIN, mode=not eglot)
        if eglot:
            emacs.run_with_meta_x("eglot")
            emacs.wait_until(lambda: emacs.eval_lisp("(and (eglot-current-server) t)"), "eglot to connect")

        def ask() -> None:
            emacs.eval_lisp('(progn (goto-char (point-min)) (forward-line 2) (codeclippy-edit "Add a comment") nil)')
            emacs.wait_for_screen("y apply", "M-n next", "+    # adds")
            wait_for_question("apply this edit to add.py? (1 of 2)")

        def wait_for_question(text: str) -> None:
            """Not on the screen: the end of the server before may be announced after it."""
            messages = '(with-current-buffer "*Messages*" (buffer-string))'
            emacs.wait_until(lambda: text in emacs.eval_lisp(messages), f"the question {text}")

        ask()
        emacs.press("M-n")
        emacs.wait_for_screen("+    # sums")
        wait_for_question("(2 of 2)")
        assert "# adds" not in emacs.get_screen(), "both candidates use one window"
        emacs.press("y")
        wait_for_body(emacs, COMMENTED.replace("adds", "sums"), "the edit")
        assert emacs.eval_lisp("(length (window-list))") == 1 and emacs.eval_lisp("(buffer-name)") == path.name
        emacs.press("C-_")
        wait_for_body(emacs, PLAIN, "one undo to revert it")
        ask()
        emacs.press("q")
        emacs.wait_until(lambda: "y apply" not in emacs.get_screen(), "the diff to close")
        time.sleep(0.3)
        assert get_body(emacs) == PLAIN and emacs.eval_lisp("(length (window-list))") == 1
    finally:
        emacs.eval_lisp("(progn (setq codeclippy-settings nil) (codeclippy-restart) nil)")


def test_every_edit_is_previewed_if_the_user_option_is_set(emacs: Emacs, file: File, script: Script) -> None:
    emacs.eval_lisp(
        "(progn (customize-set-variable 'codeclippy-settings '((edit . ((confirm . nil)))))"
        " (setq codeclippy-confirm-edits t) nil)"
    )
    try:
        show_preview(emacs, file, script)
        emacs.press("n")
    finally:
        emacs.eval_lisp(
            "(progn (customize-set-variable 'codeclippy-settings nil) (setq codeclippy-confirm-edits nil) nil)"
        )


def test_an_edit_in_progress_is_cancelled(emacs: Emacs, file: File, script: Script) -> None:
    script.set(edit=HUNKS, delay=120)
    file(PLAIN)
    emacs.eval_lisp('(progn (goto-char (point-min)) (forward-line 2) (codeclippy-edit "Add a comment") nil)')
    emacs.wait_until(lambda: emacs.get_state() == "editing", "the edit to begin")
    emacs.wait_for_screen("Clippy:editing")
    emacs.run_command("codeclippy-cancel")
    emacs.wait_until(lambda: emacs.get_state() == "ready", "the edit to end", 20)
    assert get_body(emacs) == PLAIN


def test_crlf_and_astral_characters_survive_byte_for_byte(emacs: Emacs, script: Script, tmp_path: Path) -> None:
    before = f"# 😀 ü {emacs.folder}\r\ndef add(a, b):\r\n    return '😀', a  # ü\r\n".encode()
    script.set(
        edit=f"@@ -1,3 +1,4 @@\n # 😀 ü {emacs.folder}\n def add(a, b):\n-    return '😀', a  # ü\n+    # 𝛼\n"
        "+    return '😀', b  # ü\n",
        complete="👍 done",
    )
    path = tmp_path / "astral.py"
    emacs.open(path, before)
    emacs.wait_until_ready()
    emacs.eval_lisp('(progn (mark-whole-buffer) (codeclippy-edit "Add a comment" (point-min) (point-max)) nil)')
    emacs.wait_for_screen("y apply")
    emacs.press("y")
    emacs.wait_until(lambda: "𝛼" in emacs.get_text() and "y apply" not in emacs.get_screen(), "the edit")
    # Ghost text behind a character of two UTF-16 units, on a line that was just edited.
    emacs.eval_lisp("(progn (goto-char (point-max)) (forward-line -1) (end-of-line) nil)")
    emacs.type(" 😀 ")
    emacs.wait_for_screen("👍 done")
    emacs.press("Tab")
    emacs.wait_until(lambda: "👍" in emacs.get_text(), "the suggestion")
    emacs.press("C-x", "C-s")
    expected = before.replace(b"    return", "    # 𝛼\r\n    return".encode()).replace(
        ", a  # ü".encode(), ", b  # ü 😀 👍 done".encode()
    )
    emacs.wait_until(lambda: path.read_bytes() == expected, f"the file {path.read_bytes()!r} to be {expected!r}")


def test_the_server_has_the_same_text_as_emacs(emacs: Emacs, file: File, script: Script) -> None:
    """Many changes of all kinds between two requests; edits depend on this."""
    file("".join(f"line {number} 😀\n" for number in range(60)))
    emacs.eval_lisp(
        "(progn (defun test-agrees () (let ((old (with-temp-buffer (insert test-text) (buffer-string)))"
        " (change (and codeclippy--changed (save-restriction (widen) (codeclippy--make-change)))))"
        " (setq test-text (cond ((null change) old) ((plist-get change :range)"
        " (with-temp-buffer (insert old) (let* ((range (plist-get change :range))"
        " (place (lambda (position) (goto-char (point-min)) (forward-line (plist-get position :line)) (point)))"
        " (start (funcall place (plist-get range :start))) (end (funcall place (plist-get range :end))))"
        " (delete-region start end) (goto-char start) (insert (plist-get change :text)) (buffer-string))))"
        " (t (plist-get change :text)))) (codeclippy--flush codeclippy--connection)"
        " (equal test-text (buffer-substring-no-properties (point-min) (point-max)))))"
        " (codeclippy--flush codeclippy--connection) (setq codeclippy-idle-delay nil)"
        " (setq test-text (buffer-substring-no-properties (point-min) (point-max))) nil)"
    )
    outcome = emacs.eval_lisp(
        '(let ((wrong nil)) (random "the same every time") (dotimes (step 400)'
        " (dotimes (_ (1+ (random 3))) (goto-char (1+ (random (max 1 (buffer-size)))))"
        ' (pcase (random 6) (0 (insert "x")) (1 (insert "a\\nb")) (2 (delete-region (point) (min (point-max)'
        ' (+ (point) (random 30))))) (3 (insert "\\n")) (4 (goto-char (point-max)) (insert "end"))'
        " (_ (upcase-region (point) (min (point-max) (+ (point) 9))))))"
        " (unless (test-agrees) (push step wrong)))"
        ' (erase-buffer) (unless (test-agrees) (push \'empty wrong)) (insert "new")'
        " (unless (test-agrees) (push 'new wrong)) (setq codeclippy-idle-delay 0.15) wrong)"
    )
    assert outcome is None


@pytest.mark.parametrize("eglot", [False, True], ids=["mode", "eglot"])
def test_the_server_starts_in_the_users_home(emacs: Emacs, file: File, script: Script, eglot: bool) -> None:
    """Not in the folder of the project, which may be somebody else's."""
    if eglot:
        emacs.eval_lisp("(progn (setf (alist-get 'python-mode eglot-server-programs) #'codeclippy-eglot-contact) nil)")
        file("value = \n", mode=False)
        emacs.run_with_meta_x("eglot")
        emacs.wait_until(lambda: emacs.eval_lisp("(and (eglot-current-server) t)"), "eglot to connect")
    else:
        show_ghost_text(emacs, file, script)
    assert script.find_folders() == {emacs.folder / "home"}


def test_settings_can_change_at_run_time(emacs: Emacs, file: File, script: Script) -> None:
    show_ghost_text(emacs, file, script)
    emacs.press("C-g")
    emacs.eval_lisp("(progn (customize-set-variable 'codeclippy-settings '(:completion (:enabled nil))) nil)")
    emacs.type(" ")
    time.sleep(1.0)
    assert "return" not in emacs.get_screen()
    emacs.eval_lisp("(progn (customize-set-variable 'codeclippy-settings nil) nil)")
    emacs.type(" ")
    emacs.wait_for_screen("    return a + b")


def test_it_works_with_another_language_server_in_the_buffer(
    emacs: Emacs, file: File, script: Script, tmp_path: Path
) -> None:
    other = Script(tmp_path / "other.json")
    other.set(complete="of_other_server()")
    contact = "(list " + " ".join(quote(part) for part in other.command) + ")"
    emacs.eval_lisp(f"(progn (setf (alist-get 'python-mode eglot-server-programs) {contact}) nil)")
    file("def value():\n    return checked_", mode=False)
    emacs.run_with_meta_x("eglot")
    emacs.wait_until(lambda: emacs.eval_lisp("(and (eglot-current-server) t)"), "eglot to connect")
    assert emacs.eval_lisp('(format "%s" (eieio-object-class (eglot-current-server)))') == "eglot-lsp-server"
    script.set(complete="or of_ours")
    emacs.eval_lisp("(progn (codeclippy-mode 1) nil)")
    emacs.wait_until_ready()
    emacs.wait_until(
        lambda: emacs.eval_lisp(
            "(let ((found (run-hook-wrapped 'completion-at-point-functions (lambda (function)"
            " (let ((data (ignore-errors (funcall function)))) (and (consp data) data))))))"
            ' (and found (member "checked_of_other_server()" (mapcar #\'substring-no-properties'
            ' (all-completions "checked_" (nth 2 found)))) t))'
        ),
        "the other server's completion",
    )
    emacs.type("x ")
    emacs.wait_for_screen("checked_x or of_ours")
    emacs.run_command("completion-at-point")
    emacs.press("C-g")
    script.set(edit="@@ -2,2 +2,2 @@\n def value():\n-    return checked_x \n+    return 1\n")
    emacs.eval_lisp('(progn (codeclippy-edit "Use one") nil)')
    emacs.wait_for_screen("y apply")
    emacs.press("y")
    emacs.wait_until(lambda: "return 1" in emacs.get_text(), "the edit by our server")


def test_a_killed_server_is_restarted(emacs: Emacs, file: File, script: Script) -> None:
    show_ghost_text(emacs, file, script)
    emacs.press("C-g")
    server = emacs.get_server_pid()
    os.kill(server, signal.SIGKILL)
    emacs.wait_until(
        lambda: emacs.get_state() == "restarting" or emacs.get_server_pid() != server, "the client to notice the exit"
    )
    emacs.wait_until_ready()
    assert emacs.get_server_pid() != server
    emacs.press("BSpace")
    emacs.type(" ")
    emacs.wait_for_screen("    return a + b")


def test_restarting_while_it_starts_leaves_one_server(emacs: Emacs, file: File, script: Script) -> None:
    """Late messages and the exit of a server that was stopped do not affect the next one."""
    file("x = 1\n", "other.py")
    for pause in (0.0, 0.2, 0.4, 0.6):
        emacs.eval_lisp("(progn (codeclippy-restart) nil)")
        time.sleep(pause)
    emacs.wait_until_ready()
    show_ghost_text(emacs, file, script)


def test_a_server_that_keeps_crashing_is_not_restarted(emacs: Emacs, file: File, script: Script) -> None:
    file("x = 1\n")
    emacs.eval_lisp("(progn (setq codeclippy--exit-times (make-list 3 (float-time))) nil)")
    os.kill(emacs.get_server_pid(), signal.SIGKILL)
    emacs.wait_for_screen("Clippy:failed")
    emacs.wait_until(lambda: "the server keeps crashing" in emacs.get_messages(), "the reason")
    emacs.run_command("codeclippy-restart")
    emacs.wait_until_ready()


def test_suggestions_start_once_the_model_is_loaded(emacs: Emacs, file: File, script: Script) -> None:
    script.set(complete=SUGGESTION, load_delay=5)
    emacs.eval_lisp("(progn (codeclippy-restart) nil)")
    emacs.open(Path(emacs.folder) / "loading.py", "def add(a, b):\n   ")
    emacs.wait_for_screen("Clippy:loading")
    before = emacs.eval_lisp("(codeclippy-state)")
    emacs.type(" ")
    emacs.wait_for_screen("    return a + b")
    assert before[0] == "loading"


def test_a_suggestion_whose_time_was_up_appears_when_it_is_finished(emacs: Emacs, file: File, script: Script) -> None:
    script.set(complete=SUGGESTION, cut=True)
    emacs.open(Path(emacs.folder) / "cut.py", "def add(a, b):\n   ")
    emacs.type(" ")
    emacs.wait_for_screen("    return a + b")


def test_the_server_is_told_where_point_rests(emacs: Emacs, file: File, script: Script) -> None:
    read = Path(emacs.folder) / "read"
    script.set(read=str(read))
    emacs.open(Path(emacs.folder) / "rest.py", "first = 1\nsecond = 2\n")
    emacs.eval_lisp("(progn (goto-char 7) (codeclippy--watch-rest) nil)")
    emacs.wait_until(lambda: read.exists() and read.read_text().endswith("first "), "the prompt to be read")


def test_a_model_that_failed_to_load_is_reported_and_can_be_reloaded(emacs: Emacs, file: File, script: Script) -> None:
    script.set(load_error="the model is made of cheese")
    emacs.eval_lisp("(progn (codeclippy-restart) nil)")
    emacs.open(Path(emacs.folder) / "failing.py", "def add(a, b):\n   ")
    emacs.wait_for_screen("Clippy:failed")
    assert "made of cheese" in emacs.eval_lisp("(cadr (codeclippy-state))")
    assert emacs.eval_lisp("(minibuffer-depth)") == 0 and emacs.eval_lisp("(length (window-list))") == 1, (
        "no window or prompt is opened"
    )
    script.set(complete=SUGGESTION)
    emacs.run_command("codeclippy-reload-model")
    emacs.wait_until_ready()
    emacs.type(" ")
    emacs.wait_for_screen("    return a + b")


def test_metrics_are_shown(emacs: Emacs, file: File, script: Script) -> None:
    emacs.run_command("codeclippy-show-metrics")
    emacs.wait_until(
        lambda: re.search(r"nothing was suggested|\d+ shown, \d+ accepted", emacs.get_messages()), "the metrics"
    )


def test_the_model_is_chosen_from_a_list(emacs: Emacs, file: File, script: Script, tmp_path: Path) -> None:
    """The best one is in front; the choice is that of all editors, and the server goes on running."""
    script.set(complete="return a + b")
    file(PLAIN)
    model = write_toy_model(emacs.folder / "home" / "models" / "coder.gguf")
    emacs.eval_lisp(f"(progn (setq-default codeclippy-settings '(:model (:folders [{quote(model.parent)}]))) nil)")
    emacs.run_command("codeclippy-restart")
    emacs.wait_until_ready()
    process = emacs.get_server_pid()
    emacs.run_with_meta_x("codeclippy-choose-model")
    emacs.wait_for_screen("The model of all your editors:")
    emacs.type("~/models/")
    emacs.press("Tab")
    emacs.wait_for_screen("~/models/coder.gguf: complete, infill, edit")  # what follows may be broken anywhere
    emacs.press("Enter")
    config = emacs.folder / "home" / ".config" / "codeclippy-ls" / "config.toml"
    emacs.wait_until(config.exists, "the choice to be written")
    assert config.read_text() == f'[model]\ncompletion = "{model}"\n'
    emacs.wait_until(lambda: "complete by" in emacs.get_messages(), "the model to be in use")
    assert emacs.get_server_pid() == process
    emacs.eval_lisp("(progn (setq-default codeclippy-settings nil) nil)")
    config.unlink()


def test_a_question_of_the_server_is_answered_in_the_minibuffer(emacs: Emacs, file: File, script: Script) -> None:
    """As before a download; C-g is no answer."""
    for keys, answer in ((("Download", "Enter"), "Download"), (("C-g",), None)):
        emacs.eval_lisp(
            "(progn (setq test-answer 'none) (run-at-time 0 nil (lambda () (setq test-answer (codeclippy--ask"
            ' \'(:message "Code Clippy: download x?" :actions [(:title "Download") (:title "Cancel")]))))) nil)'
        )
        emacs.wait_for_screen("Code Clippy: download x?")
        for key in keys:
            emacs.press(key)
        emacs.wait_until(lambda: emacs.eval_lisp("(not (eq test-answer 'none))"), "the answer")
        assert emacs.eval_lisp("(plist-get test-answer :title)") == answer


def test_a_better_model_is_offered_as_a_message(emacs: Emacs, file: File, script: Script) -> None:
    emacs.eval_lisp('(progn (codeclippy--show-offer \'(:message "x is on this machine")) nil)')
    assert "x is on this machine.  To use it: M-x codeclippy-choose-model" in emacs.get_messages()


def test_a_missing_server_is_reported_with_instructions(emacs: Emacs, file: File, script: Script) -> None:
    command = emacs.eval_lisp('(prog1 (vconcat codeclippy-command) (setq codeclippy-command \'("no-such-program")))')
    emacs.run_command("codeclippy-restart")
    emacs.wait_until(lambda: "pip install . in a clone" in emacs.get_messages(), "the instructions")
    assert emacs.get_state() == "failed"
    emacs.eval_lisp(f"(progn (setq codeclippy-command '({' '.join(quote(part) for part in command)})) nil)")
    emacs.run_command("codeclippy-restart")
    emacs.wait_until_ready()


def test_killed_buffers_are_closed_in_the_server(emacs: Emacs, file: File, script: Script) -> None:
    path = file("x = 1\n")
    assert emacs.eval_lisp("(hash-table-count codeclippy--buffers)") == 1
    emacs.eval_lisp(
        f"(progn (rename-file {quote(path)} {quote(path.with_name('new.py'))})"
        f" (set-visited-file-name {quote(path.with_name('new.py'))}) (set-buffer-modified-p nil) nil)"
    )
    emacs.wait_until(lambda: emacs.eval_lisp("codeclippy--uri").endswith("new.py"), "the new name")
    assert emacs.eval_lisp("(hash-table-count codeclippy--buffers)") == 1
    emacs.eval_lisp("(progn (kill-buffer) nil)")
    assert emacs.eval_lisp("(hash-table-count codeclippy--buffers)") == 0


@contextmanager
def use_server(emacs: Emacs, command: list[str], settings: str) -> Iterator[None]:
    """Use another server and other settings."""
    before = emacs.eval_lisp("(vconcat codeclippy-command)")

    def restart(command: list[str], settings: str) -> None:
        emacs.eval_lisp(
            f"(progn (setq codeclippy-command '({' '.join(quote(part) for part in command)})"
            f" codeclippy-settings '{settings} codeclippy-idle-delay 0.15) (codeclippy-restart) nil)"
        )

    restart(command, settings)
    try:
        yield
    finally:
        restart(before, "nil")


def test_the_real_server_suggests_and_edits(emacs: Emacs, tmp_path: Path) -> None:
    with use_server(emacs, REAL_SERVER, "(:completion (:timeBudgetMs 20000))"):
        emacs.open(tmp_path / "real.py", UNFINISHED[:-1])
        emacs.wait_until_ready()
        emacs.type(" ")
        emacs.wait_until(lambda: emacs.eval_lisp("codeclippy--visible"), "ghost text")
        emacs.press("Tab")
        emacs.wait_until(lambda: emacs.get_text() != UNFINISHED, "the suggestion to be inserted")
        assert emacs.get_text().startswith(UNFINISHED)
        before = emacs.get_text()
        emacs.eval_lisp(
            "(progn (setq codeclippy-idle-delay nil) (goto-char (point-min))"
            ' (codeclippy-edit "Rename first to left") nil)'
        )
        told = emacs.get_messages().count("no edit")
        emacs.wait_until(
            lambda: "y apply" in emacs.get_screen() or emacs.get_messages().count("no edit") > told, "an outcome", 120
        )
        if "y apply" in emacs.get_screen():
            emacs.press("y")
            emacs.wait_until(
                lambda: emacs.eval_lisp("(buffer-name)") == "real.py" and emacs.get_text() != before, "the edit"
            )
            assert emacs.get_text().split("\n\n\n")[1] == before.split("\n\n\n")[1], "the other function is untouched"


LONG_EDITS_LISP = "(:completion (:timeBudgetMs 20000) :edit (:maxTokens 800 :temperature 1.0 :candidates 8))"


def get_new_messages(emacs: Emacs, before: str) -> list[str]:
    """Return our messages since an earlier call of `get_messages`."""
    return [line for line in emacs.get_messages().removeprefix(before).splitlines() if line.startswith("Code Clippy")]


def test_a_killed_engine_host_shows_a_message_and_loses_no_text(
    emacs: Emacs, hosts: Hosts, report: Callable[[str, float], None], tmp_path: Path
) -> None:
    """The host of the real server is killed during an edit: one message. One that is suspended costs none."""
    with use_server(emacs, hosts.command, LONG_EDITS_LISP):
        emacs.open(tmp_path / "many.py", LONG_FILE[:-1])
        emacs.wait_until_ready()
        emacs.eval_lisp(
            "(progn (setq test-progress nil) (advice-add 'codeclippy--handle-progress :before (lambda (_ _ value)"
            " (setq test-progress (plist-get value :message))) '((name . test))) nil)"
        )
        messages = emacs.get_messages()
        emacs.eval_lisp('(progn (codeclippy-edit "Add a docstring to each function" (point-min) (point-max)) nil)')
        emacs.wait_until(lambda: "writing: " in (emacs.eval_lisp("test-progress") or ""), "a part of the edit")
        emacs.eval_lisp("(progn (advice-remove 'codeclippy--handle-progress 'test) nil)")
        first, when = hosts.kill()
        emacs.type(" ")
        emacs.wait_until(lambda: emacs.eval_lisp("codeclippy--visible"), "ghost text")
        report("from the kill during an edit to the next suggestion", time.monotonic() - when)
        assert hosts.get_only() != first and emacs.get_text() == LONG_FILE
        assert get_new_messages(emacs, messages) == [f"Code Clippy: no edit: {EXIT_MESSAGE}"]
        hosts.suspend()
        emacs.type("total = ")
        time.sleep(1.0)  # for the request to be sent
        _, when = hosts.kill()
        emacs.wait_until(lambda: emacs.eval_lisp("codeclippy--visible"), "ghost text")
        report("from the kill during a suggestion to the next one", time.monotonic() - when)
        assert get_new_messages(emacs, messages)[1:] == [] and emacs.get_text() == f"{LONG_FILE}total = "


@pytest.mark.parametrize("version", VERSIONS)
def test_the_file_compiles_and_passes_checkdoc(version: str, tmp_path: Path) -> None:
    copy = tmp_path / CLIENT.name
    copy.write_text(CLIENT.read_text())
    strict = "(setq byte-compile-error-on-warn t)"
    output = run_batch(
        version, tmp_path / "home", "-f", "package-initialize", "--eval", strict, "-f", "batch-byte-compile", str(copy)
    )
    output += run_batch(version, tmp_path / "home", "--eval", f"(checkdoc-file {quote(copy)})")
    assert "Warning" not in output, output


def test_package_lint_reports_nothing(tmp_path: Path) -> None:
    if (
        run_batch(
            "28", tmp_path / "home", "-f", "package-initialize", "--eval", '(princ (locate-library "package-lint"))'
        )
        == "nil"
    ):
        pytest.skip("package-lint is not installed (elpa-package-lint)")
    # The contents of an archive that has eglot; no archive is downloaded.
    known = tmp_path / "home" / ".emacs.d" / "elpa" / "archives" / "gnu" / "archive-contents"
    known.parent.mkdir(parents=True)
    known.write_text('(1 (eglot . [(1 9) ((emacs (26 3))) "The client" tar nil]))')
    # Not its batch command: the one in Debian 12 is older than Emacs 28.1 and fails because it calls that unreleased.
    check = (
        f"(with-current-buffer (find-file-noselect {quote(CLIENT)}) (dolist (found (package-lint-buffer))"
        ' (princ (format "%s\\n" found))))'
    )
    output = run_batch(
        "28",
        tmp_path / "home",
        "-f",
        "package-initialize",
        "-l",
        "package-lint",
        "--eval",
        check.replace("package-lint-buffer", "package-lint-buffer (current-buffer)"),
    )
    # The file has no homepage yet.
    expected_findings = ("uninstallable in all released Emacs versions", "Homepage or URL")
    output = "\n".join(line for line in output.splitlines() if not any(words in line for words in expected_findings))
    assert "error" not in output and "warning" not in output, output


@pytest.mark.parametrize("version", VERSIONS)
def test_the_file_installs_as_a_package(version: str, tmp_path: Path) -> None:
    """Installed as the docs say, without a user's configuration; another Emacs process then has the commands."""
    home = tmp_path / "home"
    run_batch(version, home, "-f", "package-initialize", "--eval", f"(package-install-file {quote(CLIENT)})")
    output = run_batch(
        version,
        home,
        "-f",
        "package-initialize",
        "--eval",
        "(progn (princ (json-encode (list (and (commandp 'codeclippy-edit) t)"
        " (and (commandp 'codeclippy-mode) t)"
        " (and (commandp 'global-codeclippy-mode) t) (featurep 'codeclippy)))) (terpri))",
    ).splitlines()[0]
    assert json.loads(output) == [True, True, True, None]
    output = run_batch(
        version,
        home,
        "-f",
        "package-initialize",
        "--eval",
        "(progn (require 'codeclippy) (princ (format \"%s %s\" (symbol-file 'codeclippy-edit)"
        " (cdr (assq 'prog-mode eglot-server-programs)))) (terpri))",
    ).splitlines()[0]
    assert output.endswith("codeclippy.elc codeclippy-eglot-contact")
