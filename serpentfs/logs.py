"""Where log records go and what a line looks like: one line per record, on standard error, in a file or as JSON.

Under systemd (standard error is the journal) a line starts with the priority that journald understands and has
no time of its own. Every record names the request it belongs to (``begin_request``), from the door to the call of the
cloud. Secrets are kept out where they are held; what slips through all the same (a session id in a foreign message)
is masked by the one filter here, which also masks names of files at INFO and above.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import logging.handlers
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType

from serpentfs.errors import UsageError

ROOT_LOGGER = "serpentfs"

MAX_VERBOSE = 5
"""Below DEBUG: every request of a door."""
LEVELS = {
    "FATAL": logging.CRITICAL,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.INFO,
    "DEBUG": logging.DEBUG,
    "MAX_VERBOSE": MAX_VERBOSE,
}
"""The names that MEGAcmd gives its levels, for ours."""
FORMATS = ("text", "json")

for _name, _number in LEVELS.items():
    logging.addLevelName(_number, _name)

# https://man7.org/linux/man-pages/man3/sd-daemon.3.html: "<N>" before a line gives its priority.
_JOURNAL_PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}

_BY_VERBOSITY = ("WARNING", "INFO", "DEBUG", "MAX_VERBOSE")

_MASK = "***"
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    # The header with all of its value, as headers or a dict of them are shown.
    (re.compile(r"(?i)((?:proxy-)?authorization[\"']?\s*[:=,]\s*b?[\"']?)[^\"'\r\n|]+"), rf"\1{_MASK}"),
    # Parameters of a URL or a form: MEGA's session id, presigned requests of S3, passwords.
    (
        re.compile(
            r"(?i)(\b(?:sid|password|passphrase|passwd|secret|token|access_key_id|secret_access_key|session_token|"
            r"x-amz-(?:signature|credential|security-token))=)[^&\s\"'|]+"
        ),
        rf"\1{_MASK}",
    ),
    # The same as keys of JSON or of a dict.
    (
        re.compile(
            r"(?i)([\"'](?:sid|csid|tsid|k|uh|privk|password|passphrase|secret|token|master_?key|session_?id)"
            r"[\"']\s*:\s*b?[\"'])[^\"']+"
        ),
        rf"\1{_MASK}",
    ),
    # https://user:password@host
    (re.compile(r"(://)[^/\s@\"']+@"), rf"\1{_MASK}@"),
    # The key of a public link of MEGA, in its present and its former form.
    (re.compile(r"(mega(?:\.co)?\.nz/(?:file|folder|embed)/[^#\s]+#)[\w-]+"), rf"\1{_MASK}"),
    (re.compile(r"(mega(?:\.co)?\.nz/#F?![\w-]+!)[\w-]+"), rf"\1{_MASK}"),
    # An access key id of S3.
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), _MASK),
)
_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'|“[^”]*”")

_request: ContextVar[str] = ContextVar("serpentfs_request", default="")
_numbers = itertools.count(1)


def begin_request(door: str) -> str:
    """From here on, this task (and the tasks and threads that it starts) works on a new request of ``door``. The answer
    is its id, unique in this process."""
    name = f"{door}-{next(_numbers):x}"
    _request.set(name)
    return name


@contextlib.contextmanager
def some_request(purpose: str) -> Iterator[None]:
    """For work that a door's request may or may not be behind: where there is none, the block is a request itself."""
    if _request.get():
        yield
        return
    name = f"{purpose}-{next(_numbers):x}"
    _request.set(name)
    try:
        yield
    finally:
        # Not by a token: after an interrupt the block may end in another context than it began in.
        if _request.get() == name:
            _request.set("")


def request_id() -> str:
    """Of the present task; empty outside of requests."""
    return _request.get()


class Name(str):
    """A user's name of a file or folder as an argument of a log call: shown below INFO, or when asked for."""

    __slots__ = ()


def redact(text: str) -> str:
    """``text`` with everything masked that looks like a secret."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def without_names(message: str) -> str:
    """Messages of this project quote what users wrote."""
    return _QUOTED.sub(f'"{_MASK}"', message)


class _OneLine(logging.Formatter):
    """Folds line breaks (a traceback, a foreign message), so that one record stays one line, and masks."""

    converter = staticmethod(time.gmtime)

    def __init__(self, form: str, *, names: bool, datefmt: str | None = None) -> None:
        super().__init__(form, datefmt=datefmt)
        self._names = names

    def format(self, record: logging.LogRecord) -> str:
        return redact(" | ".join(line for line in super().format(record).splitlines() if line.strip()))

    def _shows_names(self, record: logging.LogRecord) -> bool:
        return self._names or record.levelno < logging.INFO

    def message_of(self, record: logging.LogRecord) -> str:
        if self._shows_names(record) or not isinstance(record.args, tuple) or not isinstance(record.msg, str):
            return record.getMessage()
        arguments = tuple(
            _MASK if isinstance(one, Name) else without_names(str(one)) if isinstance(one, BaseException) else one
            for one in record.args
        )
        return record.msg % arguments if arguments else record.msg

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = self.message_of(record)
        record.request = f" [{request}]" if (request := getattr(record, "request_id", "")) else ""
        return super().formatMessage(record)

    def formatException(self, info: _ExcInfo) -> str:
        # Called for the record that is being formatted, of which it is not told: the careful form, in any case.
        return self.trace_of(info, names=self._names)

    def trace_of(self, info: _ExcInfo, *, names: bool) -> str:
        error = info[1]
        if error is None or names:
            return super().formatException(info)
        shown = traceback.TracebackException.from_exception(error)
        return "".join(_careful(shown, error)).rstrip("\n")


_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def _careful(shown: traceback.TracebackException, error: BaseException) -> list[str]:
    """A traceback with what its messages quote masked: a foreign message quotes names, too."""
    parts: list[str] = []
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    below = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
    if cause is not None and below is not None:
        parts += [*_careful(below, cause), "which led to\n"]
    parts.append("Traceback (most recent call last):\n")
    parts += shown.stack.format()
    message = without_names(str(error))
    parts.append(f"{type(error).__qualname__}: {message}\n" if message else f"{type(error).__qualname__}\n")
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            parts += _careful(traceback.TracebackException.from_exception(inner), inner)
    return parts


class _Journal(_OneLine):
    def format(self, record: logging.LogRecord) -> str:
        priority = _JOURNAL_PRIORITY.get(record.levelno, 7 if record.levelno < logging.DEBUG else 6)
        return f"<{priority}>{super().format(record)}"


class _Terminal(_OneLine):
    """For somebody who sits there, knows the time, and has started one process. Who asked for more gets all of it."""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info or logging.getLogger(ROOT_LOGGER).level < logging.WARNING:
            return super().format(record)
        message = " | ".join(self.message_of(record).splitlines())
        return redact(f"serpentfs: {record.levelname.lower()}: {message}")


class _Json(_OneLine):
    """One JSON object a line: time (UTC), level, process, logger, message, and where there are any, request and
    exception (lines of its traceback)."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "process": record.process,
            "logger": record.name,
            "message": redact(self.message_of(record)),
        }
        if request := getattr(record, "request_id", ""):
            fields["request"] = request
        if record.exc_info:
            lines = self.trace_of(record.exc_info, names=self._shows_names(record)).splitlines()
            fields["exception"] = [redact(line) for line in lines]
        return json.dumps(fields, ensure_ascii=False)


class _File(logging.handlers.WatchedFileHandler):
    """A log file, found again after logrotate moved it. One that cannot be written is no reason for anybody to fail."""

    def _open(self) -> TextIOWrapper:
        # Also the one after a rotation: for this user only, whatever the umask is.
        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=_open_private)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def reopenIfNeeded(self) -> None:
        with contextlib.suppress(OSError):    # then the old one still takes what there is to tell
            if self._has_moved():
                self.reopen()

    def _has_moved(self) -> bool:
        try:
            status = Path(self.baseFilename).stat()
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != (self.dev, self.ino)

    def reopen(self) -> None:
        """OSError, and the old file stays."""
        self.acquire()
        try:
            stream = self._open()
            if self.stream is not None:
                self._redirect(self.stream.fileno(), stream.fileno())
                self.stream.close()
            self.stream = stream
            self._statstream()
        finally:
            self.release()

    @staticmethod
    def _redirect(old: int, new: int) -> None:
        """Standard output and error of a daemon are its log, too: they would keep the room of the first file for ever,
        and write where nobody looks."""
        before = os.fstat(old)
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):    # closed
                if os.path.samestat(os.fstat(descriptor), before):
                    os.dup2(new, descriptor)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _note_request(record: logging.LogRecord) -> bool:
    """As a filter of the handler: runs in the task that logs."""
    record.request_id = _request.get()
    return True


def _is_journal(descriptor: int) -> bool:
    """Whether systemd connected this descriptor to the journal: JOURNAL_STREAM is its "device:inode"."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def level_of(verbosity: int) -> int:
    """-1 (quiet): errors; 0: warnings; 1: information; 2: what helps to find a fault; 3 and more: every request."""
    if verbosity < 0:
        return logging.ERROR
    return LEVELS[_BY_VERBOSITY[min(verbosity, len(_BY_VERBOSITY) - 1)]]


def level_named(text: str) -> int:
    """The number of a level's name, in any case. UsageError."""
    try:
        return LEVELS[text.upper()]
    except KeyError:
        raise UsageError(f'"{text}" is not a log level: {", ".join(LEVELS)}') from None


def level() -> str:
    """The name of the level of this process."""
    return logging.getLevelName(logging.getLogger(ROOT_LOGGER).level)


def set_level(text: str) -> None:
    """Change the level of this process. UsageError for a name that is none."""
    logging.getLogger(ROOT_LOGGER).setLevel(level_named(text))


def reopen() -> None:
    """Open the log file anew, where there is one: after somebody moved it away. UsageError, and the old one stays, when
    that cannot be done."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _File):
            try:
                handler.reopen()
            except OSError as error:
                raise UsageError(f"cannot write the log file {handler.baseFilename}: {error.strerror}") from error


def configure(
    verbosity: int = 0, log_file: Path | None = None, *, level: str | None = None, form: str = FORMATS[0],
    names: bool = False,
) -> None:
    """Send the project's records to ``log_file`` or standard error, replacing an earlier configuration.

    ``level`` is a name of ``LEVELS`` and counts more than ``verbosity``; ``form`` is one of ``FORMATS``; ``names``:
    names of files are not masked. The file is made with mode 0600 and found again after logrotate moved it. Libraries
    are heard from warnings on. UsageError when the file cannot be opened, or for a level that is none.
    """
    number = level_of(verbosity) if level is None else level_named(level)
    handler: logging.Handler
    if log_file is not None:
        try:
            handler = _File(log_file, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write the log file {log_file}: {error.strerror}") from error
    else:
        handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(_Json("%(message)s", names=names))
    elif log_file is None and _is_journal(2):
        handler.setFormatter(_Journal("%(name)s:%(request)s %(message)s", names=names))
    else:
        line = "%(asctime)sZ %(process)d %(levelname)s %(name)s:%(request)s %(message)s"
        shape = _Terminal if log_file is None and sys.stderr.isatty() else _OneLine
        handler.setFormatter(shape(line, names=names, datefmt="%Y-%m-%dT%H:%M:%S"))
    handler.addFilter(_note_request)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT_LOGGER).setLevel(number)
    logging.captureWarnings(True)
