"""The program that sends files of the page cache: run by ``pages``, by its path, with nothing but the standard library.

It is a process of its own because a thread that waits for a FUSE filesystem of its own process cannot be killed: the
connection would end with the process, and the process with the thread. And it has an interpreter of its own.

The mount is in a mount namespace of this process: nobody else sees it, and it goes when this process goes, which
ends when its other side does. It is also all that this process sees: other mounts are taken out of the namespace, or
they would stay in use when their users unmount them. It has no secrets, and gets to see what it sends while it does.

Standard input is a socket of type SOCK_SEQPACKET:

    out  READY, with the descriptor of /dev/fuse; then READY again, when the filesystem answers. Or why not, as text
    in   REQUEST, with the descriptor of a socket; without one, the kernel is only to look the file up
    out  DONE
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import select
import signal
import socket
import stat
import struct
import threading
import time
from contextlib import suppress

REQUEST = struct.Struct("=QQQQ")
"""A number for the answer, the name of the file, from where and up to where it is to be sent."""
DONE = struct.Struct("=QQi")
"""The number, bytes sent, and the errno of what ended it: 0 of nothing, EIO when the file could not be read."""
READY = b"ready"

_SENDING = 0.1
"""Seconds after which the other side is asked again: it may have given up the transfer."""
_NO_ROOM = 20
"""Milliseconds that a full socket is waited for here."""
_STEP = 1024 * 1024
_READ_AHEAD_KB = 1024
"""See ``fuse.mountpoint``."""

_POINT = "/proc"
"""A folder that is there for certain, and is of no more use to this process then."""
_STACK = 256 * 1024

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MNT_DETACH = 2
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 1 << 14, 1 << 18


def main() -> None:
    os.setsid()   # Ctrl-C is for the other side, which may go on sending for a while
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))   # what the other side's libraries leave open
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)   # it ends with its other side, which may still be sending
    threading.stack_size(_STACK)
    control = socket.socket(fileno=0)
    try:
        _begin(control)
        control.send(READY)
        _Sender(control).run()
    except ConnectionError:
        pass   # the other side is gone
    except OSError as error:
        with suppress(ConnectionError):
            control.send(str(error).encode())


def _begin(control: socket.socket) -> None:
    """OSError: the system does not allow it."""
    device = _mount()
    socket.send_fds(control, [READY], [device])
    os.close(device)   # or the connection would outlive the other side
    _raise_read_ahead(os.stat(_POINT).st_dev)   # noqa: PTH116
    _leave_everything_else()


def _mount() -> int:
    """In namespaces of this process (user_namespaces(7) for other users than root). OSError."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        _call("unshare", _CLONE_NEWNS)
    else:
        _call("unshare", _CLONE_NEWNS | _CLONE_NEWUSER)
        for name, text in (("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    _call("mount", None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode={stat.S_IFDIR:o},user_id={uid},group_id={gid}"
    flags = ctypes.c_ulong(_MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _call("mount", b"serpentfs", _POINT.encode(), b"fuse.serpentfs-pages", flags, options.encode())
    return device


def _leave_everything_else() -> None:
    """Make the mount the root, and take away what was there before (the way of pivot_root(2)). OSError."""
    os.chdir(_POINT)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def _call(function: str, *arguments: object) -> None:
    """A function of the C library. OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def _raise_read_ahead(device: int) -> None:
    try:
        with open(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb", "w") as file:
            file.write(str(_READ_AHEAD_KB))
    except OSError:
        pass   # only root may: smaller requests do, too


class _Sender:
    """Threads that send, as many as there are requests at a time."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._requests: queue.SimpleQueue[tuple[bytes, int | None]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)

    def run(self) -> None:
        """Until the other side is gone."""
        while True:
            request, descriptors, _, _ = socket.recv_fds(self._control, REQUEST.size, 1)
            if not request:
                os._exit(0)   # threads may be waiting; their connections end with this process
            if not self._idle.acquire(blocking=False):
                threading.Thread(target=self._work, daemon=True).start()
            self._requests.put((request, descriptors[0] if descriptors else None))

    def _work(self) -> None:
        while True:
            request, target = self._requests.get()
            number, name, start, stop = REQUEST.unpack(request)
            sent, reason = self._send(f"/{name}", target, start, stop)
            if target is not None:
                os.close(target)
            self._idle.release()
            with suppress(ConnectionError):   # the process is about to end
                self._control.send(DONE.pack(number, sent, reason))

    @staticmethod
    def _send(path: str, target: int | None, start: int, stop: int) -> tuple[int, int]:
        """How many bytes, and the errno."""
        try:
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0, errno.EIO
        end = time.monotonic() + _SENDING
        position = start
        try:
            if target is None:
                return 0, 0
            room = select.poll()
            room.register(target, select.POLLOUT)
            while position < stop and time.monotonic() < end:
                try:
                    sent = os.sendfile(target, source, position, min(stop - position, _STEP))
                except BlockingIOError:
                    if not room.poll(_NO_ROOM):
                        break
                    continue
                if not sent:
                    return position - start, errno.EIO
                position += sent
        except OSError as error:
            return position - start, error.errno or errno.EIO
        finally:
            os.close(source)
        return position - start, 0


if __name__ == "__main__":
    main()
