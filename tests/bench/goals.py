"""Where we want to arrive, as ratios within one run, and how far we are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.link import LinkSpeed
from tests.bench.table import aligned
from tests.bench.workloads import Sample

_MIB = 1024 * 1024
LINK = "the link"
"""In place of a peer: what the link alone would take."""


@dataclass(frozen=True, slots=True)
class Goal:
    """``step`` of ``workload`` is to be ``times`` as fast as ``peer``. ``trips``: one after the other, of the ideal."""

    workload: str
    step: str
    peer: str
    times: float
    trips: int = 1


@dataclass(frozen=True, slots=True)
class Reached:
    """``ratio``: how many times as fast as the peer we are."""

    goal: Goal
    ours: float
    peers: float
    ratio: float

    @property
    def is_reached(self) -> bool:
        return self.ratio >= self.goal.times


GOALS = (
    Goal("read", "again, page cache", "gocryptfs", 3),
    Goal("read", "again, page cache", "rclone", 4),
    Goal("read", "again, no page cache", "gocryptfs", 3),
    Goal("read", "again, no page cache", "rclone", 4),
    Goal("random", "4 KiB, 1 reader, page cache", "rclone", 3),
    Goal("random", "4 KiB, 1 reader", "rclone", 3),
    Goal("random", "4 KiB, 8 readers", "rclone", 3),
    Goal("random", "128 KiB, 1 reader", "rclone", 1),
    Goal("random", "128 KiB, 8 readers", "rclone", 1),
    Goal("read", "cold", LINK, 0.95),
    Goal("video", "cold", LINK, 1 / 1.15, trips=3),
    Goal("heads", "cold, in order", "rclone", 10),
    Goal("heads", "cold, shuffled", "rclone", 10),
    Goal("list", "cold, nothing known", "rclone", 5),
    Goal("list", "the same with the start", "rclone", 5),
    Goal("list", "warm", "rclone", 10),
    Goal("create", "until close", "rclone", 4),
    Goal("create", "until close", "gocryptfs", 1),
    Goal("create", "until uploaded", "rclone", 1),
    Goal("untar", "untar, until it ends", "rclone", 4),
    Goal("untar", "untar, until it ends", "gocryptfs", 1),
    Goal("untar", "untar, until in the store", "rclone", 1),
    Goal("untar", "rm -rf, until it ends", "gocryptfs", 1),
    Goal("write", "until uploaded", LINK, 0.9),
    Goal("webdav-get", "cold", "rclone", 1.2),
    Goal("webdav-get", "again", "rclone", 1.2),
    Goal("webdav-put", "until the answer", "rclone", 1.2),
    Goal("webdav-put", "until in the store", "rclone", 1.2),
    Goal("webdav-propfind", "propfind, cold", "rclone", 1.2),
    Goal("webdav-propfind", "propfind, again", "rclone", 1.2),
    Goal("webdav-parallel", "cold", "rclone", 1.2),
    Goal("webdav-parallel", "again", "rclone", 1.2),
    Goal("ftp-retr", "cold", "rclone", 2),
    Goal("ftp-retr", "again", "rclone", 2),
    Goal("ftp-stor", "until the answer", "rclone", 1.2),
    Goal("ftp-stor", "until in the store", "rclone", 1.2),
    Goal("ftp-list", "mlsd, cold", "rclone", 1.2),
    Goal("ftp-list", "mlsd, again", "rclone", 1.2),
)


def compare(samples: Sequence[Sample], ourselves: str, speed: LinkSpeed) -> list[Reached]:
    """Of every goal whose step was measured, on both sides."""
    found = []
    for goal in GOALS:
        each = [one for one in samples if (one.workload, one.step) == (goal.workload, goal.step)]
        ours = [one.seconds for one in each if one.contender == ourselves]
        if goal.peer == LINK:
            peers = [_ideal(one, goal.trips, speed) for one in each[:1]]
        else:
            peers = [one.seconds for one in each if one.contender == goal.peer]
        if ours and peers:
            found.append(Reached(goal, median(ours), median(peers), median(peers) / median(ours)))
    return found


def _ideal(sample: Sample, trips: int, speed: LinkSpeed) -> float:
    size = sample.amount if sample.unit == "bytes" else trips * _MIB
    return trips * speed.latency + (size / speed.rate if speed.rate else 0.0)


def goal_table(reached: Sequence[Reached]) -> str:
    rows: list[Sequence[str]] = [("goal", "compared with", "ours, s", "theirs, s", "times as fast", "wanted", "")]
    for one in reached:
        goal = one.goal
        rows.append(
            (
                f"{goal.workload}, {goal.step}", goal.peer, f"{one.ours:.3f}", f"{one.peers:.3f}", f"{one.ratio:.2f}",
                f"{goal.times:.2f}", "reached" if one.is_reached else "missed",
            )
        )
    return aligned(rows)
