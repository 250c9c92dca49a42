"""The core in memory with a disk cache that holds every file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from serpentfs.cache import slots
from serpentfs.cache.blocks import block_count
from serpentfs.cache.seal import HEADER_SIZE, SLOT_SIZE, BlockSeal
from serpentfs.cache.sealed import SealedSpan
from serpentfs.model import BLOCK_SIZE, BlockIndex, HandleId, Span
from tests.fakes.memory_vfs import MemoryVfs

_SEAL = BlockSeal(bytes(32), b"fake")


def _blocks(size: int) -> list[BlockIndex]:
    return [BlockIndex(block) for block in range(block_count(size))]


class SealingVfs(MemoryVfs):
    """``damaged`` blocks do not open. ``asked`` lists where something sealed was asked for, ``read_at`` where it was
    read otherwise."""

    def __init__(self, folder: Path, damaged: Collection[int] = ()) -> None:
        super().__init__(cold=True)
        self._folder = folder
        self._damaged = damaged
        self.asked: list[int] = []
        self.read_at: list[int] = []

    def sealed(self, handle: HandleId, offset: int, size: int) -> SealedSpan | None:
        self.asked.append(offset)
        attributes = self.attributes_of(handle)
        span = Span(offset, offset + size).clamp(attributes.size)
        if not span:
            return None
        content = attributes.content
        path = slots.path_of(self._folder, content)
        if not path.exists():
            opened = self._handle(handle)
            data = opened.node.data.read(0, attributes.size)
            blocks = {block: data[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] for block in _blocks(len(data))}
            slots.write(path, _SEAL, content, blocks)
            with path.open("r+b") as file:
                for block in self._damaged:
                    file.seek(block * SLOT_SIZE + HEADER_SIZE + 5)
                    file.write(b"damaged")
        return SealedSpan(path, _SEAL, content, attributes.size, span)

    async def read(self, handle: HandleId, offset: int, size: int) -> bytes | memoryview:
        self.read_at.append(offset)
        return await super().read(handle, offset, size)
