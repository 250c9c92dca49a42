"""The program that sends files of the page cache: run by ``pages``, by its path, with nothing but the standard library.

It is a process of its own because a thread that waits for a FUSE filesystem of its own process cannot be killed: the
connection would end with the process, and the process with the thread. And it has an interpreter of its own.

The mount is a descriptor of this process (fsmount(2)) and has no place: nobody else sees it, and it goes when this
process goes, which ends when its other side does. Users other than root may mount in namespaces of their own only: a
process that ends at once does that. The other mounts of the machine are in those, too, and would stay in use when their
users have unmounted them, as long as anything of such a namespace is. This process has no secrets, and gets to see what
it sends while it does.

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

_STACK = 256 * 1024

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
"""The same on every architecture but Alpha (linux/unistd.h); not in every C library yet."""
_CLOEXEC = 1
"""FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC; the rest, too, is linux/mount.h's."""
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8


def main() -> None:
    os.setsid()   # Ctrl-C is for the other side, which may go on sending for a while
    os.chdir("/")
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))   # what the other side's libraries leave open
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)   # it ends with its other side, which may still be sending
    threading.stack_size(_STACK)
    control = socket.socket(fileno=0)
    try:
        device, folder = _mount("/dev/fuse") if os.geteuid() == 0 else _mount_as_user()
        socket.send_fds(control, [READY], [device])
        os.close(device)   # or the connection would outlive the other side
        _raise_read_ahead(os.fstat(folder).st_dev)   # answered by the other side
        control.send(READY)
        _Sender(control, folder).run()
    except ConnectionError:
        pass   # the other side is gone
    except OSError as error:
        with suppress(ConnectionError):
            control.send(str(error).encode())


def _mount(device_path: str, within: int | None = None) -> tuple[int, int]:
    """Descriptors of the device (found as by openat(2)) and of the mount's root. OSError: the system does not allow
    it."""
    device = os.open(device_path, os.O_RDWR | os.O_CLOEXEC, dir_fd=within)
    context = _call("syscall", _FSOPEN, b"fuse", _CLOEXEC)
    settings = {
        "source": "serpentfs", "subtype": "serpentfs-pages", "fd": f"{device}", "rootmode": f"{stat.S_IFDIR:o}",
        "user_id": f"{os.geteuid()}", "group_id": f"{os.getegid()}",
    }   # fmt: skip
    for name, value in settings.items():
        _call("syscall", _FSCONFIG, context, _SET_STRING, name.encode(), value.encode(), 0)
    _call("syscall", _FSCONFIG, context, _SET_FLAG, b"ro", None, 0)
    _call("syscall", _FSCONFIG, context, _CREATE, None, None, 0)
    folder = _call("syscall", _FSMOUNT, context, _CLOEXEC, _RDONLY | _NOSUID | _NODEV | _NOEXEC)
    os.close(context)
    return device, folder


def _mount_as_user() -> tuple[int, int]:
    """As ``_mount``, by a process in namespaces of its own (user_namespaces(7))."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        try:
            devices = os.open("/dev", os.O_PATH | os.O_DIRECTORY)   # not that of the namespace, to keep nothing of it
            _enter_namespaces()
            socket.send_fds(theirs, [READY], _mount("fuse", devices))
        except OSError as error:
            theirs.send(str(error).encode())
        finally:
            os._exit(0)
    theirs.close()
    said, descriptors, _, _ = socket.recv_fds(ours, 256, 2)
    os.waitpid(child, 0)
    ours.close()
    if said != READY:
        raise OSError(said.decode() or "the process that mounts has ended")
    device, folder = descriptors
    return device, folder


def _enter_namespaces() -> None:
    """As this user, who may mount there. OSError."""
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", _CLONE_NEWNS | _CLONE_NEWUSER)
    for name, text in (("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _call(function: str, *arguments: object) -> int:
    """A function of the C library. OSError."""
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    done: int = getattr(ctypes.CDLL(None, use_errno=True), function)(*words)
    if done == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return done


def _raise_read_ahead(device: int) -> None:
    try:
        with open(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb", "w") as file:
            file.write(str(_READ_AHEAD_KB))
    except OSError:
        pass   # only root may: smaller requests do, too


class _Sender:
    """Threads that send, as many as there are requests at a time."""

    def __init__(self, control: socket.socket, folder: int) -> None:
        self._control = control
        self._folder = folder
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
            sent, reason = self._send(f"{name}", target, start, stop)
            if target is not None:
                os.close(target)
            self._idle.release()
            with suppress(ConnectionError):   # the process is about to end
                self._control.send(DONE.pack(number, sent, reason))

    def _send(self, name: str, target: int | None, start: int, stop: int) -> tuple[int, int]:
        """How many bytes, and the errno."""
        try:
            source = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
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
