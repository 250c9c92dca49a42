"""Logging in and out, and what is kept of it: the session and the master key, never the password.

The file of a session opens the account to whoever can read it, until ``logout``: it belongs to this user alone.
"""

from __future__ import annotations

import binascii
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from serpentfs.bridge import run_in_thread
from serpentfs.clouds.mega.api import Api, error_of, open_api
from serpentfs.clouds.mega.encoding import decode, encode
from serpentfs.clouds.mega.keys import (
    PrivateKey,
    ecb_decrypt,
    session_id,
    temporary_session_valid,
    v1_password_key,
    v1_user_hash,
    v2_derive,
)
from serpentfs.clouds.mega.transport import Transport, check_endpoint
from serpentfs.errors import (
    IntegrityError,
    LoginRequired,
    NotFound,
    PermissionDenied,
    SerpentError,
    Unavailable,
    UsageError,
    WrongPassphrase,
)

DEFAULT_API = "https://g.api.mega.co.nz"
_KINDS = ("account", "folder-link", "file-link")
_KEY_BYTES = (16, 32)


class MfaRequired(UsageError):
    """The account wants the code of its second factor, too."""


@dataclass(frozen=True, slots=True)
class Session:
    """``user``: the account's own handle, of a link its public handle. ``key``: the master key, of a link its key.
    ``node``: the folder inside a linked folder that is meant."""

    kind: Literal["account", "folder-link", "file-link"]
    api: str
    user: str
    email: str
    sid: str = field(repr=False)
    key: bytes = field(repr=False)
    node: str | None = None


async def login(
    transport: Transport, endpoint: str, email: str, password: str, auth_code: str | None = None
) -> Session:
    """Open a session (specification, 4). WrongPassphrase, MfaRequired, Unavailable, LoginRequired (blocked)."""
    endpoint = check_endpoint(endpoint)
    email = email.strip().lower()
    async with open_api(transport, endpoint, sid=None, link=None) as api:
        version = await api.command({"a": "us0", "user": email})
        if isinstance(version, dict) and version.get("v") == 2:
            password_key, user_hash = await run_in_thread("crypto", v2_derive, password, decode(str(version["s"])))
        else:
            password_key = await run_in_thread("crypto", v1_password_key, password)
            user_hash = await run_in_thread("crypto", v1_user_hash, email, password_key)
        command: dict[str, Any] = {
            "a": "us",
            "user": email,
            "uh": encode(user_hash),
            "sek": encode(secrets.token_bytes(16)),
        }
        if auth_code is not None:
            command["mfa"] = auth_code
        (answer,) = await api.commands([command])
    return _opened(endpoint, email, password_key, answer, auth_code)


def _opened(endpoint: str, email: str, password_key: bytes, answer: Any, auth_code: str | None) -> Session:
    match answer:
        case -26:
            raise MfaRequired("this account asks for the code of its second factor: --auth-code CODE")
        case -5 if auth_code is not None:
            raise WrongPassphrase("the code of the second factor is wrong or too old")
        case -9 | -2 | -14:
            raise WrongPassphrase("wrong e-mail or password")
        case int():
            raise error_of(answer, "the log-in")
        case dict():
            pass
        case _:
            raise Unavailable("the server's answer to the log-in cannot be understood")
    try:
        master_key = ecb_decrypt(password_key, decode(answer["k"]))
        if len(master_key) != 16:
            raise IntegrityError("the account's key has a wrong length")
        if "csid" in answer:
            private = PrivateKey.parse(ecb_decrypt(master_key, decode(answer["privk"])))
            sid = session_id(decode(answer["csid"]), private)
            if sid[16:27] != str(answer["u"]).encode():
                raise WrongPassphrase("wrong e-mail or password")
        else:
            sid = decode(answer["tsid"])
            if not temporary_session_valid(sid, master_key):
                raise WrongPassphrase("wrong e-mail or password")
        return Session("account", endpoint, str(answer["u"]), email, encode(sid), master_key)
    except IntegrityError as error:
        raise WrongPassphrase("wrong password, or the account's keys are damaged") from error
    except (KeyError, ValueError) as error:
        raise Unavailable("the server's answer to the log-in cannot be understood") from error


async def end_session(transport: Transport, session: Session) -> None:
    """End it at the server: who has a copy of it can do nothing with it any more. One that has ended is no error."""
    if session.kind != "account":
        return
    async with open_api(transport, session.api, sid=session.sid, link=None) as api:
        try:
            await api.command({"a": "sml"})
        except LoginRequired:
            return


async def whoami(api: Api) -> dict[str, Any]:
    """``email``, ``handle``, ``name``, and bytes ``total`` and ``used`` of the account."""
    user = await api.command({"a": "ug"})
    quota = await api.command({"a": "uq", "strg": 1, "xfer": 1, "pro": 1})
    return {
        "email": str(user.get("email", "")),
        "handle": str(user.get("u", "")),
        "name": str(user.get("name", "")),
        "total": int(quota.get("mstrg", 0)),
        "used": int(quota.get("cstrg", 0)),
    }


def session_string(session: Session) -> str:
    """The session in the form that MEGAcmd's ``session`` prints and its ``login`` takes. UsageError for a link."""
    if session.kind != "account":
        raise UsageError("a link has no session")
    return encode(session.key + decode(session.sid))


def save_session(path: Path, session: Session) -> None:
    """Keep it in a file that only this user may read; the old one stays until the new one is whole."""
    record = {
        "kind": session.kind,
        "api": session.api,
        "user": session.user,
        "email": session.email,
        "sid": session.sid,
        "key": encode(session.key),
        "node": session.node,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _cannot("write", path, error) from error


def load_session(path: Path) -> Session:
    """NotFound, PermissionDenied; UsageError when it is no session."""
    try:
        record = json.loads(path.read_text())
        key = decode(record["key"])
        if record["kind"] not in _KINDS or len(key) not in _KEY_BYTES:
            raise ValueError
        return Session(
            record["kind"],
            check_endpoint(str(record["api"])),
            str(record["user"]),
            str(record["email"]),
            str(record["sid"]),
            key,
            record.get("node"),
        )
    except FileNotFoundError as error:
        raise NotFound("nobody is logged in under this name: serpentfs login") from error
    except OSError as error:
        raise _cannot("read", path, error) from error
    except (ValueError, KeyError, TypeError, binascii.Error):
        # The chained error could quote the file.
        raise UsageError(f"{path} holds no session: remove it and log in again") from None


def _cannot(what: str, path: Path, error: OSError) -> SerpentError:
    return PermissionDenied(f"cannot {what} {path}: {error.strerror}")
