"""Drives over MEGA accounts of the emulator, each as on a machine of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from serpentfs.clouds.mega.cloud import MegaCloud, MegaOptions, open_mega
from serpentfs.clouds.mega.session import Session, login
from serpentfs.clouds.mega.transport import Transport
from serpentfs.clouds.retrying import RetryingCloud
from serpentfs.vfs.drive import Drive, DriveOptions
from serpentfs.vfs.opening import open_drive

PASSWORD = "a password of the tests"


async def log_in(url: str, email: str) -> Session:
    transport = Transport()
    try:
        return await login(transport, url, email, PASSWORD)
    finally:
        await transport.aclose()


@asynccontextmanager
async def mega_drive(
    session: Session, machine: Path, *, settle: float = 0.01, mega: MegaOptions = MegaOptions()
) -> AsyncIterator[tuple[Drive, MegaCloud]]:
    """The drive of an account on the machine that keeps its state below ``machine``."""
    async with (
        open_mega(session, directory=machine / "state", options=mega) as cloud,
        open_drive(
            RetryingCloud(cloud),
            remote_id=cloud.remote_id,
            secret=cloud.secret,
            state_directory=machine / "state",
            cache_directory=machine / "cache",
            options=DriveOptions(settle=settle, host=machine.name),
        ) as drive,
    ):
        yield drive, cloud
