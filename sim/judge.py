"""Was this recoverable? An independent look at what backup and archive hold, compared with what the engine did.

The judge remembers every object as it was first put, and reads the store's objects, not the engine's answers. A restore to the
latest point is possible exactly if each object of the backup (and of those that it stands on), and each segment that was
archived since it was complete, is there with its first bytes.

J1. What the judge finds impossible must be refused; what it finds possible must not be.
J2. It has an opinion only where it can know: backups and archives in object stores, the target `latest`, no drill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.scenario import Promises
from sim.site import Site
from sim.steps import Step
from thunderdb.archive.names import parse_object_name

if TYPE_CHECKING:
    from sim.actions import Actions


class Judge:
    """Looks on during one run."""

    def __init__(self, site: Site, actions: Actions) -> None:
        self.site = site
        self.actions = actions
        self.problems: list[str] = []

    def why_not(self, step: Step) -> str | None:
        """Why a restore cannot succeed, empty if it must; None where the judge has no opinion (J2)."""
        args, archive = step.args, self.site.config.wal_archive_dir
        name = args.get("backup", "")
        if args.get("target", "latest") != "latest" or args.get("drill") or "archive" in args or "timeline" in args:
            return None
        if any(".partial" in spoiled for spoiled in self.site.spoiled):
            return None  # how much of a damaged tail is still of use, the engine may decide
        if name not in self.actions.manifests or "://" not in archive or "://" not in self.actions.places[name]:
            return None
        manifests = {manifest.backup_id: other for other, manifest in self.actions.manifests.items()}
        while True:
            place, complete = self.actions.places[name] + "/", sorted(self.actions.archived_at[name])
            trouble = self._changed([url for url in complete if url.startswith(place)])
            base = self.actions.manifests[name].base
            if trouble or base is None:
                break
            name = manifests[base.backup_id]
        return trouble or self._changed(self._segments_since(args["backup"], archive))

    def _first(self) -> dict[str, bytes]:
        return self.site.world.store.first

    def _segments_since(self, name: str, archive: str) -> list[str]:
        """Closed segments that were archived after the backup was complete."""
        before = self.actions.archived_at[name]
        found = []
        for url in self._first():
            parsed = parse_object_name(url[len(archive) + 1 :]) if url.startswith(archive + "/") else None
            if parsed is not None and not parsed.partial and url not in before:
                found.append(url)
        return found

    def _changed(self, urls: list[str]) -> str:
        objects = self.site.world.store.objects
        for url in urls:
            if url not in objects:
                return f"{url} is gone"
            if objects[url][0] != self._first()[url]:
                return f"{url} is not as it was"
        return ""

    def ended(self, step: Step, why_not: str | None, outcome: str) -> None:
        """J1."""
        if why_not and outcome == "ok":
            self.problems.append(f"line {step.line}: restored, although {why_not}")
        elif why_not == "" and outcome == "refused":
            said = self.actions.refusals[-1]
            self.problems.append(f"line {step.line}: refused, although backup and archive are whole: {said}")

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
