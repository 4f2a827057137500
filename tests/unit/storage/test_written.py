"""The files of written LSNs: alternation, damage, other databases."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from thunderdb.base.errors import Corruption
from thunderdb.base.events import Events
from thunderdb.runtime.inline import InlineWorld
from thunderdb.storage.written import Saved, WrittenFile


class WrittenWorld(InlineWorld):
    def __init__(self) -> None:
        super().__init__(suspend=True)
        self.run(self.disk.make_dirs("/d"))
        self.events = Events()
        self.bad: list[str] = []
        self.events.subscribe(lambda name, fields: self.bad.append(fields["path"]))
        self.file = self.new_file()

    def new_file(self, system_id: int = 5) -> WrittenFile:
        return WrittenFile(self.disk, "/d", system_id, self.events)

    def save(self, *lsns: int) -> None:
        self.run(self.file.save(Saved(array("Q", lsns), checkpoint_lsn=100 + lsns[0] % 50)))

    def loaded(self, system_id: int = 5) -> list[int]:
        return list(self.run(self.new_file(system_id).load()).lsns)

    def loaded_checkpoint_lsn(self) -> int:
        saved: Saved = self.run(self.new_file().load())
        return saved.checkpoint_lsn

    def data(self, number: int) -> Any:
        return self.disk.files[f"/d/written.{number}"]


def test_nothing_saved_is_nothing_known() -> None:
    world = WrittenWorld()
    assert world.loaded() == []
    assert world.bad == []


def test_saves_take_turns() -> None:
    world = WrittenWorld()
    world.save(1, 2, 3)
    world.save(4, 5, 6, 7)
    first = bytes(world.data(0))
    assert world.loaded() == [4, 5, 6, 7]
    world.file = world.new_file()
    world.run(world.file.load())
    second = bytes(world.data(1))
    world.save(2**64 - 1)  # shorter than what the file had
    assert world.loaded() == [2**64 - 1]
    assert world.data(1) == second
    assert world.data(0) != first


def test_a_save_says_of_which_checkpoint_it_is() -> None:
    world = WrittenWorld()
    assert world.loaded_checkpoint_lsn() == 0
    world.save(1)
    world.save(2)
    assert world.loaded_checkpoint_lsn() == 102
    world.data(1)[-1] ^= 1
    assert world.loaded_checkpoint_lsn() == 101


def test_a_save_cut_anywhere_leaves_the_one_before() -> None:
    world = WrittenWorld()
    world.save(1, 2, 3)
    world.save(4, 5, 6)
    whole = bytes(world.data(1))
    for cut in range(len(whole)):
        world.disk.files["/d/written.1"] = bytearray(whole[:cut])
        assert world.loaded() == [1, 2, 3]
    assert world.bad == ["/d/written.1"] * len(whole)


def test_every_byte_flip_is_detected() -> None:
    world = WrittenWorld()
    world.save(1, 2, 3)
    data = world.data(0)
    for at in range(len(data)):
        data[at] ^= 1 << at % 8
        assert world.loaded() == []
        data[at] ^= 1 << at % 8
    assert world.loaded() == [1, 2, 3]


def test_another_databases_file_is_not_believed() -> None:
    world = WrittenWorld()
    world.save(1, 2, 3)
    assert world.loaded(system_id=6) == []
    assert world.bad == ["/d/written.0"]


def test_remove_forgets_both() -> None:
    world = WrittenWorld()
    world.save(1)
    world.save(2)
    world.run(world.file.remove())
    assert world.disk.files == {}
    world.save(3)
    assert world.loaded() == [3]


def test_a_save_that_the_disk_took_back_is_noticed() -> None:
    world = WrittenWorld()
    saves = [Saved(array("Q", [lsn]), checkpoint_lsn=lsn) for lsn in (0x100, 0x200, 0x300)]
    files = []
    for saved in saves:
        world.run(world.file.save(saved))
        files.append(bytes(world.data(len(files) % 2)))

    def opened(checkpoint_lsn: int) -> list[int]:
        file = world.new_file()
        saved = world.run(file.load())
        file.check(saved, checkpoint_lsn)
        return list(saved.lsns)

    assert opened(0x300) == [0x300] and opened(0x200) == [0x300], "the control file's newer slot was lost: that is no lie"
    world.disk.files["/d/written.0"] = bytearray(files[0])
    with pytest.raises(Corruption, match="is of the checkpoint at 0/200, but one was synced with that at 0/300"):
        opened(0x300)
    world.disk.files["/d/written.0"] = bytearray(b"rot")
    assert opened(0x300) == [0x200], "damaged, and passed over"
    world.disk.files.clear()
    assert opened(0x300) == [], "without any: unguarded"
