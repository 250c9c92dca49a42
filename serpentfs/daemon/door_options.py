"""Options of doors as they travel over the control socket: to JSON and back, by the types of their fields.

A door is asked for by its kind ("mount", "webdav", "ftp") and its options. What arrives was written by a process of
this user, perhaps of another version: a field that is missing, unknown or of another type is a UsageError. Passwords
are among the options; nothing here is ever logged.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from serpentfs.errors import UsageError
from serpentfs.gateways.access import FtpOptions, ServerOptions
from serpentfs.gateways.fuse import MountOptions

DoorOptions: TypeAlias = MountOptions | ServerOptions | FtpOptions
_TYPES: Mapping[str, type[DoorOptions]] = {"mount": MountOptions, "webdav": ServerOptions, "ftp": FtpOptions}
_KINDS = {options: kind for kind, options in _TYPES.items()}


def kind_of(options: DoorOptions) -> str:
    return _KINDS[type(options)]


def is_read_only(options: DoorOptions) -> bool:
    """Whether this door is meant to refuse changes."""
    match options:
        case MountOptions():
            return options.wants_read_only
        case FtpOptions():
            return options.server.read_only
        case ServerOptions():
            return options.read_only
        case _:
            typing.assert_never(options)


def to_message(options: DoorOptions) -> dict[str, Any]:
    """One entry of ``doors`` in the request ``open-doors``."""
    return {"kind": kind_of(options), "options": _plain(options)}


def from_message(message: Any) -> DoorOptions:
    """What ``to_message`` made. UsageError for anything else."""
    if not isinstance(message, dict) or message.get("kind") not in _TYPES:
        raise UsageError("the request names no kind of door that is known here")
    options: DoorOptions = _read(_TYPES[message["kind"]], message.get("options"), message["kind"])
    return options


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, range):
        return [value.start, value.stop]
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _read(kind: Any, value: Any, where: str) -> Any:
    """``value`` as a ``kind``; the caller's annotation says what that is, so the answer is Any."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _read_union(inner, value, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_dataclass(kind, value, where)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(value, dict):
            raise _unfit(where)
        return {str(key): _read(inner[1], one, where) for key, one in value.items()}
    if origin is tuple:
        if not isinstance(value, list) or (inner[-1] is not Ellipsis and len(inner) != len(value)):
            raise _unfit(where)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        return tuple(_read(one, part, where) for one, part in zip(kinds, value, strict=True))
    if kind is range and isinstance(value, list) and len(value) == 2:
        return range(_read(int, value[0], where), _read(int, value[1], where))
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (str, int, float, bool) and type(value) is kind:
        return value
    raise _unfit(where)


def _read_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    for kind in kinds:
        if kind is not types.NoneType:
            try:
                return _read(kind, value, where)
            except UsageError:
                continue
    raise _unfit(where)


def _read_dataclass(kind: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _unfit(where)
    hints = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in known:
            raise UsageError(f"the running process does not know the option {name} of {where}")
    missing = dataclasses.MISSING
    for name, field in known.items():
        if name not in value and field.default is missing and field.default_factory is missing:
            raise UsageError(f"the request lacks the option {name} of {where}")
    return kind(**{name: _read(hints[name], one, f"{where}: {name}") for name, one in value.items()})


def _unfit(where: str) -> UsageError:
    return UsageError(f"the request has a value of a wrong type for {where}")
