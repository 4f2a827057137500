"""Holds: somebody is working with backups or log, and retention must leave them alone for a while.

A hold is an object `hold.<name>.json` in the archive or where backups go:

    {"version": 1, "name": "restore-…", "expires_us": 1768473045000000, "backups": ["bk-…"], "from_segment": 56}

`backups` empty means all of them; `from_segment` is the lowest segment number that is needed, 0 for all log.

H1. A hold ends by its time, so that a restore that was killed stops nothing for ever; retention removes what is left of it.
H2. A hold that cannot be read holds everything: better too much than what somebody still needs.
"""

from __future__ import annotations

import json
import re

from thunderdb.archive.retention import Hold
from thunderdb.base.errors import Refused
from thunderdb.runtime.ports import ObjectStore

VERSION = 1
RESTORE = "restore-"
"""With a number behind it: the name of a restore's own hold."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)
_KEY = re.compile(r"hold\.([A-Za-z0-9][A-Za-z0-9_-]{0,62})\.json", re.ASCII)
_FOR_EVER_US = 253_402_300_799_000_000


def hold_key(name: str) -> str:
    """Raises: Refused for what is no name."""
    if not _NAME.fullmatch(name):
        raise Refused(f"{name!r} is not the name of a hold", "Letters, digits, - and _, 63 at most.")
    return f"hold.{name}.json"


async def place_hold(store: ObjectStore, hold: Hold) -> None:
    """Hold, or renew. Effective when: it returns, for every retention run that looks afterwards."""
    document = {
        "version": VERSION, "name": hold.name, "expires_us": hold.expires_us, "backups": list(hold.backups),
        "from_segment": hold.from_segment,
    }  # fmt: skip
    await store.put(hold_key(hold.name), json.dumps(document).encode() + b"\n")


async def lift_hold(store: ObjectStore, name: str) -> None:
    await store.delete(hold_key(name))


async def read_holds(store: ObjectStore) -> list[Hold]:
    found: list[Hold] = []
    for stored in await store.list("hold."):
        match = _KEY.fullmatch(stored.key)
        if match is None:
            continue
        try:
            found.append(decode_hold(await store.get(stored.key), match[1]))
        except FileNotFoundError:
            pass  # lifted a moment ago
    return found


async def remove_ended(store: ObjectStore, now_us: int) -> None:
    """Those of restores that were killed (H1); what somebody named goes by --release."""
    for hold in await read_holds(store):
        if hold.expires_us <= now_us and re.fullmatch(RESTORE + "[0-9]+", hold.name, re.ASCII):
            await lift_hold(store, hold.name)


def decode_hold(data: bytes, name: str) -> Hold:
    """H2."""
    try:
        document = json.loads(data)
        if document["version"] != VERSION:
            raise ValueError("unknown version")
        backups = tuple(str(item) for item in document["backups"])
        return Hold(name, int(document["expires_us"]), backups, int(document["from_segment"]))
    except (ValueError, KeyError, TypeError):
        return Hold(f"{name} (damaged)", _FOR_EVER_US)
