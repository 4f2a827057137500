"""What the objects of an archive are called.

    <24 hex>[.zst][.enc]              a closed segment: timeline (8 digits), number (16)
    <24 hex>.partial[.zst][.enc]      the open segment's beginning
    <8 hex>.history                   a timeline: where it comes from, whose it is (wal/timeline.py)
    complete.<8 hex>.json             up to when a timeline is complete in the archive

N1. The suffixes say how an object is stored, so that an archive may be written with one configuration and read with another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from thunderdb.wal.segment import segment_name

PARTIAL = ".partial"
COMPRESSED = ".zst"
ENCRYPTED = ".enc"

_OBJECT = re.compile(r"([0-9A-F]{8})([0-9A-F]{16})(\.partial)?(\.zst)?(\.enc)?")
_COMPLETE = re.compile(r"complete\.([0-9A-F]{8})\.json")


@dataclass(frozen=True, slots=True)
class ObjectName:
    """A parsed name of a segment in the archive."""

    timeline: int
    number: int
    partial: bool
    compressed: bool
    encrypted: bool


def object_name(name: str, compressed: bool = False, encrypted: bool = False) -> str:
    """The key under which the file `name` is stored."""
    return name + (COMPRESSED if compressed else "") + (ENCRYPTED if encrypted else "")


def partial_name(timeline: int, number: int) -> str:
    return segment_name(timeline, number) + PARTIAL


def parse_object_name(key: str) -> ObjectName | None:
    """What segment an object is; None if it is none."""
    match = _OBJECT.fullmatch(key)
    if match is None:
        return None
    return ObjectName(int(match[1], 16), int(match[2], 16), match[3] is not None, match[4] is not None, match[5] is not None)


def plain_name(key: str) -> str:
    """The key without what says how it is stored: the file's own name."""
    return key.removesuffix(ENCRYPTED).removesuffix(COMPRESSED)


def complete_name(timeline: int) -> str:
    return f"complete.{timeline:08X}.json"


def parse_complete_name(key: str) -> int | None:
    match = _COMPLETE.fullmatch(key)
    return None if match is None else int(match[1], 16)
