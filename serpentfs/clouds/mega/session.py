"""Logging in and out, and what is kept of it: the session and the master key, never the password.

A log-in is a file that belongs to this user alone. It holds the secrets too, and then opens the account to whoever can
read it, until ``logout``; or it names the entry of the user's keyring that holds them.
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
from serpentfs.system_keyring import SystemKeyring, open_keyring

DEFAULT_API = "https://g.api.mega.co.nz"
_KINDS = ("account", "folder-link", "file-link")
_KEY_BYTES = (16, 32)


class MfaRequired(UsageError):
    """The account wants the code of its second factor, too."""


@dataclass(frozen=True, slots=True)
class Session:
    """``user``: the account's own handle, of a link its public handle. ``key``: the master key, of a link its key.
    ``node``: what is meant inside a linked folder, a folder or a file."""

    kind: Literal["account", "folder-link", "file-link"]
    api: str
    user: str
    email: str
    sid: str = field(repr=False)
    key: bytes = field(repr=False)
    node: str | None = None

    def remote_id(self, root: str) -> str:
        """Names the state of one tree on this machine. A user handle has 11 characters and a link's public handle 8,
        so that no two of these are equal. Handles may begin with "-" or "_", which a folder name of ours must not:
        hence a word before them."""
        if self.kind == "account":
            return f"mega-{self.user}" + ("" if root == "cloud" else f".{root}")
        return f"mega-link-{self.user}" + ("" if self.node is None else f".{self.node}")


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


def save_session(path: Path, session: Session, keyring: SystemKeyring | None = None) -> None:
    """Keep it in a file that only this user may read, its secrets in ``keyring`` where one is given. The old file
    stays until the new one is whole. PermissionDenied; Unavailable when the keyring does not take it: nothing is kept
    then."""
    record: dict[str, str | None] = {
        "kind": session.kind,
        "api": session.api,
        "user": session.user,
        "email": session.email,
        "node": session.node,
    }
    secrets_of_it: dict[str, str | None] = {"sid": session.sid, "key": encode(session.key)}
    if keyring is None:
        _write_record(path, record | secrets_of_it)
        return
    # Random: two state folders of one user share a keyring, and may have log-ins of one name.
    entry = f"mega {path.stem} {secrets.token_hex(8)}"
    keyring.put(entry, json.dumps(secrets_of_it))
    try:
        _write_record(path, record | {"keyring": entry})
    except BaseException:
        keyring.remove(entry)
        raise


def _write_record(path: Path, record: dict[str, str | None]) -> None:
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
    """NotFound, PermissionDenied; UsageError when it is no session. For one in a keyring: Unavailable when that is
    locked, Unsupported when there is none (any more)."""
    try:
        record = json.loads(path.read_text())
        if (entry := record.get("keyring")) is not None:
            record |= _from_keyring(str(entry), path)
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
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        # The chained error could quote the file.
        raise UsageError(f"{path} holds no session: remove it and log in again") from None


def _from_keyring(entry: str, path: Path) -> dict[str, Any]:
    kept = open_keyring().get(entry)
    if kept is None:
        raise NotFound(f"the keyring has lost the session of {path}: remove that file and log in again")
    found = json.loads(kept)
    return {"sid": found["sid"], "key": found["key"]}


def remove_session(path: Path) -> None:
    """Forget it, wherever it is. One that is gone is no error. PermissionDenied; Unavailable or Unsupported when it is
    in a keyring that cannot be reached: the file stays then, for another try."""
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return
    except ValueError:
        record = None    # no session: nothing but the file is to be removed
    except OSError as error:
        raise _cannot("read", path, error) from error
    if isinstance(record, dict) and (entry := record.get("keyring")) is not None:
        open_keyring().remove(str(entry))
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot("remove", path, error) from error


def _cannot(what: str, path: Path, error: OSError) -> SerpentError:
    return PermissionDenied(f"cannot {what} {path}: {error.strerror}")
