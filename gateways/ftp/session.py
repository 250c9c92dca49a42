"""The commands that touch the drive: one method each, from a line to a reply.

None of pyftpdlib's own is used for that: they want a local file system, change the process's directory and know one
error code. What a command raises becomes its reply (``control``).
"""

from __future__ import annotations

import fnmatch
import functools
import posixpath
import re
import time
import uuid
from collections.abc import Callable, Iterator

from serpentfs.errors import AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied
from serpentfs.gateways.accounts import below
from serpentfs.gateways.ftp import uploads
from serpentfs.gateways.ftp.control import Control
from serpentfs.gateways.ftp.listing import list_line, mlsx, parse_time_value, time_value
from serpentfs.gateways.ftp.replies import Refusal, one_line
from serpentfs.gateways.ftp.transfers import Download, Listing, encoded
from serpentfs.gateways.ftp.tree import Place, Shown, Tree, absolute
from serpentfs.model import Ino, Kind
from serpentfs.vfs.core import SetAttributes, Vfs

_HOUR = 3600 * 10**9
_LIST_OPTIONS = re.compile(r"\A(?:-[A-Za-z1]+(?:\s+|$))+")
"""What old clients send before the path, as if LIST were ``ls``. A name like that can be given as ``./-a``."""


class Session(Control):
    """A client. ``_cwd`` is an FTP path: the process's own directory has nothing to do with it."""

    _restart_position: int
    _tree: Tree
    _cwd = "/"
    _rename_from: Place | None = None

    def logged_in(self) -> None:
        # Looked up anew for each login: the folder may have been renamed, or removed and made again, since the start.
        root = self.door.vfs.ask(_folder_at, below(self.door.options.server.root, self.rights))
        self._tree = Tree(self.door.vfs, root, self.door.partials, self.username)

    def flush_account(self) -> None:
        super().flush_account()
        self._cwd = "/"
        self._rename_from = None

    def _path(self, argument: str) -> str:
        return absolute(self._cwd, argument)

    # where am I

    def ftp_PWD(self, line: str) -> None:
        self.respond(f'257 "{_quoted(self._cwd)}" is the current folder.')

    def ftp_CWD(self, line: str) -> None:
        path = self._path(line or "/")
        self._tree.folder(path)
        self._cwd = path
        self.respond(f'250 "{_quoted(path)}" is the current folder.')

    def ftp_CDUP(self, line: str) -> None:
        self.ftp_CWD("..")

    # what is there

    def ftp_SIZE(self, line: str) -> None:
        found = self._tree.find_shown(self._path(line))
        if found.kind is not Kind.FILE:
            raise IsADirectory("not a file")
        self.respond(f"213 {found.size}")

    def ftp_MDTM(self, line: str) -> None:
        found = self._tree.find_shown(self._path(line))
        self.respond(f"213 {time_value(found.mtime_ns)}")

    def ftp_MLST(self, line: str) -> None:
        path = self._path(line)
        facts = tuple(self._current_facts)
        entry = mlsx(self._tree.one(path), path, facts, read_only=self.is_read_only)
        self.push(f"250-Facts\r\n {entry}\r\n")
        self.respond("250 End.")

    def ftp_MLSD(self, line: str) -> None:
        folder = self._tree.folder(self._path(line))
        facts = tuple(self._current_facts)
        read_only = self.is_read_only

        def line_of(shown: Shown) -> str:
            return mlsx(shown, shown.name, facts, read_only=read_only)

        pieces = self._folder_pieces(folder.ino, (facts, read_only), line_of)
        self.send_over_data(Listing(pieces), "MLSD", "Listing follows.")

    def ftp_LIST(self, line: str) -> None:
        _, listed = self._listed(_LIST_OPTIONS.sub("", line))
        # Now decides the form of dates only: to the hour it is near enough, and the listing can be kept.
        hour = time.time_ns() // _HOUR
        line_of = self._list_line_of(hour * _HOUR)
        if isinstance(listed, int):
            pieces = self._folder_pieces(listed, (self.username, self.is_read_only, hour), line_of)
        else:
            pieces = encoded(map(line_of, listed))
        self.send_over_data(Listing(pieces), "LIST", "Listing follows.")

    def _folder_pieces(
        self, folder: Ino, facts: tuple[object, ...], line_of: Callable[[Shown], str]
    ) -> Iterator[bytes]:
        """All of a folder. ``facts`` are what its lines depend on beside the drive; they tell the commands apart."""
        listings, mark = self.door.listings, self.door.vfs.state_mark
        key = self._tree.root, folder, facts
        kept = listings.find(key, mark())
        if kept is not None:
            yield from kept
        else:
            with listings.making(key, mark) as collected:
                for piece in encoded(map(line_of, self._tree.entries(folder))):
                    collected.add(piece)
                    yield piece
        yield from encoded(map(line_of, self._tree.partials_in(folder)))

    def ftp_NLST(self, line: str) -> None:
        argument = _LIST_OPTIONS.sub("", line)
        within, listed = self._listed(argument)
        names = (posixpath.join(within, shown.name) for shown in self._entries_of(listed))
        self.send_over_data(Listing(encoded(map(one_line, names))), "NLST", "Names follow.")

    def ftp_STAT(self, line: str) -> None:
        if not line:
            super().ftp_STAT(line)
            return
        listed = list(self._list_lines(line))   # before the reply is begun: it may fail
        self.push("213-Status follows.\r\n")
        for text in listed:
            self.push(text + "\r\n")
        self.respond("213 End of status.")

    def _list_lines(self, line: str) -> Iterator[str]:
        _, listed = self._listed(_LIST_OPTIONS.sub("", line))
        return map(self._list_line_of(time.time_ns()), self._entries_of(listed))

    def _list_line_of(self, now: int) -> Callable[[Shown], str]:
        return functools.partial(list_line, owner=self.username or "ftp", now_ns=now, read_only=self.is_read_only)

    def _entries_of(self, listed: Ino | Iterator[Shown]) -> Iterator[Shown]:
        return self._tree.children(listed) if isinstance(listed, int) else listed

    def _listed(self, argument: str) -> tuple[str, Ino | Iterator[Shown]]:
        """What LIST and NLST show for an argument (all of a folder, or some entries), and what to put before the names
        so that they can be used as arguments themselves (RFC 1123 §4.1.2.7). A pattern in the last part is for ``mget
        *.txt``."""
        path = self._path(argument)
        try:
            shown = self._tree.one(path)
        except NotFound:
            folder, _, pattern = path.rpartition("/")
            if not any(character in pattern for character in "*?["):
                raise
            children = self._tree.children(self._tree.folder(folder or "/").ino)
            matching = (child for child in children if fnmatch.fnmatchcase(child.name, pattern))
            return posixpath.dirname(argument), matching
        if Kind.DIRECTORY in (shown.attributes.kind, shown.leads_to and shown.leads_to.kind):
            return argument, (shown.leads_to or shown.attributes).ino
        return posixpath.dirname(argument), iter([shown])

    def ftp_AVBL(self, line: str) -> None:
        self._tree.find(self._path(line))
        free = self.door.vfs.statfs().free
        if free is None:
            raise Refusal("550 The store does not tell.")
        self.respond(f"213 {free}")

    # files

    def ftp_RETR(self, line: str) -> None:
        offset, self._restart_position = self._restart_position, 0
        path = self._path(line)
        place = self._tree.place_of(path)
        if place.attributes is None:
            if self._tree.partial_at(place) is not None:
                raise NotFound("only a part of it has been uploaded")
            raise NotFound("no such file")
        reader = self.door.vfs.open_reader(place.attributes.ino, offset)
        download = Download(reader, path)
        size = reader.attributes.size
        if offset > size:
            download.close()
            raise Refusal(f"554 Cannot restart at {offset}: the file has {size} bytes.")
        self.send_over_data(download, "RETR", f"Opening data connection ({size - offset} bytes).")

    def ftp_REST(self, line: str) -> None:
        if not (line.isascii() and line.isdigit() and len(line) < 19):
            raise Refusal("501 Not an offset.")
        self._restart_position = int(line)
        self.respond(f"350 Restarting at {self._restart_position}.")

    def ftp_STOR(self, line: str) -> None:
        offset, self._restart_position = self._restart_position, 0
        path = self._path(line)
        upload = uploads.begin(self._tree, self._tree.place_of(path), path, offset)
        self.receive_over_data(upload, "STOR", "Send the file.")

    def ftp_APPE(self, line: str) -> None:
        if self._restart_position:
            self._restart_position = 0
            raise Refusal("503 REST does not go with APPE.")
        path = self._path(line)
        upload = uploads.begin_append(self._tree, self._tree.place_of(path), path)
        self.receive_over_data(upload, "APPE", "Send what is to follow.")

    def ftp_STOU(self, line: str) -> None:
        if self._restart_position:
            self._restart_position = 0
            raise Refusal("503 REST does not go with STOU.")
        path = self._path(f"{line or 'ftp'}.{uuid.uuid4().hex[:12]}")
        upload = uploads.begin_new(self._tree, self._tree.place_of(path), path)
        # The form of this reply is set by RFC 1123 §4.1.2.9.
        self.receive_over_data(upload, "STOU", f"FILE: {posixpath.basename(path)}")

    # changes

    def ftp_MKD(self, line: str) -> None:
        path = self._path(line)
        place = self._tree.place_of(path)
        if place.attributes is not None:
            raise AlreadyExists("that name is taken")
        self.door.vfs.mkdir(place.parent, place.name)
        self.respond(f'257 "{_quoted(path)}" made.')

    def ftp_RMD(self, line: str) -> None:
        place = self._named(line)
        self.door.vfs.rmdir(place.parent, place.name)
        self.respond("250 Folder removed.")

    def ftp_DELE(self, line: str) -> None:
        place = self._named(line)
        if place.attributes is None:
            partial = self._tree.partial_at(place)
            if partial is None:
                raise NotFound("no such file")
            self._tree.partials.forget(partial)
        else:
            self.door.vfs.unlink(place.parent, place.name)
        self.respond("250 File removed.")

    def ftp_RNFR(self, line: str) -> None:
        self._rename_from = None
        place = self._named(line)
        if place.attributes is None:
            raise NotFound("no such file or folder")
        self._rename_from = place
        self.respond("350 And its new name?")

    def ftp_RNTO(self, line: str) -> None:
        source, self._rename_from = self._rename_from, None
        if source is None:
            raise Refusal("503 Use RNFR first.")
        place = self._named(line)
        self.door.vfs.rename(source.parent, source.name, place.parent, place.name)
        self.respond("250 Renamed.")

    def _named(self, line: str) -> Place:
        """The name that a command changes; a link at its end is not followed. PermissionDenied for the root."""
        path = self._path(line)
        if self._tree.is_root(path):
            raise PermissionDenied("the root cannot be changed")
        return self._tree.name_at(path)

    def ftp_MFMT(self, line: str) -> None:
        when, space, name = line.partition(" ")
        if not space or not name:
            raise Refusal("501 A time and a path are needed.")
        path = self._path(name)
        found = self._tree.find(path)
        now = self.door.vfs.setattr(found.ino, SetAttributes(mtime_ns=parse_time_value(when)))
        self.respond(f"213 Modify={time_value(now.mtime_ns)}; {path}")

    def ftp_SITE_CHMOD(self, line: str) -> None:
        mode, space, name = line.partition(" ")
        if not space or not name or not re.fullmatch("[0-7]{3,4}", mode):
            raise Refusal("501 An octal mode and a path are needed.")
        found = self._tree.find(self._path(name))
        self.door.vfs.setattr(found.ino, SetAttributes(mode=int(mode, 8)))
        self.respond("200 Mode set.")


def _folder_at(core: Vfs, path: str) -> Ino:
    """Refusal when there is no such folder."""
    try:
        found = core.resolve(path)
    except (NotFound, NotADirectory):
        found = None
    if found is None or found.kind is not Kind.DIRECTORY:
        raise Refusal("530 The folder of this user is not there.")
    return found.ino


def _quoted(path: str) -> str:
    return path.replace('"', '""')   # RFC 959, appendix II
