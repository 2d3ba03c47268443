"""docs/editors.md lists every command of the server and the clients, and every test in real editors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from codeclippy_ls.server.features import COMMANDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "editors.md"
VSCODE, NEOVIM, EMACS = (ROOT / "editors" / name for name in ("vscode", "neovim", "emacs"))
# Sent by code actions, suggestions, next edits and the lists of models; users do not call them.
INTERNAL_COMMANDS = {
    *("codeclippy.replaceLastEdit", "codeclippy.didAcceptSuggestion", "codeclippy.didAcceptNextEdit"),
    *("codeclippy.listModels", "codeclippy.useModel", "codeclippy.getModel"),
}
USER_COMMANDS = sorted(set(COMMANDS) - INTERNAL_COMMANDS)


def vscode_commands() -> set[str]:
    """List the commands in VS Code's palette."""
    manifest = json.loads((VSCODE / "package.json").read_text(encoding="utf-8"))
    return {command["command"] for command in manifest["contributes"]["commands"]}


def neovim_commands() -> set[str]:
    """List the commands of Neovim's client, and the subcommands of `:CodeClippy`."""
    plugin = (NEOVIM / "plugin" / "codeclippy.lua").read_text(encoding="utf-8")
    names = {f":{name}" for name in re.findall(r"nvim_create_user_command\('(\w+)'", plugin)}
    module = (NEOVIM / "lua" / "codeclippy" / "init.lua").read_text(encoding="utf-8")
    table = module.partition("local subcommands = {\n")[2].partition("\n}\n")[0]
    return names - {":CodeClippy"} | {f":CodeClippy {name}" for name in re.findall(r"^  (\w+) = function", table, re.M)}


def emacs_commands() -> set[str]:
    """List the interactive functions and the modes of Emacs' client."""
    source = (EMACS / "codeclippy.el").read_text(encoding="utf-8")
    forms = re.split(r"\n(?=\()", source)
    functions = [form for form in forms if form.startswith("(defun ") and "\n  (interactive" in form]
    modes = [form for form in forms if re.match(r"\(define-(?:globalized-)?minor-mode ", form)]
    return {form.split()[1] for form in (*functions, *modes)}


CLIENTS: dict[str, Callable[[], set[str]]] = {
    "VS Code": vscode_commands,
    "Neovim": neovim_commands,
    "Emacs": emacs_commands,
}
# The files in which each client declares or sends commands.
SOURCES: dict[str, list[Path]] = {
    "editors/vscode/package.json or src": [VSCODE / "package.json", *sorted((VSCODE / "src").glob("*.ts"))],
    "editors/neovim/lua/codeclippy/init.lua": [NEOVIM / "lua" / "codeclippy" / "init.lua"],
    "editors/emacs/codeclippy.el": [EMACS / "codeclippy.el"],
    "docs/editors.md": [DOCS],
}


def parse_table(header: str) -> list[dict[str, list[str]]]:
    """Parse the table of docs/editors.md that begins with a header: the names in backticks of each cell."""
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {header} |"))
    columns = [cell.strip() for cell in lines[start].split("|")[1:-1]]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = line.split("|")[1:-1]
        rows.append({name: re.findall(r"`([^`]+)`", cell) for name, cell in zip(columns, cells, strict=True)})
    return rows


@pytest.mark.parametrize("place", SOURCES)
@pytest.mark.parametrize("command", USER_COMMANDS)
def test_a_server_command_is_in_each_client_and_in_the_docs(command: str, place: str) -> None:
    found = any(re.search(rf"\b{re.escape(command)}\b", path.read_text(encoding="utf-8")) for path in SOURCES[place])
    assert found, f"{place}: the command {command} is missing"


@pytest.mark.parametrize("command", USER_COMMANDS)
def test_the_row_of_a_server_command_names_the_command_of_each_client(command: str) -> None:
    rows = [row for row in parse_table("command") if command in row["server"]]
    assert len(rows) == 1, f"docs/editors.md: the table of commands needs one row for {command}"
    missing = [client for client in CLIENTS if not rows[0][client]]
    assert not missing, f"docs/editors.md: the row of {command} names no command of {', '.join(missing)}"


@pytest.mark.parametrize("client", CLIENTS)
def test_the_table_lists_the_commands_of_each_client(client: str) -> None:
    listed = {name.removeprefix("M-x ") for row in parse_table("command") for name in row[client]}
    declared = CLIENTS[client]()
    assert not declared - listed, f"docs/editors.md: the table of commands misses {sorted(declared - listed)}"
    assert not listed - declared, f"docs/editors.md lists commands that {client} does not have: {listed - declared}"


def test_internal_commands_are_in_the_docs() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert set(COMMANDS) >= INTERNAL_COMMANDS and all(f"`{command}`" in text for command in INTERNAL_COMMANDS)


def test_clients_send_only_commands_that_the_server_has() -> None:
    for path in (*VSCODE.glob("src/*.ts"), *NEOVIM.glob("lua/**/*.lua"), EMACS / "codeclippy.el"):
        source = path.read_text(encoding="utf-8")
        sent = set(re.findall(r"(?:command = |:command |runCommand\(|-command )['\"](codeclippy\.\w+)['\"]", source))
        sent -= vscode_commands() - set(COMMANDS) if path.suffix == ".ts" else set()
        assert sent <= set(COMMANDS), f"{path}: the server has no command {sorted(sent - set(COMMANDS))}"


def test_vscode_registers_every_command_that_is_not_the_servers() -> None:
    """The language client registers the server's commands under their own names."""
    source = (VSCODE / "src" / "extension.ts").read_text(encoding="utf-8")
    table = source.partition("const commands:")[2].partition("};")[0]
    registered = {f"codeclippy.{name}" for name in re.findall(r"^    (\w+)[:,]", table, re.M)}
    missing = vscode_commands() - set(COMMANDS) - registered
    assert not missing, f"editors/vscode/src/extension.ts does not register {sorted(missing)}"
    twice = sorted(registered & set(COMMANDS))
    assert not twice, f"editors/vscode/src/extension.ts registers {twice}, which the language client registers, too"


def test_neovims_help_describes_every_command() -> None:
    text = (NEOVIM / "doc" / "codeclippy.txt").read_text(encoding="utf-8")
    plugin = (NEOVIM / "plugin" / "codeclippy.lua").read_text(encoding="utf-8")
    for command in neovim_commands():
        name, _, subcommand = command.removeprefix(":").partition(" ")
        if subcommand:
            assert f"\n        {subcommand} " in text, f"editors/neovim/doc/codeclippy.txt: {command} is missing"
            assert subcommand in plugin, f"editors/neovim/plugin/codeclippy.lua: desc does not name {subcommand}"
        else:
            assert f"*:{name}*" in text, f"editors/neovim/doc/codeclippy.txt: {command} is missing"


def test_the_table_of_tests_lists_every_test_in_an_editor() -> None:
    listed: dict[str, set[str]] = {client: set() for client in CLIENTS}
    for row in parse_table("behaviour"):
        for client in CLIENTS:
            listed[client] |= {f"test_{name}" for name in row[client]}
    for client, names in listed.items():
        module = ROOT / "tests" / "editors" / f"test_{client.replace(' ', '').lower()}.py"
        tests = set(re.findall(r"^(?:async )?def (test_\w+)", module.read_text(encoding="utf-8"), re.M))
        assert names == tests, f"docs/editors.md and {module.name} differ in {sorted(names ^ tests)}"
