"""Slot files: what is written is read, and nothing else is."""

import errno
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serpentfs.cache import slots
from serpentfs.cache.seal import HEADER_SIZE, SEALED_PART, SLOT_SIZE, BlockSeal, part_count, sealed_size
from serpentfs.model import BLOCK_SIZE, ContentId, Span
from tests.unit.cache.harness import SEAL, cleartext, write_slots

SIZE = 20 * BLOCK_SIZE + 77
CONTENT = ContentId(9)


def block(index: int) -> bytes:
    return cleartext(CONTENT, SIZE)[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]


def read(path: Path, blocks: range, content: ContentId = CONTENT, seal: BlockSeal = SEAL) -> slots.Slots:
    got, descriptor = slots.read(path, seal, content, blocks, SIZE)
    os.close(descriptor)
    return got


def test_neighbours_and_holes_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "slots"
    write_slots(path, CONTENT, SIZE, [0, 1, 2, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20])
    got = read(path, range(21))
    assert got.damaged == 0
    assert got.blocks == [block(i) if i <= 2 or i >= 10 else None for i in range(21)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_shorter_than_asked_has_no_more_slots(tmp_path: Path) -> None:
    write_slots(tmp_path / "slots", CONTENT, SIZE, [0])
    assert read(tmp_path / "slots", range(20)).blocks == [block(0), *[None] * 19]


def test_look_finds_slots_and_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    write_slots(path, CONTENT, SIZE, [1, 2, 20])
    found = slots.look(path)
    assert found is not None
    os.close(found.descriptor)
    assert {1, 2, 20} <= set(found.blocks)
    assert not {5, 10, 15} & set(found.blocks), "holes are seen"
    assert found.taken == path.stat().st_blocks * 512 + slots.FILE_CHARGE
    assert slots.look(tmp_path / "absent") is None


_THIRD_PART = HEADER_SIZE + 2 * SEALED_PART


@pytest.mark.parametrize(
    "offset", [0, 3, 5, HEADER_SIZE - 1, 20, _THIRD_PART - 1, _THIRD_PART, SLOT_SIZE - SEALED_PART, SLOT_SIZE - 1]
)
def test_any_flipped_bit_of_a_slot_is_damage(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "slots"
    write_slots(path, CONTENT, SIZE, [3, 4, 5])
    with path.open("r+b") as file:
        file.seek(4 * SLOT_SIZE + offset)
        byte = file.read(1)[0]
        file.seek(4 * SLOT_SIZE + offset)
        file.write(bytes([byte ^ 1]))
    got = read(path, range(3, 6))
    assert got.blocks == [block(3), None, block(5)]
    assert got.damaged == 1


def test_slots_open_only_at_their_place_of_their_content_under_their_seal(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    write_slots(path, CONTENT, SIZE, [3, 4])
    sealed = path.read_bytes()
    path.write_bytes(sealed[: 3 * SLOT_SIZE] + sealed[4 * SLOT_SIZE :] + sealed[3 * SLOT_SIZE : 4 * SLOT_SIZE])
    assert read(path, range(3, 5)) == slots.Slots([None, None], 2)
    path.write_bytes(sealed)
    assert read(path, range(3, 5), ContentId(10)) == slots.Slots([None, None], 2)
    assert read(path, range(3, 5), seal=BlockSeal(bytes(32), b"remote")) == slots.Slots([None, None], 2)
    assert read(path, range(3, 5), seal=BlockSeal(bytes(range(32)), b"other")) == slots.Slots([None, None], 2)
    assert read(path, range(3, 5)).blocks == [block(3), block(4)]


def test_parts_of_two_sealings_of_a_block_do_not_open_together(tmp_path: Path) -> None:
    """A slot may be written again in place: what a power cut leaves of both is damage, not a mixture."""
    path = tmp_path / "slots"
    write_slots(path, CONTENT, SIZE, [0])
    before = path.read_bytes()
    write_slots(path, CONTENT, SIZE, [0])
    after = path.read_bytes()
    for part in range(part_count(BLOCK_SIZE)):
        torn = bytearray(after)
        place = slice(HEADER_SIZE + part * SEALED_PART, HEADER_SIZE + (part + 1) * SEALED_PART)
        torn[place] = before[place]
        path.write_bytes(torn)
        assert read(path, range(1)) == slots.Slots([None], 1)


def test_parts_do_not_change_places(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    write_slots(path, CONTENT, SIZE, [0])
    header, body = path.read_bytes()[:HEADER_SIZE], path.read_bytes()[HEADER_SIZE:]
    parts = [body[start : start + SEALED_PART] for start in range(0, len(body), SEALED_PART)]
    for other in range(1, len(parts)):
        swapped = list(parts)
        swapped[0], swapped[other] = parts[other], parts[0]
        path.write_bytes(header + b"".join(swapped))
        assert read(path, range(1)) == slots.Slots([None], 1)
        # Nor with the nonce under which the other place would be opened.
        moved = header[:-1] + bytes((header[-1] ^ other,))
        path.write_bytes(moved + b"".join(swapped))
        assert read(path, range(1)) == slots.Slots([None], 1)


@given(st.data())
def test_parts_read_as_the_block_does(data: st.DataObject) -> None:
    index = data.draw(st.sampled_from([0, 3, 20]))
    length = len(block(index))
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    assert slots.NOWAIT is not None
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "slots"
        write_slots(path, CONTENT, SIZE, [index])
        span = Span(index * BLOCK_SIZE + start, index * BLOCK_SIZE + stop)
        with path.open("r+b") as file:
            def opened(content: int, size: int, seal: BlockSeal = SEAL) -> bytes | None:
                read = slots.read_parts_cached(file.fileno(), seal, ContentId(content), span, size, slots.scratch(), 0)
                return None if read is None else bytes(read)

            assert opened(CONTENT, SIZE) == block(index)[start:stop]
            assert opened(CONTENT + 1, SIZE) is None
            assert opened(CONTENT, SIZE, BlockSeal(bytes(range(32)), b"other")) is None
            if stop < length:
                assert opened(CONTENT, span.stop) is None, "of a block of another length"
            # In a hole, and where the file ends before.
            os.pwrite(file.fileno(), bytes(HEADER_SIZE), index * SLOT_SIZE)
            assert opened(CONTENT, SIZE) is None
            os.ftruncate(file.fileno(), index * SLOT_SIZE + HEADER_SIZE)
            assert opened(CONTENT, SIZE) is None


def test_a_slot_of_another_length_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    write_slots(path, CONTENT, 3 * BLOCK_SIZE - 10, [2])
    got = read(path, range(2, 3))
    assert got == slots.Slots([None], 1)


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[:50_000], offset))
    write_slots(tmp_path / "slots", CONTENT, SIZE, [0, 1, 2])
    assert read(tmp_path / "slots", range(3)).blocks == [block(0), block(1), block(2)]


def file_system_of(path: Path) -> str:
    return subprocess.check_output(["stat", "-f", "-c", "%T", path], text=True, timeout=10).strip()


def test_what_lies_in_memory(tmp_path: Path) -> None:
    for folder in (tmp_path, Path("/dev/shm")):
        with tempfile.TemporaryFile(dir=folder) as file:
            assert slots.lies_in_memory(file.fileno()) == (file_system_of(folder) == "tmpfs")


def test_the_page_cache_answers_on_the_loop_or_says_that_it_cannot() -> None:
    assert slots.NOWAIT is not None
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:    # tmp_path may lie in memory
        path = Path(folder) / "slots"
        write_slots(path, CONTENT, SIZE, [0, 1, 2])
        descriptor = os.open(path, os.O_RDONLY)
    try:
        got = slots.read_cached(descriptor, SEAL, CONTENT, range(1, 3), SIZE, slots.scratch(), slots.NOWAIT)
        beyond = slots.read_cached(descriptor, SEAL, CONTENT, range(2, 4), SIZE, slots.scratch(), slots.NOWAIT)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("this file system cannot tell")
    finally:
        os.close(descriptor)
    assert got is None or got.blocks == [block(1), block(2)]
    assert beyond is None, "a file that is shorter is for the thread to judge"


def test_prepare_empties_slots_that_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    write_slots(path, CONTENT, SIZE, [0, 1, 2, 19, 20])
    taken, needs = slots.prepare(path, frozenset({0, 2}), tmp_path)  # type: ignore[arg-type]
    assert read(path, range(21)).blocks == [block(0), None, block(2), *[None] * 18]
    assert read(path, range(21)).damaged == 0
    assert taken >= 2 * SLOT_SIZE
    assert needs == 0


def test_moving_in_from_another_file_system_copies_sparsely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "ab" / "target"
    write_slots(source, CONTENT, SIZE, [2, 20])
    rename = Path.replace

    def replace(path: Path, to: Path) -> Path:
        if path == source:
            raise OSError(errno.EXDEV, "another file system")
        return rename(path, to)

    monkeypatch.setattr(Path, "replace", replace)
    slots.move_in(source, target)
    assert not source.exists()
    assert read(target, range(21)).blocks == [*[None] * 2, block(2), *[None] * 17, block(20)]
    assert target.stat().st_blocks * 512 < 6 * SLOT_SIZE, "holes stay holes"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "ab" / "target"
    write_slots(source, CONTENT, SIZE, [2])

    def replace(path: Path, to: Path) -> Path:
        raise OSError(errno.EXDEV, "another file system")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        slots.move_in(source, target)
    assert source.exists()
    assert list(target.parent.iterdir()) == []


def test_scan_finds_contents_in_order_of_use_and_cleans_up(tmp_path: Path) -> None:
    for content, when in ((1, 30), (2, 10), (3, 20)):
        path = slots.path_of(tmp_path, ContentId(content))
        write_slots(path, content, 1000, [0])
        slots.touch({path: when * 10**9})
    unfinished = slots.path_of(tmp_path, ContentId(1)).with_name(f"{1:016x}{slots.NEW_SUFFIX}")
    unfinished.write_bytes(b"half")
    (tmp_path / "CACHEDIR.TAG").write_bytes(b"")
    (tmp_path / "01" / "README").write_bytes(b"not ours")
    misplaced = tmp_path / "02" / slots.path_of(tmp_path, ContentId(1)).name
    misplaced.write_bytes(b"in the wrong folder")
    found = slots.scan(tmp_path)
    assert [content for content, _ in found] == [2, 3, 1]
    assert all(taken >= 1000 for _, taken in found)
    assert not unfinished.exists()
    assert misplaced.exists()
    assert (tmp_path / "01" / "README").exists()


def test_scan_makes_the_directory_for_nobody_else(tmp_path: Path) -> None:
    assert slots.scan(tmp_path / "a" / "b") == []
    assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0


@given(st.integers(1, 2**64 - 1).map(ContentId))
def test_names_are_ids(content: ContentId) -> None:
    assert slots.content_of(slots.path_of(Path("x"), content).name) == content


@pytest.mark.parametrize(
    "name",
    [
        *("", "1", "1.2", f"{1:016x}", f"{1:016x}.3", f"{1:016x}.new", f"{1:016x}.2.2"),
        *("0x00000000000001.2", "000000000000000G.2", "00000000000000AB.2"),
    ],
)
def test_other_names_are_not_ours(name: str) -> None:
    assert slots.content_of(name) is None


@given(st.sets(st.integers(0, 20), min_size=1))
def test_files_take_no_more_than_they_are_charged(blocks: set[int]) -> None:
    charged = sum(slots.slot_charge(index, len(block(index))) for index in blocks)
    really = set[int]()
    for index in blocks:
        start, stop = index * SLOT_SIZE, index * SLOT_SIZE + sealed_size(len(block(index)))
        really |= set(range(start // slots.PAGE, -(-stop // slots.PAGE)))
    assert len(really) * slots.PAGE <= charged


@pytest.mark.parametrize("where", ["/dev/shm", None])
def test_a_read_that_does_not_wait(where: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_AT_ONCE", {})
    with tempfile.TemporaryFile(dir=where) as file:
        file.write(b"0123456789")
        file.flush()
        slots.read_at_once(file.fileno(), 4, 2)  # may find out that this file system refuses to tell
        if slots._AT_ONCE.get(os.fstat(file.fileno()).st_dev, 0) is None:
            pytest.skip("this file system refuses to tell")
        found = [slots.read_at_once(file.fileno(), 4, at) for at in (2, 8, 10)]
        assert [None if data is None else bytes(data) for data in found] == [b"2345", b"89", b""]


@pytest.mark.parametrize(
    ("error", "asked"), [(errno.EAGAIN, 3), (errno.EOPNOTSUPP, 1)], ids=["it would wait", "nobody can tell"]
)
def test_a_read_that_would_wait_is_not_made(error: int, asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def preadv(descriptor: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
        calls.append(flags)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(slots, "_AT_ONCE", {})
    monkeypatch.setattr(slots, "lies_in_memory", lambda descriptor: False)
    monkeypatch.setattr(os, "preadv", preadv)
    with tempfile.TemporaryFile() as file:
        assert [slots.read_at_once(file.fileno(), 4, 0) for _ in range(3)] == [None] * 3
    assert calls == [slots.NOWAIT] * asked


def test_a_read_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def preadv(descriptor: int, buffers: list[bytearray], offset: int, flags: int = 0) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", preadv)
    with tempfile.TemporaryFile() as file, pytest.raises(OSError, match=os.strerror(errno.EIO)):
        slots.read_at_once(file.fileno(), 4, 0)
