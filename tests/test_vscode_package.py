"""VS Code's manifest says what the server's settings are, and what a workspace may not set; its lock file is plain."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls.server.client import EDIT_COMMAND, RELOAD_COMMAND
from codeclippy_ls.settings import Settings, camel, reference

EXTENSION = Path(__file__).parent.parent / "editors" / "vscode"
MANIFEST: dict[str, Any] = json.loads((EXTENSION / "package.json").read_text(encoding="utf-8"))
PROPERTIES: dict[str, Any] = MANIFEST["contributes"]["configuration"]["properties"]
RESTRICTED = MANIFEST["capabilities"]["untrustedWorkspaces"]["restrictedConfigurations"]
OF_THE_CLIENT = {"codeclippy.server.command", "codeclippy.languages"}
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", tuple: "array"}


def test_every_setting_of_the_server_is_offered_and_no_other() -> None:
    """Names, in order."""
    names = [f"codeclippy.{path}" for path, *_ in reference()]
    assert [name for name in PROPERTIES if name not in OF_THE_CLIENT] == names


@pytest.mark.parametrize(("path", "default", "meaning", "restricted"), reference(), ids=lambda value: str(value)[:24])
def test_a_setting_is_described_as_in_the_code(path: str, default: Any, meaning: str, restricted: bool) -> None:
    """Type, default, meaning; a restricted one cannot be set by a workspace, trusted or not."""
    found = PROPERTIES[f"codeclippy.{path}"]
    plain = list(default) if isinstance(default, tuple) else default
    assert (found["type"], found["default"]) == (TYPES[type(default)], plain)
    assert found["markdownDescription"] == meaning
    assert found["scope"] == ("machine" if restricted else "window")
    assert (f"codeclippy.{path}" in RESTRICTED) == restricted


def test_limits_and_choices_are_those_of_the_code() -> None:
    """What VS Code underlines is what the server would ignore."""
    for section in fields(Settings):
        for member in fields(getattr(Settings(), section.name)):
            found = PROPERTIES[f"codeclippy.{section.name}.{camel(member.name)}"]
            assert found.get("minimum") == member.metadata["least"]
            assert found.get("maximum") == member.metadata["most"]
            assert tuple(found.get("enum", found.get("items", {}).get("enum", ()))) == member.metadata["choices"]


def test_what_is_started_cannot_be_set_by_a_workspace() -> None:
    """The command is the machine's."""
    assert PROPERTIES["codeclippy.server.command"]["scope"] == "machine"
    assert "codeclippy.server.command" in RESTRICTED


def test_commands_do_not_take_the_servers_names() -> None:
    """The language client registers the server's own commands under their names."""
    commands = {command["command"] for command in MANIFEST["contributes"]["commands"]}
    assert not commands & {EDIT_COMMAND, RELOAD_COMMAND}
    source = (EXTENSION / "src" / "extension.ts").read_text(encoding="utf-8")
    assert all(f"    {command.removeprefix('codeclippy.')}" in source for command in commands)


def test_the_lock_file_names_no_host() -> None:
    """Packages are pinned by version and digest; where they come from is the business of who installs."""
    lock = json.loads((EXTENSION / "package-lock.json").read_text(encoding="utf-8"))
    for name, package in lock["packages"].items():
        assert "resolved" not in package, name
        assert not name or package.get("integrity"), name
    for packages in (MANIFEST["dependencies"], MANIFEST["devDependencies"]):
        assert all(version[0].isdigit() for version in packages.values()), "versions are exact"
