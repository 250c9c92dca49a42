"""``SERPENTFS_*``: any option from the environment, above ``config.toml`` and below the command line.

The variable of ``--cache-disk`` is SERPENTFS_CACHE_DISK, that of an option with a short name only is made of its
field. Options that hold a secret have none; the files and commands that give passphrases are read in ``credentials``,
because they mean a drive's passphrase and not the password that some other command protects a link with.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from serpentfs.credentials import PASSWORD_COMMAND_VARIABLE, PASSWORD_FILE_VARIABLE
from serpentfs.errors import UsageError

PREFIX = "SERPENTFS_"
OTHER_VARIABLES = (PASSWORD_FILE_VARIABLE, PASSWORD_COMMAND_VARIABLE, "SERPENTFS_MEGA_API", "SERPENTFS_PROXY",
                   "SERPENTFS_PROXY_PASSWORD_FILE")
"""Variables that are no option's: see above, and where another server than MEGA's own is to be spoken to."""
_NEVER = frozenset({"help", "password_file", "password_command", "auth_code"})
_TRUE, _FALSE = ("true", "1"), ("false", "0")
_NEAR = 0.85


def variable_of(action: argparse.Action) -> str | None:
    """The variable that sets an option; None for what has none."""
    if not action.option_strings or action.help is argparse.SUPPRESS or action.dest in _NEVER:
        return None
    long = next((name for name in action.option_strings if name.startswith("--")), action.dest)
    return PREFIX + long.removeprefix("--").upper().replace("-", "_")


def variables_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Every variable that a command looks at, and the option that it sets. A parser may have ``ignored_variables``,
    fields of options that are to be typed."""
    ignored: frozenset[str] = getattr(parser, "ignored_variables", frozenset())
    return {
        name: action for action in parser._actions
        if (name := variable_of(action)) is not None and action.dest not in ignored
    }


def apply(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, waiting: Mapping[str, argparse.Action],
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Fill in the options ``waiting`` by variable, which were not on the command line (they are None in
    ``arguments``). UsageError that names the variable for a value that the option does not take, and for two options
    that exclude each other."""
    given = {action.dest for action in parser._actions} - {action.dest for action in waiting.values()}
    given = {dest for dest in given if getattr(arguments, dest, None) != parser.get_default(dest)}
    chosen: dict[str, str] = {}
    for name, action in waiting.items():
        rivals = _rivals(parser, action)
        if rivals & given:
            setattr(arguments, action.dest, action.default)
            continue
        value = read_value(action, name, environment[name])
        if both := next((chosen[rival] for rival in rivals if rival in chosen), None):
            raise UsageError(f"{both} and {name} exclude each other")
        setattr(arguments, action.dest, value)
        if value not in (None, False):
            chosen[action.dest] = name
    arguments.from_environment = frozenset(action.dest for action in waiting.values())


def _rivals(parser: argparse.ArgumentParser, action: argparse.Action) -> set[str]:
    groups = (group._group_actions for group in parser._mutually_exclusive_groups)
    return {other.dest for group in groups if action in group for other in group} - {action.dest}


def read_value(action: argparse.Action, name: str, text: str) -> Any:
    """What ``text`` gives an option, as if it stood on the command line. UsageError, which names the variable."""
    if isinstance(action, argparse._CountAction):
        if not text.isascii() or not text.isdigit() or len(text) > 1:
            raise UsageError(f'{name}: "{text}" is not a number from 0 to 9')
        return int(text)
    if action.nargs == 0:
        return _read_flag(action, name, text)
    try:
        words = shlex.split(text) if action.nargs not in (None, "?") else [text]
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from error
    values = [_read_word(action, name, word) for word in words]
    if isinstance(action, argparse._AppendAction) or action.nargs not in (None, "?"):
        return values
    return values[0]


def _read_flag(action: argparse.Action, name: str, text: str) -> Any:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise UsageError(f'{name}: "{text}" is neither true nor false')
    is_on = text.lower() in _TRUE
    if isinstance(action, argparse.BooleanOptionalAction):
        return is_on
    return action.const if is_on else action.default


def _read_word(action: argparse.Action, name: str, word: str) -> Any:
    try:
        value = action.type(word) if callable(action.type) else word
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{name}: {error}") from error
    except (TypeError, ValueError) as error:
        raise UsageError(f'{name}: "{word}" is not a value of {action.option_strings[-1]}') from error
    if action.choices is not None and value not in action.choices:
        known = ", ".join(str(choice) for choice in action.choices)
        raise UsageError(f'{name}: "{word}" is none of {known}')
    return value


def typos(known: Iterable[str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables with our prefix that are none of ``known``, and which of these was likely meant."""
    names = {*known, *OTHER_VARIABLES}
    found = {}
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in names:
            near = difflib.get_close_matches(name.removeprefix(PREFIX), [one.removeprefix(PREFIX) for one in names],
                                             1, _NEAR)
            if near:
                found[name] = PREFIX + near[0]
    return found
