"""What is checked when a history is over: each copy opened, each backup verified, targets restored, on machines of their own.

H1. A copy is a prefix of the truth with all that was acknowledged before it was begun; it opens, checks out and works.
H2. Every backup that was said to be complete is there, unless retention has removed it, and verifies.
H3. A target restores to exactly what it names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from sim.clients.history_database import HistoryDatabase
from sim.history.shape import Outcome, Shape
from sim.history.targets import Aim, Elsewhere, aims, at_end, latest, seed_of, serves
from sim.history.vault import Vault
from sim.incident.copying import HandCopy
from sim.oracle.oracle import Violation
from sim.oracle.truth import Line, Recorder, below
from sim.scenario.scenario import Workload
from sim.world.fates import AllLanded
from sim.world.image import DiskImage
from sim.world.rand import Stream
from sim.world.world import SimNode, World
from thunderdb.backup.manifest import MANIFEST_NAME
from thunderdb.base.config import Config
from thunderdb.base.ids import format_lsn


class HistoryChecks(ABC):
    """The part of `History` that asks whether all is there."""

    seed: int
    shape: Shape
    outcome: Outcome
    world: World
    node: SimNode
    stream: Stream
    log: list[str] | None
    vault: Vault | None
    recorder: Recorder
    workload: Workload
    copies: list[HandCopy]
    stopped: bool

    @property
    @abstractmethod
    def data_dir(self) -> str: ...

    @property
    @abstractmethod
    def wal_dir(self) -> str: ...

    @abstractmethod
    def config(self) -> Config: ...

    @abstractmethod
    def note(self, text: str) -> None: ...

    def check(self) -> None:
        """Everything that can be restored from, restored. Raises: Violation."""
        for copy in self.copies:
            if copy.complete:
                self._check_copy(copy)
        self._check_backups()
        self._check_aims()

    def _check_copy(self, copy: HandCopy) -> None:
        """Open the copy on a machine of its own: a prefix of the truth that holds all of C2, and a database that works."""
        self.outcome.counts["copies opened"] += 1
        image = DiskImage()
        copy.lay(image, {"data": self.data_dir, "wal": self.wal_dir})
        elsewhere = self._elsewhere(image, "copy")
        try:
            commits, _end = elsewhere.compare(replace(self.config(), wal_archive_enabled=False), HistoryDatabase, copy.known)
        finally:
            elsewhere.close()
        there = {commit.lsn for commit in commits}
        missing = [commit for commit in copy.must if commit.lsn not in there]
        if missing:
            raise Violation(f"transaction {missing[0].txn}, acknowledged before wal/ was copied, is not in the copy")

    def _elsewhere(self, image: DiskImage, name: str) -> Elsewhere:
        self.outcome.counts[f"machines.{name}"] += 1
        seed = seed_of(self.seed, f"{name}.{self.outcome.counts[f'machines.{name}']}")
        image.power_cut(AllLanded())  # long ago: the cache has been written out
        elsewhere = Elsewhere(seed, image, self.world, self.outcome.counts)
        if self.log is not None:
            elsewhere.log = self.note
        return elsewhere

    def _places(self) -> list[str]:
        """Every backup that looks complete."""
        vault = self.vault
        if vault is None:
            return []
        suffix = f"/{MANIFEST_NAME}"
        everything = [*self.node.image.names, *self.world.store.objects]
        found = [path.removesuffix(suffix) for path in everything if path.startswith(vault.backups) and path.endswith(suffix)]
        return sorted(place for place in found if not place.endswith(".partial"))

    def _check_backups(self) -> None:
        """V1: all that was promised is there, and all that is there verifies."""
        vault, places = self.vault, self._places()
        if vault is None:
            return
        missing = [taken.place for taken in vault.taken if taken.place not in places and not taken.removed]
        if missing:
            raise Violation(f"backup {missing[0]} was completed, and is gone")
        elsewhere = self._elsewhere(self.node.image.fork(), "verify")
        try:
            elsewhere.verify(self.config(), places)
        finally:
            elsewhere.close()
        self.outcome.counts["backups"] += len(vault.taken)
        self.outcome.counts["backups nobody was told of"] += len(places) - sum(1 for taken in vault.taken if not taken.removed)

    def _aims(self, line: Line, count: int) -> list[Aim]:
        vault = self.vault
        if vault is None:
            return []
        return aims(line, vault.usable(line), vault.archived.get(line.number, 0), self.stream, count, vault.window_us)

    def _check_aims(self) -> None:
        vault, line = self.vault, self.recorder.line
        if vault is None or not vault.taken or self.stopped:
            return
        archived_lsn = vault.archived.get(line.number, 0)
        for aim in self._aims(line, self.stream.between(*self.shape.aims)):
            self._check_aim(vault, line, aim, "")
        # Over an archive that never got anything `latest` is refused (it could be one that is not mounted), and a line of which
        # nothing was ever shipped is not followed.
        if archived_lsn and vault.usable(line):
            self._check_aim(vault, line, replace(latest(line, archived_lsn), sure=True), "")
        left = [taken for taken in vault.usable(line) if not taken.removed]
        if left:  # whatever retention has taken away, each backup restores to its own end
            taken = self.stream.choice(left)
            self._check_aim(vault, line, at_end(line, taken), taken.place)

    def _check_aim(self, vault: Vault, line: Line, aim: Aim, place: str) -> None:
        """Restore to the aim on another machine: exactly what it names is there."""
        usable = [taken.place for taken in vault.usable(line) if not taken.removed and serves(taken, aim)]
        if not place:
            place = self.stream.choice(usable) if usable and not vault.cleaned and self.stream.random() < 0.4 else vault.backups
        config = replace(self.config(), data_dir="/srv/restored/data", wal_dir="/srv/restored/wal")
        self.note(f"aim {aim.text} cut {format_lsn(aim.cut_lsn)} {len(aim.commits)} commits, sure {aim.sure}, from {place}")
        elsewhere = self._elsewhere(self.node.image.fork(), "restore")
        try:
            report = elsewhere.restore(config, vault, aim, place, HistoryDatabase, line.number)
            if report is None:
                return
            self.outcome.counts["restored"] += 1
            commits = list(aim.commits)
            self._check_stop(aim, report.stop_lsn)
            if aim.text == "latest":
                commits = below(line.path(), report.stop_lsn)
            elsewhere.compare(config, HistoryDatabase, [], commits)
            if elsewhere.stream.random() < 0.3:
                elsewhere.go_on(config, HistoryDatabase, commits, self.workload)
                self.outcome.counts["went on"] += 1
        except Violation as error:
            raise Violation(f"target {aim.text} from {place}: {error}") from error
        finally:
            elsewhere.close()

    def _check_stop(self, aim: Aim, stop_lsn: int) -> None:
        if aim.text == "latest":
            if stop_lsn < aim.cut_lsn:
                raise Violation(f"latest ended at {stop_lsn:#x}, the archive was said to have {aim.cut_lsn:#x}")
        elif aim.text.startswith("lsn:") and stop_lsn != aim.cut_lsn:
            raise Violation(f"{aim.text} was cut at {stop_lsn:#x}, not at {aim.cut_lsn:#x}")
