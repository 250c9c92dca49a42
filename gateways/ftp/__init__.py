"""The FTP door: the drive over FTP and explicit FTPS, on pyftpdlib.

It owns the protocol, the data connections and the partial files of broken-off uploads (``partials``). It
knows the core only as ``sync_vfs``. Every session is a thread with a poller of its own (``session``,
``transfers``) under one trio task (``server``), so a slow command holds up nobody else. No file system but the
drive is ever touched, and the process's directory is never changed.

A file is what arrived before a *clean* end of the data connection, and only that is published and answered with
226: see ``transfers``. Files are carried as they are in TYPE A too: changing line ends would change them.
"""

from serpentfs.gateways.ftp.server import serve

__all__ = ["serve"]
