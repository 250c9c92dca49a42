"""HTTP as MEGA's servers speak it: pooled connections, TLS that is always verified, proxies.

Answers carry whatever status they have; only the want of an answer is an error here. Knows nothing of commands.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import trio

from serpentfs.clouds.mega.limits import CircuitBreaker, TokenBucket
from serpentfs.clouds.proxy import Proxy
from serpentfs.errors import Unavailable, UsageError

_CONNECT = 15.0
_LARGEST_REPLY = 64 * 2**20
"""Bytes of an answer that is held in memory as a whole; a tree is streamed."""
_MOST_BREAKERS = 256


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


class StreamedReply:
    """An answer whose body comes in pieces."""

    def __init__(self, response: httpx.Response, host: str) -> None:
        self._response = response
        self._host = host
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Unavailable when the connection breaks or stands still."""
        try:
            # As they come: pieces that are gathered to a size are lost when the connection breaks.
            async for piece in self._response.aiter_raw():
                yield piece
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _unavailable(self._host, error) from error


class _Content:
    """The body of a request. The library leaves each request in a reference cycle, which is collected some hundred
    requests later: given as bytes, the bodies of an upload would take a gigabyte until then."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data

    def forget(self) -> None:
        self._data = b""


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@functools.cache
def _tls_context(certificates: str | None, directory: str | None) -> ssl.SSLContext:
    """Made once: reading the certificates that the system trusts (or the two variables name) takes 40 ms."""
    return ssl.create_default_context()


class Transport:
    """``connections``: open at a time, over all hosts. Whatever is not on this machine is spoken to over TLS."""

    def __init__(
        self, *, connections: int = 16, requests_per_second: float = 50.0, proxy: Proxy = Proxy()
    ) -> None:
        """NotFound and UsageError when the password file of the proxy cannot be used."""
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        context = _tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        self._remote = httpx.AsyncClient(
            limits=limits, verify=context, proxy=proxy.url(), trust_env=proxy.is_auto, follow_redirects=False
        )
        # Without a proxy for this machine: what serves there is meant to be reached directly.
        self._local = httpx.AsyncClient(limits=limits, verify=context, trust_env=False, follow_redirects=False)
        self._bucket = TokenBucket(requests_per_second, 2 * requests_per_second)
        self._breakers: dict[str, CircuitBreaker] = {}
        self.trouble: str | None = None
        """Why the last request got no answer, None when it got one."""

    async def aclose(self) -> None:
        await self._remote.aclose()
        await self._local.aclose()

    async def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        storage: bool = False,
    ) -> Reply:
        """The whole answer. Unavailable; ``timeout``: seconds in which nothing comes or goes."""
        async with self.stream(method, url, body=body, headers=headers, timeout=timeout, storage=storage) as reply:
            pieces, size = [], 0
            async for piece in reply.chunks():
                pieces.append(piece)
                size += len(piece)
                if size > _LARGEST_REPLY:
                    raise Unavailable("the server sent an answer that is too large to be one")
            return Reply(reply.status, reply.headers, b"".join(pieces))

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        storage: bool = False,
    ) -> AsyncIterator[StreamedReply]:
        """An answer as it comes. Unavailable when there is none. ``storage``: a piece of a file, which each needs leave
        of the API: only requests to that are limited in their rate."""
        host = _host(url)
        wait = 0.0 if storage else self._bucket.take(trio.current_time())
        if wait:
            await trio.sleep(wait)
        breaker = self._breaker(host)
        if not breaker.may_send(trio.current_time()):
            raise Unavailable(f"{host} did not answer several times: it is left alone for some seconds")
        client = self._local if is_loopback(host) else self._remote
        # What is kept is decrypted or parsed here: nothing is to be unpacked on the way.
        sent = {"accept-encoding": "identity", **(headers or {})}
        if body:
            sent["content-length"] = str(len(body))
        content = _Content(body)
        timeouts = httpx.Timeout(timeout, connect=_CONNECT)
        request = client.build_request(
            method, url, content=content if body else b"", headers=sent, timeout=timeouts
        )
        try:
            try:
                response = await client.send(request, stream=True)
            except httpx.HTTPError as error:
                breaker.failed(trio.current_time())
                failure = _unavailable(host, error)
                self.trouble = str(failure)
                raise failure from error
            breaker.answered()
            self.trouble = None
            try:
                yield StreamedReply(response, host)
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await response.aclose()
        finally:
            content.forget()

    def _breaker(self, host: str) -> CircuitBreaker:
        if host not in self._breakers and len(self._breakers) >= _MOST_BREAKERS:
            self._breakers.clear()
        return self._breakers.setdefault(host, CircuitBreaker())


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise Unavailable("the server named a URL that is none") from error
    if parts.scheme not in ("http", "https") or not host:
        raise Unavailable("the server named a URL that is none")
    if parts.scheme == "http" and not is_loopback(host):
        raise Unavailable(f"{host} is to be reached without TLS, which is not done")
    return host


def check_endpoint(url: str) -> str:
    """The API's address as given by a user, without a slash at its end. UsageError unless it is https, or http on this
    machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url.rstrip("/")
    if parts.scheme == "http" and parts.hostname and is_loopback(parts.hostname):
        return url.rstrip("/")
    raise UsageError("the API's address begins with https:// (http:// is for this machine only)")


def _unavailable(host: str, error: Exception) -> Unavailable:
    # Names of classes only: messages of the library may quote the URL, and with it the session. What OpenSSL has
    # against a certificate is a phrase of its own.
    refused = _refused_certificate(error)
    if refused is not None:
        return Unavailable(f"{host} does not prove who it is: {refused}")
    return Unavailable(f"{host} cannot be reached: {type(error).__name__}")


def _refused_certificate(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None
