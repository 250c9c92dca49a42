"""How a public link gets into the program: its key opens what it leads to, so it is best not typed as an argument."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from serpentfs.cli.remotes import passphrase_source
from serpentfs.credentials import PassphraseSource, ask, read_passphrase, read_secret_file

logger = logging.getLogger(__name__)


def read_link(word: str | None, file: Path | None = None) -> str:
    """The link in ``file``, on standard input (``-``), or ``word`` itself. UsageError, NotFound."""
    if file is not None or word is None or word == "-":
        return read_secret_file(file or Path("-"), "link")
    logger.warning(
        "other users of this machine can see a link that is typed as an argument, and its key; - reads it from "
        "standard input"
    )
    return word


def read_link_password(arguments: argparse.Namespace, *, twice: bool = False) -> str:
    """From the options, else asked for (``twice`` when it is being chosen). The file that SERPENTFS_PASSWORD_FILE names
    is not looked at: what it holds is the passphrase of a vault or account, which must not become a link's."""
    source = passphrase_source(arguments, None)
    if source != PassphraseSource():
        return read_passphrase(source, "")
    return ask("Password of the link", "password", "--password-file or --password-command", twice=twice)
