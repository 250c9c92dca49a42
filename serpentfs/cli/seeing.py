"""``status``, ``stats``, ``log``: what the processes of this user's remotes are doing, asked over their sockets.

What only the rarer cases need is imported there: ``status`` is called often, from scripts too, and answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from serpentfs import logs
from serpentfs.cli import arguments as options
from serpentfs.cli.display import Column, Display, Role, Screen, share
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import count, human_duration, human_size, print_json
from serpentfs.daemon.asking import Connection
from serpentfs.daemon.lock import OwnerNote, running_owners
from serpentfs.errors import NotFound, Unavailable, Unsupported

_PATIENCE = 10.0
_SHOWN_CHANGES = 20
_STATES = {"running": Role.GOOD, "online": Role.GOOD, "silent": Role.BAD, "offline": Role.BAD}
"""Of processes and stores; others are on their way from one to another."""
_RESTLESS = ("since", "speed")
"""What of an answer changes by itself, without news."""


def add_status(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=status)
    parser.add_argument("remote", metavar="REMOTE", nargs="?", help=f"{options.REMOTE_HELP}; all without it")
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch a line for each change")
    parser.add_argument("-w", "--watch", action="store_true", help="go on until Ctrl-C, and show what changes")
    parser.add_argument("--interval", type=options.interval, default=1.0, metavar="SECONDS", help="between two looks")
    options.add_root(parser)


def add_stats(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=stats)
    parser.add_argument("remote", metavar="REMOTE", nargs="?", help=f"{options.REMOTE_HELP}; all without it")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--prometheus", action="store_true", help="print the text format of Prometheus")
    options.add_root(parser)


def add_log(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=log)
    parser.add_argument("remote", metavar="REMOTE", help=options.REMOTE_HELP)
    parser.add_argument(
        "level", metavar="LEVEL", nargs="?", type=options.log_level,
        help=f"the new level: {', '.join(logs.LEVELS)}; without it, the present one is told",
    )
    options.add_root(parser)


# whom to ask


def owners(arguments: argparse.Namespace) -> list[OwnerNote]:
    """The owner of the remote that the arguments name, or all that run. NotFound when that remote has none."""
    return [owner_named(arguments)] if arguments.remote is not None else running_owners()


def owner_named(arguments: argparse.Namespace) -> OwnerNote:
    """NotFound when nothing runs for the remote."""
    from serpentfs.cli.remotes import owner_of, resolve

    note = owner_of(resolve(arguments))
    if note is None:
        raise NotFound(f"nothing is running for {arguments.remote}")
    return note


def ask(note: OwnerNote, request: str, **words: Any) -> Any:
    """One answer of an owner, within seconds. Unavailable when it does not come."""
    with Connection(Path(note.socket), timeout=_PATIENCE) as connection:
        return connection.ask(request, **words)


# status


def status(arguments: argparse.Namespace) -> ExitCode:
    if arguments.watch:
        return _watch(arguments)
    answers = [_status_of(note) for note in owners(arguments)]
    if arguments.json:
        print_json(answers)
    else:
        print(*_shown(answers, Display()), sep="\n")
    return ExitCode.OK


def _watch(arguments: argparse.Namespace) -> ExitCode:
    """Look again and again. On a terminal the picture is drawn anew; else a block is printed for each change."""
    told = None
    if arguments.remote is not None:
        owner_named(arguments)    # a wrong name is told once, and at once
    display = Display()
    try:
        with Screen(display) as screen:
            while True:
                answers = [_status_of(note) for note in _still_running(arguments)]
                news = json.dumps(_without_time(answers), sort_keys=True)
                if arguments.json:
                    if news != told:
                        print(json.dumps(answers), flush=True)
                elif display.is_terminal or news != told:
                    screen.show([time.strftime("%Y-%m-%d %H:%M:%S"), *_shown(answers, display)])
                told = news
                time.sleep(arguments.interval)
    except KeyboardInterrupt:
        return ExitCode.OK    # that is how it is meant to end


def _still_running(arguments: argparse.Namespace) -> list[OwnerNote]:
    try:
        return owners(arguments)
    except NotFound:
        return []


def _without_time(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_time(one) for key, one in value.items() if key not in _RESTLESS}
        if value.get("next_try_in") is not None:
            kept["next_try_in"] = True
        return kept
    return [_without_time(one) for one in value] if isinstance(value, list) else value


def _status_of(note: OwnerNote) -> dict[str, Any]:
    """What the owner says; of one that does not answer what its lock says."""
    try:
        answer: dict[str, Any] = ask(note, "status")
    except (NotFound, Unavailable, Unsupported) as error:
        return {"remote": note.remote, "pid": note.pid, "phase": "silent", "doors": note.doors, "error": str(error)}
    return answer


def _shown(answers: list[dict[str, Any]], display: Display) -> Iterator[str]:
    if not answers:
        yield "nothing is running"
    for answer in answers:
        yield from status_lines(answer, display)


def status_lines(answer: Mapping[str, Any], display: Display) -> Iterator[str]:
    """An owner's answer as people read it."""
    since = f" for {human_duration(max(0.0, time.time() - answer['since']))}" if "since" in answer else ""
    remote = display.paint(answer["remote"], Role.TITLE)
    yield f"{remote}: {_state(display, answer['phase'])}{since}, process {answer['pid']}"
    for door, address in answer["doors"].items():
        yield f"  {door:<8} {display.paint(address)}{_clients(answer.get('clients', {}).get(door))}"
    if "error" in answer:
        yield f"  error    {display.paint(answer['error'], Role.BAD)}"
    drive = answer.get("drive")
    yield from _cloud_lines(answer, display)
    if drive is None:
        return
    yield from _upload_lines(answer, drive, display)
    yield f"  cache    {_cache_line(answer, drive)}"
    if drive["dirty_bytes"]:
        yield f"  open     {human_size(drive['dirty_bytes'])} written and not closed yet"
    if drive["conflicts"]:
        yield display.paint(f"  conflict copies made: {drive['conflicts']}", Role.WARNING)
    if "metrics" in answer:
        yield f"  metrics  {answer['metrics']}"


def _clients(clients: Mapping[str, Any] | None) -> str:
    if clients is None:
        return ""
    told = [count(clients["connections"], "connection")] if clients["connections"] else []
    if clients["open_files"]:
        told.append(count(clients["open_files"], "open file"))
    return f"  ({', '.join(told)})" if told else ""


def _state(display: Display, word: str) -> str:
    return display.paint(word, _STATES.get(word, Role.WARNING))


def _moment(when: float) -> str:
    """The day is told where it is not today."""
    local = time.localtime(when)
    return time.strftime("%H:%M:%S" if local[:3] == time.localtime()[:3] else "%Y-%m-%d %H:%M:%S", local)


def _cloud_lines(answer: Mapping[str, Any], display: Display) -> Iterator[str]:
    account = answer.get("account")
    if account is not None and account["trouble"]:
        yield f"  account  {display.paint(account['trouble'], Role.BAD)}"
    cloud = answer.get("cloud")
    if cloud is None:
        return
    words = _state(display, cloud["state"])
    if cloud.get("since"):
        words += f" since {_moment(cloud['since'])}, for {human_duration(max(0.0, time.time() - cloud['since']))}"
    if cloud.get("until"):
        words += f" until {_moment(cloud['until'])}, for {human_duration(max(0.0, cloud['until'] - time.time()))}"
    yield f"  store    {words}"
    if (error := answer.get("last_error")) is not None:
        ago = human_duration(max(0.0, time.time() - error["when"]))
        yield f"  last error {ago} ago: {display.paint(error['message'])}"
    speed, limits = answer["speed"], answer["limits"]
    ways = (
        f"{way} {human_size(int(speed[way]))}/s" + (f" of {human_size(limits[way])}/s" if limits[way] else "")
        for way in ("up", "down")
        if speed[way] or limits[way]
    )
    if shown := ", ".join(ways):
        yield f"  speed    {shown}"


def _upload_lines(answer: Mapping[str, Any], drive: Mapping[str, Any], display: Display) -> Iterator[str]:
    pending = drive["pending"]
    left = sum(max(0, change["size"] - change["sent"]) for change in pending)
    words = f"{count(len(pending), 'change')}, {human_size(left)} left" if pending else "all done"
    if left and answer["speed"]["up"]:
        words += f", about {human_duration(left / answer['speed']['up'])} at this speed"
    if answer.get("uploads_paused"):
        words += "; paused (serpentfs transfers --resume)"
    tries = [change["next_try_in"] for change in pending if change["next_try_in"] is not None]
    if tries:
        words += f"; next try in {human_duration(min(tries))}"
    yield f"  uploads  {words}"
    for change in pending[:_SHOWN_CHANGES]:
        yield f"    {change_line(change, display)}"
    if len(pending) > _SHOWN_CHANGES:
        yield f"    and {len(pending) - _SHOWN_CHANGES} more (--json has all)"


def change_line(change: Mapping[str, Any], display: Display) -> str:
    """One pending change, on one line."""
    line = f"{change['state']:<8} {change['operation']:<8} {display.paint(change['path'])}"
    if change["size"]:
        line += f"  {display.bar(share(change['sent'], change['size']))}"
        line += f"{human_size(change['sent'])} of {human_size(change['size'])}"
    if change.get("tries"):
        line += f"  failed {count(change['tries'], 'time')}"
    if change["error"]:
        line += f"  {display.paint(change['error'], Role.BAD)}"
    if change["next_try_in"] is not None:
        line += f"  next try in {human_duration(change['next_try_in'])}"
    return line


def _cache_line(answer: Mapping[str, Any], drive: Mapping[str, Any]) -> str:
    cache = answer["cache"]
    memory = f"memory {human_size(cache['memory_bytes'])} of {human_size(cache['memory_budget'])}"
    disk = f"disk {human_size(cache['disk_bytes'])} of {human_size(cache['disk_budget'])}"
    if not cache["disk_usable"]:
        disk = "disk out of use" if cache["disk_budget"] else "no disk"
    hits = f"{drive['cache_hits']} hits, {drive['cache_misses']} misses"
    if cache["hit_rate"] is not None:
        hits += f" ({cache['hit_rate']:.0%})"
    return f"{memory}, {disk}; {hits}"


# stats


def stats(arguments: argparse.Namespace) -> ExitCode:
    from serpentfs.daemon.metrics import Family, read_families, render

    families: list[Family] = []
    for note in owners(arguments):
        families += read_families(ask(note, "metrics")["families"])
    if arguments.prometheus:
        sys.stdout.write(render(families))
    elif arguments.json:
        print_json([
            {"name": family.name + one.suffix, "kind": family.kind, "labels": one.labels, "value": one.value}
            for family in families for one in family.samples
        ])
    elif not families:
        print("nothing is running")
    else:
        _print_stats(families)
    return ExitCode.OK


def _print_stats(families: list[Any]) -> None:
    """A table for each remote: what is counted, without the buckets of histograms."""
    by_remote: dict[str, list[tuple[str, str]]] = {}
    for family in families:
        for one in family.samples:
            labels = dict(one.labels)
            remote = labels.pop("remote")
            if one.suffix == "_bucket" or family.name == "serpentfs_info":
                continue
            name = f"{family.name.removeprefix('serpentfs_')}{one.suffix}"
            shown = " ".join([name, *(f"{key}={value}" for key, value in labels.items())])
            by_remote.setdefault(remote, []).append((shown, _amount(name, one.value)))
    display = Display()
    for remote, rows in by_remote.items():
        print(display.paint(remote, Role.TITLE))
        display.print_table((Column("COUNTED"), Column("", right=True)), rows)


def _amount(name: str, value: float) -> str:
    if "bytes" in name:
        return human_size(int(value))
    if name == "start_time_seconds":
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    return str(int(value)) if value == int(value) else f"{value:.3f}"


# log


def log(arguments: argparse.Namespace) -> ExitCode:
    answer = ask(owner_named(arguments), "log", level=arguments.level)
    if arguments.level is None:
        print(answer["level"])
    else:
        print(f"{answer['level']} (was {answer['before']})")
    return ExitCode.OK
