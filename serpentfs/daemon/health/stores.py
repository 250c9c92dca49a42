"""Whether a store answers, a log-in is still valid, and the clocks of both sides agree; asked without owning anything.

``check_running`` is for a remote that has an owner: that one knows more than a look from outside.
"""

from __future__ import annotations

import email.utils
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trio

from serpentfs import __version__
from serpentfs.clouds.proxy import Proxy
from serpentfs.clouds.registry import RemoteSpec, endpoint_of, open_store
from serpentfs.clouds.vault import find_vault
from serpentfs.daemon import accounts
from serpentfs.daemon.health.findings import Finding, note, ok, problem
from serpentfs.errors import LoginRequired, RetryableError, SerpentError, Unsupported, first_of

if TYPE_CHECKING:
    from serpentfs.clouds.mega.session import Session

_STORE, _CLOCK, _UPLOADS, _PROCESS = "store", "clock", "uploads", "process"
_KEEPS_FAILING = 3
_LARGEST_SKEW = 300.0
"""Seconds. S3 refuses requests that are 15 minutes off, and conflicts are told by times."""
_CLOSE_PATIENCE = 5.0
_SEE_NETWORK = "see whether the network and the proxy work"


async def check_vault(spec: RemoteSpec, name: str) -> Finding:
    """Whether there is a vault that a passphrase could open."""
    try:
        store = open_store(spec)
        try:
            await find_vault(store)
        finally:
            with trio.move_on_after(_CLOSE_PATIENCE, shield=True):
                await store.aclose()
    except Unsupported as error:
        return note(_STORE, f"not looked at: {error}", f"serpentfs doctor {name}:", name)
    except RetryableError as error:
        return problem(_STORE, f"the store cannot be reached: {error}", "see whether its disk is mounted, or the "
                       "network and the proxy work", name)
    except SerpentError as error:
        return problem(_STORE, str(error), "correct the remote's url, or the keys for its store", name)
    return ok(_STORE, "the store answers, and has a vault", name)


async def check_account(session: Session, name: str, proxy: Proxy) -> Finding:
    """Whether the service answers, and takes the session."""
    failed: SerpentError | None = None
    try:
        await accounts.describe(session, proxy)
    except* SerpentError as group:
        failed = first_of(group)
    if failed is None:
        return ok(_STORE, "the service answers, and the log-in is valid", name)
    if isinstance(failed, LoginRequired):
        return problem(_STORE, f"the log-in is not valid any more: {failed}", f"serpentfs logout {name}: and log in "
                       "again; what is not uploaded is kept", name)
    is_passing = isinstance(failed, RetryableError)
    return problem(_STORE, str(failed), _SEE_NETWORK if is_passing else "see serpentfs whoami", name)


def web_address(spec: RemoteSpec, session: Session | None) -> str | None:
    """Where a remote's store answers HTTP; None for a folder."""
    if session is not None:
        return session.api
    return endpoint_of(spec, os.environ) if spec.scheme == "s3" else None


async def check_skew(url: str, name: str, proxy: Proxy) -> Finding | None:
    """How far this machine's clock is from that of a web server, by the Date of any answer (RFC 9110, 6.6.1). None
    when it does not say, or does not answer: that is told elsewhere."""
    # Only here: a library that vaults in folders do without.
    import httpx

    from serpentfs.clouds.mega.transport import is_loopback

    way: dict[str, Any] = {"trust_env": False}
    try:
        if not is_loopback(urlsplit(url).hostname or ""):
            way = {"proxy": proxy.url(), "trust_env": proxy.is_auto}
        async with httpx.AsyncClient(**way, follow_redirects=False) as client:
            began = time.time()
            response = await client.head(url)
            ended = time.time()
    except (httpx.HTTPError, SerpentError):
        return None
    told = email.utils.parsedate_to_datetime(response.headers["date"]) if "date" in response.headers else None
    if told is None:
        return None
    skew = (began + ended) / 2 - told.timestamp()
    if abs(skew) > _LARGEST_SKEW:
        off = "ahead of" if skew > 0 else "behind"
        return problem(_CLOCK, f"the clock of this machine is {abs(skew) / 60:.0f} minutes {off} that of the store",
                       "set the clock, and have it kept right (timedatectl set-ntp true)", name)
    return ok(_CLOCK, "the clocks of this machine and of the store agree", name)


def check_running(answer: Mapping[str, Any], name: str) -> Iterator[Finding]:
    """What an owner's ``status`` says that somebody should look after."""
    cloud, account, drive = answer.get("cloud"), answer.get("account"), answer.get("drive")
    if answer["version"] != __version__:
        yield problem(_PROCESS, f"process {answer['pid']} runs version {answer['version']}, and {__version__} is "
                      "installed", "end it and start it again (serpentfs down, up)", name)
    else:
        yield ok(_PROCESS, f"process {answer['pid']} answers", name)
    if account is not None and account["trouble"]:
        yield problem(_STORE, str(account["trouble"]), "see serpentfs status", name)
    elif cloud is not None and cloud["state"] == "offline":
        last = answer.get("last_error")
        why = last["message"] if last else (drive or {}).get("last_error") or "no answer"
        yield problem(_STORE, f"the store cannot be reached: {why}", "see whether the network and the proxy work; "
                      "changes are kept and go up later", name)
    else:
        yield ok(_STORE, "the store answers", name)
    if account is not None and account["over_quota_until"] is not None:
        yield note(_STORE, "the transfer quota is used up for now", remote=name)
    if drive is not None:
        yield from _check_uploads(drive, name)
        yield from _check_cache(answer, name)


def _check_uploads(drive: Mapping[str, Any], name: str) -> Iterator[Finding]:
    failing = [change for change in drive["pending"] if change["error"] and change["tries"] >= _KEEPS_FAILING]
    refused = [change for change in drive["pending"] if change["state"] == "stuck"]
    if drive["login_required"]:
        yield problem(_UPLOADS, f"{len(drive['pending'])} changes wait for a log-in", "serpentfs logout, then login",
                      name)
    elif failing or refused:
        change = (failing or refused)[-1]
        yield problem(_UPLOADS, f"{len({one['seq'] for one in (*failing, *refused)})} changes fail again and again, "
                      f"the last one because: {change['error']}", "see serpentfs transfers; --retry tries now", name)
    else:
        yield ok(_UPLOADS, f"{len(drive['pending'])} changes to upload", name)
    if drive["conflicts"]:
        yield note(_UPLOADS, f"{drive['conflicts']} conflict copies were made", remote=name)


def _check_cache(answer: Mapping[str, Any], name: str) -> Iterator[Finding]:
    cache = answer.get("cache")
    if cache is not None and cache["disk_budget"] and not cache["disk_usable"]:
        yield problem("cache-folder", "the disk of the cache failed or is full, and is out of use",
                      "make room or mend it, and start the drive again", name)
