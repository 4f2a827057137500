"""The files of written LSNs: alternation, damage, other databases."""

from __future__ import annotations

from array import array
from typing import Any

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
