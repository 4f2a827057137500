"""A leaf's entries as they lie in its image: searched, read and changed without taking the page apart.

    image    header, key lengths, value lengths, keys, values           (see storage/page)
    sizes    the lengths, keys first, as one array
    Slices   the keys, or the values: entry i is cut out of the image when somebody asks for it
    patches  values that have changed since: index -> value, in the place of what the image has

A page that is read, or whose rows change within their sizes, costs its image and a few bytes an entry. Whatever else is done to
it takes it apart first (`page.thaw`).

Z1. An image is never changed; a page gets another one. So an image may be read by others meanwhile (a write under way).
Z2. A patch is as long as what it replaces: sizes, and `used`, stay. At most PATCH_LIMIT of them, then they are folded in.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import overload

PATCH_LIMIT = 4

_DICT_BYTES = 232
_BYTES_SIZE = 33 + 7
_SUMS = 8
"""So many times the place of an entry is found by adding up; then a table of all places pays."""


def locate(keys: list[bytes] | Slices, key: bytes) -> int:
    """The index of `key` in a page's keys, -1 if it is not there."""
    if type(keys) is list:
        index = bisect_left(keys, key)
        return index if index < len(keys) and keys[index] == key else -1
    return keys.find(key)  # type: ignore[union-attr]


class Slices:
    """The keys or the values of a frozen leaf."""

    __slots__ = ("image", "patches", "count", "extra_bytes", "_sizes", "_first", "_start", "_width", "_ends", "_sums")

    def __init__(self, image: bytes, sizes: array[int], first: int, count: int, start: int) -> None:
        """Entries `first` to `first + count` of `sizes`; the first of them begins at image[start]."""
        self.image = image
        self.patches: dict[int, bytes] | None = None
        self.count = count
        self.extra_bytes = 0  # what it takes beside image and sizes, about
        self._sizes = sizes
        self._first = first
        self._start = start
        self._width = width = sizes[first] if count else 0  # of every entry, 0 if they differ
        if width and sizes[first : first + count] != array("H", (width,)) * count:
            self._width = 0
        self._ends: array[int] | None = None
        self._sums = 0

    @property
    def end(self) -> int:
        """Where the last entry ends in the image."""
        if self._width:
            return self._start + self._width * self.count
        return self._start + sum(self._sizes[self._first : self._first + self.count])

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return self._slice(index)
        if not 0 <= index < self.count:
            if not -self.count <= index < 0:
                raise IndexError(index)
            index += self.count
        if self.patches is not None and index in self.patches:
            return self.patches[index]
        width = self._width
        if width:
            at = self._start + index * width
            return self.image[at : at + width]
        start, end = self._place(index)
        return self.image[start:end]

    def _slice(self, index: slice) -> list[bytes]:
        start, stop, step = index.indices(self.count)
        return self._cut(start, stop) if step == 1 else self.copy()[index]

    def _place(self, index: int) -> tuple[int, int]:
        """Where an entry begins and ends in the image."""
        if self._width:
            start = self._start + index * self._width
            return start, start + self._width
        ends = self._ends
        if ends is not None:
            return ends[index], ends[index + 1]
        first = self._first
        self._sums += 1
        if self._sums > _SUMS:
            sizes = self._sizes[first : first + self.count].tolist()
            self._ends = array("H", list(accumulate(sizes, initial=self._start)))
            self.extra_bytes += self._ends_bytes()
        start = self._start + sum(self._sizes[first : first + index])
        return start, start + self._sizes[first + index]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.copy())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (list, Slices)) and self.copy() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.copy())

    def copy(self) -> list[bytes]:
        return self._cut(0, self.count)

    def _cut(self, start: int, stop: int) -> list[bytes]:
        if stop <= start:
            return []
        width, image = self._width, self.image
        if width:
            begin, end = self._start + start * width, self._start + stop * width
            found = [image[at : at + width] for at in range(begin, end, width)]
        else:
            begin = self._place(start)[0]
            sizes = self._sizes[self._first + start : self._first + stop].tolist()
            ends = list(accumulate(sizes, initial=begin))
            found = list(map(image.__getitem__, map(slice, ends, ends[1:])))
        if self.patches is not None:
            for index, value in self.patches.items():
                if start <= index < stop:
                    found[index - start] = value
        return found

    def find(self, key: bytes) -> int:
        """The index of an entry among entries in ascending order, -1 if it is not there."""
        width = self._width
        if width and self.patches is None:
            if len(key) != width:
                return -1
            at = self.image.find(key, self._start, self._start + width * self.count) - self._start
            if at < 0:
                return -1
            if at % width == 0:
                return at // width
            # The same bytes across a border of two entries: the entry itself may be further on.
        index = bisect_left(self, key)
        return index if index < self.count and self[index] == key else -1

    # -- Changing values

    def patch(self, index: int, value: bytes) -> bool:
        """Put a value in the place of one of the same size; False if it is not (Z2)."""
        size = len(value)
        if self._sizes[self._first + index] != size:
            return False
        patches = self.patches
        if patches is None:
            self.patches = {index: value}
            self.extra_bytes += _DICT_BYTES + _BYTES_SIZE + size
        else:
            if index not in patches:
                self.extra_bytes += _BYTES_SIZE + size
            patches[index] = value
        return True

    def move_to(self, image: bytes) -> None:
        """Lie in another image, with entries of the same sizes, which has the patches in it."""
        self.image = image
        self.patches = None
        self.extra_bytes = self._ends_bytes()

    def _ends_bytes(self) -> int:
        return 0 if self._ends is None else 2 * self.count + 96

    def write_patches(self, target: bytearray) -> None:
        """Put the patches where they belong in a copy of the image."""
        if self.patches is not None:
            for index, value in self.patches.items():
                start, end = self._place(index)
                target[start:end] = value
