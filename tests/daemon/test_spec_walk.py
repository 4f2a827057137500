"""The manual's chapter, walked on real processes: docs/backup-and-recovery.md must have the shape of what they answer today."""

from __future__ import annotations

import shutil

import pytest

from tools import spec_walk

pytestmark = pytest.mark.daemon


def test_the_manual_from_top_to_bottom() -> None:
    for tool in ("curl", "jq", "psql", "rsync", "flock"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    fresh = spec_walk.render(spec_walk.walk(say=False))
    stale = spec_walk.differences(spec_walk.DOCUMENT.read_text(), fresh)
    assert not stale, "docs/backup-and-recovery.md is stale: run `python -m tools.spec_walk`\n" + "\n".join(stale)


def test_the_comparison_sees_a_missing_line_and_passes_over_numbers() -> None:
    one = "Backup time: 2026-01-15T10:30:45Z\nLSN: 0/1A3B4C5D\nData pages: 8192 (verified)\n"
    two = "Backup time: 2027-02-16T11:31:46Z\nLSN: 0/2\nData pages: 7 (verified)\n"
    assert spec_walk.differences(one, two) == []
    assert spec_walk.differences(one, two.replace("(verified)", "(checked)"))
    assert spec_walk.differences(one, two.replace("LSN: 0/2\n", ""))
