"""A restore elsewhere, a drill or a dry run, of an archive to which the database in production goes on shipping.

Found by generated incidents (seeds 25 and 369): a segment "is missing, though" it, or what came behind it, was there.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.archive.world import MemoryStore
from tests.unit.backup.restoring import ARCHIVE, RestoreWorld
from thunderdb.archive.codec import Codec
from thunderdb.archive.index import StoreSource
from thunderdb.backup.logline import Found, Gap, Line, LineReader
from thunderdb.runtime.ports import Stored

Moments = list[dict[str, bytes]]


class LiveStore(MemoryStore):
    """An archive at several moments: behind each listing comes the next one."""

    def __init__(self, moments: Moments) -> None:
        super().__init__("s3://live")
        self.moments = moments
        self.objects = moments[0]

    async def list(self, prefix: str = "") -> list[Stored]:
        found = await super().list(prefix)
        if len(self.moments) > 1:
            self.moments.pop(0)
            self.objects = self.moments[0]
        return found


def archive(world: RestoreWorld) -> dict[str, bytes]:
    world.ship()
    return {path[len(ARCHIVE) + 1 :]: bytes(data) for path, data in world.disk.files.items() if path.startswith(ARCHIVE + "/")}


def replaced_while_read(world: RestoreWorld) -> Moments:
    """The first listing has nothing of the second segment, the next one its tail, which is a closed segment when it is read."""
    world.switch()
    world.commit(1)
    tail = archive(world)
    world.switch()
    world.commit(1)
    closed = archive(world)
    return [without_tails(tail), tail, closed]


def noted_after_listing(world: RestoreWorld) -> Moments:
    """A listing has nothing of the newest segment yet; the note that is read after it knows of a commit in it."""
    world.switch()
    world.commit(1)
    noted = archive(world)
    return [without_tails(noted), without_tails(noted), noted]


def without_tails(objects: dict[str, bytes]) -> dict[str, bytes]:
    return {key: data for key, data in objects.items() if not key.endswith(".partial")}


def follow(world: RestoreWorld, sources: list[StoreSource]) -> list[int]:
    """The segments from the first one on. Fails at a gap."""
    reader = LineReader(world, sources, Line(1, ()), world.db.control.state.system_id)
    first, start_lsn = world.db.log.segments[0]

    async def all_of_them() -> list[int]:
        found: Found | Gap | None = await reader.first(start_lsn, first)
        numbers = []
        while isinstance(found, Found):
            numbers.append(found.piece.number)
            found = await reader.following(found.piece)
        assert not isinstance(found, Gap), f"{found.name} {found.detail}"
        return numbers

    return world.run(all_of_them())


@pytest.mark.parametrize("moments", [replaced_while_read, noted_after_listing])
def test_what_is_shipped_meanwhile_is_no_gap(moments: Callable[[RestoreWorld], Moments]) -> None:
    world = RestoreWorld()
    world.commit(2)
    numbers = follow(world, [StoreSource(LiveStore(moments(world)), Codec(), world.offload)])
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 2


def test_a_tail_that_comes_with_its_note_is_not_behind_the_copy_that_the_backup_has_of_it() -> None:
    """Seed 150626: the note was read after a listing that had nothing of that tail."""
    world = RestoreWorld()
    world.commit(2)
    world.switch()
    world.commit(1)
    early = archive(world)
    world.commit(1)
    noted = archive(world)
    before = {**without_tails(early), "complete.00000001.json": early["complete.00000001.json"]}
    live = LiveStore([before, without_tails(noted), noted])  # the second listing's note is of the third moment
    own = MemoryStore("backup/wal")
    own.objects = early
    sources = [StoreSource(store, Codec(), world.offload) for store in (live, own)]
    assert len(follow(world, sources)) >= 2
