"""The tripwire itself: it must see engine code that reaches for the machine, and nobody else."""

from __future__ import annotations

import os
import time
import types
from typing import Any

import pytest


def module(name: str, source: str) -> types.ModuleType:
    made = types.ModuleType(name)
    exec(compile(source, name, "exec"), made.__dict__)
    return made


@pytest.mark.parametrize(
    "source",
    [
        "import time\ndef go(): return time.time()",
        "import time\ndef go(): return time.monotonic_ns()",
        "import os\ndef go(): return os.urandom(4)",
        "import random\ndef go(): return random.random()",
        "import uuid\ndef go(): return uuid.uuid4()",
        "def go(): return open('/dev/null')",
    ],
)
def test_engine_code_is_caught(source: str, tripwire: list[str]) -> None:
    with pytest.raises(AssertionError, match="thunderdb.wal.example:"):
        module("thunderdb.wal.example", source).go()
    assert tripwire.pop().startswith("thunderdb.wal.example:")


def test_a_swallowed_call_is_remembered(tripwire: list[str]) -> None:
    source = "import time\ndef go():\n    try:\n        time.time()\n    except BaseException:\n        pass"
    module("thunderdb.wal.example", source).go()
    assert tripwire.pop() == "thunderdb.wal.example:4 calls time.time"


@pytest.mark.parametrize("name", ["thunderdb.runtime.real_clock", "thunderdb.server.main", "sim.cli", "elsewhere"])
def test_ports_the_server_and_the_simulator_are_free(name: str, tripwire: list[str]) -> None:
    made: Any = module(name, "import time, os\ndef go(): return time.time(), os.urandom(1)")
    assert made.go()[0] > 0
    assert time.time() > 0 and os.urandom(1)
    assert tripwire == []
