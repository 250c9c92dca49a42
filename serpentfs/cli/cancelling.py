"""``transfers --cancel``: an upload taken back, after a question, because what is dropped is nowhere else."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from serpentfs.cli.asking import confirmed
from serpentfs.cli.display import Display
from serpentfs.cli.exit_codes import ExitCode
from serpentfs.cli.output import count, human_size, print_json, printable
from serpentfs.cli.reaching import Failures
from serpentfs.cli.seeing import ask, owners
from serpentfs.daemon.lock import OwnerNote
from serpentfs.errors import NotFound, SerpentError, UsageError

_UPLOADS = ("create", "content")
_BECAME = {
    "gone": "it was nowhere else, and is gone",
    "reverted": "the file has its former content again",
    "returns": "the file that it had replaced comes back",
}


def cancel(arguments: argparse.Namespace) -> ExitCode:
    """Every transfer is looked for before one of them is cancelled."""
    note = _owner(arguments)
    pending: list[dict[str, Any]] = ask(note, "transfers")["transfers"]
    chosen = {one["seq"]: one for one in (_find(pending, word) for word in arguments.cancel)}
    if not arguments.force and not confirmed(_question(list(chosen.values())), "--force cancels without a question"):
        print("serpentfs: nothing was cancelled", file=sys.stderr)
        return ExitCode.OK
    failures, done = Failures(), []
    for change in chosen.values():
        try:
            done.append({"seq": change["seq"], **ask(note, "cancel", seq=change["seq"])})
        except SerpentError as error:
            failures.add(change["path"], error)
    if arguments.json:
        print_json(done)
    else:
        display = Display()
        for one in done:
            print(f"cancelled {display.paint(one['path'])}: {_BECAME[one['became']]}")
    return failures.code


def _owner(arguments: argparse.Namespace) -> OwnerNote:
    notes = owners(arguments)
    if not notes:
        raise NotFound("nothing is running")
    if len(notes) > 1:
        raise UsageError("more than one remote runs: say which, as in serpentfs transfers work: --cancel 12")
    return notes[0]


def _find(pending: Sequence[Mapping[str, Any]], word: str) -> Mapping[str, Any]:
    """By number, or the newest upload of a path."""
    if word.startswith("/"):
        found = [one for one in pending if one["path"] == word and one["operation"] in _UPLOADS]
    elif word.isdecimal():
        found = [one for one in pending if one["seq"] == int(word)]
    else:
        raise UsageError(f'"{printable(word)}" is neither the number of a transfer nor a path that begins with /')
    if not found:
        raise NotFound(f"no upload of {printable(word)} is pending; serpentfs transfers lists what is")
    return found[-1]


def _question(chosen: Sequence[Mapping[str, Any]]) -> str:
    size = human_size(sum(one["size"] for one in chosen))
    what = printable(chosen[0]["path"]) if len(chosen) == 1 else count(len(chosen), "file")
    return f"Drop what was written to {what} ({size}) and is not uploaded? It is stored nowhere else."
