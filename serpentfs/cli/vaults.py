"""``init`` and ``check``: make a vault, look after its health."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import trio

from serpentfs.cli import arguments as options
from serpentfs.cli.display import Display, Role
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import count, print_json
from serpentfs.cli.remotes import Target, ask_passphrase, passphrase_source, refuse_owned, resolve
from serpentfs.clouds.registry import open_store
from serpentfs.clouds.vault import create_vault
from serpentfs.clouds.vault.check import Finding, Severity, check_vault
from serpentfs.credentials import read_passphrase
from serpentfs.daemon.lock import OwnerLock
from serpentfs.daemon.places import cannot, make_places
from serpentfs.daemon.unlock import unlocked
from serpentfs.errors import Unsupported

CIPHER_COMBOS = ("SIV_GCM", "SIV_CTRMAC")
_ROLES = {Severity.WARN: Role.WARNING, Severity.CRITICAL: Role.BAD}


def add_init(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=init)
    parser.add_argument("remote", metavar="REMOTE", help=options.REMOTE_HELP)
    parser.add_argument(
        "--cipher-combo", choices=CIPHER_COMBOS, default=CIPHER_COMBOS[0], help="how the vault encrypts"
    )
    options.add_passphrase(parser)


def add_check(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=check)
    parser.add_argument("remote", metavar="REMOTE", help=options.REMOTE_HELP)
    parser.add_argument("--fix", action="store_true", help="repair what can be repaired without losing anything")
    parser.add_argument("--content", action="store_true", help="read and authenticate every file (slow)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options.add_passphrase(parser)


def init(arguments: argparse.Namespace) -> ExitCode:
    target = _vault(arguments)
    source = passphrase_source(arguments, target.config)
    passphrase = read_passphrase(source, f"New passphrase of {target.name}", twice=True)

    if target.spec.scheme == "file":
        _make_folder(Path(target.spec.location))

    async def make() -> None:
        store = open_store(target.spec)
        try:
            await create_vault(store, passphrase, cipher_combo=arguments.cipher_combo)
        finally:
            await store.aclose()

    trio.run(make)
    print(f"made an encrypted vault at {target.name}; without its passphrase nobody can read it, you neither")
    return ExitCode.OK


def _vault(arguments: argparse.Namespace) -> Target:
    target = resolve(arguments)
    if target.spec.cloud != "vault":
        raise Unsupported(f"{target.name} is a MEGA account, and this is for vaults")
    return target


def _make_folder(path: Path) -> None:
    """A store takes a missing folder for a disk that is not there now; for a new vault it is made."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise cannot("make the folder", path, error) from error


def check(arguments: argparse.Namespace) -> ExitCode:
    target = _vault(arguments)
    if arguments.fix:
        refuse_owned(target)
    passphrase = ask_passphrase(arguments, target)

    async def look() -> list[Finding]:
        async with unlocked(target.spec, passphrase) as vault:
            # A repair must not meet the uploads of an owner; a mere look may.
            lock: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
            if arguments.fix:
                lock = OwnerLock.acquire(make_places(vault.jti).lock, target.name)
            with lock:
                return await check_vault(vault, fix=arguments.fix, content=arguments.content)

    findings = trio.run(look)
    remaining = [one for one in findings if not one.fixed and one.severity > Severity.INFO]
    if arguments.json:
        print_json([{**asdict(one), "severity": one.severity.name.lower()} for one in findings])
    else:
        for line in _report(findings):
            print(line)
    return ExitCode.DAMAGED if remaining else ExitCode.OK


def _report(findings: list[Finding]) -> Iterator[str]:
    display = Display()
    for one in findings:
        state = "repaired" if one.fixed else "--fix repairs it" if one.fixable else ""
        where = display.paint(one.path or one.where)
        severity = display.paint(f"{one.severity.name.lower():<8}", _ROLES.get(one.severity))
        yield f"{severity} {where}: {display.paint(one.message)}{f' ({state})' if state else ''}"
    yield f"{count(len(findings), 'finding')}, {sum(one.fixed for one in findings)} repaired" if findings else "healthy"
