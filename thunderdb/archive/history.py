"""A timeline's history file as the archive has it: what wal/timeline.py writes, and whose it is.

    # system <16 hex digits>
    # owner <32 hex digits>
    <a line for each ancestor>

H1. It is claimed by create-if-absent, for every timeline, the first one too: whoever's name is in it writes that timeline.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from thunderdb.wal.timeline import Fork, format_history, parse_history

_SYSTEM = re.compile(r"^# system ([0-9a-f]{16})$", re.MULTILINE)
_OWNER = re.compile(r"^# owner ([0-9a-f]{32})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class History:
    """`system_id` and `owner` are None in a history file that does not say."""

    forks: tuple[Fork, ...]
    system_id: int | None
    owner: str | None


def format_claim(forks: tuple[Fork, ...], system_id: int, owner: str) -> str:
    return f"# system {system_id:016x}\n# owner {owner}\n{format_history(forks)}"


def parse_claim(text: str, timeline: int) -> History:
    """Raises: Corruption, naming the file and the line."""
    system, owner = _SYSTEM.search(text), _OWNER.search(text)
    return History(parse_history(text, timeline), int(system[1], 16) if system else None, owner[1] if owner else None)
