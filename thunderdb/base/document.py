"""Small JSON documents with a checksum: a digit that rots in one would still be JSON, and another truth.

    {"version": 2, …, "checksum": 16 hex digits of XXH3-64 over the document without it, as it is written here}

D1. A document of the version before checksums is read as it is; one of a later version needs its checksum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from xxhash import xxh3_64_hexdigest

CHECKSUM = "checksum"


def sealed(content: Mapping[str, Any]) -> bytes:
    """A document's bytes, a line. `content` has its version."""
    return _plain({**content, CHECKSUM: xxh3_64_hexdigest(_plain(content))}) + b"\n"


def unsealed(data: bytes, since: int) -> dict[str, Any]:
    """What a document says; `since` is the first version with a checksum. Raises: ValueError, saying what is wrong."""
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    checksum = found.pop(CHECKSUM, None)
    if checksum is None:
        version = found.get("version")
        if not isinstance(version, int) or version >= since:
            raise ValueError("it has no checksum")
    elif checksum != xxh3_64_hexdigest(_plain(found)):
        raise ValueError("its checksum does not match")
    return found


def _plain(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode()
