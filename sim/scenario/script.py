"""What the clients did, written down statement by statement, so that one of them can be left out without moving the others.

    workload:
      script:                                                     # a list for each life of the database
        - - {client: 0, at_ns: 1200, kind: transfer, do: [[begin, false, true], [modify, bank, 3, {bal: {plus: -7}}], [commit]]}

A run draws its transactions as it goes, each draw from where the one before it left the stream: leave one out, and all that
come after it are others. sim/clients/scribe.py writes down what is done instead; played again it is the same run, event by
event.

S1. A transaction begins at its own time, counted from where its life's clients began: leaving one out does not move the rest.
S2. A transaction names all that it does. What makes no sense without something left out (a table, a savepoint, a number of the
    sequence) is passed over or refused by the database, and is never a violation by itself: whatever is left out, the right
    engine passes.
S3. One that ends without commit, rollback or vanish was in the middle when its life ended: it stays open for a while.
S4. What a client waits before and between its transactions is written down too, also what its life's end has cut short: an
    entry without operations (it thinks until then), one of the kind `idle` (so often it looks whether there is anything to do).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sim.oracle.oracle import Plus
from sim.scenario.schema import Value
from sim.world.rand import Stream

Op = tuple[Any, ...]
ENDS = ("commit", "rollback", "vanish")
PLAIN = (
    "commit", "checkpoint", "vanish", "delete", "read", "read_index", "create_table", "drop_table", "truncate", "create_index",
    "drop_index", "add_column", "add_key",
)  # fmt: skip
"""Methods of a session that are written down, and done again, as they are called."""
IDLE = "idle"
IDLE_NS = 50_000_000
"""S4. How often a client looks that has nothing to do."""
LEFT_OPEN_NS = 300_000_000
"""S3. Longer than any life; short enough that nobody who waits for its locks calls that no service."""
_LONG = 24


@dataclass(frozen=True, slots=True)
class Scripted:
    """One transaction. `habits` are what its connection draws for itself; without them it does the plain thing."""

    client: int
    at_ns: int
    kind: str
    do: tuple[Op, ...]
    cancel_ns: int = -1
    habits: tuple[float, ...] = ()

    @property
    def works(self) -> bool:
        """Whether it is a transaction, and not only waiting (S4)."""
        return bool(self.do) and self.kind != IDLE


Script = tuple[tuple[Scripted, ...], ...]


def transactions_in(script: Script) -> int:
    return sum(one.works for life in script for one in life)


def script_of(script: Script | None, life: int) -> tuple[Scripted, ...] | None:
    """What a life, counted from 1, has to do; None: it is to be drawn."""
    if script is None:
        return None
    return script[life - 1] if life <= len(script) else ()


class Told(Stream):
    """A stream that says what it is told to, and after that what makes nothing happen."""

    def __new__(cls, told: tuple[float, ...]) -> Told:
        return super().__new__(cls)

    def __init__(self, told: tuple[float, ...]) -> None:
        super().__init__(0)
        self._told = iter(told)

    def random(self) -> float:
        return next(self._told, 0.999)


# -- In a file


def dump(script: Script) -> list[list[dict[str, Any]]]:
    """The script as YAML and JSON have it."""
    return [[_dump(one) for one in life] for life in script]


def _dump(one: Scripted) -> dict[str, Any]:
    found: dict[str, Any] = {"client": one.client, "at_ns": one.at_ns, "kind": one.kind}
    found["do"] = [[_encoded(value) for value in op] for op in one.do]
    if one.cancel_ns >= 0:
        found["cancel_ns"] = one.cancel_ns
    if one.habits:
        found["habits"] = list(one.habits)
    return found


def _encoded(value: Any) -> Any:
    if isinstance(value, Plus):
        return {"plus": value.amount}
    if isinstance(value, dict):
        return {name: _encoded(one) for name, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encoded(one) for one in value]
    if isinstance(value, str) and len(value) > _LONG:
        period = _period(value)
        return value if period * 2 > len(value) else {"text": value[:period], "size": len(value)}
    return value


def _period(text: str) -> int:
    """The length of the piece that the text repeats."""
    return next((size for size in range(1, _LONG + 1) if (text[:size] * (len(text) // size + 1)).startswith(text)), len(text))


def decoded(value: Any) -> Any:
    """A value of an operation, as a session takes it."""
    if isinstance(value, dict):
        if value.keys() == {"plus"}:
            return Plus(int(value["plus"]))
        if value.keys() == {"text", "size"}:
            text, size = str(value["text"]), int(value["size"])
            return (text * (size // max(1, len(text)) + 1))[:size]
        return {name: decoded(one) for name, one in value.items()}
    return tuple(decoded(one) for one in value) if isinstance(value, list) else value


class ScriptKind:
    """Reads the `script` of a replay file."""

    def read(self, value: Value) -> Script:
        try:
            return tuple(tuple(_load(one) for one in life) for life in value.plain())
        except (TypeError, KeyError, ValueError) as error:
            raise value.error(f"this is no script of a replay file: {error}") from None

    def json(self) -> dict[str, Any]:
        return {"type": "array", "description": "Written by thunderdb-sim; what the clients do, transaction by transaction."}


def _load(data: dict[str, Any]) -> Scripted:
    do = tuple(tuple(decoded(value) for value in op) for op in data["do"])
    if any(not op or not isinstance(op[0], str) for op in do):
        raise ValueError("an operation begins with its name")
    cancel_ns, habits = int(data.get("cancel_ns", -1)), tuple(data.get("habits", ()))
    return Scripted(int(data["client"]), int(data["at_ns"]), str(data["kind"]), do, cancel_ns, habits)
