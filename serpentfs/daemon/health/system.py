"""FUSE, versions of what this program stands on, the clock, the keyring."""

from __future__ import annotations

import ctypes
import errno
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sqlite3
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from serpentfs import __version__
from serpentfs.daemon.health.findings import Finding, note, ok, problem
from serpentfs.errors import Unsupported

_DEVICE = Path("/dev/fuse")
_FUSE_CONF = Path("/etc/fuse.conf")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9.]+)\s*(?:;(.*))?")
_MODULES = {"pyftpdlib": "pyftpdlib", "libpass": "passlib", "defusedxml": "defusedxml"}
"""Packages whose module has another name, or is not to be found by the package's own."""
_HELPER_PATIENCE = 5.0
_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""
_TIMEX_BYTES = 512
"""More than ``struct timex`` has anywhere."""
_EPOCH = 1_767_225_600.0
"""2026-01-01: a clock before that is wrong."""


def check_fuse(*, is_needed: bool, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """``is_needed``: without it (WebDAV and FTP only) nothing is wrong when there is no FUSE."""
    if sys.platform != "linux":
        yield note("fuse-device", "mounts are for Linux; WebDAV and FTP need no FUSE")
        return
    for finding in (_device(), _helper(), _allow_other(environment)):
        if finding.state == "problem" and not is_needed:
            finding = note(finding.check, f"{finding.message} (no remote of the configuration is to be mounted)")
        yield finding


def _device() -> Finding:
    check = "fuse-device"
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return problem(check, f"there is no {_DEVICE}", "load the module (modprobe fuse), or give the container that "
                       "device (--device /dev/fuse)")
    except PermissionError:
        return problem(check, f"{_DEVICE} may not be opened", "let this user in (usually mode 666), or give the "
                       "container that device (--device /dev/fuse)")
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            return problem(check, f"the kernel has no FUSE: {error.strerror}", "load the module (modprobe fuse)")
        return problem(check, f"{_DEVICE} cannot be opened: {error.strerror}", "load the module (modprobe fuse)")
    return ok(check, f"{_DEVICE} can be opened")


def _helper() -> Finding:
    check = "fusermount3"
    if os.geteuid() == 0:
        return ok(check, "root mounts without fusermount3")
    found = shutil.which("fusermount3")
    if found is None:
        return problem(check, "fusermount3 is missing", "install the package fuse3")
    status = os.stat(found)    # noqa: PTH116 - of what the link leads to
    if not (status.st_mode & stat.S_ISUID and status.st_uid == 0):
        return problem(check, f"{found} is not set-uid root", f"chown root {found} && chmod u+s {found}, as root")
    if os.statvfs(found).f_flag & os.ST_NOSUID:
        return problem(check, f"{found} is on a file system that is mounted nosuid", "mount it without nosuid")
    if _has_no_new_privileges():
        return problem(check, "this process may not gain privileges (no_new_privs), so that fusermount3 cannot mount",
                       "run it without NoNewPrivileges=yes or --security-opt no-new-privileges")
    return ok(check, f"{found} is set-uid root")


def _has_no_new_privileges() -> bool:
    return "\nNoNewPrivs:\t1\n" in Path("/proc/self/status").read_text()


def _allow_other(environment: Mapping[str, str]) -> Finding:
    check = "allow-other"
    if os.geteuid() == 0:
        return ok(check, "root may let other users in")
    try:
        lines = _FUSE_CONF.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        return problem(check, f"{_FUSE_CONF} cannot be read: {error.strerror}", f"chmod 644 {_FUSE_CONF}, as root")
    if "user_allow_other" in (line.strip() for line in lines):
        return ok(check, f"{_FUSE_CONF} has user_allow_other")
    message = f"{_FUSE_CONF} has no line user_allow_other, so that --allow-other is refused"
    if environment.get("SERPENTFS_ALLOW_OTHER", "").lower() in ("true", "1"):
        return problem(check, message, "add that line, as root, or unset SERPENTFS_ALLOW_OTHER")
    return note(check, message)


def versions() -> dict[str, str]:
    """Of this program, of what it runs on, and of each library that it has."""
    found = {
        "serpentfs": __version__,
        "Python": platform.python_version(),
        platform.system(): platform.release(),
        "machine": platform.machine(),
        "OpenSSL": ssl.OPENSSL_VERSION.partition(" ")[2],
        "SQLite": sqlite3.sqlite_version,
    }
    if (libfuse := _libfuse()) is not None:
        found["libfuse"] = libfuse
    for name in _required():
        if (version := _version_of(name)) is not None:
            found[name] = version
    for name in ("keyring", "pillow"):
        if (version := _version_of(name)) is not None:
            found[name] = version
    return found


def _libfuse() -> str | None:
    """As its helper tells it: they come together."""
    program = shutil.which("fusermount3")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_HELPER_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\d+(?:\.\d+)+", done.stdout)
    return match[0] if match else None


def _required() -> dict[str, str]:
    """The libraries that must be there, and the oldest version of each that will do."""
    try:
        lines = importlib.metadata.requires("serpentfs") or []
    except importlib.metadata.PackageNotFoundError:
        return {}    # run from a folder of sources: who does that knows what is there
    found = {}
    for line in lines:
        match = _REQUIREMENT.match(line)
        marker = (match[3] or "") if match else ""
        if match and "extra" not in marker and ("linux" not in marker or sys.platform == "linux"):
            found[match[1]] = match[2]
    return found


def _version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_versions() -> Iterator[Finding]:
    check = "versions"
    bad = False
    for name, oldest in _required().items():
        version = _version_of(name)
        if version is None:
            yield problem(check, f"the Python package {name} is not installed", f"pip install '{name}>={oldest}'")
        elif _numbers(version) < _numbers(oldest):
            yield problem(check, f"the Python package {name} {version} is too old", f"pip install '{name}>={oldest}'")
        elif (trouble := _cannot_import(_MODULES.get(name, name))) is not None:
            yield problem(check, f"the Python package {name} {version} cannot be loaded: {trouble}",
                          "install it again, and the libraries of the system that it needs")
        else:
            continue
        bad = True
    if not bad:
        yield ok(check, ", ".join(f"{name} {version}" for name, version in versions().items()))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _cannot_import(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as error:    # noqa: BLE001 - whatever foreign code raises while it is loaded
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None


def check_clock() -> Finding:
    """What can be told without asking anybody else."""
    check = "clock"
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    if time.time() < _EPOCH:
        return problem(check, f"the clock says {now} (UTC)", "set the clock, and have it kept right (timedatectl "
                       "set-ntp true)")
    if sys.platform == "linux" and ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) == _TIME_ERROR:
        return note(check, "the clock is not kept right by a time service (NTP), as far as the kernel knows")
    return ok(check, f"the clock says {now} (UTC)")


def check_keyring(*, is_needed: bool) -> Finding:
    """``is_needed``: a log-in is kept there, or is to be."""
    from serpentfs.system_keyring import open_keyring

    try:
        open_keyring(recommended=not is_needed)
    except Unsupported as error:
        if is_needed:
            return problem("keyring", str(error), "start the desktop's keyring, or set session-store = \"file\"")
        return note("keyring", f"{error}: log-ins are kept in files that only you can read")
    return ok("keyring", "there is a keyring for log-ins")
