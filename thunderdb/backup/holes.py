"""Zeros in a plain backup: in a directory they become holes, and the manifest says where they are (pages.G4)."""

from __future__ import annotations

HOLE_BYTES = 256 << 10
"""From how many zeros on nothing is written."""
_LOOK = 4096
_ZEROS = bytes(_LOOK)


def all_zeros(data: bytes | memoryview) -> bool:
    """Whether there is nothing else. What is not zeros is mostly seen at its first bytes."""
    return data[:_LOOK] == _ZEROS[: len(data)] and data == bytes(len(data))
