"""One upload: bytes go into a draft, and the draft becomes the file in one step or is kept for later.

    begin ──write…──> publish    the data connection ended cleanly: the name has the new content
                 └──> break_off  it did not: the old content stays, what came is kept as a partial

Where an upload that does not start at 0 takes its beginning from: the user's own partial of that name if there
is one, else a copy of the first bytes of the file. The two never mix: after a broken-off upload over an older
file, clients ask SIZE, are told the *old* file's, and would go on with the new bytes after the old ones.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from serpentfs.errors import (
    InvalidName,
    IsADirectory,
    NameTooLong,
    NoSpace,
    NotFound,
    PermanentError,
    SerpentError,
)
from serpentfs.gateways.ftp.partials import Base, Partial
from serpentfs.gateways.ftp.replies import Refusal
from serpentfs.gateways.ftp.tree import Place, Tree
from serpentfs.gateways.sync_vfs import CROSSING_SIZE
from serpentfs.model import BLOCK_SIZE, ContentId, HandleId, Kind
from serpentfs.vfs.core import Precondition, SetAttributes
from serpentfs.vfs.writes import SealedRoom

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Draft:
    """A draft open for writing; ``length`` bytes of it are there."""

    handle: HandleId
    length: int
    continues: Partial | None = None
    """The claimed partial that this was."""


def begin(tree: Tree, place: Place, name: str, offset: int) -> Upload:
    """STOR: a whole file, or from ``offset`` on. Refusal when there is nothing to continue."""
    _check_target(tree, place)
    partial = tree.partial_at(place)
    if offset == 0:
        return Upload(tree, place, name, _Draft(tree.vfs.create_draft(), 0))
    if partial is not None:
        if offset > partial.length:
            raise Refusal(f"554 Only {partial.length} bytes of the broken-off upload are here.")
        return Upload(tree, place, name, _reopen(tree, partial, offset))
    size = 0 if place.attributes is None else place.attributes.size
    if offset > size:
        raise Refusal(f"554 Cannot restart at {offset}: only {size} bytes are here.")
    return _begin_with_copy(tree, place, name, offset)


def begin_new(tree: Tree, place: Place, name: str) -> Upload:
    """STOU: a file whose name nothing must have."""
    _check_target(tree, place)
    unused = Precondition(must_not_exist=True)
    return Upload(tree, place, name, _Draft(tree.vfs.create_draft(), 0), precondition=unused)


def begin_append(tree: Tree, place: Place, name: str) -> Upload:
    """APPE: after the end of the partial or of the file, a new file when there is neither."""
    _check_target(tree, place)
    partial = tree.partial_at(place)
    if partial is not None:
        if place.attributes is not None:
            raise Refusal("450 An upload over this file broke off: send the whole file, or delete it first.")
        return Upload(tree, place, name, _reopen(tree, partial, partial.length))
    if place.attributes is None:
        return Upload(tree, place, name, _Draft(tree.vfs.create_draft(), 0))
    return _begin_with_copy(tree, place, name, place.attributes.size)


def _check_target(tree: Tree, place: Place) -> None:
    """Refuse at once what ``publish`` would refuse when everything has been sent."""
    if place.attributes is not None and place.attributes.kind is Kind.DIRECTORY:
        raise IsADirectory("it is a folder")
    try:
        length = len(place.name.encode())
    except UnicodeEncodeError as error:
        raise InvalidName("a name that is not UTF-8") from error
    if length > tree.vfs.capabilities.longest_name_bytes:
        raise NameTooLong("the name is too long")


def _reopen(tree: Tree, partial: Partial, offset: int) -> _Draft:
    if not tree.partials.claim(partial):
        raise Refusal("450 Another session is continuing this upload.")
    try:
        handle = tree.vfs.reopen_draft(partial.draft)
    except NotFound as error:
        tree.partials.forget_record(partial)
        raise Refusal("554 The broken-off upload is no longer here.") from error
    draft = _Draft(handle, partial.length, partial)
    try:
        held = tree.vfs.attributes_of(handle)
        if held.size < offset:
            raise Refusal(f"554 Only {held.size} bytes of the broken-off upload are here.")
        if held.size > offset:
            tree.vfs.setattr(held.ino, SetAttributes(size=offset), handle)
        draft.length = offset
    except (SerpentError, Refusal):
        tree.vfs.keep_draft(handle)
        tree.partials.keep(partial)
        raise
    return draft


def _begin_with_copy(tree: Tree, place: Place, name: str, size: int) -> Upload:
    """An upload that begins with the first ``size`` bytes of the file as it is now, and replaces only that."""
    assert place.attributes is not None
    with tree.vfs.open_reader(place.attributes.ino, 0, size) as reader:
        now = reader.attributes
        must_still_be = Precondition(content=(ContentId(now.content), now.generation))
        upload = Upload(
            tree,
            replace(place, attributes=now),
            name,
            _Draft(tree.vfs.create_draft(), 0),
            precondition=must_still_be,
        )
        try:
            while data := reader.read(CROSSING_SIZE):
                upload.write(memoryview(data))
            if upload.length < size:
                raise Refusal("450 The file became shorter meanwhile.")
        except BaseException:
            upload.discard()
            raise
    return upload


class Upload:
    """What pyftpdlib takes for the open file of a STOR. For one thread."""

    def __init__(
        self, tree: Tree, place: Place, name: str, draft: _Draft, precondition: Precondition | None = None
    ) -> None:
        self._tree = tree
        self._place = place
        self._draft = draft
        self._precondition = precondition
        self._buffer = memoryview(bytearray(CROSSING_SIZE))
        self._buffered = 0
        self._is_full = False
        self._room: SealedRoom | None = None
        self._may_get_room = True
        self.name = name
        self.closed = False

    @property
    def length(self) -> int:
        """Bytes so far, with those that came from the partial or the old file."""
        return self._draft.length + self._buffered

    def room(self) -> memoryview:
        """Where the next bytes go, never empty: sockets read straight into it, then call ``took``."""
        return self._buffer[self._buffered :]

    def took(self, count: int) -> None:
        """``count`` bytes are in ``room`` now. They are written when 1 MiB is together."""
        self._buffered += count
        if self._buffered == len(self._buffer):
            self._drain()

    def write(self, data: bytes | memoryview) -> None:
        """Take all of ``data``."""
        while data:
            room = self.room()
            part = data[: len(room)]
            room[: len(part)] = part
            self.took(len(part))
            data = data[len(part) :]

    def _drain(self) -> None:
        if not self._buffered:
            return
        data = self._buffer[: self._buffered]
        try:
            if not self._lay(data):
                self._take_back()
                self._tree.vfs.write(self._draft.handle, self._draft.length, data)
        except NoSpace:
            self._is_full = True   # a partial would keep the space away from whatever could free some
            raise
        self._draft.length += len(data)
        self._buffered = 0

    def _lay(self, data: memoryview) -> bool:
        """Write a full buffer into room of the draft, by this thread alone; False where there is none."""
        if len(data) < len(self._buffer) or not self._may_get_room:
            return False
        if self._room is None:
            self._room = self._tree.vfs.lend_room(self._draft.handle)
        if self._room is None:
            self._may_get_room = False   # nor will there be: it goes on where this ends
            return False
        self._room.write(data)
        return True

    def _take_back(self) -> None:
        """What was laid becomes part of the draft. Where some of it could not be written, what is before that."""
        room, self._room = self._room, None
        if room is None:
            return
        try:
            room.flush()
        except NoSpace:
            self._is_full = True
            raise
        finally:
            try:
                self._tree.vfs.take_back(self._draft.handle, room)
                self._draft.length = (room.first + room.written) * BLOCK_SIZE
            finally:
                room.close()

    def publish(self) -> None:
        """Make it the file. When this returned, it survives ``kill -9``. After an error that would come again
        the draft is gone, after another one the upload stays open."""
        self._drain()
        self._take_back()
        try:
            self._tree.vfs.publish(
                self._draft.handle,
                self._place.parent,
                self._place.name,
                precondition=self._precondition or Precondition(),
            )
        except PermanentError:
            self.discard()
            raise
        self.closed = True
        if self._draft.continues is not None:
            self._tree.partials.forget_record(self._draft.continues)
        older = self._tree.partials.at(self._tree.user, self._place.parent, self._place.name)
        if older is not None:
            self._tree.partials.forget(older)

    def close(self) -> None:
        """End an upload that was not published. Never raises: pyftpdlib would send no reply then."""
        if self.closed:
            return
        try:
            self.break_off()
        except SerpentError as error:
            _log.warning("a broken-off upload could not be kept: %s", error)
        except Exception:   # noqa: BLE001 - without a reply the client would wait for ever
            _log.exception("unexpected error while a broken-off upload was put away")

    def break_off(self) -> None:
        """Keep what came as a partial, unless it could not be continued."""
        for end in (self._drain, self._take_back):
            try:
                end()
            except SerpentError as error:
                _log.info("the end of a broken-off upload is not kept: %s", error)
        continued = self._draft.continues
        if self._is_full or self._precondition is not None or self._draft.length == 0:
            self.discard()
            return
        self.closed = True
        kept = self._tree.vfs.keep_draft(self._draft.handle)
        partial = Partial(
            self._tree.user,
            self._place.parent,
            self._place.name,
            kept,
            self._draft.length,
            time.time(),
            Base.of(self._place.attributes),
        )
        self._tree.partials.keep(partial if continued is None else replace(partial, key=continued.key))

    def discard(self) -> None:
        """Drop everything."""
        self.closed = True
        if self._room is not None:
            self._room.close()
            self._room = None
        self._tree.vfs.discard(self._draft.handle)
        if self._draft.continues is not None:
            self._tree.partials.forget_record(self._draft.continues)
