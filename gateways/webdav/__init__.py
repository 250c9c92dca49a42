"""The WebDAV door: classes 1 and 2 of RFC 4918 over HTTP/1.1.

A request goes ``server → connection → door → reading | writing | locking``; ``places`` turns its URL into an
inode, ``conditions`` and ``locks`` decide what it may do, ``properties`` and ``davxml`` put answers together.
Everything runs on the loop of the drive, so that a listing shares it fairly with the mount and no thread holds
state. What a file means is the core's; this package only translates.
"""

from serpentfs.gateways.webdav.server import serve

__all__ = ["serve"]
