"""Creating and opening: what stands in the way is told in one line."""

from __future__ import annotations

import json

import pytest

from serpentfs.clouds.vault import VaultFiles, create_vault, open_vault
from serpentfs.clouds.vault.layout import CONFIG_FILE, MASTERKEY_FILE, ROOT
from serpentfs.clouds.vault.masterkey import Masterkey, lock
from serpentfs.errors import AlreadyExists, BadVault, Unavailable, UsageError, WrongPassphrase
from tests.fakes.faulty_blobs import FaultyBlobStore
from tests.fakes.memory_blobs import MemoryBlobStore
from tests.vaults import CHEAP_COST, PASSPHRASE, contents, fresh_vault, put

pytestmark = pytest.mark.trio


@pytest.mark.parametrize("folders", [True, False])
@pytest.mark.parametrize("combo", ["SIV_GCM", "SIV_CTRMAC"])
async def test_create_and_open(combo: str, folders: bool) -> None:
    store = MemoryBlobStore(folders=folders)
    await create_vault(store, PASSPHRASE, cipher_combo=combo)
    assert {key.partition("/")[0] for key in store.contents()} == {"d", CONFIG_FILE, MASTERKEY_FILE}
    masterkey = json.loads(store.contents()[MASTERKEY_FILE])
    assert (masterkey["scryptCostParam"], masterkey["scryptBlockSize"], masterkey["version"]) == (32768, 8, 999)
    vault = await open_vault(store, PASSPHRASE)
    assert vault.config.cipher_combo == combo
    assert len(vault.secret) == 64
    assert vault.jti
    for text in (repr(vault), repr(vault.files)):
        assert not any(repr(secret)[2:-1] in text for secret in (vault.secret[:32], vault.files.masterkey))
    await put(vault, ROOT, "file", b"data")
    assert await contents(await open_vault(store, PASSPHRASE)) == {"/file": b"data"}
    with pytest.raises(WrongPassphrase):
        await open_vault(store, "wrong")


async def test_passphrases_are_normalised() -> None:
    store = MemoryBlobStore()
    await create_vault(store, "pa\u0308ss")
    await open_vault(store, "p\u00e4ss")


async def test_create_refuses() -> None:
    for key in (CONFIG_FILE, MASTERKEY_FILE, "d/AB/x"):
        store = MemoryBlobStore()
        store.tamper(key, b"x")
        with pytest.raises(AlreadyExists):
            await create_vault(store, PASSPHRASE)
        assert store.contents() == {key: b"x"}
    store = MemoryBlobStore()
    store.tamper("holiday.jpg", b"x")
    await create_vault(store, PASSPHRASE)
    for arguments in ({"passphrase": ""}, {"passphrase": "x", "cipher_combo": "ROT13"}):
        with pytest.raises(UsageError):
            await create_vault(MemoryBlobStore(), **arguments)


async def test_a_creation_that_broke_off_is_no_vault() -> None:
    for fail_at in range(1, 20):
        store = MemoryBlobStore()
        faulty = FaultyBlobStore(store, fail_at=fail_at)
        try:
            await create_vault(faulty, PASSPHRASE)
        except Unavailable:
            with pytest.raises(BadVault):
                await open_vault(store, PASSPHRASE)
        else:
            assert fail_at > 6
            return
    pytest.fail("it never succeeded")


async def test_what_is_no_vault() -> None:
    with pytest.raises(BadVault, match="there is no vault here"):
        await open_vault(MemoryBlobStore(), PASSPHRASE)


async def test_old_formats() -> None:
    store = MemoryBlobStore()
    store.tamper(MASTERKEY_FILE, b"{}")
    store.tamper("d/AB/x", b"")
    with pytest.raises(BadVault, match="migrate"):
        await open_vault(store, PASSPHRASE)


async def test_missing_parts() -> None:
    for key, message in ((MASTERKEY_FILE, "is missing"), ("d", "no d/ folder")):
        store = MemoryBlobStore()
        vault = await fresh_vault(store)
        for name in store.contents():
            if name == key or name.startswith(f"{key}/"):
                store.tamper(name, None)
        with pytest.raises(BadVault, match=message):
            await open_vault(store, PASSPHRASE)
    store = MemoryBlobStore()
    vault = await fresh_vault(store)
    store.tamper(f"{vault.names.directory_path(ROOT)}/dirid.c9r", None)
    store.tamper("d/AB/x", b"")
    with pytest.raises(BadVault, match="content root"):
        await open_vault(store, PASSPHRASE)


async def test_files_that_do_not_belong_together() -> None:
    store = MemoryBlobStore()
    await fresh_vault(store)
    store.tamper(MASTERKEY_FILE, lock(Masterkey.generate(), PASSPHRASE, cost=CHEAP_COST))
    with pytest.raises(BadVault, match="do not belong together"):
        await open_vault(store, PASSPHRASE)


@pytest.mark.parametrize("key", [CONFIG_FILE, MASTERKEY_FILE])
@pytest.mark.parametrize("data", [b"", b"garbage", bytes(100), b"x" * 100_000])
async def test_damaged_files(key: str, data: bytes) -> None:
    store = MemoryBlobStore()
    await fresh_vault(store)
    store.tamper(key, data)
    with pytest.raises(BadVault) as caught:
        await open_vault(store, PASSPHRASE)
    assert "\n" not in str(caught.value)


async def test_offline() -> None:
    store = MemoryBlobStore()
    vault = await fresh_vault(store)
    broken = FaultyBlobStore(store, fail_at=1)
    with pytest.raises(Unavailable):
        await open_vault(broken, PASSPHRASE)
    files = VaultFiles(vault.files.config, vault.files.masterkey)
    offline = await open_vault(broken, PASSPHRASE, offline=files)
    assert (offline.jti, offline.secret, offline.files) == (vault.jti, vault.secret, vault.files)
    with pytest.raises(WrongPassphrase):
        await open_vault(broken, "wrong", offline=files)
    # What the store says goes before the copies.
    with pytest.raises(BadVault):
        await open_vault(MemoryBlobStore(), PASSPHRASE, offline=files)
    for fail_at in range(2, 8):
        opened = await open_vault(FaultyBlobStore(store, fail_at=fail_at), PASSPHRASE, offline=files)
        assert opened.jti == vault.jti
