"""The Disk port: the same behaviour from memory, from the machine and from the simulator."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Any

import pytest

from thunderdb.base.errors import DiskFull, Refused, StorageError, SyncFailed
from thunderdb.runtime import real_disk


def test_a_new_file_is_empty_and_grows_by_writes(world: Any) -> None:
    async def main(ports: Any) -> Any:
        file = await ports.disk.open(f"{world.dir}/f", create=True)
        sizes = [await file.size()]
        await file.write(0, b"abc")
        sizes.append(await file.size())
        await file.write(10_000, bytearray(b"xyz"))
        sizes.append(await file.size())
        return sizes, await file.read(0, 20_000)

    sizes, data = world.run(main)
    assert sizes == [0, 3, 10_003]
    assert data == b"abc" + bytes(9_997) + b"xyz"


@pytest.mark.parametrize("offset,size", [(0, 0), (0, 5), (4090, 20), (4096, 4096), (8000, 500), (8190, 100), (9000, 10)])
def test_reads_return_what_was_written_up_to_the_end(world: Any, offset: int, size: int) -> None:
    content = bytes(range(256)) * 33

    async def main(ports: Any) -> Any:
        file = await ports.disk.open(f"{world.dir}/f", create=True)
        await file.write(0, content)
        return await file.read(offset, size)

    data = world.run(main)
    assert isinstance(data, bytes)
    assert data == content[offset : offset + size]


@pytest.mark.parametrize("offset,size", [(0, 0), (0, 5), (4090, 20), (8190, 100), (9000, 10), (0, 40_000), (0, 2 << 20)])
def test_a_read_without_waiting_returns_what_a_read_returns_or_nothing(world: Any, offset: int, size: int) -> None:
    content = bytes(range(256)) * 33

    async def main(ports: Any) -> Any:
        file = await ports.disk.open(f"{world.dir}/f", create=True)
        await file.write(0, content)
        tries = [file.read_now(offset, size) for _ in range(20)]
        await file.close()
        with pytest.raises(ValueError, match="closed"):
            for _ in range(20):
                file.read_now(0, 10)
        return tries

    for data in world.run(main):
        assert data is None or (isinstance(data, bytes) and data == content[offset : offset + size])


def test_overlapping_writes_and_large_ones(world: Any) -> None:
    async def main(ports: Any) -> Any:
        file = await ports.disk.open(f"{world.dir}/f", create=True)
        model = bytearray()
        for offset, size in [(0, 700_000), (4095, 2), (100, 9000), (8192, 4096), (699_999, 5), (1, 1)]:
            data = bytes([offset % 251 + 1]) * size
            await file.write(offset, memoryview(data))
            model.extend(bytes(max(0, offset + size - len(model))))
            model[offset : offset + size] = data
        return bytes(model), await file.read(0, 1 << 20)

    model, data = world.run(main)
    assert data == model


def test_a_write_does_not_keep_the_buffer_it_was_given(world: Any) -> None:
    async def main(ports: Any) -> Any:
        file = await ports.disk.open(f"{world.dir}/f", create=True)
        buffer = bytearray(b"before")
        await file.write(0, buffer)
        buffer[:] = b"after!"
        await file.sync()
        return await file.read(0, 10)

    assert world.run(main) == b"before"


def test_allocated_room_reads_as_zeros_and_what_was_there_stays(world: Any) -> None:
    async def main(ports: Any) -> Any:
        file = await ports.disk.open(f"{world.dir}/f", create=True)
        await file.write(0, b"x" * 100)
        await file.allocate(9000)
        await file.allocate(50)
        return await file.size(), await file.read(0, 200)

    assert world.run(main) == (9000, b"x" * 100 + bytes(100))


def test_truncate_shrinks_and_growth_shows_zeros(world: Any) -> None:
    async def main(ports: Any) -> Any:
        file = await ports.disk.open(f"{world.dir}/f", create=True)
        await file.write(0, b"x" * 10_000)
        await file.truncate(5000)
        small = await file.size()
        await file.truncate(9000)
        await file.write(9500, b"y")
        return small, await file.read(0, 20_000)

    small, data = world.run(main)
    assert small == 5000
    assert data == b"x" * 5000 + bytes(4500) + b"y"


def test_two_handles_see_the_same_bytes(world: Any) -> None:
    async def main(ports: Any) -> Any:
        one = await ports.disk.open(f"{world.dir}/f", create=True)
        two = await ports.disk.open(f"{world.dir}/f", writable=False)
        await one.write(0, b"hello")
        await one.sync()
        seen = await two.read(0, 10)
        await one.close()
        return seen, await two.read(1, 3), await ports.disk.read_file(f"{world.dir}/f")

    assert world.run(main) == (b"hello", b"ell", b"hello")


def test_missing_and_existing_names_are_told_apart(world: Any) -> None:
    async def main(ports: Any) -> None:
        disk = ports.disk
        with pytest.raises(FileNotFoundError):
            await disk.open(f"{world.dir}/none")
        with pytest.raises(FileNotFoundError):
            await disk.open(f"{world.dir}/no/such/dir", create=True)
        with pytest.raises(FileNotFoundError):
            await disk.read_file(f"{world.dir}/none")
        with pytest.raises(FileNotFoundError):
            await disk.list(f"{world.dir}/none")
        with pytest.raises(FileNotFoundError):
            await disk.unlink(f"{world.dir}/none")
        with pytest.raises(FileNotFoundError):
            await disk.rename(f"{world.dir}/none", f"{world.dir}/other")
        await (await disk.open(f"{world.dir}/f", create=True, exclusive=True)).close()
        with pytest.raises(FileExistsError):
            await disk.open(f"{world.dir}/f", create=True, exclusive=True)
        assert await disk.exists(f"{world.dir}/f")
        assert not await disk.exists(f"{world.dir}/none")
        assert await disk.is_dir(world.dir)
        assert not await disk.is_dir(f"{world.dir}/f")

    world.run(main)


def test_a_directory_cannot_be_opened_for_writing(world: Any) -> None:
    async def main(ports: Any) -> None:
        with pytest.raises(StorageError):
            await ports.disk.open(world.dir, create=True)

    world.run(main)


def test_directories_are_made_with_their_parents_and_listed_in_order(world: Any) -> None:
    async def main(ports: Any) -> Any:
        disk = ports.disk
        await disk.make_dirs(f"{world.dir}/b/c")
        await disk.make_dirs(f"{world.dir}/b/c")
        for name in ("z", "a", "m"):
            await (await disk.open(f"{world.dir}/{name}", create=True)).close()
        await disk.sync_dir(world.dir)
        return await disk.list(world.dir), await disk.list(f"{world.dir}/b"), await disk.list(f"{world.dir}/b/c")

    assert world.run(main) == (["a", "b", "m", "z"], ["c"], [])


def test_rename_replaces_and_open_handles_follow_the_file(world: Any) -> None:
    async def main(ports: Any) -> Any:
        disk = ports.disk
        old = await disk.open(f"{world.dir}/old", create=True)
        new = await disk.open(f"{world.dir}/new", create=True)
        await old.write(0, b"old")
        await new.write(0, b"replaced")
        await disk.rename(f"{world.dir}/old", f"{world.dir}/new")
        await old.write(3, b"er")
        await old.sync()
        return await disk.list(world.dir), await disk.read_file(f"{world.dir}/new")

    assert world.run(main) == (["new"], b"older")


def test_a_directory_is_renamed_with_its_content(world: Any) -> None:
    async def main(ports: Any) -> Any:
        disk = ports.disk
        await disk.make_dirs(f"{world.dir}/tmp/deep")
        file = await disk.open(f"{world.dir}/tmp/deep/f", create=True)
        await file.write(0, b"1")
        await file.close()
        await disk.rename(f"{world.dir}/tmp", f"{world.dir}/final")
        return await disk.list(world.dir), await disk.read_file(f"{world.dir}/final/deep/f")

    assert world.run(main) == (["final"], b"1")


def test_an_unlinked_file_lives_until_it_is_closed(world: Any) -> None:
    async def main(ports: Any) -> Any:
        disk = ports.disk
        file = await disk.open(f"{world.dir}/f", create=True)
        await file.write(0, b"still here")
        await disk.unlink(f"{world.dir}/f")
        await disk.sync_dir(world.dir)
        data = await file.read(0, 100)
        await file.write(0, b"S")
        await file.sync()
        await file.close()
        return data, await disk.list(world.dir)

    assert world.run(main) == (b"still here", [])


def test_a_read_only_handle_does_not_write(world: Any) -> None:
    async def main(ports: Any) -> None:
        await (await ports.disk.open(f"{world.dir}/f", create=True)).close()
        file = await ports.disk.open(f"{world.dir}/f", writable=False)
        with pytest.raises((PermissionError, StorageError)):
            await file.write(0, b"x")

    world.run(main)


def test_a_closed_file_is_closed_and_closing_twice_is_fine(world: Any) -> None:
    async def main(ports: Any) -> None:
        file = await ports.disk.open(f"{world.dir}/f", create=True)
        await file.close()
        await file.close()
        with pytest.raises(ValueError):
            await file.read(0, 1)

    world.run(main)


def test_close_waits_for_a_sync_under_way(world: Any) -> None:
    async def main(ports: Any) -> Any:
        file = await ports.disk.open(f"{world.dir}/f", create=True)
        await file.write(0, b"x" * 100_000)
        syncing = ports.tasks.spawn(file.sync())
        await file.close()
        await syncing
        return syncing.error()

    assert world.run(main) is None


def test_a_lock_excludes_until_released(world: Any) -> None:
    async def main(ports: Any) -> None:
        lock = await ports.disk.lock(f"{world.dir}/lock")
        with pytest.raises(Refused) as refused:
            await ports.disk.lock(f"{world.dir}/lock")
        assert "lock" in str(refused.value) and refused.value.hint
        await lock.release()
        await (await ports.disk.lock(f"{world.dir}/lock")).release()

    world.run(main)


def test_a_lock_outlives_its_file_and_a_directory_is_locked_without_one(world: Any) -> None:
    """Whoever removes a "stale" lock file would let a second database in."""

    async def main(ports: Any) -> None:
        lock = await ports.disk.lock(f"{world.dir}/lock")
        await ports.disk.unlink(f"{world.dir}/lock")
        for path in (f"{world.dir}/lock", world.dir):
            with pytest.raises(Refused):
                await ports.disk.lock(path)
        await lock.release()
        await ports.disk.make_dirs(f"{world.dir}/wal")
        lock = await ports.disk.lock(f"{world.dir}/wal")
        assert await ports.disk.list(f"{world.dir}/wal") == []
        with pytest.raises(Refused):
            await ports.disk.lock(f"{world.dir}/wal/lock")
        await lock.release()

    world.run(main)


def test_free_space_is_told(world: Any) -> None:
    async def main(ports: Any) -> int:
        free: int = await ports.disk.free_bytes(world.dir)
        return free

    assert world.run(main) > 0


def test_many_syncs_at_once(world: Any) -> None:
    async def main(ports: Any) -> Any:
        files = [await ports.disk.open(f"{world.dir}/{number}", create=True) for number in range(10)]
        for file in files:
            await file.write(0, b"x" * 5000)
        for task in [ports.tasks.spawn(file.sync()) for file in files for _ in range(3)]:
            await task
        await ports.disk.sync_dir(world.dir)
        return [await file.size() for file in files]

    assert world.run(main) == [5000] * 10


def test_modes_are_private(machine: Any) -> None:
    async def main(ports: Any) -> None:
        await ports.disk.make_dirs(f"{machine.dir}/d")
        await (await ports.disk.open(f"{machine.dir}/d/f", create=True)).close()

    machine.run(main)
    assert stat.S_IMODE(os.stat(f"{machine.dir}/d").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(f"{machine.dir}/d/f").st_mode) == 0o600


def test_close_waits_for_a_sync_that_no_thread_has_begun(machine: Any) -> None:
    async def main(ports: Any) -> Any:
        file = await ports.disk.open(f"{machine.dir}/f", create=True)
        busy = [ports.disk.threads.submit(time.sleep, 0.05) for _ in range(8)]
        syncing = ports.tasks.spawn(file.sync())
        await file.close()
        for future in busy:
            await future
        return syncing.done(), syncing.error()

    assert machine.run(main) == (True, None)


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_no_space_is_disk_full_and_names_the_file(machine: Any, size: int) -> None:
    async def main(ports: Any) -> None:
        file = await ports.disk.open("/dev/full")
        with pytest.raises(DiskFull, match="/dev/full") as caught:
            await file.write(0, bytes(size))
        assert caught.value.hint

    machine.run(main)


def test_a_sync_that_the_system_refuses_is_sync_failed(machine: Any) -> None:
    async def main(ports: Any) -> None:
        file = await ports.disk.open("/dev/null")
        with pytest.raises(SyncFailed, match="/dev/null"):
            await file.sync()

    machine.run(main)


def test_the_lock_names_the_process_that_holds_it(machine: Any) -> None:
    async def main(ports: Any) -> None:
        await ports.disk.lock(f"{machine.dir}/lock")
        with pytest.raises(Refused, match=str(os.getpid())):
            await ports.disk.lock(f"{machine.dir}/lock")

    machine.run(main)


def test_a_link_is_replaced_whatever_a_killed_process_of_the_same_number_left(machine: Any) -> None:
    os.symlink("nowhere", f"{machine.dir}/latest.{os.getpid()}.tmp")

    async def main(ports: Any) -> None:
        await ports.disk.symlink("one", f"{machine.dir}/latest")
        await ports.disk.symlink("two", f"{machine.dir}/latest")

    machine.run(main)
    assert os.readlink(f"{machine.dir}/latest") == "two"
    assert sorted(os.listdir(machine.dir)) == ["latest"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_file_system_without_hard_links_renames_without_replacing(
    machine: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As CIFS, exFAT and FAT answer."""

    def link(_old: str, new: str) -> None:
        raise OSError(code, os.strerror(code), new)

    monkeypatch.setattr(os, "link", link)

    async def main(ports: Any) -> None:
        for name in ("a", "b"):
            file = await ports.disk.open(f"{machine.dir}/{name}", create=True)
            await file.write(0, name.encode())
            await file.close()
        await ports.disk.rename_new(f"{machine.dir}/a", f"{machine.dir}/new")
        with pytest.raises(FileExistsError):
            await ports.disk.rename_new(f"{machine.dir}/b", f"{machine.dir}/new")
        assert await ports.disk.read_file(f"{machine.dir}/new") == b"a"
        assert await ports.disk.list(machine.dir) == ["b", "new"]
        with pytest.raises(FileNotFoundError):
            await ports.disk.rename_new(f"{machine.dir}/none", f"{machine.dir}/newer")

    machine.run(main)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_what_cannot_be_looked_at_is_not_taken_for_missing(machine: Any, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A network mount that does not answer: an archive there would look empty."""

    def fail(path: str, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), path)

    async def main(ports: Any) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", fail)
            patched.setattr(os, "lstat", fail)
            with pytest.raises(StorageError, match="inspect"):
                await ports.disk.is_dir(machine.dir)
            with pytest.raises(StorageError, match="inspect"):
                await ports.disk.exists(machine.dir)
        os.symlink("loop", f"{machine.dir}/loop")
        for name in ("none/x", "loop", "x" * 300, "nul\0"):
            assert not await ports.disk.is_dir(f"{machine.dir}/{name}")
        assert not await ports.disk.exists(f"{machine.dir}/none/x") and await ports.disk.exists(f"{machine.dir}/loop")

    machine.run(main)


def test_a_read_that_fails_keeps_no_descriptor(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archiver tries a damaged segment again every minute, for days."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def main(ports: Any) -> int:
        path = f"{machine.dir}/f"
        await (await ports.disk.open(path, create=True)).close()
        with monkeypatch.context() as patched:
            patched.setattr(os, "preadv", fail)
            patched.setattr(os, "pread", fail)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(5):
                with pytest.raises(StorageError, match="Input/output"):
                    await ports.disk.read_file(path)
        return len(os.listdir("/proc/self/fd")) - before

    assert machine.run(main) == 0


def test_a_file_system_that_cannot_create_without_replacing_is_named(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(real_disk, "_rename_noreplace", refuse)

    async def main(ports: Any) -> None:
        await (await ports.disk.open(f"{machine.dir}/a", create=True)).close()
        with pytest.raises(StorageError, match="neither hard links nor") as caught:
            await ports.disk.rename_new(f"{machine.dir}/a", f"{machine.dir}/new")
        assert "wal_archive_command" in caught.value.hint
        assert await ports.disk.list(machine.dir) == ["a"]

    machine.run(main)


def test_reads_past_the_cache_go_through_a_thread(machine: Any) -> None:
    """RWF_NOWAIT says no for what is not cached: drop the file from the cache, then read it."""

    async def main(ports: Any) -> Any:
        path = f"{machine.dir}/f"
        file = await ports.disk.open(path, create=True)
        await file.write(0, b"cold" * 50_000)
        await file.sync()
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        first = await file.read(100_000, 4)
        ports.disk.nowait_reads = False
        return first, await file.read(199_996, 100)

    assert machine.run(main) == (b"cold", b"cold")
