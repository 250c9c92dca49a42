"""A server that keeps the MEGA protocol, for tests: right enough for other people's clients, and faulty on demand.

Owns accounts, trees, storage and events as the real service would; like that it never sees a password or a key (but
for accounts of a million nodes, that it makes itself). Must not know the client that it tests: it shares the pure
formats (keys, chunks, RAID) with it, which have test vectors of their own.
"""

from tests.mega_emulator.harness import Emulator, Entry, emulator

__all__ = ["Emulator", "Entry", "emulator"]
