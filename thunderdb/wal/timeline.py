"""Timelines: which log a log grew out of, and where it left it.

A history file, `<timeline, 8 hex digits>.history`, has one line for each ancestor, oldest first:

    timeline (decimal) TAB the LSN where its successor left it (0/1A3B4C5D) TAB why
    # checksum <16 hex digits>                  XXH3-64 over all that comes before this line; older files have none

T1. A timeline's ancestors are listed with increasing numbers and LSNs that do not decrease; the own number is above them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from xxhash import xxh3_64_hexdigest

from thunderdb.base.errors import Corruption
from thunderdb.base.ids import format_lsn, parse_lsn

_SEAL = re.compile(r"# checksum (.{16})\s*\Z", re.DOTALL)
_NAME = re.compile(r"([0-9A-F]{8})\.history")


@dataclass(frozen=True, slots=True)
class Fork:
    """One step of a history: `timeline` was left at `switch_lsn`."""

    timeline: int
    switch_lsn: int
    reason: str


def history_name(timeline: int) -> str:
    return f"{timeline:08X}.history"


def parse_history_name(name: str) -> int | None:
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1], 16)


def format_history(forks: tuple[Fork, ...]) -> str:
    return "".join(
        f"{fork.timeline}\t{format_lsn(fork.switch_lsn)}\t{' '.join(fork.reason.split())}\n" for fork in forks
    )  # fmt: skip


def seal_history(text: str) -> str:
    """A history file's text with its checksum: a digit that rots would name another place to leave a log at."""
    return f"{text}# checksum {xxh3_64_hexdigest(text.encode())}\n"


def _check_seal(text: str, timeline: int) -> None:
    """Raises: Corruption."""
    sealed = _SEAL.search(text)
    if sealed is not None and sealed[1] != xxh3_64_hexdigest(text[: sealed.start()].encode()):
        raise Corruption(f"timeline history {history_name(timeline)} is damaged: its checksum does not match")


def parse_history(text: str, timeline: int) -> tuple[Fork, ...]:
    """Read the history file of `timeline`; empty lines and lines that begin with # are passed over.

    Raises: Corruption, naming the file and the line.
    """
    _check_seal(text, timeline)
    forks: list[Fork] = []
    for index, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split("\t", 2)
        try:
            if len(parts) < 2:
                raise ValueError("too few fields")
            fork = Fork(int(parts[0]), parse_lsn(parts[1]), parts[2] if len(parts) == 3 else "")
            before = forks[-1] if forks else Fork(0, 0, "")
            if not before.timeline < fork.timeline < timeline or fork.switch_lsn < before.switch_lsn:
                raise ValueError("not in order")
        except ValueError as error:
            raise Corruption(f"timeline history {history_name(timeline)}, line {index}: {error}") from None
        forks.append(fork)
    return tuple(forks)


def timeline_at(forks: tuple[Fork, ...], timeline: int, lsn: int) -> int:
    """Return the timeline whose segments hold `lsn` in the history of `timeline`."""
    for fork in forks:
        if lsn < fork.switch_lsn:
            return fork.timeline
    return timeline
