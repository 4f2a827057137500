"""The house rules, proven by walking the AST: imports go one way, and only some folders may touch the machine.

L1. A package imports only from those below it in RANKS; `sql` and `archive`, `backup`, `cluster` never import each other.
L2. Only `runtime/real_*` and `server/` import the machine (time, random, os, asyncio, sockets, …). Only `sim/` imports simpy.
L3. Packages of `sim/` import only from those below them in SIM_RANKS, and never what stands in `sim/` itself: commands.
L4. In `sim/`, what runs inside the simulated world stays away from the machine too: only its command line and drivers may.
L5. Engine code strips well under `-O`: no `assert`. No `await` inside `finally` (STYLE rule 14).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "thunderdb"
SIM = ROOT / "sim"

RANKS = {
    "base": 0,
    "runtime": 1,
    "storage": 2,
    "wal": 3,
    "access": 4,
    "recovery": 5,
    "txn": 6,
    "engine": 7,
    "sql": 8,
    "archive": 8,
    "backup": 9,
    "cluster": 10,
    "server": 11,
}

SIM_PACKAGES = "world oracle scenario clients runs incident history report shrinking planted".split()
SIM_RANKS = {name: rank for rank, name in enumerate(SIM_PACKAGES)}

MACHINE = frozenset(
    "time random secrets os asyncio threading multiprocessing concurrent socket ssl subprocess uuid tempfile shutil pathlib "
    "glob fcntl signal selectors select mmap sched".split()
)
AMBIENT_CALLS = frozenset({("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today")})
AMBIENT_BUILTINS = frozenset({"open", "input", "print", "breakpoint"})

# The simulator's outer shell: it measures real time, reads scenario files and starts worker processes.
SIM_DRIVERS = frozenset(
    "cli sweep twin diverge history_sweep mutants mutate specific measure gather exhaustive scenario __main__ "
    "shrink shrunk search attempts reference".split()
)


def modules(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*.py") if "data" not in path.relative_to(root).parts[:1])


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of everything imported, `from x import y` as `x.y`."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def area(path: Path) -> str:
    parts = path.relative_to(ENGINE).parts
    return parts[0] if len(parts) > 1 else ""


def may_touch_machine(path: Path) -> bool:
    return area(path) == "server" or (area(path) == "runtime" and path.name.startswith("real_"))


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def layer_violations(path: Path, tree: ast.AST) -> list[str]:
    own = area(path)
    found = []
    for line, name in imported_names(path, tree):
        parts = name.split(".")
        if parts[0] == "sim":
            found.append(f"{where(path, line)}: the engine imports the simulator ({name})")
        if parts[0] != "thunderdb" or len(parts) < 2 or not own:
            continue
        other = parts[1]
        if other not in RANKS:
            if other != "__version__":
                found.append(f"{where(path, line)}: {name} is in no layer")
        elif other != own and (RANKS[other] >= RANKS[own] or other == "sql" and own in ("archive", "backup", "cluster")):
            found.append(f"{where(path, line)}: {own} imports {name}, which is not below it")
    return found


def sim_layer_violations(path: Path, tree: ast.AST) -> list[str]:
    own = path.relative_to(SIM).parts[0]
    found = []
    for line, name in imported_names(path, tree):
        parts = name.split(".")
        if parts[0] == "sim" and parts[1] != own and SIM_RANKS.get(parts[1], len(SIM_RANKS)) >= SIM_RANKS[own]:
            found.append(f"{where(path, line)}: sim/{own} imports {name}, which is not below it")
    return found


def machine_violations(path: Path, tree: ast.AST) -> list[str]:
    found = []
    for line, name in imported_names(path, tree):
        top = name.split(".")[0]
        if top in MACHINE:
            found.append(f"{where(path, line)}: imports {name}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        call = node.func
        if isinstance(call, ast.Name) and call.id in AMBIENT_BUILTINS:
            found.append(f"{where(path, node.lineno)}: calls {call.id}()")
        elif isinstance(call, ast.Attribute):
            owner = call.value.attr if isinstance(call.value, ast.Attribute) else getattr(call.value, "id", "")
            if (owner, call.attr) in AMBIENT_CALLS:
                found.append(f"{where(path, node.lineno)}: calls {owner}.{call.attr}()")
    return found


def discipline_violations(path: Path, tree: ast.AST) -> list[str]:
    found = [f"{where(path, node.lineno)}: assert" for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            for statement in node.finalbody:
                found += [f"{where(path, n.lineno)}: await in finally" for n in ast.walk(statement) if isinstance(n, ast.Await)]
    return found


def test_there_is_something_to_check() -> None:
    assert len(modules(ENGINE)) > 5


@pytest.mark.parametrize("package", sorted(p.name for p in ENGINE.iterdir() if p.is_dir() and p.name != "__pycache__"))
def test_every_package_has_a_layer(package: str) -> None:
    assert package in RANKS


def test_imports_go_one_way() -> None:
    found = [v for path in modules(ENGINE) for v in layer_violations(path, parse(path))]
    assert not found, "\n".join(found)


def test_imports_in_the_simulator_go_one_way() -> None:
    packages = sorted(path.parent.name for path in SIM.glob("*/__init__.py"))
    assert packages == sorted(SIM_RANKS)
    found = [v for name in packages for path in modules(SIM / name) for v in sim_layer_violations(path, parse(path))]
    assert not found, "\n".join(found)


def test_only_the_real_runtime_and_the_server_touch_the_machine() -> None:
    found = [v for path in modules(ENGINE) if not may_touch_machine(path) for v in machine_violations(path, parse(path))]
    assert not found, "\n".join(found)


def test_only_sim_knows_simpy() -> None:
    paths = [*modules(ENGINE), *modules(ROOT / "tools")]
    names = [(where(path, line), name) for path in paths for line, name in imported_names(path, parse(path))]
    found = [f"{place}: {name}" for place, name in names if name.split(".")[0] == "simpy"]
    assert not found, "\n".join(found)


def test_the_simulated_world_does_not_touch_the_machine() -> None:
    """Seeded `random.Random` streams are the simulator's own; everything else of the machine stays outside its world."""
    found = []
    for path in modules(SIM):
        if path.stem in SIM_DRIVERS:
            continue
        for violation in machine_violations(path, parse(path)):
            if not violation.endswith(("imports random", "imports random.Random")):
                found.append(violation)
    assert not found, "\n".join(found)


def test_engine_code_has_no_assert_and_no_await_in_finally() -> None:
    paths = [path for path in modules(ENGINE) if not may_touch_machine(path)]
    found = [v for path in paths for v in discipline_violations(path, parse(path))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("own", "source", "expected"),
    [
        ("storage", "from thunderdb.wal import writer", "storage imports thunderdb.wal.writer"),
        ("sql", "import thunderdb.backup.take", "sql imports thunderdb.backup.take"),
        ("wal", "from thunderdb.storage.page import Page", None),
        ("wal", "def f():\n    from thunderdb.engine import database", "wal imports thunderdb.engine.database"),
        ("wal", "from ..engine import database", "wal imports thunderdb.engine.database"),
        ("wal", "import sim.world", "the engine imports the simulator"),
    ],
)
def test_the_layer_walk_sees_what_it_should(own: str, source: str, expected: str | None) -> None:
    found = layer_violations(ENGINE / own / "example.py", ast.parse(source))
    assert bool(found) == (expected is not None)
    assert expected is None or expected in found[0]


@pytest.mark.parametrize(
    ("own", "source", "found"),
    [
        ("world", "from sim.scenario import steps", True),
        ("history", "from sim.sweep import sweep", True),
        ("history", "from sim.world.world import World", False),
        ("world", "from sim.world import rand", False),
    ],
)
def test_the_layer_walk_sees_the_simulator_too(own: str, source: str, found: bool) -> None:
    assert bool(sim_layer_violations(SIM / own / "example.py", ast.parse(source))) is found


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "import os.path",
        "from time import monotonic",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import date\ndate.today()",
        "open('x')",
        "def f():\n    import random",
    ],
)
def test_the_machine_walk_sees_what_it_should(source: str) -> None:
    assert machine_violations(ENGINE / "wal" / "example.py", ast.parse(source))
