"""B+trees against a dict, with every structure change; and do = redo: the log alone makes the same pages, byte by byte."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.access.treeworld import TreeWorld
from thunderdb.access.apply import GHOST
from thunderdb.access.bulk import LeafBuilder, append_all
from thunderdb.storage.page import VALUE_HEADER

KEYS = st.integers(0, 400)
SIZES = st.sampled_from([0, 10, 200, 700, 940])
PADDING = st.sampled_from([0, 30, 400])

STEP = st.one_of(
    st.tuples(st.just("put"), KEYS, SIZES, st.integers(1, 60)),
    st.tuples(st.just("delete"), KEYS, st.just(0), st.integers(1, 150)),
    st.tuples(st.just("remove"), KEYS, st.just(0), st.integers(1, 150)),
    st.tuples(st.just("restore"), KEYS, SIZES, st.integers(1, 40)),
    st.tuples(st.just("tidy"), KEYS, st.just(0), st.integers(1, 401)),
    st.tuples(st.just("horizon"), st.just(0), st.just(0), st.integers(0, 12)),
    st.tuples(st.just("checkpoint"), st.just(0), st.just(0), st.just(0)),
)


class Model:
    """A tree and the dict that it must equal: key -> (payload, is a ghost, stamp)."""

    def __init__(self, padding: int) -> None:
        self.world = TreeWorld(wal_segment_size=4 << 20)
        self.padding = padding
        self.rows: dict[bytes, tuple[bytes, bool, int]] = {}
        self.heights = {0}

    def key(self, number: int) -> bytes:
        return f"{number:06}".encode() + b"k" * self.padding

    def step(self, what: str, start: int, size: int, count: int) -> None:
        world = self.world
        if what == "horizon":
            world.owner.id = max(world.owner.id, count)
            world.purgeable_below = count
            return
        if what == "checkpoint":
            world.run(world.db.checkpoint())
            return
        for number in range(start, start + count):
            getattr(self, what)(self.key(number), bytes([number % 251]) * size)

    def put(self, key: bytes, payload: bytes) -> None:
        _lsn, old = self.world.put(key, payload)
        assert (old is None) == (key not in self.rows) or self.was_purged(key, old)
        self.rows[key] = (payload, False, self.world.owner.id)

    def was_purged(self, key: bytes, old: bytes | None) -> bool:
        """A ghost that nobody sees may have gone to make room, at any moment."""
        return old is None and self.rows[key][1] and self.rows[key][2] < self.world.purgeable_below

    def delete(self, key: bytes, _payload: bytes) -> None:
        if key in self.rows and self.world.get(key) is not None:
            self.world.delete(key)
            self.rows[key] = (self.rows[key][0], True, self.world.owner.id)

    def remove(self, key: bytes, _payload: bytes) -> None:
        if self.world.get(key) is not None:
            self.world.restore(key, None)
            del self.rows[key]

    def restore(self, key: bytes, payload: bytes) -> None:
        stamp = self.world.owner.id
        self.world.restore(key, VALUE_HEADER.pack(stamp, 1, 0) + payload)
        self.rows[key] = (payload, False, stamp)

    def tidy(self, key: bytes, _payload: bytes) -> None:
        self.world.tidy(key)

    def check(self) -> None:
        entries, pages, height = self.world.walk()
        self.heights.add(height)
        found = {key: (value[17:], bool(value[16] & GHOST), int.from_bytes(value[:8], "little")) for key, value in entries}
        lost = [key for key in self.rows.keys() - found.keys() if not self.was_purged(key, None)]
        assert lost == []
        assert found.items() <= self.rows.items()
        # Its own pages, the space map, catalog and garbage trees: nothing else was ever allocated, nothing leaks.
        assert self.world.allocated() == len(pages) + 3


@settings(max_examples=100)
@given(st.lists(STEP, min_size=3, max_size=14), PADDING)
def test_a_tree_is_a_dict_and_its_log_makes_the_same_pages(steps: list[tuple[str, int, int, int]], padding: int) -> None:
    model = Model(padding)
    for step in steps:
        model.step(*step)
        model.check()
    model.world.check_redo()


def test_growing_to_three_levels_and_shrinking_back_to_one_page() -> None:
    """The whole life of a tree, with every kind of structure change certain to happen."""
    model = Model(padding=400)
    for start in range(0, 401, 50):
        model.step("put", start, 700, 50)
    model.check()
    assert max(model.heights) >= 2
    model.world.purgeable_below = 11
    for start in range(0, 401, 50):
        model.step("delete", start, 0, 50)
        model.step("tidy", start, 0, 50)
    for start in range(401, -1, -1):
        model.step("tidy", start, 0, 1)
    entries, pages, height = model.world.walk()
    # Ghosts of a transaction that is still active stay; here it counts as ended, so all are gone and the root is a leaf.
    assert (entries, pages, height) == ([], [model.world.root], 0)
    assert model.world.allocated() == 4
    model.world.check_redo()


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 300), SIZES), max_size=400), st.sampled_from([0.3, 0.92, 1.0]), PADDING)
def test_bulk_loaded_leaves_are_the_pairs_that_came(pairs: list[tuple[int, int]], fill: float, padding: int) -> None:
    world = TreeWorld(wal_segment_size=4 << 20)
    builder = LeafBuilder(4096, 10, fill)
    expected = []
    for number, (_key, size) in enumerate(pairs):
        key, value = f"{number:06}".encode() + b"k" * padding, VALUE_HEADER.pack(10, 0, 0) + b"v" * size
        builder.add(key, value)
        expected.append((key, value))
        if number % 97 == 0:
            world.run(append_all(world.access, world.root, builder.take()))
    builder.cut()
    world.run(append_all(world.access, world.root, builder.take()))
    entries, pages, _height = world.walk()
    assert entries == expected
    assert world.allocated() == len(pages) + 3
    world.put(b"000005" + b"k" * padding, b"changed")
    world.put(b"zzz", b"at the end")
    world.walk()
    world.check_redo()
