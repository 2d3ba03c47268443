"""The Emacs client in real Emacsen: what a user types, sees and gets.

One editor of each version serves all tests, in files of their own: a suggestion is known by its text.
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

from tests.editors.conftest import REAL_SERVER, Script
from tests.editors.emacs import CLIENT, VERSIONS, Emacs, batch, quoted
from tests.editors.hosts import HOLE, MANY, TOLD, Hosts

SAYS = "return a + b"
BODY = "    # adds\n"
PLAIN = "def add(a, b):\n    return a + b\n"
HUNKS = "@@ -2,2 +2,3 @@\n def add(a, b):\n+    # adds\n     return a + b\n"
COMMENTED = "def add(a, b):\n    # adds\n    return a + b\n"

File = Callable[..., Path]


@pytest.fixture(scope="session")
def shared_script() -> Iterator[Script]:
    """The script of the shared editors' servers."""
    with tempfile.TemporaryDirectory(prefix="clippy") as folder:
        made = Script(Path(folder) / "script.json")
        made.says()
        yield made


@pytest.fixture(scope="session", params=VERSIONS)
def running(request: pytest.FixtureRequest, shared_script: Script) -> Iterator[Emacs]:
    """An editor of each version, with the scripted server."""
    with tempfile.TemporaryDirectory(prefix="clippy", ignore_cleanup_errors=True) as folder:
        shared_script.says()
        made = Emacs(request.param, Path(folder), shared_script.command)
        yield made
        notes = made.notes()
        made.close()
        assert "Error running timer" not in notes and "error in process filter" not in notes, notes


@pytest.fixture
def script(shared_script: Script) -> Script:
    """The script, which suggests nothing yet."""
    shared_script.says()
    return shared_script


@pytest.fixture
def emacs(running: Emacs, script: Script) -> Emacs:
    """The editor with nothing of an earlier test in it."""
    running.reset()
    return running


@pytest.fixture
def file(emacs: Emacs, tmp_path: Path) -> File:
    """Opens a file of the test's own folder: a server remembers what it has said to a text."""

    def opened(text: str, name: str = "add.py", mode: bool = True) -> Path:
        path = tmp_path / name
        emacs.open(path, f"# Two numbers.\n{text}", mode)
        if mode:
            emacs.ready()
        return path

    return opened


def body(emacs: Emacs) -> str:
    """The buffer's text after the first line."""
    return emacs.text().partition("\n")[2]


def ghost(emacs: Emacs, file: File, script: Script, says: str = SAYS) -> None:
    """Type at a hole and wait for the suggestion to be drawn, and not to be text."""
    script.says(complete=says)
    file("def add(a, b):\n   ")
    emacs.type(" ")
    emacs.until_drawn("    " + says.partition("\n")[0])
    assert body(emacs) == "def add(a, b):\n    "


def until_body(emacs: Emacs, text: str, what: str) -> None:
    """Wait for the text after the first line."""
    emacs.until(lambda: body(emacs) == text, f"{what}: {text!r}")


def test_ghost_text_is_accepted_whole_and_undone_in_one_step(
    emacs: Emacs, file: File, script: Script, shots: Path, running: Emacs, request: pytest.FixtureRequest
) -> None:
    ghost(emacs, file, script, "total = a + b\n    return total")
    emacs.until_drawn("    return total")
    emacs.shot(shots / f"emacs-{request.node.callspec.params['running']}-ghost.svg", "Emacs: a suggestion")
    script.says()
    emacs.keys("Tab")
    until_body(emacs, "def add(a, b):\n    total = a + b\n    return total", "the suggestion to be text")
    emacs.keys("C-_")
    until_body(emacs, "def add(a, b):\n    ", "one undo to take it back")


def test_closing_brackets_of_the_editor_are_replaced(emacs: Emacs, script: Script) -> None:
    script.says(complete="path):")
    emacs.open(Path(emacs.folder) / "brackets.py", "if exists()")
    emacs.ready()
    emacs.lisp("(progn (goto-char 11) nil)")
    emacs.type(" ")
    emacs.until_drawn("path):")
    script.says()
    emacs.keys("Tab")
    emacs.until(lambda: emacs.lisp("(buffer-string)") == "if exists( path):", "the brackets not to be doubled")


def test_ghost_text_is_accepted_by_word(emacs: Emacs, file: File, script: Script) -> None:
    ghost(emacs, file, script)
    emacs.keys("M-f")
    until_body(emacs, "def add(a, b):\n    return", "the first word")
    emacs.until_drawn("    return a + b")
    emacs.keys("M-Right")
    until_body(emacs, "def add(a, b):\n    return a", "the second word")


def test_ghost_text_is_accepted_by_line(emacs: Emacs, file: File, script: Script) -> None:
    ghost(emacs, file, script, "total = a + b\n    return total")
    emacs.keys("C-M-f")
    until_body(emacs, "def add(a, b):\n    total = a + b", "the first line")
    emacs.until_drawn("    return total")
    emacs.keys("C-M-Right")
    until_body(emacs, "def add(a, b):\n    total = a + b\n    return total", "the second line")


def test_typing_through_keeps_the_suggestion(emacs: Emacs, file: File, script: Script) -> None:
    ghost(emacs, file, script)
    script.says(complete="something else")
    emacs.type("ret")
    until_body(emacs, "def add(a, b):\n    ret", "the typed text")
    time.sleep(1.0)  # longer than any delay: a wrong request would have come by now
    assert "    return a + b" in emacs.screen()
    emacs.keys("Tab")
    until_body(emacs, f"def add(a, b):\n    {SAYS}", "the suggestion, not twice")


def test_typing_something_else_hides_the_suggestion(emacs: Emacs, file: File, script: Script) -> None:
    ghost(emacs, file, script)
    script.says()
    emacs.type("x = 1")
    until_body(emacs, "def add(a, b):\n    x = 1", "the typed text")
    emacs.until(lambda: "return" not in emacs.screen(), "the suggestion to go")
    assert emacs.lisp('(eq (key-binding (kbd "TAB")) \'indent-for-tab-command)'), "an ordinary Tab"


def test_c_g_and_moving_the_cursor_hide_the_suggestion(emacs: Emacs, file: File, script: Script) -> None:
    ghost(emacs, file, script)
    emacs.keys("C-g")
    emacs.until(lambda: "return" not in emacs.screen(), "C-g to hide it")
    emacs.command("codeclippy-complete")
    emacs.until_drawn("    return a + b")
    emacs.keys("Up")
    emacs.until(lambda: "return" not in emacs.screen(), "leaving to hide it")
    assert body(emacs) == "def add(a, b):\n    "


def test_two_windows_and_two_projects_share_one_server(
    emacs: Emacs, file: File, script: Script, tmp_path: Path
) -> None:
    ghost(emacs, file, script)
    server = emacs.server()
    (tmp_path / "other" / ".git").mkdir(parents=True)
    emacs.lisp("(progn (split-window-right) (other-window 1) nil)")
    file("def sub(a, b):\n   ", "other/sub.py")
    emacs.until(lambda: "return" not in emacs.screen(), "the suggestion of the other window to go")
    script.says(complete="return a - b")
    emacs.type(" ")
    emacs.until_drawn("    return a - b")
    emacs.keys("Tab")
    until_body(emacs, "def sub(a, b):\n    return a - b", "the suggestion in this window")
    emacs.lisp("(progn (other-window 1) nil)")
    assert body(emacs) == "def add(a, b):\n    "
    assert emacs.server() == server
    # The same file in both windows: the suggestion is drawn in the one the user is in.
    script.says(complete="return b + a")
    emacs.lisp("(progn (set-window-buffer (next-window) (current-buffer)) nil)")
    emacs.type("\t")
    emacs.command("codeclippy-complete")
    emacs.until_drawn("return b + a")
    assert emacs.screen().count("return b + a") == 1


def test_completion_at_point_of_plain_eglot(
    emacs: Emacs, file: File, script: Script, shots: Path, request: pytest.FixtureRequest
) -> None:
    script.says(complete="sum(a, b)")
    emacs.lisp("(progn (setf (alist-get 'python-mode eglot-server-programs) #'codeclippy-eglot-contact) nil)")
    file("def add(a, b):\n    return checked_", mode=False)
    emacs.meta_x("eglot")
    emacs.until(lambda: emacs.lisp("(and (eglot-current-server) t)"), "eglot to connect")
    emacs.lisp(
        "(progn (require 'company) (setq company-idle-delay nil"
        " company-frontends '(company-pseudo-tooltip-frontend)) (company-mode 1) nil)"
    )
    emacs.meta_x("company-manual-begin")
    emacs.until(lambda: emacs.lisp("(length company-candidates)"), "the menu")
    emacs.until_drawn("checked_sum(a, b)")
    emacs.shot(shots / f"emacs-{request.node.callspec.params['running']}-menu.svg", "Emacs: completion at point")
    emacs.keys("C-g")
    emacs.lisp("(progn (company-mode -1) nil)")
    emacs.keys("C-M-i")
    until_body(emacs, "def add(a, b):\n    return checked_sum(a, b)", "completion at point")


def test_plain_eglot_serves_a_mode_without_another_server(emacs: Emacs, file: File, script: Script) -> None:
    script.says(edit="@@ -2,2 +2,2 @@\n proc add {a b} {\n-  return $a\n+  return [expr {$a + $b}]\n }\n")
    file("proc add {a b} {\n  return $a\n}\n", "add.tcl", mode=False)
    emacs.meta_x("eglot")
    emacs.until(lambda: emacs.lisp("(and (eglot-current-server) t)"), "eglot to connect")
    assert emacs.lisp('(format "%s" (eieio-object-class (eglot-current-server)))') == "codeclippy-eglot-server"
    assert emacs.lisp("(equal (car (last eglot-server-programs)) '(prog-mode . codeclippy-eglot-contact))"), "appended"


def test_a_preset_is_a_code_action_of_plain_eglot(emacs: Emacs, file: File, script: Script) -> None:
    script.says(edit=HUNKS)
    emacs.lisp("(progn (setf (alist-get 'python-mode eglot-server-programs) #'codeclippy-eglot-contact) nil)")
    file(PLAIN, mode=False)
    emacs.meta_x("eglot")
    emacs.until(lambda: emacs.lisp("(and (eglot-current-server) t)"), "eglot to connect")
    emacs.lisp("(progn (goto-char (point-min)) (forward-line 2) nil)")
    emacs.meta_x("eglot-code-actions")
    emacs.until(lambda: emacs.lisp("(minibuffer-depth)") == 1, "the question which action")
    emacs.type("Code Clippy: Fix the bug")
    emacs.keys("Enter")
    emacs.until_drawn("y apply", "+    # adds")
    emacs.keys("y")
    until_body(emacs, COMMENTED, "the edit")


def test_an_edit_through_eglot_needs_no_minor_mode(emacs: Emacs, file: File, script: Script) -> None:
    script.says(edit=HUNKS)
    emacs.lisp("(progn (setf (alist-get 'python-mode eglot-server-programs) #'codeclippy-eglot-contact) nil)")
    file(PLAIN, mode=False)
    emacs.meta_x("eglot")
    emacs.until(lambda: emacs.lisp("(and (eglot-current-server) t)"), "eglot to connect")
    emacs.lisp(
        '(progn (goto-char (point-max)) (insert "\\n# unsent") (forward-line -2) (codeclippy-edit "Add a comment") nil)'
    )
    emacs.until_drawn("y apply", "+    # adds")
    assert emacs.lisp('(with-current-buffer "add.py" codeclippy-mode)') is None
    emacs.keys("y")
    until_body(emacs, COMMENTED + "\n# unsent", "the edit")


def preview(emacs: Emacs, file: File, script: Script, message: str = "Add a comment") -> Path:
    """Ask for an edit by typing a message and wait for its preview."""
    script.says(edit=HUNKS)
    path = file(PLAIN)
    emacs.lisp("(progn (goto-char (point-min)) (forward-line 2) nil)")
    emacs.command("codeclippy-edit")
    emacs.until_drawn("Edit: what should change?")
    emacs.type(message)
    emacs.keys("Enter")
    emacs.until_drawn("y apply", "n discard", "+    # adds")
    return path


def test_edit_with_message_is_previewed_applied_and_undone(
    emacs: Emacs, file: File, script: Script, shots: Path, request: pytest.FixtureRequest
) -> None:
    path = preview(emacs, file, script)
    assert emacs.lisp(f"(with-current-buffer {quoted(path.name)} (buffer-modified-p))") is None
    emacs.shot(shots / f"emacs-{request.node.callspec.params['running']}-preview.svg", "Emacs: an edit's preview")
    emacs.keys("y")
    until_body(emacs, COMMENTED, "the edit")
    assert "y apply" not in emacs.screen()
    emacs.keys("C-_")
    until_body(emacs, PLAIN, "one undo to take it back")


def test_a_discarded_edit_changes_nothing(emacs: Emacs, file: File, script: Script) -> None:
    preview(emacs, file, script)
    before = emacs.notes().count("not applied")
    emacs.keys("n")
    emacs.until(lambda: "y apply" not in emacs.screen(), "the preview to close")
    time.sleep(0.3)
    assert body(emacs) == PLAIN and emacs.notes().count("not applied") == before


def test_an_edit_is_refused_if_the_text_changed_during_the_preview(emacs: Emacs, file: File, script: Script) -> None:
    path = preview(emacs, file, script)
    emacs.lisp(f'(progn (with-current-buffer {quoted(path.name)} (goto-char (point-max)) (insert "x = 1")) nil)')
    emacs.keys("y")
    emacs.until_drawn("the document has changed")
    assert body(emacs) == PLAIN + "x = 1"


def test_the_prompt_for_the_message_has_history_and_presets(emacs: Emacs, file: File, script: Script) -> None:
    preview(emacs, file, script, "Add the comment")
    emacs.keys("n")
    emacs.until(lambda: "y apply" not in emacs.screen(), "the preview to close")
    emacs.command("codeclippy-edit")
    emacs.until_drawn("Edit: what should change?")
    emacs.keys("M-p")
    emacs.until_drawn("what should change? Add the comment")
    emacs.keys("C-a", "C-k")
    emacs.type("Add a d")
    emacs.keys("Tab")
    emacs.until_drawn("what should change? Add a docstring")
    emacs.keys("C-g")
    emacs.until(lambda: emacs.lisp("(minibuffer-depth)") == 0, "the prompt to close")
    assert body(emacs) == PLAIN


def test_an_edit_without_confirmation_is_applied_at_once(emacs: Emacs, file: File, script: Script) -> None:
    script.says(edit=HUNKS)
    emacs.lisp("(progn (customize-set-variable 'codeclippy-settings '(:edit (:confirm nil))) nil)")
    try:
        file(PLAIN)
        emacs.lisp(
            "(progn (goto-char (point-min)) (forward-line 1) (push-mark (point-max) t t)"
            ' (codeclippy-edit "Add a comment" (region-beginning) (region-end)) nil)'
        )
        until_body(emacs, COMMENTED, "the edit")
        assert "y apply" not in emacs.screen()
    finally:
        emacs.lisp("(progn (customize-set-variable 'codeclippy-settings nil) nil)")


@pytest.mark.parametrize("eglot", [False, True], ids=["mode", "eglot"])
def test_a_diff_is_shown_and_the_next_candidate_is_chosen(
    emacs: Emacs, file: File, script: Script, eglot: bool
) -> None:
    """With the server's setting for it, by our own connection and by eglot's; q takes none of them."""
    script.says(edit=[HUNKS, HUNKS.replace("adds", "sums")])
    emacs.lisp(
        "(progn (setq codeclippy-settings '(:edit (:showDiff t))) (codeclippy-restart)"
        " (setf (alist-get 'python-mode eglot-server-programs) #'codeclippy-eglot-contact) nil)"
    )
    try:
        path = file(PLAIN, mode=not eglot)
        if eglot:
            emacs.meta_x("eglot")
            emacs.until(lambda: emacs.lisp("(and (eglot-current-server) t)"), "eglot to connect")

        def ask() -> None:
            emacs.lisp('(progn (goto-char (point-min)) (forward-line 2) (codeclippy-edit "Add a comment") nil)')
            emacs.until_drawn("y apply", "M-n next", "+    # adds", "apply this edit to add.py? (1 of 2)")

        ask()
        emacs.keys("M-n")
        emacs.until_drawn("+    # sums", "(2 of 2)")
        assert "# adds" not in emacs.screen(), "one window serves both"
        emacs.keys("y")
        until_body(emacs, COMMENTED.replace("adds", "sums"), "the edit")
        assert emacs.lisp("(length (window-list))") == 1 and emacs.lisp("(buffer-name)") == path.name
        emacs.keys("C-_")
        until_body(emacs, PLAIN, "one undo to take it back")
        ask()
        emacs.keys("q")
        emacs.until(lambda: "y apply" not in emacs.screen(), "the diff to go")
        time.sleep(0.3)
        assert body(emacs) == PLAIN and emacs.lisp("(length (window-list))") == 1
    finally:
        emacs.lisp("(progn (setq codeclippy-settings nil) (codeclippy-restart) nil)")


def test_every_edit_is_previewed_if_the_user_option_is_set(emacs: Emacs, file: File, script: Script) -> None:
    emacs.lisp(
        "(progn (customize-set-variable 'codeclippy-settings '((edit . ((confirm . nil)))))"
        " (setq codeclippy-confirm-edits t) nil)"
    )
    try:
        preview(emacs, file, script)
        emacs.keys("n")
    finally:
        emacs.lisp("(progn (customize-set-variable 'codeclippy-settings nil) (setq codeclippy-confirm-edits nil) nil)")


def test_an_edit_in_progress_is_cancelled(emacs: Emacs, file: File, script: Script) -> None:
    script.says(edit=HUNKS, delay=120)
    file(PLAIN)
    emacs.lisp('(progn (goto-char (point-min)) (forward-line 2) (codeclippy-edit "Add a comment") nil)')
    emacs.until(lambda: emacs.state() == "writing", "the edit to begin")
    emacs.until_drawn("Clippy:writing")
    emacs.command("codeclippy-cancel")
    emacs.until(lambda: emacs.state() == "ready", "the edit to end", 20)
    assert body(emacs) == PLAIN


def test_crlf_and_astral_characters_survive_byte_for_byte(emacs: Emacs, script: Script, tmp_path: Path) -> None:
    before = f"# 😀 ü {emacs.folder}\r\ndef add(a, b):\r\n    return '😀', a  # ü\r\n".encode()
    script.says(
        edit=f"@@ -1,3 +1,4 @@\n # 😀 ü {emacs.folder}\n def add(a, b):\n-    return '😀', a  # ü\n+    # 𝛼\n"
        "+    return '😀', b  # ü\n",
        complete="👍 done",
    )
    path = tmp_path / "astral.py"
    emacs.open(path, before)
    emacs.ready()
    emacs.lisp('(progn (mark-whole-buffer) (codeclippy-edit "Add a comment" (point-min) (point-max)) nil)')
    emacs.until_drawn("y apply")
    emacs.keys("y")
    emacs.until(lambda: "𝛼" in emacs.text() and "y apply" not in emacs.screen(), "the edit")
    # Ghost text behind a character of two UTF-16 units, on a line that was just edited.
    emacs.lisp("(progn (goto-char (point-max)) (forward-line -1) (end-of-line) nil)")
    emacs.type(" 😀 ")
    emacs.until_drawn("👍 done")
    emacs.keys("Tab")
    emacs.until(lambda: "👍" in emacs.text(), "the suggestion")
    emacs.keys("C-x", "C-s")
    expected = before.replace(b"    return", "    # 𝛼\r\n    return".encode()).replace(
        ", a  # ü".encode(), ", b  # ü 😀 👍 done".encode()
    )
    emacs.until(lambda: path.read_bytes() == expected, f"the file {path.read_bytes()!r} to be {expected!r}")


def test_the_server_has_the_same_text_as_emacs(emacs: Emacs, file: File, script: Script) -> None:
    """Many changes of all kinds between two requests; an edit then lands only where the texts agree."""
    file("".join(f"line {number} 😀\n" for number in range(60)))
    emacs.lisp(
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
    outcome = emacs.lisp(
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


def test_settings_can_change_at_run_time(emacs: Emacs, file: File, script: Script) -> None:
    ghost(emacs, file, script)
    emacs.keys("C-g")
    emacs.lisp("(progn (customize-set-variable 'codeclippy-settings '(:completion (:enabled nil))) nil)")
    emacs.type(" ")
    time.sleep(1.0)
    assert "return" not in emacs.screen()
    emacs.lisp("(progn (customize-set-variable 'codeclippy-settings nil) nil)")
    emacs.type(" ")
    emacs.until_drawn("    return a + b")


def test_it_works_with_another_language_server_in_the_buffer(
    emacs: Emacs, file: File, script: Script, tmp_path: Path
) -> None:
    other = Script(tmp_path / "other.json")
    other.says(complete="of_other_server()")
    contact = "(list " + " ".join(quoted(part) for part in other.command) + ")"
    emacs.lisp(f"(progn (setf (alist-get 'python-mode eglot-server-programs) {contact}) nil)")
    file("def value():\n    return checked_", mode=False)
    emacs.meta_x("eglot")
    emacs.until(lambda: emacs.lisp("(and (eglot-current-server) t)"), "eglot to connect")
    assert emacs.lisp('(format "%s" (eieio-object-class (eglot-current-server)))') == "eglot-lsp-server"
    script.says(complete="or of_ours")
    emacs.lisp("(progn (codeclippy-mode 1) nil)")
    emacs.ready()
    emacs.until(
        lambda: emacs.lisp(
            "(let ((found (run-hook-wrapped 'completion-at-point-functions (lambda (function)"
            " (let ((data (ignore-errors (funcall function)))) (and (consp data) data))))))"
            ' (and found (member "checked_of_other_server()" (mapcar #\'substring-no-properties'
            ' (all-completions "checked_" (nth 2 found)))) t))'
        ),
        "the other server's completion",
    )
    emacs.type("x ")
    emacs.until_drawn("checked_x or of_ours")
    emacs.command("completion-at-point")
    emacs.keys("C-g")
    script.says(edit="@@ -2,2 +2,2 @@\n def value():\n-    return checked_x \n+    return 1\n")
    emacs.lisp('(progn (codeclippy-edit "Use one") nil)')
    emacs.until_drawn("y apply")
    emacs.keys("y")
    emacs.until(lambda: "return 1" in emacs.text(), "the edit by our server")


def test_a_killed_server_is_restarted(emacs: Emacs, file: File, script: Script) -> None:
    ghost(emacs, file, script)
    emacs.keys("C-g")
    server = emacs.server()
    os.kill(server, signal.SIGKILL)
    emacs.until(lambda: emacs.state() == "restarting" or emacs.server() != server, "the death to be noticed")
    emacs.ready()
    assert emacs.server() != server
    emacs.keys("BSpace")
    emacs.type(" ")
    emacs.until_drawn("    return a + b")


def test_restarting_while_it_starts_leaves_one_server(emacs: Emacs, file: File, script: Script) -> None:
    """What a server that was stopped before it had answered still says, or that it ended, is nothing to the next."""
    file("x = 1\n", "other.py")
    for pause in (0.0, 0.2, 0.4, 0.6):
        emacs.lisp("(progn (codeclippy-restart) nil)")
        time.sleep(pause)
    emacs.ready()
    ghost(emacs, file, script)


def test_a_server_that_keeps_crashing_is_not_restarted(emacs: Emacs, file: File, script: Script) -> None:
    file("x = 1\n")
    emacs.lisp("(progn (setq codeclippy--exit-times (make-list 3 (float-time))) nil)")
    os.kill(emacs.server(), signal.SIGKILL)
    emacs.until_drawn("Clippy:failed")
    emacs.until(lambda: "the server keeps crashing" in emacs.notes(), "the reason")
    emacs.command("codeclippy-restart")
    emacs.ready()


def test_suggestions_start_once_the_model_is_loaded(emacs: Emacs, file: File, script: Script) -> None:
    script.says(complete=SAYS, load_delay=5)
    emacs.lisp("(progn (codeclippy-restart) nil)")
    emacs.open(Path(emacs.folder) / "loading.py", "def add(a, b):\n   ")
    emacs.until_drawn("Clippy:loading")
    before = emacs.lisp("(codeclippy-state)")
    emacs.type(" ")
    emacs.until_drawn("    return a + b")
    assert before[0] == "loading"


def test_a_model_that_failed_to_load_is_reported_and_can_be_reloaded(emacs: Emacs, file: File, script: Script) -> None:
    script.says(load_error="the model is made of cheese")
    emacs.lisp("(progn (codeclippy-restart) nil)")
    emacs.open(Path(emacs.folder) / "failing.py", "def add(a, b):\n   ")
    emacs.until_drawn("Clippy:failed")
    assert "made of cheese" in emacs.lisp("(cadr (codeclippy-state))")
    assert emacs.lisp("(minibuffer-depth)") == 0 and emacs.lisp("(length (window-list))") == 1, "nothing pops up"
    script.says(complete=SAYS)
    emacs.command("codeclippy-reload-model")
    emacs.ready()
    emacs.type(" ")
    emacs.until_drawn("    return a + b")


def test_metrics_are_shown(emacs: Emacs, file: File, script: Script) -> None:
    emacs.command("codeclippy-show-metrics")
    emacs.until(lambda: re.search(r"nothing was suggested|\d+ shown, \d+ accepted", emacs.notes()), "the metrics")


def test_a_missing_server_is_reported_with_instructions(emacs: Emacs, file: File, script: Script) -> None:
    command = emacs.lisp('(prog1 (vconcat codeclippy-command) (setq codeclippy-command \'("no-such-program")))')
    emacs.command("codeclippy-restart")
    emacs.until(lambda: "pip install codeclippy-ls" in emacs.notes(), "the instructions")
    assert emacs.state() == "failed"
    emacs.lisp(f"(progn (setq codeclippy-command '({' '.join(quoted(part) for part in command)})) nil)")
    emacs.command("codeclippy-restart")
    emacs.ready()


def test_killed_buffers_are_closed_in_the_server(emacs: Emacs, file: File, script: Script) -> None:
    path = file("x = 1\n")
    assert emacs.lisp("(hash-table-count codeclippy--buffers)") == 1
    emacs.lisp(
        f"(progn (rename-file {quoted(path)} {quoted(path.with_name('new.py'))})"
        f" (set-visited-file-name {quoted(path.with_name('new.py'))}) (set-buffer-modified-p nil) nil)"
    )
    emacs.until(lambda: emacs.lisp("codeclippy--uri").endswith("new.py"), "the new name")
    assert emacs.lisp("(hash-table-count codeclippy--buffers)") == 1
    emacs.lisp("(progn (kill-buffer) nil)")
    assert emacs.lisp("(hash-table-count codeclippy--buffers)") == 0


@contextmanager
def serving(emacs: Emacs, command: list[str], settings: str) -> Iterator[None]:
    """With another server, and other settings."""
    before = emacs.lisp("(vconcat codeclippy-command)")

    def use(command: list[str], settings: str) -> None:
        emacs.lisp(
            f"(progn (setq codeclippy-command '({' '.join(quoted(part) for part in command)})"
            f" codeclippy-settings '{settings} codeclippy-idle-delay 0.15) (codeclippy-restart) nil)"
        )

    use(command, settings)
    try:
        yield
    finally:
        use(before, "nil")


def test_the_real_server_suggests_and_edits(emacs: Emacs, tmp_path: Path) -> None:
    with serving(emacs, REAL_SERVER, "(:completion (:timeBudgetMs 20000))"):
        emacs.open(tmp_path / "real.py", HOLE[:-1])
        emacs.ready()
        emacs.type(" ")
        emacs.until(lambda: emacs.lisp("codeclippy--visible"), "ghost text")
        emacs.keys("Tab")
        emacs.until(lambda: emacs.text() != HOLE, "the suggestion to be text")
        assert emacs.text().startswith(HOLE)
        before = emacs.text()
        emacs.lisp(
            "(progn (setq codeclippy-idle-delay nil) (goto-char (point-min))"
            ' (codeclippy-edit "Rename first to left") nil)'
        )
        told = emacs.notes().count("no edit")
        emacs.until(lambda: "y apply" in emacs.screen() or emacs.notes().count("no edit") > told, "an outcome", 120)
        if "y apply" in emacs.screen():
            emacs.keys("y")
            emacs.until(lambda: emacs.lisp("(buffer-name)") == "real.py" and emacs.text() != before, "the edit")
            assert emacs.text().split("\n\n\n")[1] == before.split("\n\n\n")[1], "the other function is untouched"


LONG = "(:completion (:timeBudgetMs 20000) :edit (:maxTokens 800 :temperature 1.0 :candidates 8))"


def said(emacs: Emacs, before: str) -> list[str]:
    """What our messages have been since the notes were as before."""
    return [line for line in emacs.notes().removeprefix(before).splitlines() if line.startswith("Code Clippy")]


def test_a_killed_engine_host_shows_a_message_and_loses_no_text(
    emacs: Emacs, hosts: Hosts, report: Callable[[str, float], None], tmp_path: Path
) -> None:
    """The real one, in the middle of an edit, and while a suggestion is waited for: one message each."""
    with serving(emacs, hosts.command, LONG):
        emacs.open(tmp_path / "many.py", MANY[:-1])
        emacs.ready()
        emacs.lisp(
            "(progn (setq test-written nil) (advice-add 'codeclippy--handle-progress :before (lambda (_ _ value)"
            " (setq test-written (plist-get value :message))) '((name . test))) nil)"
        )
        notes = emacs.notes()
        emacs.lisp('(progn (codeclippy-edit "Add a docstring to each function" (point-min) (point-max)) nil)')
        emacs.until(lambda: "hunk 1, line" in (emacs.lisp("test-written") or ""), "a part of the edit to be written")
        emacs.lisp("(progn (advice-remove 'codeclippy--handle-progress 'test) nil)")
        first, when = hosts.kill()
        emacs.type(" ")
        emacs.until(lambda: emacs.lisp("codeclippy--visible"), "ghost text")
        report("killed during an edit, to the next suggestion", time.monotonic() - when)
        assert hosts.only() != first and emacs.text() == MANY
        assert said(emacs, notes) == [f"Code Clippy: no edit: {TOLD}"]
        hosts.stop()
        emacs.type("total = ")
        time.sleep(1.0)  # for it to be asked for
        assert not emacs.lisp("codeclippy--visible")
        _, when = hosts.kill()
        emacs.until(lambda: emacs.lisp("codeclippy--visible"), "ghost text")
        report("killed during a suggestion, to the next one", time.monotonic() - when)
        assert said(emacs, notes)[1:] == [f"Code Clippy: {TOLD}"] and emacs.text() == f"{MANY}total = "


@pytest.mark.parametrize("version", VERSIONS)
def test_the_file_compiles_and_passes_checkdoc(version: str, tmp_path: Path) -> None:
    copy = tmp_path / CLIENT.name
    copy.write_text(CLIENT.read_text())
    strict = "(setq byte-compile-error-on-warn t)"
    said = batch(
        version, tmp_path / "home", "-f", "package-initialize", "--eval", strict, "-f", "batch-byte-compile", str(copy)
    )
    said += batch(version, tmp_path / "home", "--eval", f"(checkdoc-file {quoted(copy)})")
    assert "Warning" not in said, said


def test_package_lint_reports_nothing(tmp_path: Path) -> None:
    if (
        batch("28", tmp_path / "home", "-f", "package-initialize", "--eval", '(princ (locate-library "package-lint"))')
        == "nil"
    ):
        pytest.skip("package-lint is not installed (elpa-package-lint)")
    # What an archive that has eglot would say; none is asked here.
    known = tmp_path / "home" / ".emacs.d" / "elpa" / "archives" / "gnu" / "archive-contents"
    known.parent.mkdir(parents=True)
    known.write_text('(1 (eglot . [(1 9) ((emacs (26 3))) "The client" tar nil]))')
    # Not its batch command: that of Debian 12 is older than Emacs 28.1 and so calls it unreleased, which fails it.
    check = (
        f"(with-current-buffer (find-file-noselect {quoted(CLIENT)}) (dolist (found (package-lint-buffer))"
        ' (princ (format "%s\\n" found))))'
    )
    said = batch(
        "28",
        tmp_path / "home",
        "-f",
        "package-initialize",
        "-l",
        "package-lint",
        "--eval",
        check.replace("package-lint-buffer", "package-lint-buffer (current-buffer)"),
    )
    # The other: the file has no home of its own on the web yet.
    known_of = ("uninstallable in all released Emacs versions", "Homepage or URL")
    said = "\n".join(line for line in said.splitlines() if not any(words in line for words in known_of))
    assert "error" not in said and "warning" not in said, said


@pytest.mark.parametrize("version", VERSIONS)
def test_the_file_installs_as_a_package(version: str, tmp_path: Path) -> None:
    """By the README's words, in an Emacs with nothing of a user's; another Emacs then has the commands."""
    home = tmp_path / "home"
    batch(version, home, "-f", "package-initialize", "--eval", f"(package-install-file {quoted(CLIENT)})")
    said = batch(
        version,
        home,
        "-f",
        "package-initialize",
        "--eval",
        "(progn (princ (json-encode (list (and (commandp 'codeclippy-edit) t)"
        " (and (commandp 'codeclippy-mode) t)"
        " (and (commandp 'global-codeclippy-mode) t) (featurep 'codeclippy)))) (terpri))",
    ).splitlines()[0]
    assert json.loads(said) == [True, True, True, None]
    said = batch(
        version,
        home,
        "-f",
        "package-initialize",
        "--eval",
        "(progn (require 'codeclippy) (princ (format \"%s %s\" (symbol-file 'codeclippy-edit)"
        " (cdr (assq 'prog-mode eglot-server-programs)))) (terpri))",
    ).splitlines()[0]
    assert said.endswith("codeclippy.elc codeclippy-eglot-contact")
