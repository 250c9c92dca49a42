"""Cryptomator vaults (format 8, SIV_GCM and SIV_CTRMAC) over any blob store.

Read along ``opening`` → ``cloud`` → ``listing``/``scan``/``feed`` (what is there and what changes), ``reading`` and
``writes``; below them lie the pure parts: ``masterkey``, ``config``, ``names``, ``content``, ``layout``,
``conflicts``, ``folders``. Nothing here may assume a local disk or know of trees, caches and journals.
"""

from serpentfs.clouds.vault.check import Finding, Severity, check_vault
from serpentfs.clouds.vault.cloud import POLL_INTERVAL, VaultCloud, VaultFiles
from serpentfs.clouds.vault.opening import create_vault, find_vault, open_vault

__all__ = [
    "POLL_INTERVAL", "Finding", "Severity", "VaultCloud", "VaultFiles", "check_vault", "create_vault", "find_vault",
    "open_vault",
]
