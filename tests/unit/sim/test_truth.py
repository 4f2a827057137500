"""What the truth of a history demands of a restart."""

from __future__ import annotations

import pytest

from sim.oracle.oracle import PUT, Table, Violation, Work
from sim.oracle.truth import Commit, Recorder


def recorder(sync: bool) -> Recorder:
    """One acknowledged commit, which lies behind where the log will be found to end."""
    found = Recorder(lambda: 0)
    found.base = {"t": Table(("id",), True, {}, {})}
    work = Work(1, sync=sync, outcome="acked")
    found.records.append(Commit(5000, 1, 7, ((PUT, "t", (1,)),), work))
    return found


@pytest.mark.parametrize(("sync", "clean", "excused"), [(True, False, False), (False, False, True), (False, True, False)])
def test_what_was_acknowledged_without_a_sync_may_be_lost_by_a_crash_only(sync: bool, clean: bool, excused: bool) -> None:
    found = recorder(sync)
    if excused:
        assert found.settle(dict(found.base), 4000, clean) == 1
    else:
        with pytest.raises(Violation, match="was acknowledged, the log ends at"):
            found.settle(dict(found.base), 4000, clean)
