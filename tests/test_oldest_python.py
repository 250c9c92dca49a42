"""What Python 3.11 does in its first releases (Debian 12 has 3.11.2) and newer ones do not, looked for with any."""

import ast
from pathlib import Path

import serpentfs

_SOURCES = Path(serpentfs.__file__).parent


def test_nothing_is_raised_in_except_star() -> None:
    """Before 3.11.4 it arrives in a group of its own, past every handler that names it."""
    raised = [
        f"{file.relative_to(_SOURCES)}:{inner.lineno}"
        for package in (_SOURCES, _SOURCES / "gateways", _SOURCES / "cache")
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.TryStar)
        for handler in node.handlers
        for inner in ast.walk(handler)
        if isinstance(inner, ast.Raise)
    ]
    assert raised == []
