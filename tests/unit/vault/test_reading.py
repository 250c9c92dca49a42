"""Reading, and above all not reading what is not genuine."""

from __future__ import annotations

import secrets

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serpentfs.clouds.vault import VaultCloud
from serpentfs.clouds.vault.content import (
    CHUNK,
    ciphertext_size,
    cleartext_size,
    encrypt_small,
    listed_size,
    scheme_for,
)
from serpentfs.clouds.vault.layout import ROOT
from serpentfs.clouds.vault.masterkey import Masterkey
from serpentfs.errors import IntegrityError, RevisionGone
from serpentfs.model import NodeInfo, Revision, Span
from tests.fakes.counting_blobs import CountingBlobStore
from tests.vaults import fresh_vault, put, read_all, reopened, tree

COMBOS = ["SIV_GCM", "SIV_CTRMAC"]
DATA = secrets.token_bytes(10 * CHUNK + 1000)


@pytest.fixture(params=COMBOS)
async def vault(request: pytest.FixtureRequest) -> VaultCloud:
    return await fresh_vault(CountingBlobStore(), request.param)


def counting(vault: VaultCloud) -> CountingBlobStore:
    assert isinstance(vault.store, CountingBlobStore)
    return vault.store


def key_of(vault: VaultCloud, node: NodeInfo) -> str:
    return f"{vault.names.directory_path(ROOT)}{node.id}"


def damage(vault: VaultCloud, node: NodeInfo, data: bytes) -> None:
    """Change an object without changing its revision: what a bad disk or a bad store does."""
    account = counting(vault).account
    blob = account.blobs[key_of(vault, node)]
    account.blobs[key_of(vault, node)] = type(blob)(data, blob.mtime_ns, blob.revision)


def stored(vault: VaultCloud, node: NodeInfo) -> bytes:
    return counting(vault).contents()[key_of(vault, node)]


@pytest.mark.trio
async def test_a_read_is_one_request(vault: VaultCloud) -> None:
    node = await put(vault, ROOT, "file", DATA)
    calls = counting(vault).calls
    for start, stop, requests in (
        (0, 10, 1),
        (0, len(DATA), 1),
        (9 * CHUNK, 10 * CHUNK, 1),
        (CHUNK - 1, CHUNK + 1, 1),
    ):
        calls.clear()
        assert await vault.read(node.ref, Span(start, stop)) == DATA[start:stop]
        assert calls == {"read": requests}
    calls.clear()
    far = Span(9 * CHUNK + 5, len(DATA))
    assert await reopened(vault, vault.store).read(node.ref, far) == DATA[far.start :]
    assert calls == {"read": 2}


@pytest.mark.trio
async def test_reads_of_one_file_at_a_time_bring_its_header_once(vault: VaultCloud) -> None:
    node = await put(vault, ROOT, "file", DATA)
    other = reopened(vault, vault.store)
    calls = counting(vault).calls
    calls.clear()
    found: dict[int, bytes] = {}
    starts = [9 * CHUNK, 9 * CHUNK + 1000, 10 * CHUNK]

    async def read(start: int) -> None:
        found[start] = await other.read(node.ref, Span(start, start + 500))

    async with trio.open_nursery() as nursery:
        for start in starts:
            nursery.start_soon(read, start)
    assert found == {start: DATA[start : start + 500] for start in starts}
    assert calls == {"read": len(starts) + 1}


@pytest.mark.trio
async def test_who_waits_for_a_header_that_does_not_come_brings_it(
    vault: VaultCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await put(vault, ROOT, "file", DATA)
    store, first, asked = counting(vault), Span(0, CHUNK), []
    read_blob = store.read

    async def read(key: str, span: Span, *, revision: Revision | None = None) -> bytes:
        asked.append(span)
        if len(asked) == 1:
            await trio.sleep_forever()
        return await read_blob(key, span, revision=revision)

    monkeypatch.setattr(store, "read", read)
    other = reopened(vault, store)
    found: list[bytes] = []

    async def read_the_last() -> None:
        found.append(await other.read(node.ref, Span(9 * CHUNK, 10 * CHUNK)))

    async with trio.open_nursery() as waiting, trio.open_nursery() as nursery:
        nursery.start_soon(other.read, node.ref, first)
        await trio.testing.wait_all_tasks_blocked()
        waiting.start_soon(read_the_last)
        await trio.testing.wait_all_tasks_blocked()
        assert len(asked) == 2
        assert found == []
        nursery.cancel_scope.cancel()
    assert found == [DATA[9 * CHUNK : 10 * CHUNK]]
    assert len(asked) == 3


@pytest.mark.trio
async def test_every_damaged_byte_is_noticed(vault: VaultCloud) -> None:
    small = secrets.token_bytes(100)
    node = await put(vault, ROOT, "file", small)
    genuine = stored(vault, node)
    for at in range(len(genuine)):
        damage(vault, node, genuine[:at] + bytes([genuine[at] ^ 0x40]) + genuine[at + 1 :])
        with pytest.raises(IntegrityError) as caught:
            await read_all(reopened(vault, vault.store), node)
        assert key_of(vault, node) in str(caught.value)
    damage(vault, node, genuine)
    assert await read_all(vault, node) == small


@pytest.mark.trio
async def test_damage_is_confined_to_its_chunk(vault: VaultCloud) -> None:
    node = await put(vault, ROOT, "file", DATA)
    genuine = bytearray(stored(vault, node))
    step = CHUNK + vault.scheme.overhead
    genuine[vault.scheme.header_size + 3 * step + 100] ^= 1
    damage(vault, node, bytes(genuine))
    assert await vault.read(node.ref, Span(0, 3 * CHUNK)) == DATA[: 3 * CHUNK]
    assert await vault.read(node.ref, Span(4 * CHUNK, len(DATA))) == DATA[4 * CHUNK :]
    with pytest.raises(IntegrityError, match="chunk 3"):
        await vault.read(node.ref, Span(3 * CHUNK + 5, 3 * CHUNK + 6))
    with pytest.raises(IntegrityError):
        await read_all(vault, node)


@pytest.mark.trio
async def test_swapped_chunks_are_noticed(vault: VaultCloud) -> None:
    node = await put(vault, ROOT, "file", DATA)
    genuine, header, step = stored(vault, node), vault.scheme.header_size, CHUNK + vault.scheme.overhead
    first, second = genuine[header : header + step], genuine[header + step : header + 2 * step]
    damage(vault, node, genuine[:header] + second + first + genuine[header + 2 * step :])
    with pytest.raises(IntegrityError, match="chunk 0"):
        await vault.read(node.ref, Span(0, 1))
    other = await put(vault, ROOT, "other", DATA)
    damage(vault, node, stored(vault, other)[:header] + genuine[header:])
    with pytest.raises(IntegrityError):
        await reopened(vault, vault.store).read(node.ref, Span(5 * CHUNK, 5 * CHUNK + 1))
    assert await read_all(vault, other) == DATA


@pytest.mark.trio
async def test_a_file_that_ends_early(vault: VaultCloud) -> None:
    node = await put(vault, ROOT, "file", DATA)
    await put(vault, ROOT, "other", b"fine")
    genuine, header, step = stored(vault, node), vault.scheme.header_size, CHUNK + vault.scheme.overhead
    for length in (1, header - 1, header, header + 1, header + step - 1, header + step, header + 5 * step + 10):
        damage(vault, node, genuine[:length])
        with pytest.raises(IntegrityError):
            await read_all(reopened(vault, vault.store), node)
        listed = await tree(reopened(vault, vault.store))
        cut = listed["/file"]
        if length < header or (length - header) % step:
            # Its end must not look like the proper end of a shorter file.
            with pytest.raises(IntegrityError):
                await read_all(vault, cut)
        else:
            assert await read_all(vault, cut) == DATA[: cut.size]
        assert await read_all(vault, listed["/other"]) == b"fine"


@pytest.mark.trio
async def test_a_change_meanwhile_is_never_mixed(vault: VaultCloud) -> None:
    node = await put(vault, ROOT, "file", DATA)
    await vault.read(node.ref, Span(0, 1))
    # As an in-place writer does it: the header stays, so old and new chunks both authenticate.
    counting(vault).tamper(key_of(vault, node), stored(vault, node))
    with pytest.raises(RevisionGone):
        await vault.read(node.ref, Span(0, 1))


@pytest.mark.trio
async def test_what_other_writers_produce(vault: VaultCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    node = await put(vault, ROOT, "file", b"x" * CHUNK)
    cipher = vault.scheme.open_header(stored(vault, node)[: vault.scheme.header_size])
    counting(vault).tamper(key_of(vault, node), stored(vault, node) + cipher.encrypt_chunk(1, b""))
    node = (await tree(vault))["/file"]
    assert node.size == CHUNK
    assert await read_all(vault, node) == b"x" * CHUNK
    await vault.reader.verify(key_of(vault, node), node.revision, len(stored(vault, node)))
    counting(vault).tamper(key_of(vault, node), b"")
    node = (await tree(vault))["/file"]
    assert node.size == 0
    assert await vault.read(node.ref, Span(0, 10)) == b""
    monkeypatch.setattr("serpentfs.clouds.vault.content._RESERVED", b"\x0f" * 8)
    counting(vault).tamper(key_of(vault, node), encrypt_small(vault.scheme, b"odd header"))
    assert await read_all(vault, (await tree(vault))["/file"]) == b"odd header"


@pytest.mark.trio
async def test_an_empty_file_is_checked_when_it_is_read(vault: VaultCloud) -> None:
    node = await put(vault, ROOT, "file", b"")
    assert await vault.read(node.ref, Span(0, 1)) == b""
    damage(vault, node, bytes(vault.scheme.header_size))
    with pytest.raises(IntegrityError):
        await reopened(vault, vault.store).read(node.ref, Span(0, 1))


@pytest.mark.trio
async def test_uploads_never_repeat_a_nonce(vault: VaultCloud) -> None:
    token = secrets.token_bytes(32)
    first = await put(vault, ROOT, "first", DATA, token=token)
    second = await put(vault, ROOT, "second", DATA, token=token)
    one, two, header = stored(vault, first), stored(vault, second), vault.scheme.header_size
    assert one[:header] == two[:header]
    for start in range(header, len(one), CHUNK + vault.scheme.overhead):
        assert one[start : start + 12] != two[start : start + 12]
    third = await put(vault, ROOT, "third", DATA)
    assert stored(vault, third)[:header] != one[:header]


KEY = Masterkey(bytes(32), bytes(range(32)))


@given(size=st.integers(0, 1 << 50), combo=st.sampled_from(COMBOS))
def test_sizes_are_inverse(size: int, combo: str) -> None:
    scheme = scheme_for(combo, KEY)
    assert cleartext_size(scheme, ciphertext_size(scheme, size)) == size
    assert listed_size(scheme, ciphertext_size(scheme, size)) == size


@given(object_size=st.integers(0, 1 << 24), combo=st.sampled_from(COMBOS))
def test_no_listed_size_promises_more_than_one_byte_too_much(object_size: int, combo: str) -> None:
    scheme = scheme_for(combo, KEY)
    size = listed_size(scheme, object_size)
    assert size <= max(1, object_size)
    if cleartext_size(scheme, object_size) is None:
        assert size % CHUNK == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    size=st.one_of(
        st.integers(0, 100),
        st.integers(0, 4).flatmap(lambda n: st.integers(-2, 2).map(lambda d: max(0, n * CHUNK + d))),
        st.integers(0, 20 * CHUNK),
    ),
    cuts=st.lists(st.tuples(st.integers(0, 21 * CHUNK), st.integers(0, 21 * CHUNK)), max_size=6),
    combo=st.sampled_from(COMBOS),
)
def test_any_span_of_any_file(size: int, cuts: list[tuple[int, int]], combo: str) -> None:
    async def run() -> None:
        vault = await fresh_vault(CountingBlobStore(), combo)
        data = DATA[:size] if size <= len(DATA) else (DATA * 2)[:size]
        node = await put(vault, ROOT, "file", data)
        assert node.size == size
        for a, b in cuts:
            span = Span(min(a, b), max(a, b))
            assert await vault.read(node.ref, span) == data[span.start : span.stop]
        assert await read_all(reopened(vault, vault.store), node) == data

    trio.run(run)
