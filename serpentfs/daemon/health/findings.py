"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``check`` names what was looked at, for scripts. A note is worth knowing, and nothing is wrong."""

    check: str
    state: State
    message: str
    advice: str = ""
    """What to do about a problem."""
    remote: str | None = None

    @property
    def line(self) -> str:
        about = f"{self.remote}: " if self.remote is not None else ""
        return about + self.message + (f"; {self.advice}" if self.advice else "")


def ok(check: str, message: str, remote: str | None = None) -> Finding:
    return Finding(check, "ok", message, remote=remote)


def note(check: str, message: str, advice: str = "", remote: str | None = None) -> Finding:
    return Finding(check, "note", message, advice, remote)


def problem(check: str, message: str, advice: str, remote: str | None = None) -> Finding:
    return Finding(check, "problem", message, advice, remote)
