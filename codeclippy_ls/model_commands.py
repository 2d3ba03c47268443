"""The actions of ``codeclippy-ls models``: list, recommend, get, use, remove, families.

Apart from the other subcommands, as it imports neither an assistant nor an engine.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

from codeclippy_ls.catalog.downloads import DownloadError, DownloadPlan, download, plan_download, remove_download
from codeclippy_ls.catalog.speeds import SpeedEstimator
from codeclippy_ls.catalog.stores import OLLAMA_PREFIX
from codeclippy_ls.command_settings import UsageError, parse_settings
from codeclippy_ls.families import FAMILIES, Capability, detect_served_family
from codeclippy_ls.inference.spec import read_shipped_card
from codeclippy_ls.model_choices.choices import ModelChoice, list_local_models
from codeclippy_ls.model_choices.recommendations import choose_best, list_recommended
from codeclippy_ls.settings import Settings
from codeclippy_ls.user_config import UserConfigError, set_user_model

_PROGRESS_SECONDS = 0.2  # between two lines of progress on a terminal
_LOG_SHARE = 0.1  # of a download, between two lines of progress in a file


class ModelCommandError(Exception):
    """An action failed; the message is for the user, ``code`` for the shell."""

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


def manage_models(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Run an action of ``codeclippy-ls models``."""
    try:
        return ACTIONS[args.action](args, parse_settings(options))
    except (UsageError, ModelCommandError) as error:
        print(f"codeclippy-ls: {error}", file=sys.stderr)
        return getattr(error, "code", 2)


def list_models(args: argparse.Namespace, settings: Settings) -> int:
    """List the models on this machine, then what can be downloaded."""
    print(_describe_roles(settings))
    estimator = SpeedEstimator(settings.model.device)
    choices = list_local_models(settings, estimator, args.folder or ())
    usable = [choice for choice in choices if not choice.problem]
    _print_choices("on this machine:", usable)
    _print_choices("on this machine, but of no use here:", [choice for choice in choices if choice.problem])
    if not choices:
        print("\nno other program's models were found on this machine")
    _print_shipped()
    offered = [one for one in list_recommended(estimator, choices) if not one.problem]
    _print_choices("recommended, to be downloaded by `codeclippy-ls models get NAME`:", offered)
    print("\n`codeclippy-ls models use NAME` makes one the model of all editors; `models families` lists the families")
    return 0


def recommend_models(args: argparse.Namespace, settings: Settings) -> int:
    """List what can be downloaded, the best for this machine first."""
    estimator = SpeedEstimator(settings.model.device)
    choices = list_recommended(estimator)
    best = choose_best(choices)
    print(f"for a machine with {estimator.machine.describe()}:")
    for choice in choices:
        if choice == best:
            note = "the best one that writes a line while you type"
        elif choice.problem:
            note = f"too large: it {choice.problem}"
        else:
            note = "writes a line while you type" if choice.is_fast else "slow here: ask for suggestions by key"
        print(f"{_show_name(choice)}\n    {choice.describe()}\n    {note}")
    print("`codeclippy-ls models get NAME` says size and licence and downloads one; without a name it is the best one")
    return 0


def get_model(args: argparse.Namespace, settings: Settings) -> int:
    """Download a model, or the best one for this machine; size and licence are said first."""
    name = args.name
    if not name:
        best = choose_best(list_recommended(SpeedEstimator(settings.model.device)))
        if best is None:
            raise ModelCommandError(
                "no recommended model is fast enough here; name one (`models recommend` lists them)"
            )
        name = best.name
    try:
        plan = plan_download(name)
        print(f"{plan.repository}: licence {plan.licence}, {_describe_size(plan)} to {plan.folder}")
        sys.stdout.flush()
        download(plan, _ProgressLine())
    except DownloadError as error:
        raise ModelCommandError(str(error), 1) from error
    print(f"{plan.model_name} is complete and checked")
    if not args.use:
        print(f"`codeclippy-ls models use {plan.model_name}` makes it the model of all editors")
        return 0
    return _set_model(args.role, plan.model_name)


def _describe_size(plan: DownloadPlan) -> str:
    missing, total = plan.missing_bytes, plan.nbytes
    if not missing:
        return f"{total / 1e6:.0f} MB, which are already here,"
    return f"{missing / 1e6:.0f} MB" + (f" of {total / 1e6:.0f} MB" if missing < total else "")


class _ProgressLine:
    """Prints the progress of a download: one line that changes on a terminal, a few lines elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._shown_share, self._shown_at = -1.0, 0.0

    def __call__(self, done: int, total: int) -> None:
        """Show the progress, if it is worth it."""
        share = done / total if total else 1.0
        is_due = time.monotonic() - self._shown_at > _PROGRESS_SECONDS
        if share < 1 and not (is_due if self._is_terminal else share - self._shown_share >= _LOG_SHARE):
            return
        if share == self._shown_share:
            return
        self._shown_share, self._shown_at = share, time.monotonic()
        end = ("\n" if share >= 1 else "\r") if self._is_terminal else "\n"
        print(f"  {100 * share:3.0f} %  {done / 1e6:.0f} of {total / 1e6:.0f} MB", end=end, file=sys.stderr, flush=True)


def use_model(args: argparse.Namespace, settings: Settings) -> int:
    """Make a model that of all editors, in the user's configuration file."""
    if not args.name:
        raise ModelCommandError("models use: name the model, as `codeclippy-ls models` lists it")
    name = args.name
    if (path := Path(name).expanduser()).exists() and not name.startswith(OLLAMA_PREFIX):
        name = str(path.resolve())  # editors have other current folders
    return _set_model(args.role, name)


def _set_model(role: str, name: str) -> int:
    key = {"complete": "completion", "edit": "edit"}[role]
    try:
        changed = set_user_model(key, name)
    except UserConfigError as error:
        raise ModelCommandError(str(error)) from error
    print(f'{changed}: model.{key} = "{name}"')
    print("Restart the server in running editors. An editor's own setting of that name takes precedence.")
    return 0


def remove_model(args: argparse.Namespace, settings: Settings) -> int:
    """Remove a model that `models get` downloaded; those of other programs are theirs."""
    if not args.name:
        raise ModelCommandError("models remove: name the model, as `codeclippy-ls models` lists it")
    try:
        print(f"removed {remove_download(args.name) / 1e6:.0f} MB")
    except DownloadError as error:
        raise ModelCommandError(f"{error}{_say_whose(args.name, settings)}") from error
    for key, used in (("completion", settings.model.completion), ("edit", settings.model.edit)):
        if used == args.name:
            print(f'the setting "model.{key}" still names it; choose another one by `codeclippy-ls models use`')
    return 0


def _say_whose(name: str, settings: Settings) -> str:
    """Say which program can remove a model that is not ours."""
    choices = list_local_models(settings, SpeedEstimator(settings.model.device))
    owner = next((choice.program for choice in choices if choice.name == name), "")
    return f"; it belongs to {owner}, which can remove it" if owner else ""


def list_families(args: argparse.Namespace, settings: Settings) -> int:
    """List the families with their capabilities, context length, license and cautions."""
    for family in FAMILIES:
        print(
            f"{family.name}: {', '.join(one.value for one in family.capabilities)}; context {family.context_length}; "
            f"licence: {family.licence}"
        )
        print(f"  models: {', '.join(family.examples)}")
        print(textwrap.fill(family.cautions, 100, initial_indent="  ", subsequent_indent="  "))
    return 0


def _print_choices(heading: str, choices: list[ModelChoice]) -> None:
    if choices:
        print(f"\n{heading}")
    for choice in choices:
        if choice.problem:
            print(f"{_show_name(choice)}\n    cannot be used: it {choice.problem}")
        else:
            print(f"{_show_name(choice)}\n    {choice.describe()}{'; ' + choice.program if choice.is_here else ''}")


def _show_name(choice: ModelChoice) -> str:
    """Return a name as a shell takes it, with the home folder as ``~``."""
    home = str(Path.home())
    return f"~{choice.name[len(home) :]}" if choice.name.startswith(home + "/") else choice.name


def _print_shipped() -> None:
    try:
        card = read_shipped_card()
        print(f"\nshipped: {card['name']} {card['version']}, {card['parameters'] / 1e6:.1f} million parameters")
    except OSError:
        print("\nshipped: none; the installation is incomplete, install the package again")


def _shorten(name: str) -> str:
    return PurePath(name).name if name else "the shipped model"


def _describe_roles(settings: Settings) -> str:
    """Say which model completes and which one edits by the settings; only a loaded model can say how fast it is."""
    complete, place = settings.model.completion, settings.model.device
    by_endpoint = f" at {settings.model.endpoint}" if settings.model.endpoint else f" on device {place}"
    shown = _shorten(complete) if not settings.model.endpoint or complete else "the endpoint's model"
    edits_itself = not complete or Capability.EDIT in detect_served_family(complete).capabilities
    edit = _shorten(settings.model.edit) if settings.model.edit else shown
    if not settings.model.edit and not edits_itself:
        edit += " if it follows instructions" + ("" if settings.model.endpoint else ", otherwise by the shipped model")
    return (
        f"complete by {shown}{by_endpoint}; {f'edit by {edit}' if settings.edit.enabled else 'edits are off'} "
        "(`codeclippy-ls doctor` measures ms a token)"
    )


ACTIONS: dict[str, Callable[[argparse.Namespace, Settings], int]] = {
    "list": list_models,
    "recommend": recommend_models,
    "get": get_model,
    "use": use_model,
    "remove": remove_model,
    "families": list_families,
}
