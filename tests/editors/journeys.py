"""The journey of a new user in each editor: from an empty profile to the third accepted suggestion and the first kept
edit, with a screenshot, the keys and the seconds of each step.

In the tests a scripted engine answers. ``python -m tests.editors.journeys MODEL`` (after ``make editors``) plays with a
model, the shipped one without an argument; it writes docs/first-minutes.md.
Figures are those of the machine it runs on. The installation of the server is a copy in all of them.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.editors.code_server import USER, Window, drive, make_profile, serve
from tests.editors.conftest import CLIENTS, REAL_SERVER, REPOSITORY, SHOTS, require_installed
from tests.editors.emacs import CLIENT as EMACS_CLIENT
from tests.editors.emacs import find_binary, quote, run_batch
from tests.editors.neovim import BINARIES
from tests.editors.terminal import Terminal

HEADS = ("def mean(values):", "def longest(words):", "def count_words(text):")
BODIES = (
    "total = sum(values)\n    return total / len(values)",
    "return max(words, key=len)",
    "return len(text.split())",
)
MESSAGE = "Add a docstring"
DOCSTRING = '    """Return the mean of the values."""\n'
DIFF = f"@@ -1,2 +1,3 @@\n def mean(values):\n+{DOCSTRING}     total = sum(values)\n"
_SIZE = (90, 24)
_PATIENCE = 60.0  # seconds for a suggestion of a model; it may have none

# Stands in for uv: it logs its arguments, and installs the program beside it.
_UV = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/uv.log"
case "$1" in
venv) for folder; do :; done; mkdir -p "$folder/bin" ;;
pip) case "$*" in *.whl) cp "$(dirname "$0")/server" "$(dirname "$4")/codeclippy-ls" ;; esac ;;
esac
"""


@dataclass(frozen=True)
class Step:
    """A step of the user, the keys or clicks that it takes, and the seconds until its result is on the screen."""

    name: str
    keys: str
    seconds: float


@dataclass
class Journey:
    """The steps in one editor.

    Attributes:
        server: the command that starts the server.
        prepare: called before a place with the text that a scripted engine should say there.
        is_scripted: whether the engine says just that; a model may have no suggestion.
    """

    editor: str
    folder: Path
    shots: Path
    server: Sequence[str]
    prepare: Callable[[str], None]
    is_scripted: bool
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, keys: str) -> Iterator[None]:
        """Time a step; a model may have nothing to say."""
        started = time.monotonic()
        try:
            yield
        except (AssertionError, pytest.fail.Exception):
            if self.is_scripted:
                raise
            name = f"{name}: no, within the time"
        self.steps.append(Step(name, keys, round(time.monotonic() - started, 1)))

    def write_program(self, path: Path) -> None:
        """Write the server's program, as an installation would."""
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] || exec {shlex.join(self.server)} "$@"\n')
        path.chmod(0o755)

    @property
    def result(self) -> str:
        """The text of the file after the journey, if the engine is scripted."""
        whole = "".join(f"{head}\n    {body}\n\n\n" for head, body in zip(HEADS, BODIES, strict=True))
        return whole.replace(f"{HEADS[0]}\n", f"{HEADS[0]}\n{DOCSTRING}")


def play_vscode(journey: Journey) -> str:
    """Play the journey in VS Code without a server; return the arguments that the installer was called with."""
    profile, bin_folder = journey.folder / "profile", journey.folder / "profile" / "bin"
    make_profile(profile, {key: USER[key] for key in USER if not key.startswith("codeclippy.")})
    bin_folder.mkdir()
    journey.write_program(bin_folder / "server")
    (bin_folder / "uv").write_text(_UV)
    (bin_folder / "uv").chmod(0o755)
    with serve(profile) as port, drive(port, journey.shots) as driver:
        window = Window(driver, journey.folder / "project", journey.folder / "unused.json", "first")
        path = window.write_file("")
        with journey.step("the first window says what to do", "none"):
            window.run("openFirst", folder=str(window.folder), file=str(path), shot="journey-1-start")
        window.run("refuseMessage", shot="journey-2-no-server")  # of an edit that nobody would make
        with journey.step("the server is installed and the model loaded", "1 click"):
            window.run("pressNotificationButton", text="looked for on the PATH", button="Install")
            window.run("waitUntilReady")
        window.run("takeNotifications")
        for number, (head, body) in enumerate(zip(HEADS, BODIES, strict=True), 1):
            journey.prepare(body)
            window.run("typeAtEnd", text=f"{head}\n    " if number == 1 else f"\n\n\n{head}\n    ")
            with journey.step(f"suggestion {number} is shown", "Tab accepts it"):
                expected = body.splitlines()[-1].strip() if journey.is_scripted else ""
                shot = f"journey-{2 + number}-suggestion"
                window.run("waitForGhostText", expected=expected, shot=shot, timeout=_PATIENCE * 1000)
            window.run("pressKeys", keys=["Tab"])
        window.run("typeAtEnd", text="\n\n\n")
        with journey.step("the edit is shown", "Ctrl+Alt+E, message, Enter"):
            window.run("editWithMessage", line=1, message=MESSAGE)
            row = '"""' if journey.is_scripted else ""
            window.run("waitForPreview", row=row, shot="journey-6-edit", timeout=2 * _PATIENCE * 1000)
        with journey.step("the edit is kept", "1 click"):
            window.run("answerPreview", button="Apply")
            if journey.is_scripted:
                window.run("waitForFile", text=journey.result)
        window.run("takeScreenshot", shot="journey-7-kept")
        window.run("assertNoNotification")
    return (bin_folder / "uv.log").read_text()


@dataclass(frozen=True)
class _Keys:
    """The keys of an editor in a terminal, in the notation of tmux."""

    insert: tuple[str, ...]
    new_line: tuple[str, ...]
    leave: tuple[str, ...]
    edit: str
    save: tuple[str, ...]


_NEOVIM = _Keys(("i",), ("Enter", "0", "C-d"), ("Escape", "g", "g"), ":CodeClippyEdit", (":", "w", "Enter"))
_EMACS = _Keys((), ("C-j",), ("M-<",), "M-x codeclippy-edit", ("C-x", "C-s"))


def play_neovim(journey: Journey, version: str) -> None:
    """Play the journey in Neovim with the two lines of the README; the server is missing at first."""
    bin_folder = journey.folder / "bin"
    bin_folder.mkdir()
    init = journey.folder / "init.lua"
    init.write_text(
        f"vim.opt.runtimepath:append('{CLIENTS / 'neovim'}')\nvim.lsp.enable('codeclippy')\nvim.o.swapfile = false\n"
    )
    file = journey.folder / "first.py"
    binary = require_installed(BINARIES[version], f"Neovim {version}")
    own = {f"XDG_{kind}_HOME": str(journey.folder / kind) for kind in ("CONFIG", "DATA", "STATE", "CACHE")}
    environment = {**own, "COLORTERM": "truecolor"}
    command = f"env PATH={bin_folder}:/usr/bin:/bin {binary} -u {init} {file}"
    terminal = Terminal(command, journey.folder, environment, _SIZE)
    with contextlib.closing(terminal):
        with journey.step("the first start says what to do", "none"):
            terminal.wait_for_screen(":help codeclippy-install")
            picture(journey, terminal, "1-no-server")
        with journey.step("the help says how to install", ":help codeclippy-install"):
            terminal.type(":help codeclippy-install")
            terminal.press("Enter")
            terminal.wait_for_screen("pip install -c constraints.txt .")
            picture(journey, terminal, "2-help")
        terminal.type(":q")
        terminal.press("Enter")
        journey.write_program(bin_folder / "codeclippy-ls")
        with journey.step("what it can do", ":CodeClippy"):
            terminal.wait_until(lambda: ask_about(terminal), "the status to be ready")
            picture(journey, terminal, "3-about")
            terminal.press("q")
        _type_and_edit(journey, terminal, _NEOVIM)
    if journey.is_scripted:
        assert file.read_text().rstrip("\n") == journey.result.rstrip("\n")


def ask_about(terminal: Terminal) -> bool:
    """Open the window of `:CodeClippy`; return whether it says that the server is ready, else close it."""
    terminal.type(":CodeClippy")
    terminal.press("Enter")
    terminal.wait_for_screen("q closes")
    is_ready = "Status: ready" in terminal.get_screen()
    if not is_ready:
        terminal.press("q")
        time.sleep(0.2)
    return is_ready


def play_emacs(journey: Journey, version: str) -> None:
    """Play the journey in Emacs: the package is installed from its file, and one line turns it on."""
    home = journey.folder / "home"
    with journey.step("the package is installed", "M-x package-install-file"):
        run_batch(version, home, "-f", "package-initialize", "--eval", f"(package-install-file {quote(EMACS_CLIENT)})")
    journey.write_program(home / "codeclippy-ls")
    init = home / "start.el"
    init.write_text(
        "(package-initialize)\n(setq inhibit-startup-screen t native-comp-async-report-warnings-errors nil"
        " native-comp-jit-compilation nil native-comp-deferred-compilation nil make-backup-files nil"
        " create-lockfiles nil mode-require-final-newline nil)\n(menu-bar-mode -1)\n(global-codeclippy-mode)\n"
    )
    file = journey.folder / "first.py"
    environment = {"HOME": str(home), "LANG": "C.UTF-8", "COLORTERM": "truecolor"}
    command = f"env PATH={home}:/usr/bin:/bin {find_binary(version)} -nw -q -l {init} {file}"
    terminal = Terminal(command, journey.folder, environment, _SIZE)
    with contextlib.closing(terminal):
        with journey.step("the model is loaded", "(global-codeclippy-mode)"):
            terminal.wait_until(lambda: " Clippy" in terminal.get_screen(), "the mode line")
            terminal.wait_until(lambda: "Clippy:loading" not in terminal.get_screen(), "the model to be ready")
            picture(journey, terminal, "1-start")
        _type_and_edit(journey, terminal, _EMACS)
    if journey.is_scripted:
        assert file.read_text().rstrip("\n") == journey.result.rstrip("\n")


def _type_and_edit(journey: Journey, terminal: Terminal, keys: _Keys) -> None:
    terminal.press(*keys.insert)
    for number, (head, body) in enumerate(zip(HEADS, BODIES, strict=True), 1):
        journey.prepare(body)
        terminal.type(head)
        terminal.press(*keys.new_line)
        terminal.type("    ")
        with journey.step(f"suggestion {number} is shown", "Tab accepts it"):
            expected = body.splitlines()[-1].strip()
            wait_for_ghost_text(terminal, expected if journey.is_scripted else "")
            picture(journey, terminal, f"{3 + number}-suggestion")
        terminal.press("Tab")
        time.sleep(0.5)
        for _ in range(3):
            terminal.press(*keys.new_line)
    terminal.press(*keys.leave)
    with journey.step("the edit is shown", f"{keys.edit}, message, Enter"):
        if keys is _NEOVIM:
            terminal.type(f":CodeClippyEdit {MESSAGE}")
        else:
            terminal.press("M-x")
            terminal.type("codeclippy-edit")
            terminal.press("Enter")
            terminal.wait_for_screen("what should change?")
            terminal.type(MESSAGE)
        terminal.press("Enter")
        terminal.wait_for_screen("y apply")
        picture(journey, terminal, "7-edit")
    with journey.step("the edit is kept", "y"):
        terminal.press("y")
        terminal.wait_until(lambda: "y apply" not in terminal.get_screen(), "the edit to be applied")
        picture(journey, terminal, "8-kept")
    terminal.press(*keys.save)
    time.sleep(0.5)


def wait_for_ghost_text(terminal: Terminal, expected: str) -> None:
    """Wait until a text is on the screen; if none is expected, wait for any behind the cursor, which may never come."""
    if expected:
        return terminal.wait_for_screen(expected)
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        column, row = terminal.get_cursor()
        if terminal.get_screen().split("\n")[row][column:].strip():
            return None
        time.sleep(0.1)
    return None


def picture(journey: Journey, terminal: Terminal, name: str) -> None:
    """Save the screen."""
    editor = journey.editor.lower().replace(" ", "-")
    terminal.save_picture(journey.shots / f"{editor}-journey-{name}.svg", journey.editor)


def main() -> None:
    """Play the journeys with a model, and write the page."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    before = os.getloadavg()[2]
    table = _write_table(Path(name).stem if name else "the shipped model", name)
    load = f"{before:.0f} to {os.getloadavg()[2]:.0f}"
    page = _PAGE.format(table=table, load=load, cores=os.cpu_count())
    (REPOSITORY / "docs" / "first-minutes.md").write_text(page, encoding="utf-8")


def _write_table(model: str, name: str) -> str:
    server = [*REAL_SERVER, f"--model={name}"] if name else REAL_SERVER
    players: dict[str, Callable[[Journey], object]] = {
        "VS Code": play_vscode,
        "Neovim 0.12": lambda journey: play_neovim(journey, "0.12"),
        "Emacs 30": lambda journey: play_emacs(journey, "30"),
    }
    lines = [f"## With {model}", "", "| editor | step | keys | seconds |", "| --- | --- | --- | --- |"]
    for editor, play in players.items():
        # Paths of sockets are short.
        with tempfile.TemporaryDirectory(prefix="cc-", ignore_cleanup_errors=True) as folder:
            shots = SHOTS / (Path(name).stem or "shipped")
            shots.mkdir(parents=True, exist_ok=True)
            journey = Journey(editor, Path(folder), shots, server, lambda body: None, is_scripted=False)
            problem = ""
            try:
                play(journey)
            except (AssertionError, pytest.fail.Exception) as error:
                problem = str(error).splitlines()[0][:80]
            print(editor, model, problem or "played to its end")
            lines += [f"| {editor} | {step.name} | {step.keys} | {step.seconds} |" for step in journey.steps]
            lines += [f"| {editor} | ends here: {problem} | | |"] if problem else []
    return "\n".join([*lines, ""])


_PAGE = """# The first minutes

What a new user does and sees, from an empty profile to the third accepted suggestion and the first kept edit.
`python -m tests.editors.journeys` plays it in the real editors with real models, takes a picture of each step, and
writes this page; with a scripted engine it is a test of each change (`tests/editors/test_journeys.py`).

Seconds are from the key to the result on the screen, pictures included. They were taken on {cores} cores of a server
without a GPU (Cascade Lake) while {load} processes wanted them: on a machine of your own, divide by about as many for
each core. The download of the server is not part of it: about 200 MB of PyTorch for CPUs, and 150 MB more.

{table}"""


if __name__ == "__main__":
    main()
