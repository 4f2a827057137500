"""Verifying a copy made by hand: pages and log, without a manifest to compare with."""

from __future__ import annotations

from thunderdb.backup.verify import VerifyReport
from thunderdb.runtime.ports import ObjectStore, Ports


async def verify_copy(ports: Ports, store: ObjectStore, listed: dict[str, int], report: VerifyReport) -> None:
    report.notes.append("no manifest")
    report.problem("", "a copy without a manifest cannot be verified yet")
