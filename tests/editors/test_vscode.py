"""Code Clippy in the real VS Code (code-server with Chromium), installed from its ``.vsix`` into a clean profile.

The module has one browser. Most tests share one window, whose server is the scripted one; a test may change its script
at any time. The configured command reads the command of the server from a file, so that tests can change it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.editors.accounts import write_toy_model
from tests.editors.code_server import USER, Driver, Window, drive, make_profile, serve, set_command
from tests.editors.conftest import REAL_SERVER, Script
from tests.editors.hosts import EXIT_MESSAGE, LONG_EDITS, LONG_FILE, Hosts
from tests.editors.neovim import Nvim
from tests.scripted_server import checksum_name

# Records its process id, and executes the command in the file, with a home of its own in which models are looked for.
LAUNCHER = (
    "import json, os, sys; command = json.load(open(sys.argv[1])); "
    "open(sys.argv[1] + '.started', 'a').write(f'{os.getpid()}\\n'); "
    "os.environ['HOME'] = sys.argv[1] + '.home'; "
    "os.execv(command[0], command + sys.argv[2:])"
)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a clean profile with the extension installed."""
    folder = tmp_path_factory.mktemp("vscode")
    make_profile(folder, USER)
    (folder / "command.json.started").touch()
    set_command(folder, [sys.executable, "-c", LAUNCHER, str(folder / "command.json")])
    return folder


@pytest.fixture(scope="module")
def port(profile: Path) -> Iterator[int]:
    """Start code-server; yield its port."""
    with serve(profile) as number:
        yield number


@pytest.fixture(scope="module")
def driver(port: int, shots: Path) -> Iterator[Driver]:
    """Start the browser."""
    with drive(port, shots) as driver:
        yield driver


@pytest.fixture
def window(driver: Driver, profile: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Window]:
    """Make a window with a folder of its own and the real server; the test may not leave a notification."""
    window = Window(driver, tmp_path / "project", profile / "command.json", request.node.name)
    window.set_server(REAL_SERVER)
    window.write_settings()
    yield window
    window.run("assertNoNotification")


@pytest.fixture
def real(window: Window, profile: Path) -> Window:
    """Return the window that tests of the real server share."""
    window.folder = profile / "real"
    return window


@pytest.fixture
def script(profile: Path) -> Script:
    """Make the script of all scripted servers, without suggestions."""
    script = Script(profile / "script.json")
    script.set()
    return script


@pytest.fixture
def own(window: Window, script: Script) -> Window:
    """Make a window with a folder of its own and the scripted server."""
    window.set_server(script.command)
    return window


@pytest.fixture
def shared(own: Window, profile: Path) -> Window:
    """Return the window that most tests share; it applies edits without a preview."""
    own.folder = profile / "shared"
    own.write_settings(edit_confirm=False)
    return own


BASKET = "class Basket:\n    def __init__(self, owner, items=None):\n        self.owner = owner\n        self.items ="
MEAN = "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return"
WHOLE = f"{MEAN} total / len(values)\n"
FLOAT = WHOLE.replace("total = 0\n", "total = 0.0\n")
TO_FLOAT = "@@ -1,3 +1,3 @@\n def mean(values):\n-    total = 0\n+    total = 0.0\n     for value in values:\n"


def test_typing_shows_ghost_text(real: Window) -> None:
    """The real server with the shipped model suggests text while the user types."""
    real.name = "basket"
    real.open(BASKET)
    assert real.run("typeForGhostText", line=4, type=" ", shot="ghost").strip()


def test_the_completion_menu_has_the_suggestion(real: Window) -> None:
    """Ctrl+Space opens the list, which contains the suggestion; Enter accepts it."""
    real.name = "menu"
    path = real.open(BASKET)
    real.run("openCompletionList", line=4, type=" ", expected="Code Clippy", shot="menu")
    real.run("pressKeys", keys=["Enter"])
    real.run("save")
    assert len(path.read_text()) > len(f"{BASKET} ")


def test_metrics_are_shown(real: Window) -> None:
    """The command shows the server's message with the numbers of suggestions, and does not run the doctor."""
    real.open(BASKET)
    real.run("runCommand", title="Code Clippy: Show Metrics")
    (notification,) = real.run("takeNotifications")
    assert re.search(r"nothing was suggested|\d+ shown, \d+ accepted", notification)
    real.run("waitForTabs", name="doctor", count=0)  # fails if there is one


def test_the_doctor_reports_on_the_installation(real: Window) -> None:
    """The command runs `codeclippy-ls doctor` and shows its report in a document."""
    real.open(BASKET)
    real.run("runCommand", title="Code Clippy: Run Doctor")
    real.run("waitForTextOnPage", text="everything works")


def test_the_model_is_reloaded_by_command(own: Window, script: Script) -> None:
    """A model that failed to load is ready once the cause is gone."""
    script.set(load_error="no such model")
    own.open_until(MEAN, "Code Clippy: failed", is_silent=False)
    (notification,) = own.run("takeNotifications")
    assert "no such model" in notification
    script.set(complete="total / len(values)")
    own.run("runCommand", title="Code Clippy: Reload Model")
    own.run("waitUntilReady")
    own.run("typeForGhostText", line=5, type=" ", expected="total / len(values)")


def test_a_killed_engine_host_shows_a_message_and_loses_no_text(
    window: Window, hosts: Hosts, report: Callable[[str, float], None], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The host of the real server, shared with Neovim, is killed during an edit: one notification here, none in Neovim.
    One that is suspended and killed during a suggestion costs nothing: the suggestion comes without another key."""
    window.set_server(hosts.command)
    window.write_settings(**{f"edit_{key}": value for key, value in LONG_EDITS["edit"].items()})
    window.name = "many"
    path = window.open(LONG_FILE)
    nvim = Nvim("0.12", tmp_path, hosts.command)
    request.addfinalizer(nvim.close)
    nvim.open(tmp_path / "many.py", f"{LONG_FILE}\n")
    nvim.wait_until_ready()
    assert hosts.list_torch_processes() == [hosts.get_only()]
    window.run("editWithMessage", line=1, message="Add a docstring to each function", all=True)
    window.run("waitForStatus", expected="writing: ")
    killed, when = hosts.kill()
    (notification,) = window.run("takeNotifications")
    assert f"no edit: {EXIT_MESSAGE}" in notification
    window.run("waitUntilReady")
    assert window.run("typeForGhostText", line=LONG_FILE.count("\n") + 1, type="x = ").strip()
    report("from the kill during an edit to the next suggestion", time.monotonic() - when)
    nvim.press("GA")
    nvim.wait_until(nvim.has_ghost_text, "ghost text")
    assert hosts.list_torch_processes() == [hosts.get_only()] != [killed] and not nvim.get_messages()
    window.run("pressKeys", keys=["Escape"])
    window.run("waitForFile", text=f"{LONG_FILE}x = ")
    assert path.read_text() == f"{LONG_FILE}x = "
    window.run("pressKeys", keys=["Backspace"] * len("x = "))
    hosts.suspend()
    window.run("typeText", line=LONG_FILE.count("\n") + 1, type="total = ")
    time.sleep(3.0)  # for the request to be sent
    killed, when = hosts.kill()
    assert window.run("waitForGhostText").strip()
    report("from the kill during a suggestion to the next one", time.monotonic() - when)
    assert killed not in hosts.list_running()
    window.run("waitForFile", text=f"{LONG_FILE}total = ")


def test_tab_accepts_the_ghost_text(shared: Window, script: Script) -> None:
    """The whole text is inserted."""
    script.set(complete="total / len(values)")
    shared.open(MEAN)
    shared.run("typeForGhostText", line=5, type=" ", expected="total / len(values)")
    shared.run("pressKeys", keys=["Tab"])
    shared.run("waitForFile", text=f"{MEAN} total / len(values)")


def test_a_key_accepts_the_next_word(shared: Window, script: Script) -> None:
    """VS Code's own key accepts a word, and the rest stays."""
    script.set(complete="total / len(values)")
    shared.open(MEAN)
    shared.run("typeForGhostText", line=5, type=" ", expected="total / len(values)")
    shared.run("pressKeys", keys=["Control+ArrowRight"])
    shared.run("typeThrough", expected="/ len(values)")
    shared.run("waitForFile", text=f"{MEAN} total")


def test_the_palette_accepts_the_next_line(shared: Window, script: Script) -> None:
    """The command requests the suggestion again, as the palette has hidden it, and accepts its first line."""
    script.set(complete="if not values:\n        return 0\n    return total")
    shared.open("def mean(values):\n   ")
    shared.run("typeForGhostText", line=2, type=" ", expected="if not values:")
    shared.run("runCommand", title="Code Clippy: Accept Next Line")
    shared.run("waitForFile", text="def mean(values):\n    if not values:\n")


def test_closing_brackets_of_the_editor_are_replaced(shared: Window, script: Script) -> None:
    """VS Code closes a bracket while it is typed; a suggestion that contains it does not double it."""
    script.set(complete="path):")
    shared.open("if exists")
    shared.run("typeForGhostText", line=1, type="(", expected="path")
    shared.run("pressKeys", keys=["Tab"])
    shared.run("waitForFile", text="if exists(path):")


def test_typing_through_a_suggestion_keeps_it(shared: Window, script: Script) -> None:
    """Typing shortens the ghost text, without another request, which would have another answer now."""
    script.set(complete="total / len(values)")
    shared.open(MEAN)
    shared.run("typeForGhostText", line=5, type=" ", expected="total / len(values)")
    script.set(complete="Z")
    shared.run("typeThrough", type="total /", expected="len(values)")
    shared.run("pressKeys", keys=["Tab"])
    shared.run("waitForFile", text=f"{MEAN} total / len(values)")


def test_an_edit_is_applied_without_preview_if_confirm_is_off(shared: Window, script: Script) -> None:
    """With `codeclippy.edit.confirm` off, the key, a message and Enter are enough."""
    script.set(edit=TO_FLOAT)
    shared.open(WHOLE)
    shared.run("editWithMessage", line=2, message="use floats")
    shared.run("waitForFile", text=FLOAT)


def test_a_diff_is_shown_and_the_next_candidate_is_chosen(shared: Window, script: Script) -> None:
    """With `codeclippy.edit.showDiff`: in a document of the server, with a question and buttons; the tab closes with
    the answer."""
    script.set(edit=[TO_FLOAT, TO_FLOAT.replace("0.0", "float()")])
    shared.write_settings(edit_confirm=False, edit_showDiff=True)
    try:
        shared.open(WHOLE)
        shared.run("editWithMessage", line=2, message="use floats")
        shared.run("answerDiff", tab=".diff", line="total = 0.0", button="Next")
        shared.run("answerDiff", tab=".diff", line="total = float()", button="Apply", shot="choose")
        shared.run("waitForTabs", name=".diff", count=0)
        shared.run("saveAllUntil", text=WHOLE.replace("total = 0\n", "total = float()\n"))
        shared.open(WHOLE)
        shared.run("editWithMessage", line=2, message="use floats")
        shared.run("answerDiff", tab=".diff", line="total = 0.0", button="Discard")
        assert shared.run("waitForTabs", name=".diff", count=0) == []
        shared.run("waitForFile", text=WHOLE)
    finally:
        shared.write_settings(edit_confirm=False)


def test_one_undo_reverts_an_edit(shared: Window, script: Script) -> None:
    """Also if the edit has several hunks."""
    script.set(
        edit="@@ -1,5 +1,6 @@\n-def mean(values):\n+def mean(values) -> float:\n+    # the average\n"
        "     total = 0\n     for value in values:\n-        total += value\n"
        "+        total += float(value)\n"
    )
    shared.open(WHOLE)
    shared.run("editWithMessage", line=2, message="add types")
    shared.run(
        "waitForFile",
        text=WHOLE.replace("(values):", "(values) -> float:\n    # the average", 1).replace(
            "+= value", "+= float(value)"
        ),
    )
    shared.run("undo")
    shared.run("waitForFile", text=WHOLE)


def test_the_message_box_offers_presets_and_history(shared: Window, script: Script) -> None:
    """Earlier messages come first, then the presets of the settings."""
    script.set(edit=TO_FLOAT)
    shared.open(WHOLE)
    shared.run("editWithMessage", line=2, message="count in floats")
    shared.run("waitForFile", text=FLOAT)
    rows = shared.run("listMessages")
    assert "count in floats" in rows[0] and any("Add a docstring" in row for row in rows)


def test_an_edit_in_progress_is_cancelled(shared: Window, script: Script) -> None:
    """The status shows the edit; after the command the file is unchanged."""
    script.set(edit=TO_FLOAT, delay=600)
    path = shared.open(WHOLE)
    shared.run("editWithMessage", line=2, message="use floats slowly")
    shared.run("cancelEdit", title="use floats slowly")
    shared.run("waitForFile", text=WHOLE)
    assert path.read_text() == WHOLE


def test_crlf_and_emoji_are_kept_byte_for_byte(shared: Window, script: Script) -> None:
    """An edit after characters of two UTF-16 code units, in a file with CRLF, changes the right text."""
    script.set(
        edit="@@ -1,3 +1,3 @@\n def greet(name):\n-    wave = '👋🏽 ' + nam  # 🐛\n"
        "+    wave = '👋🏽 ' + name  # 🦋\n     return wave\n"
    )
    before = "# 🎉 greetings\r\ndef greet(name):\r\n    wave = '👋🏽 ' + nam  # 🐛\r\n    return wave\r\n"
    path = shared.open(before)
    shared.run("editWithMessage", line=3, message="fix the name")
    shared.run("waitForFile", text=before.replace("nam  # 🐛", "name  # 🦋"))
    assert path.read_bytes() == before.replace("nam  # 🐛", "name  # 🦋").encode()


def test_ghost_text_of_a_crlf_file_has_its_line_ends(shared: Window, script: Script) -> None:
    """Drawn as lines, and inserted as the file's own."""
    script.set(complete="total = a\n    total += b\n    return total")
    path = shared.open("def ends(a, b):\r\n   ")
    shared.run("typeForGhostText", line=2, type=" ", expected="total = a")
    shared.run("pressKeys", keys=["Tab"])
    expected = "def ends(a, b):\r\n    total = a\r\n    total += b\r\n    return total"
    shared.run("waitForFile", text=expected)
    assert path.read_bytes() == expected.encode()


def test_the_server_starts_in_the_users_home(shared: Window, script: Script) -> None:
    """Not in the folder that is open, which may be somebody else's."""
    shared.open(MEAN)
    shared.run("waitUntilReady")
    assert script.find_folders() == {Path.home()}


def test_settings_can_change_at_run_time(shared: Window, script: Script) -> None:
    """Ghost text disappears with `completion.enabled` off, and comes back with it on."""
    script.set(complete="total / len(values)")
    shared.open(MEAN)
    shared.run("typeForGhostText", line=5, type=" ", expected="total / len(values)")
    shared.run("pressKeys", keys=["Escape", "Backspace"])
    shared.write_settings(edit_confirm=False, completion_enabled=False)
    shared.run("typeWithoutGhostText", line=5, type=" ")
    shared.write_settings(edit_confirm=False)
    shared.run("retypeForGhostText", line=5, type=" ", expected="total / len(values)")


def test_a_folder_can_only_tighten_the_settings(shared: Window, script: Script) -> None:
    """It switches suggestions off, and not on again if the user has switched them off."""
    script.set(complete="total / len(values)")
    shared.open(MEAN)
    try:
        shared.write_folder_settings(completion_enabled=False)
        shared.run("typeWithoutGhostText", line=5, type=" ")
        shared.write_folder_settings(completion_enabled=True)
        shared.run("retypeForGhostText", line=5, type=" ", expected="total / len(values)")
        shared.run("pressKeys", keys=["Escape", "Backspace"])
        shared.write_settings(edit_confirm=False, completion_enabled=False)
        shared.run("typeWithoutGhostText", line=5, type=" ")
    finally:
        shared.write_folder_settings()
        shared.write_settings(edit_confirm=False)


def test_cells_of_a_notebook_see_the_code_above(own: Window, script: Script) -> None:
    """Ghost text and an edit in a cell; its prompt ends with the code cells above, and has no prose."""
    shown = "import math\n\nr = 2\n\narea = "
    script.set(seen=len(shown))
    code: dict[str, Any] = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    prose: dict[str, Any] = {"cell_type": "markdown", "metadata": {}}
    cells = [
        {**kind, "source": [text]}
        for kind, text in ((code, "import math"), (prose, "# Area"), (code, "r = 2"), (code, "area ="))
    ]
    notebook = {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    own.write_settings(edit_confirm=False)
    own.open("pass\n")
    path = own.folder / "my nb.ipynb"
    path.write_text(json.dumps(notebook))
    own.run("openNotebook", file=str(path))
    expected = checksum_name(shown, len(shown))
    own.run("typeInCell", cell=3, type=" ", expected=expected)
    own.run("pressKeys", keys=["Tab"])
    own.run("saveNotebookUntil", text=f'"area = {expected}"')
    script.set(edit=f"@@ -1,1 +1,1 @@\n-area = {expected}\n+area = math.pi * r**2\n")
    own.run("editCell", message="compute the area")
    own.run("saveNotebookUntil", text='"area = math.pi * r**2"')


def test_every_language_gets_suggestions(shared: Window, script: Script) -> None:
    """And the status item, without a setting."""
    script.set(complete="sum(values)")
    shared.open(MEAN)
    path = shared.folder / "sum.go"
    path.write_text("package main\n\nvar values = []int{1, 2}\n\nvar total =\n")
    shared.run("openInSameWindow", file=str(path))
    shared.run("waitForStatus", expected="Code Clippy: ready")
    shared.run("typeForGhostText", line=5, type=" ", expected="sum(values)")


def test_a_language_is_paused_and_resumed(shared: Window, script: Script) -> None:
    """The status shows it, and no ghost text appears until the command is executed again."""
    script.set(complete="total / len(values)")
    shared.open(MEAN)
    shared.run("runCommand", title="Code Clippy: Pause for This Language")
    shared.run("waitForStatus", expected="Code Clippy: paused")
    shared.run("typeWithoutGhostText", line=5, type=" ")
    shared.run("runCommand", title="Code Clippy: Pause for This Language")
    shared.run("waitForStatus", expected="Code Clippy: ready")
    shared.run("typeForGhostText", line=5, type=" ", expected="total / len(values)")


def test_two_editor_groups_show_ghost_text(shared: Window, script: Script) -> None:
    """The same file in two groups: both get ghost text, and share the text."""
    script.set(complete="total / len(values)")
    shared.open(MEAN)
    shared.run("splitEditor")
    shared.run("typeForGhostText", line=5, type=" ", expected="total / len(values)")
    shared.run("pressKeys", keys=["Tab"])
    shared.run("pressKeys", keys=["Control+1"])
    script.set(complete="total is a sum")
    shared.run("typeForGhostText", line=5, type="  # ", expected="total is a sum")
    shared.run("pressKeys", keys=["Tab"])
    shared.run("waitForFile", text=f"{MEAN} total / len(values)  # total is a sum")
    shared.run("joinGroups")


def test_a_killed_server_is_restarted(shared: Window, script: Script) -> None:
    """The client starts it again with the current text, and shows no notification."""
    script.set(complete="total / len(values)")
    shared.open(MEAN)
    before = shared.list_servers()
    os.kill(before[-1], signal.SIGKILL)
    shared.wait_for_another_server(len(before))
    shared.run("waitUntilReady")
    assert len(shared.list_servers()) == len(before) + 1
    shared.run("typeForGhostText", line=5, type=" ", expected="total / len(values)")


def test_a_model_is_chosen_from_the_list_without_a_restart(shared: Window, script: Script, profile: Path) -> None:
    """It is that of all editors: the user's own file names it. A button takes it for edits only."""
    model = write_toy_model(profile / "command.json.home" / ".lmstudio" / "models" / "owner" / "coder" / "coder.gguf")
    config = profile / "CONFIG" / "codeclippy-ls" / "config.toml"
    script.set(complete="total / len(values)")
    shared.open(MEAN)
    before = len(shared.list_servers())
    shared.run("runCommand", title="Code Clippy: Choose Model")
    rows = shared.run("listRows", row="coder.gguf", shot="models")
    assert "LM Studio" in rows[0] and "ms a token; 360M Q4_K_M; 0 MB; apache-2.0" in rows[0]
    assert any("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF" in row and "Apache-2.0" in row for row in rows)
    shared.run("pickRow", row="coder.gguf")
    (notification,) = shared.run("takeNotifications")
    assert "complete by" in notification
    assert config.read_text() == f'[model]\ncompletion = "{model}"\n'
    shared.run("runCommand", title="Code Clippy: Choose Model")
    shared.run("pressRowButton", row="coder.gguf")
    shared.run("takeNotifications")
    assert f'edit = "{model}"' in config.read_text()
    shared.run("typeForGhostText", line=5, type=" ", expected="total / len(values)")
    assert len(shared.list_servers()) == before
    config.unlink()
    model.unlink()


def test_a_model_of_the_settings_is_changed_there(shared: Window, profile: Path) -> None:
    """The change restarts the server."""
    shared.write_settings(edit_confirm=False, model_completion="/mine")
    shared.open(WHOLE)
    shared.run("waitUntilReady")
    path = profile / "user" / "Machine" / "settings.json"
    before = len(shared.list_servers())
    shared.run("runCommand", title="Code Clippy: Choose Model")
    shared.run("pickRow", row="The shipped model")
    shared.wait_for_another_server(before)
    assert "codeclippy.model.completion" not in json.loads(path.read_text())
    shared.run("waitUntilReady")


def test_an_edit_without_a_file_shows_no_notification(shared: Window, script: Script) -> None:
    """The status bar shows a message."""
    shared.open(WHOLE)
    shared.run("closeAll")
    shared.run("runCommand", title="Code Clippy: Edit with Message")
    shared.run("waitForStatusBar", expected="open a file first")


def test_two_windows_have_a_server_each(shared: Window, script: Script, tmp_path: Path) -> None:
    """Both show suggestions."""
    script.set(complete="total / len(values)")
    shared.open(MEAN)
    started = len(shared.list_servers())
    other = tmp_path / "other.py"
    other.write_text(MEAN)
    shared.run(
        "useSecondWindow", folder=str(tmp_path), file=str(other), line=5, type=" ", expected="total / len(values)"
    )
    assert len(shared.list_servers()) == started + 1


def test_an_edit_is_previewed_and_applied(own: Window, script: Script) -> None:
    """VS Code's preview has the edit ticked. Discard changes nothing and says nothing; Apply applies it."""
    script.set(edit=TO_FLOAT)
    own.name = "mean"
    path = own.open(WHOLE)
    own.run("editWithMessage", line=2, message="use floats", palette=True)
    own.run("waitForPreview", row="total = 0.0")
    own.run("answerPreview", button="Discard")
    own.run("waitForStatus", expected="Code Clippy: ready")
    own.run("editWithMessage", line=2, message="use floats")
    own.run("waitForPreview", row="total = 0.0", shot="preview")
    own.run("assertNoNotification")
    assert path.read_text() == WHOLE
    own.run("answerPreview", button="Apply")
    own.run("waitForFile", text=FLOAT)


def test_the_status_shows_that_the_model_is_loading(own: Window, script: Script) -> None:
    """There is no notification, and the suggestion appears without another key once the model is ready."""
    script.set(complete="total / len(values)", load_delay=20)
    own.open_until(MEAN, "Code Clippy: loading the model")
    own.run("typeText", line=5, type=" ")
    own.run("waitForStatus", expected="Code Clippy: loading the model")
    own.run("waitForGhostText", expected="total / len(values)")
    own.run("pressKeys", keys=["Tab"])
    own.run("waitForFile", text=f"{MEAN} total / len(values)")


def test_the_status_shows_that_the_model_failed_to_load(own: Window, script: Script) -> None:
    """A notification and the status item have the reason, and one click tries again; settings have their names here."""
    script.set(load_error='the model is made of cheese; choose another in "model.completion"')
    own.open_until(MEAN, "Code Clippy: failed", is_silent=False)
    (notification,) = own.run("takeNotifications")
    assert 'made of cheese; choose another in "codeclippy.model.completion"' in notification
    assert "What to Do" in notification and "made of cheese" in own.run("openStatusDetails", shot="failed")
    script.set(complete="total / len(values)")
    own.run("followLink", link="What to Do")
    own.run("pickRow", row="Try Again")
    own.run("waitUntilReady")
    own.run("typeForGhostText", line=5, type=" ", expected="total / len(values)")


def test_the_status_shows_that_the_server_cannot_start(own: Window) -> None:
    """The client tries five times; then the status and one notification show the failure."""
    own.set_server([sys.executable, "-c", "raise SystemExit('no engine')"])
    before = len(own.list_servers())
    own.open_until(MEAN, "Code Clippy: failed", is_silent=False)
    assert "5 times" in own.run("openStatusDetails")
    (notification,) = own.run("takeNotifications")
    assert "5 times" in notification
    assert len(own.list_servers()) == before + 5


def test_a_hanging_server_is_restarted_by_command(own: Window, script: Script) -> None:
    """A server that never answers does not prevent the start of another one."""
    own.set_server([sys.executable, "-c", "import time; time.sleep(600)"])
    own.open_until(MEAN, "Code Clippy: starting")
    own.set_server(script.command)
    script.set(complete="total / len(values)")
    own.run("runCommand", title="Code Clippy: Restart Server")
    own.run("waitUntilReady")
    own.run("typeForGhostText", line=5, type=" ", expected="total / len(values)")


def test_the_server_of_the_projects_environment_is_found(own: Window, script: Script, profile: Path) -> None:
    """Without a setting or a program on the PATH, a trusted workspace's `.venv` is searched."""
    program = own.folder / ".venv" / "bin" / "codeclippy-ls"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\nexec {shlex.join(script.command)}\n")
    program.chmod(0o755)
    script.set(complete="total / len(values)")
    set_command(profile, [])
    try:
        own.open(MEAN)
        own.run("typeForGhostText", line=5, type=" ", expected="total / len(values)")
    finally:
        set_command(profile, [sys.executable, "-c", LAUNCHER, str(own.command_file)])
