"""The benchmark's verdicts: ratios of medians, goals, and the chart."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from tests.bench.chart import chart
from tests.bench.goals import LINK, compare, goal_table
from tests.bench.link import LinkSpeed
from tests.bench.table import table
from tests.bench.traffic import Traffic
from tests.bench.workloads import Sample

SPEED = LinkSpeed(latency=0.5, rate=1e9)


def sample(workload: str, step: str, contender: str, seconds: float, *, amount: int = 500) -> Sample:
    unit = "bytes" if amount > 10**6 else "files"
    traffic = Traffic(7, 2**20, 2**21)
    return Sample(workload, step, contender, 1, amount, unit, seconds, 0.25, 2**20, 2**21, traffic=traffic)


SAMPLES = [
    *(sample("heads", "cold, in order", "ours", seconds) for seconds in (1.0, 9.0, 2.0)),
    *(sample("heads", "cold, in order", "rclone", seconds) for seconds in (20.0, 24.0)),
    sample("read", "cold", "ours", 5.0, amount=10**9),
    sample("video", "cold", "ours", 1.6),
    sample("create", "until close", "rclone", 1.0),
]


def test_goals_are_ratios_of_medians() -> None:
    found = {(one.goal.workload, one.goal.peer): one for one in compare(SAMPLES, "ours", SPEED)}
    assert found.keys() == {("heads", "rclone"), ("read", LINK), ("video", LINK)}
    heads = found["heads", "rclone"]
    assert (heads.ours, heads.peers, heads.ratio, heads.is_reached) == (2.0, 22.0, 11.0, True)
    read = found["read", LINK]
    assert read.peers == pytest.approx(1.5)
    assert not read.is_reached
    assert found["video", LINK].peers == pytest.approx(1.5, abs=0.01)    # three trips and three mebibytes


def test_what_people_read_names_every_row() -> None:
    reached = compare(SAMPLES, "ours", SPEED)
    text = goal_table(reached)
    assert "heads, cold, in order" in text
    assert text.count("reached") == 2
    assert text.count("missed") == 1
    everything = table(SAMPLES, "ours")
    assert "500 µs" in everything
    assert "0.25 s/GB" in everything


def test_the_chart_is_a_picture_of_the_peers() -> None:
    root = ElementTree.fromstring(chart(compare(SAMPLES, "ours", SPEED), "we & <they>"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "we & <they>" in texts
    assert "heads, cold, in order: rclone" in texts
    assert not any(LINK in (text or "") for text in texts)
