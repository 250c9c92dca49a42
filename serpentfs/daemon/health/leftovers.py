"""What processes that died have left: mounts that do not answer, sockets and changes that wait for the next start."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from serpentfs.daemon.health.findings import Finding, note, ok, problem
from serpentfs.daemon.lock import read_owner
from serpentfs.daemon.mountpoints import FILESYSTEM_TYPE
from serpentfs.daemon.places import RemotePlaces, known_remotes
from serpentfs.errors import SerpentError
from serpentfs.mount_table import answer_of, is_dead, mount_entries
from serpentfs.tree.store import journalled_changes

_ANSWER_TIMEOUT = 3.0


def check_mounts() -> Iterator[Finding]:
    """Of this user; root looks at all."""
    check = "mounts"
    bad = False
    points = list(_mount_points())
    for point in points:
        answer = answer_of(point, _ANSWER_TIMEOUT)
        if answer is None:
            bad = True
            yield problem(check, f"the mount at {point} does not answer", f"free it: umount -f {point}, as root")
        elif is_dead(answer):
            bad = True
            yield problem(check, f"the mount at {point} was left behind by a process that died",
                          f"take it away: serpentfs umount {point}")
    if not bad:
        yield ok(check, f"{len(points)} mount{'' if len(points) == 1 else 's'}, none of them dead")


def _mount_points() -> Iterator[str]:
    for entry in mount_entries():
        if entry.kind == FILESYSTEM_TYPE:
            user = re.search(r"\buser_id=(\d+)", entry.options)
            if os.geteuid() == 0 or user is None or int(user[1]) == os.geteuid():
                yield entry.path


def check_owners() -> Iterator[Finding]:
    """State of remotes that nothing runs for."""
    check = "leftovers"
    found = 0
    try:
        known = list(known_remotes())
    except OSError as error:
        yield problem(check, f"the state folder cannot be looked at: {error.strerror}", "see what is said of it")
        return
    for places in known:
        try:
            if read_owner(places.lock) is not None:
                continue
            waiting = journalled_changes(places.state / "state.db")
        except SerpentError as error:
            found += 1
            yield problem(check, f"the state in {places.state} cannot be looked at: {error}",
                          "see whose that folder is")
            continue
        finding = _left(places, waiting)
        if finding is not None:
            found += 1
            yield finding
    if not found:
        yield ok(check, "no process has left anything behind")


def _left(places: RemotePlaces, waiting: int) -> Finding | None:
    changes = f"{waiting} change{'' if waiting == 1 else 's'} not uploaded"
    if places.socket.exists():
        return problem("leftovers", f"a process for {_name_of(places)} died without an end" + (
            f", with {changes}" if waiting else ""), "start it again: that cleans up and goes on with what is left")
    if waiting:
        return note("leftovers", f"{_name_of(places)} has {changes}: they go up at the next start")
    return None


def _name_of(places: RemotePlaces) -> str:
    """The URL that the last owner noted, else the id."""
    match = re.search(r'"remote": "([^"]+)"', places.lock.read_text(errors="replace"))
    return match[1] if match else places.remote_id
