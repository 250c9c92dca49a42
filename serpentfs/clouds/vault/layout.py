"""Where things lie in a vault: fixed file names, and the place of one entry.

Pure. An *entry* is a name in a content directory; what kind of node it is shows only in the objects it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from serpentfs.clouds.vault.names import SHORTENED, NameCipher, normalize
from serpentfs.errors import NotFound
from serpentfs.model import Kind, NodeId, NodeRef

CONFIG_FILE = "vault.cryptomator"
MASTERKEY_FILE = "masterkey.cryptomator"
DATA = "d"
DIRECTORY_FILE = "dir.c9r"
SYMLINK_FILE = "symlink.c9r"
CONTENTS_FILE = "contents.c9r"
LONG_NAME_FILE = "name.c9s"
DIRECTORY_ID_FILE = "dirid.c9r"
"""In every content directory: its own id, encrypted. Optional to readers."""
TYPE_FILES = {Kind.DIRECTORY: DIRECTORY_FILE, Kind.SYMLINK: SYMLINK_FILE, Kind.FILE: CONTENTS_FILE}
"""In the order in which the official readers look for them."""
TEMPORARY_PREFIX = ".serpentfs-"
"""An upload on its way to its place; the name is outside the pattern of vault entries."""

ROOT = NodeId("")
"""The root folder's id is the empty string, in the format too."""
MAX_DIRECTORY_ID_BYTES = 1000
MAX_TARGET_CHARS = 32767


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A ciphertext name in the content directory of folder ``parent``; ``path`` is that directory's path."""

    parent: NodeId
    name: str
    path: str

    @property
    def id(self) -> NodeId:
        """The node id of a file or link, and every node's locator."""
        return NodeId(f"{self.parent}/{self.name}")

    @property
    def key(self) -> str:
        """The entry itself: an object (an unshortened file) or a prefix of objects (everything else)."""
        return f"{self.path}/{self.name}"

    @property
    def shortened(self) -> bool:
        return self.name.endswith(SHORTENED)

    def is_object(self, kind: Kind) -> bool:
        """Whether a node of this kind is one object rather than a prefix of several."""
        return kind is Kind.FILE and not self.shortened

    def primary(self, kind: Kind) -> str:
        """The key of the object that makes this entry a node of ``kind``."""
        return self.key if self.is_object(kind) else f"{self.key}/{TYPE_FILES[kind]}"

    @property
    def long_name_key(self) -> str:
        return f"{self.key}/{LONG_NAME_FILE}"


def entry_from_id(names: NameCipher, text: str) -> Entry:
    """The entry that an id of a file or link, or a locator, speaks of. NotFound when it speaks of none."""
    parent, slash, name = text.rpartition("/")
    if not slash or not name:
        raise NotFound("no such entry in the vault")
    return Entry(NodeId(parent), name, names.directory_path(parent))


def entry_of(names: NameCipher, node: NodeRef) -> Entry:
    """Where a node lies. NotFound for the root, which lies nowhere."""
    return entry_from_id(names, node.locator if node.kind is Kind.DIRECTORY else node.id)


def entry_for(names: NameCipher, parent: NodeId, name: str) -> tuple[Entry, str | None]:
    """Where a new node called ``name`` belongs, and the long name to keep beside it if it is shortened."""
    entry_name, long_name = names.entry_name(normalize(name), parent)
    return Entry(parent, entry_name, names.directory_path(parent)), long_name
