"""Sealed objects: what comes back, what is noticed, and that no secret shows."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from thunderdb.archive import cipher as module
from thunderdb.archive.cipher import CHUNK_BYTES, SEALED_CHUNK, SEALED_HEADER, AesGcmCipher, load_cipher, sealed_size
from thunderdb.base.config import Config
from thunderdb.base.errors import ConfigError, Corruption, InvariantViolated, Refused, ThunderError
from thunderdb.runtime.inline import InlineRandom, InlineWorld

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))


def cipher(key: bytes = KEY, seed: int = 1) -> AesGcmCipher:
    return AesGcmCipher(key, InlineRandom(seed).bits)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Objects of many chunks without megabytes."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 16)
    return 16


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 32, 100])
def test_what_was_sealed_is_opened(size: int, small_chunks: int) -> None:
    raw = bytes(range(size))
    sealed = cipher().seal(raw, "x")
    assert len(sealed) == sealed_size(size)
    assert size < 8 or raw not in sealed
    assert cipher(seed=2).open(sealed, "x") == raw


def test_an_object_of_the_real_chunk_size() -> None:
    raw = bytes(CHUNK_BYTES) + b"end"
    sealed = cipher().seal(raw, "x")
    assert len(sealed) == sealed_size(len(raw)) == SEALED_HEADER.size + len(raw) + 2 * (SEALED_CHUNK.size + 16)
    assert cipher().open(sealed, "x") == raw


def test_the_same_bytes_are_never_sealed_the_same_way_twice() -> None:
    one = cipher()
    first, second = one.seal(b"secret", "x"), one.seal(b"secret", "x")
    assert first[SEALED_HEADER.size :] != second[SEALED_HEADER.size :]


@pytest.mark.parametrize("step", [1, 7, 48, 1000])
def test_a_stream_in_pieces_of_any_size(step: int, small_chunks: int) -> None:
    sealer = cipher().sealer("x")
    sealed = sealer.chunk(b"one") + sealer.chunk(b"two") + sealer.chunk(b"", last=True)
    opener = cipher().opener("x")
    raw: list[bytes] = []
    for at in range(0, len(sealed), step):
        raw += opener.feed(sealed[at : at + step])
    opener.end()
    assert raw == [b"one", b"two", b""]
    with pytest.raises(InvariantViolated):
        sealer.chunk(b"more")


def test_every_flipped_bit_is_noticed(small_chunks: int) -> None:
    sealed = cipher().seal(bytes(40), "wal/7")
    for at in range(len(sealed)):
        for bit in (1, 128):
            damaged = bytearray(sealed)
            damaged[at] ^= bit
            with pytest.raises(Corruption, match="wal/7"):
                cipher().open(bytes(damaged), "wal/7")


def test_every_cut_is_noticed(small_chunks: int) -> None:
    sealed = cipher().seal(bytes(40), "wal/7")
    for size in range(len(sealed)):
        with pytest.raises(Corruption, match="wal/7"):
            cipher().open(sealed[:size], "wal/7")
    with pytest.raises(Corruption, match="behind its last chunk|no chunk"):
        cipher().open(sealed + b"\0", "wal/7")


def chunks_of(sealed: bytes) -> list[bytes]:
    found, at = [], SEALED_HEADER.size
    while at < len(sealed):
        size, _ = SEALED_CHUNK.unpack_from(sealed, at)
        found.append(sealed[at : at + SEALED_CHUNK.size + size])
        at += SEALED_CHUNK.size + size
    return found


def test_chunks_cannot_be_moved_dropped_repeated_or_taken_from_elsewhere(small_chunks: int) -> None:
    one = cipher()
    sealed, other = one.seal(bytes(48), "x"), one.seal(bytes(48), "x")
    header, (a, b, c) = sealed[: SEALED_HEADER.size], chunks_of(sealed)
    assert one.open(header + a + b + c, "x") == bytes(48)
    as_last = SEALED_CHUNK.pack(SEALED_CHUNK.unpack_from(b)[0], 1) + b[SEALED_CHUNK.size :]
    for chunks in ([b, a, c], [a, c], [a, a, c], [a, b], [a, as_last], [a, b, b, c], [chunks_of(other)[0], b, c]):
        with pytest.raises(Corruption):
            one.open(header + b"".join(chunks), "x")


def test_an_object_cannot_stand_in_for_another() -> None:
    sealed = cipher().seal(b"log", "wal/7")
    with pytest.raises(Corruption, match="not under this name"):
        cipher().open(sealed, "wal/8")


def test_a_wrong_key_is_named_before_anything_is_decoded() -> None:
    sealed = cipher().seal(b"log", "wal/7")
    mine, theirs = cipher(OTHER).key_id, cipher().key_id
    with pytest.raises(Refused, match=f"wrong key: wal/7 is sealed with key {theirs}, and the configured key is {mine}"):
        cipher(OTHER).opener("wal/7").feed(sealed[: SEALED_HEADER.size])


def test_what_is_not_sealed_or_of_a_later_format_is_said() -> None:
    with pytest.raises(Corruption, match="is not sealed"):
        cipher().open(bytes(100), "x")
    sealed = bytearray(cipher().seal(b"log", "x"))
    sealed[16] = 2
    sealed[:8] = module.xxh3_64_intdigest(bytes(sealed[8:48])).to_bytes(8, "little")
    with pytest.raises(Refused, match="format 2"):
        cipher().open(bytes(sealed), "x")


def test_the_format_does_not_drift() -> None:
    """What was sealed by an earlier version is opened for ever."""
    sealed = bytes.fromhex(
        "1412e2dc51aab74e5444427365616c0001000000000000001db1debef64931d56c576fac826886b3a5fae199620355cd"
        "170000000100000078575020b8eefd13b9544b08463ee3d95a0daf7aa63fd8"
    )
    assert cipher().open(sealed, "golden") == b"thunder"
    assert cipher().key_id == "1db1debef64931d5"


def load(key: bytes | None, mode: int = 0o600, **keys: str) -> Any:
    world = InlineWorld()
    if key is not None:
        world.disk.files["/key"] = bytearray(key)
        world.disk.modes["/key"] = mode
    return world.run(load_cipher(world, Config(**(keys or {"backup_key_file": "/key"}))))


def test_a_key_from_a_file_or_a_command() -> None:
    expected = cipher().key_id
    assert load(KEY).key_id == expected
    assert load(KEY.hex().encode() + b"\n").key_id == expected
    assert load(KEY.hex().upper().encode(), 0o400).key_id == expected
    world = InlineWorld()
    world.command.answer = (0, KEY.hex() + "\n")
    assert world.run(load_cipher(world, Config(backup_key_command="vault read key"))).key_id == expected
    assert world.command.commands == ["vault read key"]
    assert world.run(load_cipher(world, Config())) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_key_file_that_others_may_read_is_refused(mode: int) -> None:
    with pytest.raises(ConfigError, match="others than its owner"):
        load(KEY, mode)


@pytest.mark.parametrize("content", [b"", KEY[:31], KEY + b"\n", KEY.hex().encode()[:63] + b"g", b"secret" * 20])
def test_what_is_no_key_is_refused_and_not_shown(content: bytes) -> None:
    with pytest.raises(ConfigError, match="is no key") as caught:
        load(content)
    assert "secret" not in str(caught.value.args) and KEY.hex()[:20] not in str(caught.value.args)


def test_a_key_that_cannot_be_had_is_said() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(None)
    world = InlineWorld()
    world.command.answer = (3, "the secret is abcdef")
    with pytest.raises(ConfigError, match="backup_key_command failed with exit status 3") as caught:
        world.run(load_cipher(world, Config(backup_key_command="print-secret hunter2")))
    assert "abcdef" not in str(caught.value.args) and "hunter2" not in str(caught.value.args)


def test_no_secret_in_repr_or_errors() -> None:
    one = cipher()
    shown = [repr(one), repr(one.sealer("x")), repr(one.opener("x"))]
    for data, name in ((b"", "x"), (one.seal(b"a", "y"), "x"), (cipher(OTHER).seal(b"a", "x"), "x")):
        with pytest.raises(ThunderError) as caught:
            one.open(data, name)
        shown.append(repr(caught.value.args))
    for text in shown:
        assert KEY.hex() not in text and repr(KEY)[2:20] not in text


def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(ConfigError, match="cryptography") as caught:
        cipher()
    assert "thunderdb[encryption]" in caught.value.hint
