"""The health check: every problem it knows, and its repair."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from serpentfs.clouds.vault import Severity, VaultCloud, check_vault
from serpentfs.clouds.vault.content import encrypt_small
from serpentfs.clouds.vault.layout import ROOT
from serpentfs.clouds.vault.names import shorten
from serpentfs.model import NodeId
from tests.fakes.memory_blobs import MemoryBlobStore
from tests.vaults import contents, fresh_vault, mkdir, put, tree

pytestmark = pytest.mark.trio
LONG = "l" * 200


@dataclass
class Case:
    """A vault with some nodes, to be damaged at chosen places."""

    vault: VaultCloud
    folder: NodeId
    empty: NodeId

    @property
    def store(self) -> MemoryBlobStore:
        assert isinstance(self.vault.store, MemoryBlobStore)
        return self.vault.store

    def place(self, folder: NodeId) -> str:
        return self.vault.names.directory_path(folder)

    def entry(self, name: str, folder: NodeId = ROOT) -> str:
        """The key of an entry."""
        return f"{self.place(folder)}/{self.vault.names.entry_name(name, folder)[0]}"

    def drop(self, prefix: str) -> None:
        """Remove a folder with all in it."""
        account = self.store.account
        for key in [key for key in account.blobs if key.startswith(f"{prefix}/")]:
            del account.blobs[key]
        account.directories = {
            name for name in account.directories if name != prefix and not name.startswith(f"{prefix}/")
        }

    def rename(self, prefix: str, new_prefix: str) -> None:
        for key, data in self.store.contents().items():
            if key.startswith(f"{prefix}/"):
                self.store.tamper(new_prefix + key[len(prefix) :], data)
        self.drop(prefix)


@pytest.fixture(params=[True, False], ids=["folders", "objects"])
async def case(request: pytest.FixtureRequest) -> Case:
    vault = await fresh_vault(MemoryBlobStore(folders=request.param))
    folder = await mkdir(vault, ROOT, "folder")
    await put(vault, folder.id, "inside", b"inside")
    await put(vault, folder.id, LONG, b"inside, with a long name")
    await put(vault, ROOT, "file", b"x" * 100_000)
    await put(vault, ROOT, LONG, b"long")
    await vault.symlink(ROOT, "link", "target", mtime_ns=1)
    empty = await mkdir(vault, ROOT, "empty")
    case = Case(vault, folder.id, empty.id)
    assert await check_vault(vault, content=True) == []
    return case


def drop_content_directory(case: Case) -> None:
    case.drop(case.place(case.empty))


def drop_directory_id_file(case: Case) -> None:
    case.store.tamper(f"{case.place(case.folder)}/dirid.c9r", None)


def damage_directory_id_file(case: Case) -> None:
    case.store.tamper(f"{case.place(case.folder)}/dirid.c9r", bytes(100))


def loose_directory_file(case: Case) -> None:
    case.store.tamper(f"{case.place(case.folder)}/dir.c9r", b"loose")


def trailing_bytes(case: Case) -> None:
    key = f"{case.entry(LONG)}/name.c9s"
    case.store.tamper(key, case.store.contents()[key] + b"\nmore")


def wrong_short_name(case: Case) -> None:
    wrong = f"{case.place(ROOT)}/{base64.urlsafe_b64encode(bytes(20)).decode()}.c9s"
    case.rename(case.entry(LONG), wrong)


def leftover_entry(case: Case) -> None:
    long_name = case.vault.names.encrypt("m" * 200, ROOT)
    case.store.tamper(f"{case.place(ROOT)}/{shorten(long_name)}/name.c9s", long_name.encode())


def empty_orphan(case: Case) -> None:
    case.store.tamper(f"{case.place(NodeId('nobody'))}/dirid.c9r", encrypt_small(case.vault.scheme, b"nobody"))


REPAIRED: dict[str, tuple[Severity, str, Callable[[Case], None]]] = {
    "content directory": (Severity.WARN, "missing-content-directory", drop_content_directory),
    "no dirid.c9r": (Severity.INFO, "missing-directory-id-file", drop_directory_id_file),
    "bad dirid.c9r": (Severity.INFO, "wrong-directory-id-file", damage_directory_id_file),
    "loose dir.c9r": (Severity.INFO, "loose-directory-file", loose_directory_file),
    "trailing bytes": (Severity.WARN, "trailing-bytes", trailing_bytes),
    "wrong short name": (Severity.WARN, "wrong-short-name", wrong_short_name),
    "leftover entry": (Severity.WARN, "empty-entry", leftover_entry),
    "empty orphan": (Severity.WARN, "orphan", empty_orphan),
}


@pytest.mark.parametrize("name", sorted(REPAIRED))
async def test_what_is_repaired(case: Case, name: str) -> None:
    severity, problem, break_it = REPAIRED[name]
    before = await contents(case.vault)
    break_it(case)
    (finding,) = await check_vault(case.vault, content=True)
    assert (finding.severity, finding.problem, finding.fixable, finding.fixed) == (severity, problem, True, False)
    assert finding.where.startswith("d/")
    assert (await check_vault(case.vault, content=True))[0] == finding, "a check without fix changes nothing"
    (fixed,) = await check_vault(case.vault, fix=True, content=True)
    assert fixed.fixed
    assert await check_vault(case.vault, content=True) == []
    assert await contents(case.vault) == before


def repeated_id(case: Case) -> None:
    case.store.tamper(f"{case.entry('other')}/dir.c9r", case.folder.encode())


def empty_directory_file(case: Case) -> None:
    case.store.tamper(f"{case.entry('other')}/dir.c9r", b"")


def long_directory_file(case: Case) -> None:
    case.store.tamper(f"{case.entry('other')}/dir.c9r", b"x" * 1001)


def no_long_name(case: Case) -> None:
    case.store.tamper(f"{case.entry(LONG)}/name.c9s", None)


def oversized_long_name(case: Case) -> None:
    case.store.tamper(f"{case.entry(LONG)}/name.c9s", b"A" * 10_241)


def long_name_without_suffix(case: Case) -> None:
    case.store.tamper(f"{case.entry(LONG)}/name.c9s", b"AAAA")


def long_name_not_base64(case: Case) -> None:
    case.store.tamper(f"{case.entry(LONG)}/name.c9s", "ä€*.c9r".encode())


def unknown_entry(case: Case) -> None:
    case.store.tamper(f"{case.entry('other')}/something", b"")


def ambiguous_entry(case: Case) -> None:
    case.store.tamper(f"{case.entry('link')}/dir.c9r", case.vault.names.directory_path(ROOT)[5:].encode())


def truncated(case: Case) -> None:
    case.store.tamper(case.entry("file"), case.store.contents()[case.entry("file")][:-99_000])
    key = case.entry("file")
    header, step = case.vault.scheme.header_size, 32768 + case.vault.scheme.overhead
    case.store.tamper(key, case.store.contents()[key].ljust(header + step + 5, b"x")[: header + step + 5])


def damaged(case: Case) -> None:
    data = bytearray(case.store.contents()[case.entry("file")])
    data[50_000] ^= 1
    case.store.tamper(case.entry("file"), bytes(data))


def damaged_link(case: Case) -> None:
    key = f"{case.entry('link')}/symlink.c9r"
    case.store.tamper(key, bytes(len(case.store.contents()[key])))


def foreign_name(case: Case) -> None:
    case.store.tamper(f"{case.place(ROOT)}/{base64.urlsafe_b64encode(bytes(30)).decode()}.c9r", b"x" * 68)


def conflict(case: Case) -> None:
    key = case.entry("file")
    case.store.tamper(key.replace(".c9r", " (Alice).c9r"), case.store.contents()[key])


def no_header(case: Case) -> None:
    case.store.tamper(case.entry("file"), b"")


REPORTED: dict[str, tuple[Severity, set[str], Callable[[Case], None]]] = {
    "repeated id": (Severity.CRITICAL, {"repeated-directory-id"}, repeated_id),
    "empty dir.c9r": (Severity.CRITICAL, {"empty-directory-file"}, empty_directory_file),
    "long dir.c9r": (Severity.CRITICAL, {"long-directory-file"}, long_directory_file),
    "no name.c9s": (Severity.CRITICAL, {"missing-long-name"}, no_long_name),
    "large name.c9s": (Severity.CRITICAL, {"oversized-long-name"}, oversized_long_name),
    "name.c9s without suffix": (Severity.CRITICAL, {"malformed-long-name"}, long_name_without_suffix),
    "name.c9s not base64url": (Severity.CRITICAL, {"malformed-long-name"}, long_name_not_base64),
    "unknown entry": (Severity.CRITICAL, {"unknown-entry"}, unknown_entry),
    "ambiguous entry": (Severity.CRITICAL, {"ambiguous-entry"}, ambiguous_entry),
    "truncated file": (Severity.CRITICAL, {"truncated"}, truncated),
    "damaged file": (Severity.CRITICAL, {"damaged-content"}, damaged),
    "damaged link": (Severity.CRITICAL, {"damaged-content"}, damaged_link),
    "foreign name": (Severity.WARN, {"foreign-name"}, foreign_name),
    "conflict": (Severity.INFO, {"sync-conflict"}, conflict),
    "no header": (Severity.WARN, {"no-header"}, no_header),
}


@pytest.mark.parametrize("name", sorted(REPORTED))
async def test_what_is_only_reported(case: Case, name: str) -> None:
    severity, problems, break_it = REPORTED[name]
    break_it(case)
    before = await contents_or_errors(case)
    findings = [
        finding for finding in await check_vault(case.vault, content=True) if finding.severity >= severity
    ]
    assert {finding.problem for finding in findings} >= problems
    assert {finding.severity for finding in findings if finding.problem in problems} == {severity}
    assert not any(finding.fixable for finding in findings if finding.problem in problems)
    kept = {finding.where for finding in findings if finding.problem in problems}
    await check_vault(case.vault, fix=True, content=True)
    again = await check_vault(case.vault, content=True)
    assert {finding.where for finding in again if finding.problem in problems} == kept
    assert await contents_or_errors(case) == before


async def contents_or_errors(case: Case) -> set[str]:
    return set(await tree(case.vault))


async def test_findings_name_the_file(case: Case) -> None:
    damaged(case)
    (finding,) = await check_vault(case.vault, content=True)
    assert (finding.path, finding.where) == ("/file", case.entry("file"))
    assert await check_vault(case.vault) == [], "contents are only read when asked for"


async def test_an_orphan_comes_back_as_it_was(case: Case) -> None:
    case.drop(case.entry("folder"))
    assert "/folder" not in await tree(case.vault)
    (finding,) = await check_vault(case.vault)
    assert (finding.problem, finding.severity, finding.where) == ("orphan", Severity.WARN, case.place(case.folder))
    assert (await check_vault(case.vault, fix=True))[0].fixed
    seen = await contents(case.vault)
    (adopted,) = [path for path in seen if path.count("/") == 2 and path.startswith("/LOST+FOUND/")]
    assert adopted == f"/LOST+FOUND/{case.place(case.folder)[2:].replace('/', '')}"
    assert seen[f"{adopted}/inside"] == b"inside"
    assert seen[f"{adopted}/{LONG}"] == b"inside, with a long name"
    assert (await tree(case.vault))["/LOST+FOUND"].id == "recovery"
    assert await check_vault(case.vault, content=True) == []


async def test_an_orphan_without_its_id_keeps_its_contents(case: Case) -> None:
    vault = case.vault
    inner = await mkdir(vault, case.folder, "sub")
    await put(vault, inner.id, "deep", b"deep")
    await vault.symlink(case.folder, "link", "elsewhere", mtime_ns=1)
    case.drop(case.entry("folder"))
    case.store.tamper(f"{case.place(case.folder)}/dirid.c9r", None)
    (fixed,) = await check_vault(vault, fix=True)
    assert fixed.fixed
    seen = await contents(vault)
    base = f"/LOST+FOUND/{case.place(case.folder)[2:].replace('/', '')}"
    found = {path[len(base) :]: value for path, value in seen.items() if path.startswith(f"{base}/")}
    assert sorted(found.values(), key=repr) == sorted(
        [b"inside", b"inside, with a long name", "elsewhere", None, b"deep"], key=repr
    )
    assert any(path.startswith("/directory1_") and path.endswith("/deep") for path in found)
    assert any(path.endswith("_withVeryLongName") for path in found)
    assert await check_vault(vault, content=True) == []


async def test_an_orphan_with_foreign_files_is_left_alone(case: Case) -> None:
    case.drop(case.entry("empty"))
    case.store.tamper(f"{case.place(case.empty)}/notes.txt", b"foreign")
    (finding,) = await check_vault(case.vault, fix=True)
    assert not finding.fixed
    assert "notes.txt" in finding.message
    assert case.store.contents()[f"{case.place(case.empty)}/notes.txt"] == b"foreign"


async def test_a_taken_right_name_is_not_overwritten(case: Case) -> None:
    wrong = f"{case.place(ROOT)}/{base64.urlsafe_b64encode(bytes(20)).decode()}.c9s"
    for file in ("name.c9s", "contents.c9r"):
        case.store.tamper(f"{wrong}/{file}", case.store.contents()[f"{case.entry(LONG)}/{file}"])
    before = await contents(case.vault)
    (finding,) = await check_vault(case.vault, fix=True)
    assert (finding.problem, finding.fixed) == ("wrong-short-name", False)
    assert await contents(case.vault) == before


async def test_old_unfinished_uploads_are_removed(case: Case) -> None:
    key = f"{case.place(ROOT)}/.serpentfs-{secrets.token_hex(4)}.tmp"
    case.store.tamper(key, b"half")
    (finding,) = await check_vault(case.vault, fix=True)
    assert (finding.problem, finding.fixed) == ("unfinished-upload", False), "it may be somebody's, just now"
    account = case.store.account
    account.blobs[key] = account.new_blob(b"half", 0)
    (finding,) = await check_vault(case.vault, fix=True)
    assert finding.fixed
    assert key not in case.store.contents()


async def test_an_empty_entry_folder_is_removed() -> None:
    vault = await fresh_vault(MemoryBlobStore(folders=True))
    key = f"{vault.names.directory_path(ROOT)}/{vault.names.entry_name('name', ROOT)[0]}"
    await vault.store.make_directory(key)
    (finding,) = await check_vault(vault, fix=True)
    assert (finding.problem, finding.fixed) == ("empty-entry", True)
    assert not await vault.store.is_directory(key)
