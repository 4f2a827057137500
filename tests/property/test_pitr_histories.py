"""Random histories, and what is restored from them, against the truth at every commit (sim/history/history.py)."""

from __future__ import annotations

from collections import Counter

import pytest

from sim.history import every_io
from sim.history_sweep import reports

MET = "pitr retention power_cut kill outage switch clock copy".split() + ["restores struck", "went on", "copies opened"]


def broken(seeds: range, kind: str = "all") -> tuple[list[str], Counter[str]]:
    """What went wrong, with its seed, and how often what was done; each run twice, here and in another process."""
    found: list[str] = []
    counts: Counter[str] = Counter()
    for report in reports([(kind, "", seed) for seed in seeds], 1, twice=True):
        found += [f"seed {report['seed']}: {text}" for text in report["violations"]]
        assert report["twin"] == report["trace_hash"] != ""
        counts.update(report["counts"])
    return found, counts


def test_fifty_histories_restore_exactly_to_random_targets() -> None:
    found, counts = broken(range(50))
    assert found == []
    assert counts["restored"] >= 75 and counts["backups"] >= 45
    assert [kind for kind in MET if not counts[kind]] == []


@pytest.mark.long
def test_five_hundred_histories_restore_exactly_to_random_targets() -> None:
    found, counts = broken(range(50, 550))
    assert found == []
    assert counts["restored"] >= 750


def test_copies_made_by_hand_under_load_restore() -> None:
    found, counts = broken(range(6), "copies")
    assert found == []
    assert counts["copies opened"] >= 18 and counts["kill"] and counts["power_cut"] and counts["switch"]


def test_a_copy_whose_page_files_grew_after_they_were_copied_restores() -> None:
    assert broken(range(88, 89), "copies")[0] == []


def test_a_restore_struck_again_and_again_is_known_for_what_it_is() -> None:
    """6103: killed before its marker was durable, then a power cut; 214: `latest` of a line that had shipped nothing."""
    for seed in (214, 6103):
        assert broken(range(seed, seed + 1))[0] == []


@pytest.mark.long
def test_five_hundred_copies_made_by_hand_restore() -> None:
    found, counts = broken(range(1000, 1140), "copies")
    assert found == []
    assert counts["copies opened"] >= 500


@pytest.mark.parametrize("operation", every_io.OPERATIONS)
def test_killed_at_a_sample_of_the_boundaries(operation: str) -> None:
    found = every_io.explore(operation, 1, sample=0.08)
    assert found.violations == []
    assert found.states >= 5


@pytest.mark.long
@pytest.mark.parametrize("operation", every_io.OPERATIONS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_every_boundary(operation: str, seed: int) -> None:
    found = every_io.explore(operation, seed)
    assert found.violations == []
    assert found.boundaries >= 20 and found.states >= 40
