"""``doctor --bundle``: what helps to find a fault, in one file that can be given away.

Every text in it goes through ``redaction``. Of the configuration, values are shown only where their kind leaves no room
for anything private; remotes and users of doors have numbers in place of names.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serpentfs.cli import environment
from serpentfs.config import DOOR_KEYS, FTP_KEYS, REMOTE_KEYS, Config
from serpentfs.daemon.health import system
from serpentfs.daemon.health.findings import Finding
from serpentfs.daemon.health.redaction import Redactor
from serpentfs.daemon.places import cannot, default_log_file
from serpentfs.errors import AlreadyExists

_LOG_LINES = 20_000
"""The last ones of each log."""
_SET = "(set)"
_README = """What serpentfs doctor --bundle wrote.

findings.json   what doctor found
versions.json   of this program, its libraries and the system
config.json     the configuration, with numbers in place of names, and without places
status.json     what running processes tell of themselves
figures.json    what they counted
log-*.txt       the last lines of logs

Names of files, folders, remotes and users, addresses, places and secrets are left out: of each message only the words
of the program's own source are kept, and *** stands for the rest.
"""


def write_bundle(
    path: Path, config: Config, findings: Sequence[Finding], answers: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, Any], logs: Sequence[Path],
) -> None:
    """``answers`` and ``figures`` are what owners answer to ``status`` and ``metrics``, by remote. ``logs`` come beside
    the usual one. AlreadyExists when there is a file called ``path``."""
    redactor = Redactor()
    names = [*dict.fromkeys([*(finding.remote for finding in findings if finding.remote), *answers])]
    aliases = {name: f"remote-{number}" for number, name in enumerate(names, 1)}
    members: dict[str, Any] = {
        "README.txt": _README,
        "findings.json": [
            {**redactor.data(asdict(finding)), "remote": aliases.get(finding.remote or "")} for finding in findings
        ],
        "versions.json": system.versions(),
        "config.json": _config(config),
        "status.json": {aliases[name]: redactor.data(answer) for name, answer in answers.items()},
        "figures.json": {aliases[name]: _figures(answer) for name, answer in figures.items() if name in aliases},
    }
    there = [log for log in dict.fromkeys([default_log_file(), *logs]) if log.is_file() and os.access(log, os.R_OK)]
    for number, log in enumerate(there, 1):
        members[f"log-{number}.txt"] = "".join(f"{line}\n" for line in _log(log, redactor))
    _write(path, members)


def _figures(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Samples without the label that names the remote: the others are words of ours."""
    return [
        {
            "name": family["name"] + sample["suffix"],
            "labels": {key: value for key, value in dict(sample["labels"]).items() if key != "remote"},
            "value": sample["value"],
        }
        for family in answer["families"] for sample in family["samples"]
    ]


def _config(config: Config) -> dict[str, Any]:
    remotes = {
        f"remote-{number}": {
            key: _value(getattr(table, key.replace("-", "_")), meaning.takes) for key, meaning in REMOTE_KEYS.items()
            if getattr(table, key.replace("-", "_")) is not None
        }
        for number, table in enumerate(config.remotes.values(), 1)
    }
    doors = {
        door: {
            **{
                key: _value(value, meaning.takes) for key, meaning in {**DOOR_KEYS, **FTP_KEYS}.items()
                if (value := getattr(one, key.replace("-", "_"))) is not None
            },
            "users": [
                {"password-hash": user.password_hash is not None, "whole-drive": user.root == "/",
                 "read-only": user.read_only}
                for user in one.users.values()
            ],
        }
        for door, one in config.doors.items()
    }
    variables = sorted(name for name in os.environ if name.startswith(environment.PREFIX))
    return {"remotes": remotes, "doors": doors, "session-store": config.session_store, "variables": variables}


def _value(value: object, takes: str) -> object:
    """A value whose kind ("" is true or false) leaves no room for names; of URLs the kind of remote, of addresses
    whether others can reach them."""
    if takes in ("", "SIZE", "SECONDS", "N") or "|" in takes:
        return value
    if takes == "URL":
        return str(value).partition("://")[0]
    if takes == "HOST:PORT" and isinstance(value, tuple):
        host, port = value
        return f"{host if host in ('127.0.0.1', '::1', 'localhost', '0.0.0.0', '::') else _SET}:{port}"
    return _SET


def _log(path: Path, redactor: Redactor) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        last = deque(lines, _LOG_LINES)
    for line in last:
        yield redactor.log_line(line.rstrip("\n"))


def _write(path: Path, members: Mapping[str, Any]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise AlreadyExists(f"{path} exists: name a new file") from None
    except OSError as error:
        raise cannot("write", path, error) from error
    try:
        with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, content in members.items():
                data = (content if isinstance(content, str) else json.dumps(content, indent=1) + "\n").encode()
                info = tarfile.TarInfo(f"serpentfs-doctor/{name}")    # owner and group are numbers 0: nobody's name
                info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
                archive.addfile(info, io.BytesIO(data))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise cannot("write", path, error) from error
