"""A bit that rots in a small file of the archive's is noticed: each says what it said, or that it is damaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from thunderdb.archive.history import format_claim, parse_claim
from thunderdb.archive.identity import Archived, Identity, read_archived, read_identity, write_archived, write_identity
from thunderdb.archive.index import Complete, decode_complete, encode_complete
from thunderdb.base.errors import Corruption
from thunderdb.runtime.inline import InlineWorld
from thunderdb.wal.timeline import Fork, format_history, parse_history, seal_history

FORKS = (Fork(1, 0x1A3B4C, "restored to latest"), Fork(2, 0x2A3B4C, "restored to 2026-01-01"))
NOTE = Complete(0x3000_1234, 1_768_473_045_000_000, 0x44)


def flips(data: bytes) -> list[bytes]:
    return [data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for at in range(len(data)) for bit in range(8)]


def surviving(data: bytes, read: Callable[[bytes], Any]) -> list[Any]:
    """What is read of it with one bit flipped, where anything is."""
    found = []
    for flipped in flips(data):
        try:
            found.append(read(flipped))
        except Corruption:
            pass
    return found


def test_a_note_that_the_archive_is_complete() -> None:
    found = surviving(encode_complete(3, NOTE), lambda data: decode_complete(data, "complete.00000003.json"))
    assert all(one == NOTE for one in found)


@pytest.mark.parametrize("claimed", [False, True])
def test_a_timeline_s_history(claimed: bool) -> None:
    text = seal_history(format_claim(FORKS, 7, "a" * 32) if claimed else format_history(FORKS))
    found = surviving(text.encode(), lambda data: parse_claim(data.decode(errors="replace"), 3))
    assert all(one == parse_claim(text, 3) for one in found)
    assert parse_history(format_history(FORKS), 3) == FORKS  # as older versions wrote it


def test_the_identity_and_the_memory_of_the_archive() -> None:
    world = InlineWorld()
    world.run(world.disk.make_dirs("/d"))
    identity = Identity("f" * 32, True)
    archived = Archived("s3://bucket/wal", 2, 7, True, 4096, 5, 1_768_473_045_000_000)
    world.run(write_identity(world.disk, "/d", identity))
    world.run(write_archived(world.disk, "/d", archived))

    def read_with(name: str, read: Callable[..., Any]) -> Callable[[bytes], Any]:
        def reading(data: bytes) -> Any:
            world.disk.files[f"/d/{name}"] = bytearray(data)
            return world.run(read(world.disk, "/d"))

        return reading

    found = surviving(bytes(world.disk.files["/d/identity"]), read_with("identity", read_identity))
    assert all(one == identity for one in found)
    found = surviving(bytes(world.disk.files["/d/archived"]), read_with("archived", read_archived))
    assert all(one in (archived, None) for one in found)
