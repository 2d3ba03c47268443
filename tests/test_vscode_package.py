"""VS Code's manifest has the server's settings and commands; workspaces are restricted; the lock file is portable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls.settings import SettingInfo, WorkspaceRule, list_settings

EXTENSION = Path(__file__).parent.parent / "editors" / "vscode"
MANIFEST: dict[str, Any] = json.loads((EXTENSION / "package.json").read_text(encoding="utf-8"))
PROPERTIES: dict[str, Any] = MANIFEST["contributes"]["configuration"]["properties"]
RESTRICTED = MANIFEST["capabilities"]["untrustedWorkspaces"]["restrictedConfigurations"]
CLIENT_SETTINGS = {"codeclippy.server.command", "codeclippy.languages"}
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", tuple: "array"}


@pytest.mark.parametrize("setting", list_settings(), ids=lambda setting: setting.path)
def test_a_setting_is_declared_in_package_json(setting: SettingInfo) -> None:
    """Its type, default, limits, choices and description are those of the code, and its scope follows from them."""
    name, expected = f"codeclippy.{setting.path}", _make_property(setting)
    found = {key: value for key, value in PROPERTIES.get(name, {}).items() if key != "order"}
    assert found == expected, f'editors/vscode/package.json: "{name}" must be:\n{json.dumps(expected, indent=2)}'


def test_package_json_declares_the_settings_in_order_and_no_others() -> None:
    names = [f"codeclippy.{setting.path}" for setting in list_settings()]
    assert [name for name in PROPERTIES if name not in CLIENT_SETTINGS] == names


def test_settings_are_shown_in_the_order_in_which_people_need_them() -> None:
    """VS Code sorts by `order`: what is on, the models, the languages, edits, suggestions, and then the rest."""
    order = [PROPERTIES[name].get("order") for name in PROPERTIES]
    assert sorted(order) == list(range(1, len(order) + 1)), "each property of editors/vscode/package.json has its own"
    shown = sorted(PROPERTIES, key=lambda name: PROPERTIES[name]["order"])
    assert [name.removeprefix("codeclippy.") for name in shown[:6]] == [
        *("completion.enabled", "edit.enabled", "model.completion", "model.edit", "languages", "edit.confirm")
    ]


def test_package_json_restricts_what_a_workspace_cannot_set() -> None:
    """The command that is started is restricted, too."""
    at_start = [setting for setting in list_settings() if setting.workspace is WorkspaceRule.START]
    restricted = [f"codeclippy.{setting.path}" for setting in at_start]
    assert ["codeclippy.server.command", *restricted] == RESTRICTED
    assert {PROPERTIES[name]["scope"] for name in CLIENT_SETTINGS} == {"machine"}


def test_the_lock_file_names_no_registry() -> None:
    """Packages are pinned by version and digest; whoever installs them chooses the registry."""
    lock = json.loads((EXTENSION / "package-lock.json").read_text(encoding="utf-8"))
    for name, package in lock["packages"].items():
        assert "resolved" not in package, name
        assert not name or package.get("integrity"), name
    for packages in (MANIFEST["dependencies"], MANIFEST["devDependencies"]):
        assert all(version[0].isdigit() for version in packages.values()), "versions are exact"


def _make_property(setting: SettingInfo) -> dict[str, Any]:
    """Make the declaration of a setting; VS Code underlines the values that the server would ignore."""
    default = setting.default
    declaration: dict[str, Any] = {"type": TYPES[type(default)], "default": default}
    choices: dict[str, Any] = {"enum": list(setting.choices)} if setting.choices else {}
    if isinstance(default, tuple):
        declaration |= {"default": list(default), "items": {"type": "string", **(choices or {"pattern": "\\S"})}}
    else:
        declaration |= choices
    if setting.minimum is not None:
        declaration |= {"minimum": setting.minimum, "maximum": setting.maximum}
    scope = "machine" if setting.is_users else "window"
    return {**declaration, "markdownDescription": setting.description, "scope": scope}
