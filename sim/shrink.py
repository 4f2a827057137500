"""Shrinks a failing run to the least that still fails in the same way: fewer faults, fewer steps, less work.

    replay file ─▶ [ drop steps, outages, strikes (delta debugging) ─▶ less of everything else ]… ─▶ YAML + a pytest file

M1. A candidate counts only if it fails with the same kind of violation (`kind_of`): shrinking must not lose the failure for
    another one.
M2. Less work means another order of events, so a candidate may try a few seeds of noise before it is given up.
M3. What is tried depends on nothing but the file; only the time limit ends it early.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sim.play import play
from sim.runs.runner import Result
from sim.scenario.replay import Document, document_of, faults_in
from sim.scenario.scenario import Scenario, ScenarioError, build
from sim.scenario.schema import parse_yaml, wrap

NOISE = 3
NOISE_OF_WORK = 12
"""Less work is another course of events altogether: it gets more seeds to fail in."""
CEILINGS = (1, 3, 5, 10, 25, 50, 100, 200)
"""The smallest first: where little work fails, all that is tried afterwards is quick."""


@dataclass(slots=True)
class Shrunk:
    """The smallest failing document so far."""

    document: Document
    kind: str
    result: Result
    tried: int = 0
    log: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        return faults_in(self.document, build(wrap(self.document, "replay")))


def kind_of(violation: str) -> str:
    """A violation without its numbers and names: what must stay the same (M1)."""
    text = re.sub(r"0x[0-9a-f]+|\d+(/[0-9A-F]+)?|'[^']*'|\([^)]*\)|\[[^\]]*\]", "", violation)
    return " ".join(re.findall(r"[A-Za-z]+", text)[:4])


def read_document(path: str) -> tuple[Document, Scenario]:
    """A scenario or replay file. Raises: ScenarioError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror or error}") from None
    value = parse_yaml(text, path)
    scenario = build(value)
    document: Document = value.plain()
    return document, scenario


def shrink(path: str, seed: int | None, limit_s: float, said: Callable[[str], None]) -> Shrunk:
    """Shrink the failure of a file with a seed (of a replay file: with its own). Raises: ScenarioError if it does not fail."""
    raw, scenario = read_document(path)
    seed = scenario.seed if seed is None else seed
    document = document_of(raw, scenario, seed)
    result = _play(document)
    if result is None or not result.violations:
        raise ScenarioError(f"{path}: seed {seed} does not fail", "`thunderdb-sim sweep` finds seeds that do.")
    found = Shrunk(document, kind_of(result.violations[0]), result)
    said(f"seed {seed}: {result.violations[0][:200]}")
    deadline = time.monotonic() + limit_s
    smaller = True
    while smaller and time.monotonic() < deadline:
        smaller = False
        for what, candidate in _candidates(found):
            if time.monotonic() >= deadline:
                break
            if _try(found, candidate, NOISE_OF_WORK if what.startswith("transactions") else NOISE):
                smaller = True
                said(f"  {what}: {found.faults} faults, {found.result.transactions} transactions")
    return found


def _try(found: Shrunk, candidate: Document, noises: int = NOISE) -> bool:
    """M1, M2."""
    first = int(candidate["seed"])
    for noise in range(noises):
        tried = {**candidate, "seed": first + noise}
        found.tried += 1
        result = _play(tried)
        if result is not None and result.violations and kind_of(result.violations[0]) == found.kind:
            found.document, found.result = tried, result
            return True
    return False


def _play(document: Document) -> Result | None:
    """Run a document; None if it is no scenario."""
    try:
        scenario = build(wrap(document, "replay"))
    except ScenarioError:
        return None
    return play(scenario, int(document["seed"]))


# -- What to leave out


def _candidates(found: Shrunk) -> Iterator[tuple[str, Document]]:
    """Smaller documents than the present one, which may change while this runs."""
    if "plan" in found.document:
        yield from _fewer(found, "outages", ("plan", "outages"), least=0)
        yield from _tiny(found)
        yield from _strikes(found)
        yield from _fewer(found, "strikes at creation", ("plan", "at_creation"))
        for kind in list(found.document["plan"]["disk"]):
            yield f"no {kind}", _with(found.document, ("plan", "disk"), _without(found.document["plan"]["disk"], kind))
        for kind in list(found.document["plan"]["mix"]):
            if len(found.document["plan"]["mix"]) > 1:
                yield f"no {kind}", _with(found.document, ("plan", "mix"), _without(found.document["plan"]["mix"], kind))
        for name, value in (("reset", 0.0), ("driver", "engine"), ("clients", 1), ("clients", 2)):
            now = found.document["plan"][name]
            if now != value and (name != "clients" or value < now):
                yield f"{name} {value}", _with(found.document, ("plan", name), value)
    else:
        yield from _fewer(found, "steps", ("timeline",), least=1)
        yield from _sooner(found)
        if found.document.get("workload", {}).get("clients", 1) != 1:
            yield "one client", _with(found.document, ("workload", "clients"), 1)
    yield from _less_work(found)


def _less_work(found: Shrunk) -> Iterator[tuple[str, Document]]:
    for name in ("transactions", "items", "accounts"):
        for ceiling in CEILINGS:
            now = (found.document.get("workload") or {}).get(name, 0) or (1_000_000 if name == "transactions" else 40)
            now = (found.document.get("workload") or {}).get(name, 0) or now
            if ceiling < now and (name == "transactions" or ceiling >= 3):
                yield f"{name} {ceiling}", _with(found.document, ("workload", name), ceiling)


def _sooner(found: Shrunk) -> Iterator[tuple[str, Document]]:
    """No waiting for a time, or a short one."""
    for at in range(len(found.document["timeline"])):
        for changes in ({"at": None}, {"after": None}, {"at": "100ms"}, {"after": "100ms"}):
            steps = found.document["timeline"]
            (name, value) = next(iter(changes.items()))
            if at < len(steps) and name in steps[at] and steps[at][name] != value:
                rest = {key: one for key, one in steps[at].items() if key != name}
                step = rest if value is None else {name: value, **rest}
                yield f"step {at} sooner", _with(found.document, ("timeline",), [*steps[:at], step, *steps[at + 1 :]])


def _tiny(found: Shrunk) -> Iterator[tuple[str, Document]]:
    """Hardly any work, and each outage in the middle of it: what fails so needs no more shrinking of either."""
    for count in (5, 10, 20):
        for after_ms in (1, 4, 15):
            now = (found.document.get("workload") or {}).get("transactions", 0) or 1_000_000
            if count >= now:
                return
            plan = found.document["plan"]
            outages = [
                {**one, "after_ns": min(one["after_ns"], after_ms * 1_000_000), "strike": {**one["strike"], "boundary": 0}}
                for one in plan["outages"]
            ]
            smaller = _with(found.document, ("plan",), {**plan, "outages": outages, "last_life_ns": 1_000_000})
            yield f"transactions {count}, outages after {after_ms} ms", _with(smaller, ("workload", "transactions"), count)


def _strikes(found: Shrunk) -> Iterator[tuple[str, Document]]:
    """Of each outage: no strikes in its recovery, no full disk, no cut network, no boundary."""
    for at in range(len(found.document["plan"]["outages"])):
        everything: tuple[dict[str, Any], ...] = (
            {"in_recovery": []}, {"full_at_ns": -1}, {"cut_at_ns": -1}, {"after_ns": 1_000_000}
        )  # fmt: skip
        for share in (8, 3, 2):
            outages = found.document["plan"]["outages"]
            if at < len(outages) and outages[at]["after_ns"] > 2_000_000:
                sooner = {**outages[at], "after_ns": outages[at]["after_ns"] // share}
                fewer = [*outages[:at], sooner, *outages[at + 1 :]]
                yield f"outage {at} sooner", _with(found.document, ("plan", "outages"), fewer)
        for changes in everything:
            outages = found.document["plan"]["outages"]
            if at < len(outages) and any(outages[at][name] != value for name, value in changes.items()):
                fewer = [*outages[:at], {**outages[at], **changes}, *outages[at + 1 :]]
                yield f"outage {at} without {next(iter(changes))}", _with(found.document, ("plan", "outages"), fewer)


def _fewer(found: Shrunk, what: str, path: tuple[str, ...], least: int = 0) -> Iterator[tuple[str, Document]]:
    """Delta debugging: leave out halves, quarters, … single entries of a list, as long as it goes on failing."""
    size = max(1, len(_at(found.document, path)) // 2)
    while True:
        start = 0
        while start < len(_at(found.document, path)):
            entries = _at(found.document, path)
            rest = [*entries[:start], *entries[start + size :]]
            if len(rest) < least:
                break
            yield f"fewer {what}", _with(found.document, path, rest)
            if len(_at(found.document, path)) == len(entries):
                start += size
        if size == 1:
            return
        size = max(1, size // 2)


def _at(document: Document, path: tuple[str, ...]) -> Any:
    value: Any = document
    for name in path:
        value = value[name]
    return value


def _with(document: Document, path: tuple[str, ...], value: Any) -> Document:
    found = copy.deepcopy(document)
    at: Any = found
    for name in path[:-1]:
        if at.get(name) is None:
            at[name] = {}
        at = at[name]
    at[path[-1]] = value
    return found


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


# -- What is written


def write(found: Shrunk, folder: Path, name: str) -> list[Path]:
    """The replay file, and a pytest file that fails as long as the bug is there. Raises: ScenarioError."""
    replay, test = folder / f"{name}.yaml", folder / f"test_{name}.py"
    about = f"# Shrunk from a failing run: {found.result.violations[0][:180]}\n#   thunderdb-sim run --replay {replay.name}\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replay.write_text(about + yaml.safe_dump(json.loads(json.dumps(found.document)), sort_keys=False, width=120))
        said = found.result.violations[0][:80].replace('"', "'").replace("\\", "/")
        test.write_text(_TEST.format(name=name, violation=said))
    except OSError as error:
        raise ScenarioError(f"cannot write to {folder}: {error.strerror or error}") from None
    return [replay, test]


_TEST = '''"""Found by simulation, and shrunk: {violation}"""

from __future__ import annotations

from pathlib import Path

from sim.play import play
from sim.scenario.scenario import load


def test_{name}() -> None:
    scenario = load(str(Path(__file__).with_name("{name}.yaml")))
    assert play(scenario, scenario.seed).violations == []
'''
