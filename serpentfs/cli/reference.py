"""What every command takes, read from its parser: one text for ``--help``, man pages, completion and the README.

Knows nothing of how any of them writes it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from serpentfs.cli import environment
from serpentfs.cli.main import COMMANDS, Command, parser_of


@dataclass(frozen=True, slots=True)
class Option:
    names: tuple[str, ...]
    takes: str
    """"SIZE", "local|cloud", or "" for what takes nothing."""
    choices: tuple[str, ...]
    help: str
    """With the default where there is one."""
    variable: str | None


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    usage: str
    """As in a synopsis: "[REMOTE]", "PATH..."."""
    help: str


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    text: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Page:
    command: Command
    arguments: tuple[Argument, ...]
    groups: tuple[Group, ...]

    @property
    def usage(self) -> str:
        """"mount DIR [REMOTE]", without options."""
        return " ".join((self.command.name, *(argument.usage for argument in self.arguments)))

    @property
    def options(self) -> tuple[Option, ...]:
        return tuple(option for group in self.groups for option in group.options)


def pages() -> list[Page]:
    """One for each command, in the order of ``serpentfs --help``."""
    return [page_of(command) for command in COMMANDS]


def page_of(command: Command) -> Page:
    parser = parser_of(command)
    expand = parser._get_formatter()._expand_help
    variables = {id(action): name for name, action in environment.variables_of(parser).items()}
    arguments, groups = [], []
    for group in parser._action_groups:
        options = []
        for action in group._group_actions:
            if action.help is argparse.SUPPRESS:
                continue
            text = expand(action) if action.help else ""
            if action.option_strings:
                options.append(Option(
                    tuple(action.option_strings), _takes(action), _choices(action), text, variables.get(id(action))
                ))
            else:
                name = _metavar(action)
                arguments.append(Argument(name, _usage(action, name), text))
        if options:
            groups.append(Group(group.title or "options", group.description or "", tuple(options)))
    return Page(command, tuple(arguments), tuple(groups))


def _choices(action: argparse.Action) -> tuple[str, ...]:
    return tuple(str(choice) for choice in action.choices or ())


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    return action.metavar or "|".join(_choices(action)) or action.dest.upper().replace("_", "-")


def _takes(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return f"[{_metavar(action)}]" if action.nargs == "?" else _metavar(action)


def _usage(action: argparse.Action, name: str) -> str:
    return {"?": f"[{name}]", "*": f"[{name}...]", "+": f"{name}..."}.get(str(action.nargs), name)
