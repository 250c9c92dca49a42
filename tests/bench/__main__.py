"""``python -m tests.bench``: ourselves, rclone, gocryptfs and s3fs side by side in one run, by all doors.

Stores are buckets behind a link of 40 ms and 200 MB/s, or with ``--remote folder`` folders of this machine. Run it
from the root of the checkout, on a machine that does nothing else, best as root: only root may drop the page cache of
the machine. Nothing here passes or fails by speed; the exit code is 1 when a contender broke.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from tests.bench import contenders, link_contenders, link_workloads, workloads
from tests.bench.chart import chart
from tests.bench.contenders import Contender
from tests.bench.goals import compare, goal_table
from tests.bench.link import Link, LinkSpeed
from tests.bench.link_contenders import RcloneOnLink, S3fs, SerpentOnLink
from tests.bench.link_workloads import LinkSizes
from tests.bench.run import add_arguments, carry_out, count
from tests.bench.workloads import Sample, make_plain

# Of these a smaller amount is another measurement, not a shorter one.
_UNSCALED = {"created_file_size", "head_file_size", "rounds", "timeout", "mixed_seconds"}
_LEAST = {"big_file": 4 * 1024**2, "parallel_file_size": 256 * 1024}
_MIB = 1024**2


def _scaled(factor: float) -> LinkSizes:
    sizes = LinkSizes()
    smaller = {
        field.name: max(_LEAST.get(field.name, 8), round(getattr(sizes, field.name) * factor))
        for field in fields(sizes) if field.name not in _UNSCALED
    }
    smaller["big_file"] = smaller["big_file"] // _MIB * _MIB
    return replace(sizes, **smaller)


def _make(speed: LinkSpeed, kind: type[Contender], work: Path) -> Contender:
    if not issubclass(kind, SerpentOnLink | RcloneOnLink | S3fs):
        return kind(work)
    link = Link(work / "far", speed)
    try:
        return kind(work, link)
    except BaseException:
        link.close()
        raise


def main() -> int:
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument(
        "--remote", choices=("link", "folder"), default="link", help="buckets behind a link, or folders of this machine"
    )
    is_far = place.parse_known_args()[0].remote == "link"
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        parents=[place],
        description="Measure serpentfs, rclone, gocryptfs and s3fs side by side.",
        epilog="smoke test: python -m tests.bench --scale 0.01 --rounds 1",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    there = (link_workloads.WORKLOADS, link_contenders.CONTENDERS)
    here = (workloads.WORKLOADS, contenders.CONTENDERS)
    add_arguments(parser, *(there if is_far else here))
    usual, sizes = LinkSpeed(), LinkSizes()
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers and sizes of files")
    parser.add_argument("--latency", type=float, default=usual.latency, help="seconds to the first byte of an answer")
    parser.add_argument("--rate", type=float, default=usual.rate / 1e6, metavar="MB", help="each way; 0: any")
    parser.add_argument("--mixed-seconds", type=count, default=sizes.mixed_seconds, help="of each round of mixed")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw a chart there")
    arguments = parser.parse_args()
    speed = LinkSpeed(arguments.latency, arguments.rate * 1e6)
    sizes = replace(
        _scaled(arguments.scale), rounds=arguments.rounds, mixed_seconds=arguments.mixed_seconds,
        timeout=max(arguments.timeout, 2 * arguments.mixed_seconds),
    )
    ourselves = contenders.Serpent.name
    if not is_far:
        return carry_out(arguments, sizes, ourselves, make=make_plain)

    def conclude(samples: Sequence[Sample]) -> str:
        reached = compare(samples, ourselves, speed)
        if arguments.svg:
            arguments.svg.write_text(chart(reached, f"{ourselves} and its peers: {speed}"))
        return goal_table(reached)

    make = partial(_make, speed)
    return carry_out(arguments, sizes, ourselves, make=make, remark=f"the link: {speed}", conclude=conclude)


if __name__ == "__main__":
    sys.exit(main())
