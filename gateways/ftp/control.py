"""One control connection: lines, login, TLS, data connections. ``session`` adds the commands that touch the drive.

pyftpdlib parses lines and owns the sockets. Everything in it that wants a local file system, logs names, or counts
on a listening socket of its own is replaced here. A command raises; ``process_command`` turns what it raised into
the reply.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import ssl
import sys
from dataclasses import dataclass, field
from typing import Any

from pyftpdlib.handlers.ftp.control import FTPHandler

from serpentfs.errors import ReadOnly
from serpentfs.gateways.access import FtpOptions, LoginThrottle, retry_after_seconds
from serpentfs.gateways.accounts import EVERYTHING, Accounts
from serpentfs.gateways.ftp.listing import FACTS
from serpentfs.gateways.ftp.partials import Partials
from serpentfs.gateways.ftp.replies import Refusal, one_line, reply_to
from serpentfs.gateways.ftp.tls import TlsChannel
from serpentfs.gateways.ftp.transfers import Active, DataConnection, Download, Listing, Passive
from serpentfs.gateways.ftp.uploads import Upload
from serpentfs.gateways.listings import KeptListings
from serpentfs.gateways.sync_vfs import SyncVfs
from serpentfs.gateways.watching import Watched
from serpentfs.logs import MAX_VERBOSE, begin_request

_log = logging.getLogger(__name__)

LOGIN_TIME = 60.0
"""Seconds within which a client must have logged in: one that only holds a connection is let go."""

_LONGEST_LINE = 16 * 1024
"""Bytes; a path of the longest length that Linux knows (4096) fits, also with every byte doubled."""

_TAKES_DATA_CONNECTION = {"LIST", "NLST", "MLSD", "RETR", "STOR", "STOU", "APPE"}
_OPENS_DATA_CONNECTION = {"PASV", "EPSV", "PORT", "EPRT"}
_CHANGES_DRIVE = {
    "STOR", "STOU", "APPE", "DELE", "RMD", "XRMD", "MKD", "XMKD", "RNFR", "RNTO", "MFMT", "SITE CHMOD",
}   # fmt: skip
_BEFORE_LOGIN = {"OPTS"}   # beside what pyftpdlib allows: lftp sends OPTS UTF8 first of all


def _command(*, auth: bool, arg: bool | None, help: str) -> dict[str, Any]:
    """An entry of pyftpdlib's table: allowed only after login; has an argument (None: may have)."""
    # With a "perm" pyftpdlib would turn the argument into a path of the local system.
    return {"perm": None, "auth": auth, "arg": arg, "help": f"Syntax: {help}"}


def _command_table(*, tls: bool) -> dict[str, dict[str, Any]]:
    table = {name: {**facts, "perm": None} for name, facts in FTPHandler.proto_cmds.items()}
    for name in _BEFORE_LOGIN:
        table[name]["auth"] = False
    table["AVBL"] = _command(auth=True, arg=None, help="AVBL [<SP> path] (bytes that are free).")
    if tls:
        table["AUTH"] = _command(auth=False, arg=True, help="AUTH <SP> TLS (secure this connection).")
        table["PBSZ"] = _command(auth=False, arg=True, help="PBSZ <SP> 0 (comes before PROT).")
        table["PROT"] = _command(auth=False, arg=True, help="PROT <SP> C|P (secure data connections or not).")
    return table


_COMMANDS = {tls: _command_table(tls=tls) for tls in (False, True)}


_KEPT_LISTINGS = 4 * 1024 * 1024
"""Bytes of listings: some 40,000 lines."""


@dataclass(frozen=True, slots=True)
class Door:
    """What all sessions share."""

    vfs: SyncVfs
    options: FtpOptions
    accounts: Accounts
    throttle: LoginThrottle
    partials: Partials
    tls: Watched[ssl.SSLContext] | None
    requires_tls: bool
    listings: KeptListings = field(default_factory=lambda: KeptListings(_KEPT_LISTINGS))


class _Family:
    """Stands for the listening socket, of which pyftpdlib asks the family: it then takes the connection's."""

    family = socket.AF_INET


class _Server:
    """The part of pyftpdlib's FTPServer that a handler uses. Connections are counted elsewhere."""

    socket = _Family
    backlog = 1   # of a passive port: one client connects, once

    def __init__(self) -> None:
        self.ip_map: list[str] = []

    def _accept_new_cons(self) -> bool:
        return True


class Control(TlsChannel, FTPHandler):
    """See the module. A subclass has ``ftp_*`` for the commands of the table that are not here."""

    banner = "SerpentFS"
    max_login_attempts = 3
    timeout = 300
    unicode_errors = "surrogateescape"   # names are bytes; the core refuses what is not UTF-8
    active_dtp = Active
    passive_dtp = Passive
    dtp_handler = DataConnection
    authenticated: bool
    ac_in_buffer: bytes
    _in_buffer: list[bytes]
    _in_buffer_len: int
    _restart_position: int
    _quit_pending: bool
    # On the class too, because FTPHandler.close deletes them from the instance.
    data_channel: DataConnection | None = None
    _in_dtp_queue: tuple[Upload, str] | None = None
    _out_dtp_queue: tuple[Download | Listing, bool, Download | None, str] | None = None

    def __init__(self, connection: socket.socket, door: Door, ioloop: Any) -> None:
        self.door = door
        self._line_is_too_long = False
        self.proto_cmds = _COMMANDS[door.tls is not None]
        self.tls_context = None if door.tls is None else door.tls.value()
        self.rights = EVERYTHING
        self.protects_data = False
        self._got_pbsz = False
        self.passive_ports = door.options.data_ports
        self.masquerade_address = door.options.public_ip
        self.use_sendfile = False
        super().__init__(connection, _Server(), ioloop)
        if not self.connected:
            return
        self._available_facts = list(FACTS)
        self._current_facts = list(FACTS)
        self._extra_feats = ["AVBL"] if door.tls is None else ["AVBL", "AUTH TLS", "PBSZ", "PROT"]
        self.call_later(LOGIN_TIME, self._login_time_is_over)

    @property
    def is_closed(self) -> bool:
        return bool(self._closed)

    def is_peer_gone(self) -> bool:
        """Whether the client has closed or lost the control connection, and said nothing more before."""
        if self._quit_pending:
            return False   # it took its leave, and the transfer still counts (RFC 959 on QUIT)
        try:
            with socket.fromfd(self.socket.fileno(), socket.AF_INET, socket.SOCK_STREAM) as control:
                return not control.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    # lines, replies, log

    def collect_incoming_data(self, data: bytes) -> None:
        if self._line_is_too_long:
            return
        self._in_buffer.append(data)
        self._in_buffer_len += len(data)
        if self._in_buffer_len > _LONGEST_LINE:
            # The rest of the line is dropped with it: it must not be taken for a command of its own.
            self._line_is_too_long = True
            self._in_buffer = []
            self._in_buffer_len = 0

    def found_terminator(self) -> None:
        if self._line_is_too_long:
            self._line_is_too_long = False
            self.respond("500 Command too long.")
            return
        super().found_terminator()

    def push(self, data: str) -> None:
        super(FTPHandler, self).push(data.encode("utf-8", "surrogateescape"))

    def respond(self, resp: str, logfun: object = None) -> None:
        self._last_response = resp
        self.push(one_line(resp) + "\r\n")

    def log(self, msg: str, logfun: object = None) -> None:
        _log.debug("%s %s", self.remote_ip, msg)

    def logline(self, msg: str, logfun: object = None) -> None:
        """Nothing: lines hold names, which may not be readable in a log."""

    def log_cmd(self, cmd: str, arg: str, respcode: int, respstr: str) -> None:
        """Nothing: see ``logline``."""

    def log_transfer(
        self, cmd: str, filename: str, receive: bool, completed: bool, elapsed: float, bytes: int
    ) -> None:
        self.log(f"{cmd} completed={completed} bytes={bytes} seconds={elapsed}")

    def log_exception(self, instance: object) -> None:
        _log.exception("unexpected error in an FTP session")

    # commands

    def process_command(self, cmd: str, *args: str, **kwargs: str) -> None:
        """Run a command that is known and allowed at this moment; what it raises becomes its reply."""
        if self._closed:
            return
        begin_request("ftp")
        _log.log(MAX_VERBOSE, "%s", cmd)
        self._last_response = ""
        try:
            try:
                self._check_allowed(cmd)
            except Exception:
                self._restart_position = 0   # it was for this command alone
                raise
            getattr(self, "ftp_" + cmd.replace(" ", "_"))(*args, **kwargs)
        except Exception as error:   # noqa: BLE001 - reply_to logs the traceback of what is unexpected
            self.respond(reply_to(error, f"the command {cmd}"))
        if self._idler is not None and not self._idler.cancelled:
            self._idler.reset()   # the client waited for us, not we for it

    def _check_allowed(self, cmd: str) -> None:
        door = self.door
        if door.requires_tls:
            if cmd in ("USER", "PASS") and not self.is_secured:
                raise Refusal("530 TLS is required here: use AUTH TLS first.")
            if cmd in _TAKES_DATA_CONNECTION and not self.protects_data:
                raise Refusal("521 TLS is required on data connections: use PROT P first.")
        if cmd in _CHANGES_DRIVE and self.is_read_only:
            raise ReadOnly("this server is read-only")
        is_taken = bool(self.data_channel and self.data_channel.is_busy)
        if cmd in _TAKES_DATA_CONNECTION:
            is_taken = is_taken or bool(self._in_dtp_queue or self._out_dtp_queue)
        if is_taken and cmd in _OPENS_DATA_CONNECTION | _TAKES_DATA_CONNECTION:
            # pyftpdlib would let the new command take over the old one's connection and file, or close it in order
            # under the transfer, which would never be answered.
            raise Refusal("450 A transfer is under way: wait for its end, or ABOR it.")
        if cmd in _TAKES_DATA_CONNECTION and not (self.data_channel or self._dtp_acceptor or self._dtp_connector):
            raise Refusal("425 Use PASV, EPSV, PORT or EPRT first.")

    # login

    def _login_time_is_over(self) -> None:
        if self.authenticated:
            return
        self._say_last("421 Log in sooner.")

    def _say_last(self, reply: str) -> None:
        if self.is_shaking_hands:
            self.close()   # nothing can be said in the middle of it
        else:
            self.respond(reply)
            self.close_when_done()

    def handle_timeout(self) -> None:
        self._say_last("421 Nothing was said for too long.")

    def ftp_PASS(self, line: str) -> None:
        if self.authenticated:
            raise Refusal("503 Logged in already.")
        if not self.username:
            raise Refusal("503 Log in with USER first.")
        if not self.door.options.server.no_auth:
            throttle = self.door.throttle
            wait = throttle.wait_time(self.remote_ip)
            if wait > 0:
                self._say_last(f"421 Too many failed logins: try again in {retry_after_seconds(wait)} s.")
                return
            rights = self.door.accounts.check(self.username, line)
            if rights is None:
                throttle.failed(self.remote_ip)
                self._login_failed()
                return
            throttle.succeeded(self.remote_ip)
            self.rights = rights
        self.logged_in()
        self.authenticated = True
        self.attempted_logins = 0
        self.respond("230 Logged in.")

    @property
    def is_read_only(self) -> bool:
        """Whether this client may change nothing."""
        return self.door.options.server.read_only or self.rights.read_only

    def logged_in(self) -> None:
        """``username`` may work from now on, as far as ``rights`` go. Raises when there is nothing to work in."""

    def _login_failed(self) -> None:
        _log.warning("a login over FTP from %s failed", self.remote_ip)
        self.username = ""
        self.attempted_logins += 1
        if self.attempted_logins < self.max_login_attempts:
            self.respond("530 Wrong user name or password.")
        else:
            self._say_last("530 Wrong user name or password. Goodbye.")

    def flush_account(self) -> None:
        super().flush_account()
        self.rights = EVERYTHING
        self.protects_data = False
        self._got_pbsz = False

    def ftp_AUTH(self, line: str) -> None:
        assert self.tls_context is not None   # else AUTH is not in the table
        if self.is_secured:
            raise Refusal("503 TLS is on already.")
        if line.upper() not in ("TLS", "TLS-C", "SSL"):
            raise Refusal("504 Use AUTH TLS.")
        # Whatever came in clear text may be somebody else's: nothing of it may count under TLS.
        self.flush_account()
        if self.ac_in_buffer:
            _log.warning("%s sent clear text after AUTH TLS; it is ignored", self.remote_ip)
            self.ac_in_buffer = b""
        self.respond("234 Begin with TLS.")
        if self.producer_fifo:
            self.close()   # the answer must be out before the first byte of TLS
            return
        self.start_tls(self.tls_context)

    def tls_failed(self, error: OSError) -> None:
        self.log(f"TLS handshake failed: {error!r}")
        self.close()

    def ftp_PBSZ(self, line: str) -> None:
        if not self.is_secured:
            raise Refusal("503 Use AUTH TLS first.")
        self._got_pbsz = True
        self.respond("200 PBSZ=0")

    def ftp_PROT(self, line: str) -> None:
        if not self._got_pbsz:
            raise Refusal("503 Use PBSZ first.")
        if line.upper() not in ("C", "P"):
            raise Refusal("536 Use PROT C or PROT P.")
        self.protects_data = line.upper() == "P"
        self.respond(f"200 Data connections are {'private' if self.protects_data else 'clear'} now.")

    # transfers

    # In both, the file is handed over before the reply: when the client is found to be gone, ``close`` closes it.

    def send_over_data(self, producer: Download | Listing, cmd: str, text: str) -> None:
        file = producer if isinstance(producer, Download) else None
        channel = self.data_channel
        if channel is None:
            self._out_dtp_queue = (producer, True, file, cmd)
            self.respond(f"150 {text}")
            return
        channel.cmd = cmd
        channel.file_obj = file
        self.respond(f"125 {text}")
        if channel.is_closed:
            return
        try:
            channel.push_with_producer(producer)
            if self.data_channel is channel:
                channel.close_when_done()
        except Exception:   # noqa: BLE001 - the data connection's handler maps, logs and answers it
            channel.handle_error()

    def receive_over_data(self, upload: Upload, cmd: str, text: str) -> None:
        channel = self.data_channel
        if channel is None:
            self._in_dtp_queue = (upload, cmd)
            self.respond(f"150 {text}")
            return
        channel.file_obj = upload
        self.respond(f"125 {text}")
        if not channel.is_closed:
            channel.enable_receiving("i", cmd)

    # data connections

    def ftp_PASV(self, line: str) -> None:
        local = ipaddress.ip_address(self.socket.getsockname()[0].partition("%")[0])
        if local.version == 6 and local.ipv4_mapped is None:
            raise Refusal("425 PASV cannot name an IPv6 address: use EPSV.")
        super().ftp_PASV(line)

    def _make_epasv(self, extmode: bool = False) -> None:
        try:
            super()._make_epasv(extmode)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            self._dtp_acceptor = None
            raise Refusal("425 Every data port is in use: try again later.") from error

    def _make_eport(self, ip: str, port: int) -> None:
        try:
            address = str(ipaddress.ip_address(ip))   # as the system writes it, for pyftpdlib compares text
        except ValueError as error:
            raise Refusal("501 Not an address.") from error
        super()._make_eport(address, port)

    def _on_dtp_connection(self) -> None:
        # Its socket is the data connection's now; pyftpdlib would close it under that one's feet.
        self._dtp_connector = None
        if self.data_channel is None or self.data_channel.is_closed:
            self.data_channel = None
            self.data_connection_was_lost()
        else:
            super()._on_dtp_connection()

    def data_connection_was_lost(self) -> None:
        """A data connection came and was reset at once: whatever waits for it has failed."""
        if self._in_dtp_queue is not None or self._out_dtp_queue is not None:
            self.drop_waiting_transfer()
            self.respond("426 Connection broke off.")

    def _shutdown_connecting_dtp(self) -> None:
        super()._shutdown_connecting_dtp()
        self.drop_waiting_transfer()

    def drop_waiting_transfer(self) -> None:
        """Forget a command whose data connection never came, so that the next connection is not taken for it."""
        receiving, self._in_dtp_queue = self._in_dtp_queue, None
        sending, self._out_dtp_queue = self._out_dtp_queue, None
        if receiving is not None:
            receiving[0].close()
        if sending is not None and sending[2] is not None:
            sending[2].close()

    def ftp_ABOR(self, line: str) -> None:
        waits = self._in_dtp_queue is not None or self._out_dtp_queue is not None
        channel = self.data_channel
        is_idle = channel is not None and channel.is_busy and not channel.transfer_in_progress()
        if not (waits or is_idle):
            super().ftp_ABOR(line)
            return
        # pyftpdlib takes a transfer of which no byte came yet for none, and would never answer it (RFC 959 §4.2).
        if channel is not None:
            channel.break_connection()
            self.data_channel = None
        else:
            self._shutdown_connecting_dtp()
        self.respond("426 Transfer aborted via ABOR.")
        self.respond("226 ABOR command successful.")

    # ends

    def say_goodbye(self) -> None:
        """The server is stopping."""
        if not self._closed and not self.is_shaking_hands:
            self.respond("421 The server is stopping.")
        self.close()

    def handle_error(self) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self.log(f"control connection lost: {error!r}")
        else:
            self.log_exception(self)
        self.close()

    def close(self) -> None:
        if self._closed:
            return
        if self.data_channel is not None:
            self.data_channel.break_connection()
        self.end_tls()   # once; whoever does not read his replies is not waited for
        FTPHandler.close(self)
