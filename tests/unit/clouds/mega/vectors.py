"""The published vectors of MEGA's formats, and the contents that they are about."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[3] / "data" / "mega"


@functools.cache
def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def vectors(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = load(name)["vectors"]
    return found


def content(rule: dict[str, Any]) -> bytes:
    """The content that a vector describes by its rule."""
    match rule["rule"]:
        case "SHAKE128":
            return hashlib.shake_128(rule["seed_utf8"].encode()).digest(rule["length"])
        case "literal":
            return bytes.fromhex(rule["hex"])
        case "byte[i] = (i*31+7) mod 256":
            return linear(rule["length"])
        case other:
            raise ValueError(f"a rule that is not known: {other}")


def linear(length: int) -> bytes:
    period = bytes((number * 31 + 7) % 256 for number in range(256))
    return (period * (length // 256 + 1))[:length]
