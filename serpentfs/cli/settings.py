"""What of an owner may change while it runs, from options, environment and ``config.toml``; read again on SIGHUP."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from serpentfs import config as configuration
from serpentfs.cache.layers import CacheLimits
from serpentfs.config import Config, RemoteConfig
from serpentfs.daemon.limits import Limits
from serpentfs.daemon.settings import Settings

if TYPE_CHECKING:
    from serpentfs.cli.remotes import Target


def said(arguments: argparse.Namespace, table: RemoteConfig | None, name: str) -> Any:
    """The value of an option that is a key of the configuration, too; None where neither says anything."""
    value = getattr(arguments, name, None)
    return getattr(table, name) if value is None and table is not None else value


def settings_of(arguments: argparse.Namespace, target: Target) -> Settings:
    """As they are now. UsageError for a configuration that cannot be read."""
    return _settings(arguments, target.config, _config(arguments) if _serves(arguments) else None)


def read_again(arguments: argparse.Namespace, target: Target) -> Settings:
    """As they are in the file now. A remote that is not in it any more keeps what the options say. UsageError."""
    config = _config(arguments)
    return _settings(arguments, config.remotes.get(target.name) if target.config is not None else None, config)


def _config(arguments: argparse.Namespace) -> Config:
    return configuration.load(
        arguments.config or configuration.default_path(), must_exist=arguments.config is not None
    )


def _serves(arguments: argparse.Namespace) -> bool:
    """Whether it is a command with doors: what others log is for who typed them."""
    return hasattr(arguments, "daemon")


def _settings(arguments: argparse.Namespace, table: RemoteConfig | None, config: Config | None) -> Settings:
    rates = {way: said(arguments, table, f"limit_{way}") for way in ("up", "down")}
    connections = {"up": said(arguments, table, "upload_connections"),
                   "down": said(arguments, table, "download_connections")}
    budgets = {
        "memory_bytes": said(arguments, table, "cache_memory"),
        "disk_bytes": said(arguments, table, "cache_disk"),
        "free_space_floor": said(arguments, table, "cache_free_space"),
    }
    says_level = arguments.log_level is not None or arguments.verbose or arguments.quiet
    return Settings(
        limits=Limits(_without_none(rates), _without_none(connections)),
        cache=replace(CacheLimits(), **_without_none(budgets)),
        log_level=None if says_level or config is None else config.log_level,
    )


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
