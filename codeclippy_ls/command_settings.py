"""The settings of a subcommand: those of the command line over those of the user's file."""

from __future__ import annotations

import sys
from typing import Any

from codeclippy_ls.settings import Settings, parse
from codeclippy_ls.user_config import read_user_settings


class UsageError(Exception):
    """An invalid argument; the message is for the user."""


def parse_settings(options: dict[str, Any]) -> Settings:
    """Return the settings of the command line over those of the user's file, whose problems are printed.

    Raises:
        UsageError: an option is invalid.
    """
    base, problems = read_user_settings()
    for problem in problems:
        print(f"codeclippy-ls: {problem}", file=sys.stderr)
    settings, problems = parse(options, base)
    if problems:
        raise UsageError("; ".join(problems))
    return settings
