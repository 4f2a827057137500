"""What every test stands on: hypothesis profiles, the tripwire under simulated runs, and skips that say why.

T1. While a test drives the simulator, engine code that reaches for the machine's clock, randomness or files fails that test.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# The doors of the machine, as (module, function). Called from engine code in a simulated run, each is a violation.
DOORS: tuple[tuple[Any, str], ...] = (
    *((time, name) for name in "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns sleep".split()),
    *((random, name) for name in "random randint randrange choice choices shuffle sample getrandbits".split()),
    *((os, name) for name in "urandom open listdir rename replace unlink remove mkdir makedirs stat".split()),
    *((uuid, name) for name in ("uuid1", "uuid4")),
    (builtins, "open"),
    (socket, "create_connection"),
    (subprocess, "Popen"),
    (threading, "Thread"),
    (asyncio, "get_running_loop"),
)


# Whoever of these is nearest below a call asked for it, not the engine.
NOT_ENGINE = frozenset({"sim", "tests", "tools", "importlib", "logging", "coverage", "_pytest", "hypothesis"})


class ReachedForTheMachine(AssertionError):
    """Engine code called a function that the simulator cannot control."""


def engine_caller(frame: Any) -> str | None:
    """Name the engine module on whose behalf `frame` runs, or None if a port, a test or the simulator asked for it."""
    while frame is not None:
        name: str = frame.f_globals.get("__name__", "")
        top = name.split(".")[0]
        if top == "thunderdb":
            port = name.startswith(("thunderdb.runtime.real_", "thunderdb.server"))
            return None if port else f"{name}:{frame.f_lineno}"
        if top in NOT_ENGINE or name.startswith("test_"):
            return None
        frame = frame.f_back
    return None


def guarded(door: Callable[..., Any], label: str, caught: list[str]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        caller = engine_caller(sys._getframe(1))
        if caller is not None:
            caught.append(f"{caller} calls {label}")
            raise ReachedForTheMachine(caught[-1])
        return door(*args, **kwargs)

    return call


@pytest.fixture
def tripwire(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Guard the machine's doors; the test fails if engine code went through one, even if it swallowed the error."""
    caught: list[str] = []
    for module, name in DOORS:
        if isinstance(getattr(module, name), type):
            continue  # a class is subclassed and checked with isinstance: leave it whole
        monkeypatch.setattr(module, name, guarded(getattr(module, name), f"{module.__name__}.{name}", caught))
    yield caught
    assert not caught, "\n".join(caught)


def uses_simulator(module: Any) -> bool:
    for value in vars(module).values():
        origin = getattr(value, "__module__", None) or getattr(value, "__name__", "")
        if isinstance(origin, str) and origin.split(".")[0] == "sim":
            return True
    return False


@pytest.fixture(autouse=True)
def _tripwire_under_simulated_runs(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("daemon") is None and request.module and uses_simulator(request.module):
        request.getfixturevalue("tripwire")


@pytest.fixture(scope="session")
def pgbench() -> str:
    """The path of pgbench, or a skip that says what is missing."""
    found = shutil.which("pgbench") or next((str(p) for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))), None)
    if found is None:
        pytest.skip("pgbench is not installed (Debian: postgresql-contrib)")
    return found


@pytest.fixture(scope="session")
def psql() -> str:
    """The path of psql, or a skip that says what is missing."""
    found = shutil.which("psql")
    if found is None:
        pytest.skip("psql is not installed (Debian: postgresql-client)")
    return found


@pytest.fixture(scope="session")
def emulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Object stores on this machine, by scheme: started when first asked for; what cannot be had is a skip with the reason."""
    from tools.harness.emulators import Emulator, Unavailable, start_azure, start_google, start_s3

    started: dict[str, Emulator] = {}
    directory = tmp_path_factory.mktemp("emulators")

    def start(kind: str) -> Emulator:
        if kind not in started:
            makers = {"s3": start_s3, "gs": start_google, "az": lambda: start_azure(directory)}
            try:
                started[kind] = makers[kind]()
            except Unavailable as reason:
                pytest.skip(str(reason))
        return started[kind]

    yield start
    for emulator in started.values():
        emulator.stop()
