"""``doctor``: what is wrong on this machine and with the remotes, one line each, and what to do about it.

Nothing is made, changed or unlocked, and no passphrase is asked for: of a vault that nothing runs for, it is looked
whether it is there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from serpentfs import config as configuration
from serpentfs.bridge import run_in_thread
from serpentfs.cache.layers import CacheLimits
from serpentfs.cli import arguments as options
from serpentfs.cli.bundle import write_bundle
from serpentfs.cli.display import Display, Role
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import StatusLine, count, print_json
from serpentfs.cli.remotes import Target, owner_of, resolve, session_of
from serpentfs.config import Config
from serpentfs.credentials import PASSWORD_FILE_VARIABLE
from serpentfs.daemon.asking import Connection
from serpentfs.daemon.health import folders, leftovers, secret_files, stores, system
from serpentfs.daemon.health.findings import Finding, State, note, ok, problem
from serpentfs.daemon.lock import OwnerNote, running_owners
from serpentfs.daemon.places import cache_home, known_sessions, session_file, state_home
from serpentfs.errors import AlreadyExists, SerpentError

_DEFAULT_TIMEOUT = 15.0
_ANSWER_PATIENCE = 10.0
_ROLES: dict[State, Role | None] = {"ok": Role.GOOD, "note": None, "problem": Role.BAD}


def add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=doctor)
    parser.add_argument(
        "remotes", metavar="REMOTE", nargs="*", help="look at these remotes only; without one: at all that have a "
        "name, and all that run",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--bundle", type=options.absolute_path, metavar="FILE",
        help="also write findings, status, figures, configuration, versions and logs to a new .tar.gz, without secrets "
        "and names: to be looked through, and sent with a report of a fault",
    )
    parser.add_argument(
        "--bundle-log", type=options.absolute_path, action="append", default=[], metavar="FILE",
        help="with --bundle: a log to be added to the usual one, for what runs with --log-file; may be repeated",
    )
    parser.add_argument("--offline", action="store_true", help="do not ask any store")
    parser.add_argument(
        "--timeout", type=options.interval, default=_DEFAULT_TIMEOUT, metavar="SECONDS", help="for each store to answer"
    )


@dataclass
class Examination:
    """What was looked at, and what was found."""

    config: Config
    targets: list[Target] = field(default_factory=list)
    notes: list[OwnerNote] = field(default_factory=list)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of owners to ``status``, by canonical URL."""
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of owners to ``metrics``, too."""
    findings: list[Finding] = field(default_factory=list)


def doctor(arguments: argparse.Namespace) -> ExitCode:
    if arguments.bundle is not None and arguments.bundle.exists():
        raise AlreadyExists(f"{arguments.bundle} exists: name a new file")    # said before anything is looked at
    with StatusLine(at_once=False) as line:
        line.tell("looking")
        examination = trio.run(_examine, arguments)
    if arguments.bundle is not None:
        write_bundle(
            arguments.bundle, examination.config, examination.findings, examination.answers, examination.figures,
            arguments.bundle_log,
        )
    problems = [finding for finding in examination.findings if finding.state == "problem"]
    if arguments.json:
        print_json([asdict(finding) for finding in examination.findings])
    else:
        display = Display()
        for finding in problems if arguments.quiet else examination.findings:
            print(display.paint(f"{finding.state:<8}", _ROLES[finding.state]), display.paint(_line(finding)))
        if arguments.bundle is not None and not arguments.quiet:
            print(f"written to {arguments.bundle}")
    if problems:
        print(f"serpentfs: {count(len(problems), 'problem')} found", file=sys.stderr)
        return ExitCode.DAMAGED
    return ExitCode.OK


def _line(finding: Finding) -> str:
    return f"{finding.check:<14} {finding.line}"


async def _examine(arguments: argparse.Namespace) -> Examination:
    path: Path | None = arguments.config
    examination = Examination(Config(path or configuration.default_path()))
    found = examination.findings
    try:
        examination.config = configuration.load(examination.config.path, must_exist=path is not None)
    except SerpentError as error:
        found.append(problem("config", str(error), "correct it"))
    else:
        told = "can be read" if examination.config.path.exists() else "is not there, which is fine"
        found.append(ok("config", f"{examination.config.path} {told}"))
        examination.targets = list(_targets(arguments, examination))
    config = examination.config
    examination.notes = _owners()
    is_needed = (
        any(table.mount for table in config.remotes.values())
        or any("mount" in one.doors for one in examination.notes)
        or not any(table.webdav or table.ftp for table in config.remotes.values())
    )
    found.extend(system.check_fuse(is_needed=is_needed))
    found.extend(await run_in_thread("command", lambda: list(system.check_versions())))
    found.append(system.check_clock())
    found.append(await run_in_thread("command", partial(system.check_keyring, is_needed=_needs_keyring(config))))
    for look in (partial(_check_folders, config), partial(_check_files, config), leftovers.check_mounts,
                 leftovers.check_owners):
        found.extend(await _in_time(look, arguments.timeout))
    async with trio.open_nursery() as nursery:
        owned = {one.remote for one in examination.notes}
        for owner in examination.notes:
            if not arguments.remotes or any(owner_of(target) == owner for target in examination.targets):
                nursery.start_soon(_look_at_owner, examination, owner)
        for target in examination.targets:
            if not arguments.offline:
                is_owned = target.spec.canonical in owned
                nursery.start_soon(_look_at_store, found, target, arguments.timeout, is_owned)
    order = {finding.check: number for number, finding in reversed(list(enumerate(found)))}
    found.sort(key=lambda finding: (order[finding.check], finding.remote or ""))
    return examination


async def _in_time(look: Any, timeout: float) -> list[Finding]:
    """A look at disks, which may not answer: then it is left behind in its thread."""
    with trio.move_on_after(timeout):
        findings: list[Finding] = await run_in_thread("command", lambda: list(look()), abandon=True)
        return findings
    return [problem("disks", "a disk does not answer", "see which one: df, dmesg")]


def _targets(arguments: argparse.Namespace, examination: Examination) -> Iterator[Target]:
    """The remotes to be looked at. One that is named here and does not exist is an error as ever; one of the
    configuration that is wrong is a finding."""
    if arguments.remotes:
        for word in arguments.remotes:
            yield resolve(argparse.Namespace(config=arguments.config, remote=word))
        return
    for name in dict.fromkeys((*examination.config.remotes, *known_sessions())):
        try:
            yield resolve(argparse.Namespace(config=arguments.config, remote=f"{name}:"))
        except SerpentError as error:
            examination.findings.append(problem("config", str(error), "correct it", name))


def _owners() -> list[OwnerNote]:
    """None where the state folder cannot be looked at: that is a finding of its own."""
    try:
        return running_owners()
    except (OSError, SerpentError):
        return []


def _needs_keyring(config: Config) -> bool:
    """Whether a log-in is kept there, or is to be."""
    return config.session_store == "keyring" or any(
        b'"keyring"' in session_file(name).read_bytes() for name in known_sessions()
        if os.access(session_file(name), os.R_OK)
    )


def _check_folders(config: Config) -> Iterator[Finding]:
    yield from folders.check_folder("state-folder", state_home(), folders.STATE_ROOM, holds_changes=True)
    default = CacheLimits().free_space_floor
    yield from folders.check_folder("cache-folder", cache_home(), default, holds_changes=False)
    for table in config.remotes.values():
        if table.cache_directory is not None:
            floor = default if table.cache_free_space is None else table.cache_free_space
            yield from folders.check_folder("cache-folder", table.cache_directory, floor, holds_changes=False)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not (runtime.startswith("/") and os.access(runtime, os.W_OK)):
        yield note("runtime-folder", "XDG_RUNTIME_DIR is no folder of this user: control sockets are in the state "
                   "folder")
    else:
        yield ok("runtime-folder", f"control sockets are in {runtime}/serpentfs")


def _check_files(config: Config) -> Iterator[Finding]:
    yield from secret_files.check_unchangeable(config.path, "the configuration")
    if named := os.environ.get(PASSWORD_FILE_VARIABLE):
        yield secret_files.check_secret(Path(named).expanduser(), f"the file that {PASSWORD_FILE_VARIABLE} names,")
    for table in config.remotes.values():
        if table.password_file is not None:
            yield secret_files.check_secret(table.password_file, "the password file", table.name)
    for name, file in ((None, config.proxy_password_file), *(
        (table.name, table.proxy_password_file) for table in config.remotes.values()
    )):
        if file is not None:
            yield secret_files.check_secret(file, "the proxy's password file", name)
    for name in known_sessions():
        yield secret_files.check_secret(session_file(name), "the log-in", name)
    for door in config.doors.values():
        if door.key is not None:
            yield secret_files.check_secret(door.key, "the private key")
        if door.certificate is not None:
            yield secret_files.check_certificate(door.certificate)
        if door.htpasswd_file is not None:
            yield secret_files.check_readable(door.htpasswd_file, "the htpasswd file")


async def _look_at_owner(examination: Examination, owner: OwnerNote) -> None:
    def ask() -> dict[str, Any]:
        with Connection(Path(owner.socket), timeout=_ANSWER_PATIENCE) as connection:
            answer: dict[str, Any] = connection.ask("status")
            if "drive" in answer:    # not while it starts
                examination.figures[owner.remote] = connection.ask("metrics")
            return answer

    try:
        answer = await run_in_thread("command", ask)
    except SerpentError as error:
        examination.findings.append(problem(
            "process", f"process {owner.pid} does not answer: {error}",
            f"see its log; kill {owner.pid} ends it, and the next start goes on with what is not uploaded",
            owner.remote,
        ))
        return
    examination.answers[owner.remote] = answer
    examination.findings.extend(stores.check_running(answer, owner.remote))


async def _look_at_store(found: list[Finding], target: Target, timeout: float, is_owned: bool) -> None:
    """``is_owned``: the owner tells how its store is, and only the clocks are compared."""
    name = target.name
    session = None
    with trio.move_on_after(timeout):
        if target.spec.cloud == "mega":
            try:
                session = await run_in_thread("command", session_of, target, abandon=True)
            except SerpentError as error:
                found.append(problem("store", str(error), f"serpentfs logout {name}: and log in again", name))
                return
        if session is not None and not is_owned:
            found.append(await stores.check_account(session, name, target.spec.proxy))
        elif not is_owned:
            found.append(await stores.check_vault(target.spec, name))
        if (url := stores.web_address(target.spec, session)) is not None:
            skew = await stores.check_skew(url, name, target.spec.proxy)
            found.extend([] if skew is None else [skew])
        return
    found.append(problem("store", f"the store did not answer within {timeout:g} s",
                         "see whether the network and the proxy work", name))
