"""What counts as a seed that does not end: CPU time, not how long a busy machine takes over it (K1)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

GUARDED = """
import json, time
from sim.planted.mutate import _guarded

def asleep(seed):
    time.sleep(0.5)
    return []

def looping(seed):
    while True:
        pass

print(json.dumps(_guarded({one}, 7, limit_s=0.2)))
"""


def guarded(one: str) -> dict[str, Any]:
    command = [sys.executable, "-c", GUARDED.format(one=one)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    line: dict[str, Any] = json.loads(done.stdout)
    return line


def test_a_seed_that_only_waits_for_a_core_is_no_livelock() -> None:
    assert guarded("asleep")["violations"] == []


def test_a_loop_is_one() -> None:
    assert guarded("looping")["violations"] == ["Livelock: the seed takes more than 0.2 s of CPU time"]
