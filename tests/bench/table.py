"""The outcome as one table for people, and as JSON with every single sample. Pure: no clock, no files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from tests.bench.workloads import Failure, Sample

_MIB = 1024 * 1024
_HEADINGS = (
    "workload", "", "seconds", "min–max", "rate", "× best peer", "CPU", "requests", "MiB up", "MiB down",
    "MiB after", "MiB peak",
)
_LEFT_COLUMNS = 2


def outcome(samples: Sequence[Sample], failures: Sequence[Failure], about: Mapping[str, Any]) -> dict[str, Any]:
    """What ``--json`` writes."""
    return {
        **about,
        "samples": [asdict(sample) for sample in samples],
        "failures": [asdict(failure) for failure in failures],
    }


def table(samples: Iterable[Sample], ourselves: str) -> str:
    """Medians of the rounds. ``× best peer``: the median time, as a multiple of the fastest median among all but
    ``ourselves``; less than 1 is faster than every peer. ``CPU``: of the serving process, per gigabyte or per file."""
    steps: dict[tuple[str, str], dict[str, list[Sample]]] = {}
    for sample in samples:
        steps.setdefault((sample.workload, sample.step), {}).setdefault(sample.contender, []).append(sample)
    rows: list[Sequence[str]] = [_HEADINGS]
    for (workload, step), by_contender in steps.items():
        times = {name: median(one.seconds for one in each) for name, each in by_contender.items()}
        peers = [seconds for name, seconds in times.items() if name != ourselves]
        best_peer = min(peers, default=None)
        # Peers that nobody waited for to the end took longer than that.
        is_bound = any(one.given_up for name, each in by_contender.items() if times[name] == best_peer for one in each)
        heading = f"{workload} {_amount(next(iter(by_contender.values()))[0])}, {step}"
        for name, each in by_contender.items():
            rows.append([heading, *_row(name, each, best_peer, is_bound=is_bound and name == ourselves)])
            heading = ""
    return aligned(rows)


def _row(name: str, each: Sequence[Sample], best_peer: float | None, *, is_bound: bool) -> list[str]:
    seconds = median(one.seconds for one in each)
    return [
        name,
        ("> " if any(one.given_up for one in each) else "") + f"{seconds:.3f}",
        f"{min(one.seconds for one in each):.3f}–{max(one.seconds for one in each):.3f}",
        _rate(each[0], seconds),
        "" if best_peer is None else ("< " if is_bound else "") + _ratio(seconds / best_peer),
        _cpu(each[0], median(one.cpu for one in each)),
        *_traffic(each),
        f"{median(one.resident for one in each) / _MIB:.0f}",
        f"{max(one.peak for one in each) / _MIB:.0f}",
    ]


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _amount(sample: Sample) -> str:
    if sample.unit == "bytes":
        return f"{sample.amount / _MIB:,.0f} MiB"
    return f"{sample.amount:,} {sample.unit}"


def _rate(sample: Sample, seconds: float) -> str:
    if sample.unit == "bytes":
        return f"{sample.amount / _MIB / seconds:,.0f} MiB/s"
    return f"{sample.amount / seconds:,.0f}/s"


def _cpu(sample: Sample, seconds: float) -> str:
    if sample.unit == "bytes":
        return f"{seconds / sample.amount * 1e9:.2f} s/GB"
    return f"{seconds / sample.amount * 1e6:,.0f} µs"


def _traffic(each: Sequence[Sample]) -> list[str]:
    if not any(one.traffic.requests for one in each):
        return ["", "", ""]
    return [
        f"{median(one.traffic.requests for one in each):,.0f}",
        f"{median(one.traffic.received for one in each) / _MIB:,.1f}",
        f"{median(one.traffic.sent for one in each) / _MIB:,.1f}",
    ]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text, the first as headings."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < _LEFT_COLUMNS else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
