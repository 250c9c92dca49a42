"""How entries look on the wire: MLSx facts (RFC 3659 §7), LIST lines in the manner of ``ls -l``, times.

All times are UTC. Pure text: knows neither the drive nor a socket.
"""

from __future__ import annotations

import datetime
import re
import stat

from serpentfs.errors import InvalidArgument
from serpentfs.gateways.ftp.replies import one_line
from serpentfs.gateways.ftp.tree import Shown
from serpentfs.model import Attributes, Kind

FACTS = ("type", "size", "modify", "perm", "unique", "unix.mode")
"""In the order in which FEAT names them and MLSx gives them."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HALF_A_YEAR = datetime.timedelta(days=180)
_TIME_VALUE = re.compile(r"(\d{14})(?:\.(\d{1,9})\d*)?", re.ASCII)
_FORMAT_BITS = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}
_DEFAULT_MODES = {Kind.FILE: 0o644, Kind.DIRECTORY: 0o755, Kind.SYMLINK: 0o777}


def time_value(mtime_ns: int) -> str:
    """``YYYYMMDDHHMMSS[.sss]`` (RFC 3659 §2.3), rounded down; milliseconds only where there are any."""
    moment = _moment(mtime_ns)
    milliseconds = mtime_ns // 1_000_000 % 1000
    # Not strftime: it writes years before 1000 without their zeros.
    text = (
        f"{moment.year:04}{moment.month:02}{moment.day:02}{moment.hour:02}{moment.minute:02}{moment.second:02}"
    )
    return f"{text}.{milliseconds:03}" if milliseconds else text


def parse_time_value(text: str) -> int:
    """Nanoseconds since 1970 of a time value, as exact as it is written. InvalidArgument when it is none."""
    match = _TIME_VALUE.fullmatch(text)
    if match is None:
        raise InvalidArgument("not a time: YYYYMMDDHHMMSS[.sss] is meant")
    digits, fraction = match.groups()
    month, day, hour, minute, second = (int(digits[start : start + 2]) for start in range(4, 14, 2))
    leap = second == 60   # the RFC allows it; the calendar here does not
    try:
        moment = datetime.datetime(
            int(digits[:4]), month, day, hour, minute, second - leap, tzinfo=datetime.UTC
        )
    except ValueError as error:
        raise InvalidArgument(f"not a time: {text}") from error
    seconds = int((moment - _EPOCH) / datetime.timedelta(seconds=1)) + leap
    return seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0"))


def mlsx(shown: Shown, name: str, facts: tuple[str, ...], *, read_only: bool) -> str:
    """One line of MLSD or MLST without its end.

    A link to a file is shown as that file, because clients that know no links then still copy it. A link to a
    folder is shown as a link: shown as a folder it could lead a recursive client round in circles.
    """
    attributes = shown.attributes
    if shown.leads_to is not None and shown.leads_to.kind is Kind.FILE:
        attributes = shown.leads_to
    values = {
        "type": _type(attributes.kind, shown.target),
        "size": str(attributes.size) if attributes.kind is Kind.FILE else None,
        "modify": time_value(attributes.mtime_ns),
        "perm": _permissions(attributes.kind, read_only),
        "unique": f"{attributes.ino:x}",
        "unix.mode": f"{_mode(attributes, read_only):04o}",
    }
    return "".join(f"{fact}={values[fact]};" for fact in facts if values[fact]) + " " + one_line(name)


def _type(kind: Kind, target: str | None) -> str:
    if kind is Kind.DIRECTORY:
        return "dir"
    if kind is Kind.FILE:
        return "file"
    # The target would end the facts early if it had one of these in it.
    if target is None or any(character in target for character in " ;\r\n\0"):
        return "OS.unix=symlink"
    return f"OS.unix=slink:{target}"


def _permissions(kind: Kind, read_only: bool) -> str | None:
    """RFC 3659 §7.5.5: what the user may do with it."""
    if kind is Kind.DIRECTORY:
        return "el" if read_only else "cdeflmp"
    if kind is Kind.FILE:
        return "r" if read_only else "adfrw"
    return None if read_only else "df"


def _mode(attributes: Attributes, read_only: bool) -> int:
    mode = _DEFAULT_MODES[attributes.kind] if attributes.mode is None else attributes.mode
    return mode & ~0o222 if read_only else mode


def list_line(shown: Shown, owner: str, now_ns: int, *, read_only: bool) -> str:
    """One line as ``ls -l`` prints it, without its end: the form that every client reads."""
    attributes = shown.attributes
    mode = stat.filemode(_FORMAT_BITS[attributes.kind] | _mode(attributes, read_only))
    size = 0 if attributes.kind is Kind.DIRECTORY else attributes.size
    moment = _moment(attributes.mtime_ns)
    age = _moment(now_ns) - moment
    if datetime.timedelta(days=-1) < age < _HALF_A_YEAR:
        when = f"{moment.hour:02}:{moment.minute:02}"
    else:
        when = f"{moment.year:5}"
    date = f"{_MONTHS[moment.month - 1]} {moment.day:2} {when}"
    name = shown.name if shown.target is None else f"{shown.name} -> {shown.target}"
    return f"{mode} {attributes.nlink:3} {owner:8} {owner:8} {size:12} {date} {one_line(name)}"


def _moment(mtime_ns: int) -> datetime.datetime:
    """The nearest moment that the calendar of four-digit years can name."""
    try:
        return _EPOCH + datetime.timedelta(seconds=mtime_ns // 1_000_000_000)
    except OverflowError:
        return datetime.datetime.max.replace(tzinfo=datetime.UTC) if mtime_ns > 0 else _FIRST


_FIRST = datetime.datetime.min.replace(tzinfo=datetime.UTC)
