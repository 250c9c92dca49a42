"""How a command that works on files gets to a drive: through the process that owns it where one runs (it knows what is
not uploaded yet), else by owning it for the moment.

Either way the command talks to a control socket, so that it is written once: who owns the drive for the moment asks
itself. What such a command changed is uploaded before it ends, or told to be left.

What only who owns a drive needs is imported there: a command that asks a running process answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from serpentfs.cli.exit_codes import ExitCode, exit_code
from serpentfs.cli.failures import leaves
from serpentfs.cli.output import ProgressLine, printable, tell_pending
from serpentfs.cli.remotes import Target, owner_of, resolve
from serpentfs.daemon.asking import Connection
from serpentfs.daemon.lock import RemoteOwned
from serpentfs.errors import (
    Busy,
    LoginRequired,
    NoSpace,
    NotFound,
    ReadOnly,
    RetryableError,
    SerpentError,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    from serpentfs.daemon.opened import Remote

T = TypeVar("T")

# A short break of the connection is bridged; somebody who waits at a prompt is told of a longer one.
_OFFLINE_PATIENCE = 10.0
_START_PATIENCE = 60.0
_HOPELESS = (RetryableError, LoginRequired, NoSpace, ReadOnly)
"""Errors that the next file would meet as well."""


def resolve_all(arguments: argparse.Namespace, words: Sequence[str]) -> list[Target]:
    """What several REMOTE-PATHs mean, all of them in one remote. UsageError when they are not."""
    targets = [resolve(argparse.Namespace(**{**vars(arguments), "remote": word})) for word in words]
    for target in targets[1:]:
        if target.spec.canonical != targets[0].spec.canonical:
            raise UsageError(f"{targets[0].name} and {target.name} are two remotes: one command works on one")
    return targets


def run_with_drive(work: Callable[[], Awaitable[T]]) -> T:
    """``trio.run`` where this process may own a drive. An interrupt cancels ``work``, and is raised when that has
    ended: at once it would come in the middle of whatever the drive is at. A second one ends the process as a kill
    does."""
    import trio

    interrupted = False
    results: list[T] = []
    failed: Exception | None = None

    async def watch(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        nonlocal interrupted
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                if interrupted:
                    signal.signal(signal.SIGINT, signal.SIG_DFL)
                    signal.raise_signal(signal.SIGINT)
                interrupted = True
                scope.cancel()

    async def run() -> None:
        nonlocal failed
        async with trio.open_nursery() as nursery:
            await nursery.start(watch)
            with scope:
                try:
                    results.append(await work())
                except Exception as error:  # noqa: BLE001 - raised below: the nursery would make a group of it
                    failed = error
            nursery.cancel_scope.cancel()

    scope = trio.CancelScope()
    try:
        trio.run(run)
        if failed is not None:
            raise failed
    except BaseException as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise
    if not results:
        raise KeyboardInterrupt
    return results[0]


class Access:
    """The way to one remote for one command."""

    def __init__(self, arguments: argparse.Namespace, target: Target) -> None:
        """Asks for a passphrase if there is no owner."""
        self._arguments = arguments
        self._target = target
        # Never read-only: a command that changes something may come, and goes through this one then.
        self._remote = self._unlock() if owner_of(target) is None else None
        self.borrows = False
        """Whether this process is the owner, for as long as the command takes. Known once it is open."""

    def _unlock(self) -> Remote:
        from serpentfs.cli.opening import unlock_target

        return unlock_target(self._arguments, self._target)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Path]:
        """The control socket of the owner. Busy when another process owns the remote and does not answer."""
        import trio

        async with contextlib.AsyncExitStack() as stack:
            give_up = time.monotonic() + _START_PATIENCE
            while (socket := await self._enter(stack)) is None:
                if time.monotonic() > give_up:
                    raise Busy(f"{self._target.name} is in use by another process, which does not answer")
                await trio.sleep(0.05)
            yield socket

    async def _enter(self, stack: contextlib.AsyncExitStack) -> Path | None:
        """None where others are faster: an owner ends while it is asked, or somebody becomes it before this process
        does."""
        from serpentfs.bridge import run_in_thread
        from serpentfs.daemon import owner

        if (note := owner_of(self._target)) is not None:
            connection = await run_in_thread("command", _attached, Path(note.socket))
            if connection is None:
                return None
            stack.enter_context(connection)
            return Path(note.socket)
        if self._remote is None:
            self._remote = self._unlock()
        try:
            await stack.enter_async_context(owner.borrow(self._remote))
        except (RemoteOwned, BaseExceptionGroup) as error:
            if not all(isinstance(one, RemoteOwned) for one in leaves(error)):
                raise
            return None
        self.borrows = True
        note = owner_of(self._target)
        assert note is not None
        return Path(note.socket)

    def run(self, work: Callable[[Path], T]) -> T:
        """``work``, given the control socket. What it raises is raised here."""
        if self._remote is None and (note := owner_of(self._target)) is not None:
            socket = Path(note.socket)
            if (connection := _attached(socket)) is not None:
                with connection:
                    return work(socket)
        # It ended, or there was none: another one may come, or this process is it.
        return run_with_drive(partial(self._run, work))()

    def ask(self, request: str, on_item: Callable[[Any], None] | None = None, **words: Any) -> Any:
        """The answer to one request. ``on_item`` gets the progress or the pages of those that have some."""

        def work(socket: Path) -> Any:
            with Connection(socket) as connection:
                return connection.ask(request, on_item, **words)

        return self.run(work)

    async def _run(self, work: Callable[[Path], T]) -> Callable[[], T]:
        from serpentfs.bridge import run_in_thread

        # Its error is carried past the owner's nurseries, which would make a group of it.
        async with self.open() as socket:
            try:
                result = await run_in_thread("command", work, socket, abandon=True)
            except (SerpentError, OSError) as error:
                return _raiser(error)
        return lambda: result


def _attached(socket: Path) -> Connection | None:
    """A connection to an owner that answers; None when it ends meanwhile. It stays open: an owner that is one only for
    a command of its own lives as long as somebody is connected. Busy when it is starting and does not get ready."""
    with contextlib.ExitStack() as stack:
        try:
            connection = stack.enter_context(Connection(socket))
            give_up = time.monotonic() + _START_PATIENCE
            while connection.ask("status")["phase"] == "starting" and time.monotonic() < give_up:
                time.sleep(0.05)
        except (NotFound, Unavailable):
            return None
        stack.pop_all()
        return connection


def _raiser(error: Exception) -> Callable[[], Any]:
    def reraise() -> Any:
        raise error

    return reraise


class Failures:
    """What went wrong with some of many: a line for each, and the exit code of the first."""

    def __init__(self) -> None:
        self.code = ExitCode.OK

    def add(self, about: str, error: SerpentError) -> None:
        print(f"serpentfs: {_told(about, error)}", file=sys.stderr)
        self.code = self.code or exit_code(error)

    @contextlib.contextmanager
    def about(self, path: str) -> Iterator[None]:
        """An error within the block is told and is over, but for those that end everything."""
        try:
            yield
        except _HOPELESS as error:
            raise type(error)(_told(path, error)) from error
        except SerpentError as error:
            self.add(path, error)


def _told(about: str, error: SerpentError) -> str:
    return printable(f"{about}: {error}")


def change(
    arguments: argparse.Namespace, target: Target, work: Callable[[Connection, Failures], None]
) -> ExitCode:
    """Run a command that changes names; who owns the drive for that moment also waits for the uploads."""
    access = Access(arguments, target)
    failures = Failures()

    def run(socket: Path) -> ExitCode:
        with Connection(socket) as connection:
            work(connection, failures)
        return upload_rest(socket, quiet=arguments.quiet) if access.borrows else ExitCode.OK

    code = access.run(run)
    return failures.code or code


def ask_owner(
    arguments: argparse.Namespace, target: Target, request: str, on_item: Callable[[Any], None] | None = None,
    **words: Any,
) -> Any:
    """``Access.ask`` for a command that asks nothing else."""
    return Access(arguments, target).ask(request, on_item, **words)


def upload_rest(socket: Path, *, quiet: bool, only: Collection[str] | None = None, wait: bool = True) -> ExitCode:
    """Wait until everything is uploaded, or nothing moves any more, or the store is out of reach for a while. If
    changes are left (of those to the paths in ``only``), that is told."""
    with Connection(socket) as connection:
        drive = connection.ask("status")["drive"]
    if wait:
        with ProgressLine(at_once=False) as line, contextlib.suppress(_OutOfReach):
            waited_for: set[int] = set()
            # Other commands may go through this process: what they add meanwhile is waited for as well.
            while not waited_for.issuperset(pending := {one["seq"] for one in drive["pending"]}):
                waited_for |= pending
                with Connection(socket) as connection:
                    connection.ask("flush", _Watch(None if quiet else line))
                    drive = connection.ask("status")["drive"]
    left = sum(1 for one in drive["pending"] if only is None or one["path"] in only)
    return tell_pending(
        left, "that goes up later, and status tells how far it is", login_required=drive["login_required"]
    )


class _OutOfReach(Exception):
    """Not an error: enough of waiting."""


class _Watch:
    """Shows the progress of uploads, and gives up when the store is away for long."""

    def __init__(self, line: ProgressLine | None) -> None:
        self._line = line
        self._online = time.monotonic()

    def __call__(self, item: Mapping[str, Any]) -> None:
        if self._line is not None:
            self._line.show(item)
        now = time.monotonic()
        if item["online"]:
            self._online = now
        elif now - self._online > _OFFLINE_PATIENCE:
            raise _OutOfReach


def matches(connection: Connection, path: str) -> list[dict[str, Any]]:
    """The entries that a path or pattern names: ``daemon.walking.WalkedEntry`` as dicts. NotFound."""
    found: list[dict[str, Any]] = []
    connection.ask("match", found.extend, path=path)
    return found


def walk(connection: Connection, path: str, **conditions: Any) -> list[dict[str, Any]]:
    """An entry and everything below it, folder before content."""
    found: list[dict[str, Any]] = []
    connection.ask("walk", found.extend, path=path, **conditions)
    return found
