"""Who is compared on a MEGA account: ourselves and ``rclone mount``, each with its own defaults.

Each has an account on an emulator of its own, so that what one leaves behind costs the other nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

from tests import mega_clients
from tests.bench import client
from tests.bench.contenders import Contender, Rclone, Serpent
from tests.mega_emulator import Emulator, emulator
from tests.mounted import PASSPHRASE, Mounted

_EMAIL = "bench@example.test"


class Account:
    """An account on an emulator in a process of its own. ``latency``: seconds before each answer and each connection;
    ``rate``: bytes per second of each connection, 0 for no limit. The emulator ends with ``close``, or with us."""

    email = _EMAIL

    def __init__(self, latency: float, rate: float) -> None:
        self._latency, self._rate = latency, rate
        self._open = ExitStack()
        self.server: Emulator = self._open.enter_context(emulator(latency=latency, rate=rate))
        self.server.add_account(_EMAIL, PASSPHRASE)

    @property
    def url(self) -> str:
        return self.server.url

    @contextmanager
    def near(self) -> Iterator[None]:
        """As if it were on this machine: for what is not measured."""
        self.server.set(latency=0.0, rate=0.0)
        try:
            yield
        finally:
            self.server.set(latency=self._latency, rate=self._rate)

    def files(self) -> int:
        """How many are in the account, whole."""
        return sum(not (entry.is_folder or entry.is_version) for entry in self.server.tree(_EMAIL))

    def add_files(self, folder: str, count: int, size: int) -> None:
        """What ``client.create`` makes, put there by nobody."""
        parent = self.server.add_folder(_EMAIL, folder)
        content = client.small_content(size)
        for number in range(count):
            self.server.add_file(_EMAIL, client.small_name(number), content, parent=parent)

    @contextmanager
    def other_client(self, work: Path) -> Iterator[mega_clients.Rclone]:
        """Somebody else's session, with all it keeps in a folder that is gone afterwards."""
        account = mega_clients.Account(self.url, self.server.ca_file, _EMAIL, PASSPHRASE)
        try:
            with mega_clients.Rclone(account, work) as other:
                yield other
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def close(self) -> None:
        self._open.close()


class OnMega(Contender):
    """A contender that serves ``account``."""

    account: Account


class SerpentOnMega(Serpent, OnMega):
    """Ourselves, logged in."""

    def __init__(self, work: Path, account: Account) -> None:
        self.account = account
        environment = {"SERPENTFS_MEGA_API": account.url}
        super().__init__(work, Mounted(work, url="mega:", exists=True, environment=environment))
        self._log_in()

    def _log_in(self) -> None:
        with self.account.near():
            self._mounted.command("login", self.account.email)

    @classmethod
    def version(cls) -> str:
        return f"{super().version().partition(':')[0]}: serpentfs mount mega: DIR, no options"

    def flush(self, files: int, timeout: float) -> None:
        super().flush(files, timeout)
        found = self.account.files()
        if found < files:
            raise RuntimeError(f"flush ended with {found} of {files} files in the account")

    def forget(self) -> None:
        """All but the log-in, which is made anew."""
        super().forget()
        self._log_in()

    def clean_up(self) -> None:
        super().clean_up()
        self.account.close()


class RcloneOnMega(Rclone, OnMega):
    """``rclone mount`` of a mega remote, logged in, with its cache for reads and writes."""

    # Telling of a thousand files takes rclone a while, and uploads take longer here than into a folder.
    poll_interval: ClassVar[float] = 0.05

    def __init__(self, work: Path, account: Account) -> None:
        self.account = account
        super().__init__(work)

    def _remote(self, obscured: str) -> dict[str, str]:
        # A file, where rclone keeps its session.
        config = self.work / "rclone.conf"
        config.touch(mode=0o600)
        config.write_text(f"[bench]\ntype = mega\nuser = {self.account.email}\npass = {obscured}\n")
        return {"RCLONE_CONFIG": str(config), "X_MEGA_API_URL": self.account.url}

    @classmethod
    def version(cls) -> str:
        return f"{super().version().partition(':')[0]}: rclone mount MEGA: DIR --vfs-cache-mode full, no other options"

    def _files_in_store(self) -> int:
        return self.account.files()

    def clean_up(self) -> None:
        super().clean_up()
        self.account.close()


CONTENDERS: tuple[type[OnMega], ...] = (SerpentOnMega, RcloneOnMega)
