"""Random lives of an archiving database in the simulator; what must hold is in archiving.py."""

from __future__ import annotations

import pytest

from tests.sim.archiving import Story


@pytest.mark.parametrize("kind", ["store", "directory", "command", "blind"])
@pytest.mark.parametrize("seed", range(6))
def test_an_archive_holds_what_its_archiver_says(kind: str, seed: int) -> None:
    story = Story(1000 + seed, kind).run()
    assert story.acked


def test_the_stories_are_not_harmless() -> None:
    fired: dict[str, int] = {}
    removed = failed = 0
    for seed in range(16):
        story = Story(seed, "directory" if seed % 4 == 3 else "store").run()
        for kind, count in story.world.fired.items():
            fired[kind] = fired.get(kind, 0) + count
        failed += sum(" archive.failed " in line for line in story.log)
        removed += story.removed
    wanted = ["kill", "power_cut", "unsynced_torn", "store.down", "store.error_after", "store.error_before"]
    assert [kind for kind in wanted if not fired.get(kind)] == []
    assert failed > 5 and removed > 20
