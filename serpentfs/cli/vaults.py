"""``init`` and ``check``: make a vault, look after its health."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.remotes import passphrase_source, resolve
from serpentfs.clouds.blobs.base import BlobStore
from serpentfs.clouds.registry import RemoteSpec, open_store
from serpentfs.clouds.vault import create_vault
from serpentfs.credentials import read_passphrase

T = TypeVar("T")

CIPHER_COMBOS = ("SIV_GCM", "SIV_CTRMAC")


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
    target = resolve(arguments)
    source = passphrase_source(arguments, target.config)
    passphrase = read_passphrase(source, f"New passphrase of {target.name}", twice=True)

    async def make(store: BlobStore) -> None:
        await create_vault(store, passphrase, cipher_combo=arguments.cipher_combo)

    trio.run(_with_store, target.spec, make)
    print(f"made an encrypted vault at {target.name}; without its passphrase nobody can read it, you neither")
    return ExitCode.OK


async def _with_store(spec: RemoteSpec, use: Callable[[BlobStore], Awaitable[T]]) -> T:
    store = open_store(spec)
    try:
        return await use(store)
    finally:
        with trio.move_on_after(5, shield=True):
            await store.aclose()
