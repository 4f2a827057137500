"""The interpreter's settings for who serves or restores: quick hand-over of its lock, a collector that seldom looks."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from thunderdb.base import config
from thunderdb.base.errors import ThunderError
from thunderdb.server import interpreter
from thunderdb.server.restore import RestoreOptions, run_restore


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    interval_s, thresholds = sys.getswitchinterval(), gc.get_threshold()
    yield
    sys.setswitchinterval(interval_s)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_what_was_imported_is_neither_collected_nor_looked_at_again() -> None:
    collections: list[str] = []
    gc.callbacks.append(lambda phase, _info: collections.append(phase))
    try:
        interpreter.tune_interpreter()
    finally:
        gc.callbacks.pop()
    assert not collections and gc.get_freeze_count() > 10_000
    assert sys.getswitchinterval() < 0.001 and gc.get_threshold() == interpreter.GC_THRESHOLDS


def test_a_restore_is_tuned_like_a_daemon(tmp_path: Path) -> None:
    """Its threads read, check and write while the loop goes over the log: each had to wait 5 ms for the interpreter's lock."""
    sys.setswitchinterval(0.005)
    settings = config.parse("", flags={"data_dir": str(tmp_path / "data"), "wal_dir": str(tmp_path / "wal")})
    with pytest.raises(ThunderError):
        run_restore(settings, RestoreOptions("latest", str(tmp_path / "nothing"), dry_run=True))
    assert sys.getswitchinterval() < 0.001
