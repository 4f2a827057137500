"""What shrinking knows without a simulator: when two failures are the same, and how to leave out as much of a list as can be.

R1. A signature has the kind of the error or oracle, the first words of what it says, whether the judge calls impossible what
    went well, or possible what was refused, and the innermost functions of its traceback; never a number, a key, a table's name
    or an address: those change with every transaction that is left out.
R2. `ddmin` asks about big pieces before small ones, twice as big after each that could go, from the front: what a failure
    needs is mostly what came last before it. It ends when no single entry can go (1-minimal), unless it is told to stop.

Source: Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input (2002); MacIver and Donaldson, Test-Case
Reduction via Test-Case Generation: Insights From the Hypothesis Reducer (2020).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

_PLACE = re.compile(r"\(([\w.]+\.py:\d+ [^()]*)\)\s*$")
_NOISE = re.compile(r"'[^']*'|0x[0-9a-fA-F]+|\b\d+/[0-9A-F]+\b|\([^()]*\)|\[[^\[\]]*\]")
_TABLE = re.compile(r"\b(bank|items|serials|probe|lists|t[0-3])\b")
_WORD = re.compile(r"(?<![\w.])[A-Za-z_][A-Za-z_-]*\w*")
_NUMBERED = re.compile(r"[A-Z]\d+$")
WORDS = 6
FUNCTIONS = 2


def signature(violation: str) -> str:
    """What must stay the same while a failure shrinks (R1)."""
    place = _PLACE.search(violation)
    text = violation[: place.start()] if place else violation
    for _ in range(3):  # parentheses in parentheses
        text = _NOISE.sub(" ", text)
    words = [word for word in _WORD.findall(_TABLE.sub("TABLE", text)) if not _NUMBERED.match(word)]
    words = words[: 2 if words[:1] == ["isolation"] else WORDS]
    functions = [] if place is None else [one.split(" ", 1)[1] for one in place[1].split(" < ")[:FUNCTIONS] if " " in one]
    judged = ["impossible"] if "; impossible: " in text else ["possible"] if text.rstrip().endswith("; possible") else []
    return " ".join(words + judged) + (f" @ {' < '.join(functions)}" if functions else "")


def ddmin(items: Sequence[T], fails: Callable[[list[T]], bool], stop: Callable[[], bool] = lambda: False) -> list[T]:
    """Leave out as many entries as can be while `fails` says that the rest still fails (R2)."""
    kept = list(items)
    size = len(kept)
    while size and not stop():
        at, step, left_out = 0, size, False
        while at < len(kept) and not stop():
            rest = kept[:at] + kept[at + step :]
            if fails(rest):
                kept, step, left_out = rest, step * 2, True
            elif step > size:
                step = size
            else:
                at += step
        if size == 1 and not left_out:
            break
        size = min(size, len(kept)) if size == 1 else max(1, min(size // 2, len(kept) // 2))
    return kept
