"""REMOTE, as a user writes it, and the store that it names.

    vault+file:///srv/vault                                     a folder
    vault+s3://bucket/prefix?endpoint=https://host&region=r     a bucket, or a part of one
    vault+memory:///                                            gone with the process; for tests and trials
    mega+session://name?root=inbox                              what ``serpentfs login`` keeps under that name
    ...#/Photos                                                 a folder inside the drive
    name   name:   name:/Photos                                 a name from the configuration or of a log-in

A URL ends up in process lists and histories, so it never holds a secret: S3 keys come from the environment
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN), a profile of ~/.aws, or the machine's role; the session
of a MEGA account and the key of a link are in the user's keyring or a file that only this user can read. Whatever is
wrong is a UsageError of one line that does not repeat what could be a secret.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from serpentfs.clouds.proxy import Proxy
from serpentfs.config import MEGA_ROOTS, REMOTE_NAME
from serpentfs.errors import Unsupported, UsageError

if TYPE_CHECKING:
    from serpentfs.clouds.blobs.base import BlobStore

_log = logging.getLogger(__name__)

CLOUDS: Mapping[str, tuple[str, ...]] = {"vault": ("file", "s3", "memory"), "mega": ("session",)}
"""Kinds of remote, and the stores that each can be in."""
SCHEMES = tuple(scheme for schemes in CLOUDS.values() for scheme in schemes)
S3_OPTIONS = ("endpoint", "region", "profile", "virtual-host")
SESSION_OPTIONS = ("root",)
_NAMED = re.compile(rf"(?P<name>{REMOTE_NAME.pattern})(?::(?P<path>/.*)?)?", re.DOTALL)
_URL = re.compile(r"(?P<cloud>[a-z0-9]+)\+(?P<scheme>[a-z0-9.-]+)://(?P<rest>.*)", re.DOTALL | re.IGNORECASE)
_MEGA_LINK = re.compile(r"https?://(?:[a-z0-9-]+\.)*mega\.(?:nz|co\.nz|io|app)/", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_SECRET_OPTION = re.compile(r"key|secret|token|password|passphrase|credential", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class NamedRemote:
    """A name to be looked up in the configuration, and a folder in its drive."""

    name: str
    path: str = "/"


@dataclass(frozen=True, slots=True)
class RemoteSpec:
    """A remote's cloud and store. ``path`` is the folder of the drive that is meant; it is not part of the remote."""

    cloud: str
    scheme: str
    location: str
    """The folder (``file``), the bucket (``s3``), the name of the log-in (``session``), or empty."""
    prefix: str = ""
    """Where in the bucket: without slashes around it."""
    options: Mapping[str, str] = field(default_factory=dict)
    path: str = "/"
    proxy: Proxy = field(default_factory=Proxy, compare=False)
    """How the store is reached. Not part of the remote either."""

    @property
    def canonical(self) -> str:
        """One spelling for all URLs of the same remote; nothing in it tells who asks (no profile, no ``path``)."""
        if self.scheme == "file":
            return f"{self.cloud}+file://{quote(self.location)}"
        place = f"{self.location}/{quote(self.prefix)}" if self.prefix else self.location
        identity = sorted((name, value) for name, value in self.options.items() if name != "profile")
        query = f"?{urlencode(identity, safe=':/')}" if identity else ""
        return f"{self.cloud}+{self.scheme}://{place}{query}"

    @property
    def root(self) -> str:
        """Which of ``MEGA_ROOTS`` the drive shows; ``cloud`` for what has no others."""
        return self.options.get("root", MEGA_ROOTS[0])

    def with_root(self, root: str) -> RemoteSpec:
        """The same account showing another of ``MEGA_ROOTS``. UsageError for a remote that is no MEGA account."""
        if self.cloud != "mega":
            raise UsageError(f"{self.canonical} has no other roots: --root is for MEGA accounts")
        return replace(self, options=_session_options({"root": root}))


def session_spec(name: str, path: str = "/") -> RemoteSpec:
    """The remote that a log-in under ``name`` made."""
    return RemoteSpec("mega", "session", name, path=path)


def parse_remote(text: str) -> RemoteSpec | NamedRemote:
    """What a REMOTE argument means. UsageError."""
    match = _URL.fullmatch(text)
    if match is not None:
        return _parse_url(match["cloud"].lower(), match["scheme"].lower(), match["rest"])
    if "://" in text:
        raise UsageError(f"a remote's URL begins with CLOUD+STORE://, such as vault+file:// or vault+s3://{_hint(text)}")
    named = _NAMED.fullmatch(text)
    if named is not None and "\0" not in text:
        return NamedRemote(named["name"], _drive_path(named["path"] or "/"))
    if "/" in text:
        raise UsageError(f"not a remote: a folder is written vault+file://{quote(posixpath.abspath(text))}")
    raise UsageError("not a remote: expected a URL such as vault+file:///srv/vault, or a name from the configuration")


def _hint(text: str) -> str:
    scheme = text.partition("://")[0].lower()
    if scheme in ("http", "https") and _MEGA_LINK.match(text):
        return "; a MEGA link is given to serpentfs login"
    cloud = next((cloud for cloud, schemes in CLOUDS.items() if scheme in schemes), None)
    return f"; did you mean {cloud}+{scheme}://...?" if cloud else ""


def _parse_url(cloud: str, scheme: str, rest: str) -> RemoteSpec:
    if cloud not in CLOUDS:
        raise UsageError(f'unknown kind of remote "{cloud}"; there is: {", ".join(CLOUDS)}')
    if scheme not in CLOUDS[cloud]:
        raise UsageError(f'unknown kind of store "{scheme}" for {cloud}; there is: {", ".join(CLOUDS[cloud])}')
    if any(ord(character) < 32 for character in unquote(rest)):
        raise UsageError("a remote's URL holds control characters")
    try:
        url = urlsplit(f"{scheme}://{rest}")
    except ValueError as error:
        raise UsageError(f"the remote's URL is malformed: {error}") from error
    if "@" in url.netloc:
        raise UsageError(
            "a remote's URL must not hold credentials, because other users can see it: "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile (?profile=...)"
        )
    path = _drive_path(unquote(url.fragment) or "/")
    options = _options(scheme, url.query)
    if scheme == "file":
        return RemoteSpec(cloud, scheme, _folder(url), path=path)
    if scheme == "memory":
        return RemoteSpec(cloud, scheme, url.netloc + url.path.rstrip("/"), path=path)
    if scheme == "session":
        if not REMOTE_NAME.fullmatch(url.netloc) or url.path not in ("", "/"):
            raise UsageError("a MEGA remote is written mega+session://NAME, with the name that it was logged in under")
        return RemoteSpec(cloud, scheme, url.netloc, options=options, path=path)
    if not _BUCKET.fullmatch(url.netloc):
        raise UsageError("an S3 remote is written vault+s3://BUCKET/PREFIX?endpoint=https://HOST[:PORT]&region=REGION")
    prefix = unquote(url.path).strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise UsageError(f"not a prefix in a bucket: {prefix}")
    return RemoteSpec(cloud, scheme, url.netloc, prefix, options, path)


def _folder(url: SplitResult) -> str:
    if url.netloc not in ("", "localhost"):
        raise UsageError("a folder's URL has three slashes: vault+file:///srv/vault")
    folder = unquote(url.path)
    if not folder.startswith("/"):
        raise UsageError("a folder's URL holds an absolute path: vault+file:///srv/vault")
    # "//" at the start means something else to POSIX; normpath keeps it.
    return posixpath.normpath("/" + folder.lstrip("/"))


def _options(scheme: str, query: str) -> dict[str, str]:
    known = {"s3": S3_OPTIONS, "session": SESSION_OPTIONS}.get(scheme, ())
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            if _SECRET_OPTION.search(name):
                raise UsageError(f"a remote's URL must not hold credentials ({name}): other users can see it")
            usable = f"; there are: {', '.join(known)}" if known else ""
            raise UsageError(f'a {scheme} remote has no option "{name}"{usable}')
        if name in options:
            raise UsageError(f'the option "{name}" is given twice')
        if not value:
            raise UsageError(f'the option "{name}" has no value')
        options[name] = value
    if scheme == "session":
        return _session_options(options)
    if "endpoint" in options:
        options["endpoint"] = _endpoint(options["endpoint"])
    if options.get("virtual-host", "true") not in ("true", "false"):
        raise UsageError('the option "virtual-host" is true or false')
    return options


def _session_options(options: Mapping[str, str]) -> dict[str, str]:
    """``root`` is left out where it is the usual one, so that one tree has one URL."""
    root = options.get("root", MEGA_ROOTS[0])
    if root not in MEGA_ROOTS:
        raise UsageError(f'"{root}" is no root of a MEGA account; there are: {", ".join(MEGA_ROOTS)}')
    return {} if root == MEGA_ROOTS[0] else {"root": root}


def _endpoint(text: str) -> str:
    """``scheme://host[:port]`` of an S3 service; https unless it says otherwise."""
    try:
        url = urlsplit(text if "://" in text else f"https://{text}")
        host, port = url.hostname, url.port
    except ValueError as error:
        raise UsageError("the endpoint is not a URL such as https://s3.example.org:9000") from error
    if "@" in url.netloc:
        raise UsageError("an endpoint must not hold credentials: other users can see it")
    if url.scheme not in ("http", "https") or not host or url.path not in ("", "/") or url.query or url.fragment:
        raise UsageError("the endpoint is not a URL such as https://s3.example.org:9000")
    shown = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[url.scheme]
    return f"{url.scheme}://{shown}" + (f":{port}" if port not in (None, usual) else "")


def _drive_path(path: str) -> str:
    """An absolute path in the drive, without empty components."""
    if not path.startswith("/"):
        raise UsageError(f'a folder in the drive begins with "/": {path}')
    parts = [part for part in path.split("/") if part]
    if "\0" in path or any(part in (".", "..") for part in parts):
        raise UsageError(f"not a folder in the drive: {path!r}")
    return "/" + "/".join(parts)


def open_store(spec: RemoteSpec) -> BlobStore:
    """The store of a vault. Nothing is asked of it yet, so it may turn out to be unreachable or not to exist.
    UsageError when an S3 store lacks what it needs, Unsupported for a remote that keeps no store of objects, and for
    one that is to be reached through another proxy than the one before."""
    if spec.cloud != "vault":
        raise Unsupported(f"{spec.canonical} is no vault")
    # Only here: who only wants to know what a URL names does without a store, and a vault in a folder without the
    # large library of the others.
    if spec.scheme == "file":
        from serpentfs.clouds.blobs.files import FileStore

        return FileStore(Path(spec.location))
    import opendal

    from serpentfs.clouds.blobs.opendal import OpendalStore
    from serpentfs.clouds.blobs.opendal_proxy import reach_through

    if spec.scheme == "memory":
        return OpendalStore(opendal.Operator("memory"))
    reach_through(spec.proxy)
    settings = _s3_settings(spec, os.environ)
    try:
        operator = opendal.Operator("s3", **settings)
    except opendal.exceptions.ConfigInvalid as error:
        raise UsageError(f"the store cannot be opened: {str(error).partition(chr(10))[0]}") from error
    return OpendalStore(operator)


def endpoint_of(spec: RemoteSpec, environment: Mapping[str, str]) -> str | None:
    """The URL at which the service of an S3 store answers; None where neither a URL nor a region is known."""
    options = spec.options
    endpoint = options.get("endpoint") or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = _region(options, environment)
    return endpoint or (f"https://s3.{region}.amazonaws.com" if region else None)


def _region(options: Mapping[str, str], environment: Mapping[str, str]) -> str | None:
    return options.get("region") or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")


def _s3_settings(spec: RemoteSpec, environment: Mapping[str, str]) -> dict[str, str]:
    """OpenDAL's settings for a bucket."""
    options = spec.options
    settings = {"bucket": spec.location, "root": f"/{spec.prefix}"}
    endpoint = options.get("endpoint") or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    region = _region(options, environment)
    if endpoint:
        settings["endpoint"] = endpoint
        # Services other than Amazon's hardly care, but a signature needs one; this is the one they take.
        region = region or "us-east-1"
    if not region:
        raise UsageError("the bucket's region is needed: add ?region=REGION or set AWS_REGION")
    settings["region"] = region
    if options.get("virtual-host") == "true":
        settings["enable_virtual_host_style"] = "true"
    if "profile" in options:
        settings["profile"] = options["profile"]
    if not _finds_credentials(options, environment):
        _log.warning("no S3 credentials in the environment or in ~/.aws: trying the role of this machine")
    return settings


def _finds_credentials(options: Mapping[str, str], environment: Mapping[str, str]) -> bool:
    if "profile" in options or any(
        name in environment
        for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SHARED_CREDENTIALS_FILE")
    ):
        return True
    home = Path(environment.get("HOME", "/"))
    return (home / ".aws" / "credentials").exists() or (home / ".aws" / "config").exists()
