"""Random histories, and what is restored from them, against the truth at every commit (sim/history.py)."""

from __future__ import annotations

import pytest

from sim import history
from sim.history import COPIES, Shape


def broken(seeds: range, shape: Shape | None = None) -> tuple[list[str], dict[str, int]]:
    """What went wrong, with its seed, and how often what was done."""
    found: list[str] = []
    counts: dict[str, int] = {}
    for seed in seeds:
        outcome = history.run(seed, shape)
        found += [f"seed {seed}: {text}" for text in outcome.violations]
        for name, count in outcome.counts.items():
            counts[name] = counts.get(name, 0) + count
    return found, counts


def test_copies_made_by_hand_under_load_restore() -> None:
    found, counts = broken(range(12), COPIES)
    assert found == []
    assert counts["copies opened"] >= 35 and counts["kill"] and counts["power_cut"] and counts["switch"]


def test_a_copy_whose_page_files_grew_after_they_were_copied_restores() -> None:
    assert broken(range(88, 89), COPIES)[0] == []


@pytest.mark.long
def test_five_hundred_copies_made_by_hand_restore() -> None:
    found, counts = broken(range(1000, 1140), COPIES)
    assert found == []
    assert counts["copies opened"] >= 500
