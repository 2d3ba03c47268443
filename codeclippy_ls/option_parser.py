"""`OptionParser`: argparse whose help begins with examples and whose errors are one line that names what was meant.

argparse takes the value of an option that it does not know for the subcommand. Knows nothing of our options.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

Example = tuple[str, str]  # a command line and what it does


class OptionParser(argparse.ArgumentParser):
    """Parser of a program or of one of its subcommands.

    Args:
        prog: its name, as in error messages and the usage.
        summary: one sentence; the first line of the help.
        examples: shown before the usage and the options.
    """

    def __init__(self, prog: str, summary: str = "", examples: Sequence[Example] = (), **options: Any) -> None:
        super().__init__(prog, **options)
        self._summary = summary
        self._examples = examples
        self._subcommands: dict[str, OptionParser] = {}

    def add_subcommand(self, subparsers: Any, name: str, summary: str, examples: Sequence[Example]) -> OptionParser:
        """Add a subcommand to what `add_subparsers` returned; ``summary`` begins with a lower-case verb."""
        sentence = f"{summary[0].upper()}{summary[1:]}."
        program = f"{self.prog} {name}"
        parser = subparsers.add_parser(name, help=summary, prog=program, summary=sentence, examples=examples)
        self._subcommands[name] = parser
        return parser  # type: ignore[no-any-return]

    def format_help(self) -> str:
        """Return the summary, the examples, then the usage and the options."""
        width = max((len(command) for command, _ in self._examples), default=0)
        lines = [f"  {command:{width}}  {purpose}".rstrip() for command, purpose in self._examples]
        parts = [self._summary, "\n".join(["examples:", *lines]) if lines else "", super().format_help()]
        return "\n\n".join(part for part in parts if part)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; the first unknown option or subcommand is an error before any value is taken for something else."""
        args = list(sys.argv[1:] if args is None else args)
        self._check_names(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End the program with one line and exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")

    def _check_names(self, args: Iterable[str]) -> None:
        value_follows = False
        for arg in args:
            if value_follows and not arg.startswith("-"):
                value_follows = False
            elif arg == "--":
                return
            elif arg.startswith("--") and " " not in arg:  # argparse takes others for a value, too
                value_follows = self._check_option(arg)
            elif arg.startswith("-"):
                value_follows = self._takes_value(arg)
            elif self._subcommands:
                self._check_subcommand(arg)
                return  # what follows is the subcommand's

    def _check_option(self, arg: str) -> bool:
        """Return whether its value is the next argument. An unknown option is an error."""
        name, equals, _ = arg.partition("=")
        full_names = [option for option in self._option_string_actions if option.startswith(name)]
        if not full_names:
            shown = [
                one for action in self._actions if action.help != argparse.SUPPRESS for one in action.option_strings
            ]
            self.error(f"unknown option {name}{_suggest(name, shown)}")
        return not equals and self._takes_value(full_names[0])

    def _takes_value(self, option: str) -> bool:
        action = self._option_string_actions.get(option)
        return action is not None and action.nargs != 0

    def _check_subcommand(self, name: str) -> None:
        if name not in self._subcommands:
            meant = _suggest(name, self._subcommands) or f": expected one of {', '.join(self._subcommands)}"
            self.error(f"unknown subcommand {name}{meant}")


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f": did you mean {close[0]}?" if close else ""
