"""``python -m tests.bench``: ourselves, ``rclone mount`` and gocryptfs side by side in one run.

Run it from the root of the checkout, on a machine that does nothing else, best as root: only root may drop the
page cache of the machine. Nothing here passes or fails by speed; the exit code is 1 when a contender broke.
"""

from __future__ import annotations

import argparse
import sys

from tests.bench.contenders import CONTENDERS, Serpent
from tests.bench.run import add_arguments, carry_out, count
from tests.bench.workloads import WORKLOADS, Sizes

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def _size(text: str) -> int:
    number = text.rstrip("KMG")
    unit = text[len(number) :]
    if not number.isdigit() or not int(number) or unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 64M or 1G")
    return int(number) * _UNITS[unit]


def _arguments() -> argparse.Namespace:
    sizes = Sizes()
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure serpentfs, rclone mount and gocryptfs side by side.",
        epilog="smoke test: python -m tests.bench --size 16M --listed 200 --folders 4 --created 50 --rounds 1",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_arguments(parser, WORKLOADS, CONTENDERS)
    parser.add_argument("--size", type=_size, default="1G", help="bytes written and read sequentially")
    parser.add_argument("--listed", type=count, default=sizes.listed_files, help="files in the tree that is listed")
    parser.add_argument("--folders", type=count, default=sizes.listed_folders, help="folders they are in")
    parser.add_argument("--created", type=count, default=sizes.created_files, help="small files that are created")
    parser.add_argument("--created-size", type=_size, default="8K", help="bytes of each of them")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    sizes = Sizes(
        arguments.size, arguments.listed, arguments.folders, arguments.created, arguments.created_size,
        arguments.rounds, arguments.timeout,
    )
    return carry_out(arguments, sizes, Serpent.name)


if __name__ == "__main__":
    sys.exit(main())
