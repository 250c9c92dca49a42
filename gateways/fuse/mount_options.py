"""What a user may say about a mount, and how it is said to libfuse."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serpentfs.errors import UsageError

LOOPS = ("native", "pyfuse3")
"""Our own on /dev/fuse, and the library of that name."""

# What mount(8) and fstab add for their own use; neither libfuse nor the kernel knows these words.
_OF_MOUNT_ITSELF = frozenset(
    {"defaults", "auto", "noauto", "user", "nouser", "users", "nofail", "_netdev", "loud", "nonempty"}
)
_OF_MOUNT_PREFIXES = ("x-", "comment=")


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How to mount. ``uid``, ``gid`` and ``umask`` are for entries that have no owner or mode of their own."""

    mountpoint: Path
    name: str
    """What ``df`` and ``mount`` show as the device."""
    read_only: bool = False
    allow_other: bool = False
    uid: int | None = None
    """None: the mounting user, and others who create something own it. With a number nobody else owns
    anything unless given it by chown."""
    gid: int | None = None
    umask: int = 0o022
    root: str = "/"
    """The folder of the drive that becomes the root of the mount."""
    extra: tuple[str, ...] = ()
    """Further options as ``mount -o`` takes them. ``nonempty`` allows a mount point with something in it."""
    attribute_timeout: float = 3600.0
    """Seconds for which the kernel may believe attributes and names. What changes behind its back is told it at
    once, so this is long."""

    loop: str = LOOPS[0]
    """Which request loop serves it: one of LOOPS."""

    @property
    def allows_nonempty(self) -> bool:
        return "nonempty" in self.extra

    @property
    def wants_read_only(self) -> bool:
        return self.read_only or "ro" in self.extra

    def for_libfuse(self, *, read_only: bool) -> set[str]:
        """The ``-o`` options of the session. The kernel checks permissions (``default_permissions``): it costs a
        GETATTR of the folder for each file created, and buys that modes mean what they say, which with
        ``allow_other`` is a must. Raises UsageError for an option that cannot be passed on."""
        options = {"default_permissions", "subtype=serpentfs", f"fsname={_escape(self.name)}"}
        options.update(
            option
            for option in self.extra
            if option not in _OF_MOUNT_ITSELF and not option.startswith(_OF_MOUNT_PREFIXES)
        )
        if self.allow_other:
            options.add("allow_other")
        if read_only:
            options.discard("rw")
            options.add("ro")
        for option in options:
            if not option.isascii() or not option or "\0" in option:
                raise UsageError(f"not a mount option: {option!r}")
        return options


def _escape(name: str) -> str:
    """libfuse splits options at commas, and pyfuse3 takes ASCII only."""
    shown = "".join(char if char.isascii() and char.isprintable() else "_" for char in name) or "serpentfs"
    return shown.replace("\\", "\\\\").replace(",", "\\,")
