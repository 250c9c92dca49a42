"""What a user's program does over WebDAV and FTP: ``-m tests.bench.door_client OPERATION URL NUMBERS…``, as
``client.py`` does it below a mount. The contents are those of ``client.py``, too."""

from __future__ import annotations

import base64
import ftplib
import http.client
import threading
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote, unquote, urlsplit

from tests.bench.client import BLOCK_SIZE, Content, run, small_name

_TIMEOUT = 600.0


class _Web:
    """One connection that stays open, and the path that its URL names."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        self._headers = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
        self.path = parts.path
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT)
        # A bcrypt or scrypt of the password is part of the first request only, so that one is made before.
        self.ask("OPTIONS", "/").read()

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Iterator[bytes] | None = None
    ) -> http.client.HTTPResponse:
        self._connection.request(method, quote(unquote(path)), body, self._headers | dict(headers or {}))
        response = self._connection.getresponse()
        if response.status >= 400:
            raise ValueError(f"{method} {path}: {response.status} {response.read(200)!r}")
        return response


def _receive(readinto: Callable[[memoryview], int], content: Content, size: int) -> None:
    """All of what ``content`` tells, of that size; of each block only its index is compared."""
    block, at = memoryview(bytearray(BLOCK_SIZE)), 0
    while count := readinto(block[at % BLOCK_SIZE :]):
        at += count
        if at % BLOCK_SIZE == 0 or at == size:
            content.compare_stamp((at - 1) // BLOCK_SIZE, block)
    if at != size:
        raise ValueError(f"{at} bytes came instead of {size}")


def get(url: str, size: str) -> Callable[[], None]:
    """What ``write`` of ``client.py`` made."""
    web, content = _Web(url), Content()

    def work() -> None:
        _receive(web.ask("GET", web.path).readinto, content, int(size))

    return work


def put(url: str, size: str) -> Callable[[], None]:
    """A new file, as ``write`` of ``client.py`` makes it, until the answer."""
    web, content = _Web(url), Content()

    def work() -> None:
        web.ask("PUT", web.path, {"Content-Length": size}, content.blocks(int(size))).read()

    return work


def propfind(url: str, files: str) -> Callable[[], None]:
    """Of depth 1, of a folder with that many files."""
    web = _Web(url)

    def work() -> None:
        text = web.ask("PROPFIND", f"{web.path}/", {"Depth": "1"}).read()
        shown = text.count(b"response>") // 2 - 1
        if shown != int(files):
            raise ValueError(f"PROPFIND shows {shown} files instead of {files}")

    return work


def parallel_gets(url: str, files: str, size: str) -> Callable[[], None]:
    """That many files of a folder at once."""
    webs = [_Web(f"{url}/{quote(small_name(number))}") for number in range(int(files))]
    contents = [Content() for _ in webs]     # before: they take longer than the files
    failures: list[Exception] = []

    def one(web: _Web, content: Content) -> None:
        try:
            _receive(web.ask("GET", web.path).readinto, content, int(size))
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(error)

    def work() -> None:
        threads = [threading.Thread(target=one, args=pair) for pair in zip(webs, contents, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise ValueError(f"{len(failures)} of {files} failed: {failures[0]}")

    return work


def _ftp(url: str) -> tuple[ftplib.FTP, str]:
    """Logged in, and the path that the URL names."""
    parts = urlsplit(url)
    ftp = ftplib.FTP(timeout=_TIMEOUT, encoding="utf-8")
    ftp.connect(parts.hostname or "", parts.port or 21)
    ftp.login(unquote(parts.username or ""), unquote(parts.password or ""))
    ftp.voidcmd("TYPE I")
    return ftp, unquote(parts.path)


def retr(url: str, size: str) -> Callable[[], None]:
    """As ``get``."""
    ftp, path = _ftp(url)
    content = Content()

    def work() -> None:
        with ftp.transfercmd(f"RETR {path}") as data:
            _receive(data.recv_into, content, int(size))
        ftp.voidresp()

    return work


def stor(url: str, size: str) -> Callable[[], None]:
    """As ``put``."""
    ftp, path = _ftp(url)
    content = Content()

    def work() -> None:
        with ftp.transfercmd(f"STOR {path}") as data:
            for block in content.blocks(int(size)):
                data.sendall(block)
        ftp.voidresp()

    return work


def mlsd(url: str, files: str) -> Callable[[], None]:
    """Of a folder with that many files."""
    return _ftp_listing(url, files, "MLSD", lambda line: "type=file" in line.lower())


def long_list(url: str, files: str) -> Callable[[], None]:
    """As ``mlsd``, by LIST."""
    return _ftp_listing(url, files, "LIST", lambda line: line.startswith("-"))


def _ftp_listing(url: str, files: str, command: str, is_file: Callable[[str], bool]) -> Callable[[], None]:
    ftp, path = _ftp(url)

    def work() -> None:
        lines: list[str] = []
        ftp.retrlines(f"{command} {path}", lines.append)
        shown = sum(map(is_file, lines))
        if shown != int(files):
            raise ValueError(f"{command} shows {shown} files instead of {files}")

    return work


OPERATIONS = {one.__name__: one for one in (get, put, propfind, parallel_gets, retr, stor, mlsd, long_list)}


if __name__ == "__main__":
    run(OPERATIONS)
