"""The native loop's translation: the kernel's layouts, what handlers make of requests, and malformed ones.

Requests are built here field by field from linux/fuse.h, not with the layouts under test.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import struct
from collections.abc import Coroutine, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.gateways.fuse.native import device, protocol
from serpentfs.gateways.fuse.native.dispatch import Answer, Dispatch
from serpentfs.gateways.fuse.native.interrupts import is_being_killed, is_fatal
from serpentfs.gateways.fuse.native.protocol import Header, InitFlag, Opcode
from serpentfs.gateways.fuse.requests import AddEntry, Caller, Node, Opened, OpenedFolder, Refused, Room
from serpentfs.gateways.fuse.session import NotForThisLoop
from serpentfs.vfs.core import SetAttributes

UNIQUE = 0x1234_5678_9ABC
NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)
NODES = st.builds(
    Node,
    ino=st.integers(1, 2**64 - 1), mode=st.sampled_from([stat.S_IFREG | 0o640, stat.S_IFDIR | 0o755]),
    nlink=st.integers(0, 10), uid=st.integers(0, 2**32 - 1), gid=st.integers(0, 2**32 - 1), size=st.integers(0, 2**62),
    atime_ns=st.integers(-(10**18), 4 * 10**18), mtime_ns=st.integers(-(10**18), 4 * 10**18),
    ctime_ns=st.integers(-(10**18), 4 * 10**18),
)  # fmt: skip
A_NODE = Node(7, stat.S_IFREG | 0o644, 1, 1000, 100, 12345, 1_500_000_001, 2_500_000_002, 3_500_000_003)


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        # sizeof() of the structs in linux/fuse.h
        (protocol.IN_HEADER, 40), (protocol.OUT_HEADER, 16), (protocol.INIT_OUT, 64), (protocol.SETATTR_IN, 88),
        (protocol.WRITE_IN, 40),
        (protocol.MKNOD_IN, 16), (protocol.RENAME2_IN, 16), (protocol.CREATE_IN, 16), (protocol.FSYNC_IN, 16),
        (protocol.ENTRY_OUT, 128), (protocol.ATTR_OUT, 16 + 104), (protocol.ENTRY_ANSWER, 16 + 128),
        (protocol.DIRENT, 24), (protocol.DIRENT_PLUS, 152), (protocol.OPEN_OUT, 16), (protocol.WRITE_OUT, 8),
        (protocol.STATFS_OUT, 80), (protocol.GETXATTR_OUT, 8), (protocol.INVAL_INODE_OUT, 24),
        (protocol.INVAL_ENTRY_OUT, 16), (protocol.FORGET_ONE, 16), (protocol.PAIR, 8), (protocol.NUMBER, 8),
    ],
)  # fmt: skip
def test_sizes(layout: struct.Struct, size: int) -> None:
    assert layout.size == size


class Recorded:
    """Stands for ``Operations``: notes its calls and answers with what it was given."""

    timeout = 3600.25

    def __init__(
        self, answer: Any = None, entries: Iterable[tuple[bytes, Node, int]] = (), mode: int | None = None
    ) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._mode = mode
        self._answer = answer
        self._entries = entries

    def forget(self, inodes: Iterable[int]) -> None:
        self.calls.append(("forget", *inodes))

    def mode_without_set_ids(self, inode: int) -> int | None:
        return self._mode

    async def readdir(self, handle: int, start: int, add: AddEntry) -> None:
        self.calls.append(("readdir", handle, start))
        for entry in self._entries:
            if not add(*entry):
                return

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            self.calls.append((name, *(bytes(a) if isinstance(a, memoryview) else a for a in arguments)))
            if isinstance(self._answer, Exception):
                raise self._answer
            return self._answer

        return call


def at_once(handling: Coroutine[Any, Any, Answer]) -> Answer:
    try:
        handling.send(None)
    except StopIteration as ended:
        answer: Answer = ended.value
        return answer
    raise AssertionError("it waits")


def ask(operations: Recorded, opcode: Opcode, body: bytes, inode: int = 5) -> bytes:
    """The answer's body, after a look at its header."""
    header = Header(40 + len(body), opcode, UNIQUE, inode, 1000, 100, 4242, 0, 0)
    dispatch = Dispatch(operations)  # type: ignore[arg-type]
    answer = at_once(dispatch.handlers[opcode](header, memoryview(body)))
    if answer is None:
        return b""
    whole = b"".join(bytes(part) for part in answer) if isinstance(answer, tuple) else bytes(answer)
    length, error, unique = struct.unpack_from("=IiQ", whole)
    assert (length, error, unique) == (len(whole), 0, UNIQUE)
    return whole[16:]


def read_attributes(data: bytes) -> Node:
    """``struct fuse_attr``."""
    ino, size, blocks = struct.unpack_from("=QQQ", data)
    seconds = struct.unpack_from("=qqq", data, 24)
    nanoseconds = struct.unpack_from("=III", data, 48)
    mode, nlink, uid, gid, device_number, block_size, flags = struct.unpack_from("=IIIIIII", data, 60)
    assert (blocks, device_number, block_size, flags) == ((size + 511) // 512, 0, 65536, 0)
    assert len(data) == 88
    times = [s * 10**9 + ns for s, ns in zip(seconds, nanoseconds, strict=True)]
    assert all(ns < 10**9 for ns in nanoseconds)
    return Node(ino, mode, nlink, uid, gid, size, *times)


def read_entry(data: bytes) -> tuple[int, Node]:
    """``struct fuse_entry_out`` with the time-out of ``Recorded``: the inode to remember, and the attributes."""
    ino, generation, entry_valid, attr_valid, entry_ns, attr_ns = struct.unpack_from("=QQQQII", data)
    assert (generation, entry_valid, attr_valid, entry_ns, attr_ns) == (0, 3600, 3600, 250_000_000, 250_000_000)
    return ino, read_attributes(data[40:128])


@given(NODES, NAMES)
def test_lookup(node: Node, name: bytes) -> None:
    operations = Recorded(node)
    assert read_entry(ask(operations, Opcode.LOOKUP, name + b"\0")) == (node.ino, node)
    assert operations.calls == [("lookup", 5, name)]


def test_that_there_is_nothing_is_remembered_too() -> None:
    found = ask(Recorded(None), Opcode.LOOKUP, b"nothing\0")
    assert struct.unpack_from("=QQQQII", found) == (0, 0, 3600, 0, 250_000_000, 0)
    assert len(found) == 128


@given(NODES)
def test_getattr(node: Node) -> None:
    found = ask(Recorded(node), Opcode.GETATTR, bytes(16))
    assert struct.unpack_from("=QII", found) == (3600, 250_000_000, 0)
    assert read_attributes(found[16:]) == node


@given(
    fields=st.sets(st.sampled_from(["mode", "uid", "gid", "size", "atime_ns", "mtime_ns"])), on_handle=st.booleans(),
    mode=st.integers(0, 0o177777), uid=st.integers(0, 2**32 - 1), gid=st.integers(0, 2**32 - 1),
    size=st.integers(0, 2**62), atime_ns=st.integers(-(10**18), 10**19), mtime_ns=st.integers(-(10**18), 10**19),
)  # fmt: skip
def test_setattr(fields: set[str], on_handle: bool, mode: int, uid: int, gid: int, size: int, atime_ns: int,
                 mtime_ns: int) -> None:  # fmt: skip
    bits = {"mode": 1, "uid": 2, "gid": 4, "size": 8, "atime_ns": 16, "mtime_ns": 32}
    valid = sum(bits[field] for field in fields) | (64 if on_handle else 0)
    body = struct.pack(
        "=IIQQQqqqIIIIIIII", valid, 0, 77, size, 0, atime_ns // 10**9, mtime_ns // 10**9, 0, atime_ns % 10**9,
        mtime_ns % 10**9, 0, mode, 0, uid, gid, 0,
    )  # fmt: skip
    operations = Recorded(A_NODE)
    ask(operations, Opcode.SETATTR, body)
    given_values = {"mode": mode & 0o7777, "uid": uid, "gid": gid, "size": size, "atime_ns": atime_ns,
                    "mtime_ns": mtime_ns}  # fmt: skip
    expected = SetAttributes(**{field: given_values[field] for field in fields})
    assert operations.calls == [("setattr", 5, expected, 77 if on_handle else None)]


@pytest.mark.parametrize(
    ("valid", "taken"),
    [(8 | 2048, True), (8, False), (2, True), (4, True), (1 | 2, False)],
    ids=["truncated without the right to keep them", "truncated", "other owner", "other group", "another mode, too"],
)
def test_set_id_bits_go_with_what_setattr_changes(valid: int, taken: bool) -> None:
    operations = Recorded(A_NODE, mode=0o755)
    ask(operations, Opcode.SETATTR, struct.pack("=IIQQ", valid, 0, 77, 9) + bytes(64))
    [(_, _, changes, _)] = operations.calls
    assert changes.mode == (0o755 if taken else 0 if valid & 1 else None)


@pytest.mark.parametrize(
    ("opcode", "body"),
    [(Opcode.OPEN, struct.pack("=II", 0x8201, 1)),
     (Opcode.WRITE, struct.pack("=QQIIQII", 3, 0, 4, 4, 0, 0, 0) + b"data")],
)  # fmt: skip
def test_set_id_bits_go_before_a_change_of_the_content(opcode: Opcode, body: bytes) -> None:
    operations = Recorded(Opened(3, False, True) if opcode is Opcode.OPEN else 4)
    ask(operations, opcode, body)
    assert [call[0] for call in operations.calls] == ["take_set_ids", opcode.name.lower()]


def test_setattr_to_the_present_time() -> None:
    operations = Recorded(A_NODE)
    ask(operations, Opcode.SETATTR, struct.pack("=II", 16 | 32 | 128 | 256, 0) + bytes(80))
    [(_, _, changes, _)] = operations.calls
    assert changes.atime_ns == changes.mtime_ns
    assert abs(changes.mtime_ns - os.stat("/proc/self").st_ctime_ns) < 3600 * 10**9


@given(st.lists(st.tuples(st.integers(1, 2**64 - 1), st.integers(1, 100)), max_size=50))
def test_batch_forget(forgotten: list[tuple[int, int]]) -> None:
    operations = Recorded()
    body = struct.pack("=II", len(forgotten), 0) + b"".join(struct.pack("=QQ", *one) for one in forgotten)
    assert ask(operations, Opcode.BATCH_FORGET, body) == b""
    assert operations.calls == [("forget", *(inode for inode, _ in forgotten))]


CALLER = Caller(1000, 100)
_CASES: list[tuple[Opcode, bytes, Any, tuple[Any, ...], bytes | None]] = [
    (Opcode.FORGET, struct.pack("=Q", 3), None, ("forget", 5), b""),
    (Opcode.READLINK, b"", b"target", ("readlink", 5), b"target"),
    (Opcode.MKDIR, struct.pack("=II", 0o755, 0o22) + b"d\0", A_NODE, ("mkdir", 5, b"d", 0o755, CALLER), None),
    (Opcode.MKNOD, struct.pack("=IIII", 0o100644, 0, 0o22, 0) + b"f\0", A_NODE,
     ("mknod", 5, b"f", 0o100644, CALLER), None),
    (Opcode.SYMLINK, b"link\0tar get\0", A_NODE, ("symlink", 5, b"link", b"tar get", CALLER), None),
    (Opcode.LINK, struct.pack("=Q", 9) + b"second\0", A_NODE, ("link", 9, 5, b"second"), None),
    (Opcode.UNLINK, b"x\0", None, ("unlink", 5, b"x"), b""),
    (Opcode.RMDIR, b"x\0", None, ("rmdir", 5, b"x"), b""),
    (Opcode.RENAME, struct.pack("=Q", 6) + b"old\0new\0", None, ("rename", 5, b"old", 6, b"new", 0), b""),
    (Opcode.RENAME2, struct.pack("=QII", 6, 2, 0) + b"old\0new\0", None, ("rename", 5, b"old", 6, b"new", 2), b""),
    (Opcode.OPEN, struct.pack("=II", 0x8001, 0), Opened(3, False, True), ("open", 5, 0x8001),
     struct.pack("=QII", 3, 0, 0)),
    (Opcode.OPEN, struct.pack("=II", 0x8000, 0), Opened(3, True, False), ("open", 5, 0x8000),
     struct.pack("=QII", 3, 0b100010, 0)),
    (Opcode.READ, struct.pack("=QQIIQII", 3, 1 << 40, 4096, 0, 0, 0, 0), memoryview(b"data"),
     ("read", 3, 1 << 40, 4096), b"data"),
    (Opcode.WRITE, struct.pack("=QQIIQII", 3, 1 << 40, 4, 0, 0, 0, 0) + b"dataMORE", 4,
     ("write", 3, 1 << 40, b"data", False), struct.pack("=II", 4, 0)),
    (Opcode.WRITE, struct.pack("=QQIIQII", 3, 7, 4, 0, 1 << 63, os.O_APPEND | os.O_RDWR, 0) + b"data", 4,
     ("write", 3, 7, b"data", True), struct.pack("=II", 4, 0)),
    (Opcode.FLUSH, struct.pack("=QIIQ", 3, 0, 0, 0), None, ("flush", 3), b""),
    (Opcode.FSYNC, struct.pack("=QII", 3, 1, 0), None, ("fsync", 3, True), b""),
    (Opcode.FSYNC, struct.pack("=QII", 3, 0, 0), None, ("fsync", 3, False), b""),
    (Opcode.RELEASE, struct.pack("=QIIQ", 3, 0, 0, 0), None, ("release", 3), b""),
    (Opcode.OPENDIR, struct.pack("=II", 0x10000, 0), OpenedFolder(4, False), ("opendir", 5),
     struct.pack("=QII", 4, 0b0010, 0)),
    (Opcode.OPENDIR, struct.pack("=II", 0x10000, 0), OpenedFolder(4, True), ("opendir", 5),
     struct.pack("=QII", 4, 0b1010, 0)),
    (Opcode.RELEASEDIR, struct.pack("=QIIQ", 4, 0, 0, 0), None, ("releasedir", 4), b""),
    (Opcode.FSYNCDIR, struct.pack("=QII", 4, 0, 0), None, ("fsyncdir", 4, False), b""),
    (Opcode.STATFS, b"", Room(4096, 1000, 600, 255), ("statfs",),
     struct.pack("=QQQQQIII", 1000, 600, 600, 0, 0, 4096, 255, 4096) + bytes(28)),
    (Opcode.GETXATTR, struct.pack("=II", 0, 0) + b"user.a\0", b"12345", ("getxattr", 5, b"user.a"),
     struct.pack("=II", 5, 0)),
    (Opcode.GETXATTR, struct.pack("=II", 5, 0) + b"user.a\0", b"12345", ("getxattr", 5, b"user.a"), b"12345"),
    (Opcode.LISTXATTR, struct.pack("=II", 100, 0), [b"user.a", b"user.b"], ("listxattr", 5), b"user.a\0user.b\0"),
    (Opcode.SETXATTR, struct.pack("=II", 3, 0) + b"user.a\0" + b"\0v\0", None, ("setxattr", 5, b"user.a", b"\0v\0"),
     b""),
    (Opcode.REMOVEXATTR, b"user.a\0", None, ("removexattr", 5, b"user.a"), b""),
]  # fmt: skip


@pytest.mark.parametrize(("opcode", "body", "result", "call", "answer"), _CASES)
def test_requests(opcode: Opcode, body: bytes, result: Any, call: tuple[Any, ...], answer: bytes | None) -> None:
    """``answer`` None: an entry."""
    operations = Recorded(result)
    found = ask(operations, opcode, body)
    assert operations.calls == [call]
    if answer is None:
        assert read_entry(found) == (A_NODE.ino, A_NODE)
    else:
        assert found == answer


def test_create() -> None:
    operations = Recorded((Opened(3, False, True), A_NODE))
    found = ask(operations, Opcode.CREATE, struct.pack("=IIII", 0o301, 0o644, 0o22, 0) + b"new\0")
    assert operations.calls == [("create", 5, b"new", 0o644, 0o301, CALLER)]
    assert read_entry(found[:128]) == (A_NODE.ino, A_NODE)
    assert found[128:] == struct.pack("=QII", 3, 0, 0)


def test_every_request_of_the_protocol_is_here_or_is_the_sessions() -> None:
    assert set(Opcode) - set(Dispatch(Recorded()).handlers) == {  # type: ignore[arg-type]
        Opcode.INIT, Opcode.INTERRUPT, Opcode.DESTROY,
    }  # fmt: skip


# --- extended attributes


def test_a_value_that_is_longer_than_the_room_for_it() -> None:
    with pytest.raises(Refused) as refused:
        ask(Recorded(b"12345"), Opcode.GETXATTR, struct.pack("=II", 4, 0) + b"user.a\0")
    assert refused.value.errno == errno.ERANGE


@pytest.mark.parametrize(
    ("flags", "there", "number"), [(1, True, errno.EEXIST), (1, False, 0), (2, True, 0), (2, False, errno.ENODATA)]
)
def test_setxattr_of_what_must_or_must_not_be_there(flags: int, there: bool, number: int) -> None:
    operations = Recorded(b"old")
    if not there:
        async def getxattr(inode: int, name: bytes) -> bytes:
            raise Refused(errno.ENODATA)

        operations.__dict__["getxattr"] = getxattr
    body = struct.pack("=II", 3, flags) + b"user.a\0new"
    if number:
        with pytest.raises(Refused) as refused:
            ask(operations, Opcode.SETXATTR, body)
        assert refused.value.errno == number
        assert not [call for call in operations.calls if call[0] == "setxattr"]
    else:
        ask(operations, Opcode.SETXATTR, body)
        assert operations.calls[-1] == ("setxattr", 5, b"user.a", b"new")


# --- folders

ENTRIES = st.lists(st.tuples(NAMES, NODES, st.integers(1, 2**63 - 1)), max_size=40)


def _read_names(data: bytes, entry_size: int) -> list[tuple[int, int, bytes, int]]:
    found, at = [], 0
    while at < len(data):
        assert at % 8 == 0
        ino, cookie, length, kind = struct.unpack_from("=QQII", data, at + entry_size)
        start = at + entry_size + 24
        found.append((ino, cookie, data[start : start + length], kind))
        at = (start + length + 7) & ~7
    assert at == len(data)
    return found


@given(entries=ENTRIES, size=st.integers(0, 20_000))
def test_readdir(entries: list[tuple[bytes, Node, int]], size: int) -> None:
    operations = Recorded(entries=entries)
    found = ask(operations, Opcode.READDIR, struct.pack("=QQIIQII", 4, 17, size, 0, 0, 0, 0))
    assert operations.calls == [("readdir", 4, 17)]
    assert len(found) <= size
    shown = _read_names(found, 0)
    assert shown == [(node.ino, cookie, name, node.mode >> 12) for name, node, cookie in entries[: len(shown)]]
    if len(shown) < len(entries):
        assert len(found) + ((24 + len(entries[len(shown)][0]) + 7) & ~7) > size


@given(entries=ENTRIES, size=st.integers(0, 20_000))
def test_readdirplus(entries: list[tuple[bytes, Node, int]], size: int) -> None:
    entries = [(b".", A_NODE, 1), (b"..", A_NODE, 2), *entries]
    found = ask(Recorded(entries=entries), Opcode.READDIRPLUS, struct.pack("=QQIIQII", 4, 0, size, 0, 0, 0, 0))
    assert len(found) <= size
    shown = _read_names(found, 128)
    assert shown == [(node.ino, cookie, name, node.mode >> 12) for name, node, cookie in entries[: len(shown)]]
    at = 0
    for name, node, _ in entries[: len(shown)]:
        remembered, attributes = read_entry(found[at : at + 128])
        # The kernel takes no inode with the dots, and would never forget it.
        assert remembered == (0 if name in (b".", b"..") else node.ino)
        assert attributes._replace(ino=node.ino) == node
        at += (152 + len(name) + 7) & ~7


# --- what the kernel would never send


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (Opcode.LOOKUP, b""), (Opcode.LOOKUP, b"no end"), (Opcode.LOOKUP, b"two\0names\0"),
        (Opcode.RENAME, struct.pack("=Q", 1) + b"only one\0"), (Opcode.READ, b"short"),
        (Opcode.SETXATTR, struct.pack("=II", 9, 0) + b"user.a\0less"), (Opcode.SETATTR, bytes(40)),
    ],
)  # fmt: skip
def test_malformed_requests_reach_nobody(opcode: Opcode, body: bytes) -> None:
    operations = Recorded(A_NODE)
    with pytest.raises((ValueError, struct.error)):
        ask(operations, opcode, body)
    assert operations.calls == []


# --- the session's own


def test_init_takes_of_the_offer_what_is_wanted() -> None:
    offered = InitFlag.ASYNC_READ | InitFlag.MAX_PAGES | InitFlag.BIG_WRITES
    init = protocol.read_init(memoryview(struct.pack("=IIII", 7, 45, 131072, offered) + bytes(48)))
    assert tuple(init) == (7, 45, 131072, offered)
    body = protocol.init_body(init, wanted=InitFlag.ASYNC_READ | InitFlag.DO_READDIRPLUS, background=64, congested=48)
    assert struct.unpack("=IIIIHHIIHHI28x", body) == (
        7, 31, 131072, InitFlag.ASYNC_READ, 64, 48, 1 << 20, 1, (1 << 20) // os.sysconf("SC_PAGESIZE"), 0, 0,
    )  # fmt: skip


def test_notices() -> None:
    assert protocol.inval_inode(7, data=True) == struct.pack("=IiQQqq", 40, 2, 0, 7, 0, 0)
    assert protocol.inval_inode(7, data=False) == struct.pack("=IiQQqq", 40, 2, 0, 7, -1, 0)
    assert protocol.inval_entry(1, b"name") == struct.pack("=IiQQII", 37, 3, 0, 1, 4, 0) + b"name\0"


def test_kernel_options() -> None:
    words = {"default_permissions", "fsname=x", "subtype=serpentfs", "allow_other", "ro", "noatime", "suid", "dev"}
    assert device.kernel_options(words) == (1 | 1024, ["allow_other", "default_permissions"])
    assert device.kernel_options(set()) == (2 | 4, [])
    with pytest.raises(NotForThisLoop, match="frobnicate"):
        device.kernel_options({"frobnicate"})


@pytest.mark.parametrize(
    ("pending", "blocked", "ignored", "caught", "fatal"),
    [
        ([signal.SIGKILL], [], [], [], True),
        ([signal.SIGTERM], [], [], [], True),
        ([signal.SIGQUIT], [], [], [signal.SIGTERM], True),
        ([signal.SIGUSR1, signal.SIGTERM], [], [], [signal.SIGUSR1], True),
        ([signal.SIGTERM], [signal.SIGTERM], [], [], False),
        ([signal.SIGTERM], [], [signal.SIGTERM], [], False),
        ([signal.SIGTERM], [], [], [signal.SIGTERM], False),
        ([signal.SIGCHLD, signal.SIGWINCH, signal.SIGTSTP], [], [], [], False),
        ([], [], [], [], False),
    ],
)
def test_which_signals_end_a_program(
    pending: list[int], blocked: list[int], ignored: list[int], caught: list[int], fatal: bool
) -> None:
    def line(name: str, signals: list[int]) -> str:
        return f"{name}:\t{sum(1 << (number - 1) for number in signals):016x}\n"

    rest = "Name:\tcat\n" + line("SigBlk", blocked) + line("SigIgn", ignored) + line("SigCgt", caught)
    assert is_fatal(rest + line("SigPnd", pending) + line("ShdPnd", [])) == fatal
    assert is_fatal(rest + line("SigPnd", []) + line("ShdPnd", pending)) == fatal


def test_who_is_not_being_killed() -> None:
    assert not is_being_killed(os.getpid())
    assert not is_being_killed(0)
    assert not is_being_killed(2**22 + 1)
