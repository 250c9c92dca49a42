"""``login``, ``logout``, ``whoami``, ``session``: this machine's access to MEGA accounts and links.

A password is used once and not kept; what is kept, in the user's keyring or readable by this user only, is the session
that the service gave for it and the account's master key, or the key of a link.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from serpentfs import config as configuration
from serpentfs.cli import arguments as options
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.failures import leaves
from serpentfs.cli.links import read_link, read_link_password
from serpentfs.cli.output import human_size, print_json, printable, tell_pending
from serpentfs.cli.remotes import DEFAULT_LOGIN, passphrase_source, proxy_of, resolve, session_of
from serpentfs.cli.running import stop_owner
from serpentfs.clouds.proxy import Proxy
from serpentfs.clouds.registry import session_spec
from serpentfs.config import REMOTE_NAME, SESSION_STORES
from serpentfs.credentials import ask, read_passphrase
from serpentfs.daemon import accounts as mega
from serpentfs.daemon.lock import read_owner
from serpentfs.daemon.places import (
    forget_url,
    make_private_directory,
    places_of,
    remember_url,
    session_file,
    state_home,
)
from serpentfs.errors import AlreadyExists, Unavailable, Unsupported, UsageError
from serpentfs.system_keyring import SystemKeyring, open_keyring
from serpentfs.tree.store import journalled_changes

if TYPE_CHECKING:
    from serpentfs.clouds.mega.session import Session

logger = logging.getLogger(__name__)

DEFAULT_LINK = "link"
API_VARIABLE = "SERPENTFS_MEGA_API"
_EMAIL = re.compile(r"[^@\s/#:]+@[^@\s/#:]+")


def add_login(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=login)
    parser.add_argument(
        "account", metavar="EMAIL|LINK", nargs="?",
        help="a MEGA account, or a public link (-: read from standard input, where nobody else sees its key)",
    )
    parser.add_argument(
        "--name", type=options.value_of(_parse_name, "name"),
        help=f"what to call it (default: {DEFAULT_LOGIN}, for a link {DEFAULT_LINK})",
    )
    parser.add_argument("--auth-code", metavar="CODE", help="two-factor code; you are asked if it is needed")
    parser.add_argument("--link-file", type=Path, metavar="FILE", help="read a public link from FILE")
    parser.add_argument(
        "--session-store", choices=SESSION_STORES,
        help="where the session is kept: the system's keyring, a file that only you can read, or (auto) the keyring "
        "where there is one",
    )
    parser.add_argument("--api", metavar="URL", help=argparse.SUPPRESS)
    options.add_passphrase(parser, "password of the account, or of a link that has one")


def add_logout(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=logout)
    _add_remote(parser)
    parser.add_argument("--keep-session", action="store_true", help="only end what runs; the log-in stays")
    parser.add_argument("--now", action="store_true", help="do not wait for uploads; they go on after the next log-in")


def add_whoami(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=whoami)
    _add_remote(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_session(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=session)
    _add_remote(parser)
    parser.add_argument("--show", action="store_true", help="print it though the output is no terminal")


def _add_remote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "remote", metavar="REMOTE", nargs="?", default=f"{DEFAULT_LOGIN}:", help=options.LOGIN_HELP
    )


def _parse_name(text: str) -> str:
    name = text.removesuffix(":")
    if not REMOTE_NAME.fullmatch(name):
        raise UsageError(f'"{text}" is no name for a remote: letters, digits, "_", "-", "."')
    return name


def login(arguments: argparse.Namespace) -> ExitCode:
    word: str | None = arguments.account
    if (word is None) == (arguments.link_file is None):
        raise UsageError("either an account's e-mail address, or a link (-: from standard input), or --link-file FILE")
    is_account = word is not None and _EMAIL.fullmatch(word) is not None
    if word is not None and not is_account and word != "-" and "/" not in word and "#" not in word:
        raise UsageError("neither an e-mail address nor a link")
    name: str = arguments.name or (DEFAULT_LOGIN if is_account else DEFAULT_LINK)
    path = session_file(name)
    if path.exists():
        raise AlreadyExists(f"there is a log-in called {name}: serpentfs logout {name}: first, or choose a --name")
    store = _session_store(arguments)
    keyring = _keyring_for(store)
    proxy = _proxy(arguments, name)
    made = _log_in(arguments, word, proxy) if is_account and word is not None else _open_link(arguments, word, proxy)
    _keep(made, name, path, keyring, proxy, or_file=store == "auto")
    print(f"logged in as {made.email}" if made.kind == "account" else "the link can be opened, read-only")
    print(f"try: serpentfs ls {name}:")
    return ExitCode.OK


def _session_store(arguments: argparse.Namespace) -> str:
    chosen: str | None = arguments.session_store
    if chosen is not None:
        return chosen
    path: Path | None = arguments.config
    return configuration.load(path or configuration.default_path(), must_exist=path is not None).session_store


def _keyring_for(store: str) -> SystemKeyring | None:
    """Found before anything is asked or made: who insists on a keyring that is not there gets no session."""
    if store == "file":
        return None
    try:
        return open_keyring(recommended=store == "auto")
    except Unsupported as error:
        if store == "keyring":
            raise
        logger.debug("the session goes to a file: %s", error)
        return None


def _keep(
    made: Session, name: str, path: Path, keyring: SystemKeyring | None, proxy: Proxy, *, or_file: bool
) -> None:
    from serpentfs.clouds.mega.session import remove_session, save_session

    try:
        make_private_directory(state_home())
        make_private_directory(path.parent)
        try:
            save_session(path, made, keyring)
        except Unavailable as error:
            if not or_file:
                raise
            logger.warning("%s: the session is kept in a file that only you can read", error)
            save_session(path, made)
        remember_url(session_spec(name).canonical, mega.remote_id_of(made, session_spec(name).root))
    except BaseException:
        # Nobody could end it later: its only trace would be in the account's list of sessions.
        try:
            remove_session(path)
        finally:
            if made.kind == "account":
                trio.run(mega.end, made, proxy)
        raise


def _api_url(arguments: argparse.Namespace) -> str:
    from serpentfs.clouds.mega.session import DEFAULT_API

    return str(arguments.api or os.environ.get(API_VARIABLE) or DEFAULT_API).rstrip("/")


def _proxy(arguments: argparse.Namespace, name: str) -> Proxy:
    """Of a log-in that is to be called ``name``: a table of that name may have one already."""
    path: Path | None = arguments.config
    config = configuration.load(path or configuration.default_path(), must_exist=path is not None)
    return proxy_of(config, config.remotes.get(name))


def _log_in(arguments: argparse.Namespace, email: str, proxy: Proxy) -> Session:
    from serpentfs.clouds.mega.session import MfaRequired

    api = _api_url(arguments)
    password = read_passphrase(passphrase_source(arguments, None), f"Password of {email}")

    def attempt(code: str | None) -> Session:
        return trio.run(mega.log_in, api, email, password, code, proxy)

    try:
        return attempt(arguments.auth_code)
    except (MfaRequired, BaseExceptionGroup) as error:
        if not any(isinstance(one, MfaRequired) for one in leaves(error)):
            raise
        return attempt(ask(f"Two-factor code of {email}", "two-factor code", "--auth-code").strip())


def _open_link(arguments: argparse.Namespace, word: str | None, proxy: Proxy) -> Session:
    from serpentfs.clouds.mega.links import needs_password, parse_link
    from serpentfs.clouds.mega.session import Session

    text = read_link(word, arguments.link_file)
    password = None
    if needs_password(text):
        password = read_link_password(arguments)
    link = parse_link(text, password)
    made = Session(
        kind="folder-link" if link.kind == "folder" else "file-link", api=_api_url(arguments), user=link.handle,
        email="", sid="", key=link.key, node=link.node,
    )
    trio.run(mega.check_link, made, proxy)
    return made


def logout(arguments: argparse.Namespace) -> ExitCode:
    from serpentfs.clouds.mega.session import remove_session

    target = resolve(arguments)
    made = session_of(target)
    name = target.spec.location
    for _, remote_id in mega.trees_of(name, made):
        if note := read_owner(places_of(remote_id).lock):
            stop_owner(note, now=arguments.now)
    pending = sum(journalled_changes(places_of(id_).state / "state.db") for _, id_ in mega.trees_of(name, made))
    if arguments.keep_session:
        return tell_pending(pending, "the next start goes on with that")
    if made.kind == "account":
        trio.run(mega.end, made, target.spec.proxy)
    remove_session(session_file(name))
    for spec, _ in mega.trees_of(name, made):
        forget_url(spec.canonical)
    print(f"logged out of {name}")
    return tell_pending(pending, "they are kept and go up after the next log-in to this account")


def whoami(arguments: argparse.Namespace) -> ExitCode:
    target = resolve(arguments)
    found = trio.run(mega.describe, session_of(target), target.spec.proxy)
    if arguments.json:
        print_json(found)
        return ExitCode.OK
    for label, value in found.items():
        if value != "":
            shown = human_size(int(value)) if label in ("total", "used") else printable(str(value))
            print(f"{label:<7} {shown}")
    return ExitCode.OK


def session(arguments: argparse.Namespace) -> ExitCode:
    from serpentfs.clouds.mega.session import session_string

    made = session_of(resolve(arguments))
    if made.kind != "account":
        raise UsageError("a link has no session")
    if not sys.stdout.isatty() and not arguments.show:
        raise UsageError(
            "whoever has the session string has the whole account: it is printed on a terminal only, or with --show"
        )
    print(session_string(made))
    if sys.stdout.isatty():
        print("whoever has this string has the whole account, until serpentfs logout", file=sys.stderr)
    return ExitCode.OK
