"""Was this recoverable? An independent look at what backups and archive hold, compared with what the engine did.

The judge keeps the bytes of every closed segment and of every backup as they were when they were whole; it reads the store's
objects, not the engine's answers. From a backup, the log can be followed segment by segment as long as each next one is
there, in the backup or in the archive, with its right bytes. That far, and no further, a restore must be able to go.

J1. What the judge finds impossible must have been refused; what it finds possible must not have been.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.scenario import Promises
from sim.site import Site

if TYPE_CHECKING:
    from sim.actions import Actions


class Judge:
    """Looks on during one run."""

    def __init__(self, site: Site, actions: Actions) -> None:
        self.site = site
        self.actions = actions
        self.problems: list[str] = []

    def recovered(self) -> None:
        """A recovery has ended with service: compare where it ended with what is promised."""
        wanted = self.site.scenario.promises.recovered_to
        if wanted == "backup_end":
            ends = {manifest.end_lsn for manifest in self.actions.manifests.values()}
            if self.actions.recovered_lsn not in ends:
                shown = ", ".join(f"{end:#x}" for end in sorted(ends))
                self.problems.append(f"recovered to {self.actions.recovered_lsn:#x}, but backups end at {shown}")

    def verdict(self, promises: Promises, refused: bool) -> list[str]:
        return list(self.problems)
