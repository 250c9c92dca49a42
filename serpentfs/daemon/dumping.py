"""The state of an owner as a file, for finding out afterwards what it was doing: its status and every task of its loop.

It lies on a disk, so it holds neither secrets nor names of files: of a task the functions it is in, not their values.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import trio

from serpentfs import logs

DUMP_FILE = "state-dump.json"
"""In the state folder of a remote; each dump replaces the one before, and only this user can read it."""
_MASK = "***"
_NAMES = frozenset({"path", "name", "target"})
_DEEPEST = 100


def make_dump(status: Mapping[str, Any]) -> bytes:
    """What goes into the file. ``status`` is the answer to the request of that name."""
    root = trio.lowlevel.current_root_task()
    tasks = [] if root is None else [_task(root, 0)]
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"written": written, "status": without_names(status), "tasks": tasks}, indent=1).encode() + b"\n"


def without_names(value: Any) -> Any:
    """Data as the control socket carries it, with everything masked that is a name of the user's or looks like a
    secret."""
    if isinstance(value, Mapping):
        return {key: _MASK if key in _NAMES and inner is not None else without_names(inner)
                for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_names(inner) for inner in value]
    return logs.redact(logs.without_names(value)) if isinstance(value, str) else value


def _task(task: trio.lowlevel.Task, depth: int) -> dict[str, Any]:
    shown: dict[str, Any] = {"task": task.name, "in": list(_frames(task))}
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    if children and depth < _DEEPEST:
        shown["tasks"] = [_task(child, depth + 1) for child in children]
    return shown


def _frames(task: trio.lowlevel.Task) -> Iterator[str]:
    """Where the task is, outermost call first."""
    for frame, line in task.iter_await_frames():
        code = frame.f_code
        yield f"{Path(code.co_filename).name}:{line} {code.co_qualname}"
