"""A leaf whose entries lie in its image: read, changed within their sizes, written, taken apart."""

from __future__ import annotations

import random
import sys

import pytest

from thunderdb.access.apply import put_value
from thunderdb.base.errors import InvariantViolated
from thunderdb.storage.frozen import PATCH_LIMIT, Slices, locate
from thunderdb.storage.page import (
    Page,
    PageKind,
    copy_page,
    decode_page,
    decoded_size,
    encode_page,
    freeze,
    leaf_entry_size,
    new_page,
    patch,
    thaw,
    used_size,
)

SIZE = 4096
Model = list[tuple[bytes, bytes]]


def frozen(model: Model, size: int = SIZE) -> Page:
    page = Page(7, PageKind.LEAF, tree=3)
    page.page_lsn = 1000
    for key, val in model:
        page.keys.append(key)
        page.vals.append(val)
        page.used += leaf_entry_size(key, val)
    again = decode_page(encode_page(page, size), 7, size)
    assert type(again.keys) is Slices and type(again.vals) is Slices
    return again


def same_sizes(count: int = 20) -> Model:
    return [(b"%06d" % number, b"value %04d" % number) for number in range(count)]


def other_sizes(count: int = 20) -> Model:
    return [(b"k" * (number % 3) + b"%03d" % number, b"v" * (number * 7 % 31)) for number in range(count)]


@pytest.mark.parametrize("model", [[], same_sizes(1), same_sizes(), other_sizes()], ids=["none", "one", "same", "other"])
def test_entries_are_those_of_the_lists(model: Model) -> None:
    page = frozen(model)
    for entries, expected in ((page.keys, [key for key, _ in model]), (page.vals, [val for _, val in model])):
        assert len(entries) == len(expected) and entries == expected and list(entries) == expected
        assert repr(entries) == repr(expected)
        for _ in range(2):  # the second time a table of all places may be there
            for index in range(-len(model), len(model)):
                assert entries[index] == expected[index]
        for start, stop, step in ((0, 5, 1), (3, 3, 1), (7, 2, 1), (-4, None, 1), (None, None, 2), (None, None, -1)):
            assert entries[start:stop:step] == expected[start:stop:step]
        for index in (len(model), -len(model) - 1):
            with pytest.raises(IndexError):
                entries[index]
    assert page.keys != 5


@pytest.mark.parametrize("make", [same_sizes, other_sizes])
def test_values_change_within_their_sizes_and_the_page_stays_frozen(make: object) -> None:
    model = make()  # type: ignore[operator]
    page, rng = frozen(model), random.Random(5)
    seen = set()
    for step in range(200):
        index = rng.randrange(len(model))
        key, old = model[index]
        value = bytes(rng.randrange(256) for _ in old)
        put_value(page, index, True, key, value, 100 + step)
        model[index] = key, value
        seen.add(page.vals.image)
        assert type(page.vals) is Slices and page.max_txn == 100 + step
        assert page.vals[index] == value and page.vals.copy() == [val for _, val in model]
        assert page.vals[index:] == [val for _, val in model[index:]]
        assert page.used == used_size(page) and len(page.vals.patches or ()) <= PATCH_LIMIT
        if step % 10 == 0:
            again = decode_page(encode_page(page, SIZE), 7, SIZE)
            assert list(zip(again.keys, again.vals, strict=True)) == model and again.max_txn == page.max_txn
    assert len(seen) > 10  # patches were folded in


@pytest.mark.parametrize("model", [[], same_sizes(1), same_sizes(), other_sizes()], ids=["none", "one", "same", "other"])
def test_keys_are_found_in_either_form(model: Model) -> None:
    page = frozen(sorted(model))
    forms = [page.keys, page.keys.copy()]
    absent = [b"", b"0", b"000000x", b"zzzzzz", b"k", b"00000"]
    for keys in forms:
        assert [locate(keys, key) for key, _ in sorted(model)] == list(range(len(model)))
        assert {locate(keys, key) for key in absent} == {-1}


def test_a_key_that_also_lies_across_two_others_is_found() -> None:
    model = [(key, b"v") for key in (b"\0\0\1", b"\0\1\0", b"\0\1\1", b"\1\0\1", b"\1\1\0")]
    page = frozen(model)
    assert [locate(page.keys, key) for key, _ in model] == [0, 1, 2, 3, 4]
    assert locate(page.keys, b"\1\0\0") == -1  # it lies across the first two only


def test_another_size_takes_the_page_apart() -> None:
    page = frozen(same_sizes())
    assert not patch(page, 3, b"longer than before")
    assert patch(page, 3, b"VALUE 0003")
    put_value(page, 3, True, b"000003", b"longer than before", 1)
    assert type(page.vals) is list and page.vals[3] == b"longer than before" and page.used == used_size(page)
    put_value(page, 0, False, b"0", b"new", 1)
    assert page.keys[:2] == [b"0", b"000000"] and len(page.vals) == 21


def test_a_copy_and_a_thawed_page_have_the_patches() -> None:
    page = frozen(same_sizes())
    patch(page, 3, b"VALUE 0003")
    copy = copy_page(page)
    thaw(page)
    for other in (copy, page):
        assert type(other.vals) is list and other.vals[3] == b"VALUE 0003" and other.vals[4] == b"value 0004"
    assert encode_page(copy, SIZE) == encode_page(page, SIZE)


@pytest.mark.parametrize("make", [same_sizes, other_sizes])
def test_freezing_changes_nothing_but_the_form(make: object) -> None:
    model: Model = make()  # type: ignore[operator]
    page = frozen(model)
    older = page.vals.image
    patch(page, 3, b"X" * len(model[3][1]))
    image = encode_page(page, SIZE)
    freeze(page, image)
    assert page.vals.image == image and not page.vals.patches and page.keys.image is page.vals.image
    assert decode_page(older, 7, SIZE).vals[3] == model[3][1]  # Z1: whoever writes the older image still has it
    thaw(page)
    expected = page.keys.copy(), page.vals.copy()
    freeze(page, image)
    assert type(page.keys) is Slices and (page.keys, page.vals) == expected and encode_page(page, SIZE) == image
    inner = new_page(4, PageKind.INNER, SIZE)
    freeze(inner, encode_page(inner, SIZE))
    assert inner.keys == [] and type(inner.keys) is list


def test_a_frozen_page_that_lies_about_its_size_is_not_written() -> None:
    page = frozen(same_sizes())
    page.used += 1
    with pytest.raises(InvariantViolated, match="page 7"):
        encode_page(page, SIZE)


@pytest.mark.parametrize(("key_size", "val_size"), [(8, 129), (4, 30), (30, 300)])
def test_a_frozen_page_is_charged_what_it_takes(key_size: int, val_size: int) -> None:
    count = (16384 - 64) // (4 + key_size + val_size)
    page = frozen([(number.to_bytes(key_size, "big"), bytes(val_size)) for number in range(count)], 16384)
    parts = [page, page.keys, page.vals, page.children, page.keys.image, page.keys._sizes]
    for changes in range(3):
        real = sum((sys.getsizeof(part) + 15) // 16 * 16 + 16 for part in parts) + 4 * 32 + 5 * 16
        assert 0.97 * real <= decoded_size(page) <= 1.05 * real
        patch(page, changes, bytes([1]) * val_size)
        parts = [*parts[:6], page.vals.patches, *page.vals.patches.values()]
