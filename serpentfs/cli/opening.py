"""What the owner of a remote needs, put together from the command line and the configuration."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TypeVar

from serpentfs.cli.remotes import Target, ask_passphrase, said_by_environment, session_of
from serpentfs.cli.settings import read_again, said, settings_of
from serpentfs.clouds.vault import POLL_INTERVAL
from serpentfs.daemon.accounts import MegaAccess
from serpentfs.daemon.metrics import check_loopback
from serpentfs.daemon.opened import Remote, VaultAccess
from serpentfs.errors import UsageError
from serpentfs.vfs.drive import DriveOptions

T = TypeVar("T")


def unlock_target(arguments: argparse.Namespace, target: Target) -> Remote:
    """Ask for the passphrase of a vault, or take the session of an account, and put together what the owner needs,
    from options first, then from the config."""
    table = target.config

    def chosen(name: str, default: T) -> T:
        value: T | None = said(arguments, table, name)
        return default if value is None else value

    metrics: tuple[str, int] | None = said(arguments, table, "metrics") if hasattr(arguments, "metrics") else None
    is_public = bool(getattr(arguments, "public", False))
    if metrics is not None and not is_public:
        check_loopback(metrics[0])
    settings = settings_of(arguments, target)
    default = DriveOptions()
    access: VaultAccess | MegaAccess
    read_only = chosen("read_only", default.read_only)
    if target.spec.cloud == "vault":
        _refuse_account_options(arguments)
        access = VaultAccess(ask_passphrase(arguments, target), chosen("poll_interval", POLL_INTERVAL))
    else:
        access = MegaAccess(
            session_of(target), root=target.spec.root, hard_delete=chosen("hard_delete", False),
            thumbnails=chosen("thumbnails", False),
        )
        read_only = read_only or access.read_only
    options = DriveOptions(
        settle=chosen("settle", default.settle),
        read_only=read_only,
        durability=chosen("durability", default.durability),
        uploads=chosen("uploads", default.uploads),
        cache=settings.cache,
    )
    return Remote(
        spec=target.spec, access=access, options=options, cache_directory=chosen("cache_directory", None),
        versions_view=target.spec.cloud == "mega" and chosen("versions_view", False), metrics=metrics,
        metrics_public=is_public, limits=settings.limits, log_level=settings.log_level,
        read_settings=partial(read_again, arguments, target),
    )


def _refuse_account_options(arguments: argparse.Namespace) -> None:
    for name in ("hard_delete", "thumbnails", "versions_view"):
        if getattr(arguments, name, False) and name not in said_by_environment(arguments):
            raise UsageError(f"--{name.replace('_', '-')} is for MEGA accounts")
