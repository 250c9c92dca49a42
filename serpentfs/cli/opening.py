"""What the owner of a remote needs, put together from the command line and the configuration."""

from __future__ import annotations

import argparse
from typing import TypeVar

from serpentfs.cache.layers import CacheLimits
from serpentfs.cli.remotes import Target, ask_passphrase
from serpentfs.clouds.vault import POLL_INTERVAL
from serpentfs.daemon.owner import Remote
from serpentfs.vfs.drive import DriveOptions

T = TypeVar("T")


def unlock_target(arguments: argparse.Namespace, target: Target, *, read_only: bool = False) -> Remote:
    """Ask for the passphrase and put together what the owner needs, from options first, then from the config."""
    table = target.config

    def chosen(name: str, default: T) -> T:
        value = getattr(arguments, name, None)
        if value is None and table is not None:
            value = getattr(table, name)
        return default if value is None else value

    default_cache, default = CacheLimits(), DriveOptions()
    cache = CacheLimits(
        memory_bytes=chosen("cache_memory", default_cache.memory_bytes),
        disk_bytes=chosen("cache_disk", default_cache.disk_bytes),
        free_space_floor=chosen("cache_free_space", default_cache.free_space_floor),
    )
    configured_read_only = bool(table and table.read_only)
    options = DriveOptions(
        settle=chosen("settle", default.settle),
        read_only=read_only or configured_read_only or getattr(arguments, "read_only", False),
        durability=chosen("durability", default.durability),
        uploads=chosen("uploads", default.uploads),
        cache=cache,
    )
    return Remote(
        spec=target.spec,
        passphrase=ask_passphrase(arguments, target),
        options=options,
        cache_directory=chosen("cache_directory", None),
        poll_interval=chosen("poll_interval", POLL_INTERVAL),
    )
