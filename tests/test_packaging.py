"""The wheel holds what it must, and every module has one name only.

"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"serpentfs": "serpentfs", "cache": "serpentfs.cache", "gateways": "serpentfs.gateways"}


def modules() -> list[str]:
    """Every module of the project by its one name."""
    found = []
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "serpentfs" and parts[0] in ("cache", "gateways"):
                continue    # the development links
            if parts[-1] == "__init__":
                parts = parts[:-1]
            found.append(".".join((package, *parts)))
    return sorted(found)


def test_the_wheel_holds_every_module_once_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    assert len(names) == len(set(names))
    python = [name.removesuffix(".py").removesuffix("/__init__") for name in names if name.endswith(".py")]
    assert sorted(name.replace("/", ".") for name in python) == modules()
    others = [name for name in names if not name.endswith(".py")]
    assert "serpentfs/py.typed" in others
    assert all(name.startswith(("serpentfs/", "serpentfs-")) for name in names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not any(".pyc" in name or "/tests/" in name for name in names)


def test_the_wheel_says_what_pyproject_says(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
        scripts = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert f"Version: {project['version']}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "serpentfs = serpentfs.cli.main:main" in scripts


def test_versions_agree() -> None:
    import serpentfs

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == serpentfs.__version__


IMPORT_ALL = textwrap.dedent("""
    import importlib, sys
    sys.path.insert(0, {place!r})
    for name in {names!r}:
        module = importlib.import_module(name)
        assert module.__name__ == name, name
        if {strict!r}:
            assert module.__file__.startswith({place!r}), module.__file__
    assert "cache" not in sys.modules and "gateways" not in sys.modules
""")


@pytest.mark.skipif(sys.platform != "linux", reason="the mount's modules need FUSE, which only Linux has here")
@pytest.mark.parametrize("place", ["checkout", "wheel"])
def test_every_module_imports_under_its_one_name(place: str, wheel: Path, tmp_path: Path) -> None:
    """A class under two names would be two classes: errors would not be caught, dispatch would miss."""
    if place == "wheel":
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path)
    folder = str(tmp_path if place == "wheel" else ROOT)
    code = IMPORT_ALL.format(place=folder, names=modules(), strict=place == "wheel")
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_library_named_packaging_still_wins() -> None:
    """The folder ``packaging/`` must not hide the library of that name for who runs from the checkout."""
    code = "import packaging.version; print(packaging.version.Version('1.0'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "1.0\n", done.stderr
