"""A demo account with some files, and what to tell somebody who wants to try it."""

from __future__ import annotations

import secrets

from tests.mega_emulator import control
from tests.mega_emulator.accounts import register
from tests.mega_emulator.made_nodes import file_order, folder_order
from tests.mega_emulator.server import Server

_EMAIL = "demo@example.test"
_QUOTA = 50 << 30


def describe(server: Server) -> str:
    """Makes the account; what is printed at the start."""
    password = secrets.token_urlsafe(12)
    keys, stored = register(_EMAIL, password, version=2, mfa=None, quota=_QUOTA)
    control.run(server, {"do": "add_account", **stored})
    folder = control.run(server, folder_order(keys, None, "Documents"))
    control.run(server, file_order(keys, None, "Welcome.txt", b"Hello from the emulator.\n", mtime=1_700_000_000))
    control.run(
        server, file_order(keys, folder["h"], "numbers.txt", b"".join(b"%d\n" % n for n in range(100_000)), mtime=0)
    )
    return (
        f"e-mail:   {_EMAIL}\n"
        f"password: {password}\n"
        f"API:      {server.service.base_url} (also a CONNECT proxy)\n"
        f"TLS:      https://127.0.0.1:{server.tls_port} for g.api.mega.co.nz, trusted by {server.ca_file}\n"
        f"Try:      SERPENTFS_MEGA_API={server.service.base_url} serpentfs login {_EMAIL}\n"
        f"          X_MEGA_API_URL={server.service.base_url} rclone ...\n"
        "Everything is gone when this ends: Ctrl-C."
    )
