"""Who is compared on a bucket behind a link: ourselves, rclone and s3fs, by the doors that each has; gocryptfs, which
knows no bucket, on a folder of this machine.

Each has a bucket of its own, so that what one leaves behind costs the other nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import ClassVar

import trio

from serpentfs.clouds.blobs.files import FileStore
from serpentfs.clouds.registry import RemoteSpec, open_store, parse_remote
from serpentfs.clouds.vault import VaultCloud, open_vault
from serpentfs.clouds.vault.layout import ROOT
from serpentfs.clouds.vault.masterkey import Masterkey
from tests.bench.contenders import FTP, MOUNT, WEBDAV, Contender, Gocryptfs, Peer, Rclone, Serpent, first_line
from tests.bench.link import BUCKET, KEYS, Link
from tests.bench.traffic import Traffic
from tests.fakes.content import BytesContent
from tests.mounted import PASSPHRASE, WEBDAV_PASSWORD, WEBDAV_USER, Mounted, free_port

_PREFIX = "vault"
_REGION = "us-east-1"


class OnLink(Contender):
    """A contender whose store is at the far end of ``link``."""

    link: Link

    def traffic(self) -> Traffic:
        return self.link.traffic()

    def clean_up(self) -> None:
        super().clean_up()
        self.link.close()


def _door_url(door: str, address: str, path: str) -> str:
    scheme = {WEBDAV: "http", FTP: "ftp"}[door]
    return f"{scheme}://{WEBDAV_USER}:{WEBDAV_PASSWORD.replace(' ', '%20')}@{address}/{path}"


class SerpentOnLink(OnLink, Serpent):
    """Ourselves: a Cryptomator vault in the bucket."""

    def __init__(self, work: Path, link: Link) -> None:
        self.link = link
        self._url = f"vault+s3://{BUCKET}/{_PREFIX}?endpoint={link.endpoint}&region={_REGION}"
        with link.near():
            super().__init__(work, Mounted(work, url=self._url, environment=KEYS, doors=self.door != MOUNT))

    @classmethod
    def version(cls) -> str:
        return f"{super().version().partition(':')[0]}: vault+s3://"

    def target(self, path: str) -> str:
        if self.door == MOUNT:
            return super().target(path)
        return _door_url(self.door, self._mounted.webdav if self.door == WEBDAV else self._mounted.ftp, path)

    def fill(self, tree: Path) -> None:
        """Encrypted into a folder, by the vault's own code, and moved into the bucket."""
        vault = self.work / "filled"
        vault.mkdir()
        trio.run(self._fill, tree, vault)
        self.link.adopt(vault, f"{_PREFIX}/")
        shutil.rmtree(vault)
        shutil.rmtree(tree)

    async def _fill(self, tree: Path, folder: Path) -> None:
        spec = parse_remote(self._url)
        assert isinstance(spec, RemoteSpec)
        os.environ |= KEYS
        with self.link.near():
            far = await open_vault(open_store(spec), PASSPHRASE)
        key = Masterkey(far.secret[:32], far.secret[32:])
        vault = VaultCloud(FileStore(folder), far.config, key, far.files)
        await vault.writer.make_content_directory(ROOT)
        ids = {tree: ROOT}
        for at, folders, files in os.walk(tree):
            parent = ids[Path(at)]
            for name in folders:
                made = await vault.mkdir(parent, name, token=os.urandom(32))
                ids[Path(at, name)] = made.id
            for name in files:
                content, token = BytesContent(_content(at, name)), os.urandom(32)
                await vault.put(parent, name, content, replaces=None, mtime_ns=0, token=token, retry=False)


def _content(folder: str, name: str) -> bytes:
    return Path(folder, name).read_bytes()


class SerpentWebdav(SerpentOnLink):
    door = WEBDAV


class SerpentFtp(SerpentOnLink):
    door = FTP


class RcloneOnLink(OnLink, Rclone):
    """``rclone mount`` of a crypt remote over the bucket, with its cache for reads and writes."""

    poll_interval: ClassVar[float] = 0.02

    def __init__(self, work: Path, link: Link) -> None:
        self.link = link
        super().__init__(work)
        self._address = f"127.0.0.1:{free_port()}"

    def _remote(self, obscured: str) -> dict[str, str]:
        return super()._remote(obscured) | {
            "RCLONE_CONFIG_BENCH_REMOTE": f"far:{BUCKET}",
            "RCLONE_CONFIG_FAR_TYPE": "s3",
            "RCLONE_CONFIG_FAR_PROVIDER": "Other",
            "RCLONE_CONFIG_FAR_ENDPOINT": self.link.endpoint,
            "RCLONE_CONFIG_FAR_REGION": _REGION,
            "RCLONE_CONFIG_FAR_ACCESS_KEY_ID": KEYS["AWS_ACCESS_KEY_ID"],
            "RCLONE_CONFIG_FAR_SECRET_ACCESS_KEY": KEYS["AWS_SECRET_ACCESS_KEY"],
        }

    @classmethod
    def version(cls) -> str:
        return f"{super().version().partition(':')[0]}: crypt over S3, --vfs-cache-mode full --use-server-modtime"

    def _serve(self) -> list[str]:
        # Without it every file's time is a request of its own, which nobody bears on a bucket.
        options = ["--use-server-modtime"]
        if self.door == MOUNT:
            return [*super()._serve(), *options]
        access = ["--addr", self._address, "--user", WEBDAV_USER, "--pass", WEBDAV_PASSWORD]
        return ["serve", self.door, "bench:", *access, *options]

    def _is_up(self) -> bool:
        return super()._is_up() if self.door == MOUNT else _accepts(self._address)

    def target(self, path: str) -> str:
        return super().target(path) if self.door == MOUNT else _door_url(self.door, self._address, path)

    def fill(self, tree: Path) -> None:
        """Encrypted into a folder, by rclone, and moved into the bucket."""
        assert self._program is not None
        filled = self.work / "filled"
        subprocess.run(
            [self._program, "copy", str(tree), "bench:", "--transfers", "8", "--checkers", "8"],
            env=self._environment | {"RCLONE_CONFIG_BENCH_REMOTE": str(filled)}, check=True, timeout=1800,
        )
        self.link.adopt(filled)
        shutil.rmtree(filled)
        shutil.rmtree(tree)

    def _files_in_store(self) -> int:
        return self.link.objects()


def _accepts(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


class RcloneWebdav(RcloneOnLink):
    door = WEBDAV


class RcloneFtp(RcloneOnLink):
    door = FTP


class S3fs(OnLink, Peer):
    """s3fs, which does not encrypt: what is closed is in the store."""

    name = "s3fs"

    def __init__(self, work: Path, link: Link) -> None:
        super().__init__(work)
        self.link = link
        (work / "tmp").mkdir()

    @classmethod
    def missing(cls) -> str | None:
        return None if shutil.which("s3fs") else "there is no s3fs (apt install s3fs)"

    @classmethod
    def version(cls) -> str:
        return f"{first_line('s3fs', '--version')}: not encrypted"

    def start(self) -> None:
        options = f"url={self.link.endpoint},use_path_request_style,tmpdir={self.work / 'tmp'}"
        self._run(["s3fs", BUCKET, str(self.point), "-f", "-o", options], os.environ | KEYS)

    def flush(self, files: int, timeout: float) -> None:
        """Nothing is left to do."""

    def forget(self) -> None:
        """It keeps nothing."""

    def fill(self, tree: Path) -> None:
        """As they are."""
        self.link.adopt(tree)
        shutil.rmtree(tree)


CONTENDERS: tuple[type[Contender], ...] = (
    SerpentOnLink, RcloneOnLink, Gocryptfs, S3fs, SerpentWebdav, RcloneWebdav, SerpentFtp, RcloneFtp,
)
