from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from serpentfs.daemon import asking, control, dying, places, systemd
from serpentfs.daemon.lock import OwnerLock, OwnerNote, read_owner
from serpentfs.daemon.stopping import Stop
from serpentfs.errors import BadVault, Busy, NotFound, PermissionDenied, Unavailable, Unsupported

NOTE = OwnerNote(4711, "vault+file:///v", "/run/s", {"mount": "/m"})


# places


def test_places_follow_xdg(tmp_path: Path) -> None:
    environment = {
        "XDG_STATE_HOME": "/state", "XDG_CACHE_HOME": "/cache", "XDG_RUNTIME_DIR": str(tmp_path),
    }
    found = places.places_of("some-id", environment)
    assert found.state == Path("/state/serpentfs/some-id")
    assert found.cache == Path("/cache/serpentfs/some-id")
    assert found.socket == tmp_path / "serpentfs/some-id.sock"
    without = places.places_of("some-id", {**environment, "XDG_RUNTIME_DIR": "/no/such"})
    assert without.socket == Path("/state/serpentfs/some-id/control.sock")


@pytest.mark.parametrize("remote_id", ["", "..", "a/b", "../x", "a\0", ".hidden", "x" * 200])
def test_an_id_from_a_vault_cannot_leave_the_state_folder(remote_id: str) -> None:
    with pytest.raises(BadVault):
        places.places_of(remote_id)


def test_private_folders(tmp_path: Path) -> None:
    made = places.make_private_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    made.chmod(0o755)
    places.make_private_directory(made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_urls_are_remembered(tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    assert places.recall_url("vault+file:///v", environment) is None
    places.remember_url("vault+file:///v", "id-1", environment)
    places.remember_url("vault+file:///w", "id-2", environment)
    places.remember_url("vault+file:///v", "id-3", environment)
    assert places.recall_url("vault+file:///v", environment) == "id-3"
    assert places.recall_url("vault+file:///w", environment) == "id-2"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert not any("vault" in path.name for path in files)


def test_write_private_replaces_whole_files(tmp_path: Path) -> None:
    places.write_private(tmp_path / "f", b"one")
    places.write_private(tmp_path / "f", b"two")
    assert (tmp_path / "f").read_bytes() == b"two"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


# lock


def test_the_lock_excludes_and_tells_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "owner.lock"
    assert read_owner(path) is None
    with OwnerLock.acquire(path, "work") as lock:
        assert read_owner(path) is not None    # held, though nothing is written yet
        lock.write(NOTE)
        assert read_owner(path) == NOTE
        with pytest.raises(Busy, match="work is in use by process 4711, mount at /m"):
            OwnerLock.acquire(path, "work")
        lock.write(OwnerNote(4711, "u", "s", {}))    # shorter than before
        assert read_owner(path) == OwnerNote(4711, "u", "s", {})
    assert read_owner(path) is None
    OwnerLock.acquire(path, "work").__exit__(None, None, None)


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "owner.lock"
    code = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from serpentfs.daemon.lock import OwnerLock
        lock = OwnerLock.acquire(Path({str(path)!r}), "x")
        print("held", flush=True)
        sys.stdin.read()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert read_owner(path) is not None
        process.kill()
        process.wait(timeout=30)
    assert read_owner(path) is None


def test_looking_does_not_disturb_an_owner_that_starts(tmp_path: Path) -> None:
    path = tmp_path / "owner.lock"
    OwnerLock.acquire(path, "x").__exit__(None, None, None)
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            read_owner(path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(50):
            OwnerLock.acquire(path, "x").__exit__(None, None, None)
    finally:
        done.set()
        thread.join()


# control socket


async def echo(request: dict[str, Any], emit: control.Emit) -> Any:
    for item in request.get("items", ()):
        await emit(item)
    return request.get("answer")


async def refuse(request: dict[str, Any], emit: control.Emit) -> Any:
    raise Busy("it is starting")


async def break_down(request: dict[str, Any], emit: control.Emit) -> Any:
    raise ZeroDivisionError


HANDLERS = {"echo": echo, "refuse": refuse, "break": break_down}


def asked(path: Path, request: str, **arguments: Any) -> tuple[Any, list[Any]]:
    items: list[Any] = []
    with asking.Connection(path, timeout=20) as connection:
        return connection.ask(request, items.append, **arguments), items


@pytest.mark.trio
@pytest.mark.parametrize("folder", ["short", "x" * 90 + "/" + "y" * 90])
async def test_requests_are_answered(tmp_path: Path, folder: str) -> None:
    path = tmp_path / folder / "c.sock"
    async with control.listening(path, HANDLERS):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        answer = await trio.to_thread.run_sync(lambda: asked(path, "echo", items=[1, {"a": "\udcff"}], answer=[2]))
        assert answer == ([2], [1, {"a": "\udcff"}])
        with pytest.raises(Busy, match="it is starting"):
            await trio.to_thread.run_sync(asked, path, "refuse")
        with pytest.raises(Unsupported):
            await trio.to_thread.run_sync(asked, path, "nonsense")
    assert not path.exists()
    with pytest.raises(NotFound):
        asking.Connection(path)


@pytest.mark.trio
async def test_a_fault_of_one_request_does_not_end_the_owner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.sock"
    async with control.listening(path, HANDLERS):
        with pytest.raises(Exception, match="its log tells why"):
            await trio.to_thread.run_sync(asked, path, "break")
        assert "ZeroDivisionError" in caplog.text
        assert await trio.to_thread.run_sync(lambda: asked(path, "echo", answer=1)) == (1, [])


@pytest.mark.trio
@pytest.mark.parametrize("line", [b"\n", b"[]\n", b"{}\n", b'{"request": []}\n', b"\xff\n", b'"x"\n', b"null\n"])
async def test_nonsense_gets_an_error(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "c.sock"
    async with control.listening(path, HANDLERS):
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(line)
        with trio.fail_after(20):
            assert json.loads(await stream.receive_some())["error"] == "Unsupported"
        await stream.aclose()


@pytest.mark.trio
async def test_endless_lines_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    async with control.listening(path, HANDLERS):
        stream = await trio.open_unix_socket(str(path))
        with trio.fail_after(20), pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x" * 64_000_000)
        await stream.aclose()


@pytest.mark.trio
async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with control.listening(path, HANDLERS):
        assert await trio.to_thread.run_sync(lambda: asked(path, "echo", answer=1)) == (1, [])


@pytest.mark.trio
async def test_the_end_of_the_owner_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    failed: list[BaseException] = []
    arrived = trio.Event()

    async def never(request: dict[str, Any], emit: control.Emit) -> Any:
        arrived.set()
        await trio.sleep_forever()

    def ask() -> None:
        try:
            asked(path, "never")
        except Unavailable as error:
            failed.append(error)

    async with trio.open_nursery() as nursery, control.listening(path, {"never": never}) as server:
        nursery.start_soon(trio.to_thread.run_sync, ask)
        with trio.fail_after(20):
            await arrived.wait()
        await server.wait_idle(0.05)
    assert failed


@pytest.mark.trio
async def test_strangers_are_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.sock"
    async with control.listening(path, HANDLERS):
        monkeypatch.setattr(control, "_is_allowed", lambda connection: False)
        with pytest.raises((Unavailable, PermissionDenied)):
            await trio.to_thread.run_sync(asked, path, "echo")


# stopping


@pytest.mark.trio
async def test_stop_drains_first_and_ends_at_once_when_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    alarms: list[int] = []
    monkeypatch.setattr("signal.alarm", alarms.append)
    scope = trio.CancelScope()
    stop = Stop(scope)
    stop.begin_serving()
    stop.ask()
    stop.ask()    # a second polite request changes nothing
    assert stop.asked.is_set()
    assert not scope.cancel_called
    assert not alarms
    stop.ask(now=True)
    assert scope.cancel_called
    assert alarms


@pytest.mark.trio
async def test_stop_before_serving_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.alarm", lambda seconds: None)
    scope = trio.CancelScope()
    Stop(scope).ask()
    assert scope.cancel_called


# systemd and detaching


def test_systemd_is_notified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "n"))
        listener.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        systemd.notify("READY=1")
        assert listener.recv(100) == b"READY=1"
    systemd.notify("STOPPING=1")    # nobody listens any more: a warning, not an error
    monkeypatch.delenv("NOTIFY_SOCKET")
    systemd.notify("READY=1")


def test_a_systemd_that_does_not_listen_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others,
    ):
        listener.bind(str(tmp_path / "n"))
        others.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                others.sendto(b"what others told it", str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        for within in (0.0, 0.01):
            telling = threading.Thread(target=systemd.notify, args=["WATCHDOG=1"], kwargs={"within": within})
            telling.daemon = True
            telling.start()
            telling.join(20)
            assert not telling.is_alive()
    assert caplog.text.count("cannot tell systemd WATCHDOG") == 2


DETACH = """
import os, sys, time
from pathlib import Path
from serpentfs.daemon.readiness import Report, detach
answer = detach(Path(sys.argv[1]))
if isinstance(answer, Report):
    print("command", answer.code, *answer.lines)
    sys.exit()
print("from the daemon", flush=True)
{body}
"""


def detached(tmp_path: Path, body: str) -> tuple[str, str]:
    """What the command prints and what the daemon left in its log."""
    log = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", DETACH.format(body=textwrap.dedent(body)), str(log)],
        capture_output=True, text=True, timeout=60, check=True,
    )
    return done.stdout, log.read_text()


def test_the_daemon_reports(tmp_path: Path) -> None:
    printed, logged = detached(tmp_path, """
        print(os.getpid() != os.getsid(0), os.getcwd(), sys.stdin.read() == "", flush=True)
        answer.report(5, ("one", "two"))
        answer.report(6, ("late",))
    """)
    assert printed == "command 5 one two\n"
    assert logged == "from the daemon\nTrue / True\n"


def test_a_daemon_that_dies_without_a_word_is_noticed(tmp_path: Path) -> None:
    printed, logged = detached(tmp_path, "raise SystemError('gone')")
    assert printed == "command None\n"
    assert "gone" in logged


def test_detaching_with_threads_is_refused(tmp_path: Path) -> None:
    code = DETACH.replace("answer = detach", "import threading\nthreading.Thread(target=time.sleep, args=(3,), "
                          "daemon=True).start()\nanswer = detach").format(body="")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "log")], capture_output=True, text=True,
                          timeout=60, check=False)
    assert "detach() came too late" in done.stderr


DYING = """
import ctypes, fcntl, json, os, sys, threading, time
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
os.write(lock, json.dumps({"pid": os.getpid(), "remote": "r", "socket": "/s", "doors": {"mount": "/m"}}).encode())
threading.Thread(target=time.sleep, args=(1000,)).start()
print("held", flush=True)
ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)    # exit of this thread, not of the process
"""


@pytest.fixture
def dying_owner(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A process whose first thread has ended and that holds the lock all the same: as one that was killed while the
    kernel holds a thread of it."""
    path = tmp_path / "owner.lock"
    command = [sys.executable, "-c", DYING, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            give_up = time.monotonic() + 30
            while not dying.is_dying(process.pid):
                assert time.monotonic() < give_up
                time.sleep(0.005)
            yield path, process
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_owner_that_was_killed_and_cannot_end_is_freed(
    dying_owner: tuple[Path, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, process = dying_owner
    freed: list[str] = []

    def release(mountpoint: str) -> None:
        freed.append(mountpoint)
        process.kill()

    monkeypatch.setattr(dying, "release", release)
    with OwnerLock.acquire(path, "r"):
        assert freed == ["/m"]
    assert read_owner(path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_owner_that_cannot_be_freed_is_told(
    dying_owner: tuple[Path, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = dying_owner
    monkeypatch.setattr("serpentfs.daemon.lock._DYING_PATIENCE", 0.1)
    with pytest.raises(Busy, match="umount -f /m"):
        read_owner(path)
    assert not dying.is_dying(os.getpid())
    assert not dying.is_dying(1 << 22)
