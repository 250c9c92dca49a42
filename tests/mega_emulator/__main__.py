"""Runs the emulator: for somebody who wants to try MEGA clients on it, or as the process behind ``emulator()``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.mega_emulator.demo import describe
from tests.mega_emulator.server import Pace, Server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mega_emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="plain HTTP port on 127.0.0.1 (default: any free one)")
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="before every answer")
    parser.add_argument("--rate", type=float, default=0.0, metavar="BYTES", help="per second on each connection")
    parser.add_argument("--for-parent", action="store_true", help="no demo account; end when standard input does")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mega-emulator-") as folder:
        server = Server(Path(folder), port=options.port, pace=Pace(options.latency, options.rate))
        if options.for_parent:
            ready = {"url": server.service.base_url, "tls_port": server.tls_port, "ca_file": str(server.ca_file)}
            print(json.dumps(ready), flush=True)
            threading.Thread(target=_until_input_ends, args=(server,), daemon=True).start()
        else:
            print(describe(server), flush=True)

        def stop(_: int, __: object) -> None:
            # The signal interrupts the very loop that close() waits for.
            threading.Thread(target=server.close, daemon=True).start()

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        server.run()


def _until_input_ends(server: Server) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    server.close()


if __name__ == "__main__":
    main()
