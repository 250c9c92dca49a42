"""``version``."""

from __future__ import annotations

import argparse
import platform

from serpentfs import __version__
from serpentfs.cli.exit_codes import ExitCode


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=version)


def version(arguments: argparse.Namespace) -> ExitCode:
    print(f"serpentfs {__version__}")
    if arguments.verbose:
        print(f"Python {platform.python_version()} on {platform.platform()}")
    return ExitCode.OK
