"""A keyring in a file, for the processes of a test: PYTHON_KEYRING_BACKEND names one of the classes, TEST_KEYRING the
file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

FILE_VARIABLE = "TEST_KEYRING"


class FileKeyring(KeyringBackend):
    """Keeps everything, and counts as one that encrypts."""

    priority: float = 5

    def __init__(self) -> None:
        super().__init__()    # type: ignore[no-untyped-call]

    def _entries(self) -> dict[str, str]:
        path = Path(os.environ[FILE_VARIABLE])
        found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def _write(self, entries: dict[str, str]) -> None:
        Path(os.environ[FILE_VARIABLE]).write_text(json.dumps(entries))

    def get_password(self, service: str, username: str) -> str | None:
        return self._entries().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._write({**self._entries(), f"{service}/{username}": password})

    def delete_password(self, service: str, username: str) -> None:
        entries = self._entries()
        if entries.pop(f"{service}/{username}", None) is None:
            raise PasswordDeleteError(username)
        self._write(entries)


class PlainKeyring(FileKeyring):
    """Works, but its priority says that it does not encrypt."""

    priority = 0.5


class ForgetfulKeyring(FileKeyring):
    """Takes everything and keeps nothing."""

    def set_password(self, service: str, username: str, password: str) -> None:
        return


class LockedKeyring(FileKeyring):
    """Its user does not unlock it; the error quotes what it was asked, as foreign code may."""

    def get_password(self, service: str, username: str) -> str | None:
        raise KeyringLocked(username)

    def set_password(self, service: str, username: str, password: str) -> None:
        raise KeyringLocked(password)
