"""The keyring of the user's desktop or system (Secret Service, KWallet, Keychain, Credential Locker), where one is.

Owns the seam to the optional package ``keyring`` and maps its errors; knows nothing of what the secrets open. Its calls
block, and may wait for the user to unlock the keyring: they belong before the loop runs, or in a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from serpentfs.errors import Unavailable, Unsupported

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

T = TypeVar("T")
logger = logging.getLogger(__name__)

SERVICE = "serpentfs"
_RECOMMENDED = 1
"""Backends of this priority or more encrypt what they keep (``keyring.core.recommended``)."""


class SystemKeyring:
    """One usable keyring. ``entry`` names a secret among those of this program."""

    def __init__(self, backend: KeyringBackend) -> None:
        self._backend = backend

    def put(self, entry: str, secret: str) -> None:
        """Keep a secret, and look whether it is there: some backends drop what they are given. Unavailable when it is
        not."""
        self._call(lambda: self._backend.set_password(SERVICE, entry, secret))
        if self.get(entry) != secret:
            raise Unavailable("the keyring did not keep what it was given")

    def get(self, entry: str) -> str | None:
        """None when there is no such entry; Unavailable when the keyring is locked or does not answer."""
        return self._call(lambda: self._backend.get_password(SERVICE, entry))

    def remove(self, entry: str) -> None:
        """An entry that is not there is no error. Unavailable."""
        if self.get(entry) is not None:
            self._call(lambda: self._backend.delete_password(SERVICE, entry))

    def _call(self, function: Callable[[], T]) -> T:
        # A backend is anybody's code on top of a bus, and raises what these do. Its error could quote the secret, so
        # only the class of it is told.
        try:
            return function()
        except Exception as error:    # noqa: BLE001
            reason = type(error).__name__
        raise Unavailable(f"the keyring is locked or does not answer ({reason})")


def open_keyring(*, recommended: bool = False) -> SystemKeyring:
    """The keyring that the user chose for programs like this, or the best one. With ``recommended``, only one that
    encrypts what it keeps. Unsupported, telling why, when there is none."""
    try:
        import keyring
        from keyring.backends import fail, null
    except ImportError as error:
        raise Unsupported(
            "there is no keyring: the Python package keyring is not installed (pip install 'serpentfs[keyring]')"
        ) from error
    try:
        backend = keyring.get_keyring()
        priority = float(backend.priority)
    except Exception as error:    # what the user's settings name is imported and made here
        raise Unsupported(f"the keyring that is set up cannot be used: {type(error).__name__}") from error
    if isinstance(backend, (fail.Keyring, null.Keyring)):
        raise Unsupported("there is no keyring: no service of this desktop or system answers as one")
    if recommended and priority < _RECOMMENDED:
        raise Unsupported("the keyring that is set up is not a recommended one")
    logger.debug("the keyring is %s", type(backend).__module__)
    return SystemKeyring(backend)
