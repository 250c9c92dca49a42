"""The figures of an owner in Prometheus' text format, and the little HTTP server that gives them to whoever asks.

The format is version 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/). The server answers GET
and HEAD of ``/metrics``, on a loopback address unless it is told to be public; it knows nothing else of HTTP, and
closes after each answer. Names of files are no labels: what is told here is told without a password to every user of
this machine.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from serpentfs import __version__
from serpentfs.errors import SerpentError, UsageError
from serpentfs.metrics import LATENCY_BOUNDS, Metrics

if TYPE_CHECKING:
    from serpentfs.daemon.limits import Throttle
    from serpentfs.vfs.drive import Drive

logger = logging.getLogger(__name__)

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LONGEST_HEAD = 16 * 1024
_PATIENCE = 10.0
_MOST_CONNECTIONS = 16
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost")

Labels = Mapping[str, str]
Samples = Iterable[tuple[Labels, float]]


@dataclass(frozen=True, slots=True)
class Sample:
    """``suffix`` tells the parts of a histogram apart."""

    suffix: str
    labels: dict[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Family:
    """``kind`` is counter, gauge or histogram."""

    name: str
    kind: str
    meaning: str
    samples: list[Sample] = field(default_factory=list)


def read_families(items: Iterable[Mapping[str, Any]]) -> list[Family]:
    """Families that came as JSON (``asdict``)."""
    return [
        Family(one["name"], one["kind"], one["meaning"], [Sample(**sample) for sample in one["samples"]])
        for one in items
    ]


def collect(
    remote: str, figures: Metrics, drive: Drive, throttle: Throttle, since: float
) -> list[Family]:
    """All figures of one owner. ``remote`` is a label of each."""
    page = _Page(remote)
    cache, budget = drive.cache_statistics, drive.cache_limits
    page.gauge("info", "What runs.", [({"version": __version__}, 1)])
    page.gauge("start_time_seconds", "Unix time of the start.", [({}, since)])
    page.gauge("cloud_online", "Whether the cloud answered the last call.", [({}, figures.offline_since is None)])
    _doors(page, figures, drive)
    page.counter("cache_blocks_total", "Blocks that were read, by the layer of the cache that had them.", [
        ({"layer": "memory"}, cache.memory_hits),
        ({"layer": "disk"}, cache.disk_blocks),
        ({"layer": "cloud"}, cache.fetched_blocks),
    ])
    page.counter("cache_hits_total", "Blocks that reads found in the cache.", [({}, cache.hits)])
    page.counter("cache_misses_total", "Blocks that reads had to wait for.", [({}, cache.misses)])
    page.counter("cache_damaged_slots_total", "Blocks on disk that did not open.", [({}, cache.damaged_slots)])
    page.gauge("cache_bytes", "What the cache takes.", [
        ({"layer": "memory"}, cache.memory_bytes), ({"layer": "disk"}, cache.disk_bytes),
    ])
    page.gauge("cache_budget_bytes", "What the cache may take.", [
        ({"layer": "memory"}, budget.memory_bytes), ({"layer": "disk"}, budget.disk_bytes),
    ])
    page.gauge("cache_disk_usable", "Whether the disk cache is in use.", [({}, cache.disk_usable)])
    _cloud(page, figures)
    page.gauge("pending_changes", "Changes that the cloud has not confirmed.", [({}, drive.pending_count)])
    page.gauge("dirty_bytes", "Written data that the journal does not hold yet.", [({}, drive.dirty_bytes)])
    page.gauge("uploads_paused", "Whether the user paused uploads.", [({}, drive.uploads_paused)])
    page.counter("upload_failures_total", "Attempts at a change that failed.", [({}, figures.failed_uploads)])
    page.counter("conflicts_total", "Conflict copies that were made.", [({}, drive.conflicts)])
    page.gauge("speed_limit_bytes", "Limits in bytes a second, where there are any.", [
        ({"direction": direction}, rate) for direction, rate in throttle.rates.items() if rate is not None
    ])
    page.gauge("cloud_transfers", "Calls of the cloud that move content, and are under way.", [
        ({"direction": direction}, number) for direction, number in throttle.transfers.items()
    ])
    page.gauge("connection_limit", "Limits of connections, where there are any.", [
        ({"direction": direction}, most) for direction, most in throttle.connections.items() if most is not None
    ])
    return page.families


def _doors(page: _Page, figures: Metrics, drive: Drive) -> None:
    doors = sorted(figures.doors.items())
    page.counter("reads_total", "Reads of files.", [({"door": door}, one.reads) for door, one in doors])
    page.counter("read_bytes_total", "Bytes that were read.", [({"door": door}, one.read_bytes) for door, one in doors])
    page.counter("writes_total", "Writes to files.", [({"door": door}, one.writes) for door, one in doors])
    page.counter(
        "written_bytes_total", "Bytes that were written.", [({"door": door}, one.written_bytes) for door, one in doors]
    )
    page.gauge("open_files", "Files that are open.", [
        ({"door": door}, number) for door, number in sorted(drive.open_files().items())
    ])
    page.gauge("client_connections", "Connections to a network door.", [
        ({"door": door}, number) for door, number in sorted(figures.clients.items())
    ])


def _cloud(page: _Page, figures: Metrics) -> None:
    page.counter("cloud_calls_total", "Calls of the cloud, by kind and outcome.", [
        ({"kind": kind, "outcome": outcome}, number) for (kind, outcome), number in sorted(figures.calls.items())
    ])
    page.histogram("cloud_call_seconds", "How long calls of the cloud took.", figures)
    page.counter("cloud_retries_total", "Calls that were made again.", [
        ({"kind": kind}, number) for kind, number in sorted(figures.retries.items())
    ])
    page.counter("cloud_bytes_total", "Content that went to the cloud (up) or came from it (down).", [
        ({"direction": "up"}, figures.uploaded.total), ({"direction": "down"}, figures.downloaded.total),
    ])
    uploads = figures.calls["put", "ok"]
    page.counter("uploads_total", "Files that were uploaded.", [({}, uploads)])


class _Page:
    def __init__(self, remote: str) -> None:
        self._remote = remote
        self.families: list[Family] = []

    def counter(self, name: str, meaning: str, samples: Samples) -> None:
        self._plain(name, "counter", meaning, samples)

    def gauge(self, name: str, meaning: str, samples: Samples) -> None:
        self._plain(name, "gauge", meaning, samples)

    def _plain(self, name: str, kind: str, meaning: str, samples: Samples) -> None:
        family = self._family(name, kind, meaning)
        family.samples.extend(Sample("", self._labels(labels), value) for labels, value in samples)

    def _family(self, name: str, kind: str, meaning: str) -> Family:
        made = Family(f"serpentfs_{name}", kind, meaning)
        self.families.append(made)
        return made

    def _labels(self, labels: Labels) -> dict[str, str]:
        return {"remote": self._remote, **labels}

    def histogram(self, name: str, meaning: str, figures: Metrics) -> None:
        family = self._family(name, "histogram", meaning)
        for kind, one in sorted(figures.latency.items()):
            labels = self._labels({"kind": kind})
            below = 0
            for bound, number in zip(LATENCY_BOUNDS, one.counts, strict=False):
                below += number
                family.samples.append(Sample("_bucket", {**labels, "le": f"{bound:g}"}, below))
            family.samples.append(Sample("_bucket", {**labels, "le": "+Inf"}, sum(one.counts)))
            family.samples.append(Sample("_sum", labels, one.total))
            family.samples.append(Sample("_count", labels, sum(one.counts)))


def render(families: Iterable[Family]) -> str:
    """The text of families; those of one name (several owners have the same) are put together."""
    samples: dict[str, list[str]] = {}
    for family in families:
        lines = samples.setdefault(family.name, [
            f"# HELP {family.name} {family.meaning}", f"# TYPE {family.name} {family.kind}"
        ])
        lines += [_line(family.name, one) for one in family.samples]
    return "".join(f"{line}\n" for lines in samples.values() for line in lines)


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(f'{key}="{_escape(text)}"' for key, text in sample.labels.items())
    value = int(sample.value) if sample.value == int(sample.value) else repr(float(sample.value))
    return f"{name}{sample.suffix}{{{labels}}} {value}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


# the server


def check_loopback(host: str) -> None:
    """UsageError for an address that other machines reach: there is no password here."""
    if host in _LOOPBACK_NAMES:
        return
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise UsageError(
            f"metrics are served on this machine only, such as 127.0.0.1:9464, not on {host} (--public allows it)"
        )


async def serve(
    page: Callable[[], str], host: str, port: int, *, public: bool = False,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``page`` until cancelled. Started with the URL. UsageError when the address cannot be had. ``public``: to
    others than users of this machine, too."""
    if not public:
        check_loopback(host)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise UsageError(f"cannot serve metrics on {host}:{port}: {error.strerror or error}") from error
    bound = listeners[0].socket.getsockname()
    name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
    limit = trio.CapacityLimiter(_MOST_CONNECTIONS)
    async with trio.open_nursery() as nursery:
        task_status.started(f"http://{name}:{bound[1]}/metrics")
        await trio.serve_listeners(partial(_answer, page, limit, public), listeners, handler_nursery=nursery)


async def _answer(
    page: Callable[[], str], limit: trio.CapacityLimiter, public: bool, stream: trio.SocketStream
) -> None:
    async with stream, limit:
        with trio.move_on_after(_PATIENCE):
            try:
                await stream.send_all(_response(page, await _head(stream), public))
                await stream.send_eof()
            except trio.BrokenResourceError:
                logger.debug("who asked for the metrics went away")


async def _head(stream: trio.SocketStream) -> bytes:
    """The request without a body, which none of these has."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _LONGEST_HEAD:
        part = await stream.receive_some(4096)
        if not part:
            break
        head += part
    return head


def _response(page: Callable[[], str], head: bytes, public: bool) -> bytes:
    method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    target = rest.partition(b" ")[0].partition(b"?")[0]
    # A page in a browser must not reach this by a name of its own that leads to this machine.
    host = next(
        (line.partition(b":")[2].strip() for line in head.split(b"\r\n")[1:] if line[:5].lower() == b"host:"), b""
    )
    status, body = "200 OK", ""
    if b"\r\n\r\n" not in head or not rest.startswith(b"/"):
        status = "400 Bad Request"
    elif host and not public and not _is_our_name(host.decode("latin-1")):
        status = "421 Misdirected Request"
    elif method not in (b"GET", b"HEAD"):
        status = "405 Method Not Allowed"
    elif target != b"/metrics":
        status = "404 Not Found"
    else:
        try:
            body = page()
        except SerpentError as error:
            status, body = "503 Service Unavailable", f"{error}\n"
    data = (body or f"{status}\n").encode()
    fields = [
        f"HTTP/1.1 {status}", f"Content-Type: {_CONTENT_TYPE}", f"Content-Length: {len(data)}", "Connection: close",
        *(["Allow: GET, HEAD"] if status.startswith("405") else []),
    ]
    return "\r\n".join((*fields, "", "")).encode() + (b"" if method == b"HEAD" else data)


def _is_our_name(host: str) -> bool:
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        check_loopback(name)
    except UsageError:
        return False
    return True
