"""Files that hold secrets, or decide what is run with them: there, readable, and nobody else's business."""

from __future__ import annotations

import datetime
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from serpentfs.daemon.health.findings import Finding, ok, problem

_CHECK = "secret-files"
_WARN_BEFORE = datetime.timedelta(days=7)


def check_secret(path: Path, what: str, remote: str | None = None) -> Finding:
    """A file that only this user may read. ``what`` names it ("the password file")."""
    trouble = _unreadable(path, what, remote)
    if trouble is not None:
        return trouble
    status = path.stat()
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        return problem(_CHECK, f"{what} {path} is open to other users (mode {stat.S_IMODE(status.st_mode):o})",
                       f"chmod 600 {path}", remote)
    if status.st_uid not in (0, os.geteuid()):
        return problem(_CHECK, f"{what} {path} belongs to another user (id {status.st_uid})",
                       f"chown {os.geteuid()} {path}, as root", remote)
    return ok(_CHECK, f"{what} {path} is yours alone", remote)


def check_unchangeable(path: Path, what: str) -> Iterator[Finding]:
    """A file that others may read, but not change: the configuration names commands that are run. Its folder, too."""
    for one in (path, path.parent):
        if not one.exists():
            continue
        status = one.stat()
        if status.st_uid not in (0, os.geteuid()):
            yield problem(_CHECK, f"{what} {one} belongs to another user (id {status.st_uid})",
                          f"chown {os.geteuid()} {one}, as root")
        elif status.st_mode & 0o002 and not status.st_mode & stat.S_ISVTX:
            yield problem(_CHECK, f"{what} {one} can be changed by other users "
                          f"(mode {stat.S_IMODE(status.st_mode):o})", f"chmod go-w {one}")


def check_certificate(path: Path) -> Finding:
    """PEM. One that is about to end is a problem, too: clients refuse it from that moment on."""
    from cryptography import x509

    trouble = _unreadable(path, "the certificate", None)
    if trouble is not None:
        return trouble
    try:
        ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except ValueError:
        return problem(_CHECK, f"the certificate {path} is not one in PEM", "make it anew")
    now = datetime.datetime.now(datetime.UTC)
    if ends < now + _WARN_BEFORE:
        word = "ended" if ends < now else "ends"
        return problem(_CHECK, f"the certificate {path} {word} at {ends:%Y-%m-%d %H:%M} (UTC)", "renew it")
    return ok(_CHECK, f"the certificate {path} is good until {ends:%Y-%m-%d}")


def check_readable(path: Path, what: str) -> Finding:
    return _unreadable(path, what, None) or ok(_CHECK, f"{what} {path} can be read")


def _unreadable(path: Path, what: str, remote: str | None) -> Finding | None:
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return problem(_CHECK, f"{what} {path} is a folder", "name a file", remote)
    except FileNotFoundError:
        return problem(_CHECK, f"{what} {path} is not there", "make it, or correct the configuration", remote)
    except OSError as error:
        return problem(_CHECK, f"{what} {path} cannot be looked at: {error.strerror}", "let this user in", remote)
    if not os.access(path, os.R_OK):
        return problem(_CHECK, f"{what} {path} cannot be read by this user", f"chown {os.geteuid()} {path}, as root",
                       remote)
    return None
