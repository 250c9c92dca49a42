"""Commands of the API: which there are, and those on accounts, sessions and user attributes (specification, 4 and 8).

A command is a function of the service, who sends it, and its JSON object; it gives the answer or raises Refused.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Any

from serpentfs.clouds.mega.encoding import decode, encode, write_mpi
from serpentfs.clouds.mega.keys import v2_stored_hash
from tests.mega_emulator import share_commands, tree_commands
from tests.mega_emulator.service import Service
from tests.mega_emulator.state import Account, Actor, Refused
from tests.mega_emulator.views import Json, user_object

Command = Callable[[Service, Actor, Json], Any]

_ATTRIBUTE_MARKS = "+*^#"
_PLAIN_ATTRIBUTES = ("firstname", "lastname", "birthday", "country")


def execute(service: Service, actor: Actor, command: Any) -> Any:
    """The answer to one command; an error is a negative number."""
    if not isinstance(command, dict):
        return -2
    name = command.get("a")
    run = _COMMANDS.get(name) if isinstance(name, str) else None
    if run is None:
        return -2
    service.count(f"command {name}")
    try:
        return run(service, actor, command)
    except Refused as refused:
        return refused.code
    except (KeyError, TypeError, ValueError, IndexError):
        return -2  # the command is not of the form it must have


# log-in


def _us0(service: Service, _: Actor, command: Json) -> Json:
    email = str(command["user"]).lower()
    account = service.state.by_email.get(email)
    if account is None:
        # Always the same for one address, so that nobody learns which addresses have accounts.
        return {"v": 2, "s": encode(hashlib.sha256(service.secret + email.encode()).digest())}
    return {"v": 2, "s": account.salt} if account.version == 2 else {"v": 1}


def _us(service: Service, actor: Actor, command: Json) -> Json:
    if "user" not in command:
        told = _session_answer(actor.signed_in())
        if "sek" in command:
            told["sek"] = command["sek"]
        return told
    account = service.account(command["user"])
    if account.modulus:
        uh = decode(str(command["uh"]))
        proof = v2_stored_hash(uh) if account.version == 2 else uh
        if not secrets.compare_digest(proof, account.proof):
            raise Refused(-9)
        if account.mfa is not None and "mfa" not in command:
            raise Refused(-26)
        if account.mfa is not None and command["mfa"] != account.mfa:
            raise Refused(-5)
    if account.blocked:
        raise Refused(-16)
    told = _session_answer(account)
    if account.modulus:
        sid = service.state.new_session(account)
        room = (account.modulus.bit_length() + 7) // 8 - 2
        message = int.from_bytes(sid + secrets.token_bytes(room - len(sid)), "big")
        told["csid"] = encode(write_mpi(pow(message, account.exponent, account.modulus)))
    else:
        # The client proves by its master key that the challenge it left at registration is its own.
        service.state.sessions[account.challenge] = account
        told["tsid"] = account.challenge
    if "sek" in command:
        told["sek"] = command["sek"]
    return told


def _session_answer(account: Account) -> Json:
    told: Json = {"k": account.wrapped_key, "u": account.handle, "ach": 1}
    if account.private_key:
        told["privk"] = account.private_key
    return told


def _sml(service: Service, actor: Actor, _: Json) -> int:
    actor.signed_in()
    service.state.sessions.pop(str(actor.sid), None)
    return 0


def _usr(service: Service, actor: Actor, command: Json) -> int:
    """All other sessions; those that are named by handles are not told apart."""
    if command.get("ko") != 1:
        raise Refused(-2)
    service.state.end_sessions(actor.signed_in(), but=actor.sid)
    return 0


# the account


def _ug(_: Service, actor: Actor, __: Json) -> Json:
    account = actor.signed_in()
    told: Json = {
        "u": account.handle, "s": 1, "email": account.email, "name": account.name, "k": account.wrapped_key, "c": 1,
        "ts": "", "since": 0, "flags": {},
    }  # fmt: skip
    if account.public_key:
        told |= {"pubk": account.public_key, "privk": account.private_key}
    return told


def _uq(service: Service, actor: Actor, _: Json) -> Json:
    account = actor.signed_in()
    told: Json = {}
    for root in account.roots.values():
        counts = [0, 0, 0, 0, 0]
        for node in service.state.subtree(service.state.nodes[root]):
            if node.type == 0 and service.state.is_version(node):
                counts[3] += node.size
                counts[4] += 1
            elif node.type == 0:
                counts[0] += node.size
                counts[1] += 1
            elif node.type == 1:
                counts[2] += 1
        told[root] = counts
    return {
        "mstrg": account.quota, "cstrg": account.used, "cstrgn": told, "mxfer": 1 << 40, "caxfer": 0, "csxfer": 0,
        "tah": 6, "tar": 0, "tuo": 0, "tua": 0, "srvratio": 0, "utype": 0, "uslw": 9000, "suntil": 0,
    }  # fmt: skip


def _uk(service: Service, actor: Actor, command: Json) -> Json:
    account = service.account(command["u"])
    if not account.public_key:
        raise Refused(-9)
    return {"u": account.handle, "pubk": account.public_key}


def _up(service: Service, actor: Actor, command: Json) -> Any:
    if actor.account is None:
        return _register_temporary(service, command)
    account = actor.account
    if account.mfa is not None and "k" in command and command.get("mfa") != account.mfa:
        raise Refused(-26)
    if "pubk" in command:
        account.public_key, account.private_key = str(command["pubk"]), str(command["privk"])
        numbers = decode(account.public_key)
        bits = int.from_bytes(numbers[:2], "big")
        split = 2 + (bits + 7) // 8
        account.modulus = int.from_bytes(numbers[2:split], "big")
        account.exponent = int.from_bytes(numbers[split + 2:], "big")
    if "k" in command:
        account.wrapped_key = str(command["k"])
        account.proof = decode(str(command["uh"]))
        if "crv" in command:
            account.version = 2
            account.salt = encode(hashlib.sha256(b"mega.nz".ljust(200, b"P") + decode(str(command["crv"]))).digest())
    for name, value in _attributes(command).items():
        _set_attribute(service, account, command, name, str(value))
    return account.handle


def _register_temporary(service: Service, command: Json) -> str:
    handle = encode(secrets.token_bytes(8))
    account = Account(
        handle, f"{handle.lower()}@temporary.invalid", 1, "", b"", str(command["k"]), "", "", 0, 0, None, 1 << 30,
        challenge=str(command["ts"]),
    )  # fmt: skip
    service.state.add_account(account, service.now())
    # ``ts`` is 16 bytes and their encryption; the session puts the account's handle between the two.
    parts = decode(account.challenge)
    if len(parts) != 32:
        raise Refused(-2)
    account.challenge = encode(parts[:16] + handle.encode() + parts[16:])
    return handle


# user attributes


def _attributes(command: Json) -> dict[str, Any]:
    return {name: value for name, value in command.items() if name[:1] in _ATTRIBUTE_MARKS or name in _PLAIN_ATTRIBUTES}


def _set_attribute(service: Service, account: Account, command: Json, name: str, value: str) -> str:
    version = encode(secrets.token_bytes(8))
    account.attributes[name] = (value, version)
    packet = service.packet("ua", command, u=account.handle, ua=[name], v=[version])
    service.events.publish(account.handle, [packet])
    return version


def _upv(service: Service, actor: Actor, command: Json) -> Json:
    account = actor.signed_in()
    told = {}
    for name, given in _attributes(command).items():
        value, version = (given[0], given[1] if len(given) > 1 else "") if isinstance(given, list) else (given, "")
        known = account.attributes.get(name)
        if known is not None and version and version != known[1]:
            raise Refused(-8)
        told[name] = _set_attribute(service, account, command, name, str(value))
    return told


def _uga(service: Service, actor: Actor, command: Json) -> Any:
    account = service.account(command["u"])
    name = str(command["ua"])
    if name[:1] in "*^" and account is not actor.account:
        raise Refused(-11)
    if name not in account.attributes:
        raise Refused(-9)
    value, version = account.attributes[name]
    return {"av": value, "v": version} if command.get("v") else value


# contacts


def _ur(service: Service, actor: Actor, command: Json) -> int:
    """Makes a contact at once, or ends it: requests that wait for an answer are not emulated."""
    account, other = actor.signed_in(), service.account(command["u"])
    visible = int(command.get("l", 1))
    for one, theirs in ((account, other), (other, account)):
        if visible:
            one.contacts[theirs.handle] = None
        else:
            one.contacts.pop(theirs.handle, None)
        told = user_object(theirs, one.handle) | {"c": visible}
        service.events.publish(one.handle, [service.packet("c", command, u=[told], ou=account.handle)])
    return 0


def _wlt(_: Service, __: Actor, ___: Json) -> int:
    return 1


def _ipc(_: Service, __: Actor, ___: Json) -> list[Any]:
    return []


def _pk(_: Service, actor: Actor, __: Json) -> Json:
    actor.signed_in()
    return {}


_COMMANDS: dict[str, Command] = {
    "us0": _us0, "us": _us, "sml": _sml, "usr": _usr,
    "ug": _ug, "uq": _uq, "uk": _uk, "up": _up, "up2": _up, "upv": _upv, "uga": _uga,
    "ur": _ur, "ur2": _ur, "wlt": _wlt, "ipc": _ipc, "pk": _pk,
    "f": tree_commands.fetch, "p": tree_commands.put, "a": tree_commands.set_attributes, "m": tree_commands.move,
    "d": tree_commands.delete, "dv": tree_commands.delete_versions, "u": tree_commands.upload,
    "g": tree_commands.get, "ufa": tree_commands.attribute_storage, "pfa": tree_commands.attach_attribute,
    "l": share_commands.link, "s2": share_commands.share, "k": share_commands.keys,
}  # fmt: skip

