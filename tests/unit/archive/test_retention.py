"""Retention: each rule by name, and that no time in the window ever loses its way back, over random histories."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thunderdb.archive.retention import (
    ArchiveFacts,
    BackupFacts,
    Decision,
    Hold,
    Policy,
    SegmentFacts,
    good_backups,
    plan_retention,
    reaches,
    window_of,
)

DAY = 86_400_000_000
POLICY = Policy({"daily": 7 * DAY, "weekly": 30 * DAY, "monthly": 366 * DAY, "incremental": 7 * DAY}, 7 * DAY, 1)


def backup(day: int, **changes: object) -> BackupFacts:
    """A backup at the end of a day; the log has ten segments a day."""
    facts = BackupFacts(
        f"full-{day}", f"bk-{day}", True, "daily", True, 1, day * 1000, day * 1000 + 10, day * DAY, day * DAY + 1, 10 * day,
        10 * day + 1,
    )  # fmt: skip
    return replace(facts, **changes)  # type: ignore[arg-type]


def incremental(day: int, base: int, **changes: object) -> BackupFacts:
    own = {"full": False, "label": "incremental", "base_id": f"bk-{base}", "object": f"incr-{day}", **changes}
    return backup(day, **own)


def log(first: int, last: int, timeline: int = 1) -> list[SegmentFacts]:
    return [SegmentFacts(f"{timeline:08X}{number:016X}", timeline, number) for number in range(first, last + 1)]


def archive(segments: list[SegmentFacts], **changes: object) -> ArchiveFacts:
    return ArchiveFacts(**{"segments": segments, "current_timeline": 1, **changes})  # type: ignore[arg-type]


def kept(decisions: list[Decision], kind: str) -> list[str]:
    return sorted(decision.object for decision in decisions if decision.keep and decision.kind == kind)


def reason(decisions: list[Decision], name: str) -> str:
    return next(decision.reason for decision in decisions if decision.object == name)


def test_daily_backups_go_after_their_time_and_their_log_with_them() -> None:
    plan = plan_retention([backup(day) for day in range(1, 21)], archive(log(1, 210)), POLICY, 21 * DAY)
    assert kept(plan, "backup") == sorted(f"full-{day}" for day in range(13, 21))
    assert reason(plan, "full-13").startswith("needed") and "daily, kept until" in reason(plan, "full-14")
    assert kept(plan, "segment") == [segment.object for segment in log(130, 210)], "from the last backup before the window on"
    assert "daily, its time ended" in reason(plan, "full-12")


def test_the_anchor_before_the_window_stays_although_its_time_is_over() -> None:
    plan = plan_retention([backup(1), backup(20)], archive(log(1, 210)), POLICY, 21 * DAY)
    assert kept(plan, "backup") == ["full-1", "full-20"]
    assert reason(plan, "full-1") == "needed because every time since 1970-01-15T00:00:00Z must stay restorable"
    assert len(kept(plan, "segment")) == 201 and not plan[-1].reason == ""


def test_the_newest_good_backup_and_minimum_redundancy_count_good_full_ones_only() -> None:
    old = [backup(1), backup(2), incremental(3, 2), incremental(4, 3), backup(5, whole=False)]
    plan = plan_retention(old, archive([]), replace(POLICY, minimum_redundancy=2), 400 * DAY)
    assert kept(plan, "backup") == ["full-1", "full-2", "incr-3", "incr-4"]
    assert reason(plan, "incr-4") == "the newest good backup"
    assert reason(plan, "full-2").startswith("one of the newest 2 full backups") and "stands on it" in reason(plan, "incr-3")
    assert reason(plan, "full-1").startswith("one of the newest 2 full backups"), "incremental ones do not count as full"


def test_a_kept_incremental_keeps_its_whole_chain() -> None:
    chain = [backup(1), incremental(2, 1), incremental(3, 2, label="monthly"), *[backup(day) for day in range(90, 101)]]
    plan = plan_retention(chain, archive(log(900, 1010)), POLICY, 101 * DAY)
    assert {"full-1", "incr-2", "incr-3"} <= set(kept(plan, "backup"))
    assert "bk-2 stands on it" in reason(plan, "full-1") and "bk-3 stands on it" in reason(plan, "incr-2")


def test_an_incremental_without_its_base_is_not_good() -> None:
    assert good_backups([incremental(2, 1), backup(3)]) == [backup(3)]
    assert good_backups([backup(1, whole=False), incremental(2, 1)]) == []


def test_manual_and_unreadable_ones_go_only_by_hand() -> None:
    plan = plan_retention(
        [backup(1, label="manual"), backup(2, label="unreadable", whole=False), backup(200)], archive([]), POLICY, 201 * DAY
    )
    assert kept(plan, "backup") == ["full-1", "full-2", "full-200"]
    assert "goes only by hand" in reason(plan, "full-1") and "cannot be read" in reason(plan, "full-2")


def test_an_old_backup_without_log_of_its_own_keeps_exactly_that_log() -> None:
    old = backup(2, label="monthly", include_wal=False, last_segment=24)
    plan = plan_retention([old, *[backup(day) for day in range(90, 101)]], archive(log(1, 1010)), POLICY, 101 * DAY)
    assert kept(plan, "segment") == [s.object for s in [*log(20, 24), *log(930, 1010)]]
    assert "bk-2 has no log of its own" in reason(plan, log(20, 20)[0].object)


def test_without_a_good_backup_all_log_stays() -> None:
    plan = plan_retention([backup(1, whole=False)], archive(log(1, 50)), POLICY, 900 * DAY)
    assert len(kept(plan, "segment")) == 50 and "no good backup is known" in plan[-1].reason


def test_log_goes_only_when_a_backup_shows_that_it_is_older_than_the_window() -> None:
    """There may be backups that we do not know: a copy by hand of day 18 needs the log since then."""
    plan = plan_retention([backup(20)], archive(log(1, 210)), POLICY, 21 * DAY)
    assert len(kept(plan, "segment")) == 210 and "no backup was taken before that" in reason(plan, log(1, 1)[0].object)
    later = plan_retention([backup(20)], archive(log(1, 300)), POLICY, 28 * DAY)
    assert kept(later, "segment") == [segment.object for segment in log(200, 300)]


def test_holds_stop_everything_below_them_until_they_expire() -> None:
    backups = [backup(day) for day in range(1, 21)]
    hold = Hold("restore-1", 21 * DAY + 1, ("bk-3",), 30)
    plan = plan_retention(backups, archive(log(1, 210)), POLICY, 21 * DAY, [hold])
    assert "full-3" in kept(plan, "backup") and "full-4" not in kept(plan, "backup")
    assert kept(plan, "segment") == [segment.object for segment in log(30, 210)]
    late = plan_retention(backups, archive(log(1, 210)), POLICY, 21 * DAY + 2, [hold])
    assert "full-3" not in kept(late, "backup") and len(kept(late, "segment")) == 71
    everything = plan_retention(backups, archive(log(1, 210)), POLICY, 21 * DAY, [Hold("all", 22 * DAY)])
    assert all(decision.keep for decision in everything)


def test_a_partial_goes_once_the_closed_one_is_there_and_others_stay() -> None:
    partial = [SegmentFacts("x1.partial", 1, 201, True), SegmentFacts("x2.partial", 1, 211, True)]
    facts = archive([*log(200, 210), *partial], others=["00000001.history"])
    plan = plan_retention([backup(20)], facts, POLICY, 21 * DAY)
    assert [d.object for d in plan if not d.keep] == ["x1.partial"]
    assert reason(plan, "00000001.history") == "kept always"


def test_an_abandoned_timeline_goes_when_its_present_left_the_window() -> None:
    histories = {2: {1: 10_500}}
    backups = [backup(day) for day in range(1, 13)] + [backup(day, timeline=2) for day in range(13, 40)]
    segments = [*log(1, 130), *log(105, 410, 2)]
    facts = archive(segments, histories=histories, current_timeline=2, newest_us={1: 13 * DAY, 2: 41 * DAY})
    soon = plan_retention(backups, facts, POLICY, 15 * DAY)
    assert {s.object for s in log(80, 130)} <= set(kept(soon, "segment")), "times on timeline 1 are within the window"
    late = plan_retention(backups, facts, POLICY, 41 * DAY)
    assert not [name for name in kept(late, "segment") if name.startswith("00000001")]
    assert kept(late, "segment") == [s.object for s in log(330, 410, 2)]


def test_reach_follows_histories() -> None:
    facts = archive([], histories={2: {1: 5000}})
    assert reaches(backup(4), facts, 2) and not reaches(backup(6), facts, 2) and not reaches(backup(4, timeline=2), facts, 1)
    assert window_of([backup(4), backup(6)], replace(facts, newest_us={2: 9 * DAY}), 2) == (4 * DAY, 9 * DAY)
    assert window_of([], facts, 1) is None


def test_a_backup_without_a_commit_makes_no_window_since_1970() -> None:
    assert window_of([backup(4, end_time_us=0)], archive([]), 1) == (4 * DAY + 1, 4 * DAY + 1)


# ---- random histories -------------------------------------------------------------------------------------------------------
# A world in which a µs of life on a timeline is a byte of log, and a segment holds ten of them.

SEGMENT = 10


@dataclass(frozen=True)
class World:
    backups: list[BackupFacts]
    facts: ArchiveFacts
    policy: Policy
    now_us: int
    lives: dict[int, tuple[int, int, int]]
    """timeline → (LSN at which it began, time at which it began, time of its last byte)"""

    def restorable(self, timeline: int, time_us: int, backups: list[BackupFacts], segments: set[tuple[int, int]]) -> bool:
        """By brute force, from the definition: a good backup before the time, and every byte of log up to it."""
        born_lsn, born_us, _ = self.lives[timeline]
        target_lsn = born_lsn + time_us - born_us
        for candidate in good_backups(backups):
            if candidate.end_time_us > time_us or not reaches(candidate, self.facts, timeline):
                continue
            own = set(range(candidate.first_segment, candidate.last_segment + 1)) if candidate.include_wal else set()
            path = range(candidate.first_segment, target_lsn // SEGMENT + 1)
            if all(number in own or (self.owner(timeline, number * SEGMENT), number) in segments for number in path):
                return True
        return False

    def owner(self, timeline: int, lsn: int) -> int:
        for ancestor, left_at in sorted(self.facts.histories.get(timeline, {}).items()):
            if lsn < left_at:
                return ancestor
        return timeline


@st.composite
def worlds(draw: st.DrawFn) -> World:
    lives, histories = {1: (0, 0, draw(st.integers(30, 300)))}, {1: {}}
    if draw(st.booleans()):  # a recovery to some time of timeline 1, at some later time
        left_at = draw(st.integers(10, lives[1][2])) // SEGMENT * SEGMENT
        born_us = lives[1][2] + draw(st.integers(1, 50))
        lives[2], histories[2] = (left_at, born_us, born_us + draw(st.integers(20, 300))), {1: left_at}
    backups: list[BackupFacts] = []
    for index in range(draw(st.integers(0, 8))):
        timeline = draw(st.sampled_from(sorted(lives)))
        born_lsn, born_us, died_us = lives[timeline]
        end_us = draw(st.integers(born_us, died_us))
        end_lsn = born_lsn + end_us - born_us
        keep_lsn = max(born_lsn, end_lsn - draw(st.integers(0, 25)))
        base = draw(st.sampled_from([b for b in backups if b.timeline == timeline and b.end_lsn <= end_lsn] or [None]))
        full = base is None or draw(st.booleans())
        backups.append(
            BackupFacts(
                f"b{index}",
                f"bk{index}",
                full,
                draw(st.sampled_from(["daily", "weekly", "incremental", "manual"])),
                draw(st.integers(0, 9)) > 0,
                timeline,
                keep_lsn,
                end_lsn,
                end_us,
                end_us + draw(st.integers(0, 5)),
                keep_lsn // SEGMENT,
                end_lsn // SEGMENT,
                draw(st.booleans()),
                "" if full else base.backup_id,
            )  # fmt: skip
        )
    segments = [
        SegmentFacts(f"{timeline}-{number}", timeline, number)
        for timeline, (born_lsn, born_us, died_us) in lives.items()
        for number in range(born_lsn // SEGMENT, (born_lsn + died_us - born_us) // SEGMENT + 1)
    ]
    current = max(lives)
    now_us = lives[current][2] + draw(st.integers(0, 200))
    known = {timeline: life[2] for timeline, life in lives.items() if draw(st.booleans())}
    facts = ArchiveFacts(segments, histories, known, current)
    keep = {"daily": draw(st.integers(1, 100)), "weekly": draw(st.integers(1, 300)), "incremental": draw(st.integers(1, 100))}
    return World(backups, facts, Policy(keep, draw(st.integers(1, 400)), draw(st.integers(1, 3))), now_us, lives)


def losses(world: World, plan: list[Decision]) -> list[tuple[int, int]]:
    """Times of the window that could be restored before and cannot be restored afterwards."""
    gone = {decision.object for decision in plan if not decision.keep}
    backups = [item for item in world.backups if item.object not in gone]
    before = {(segment.timeline, segment.number) for segment in world.facts.segments}
    after = {(segment.timeline, segment.number) for segment in world.facts.segments if segment.object not in gone}
    window_us = world.now_us - world.policy.wal_retention_us
    return [
        (timeline, time_us)
        for timeline, (_, born_us, died_us) in world.lives.items()
        for time_us in range(max(born_us, window_us), died_us + 1)
        if world.restorable(timeline, time_us, world.backups, before)
        and not world.restorable(timeline, time_us, backups, after)
    ]


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_no_time_in_the_window_loses_its_way_back(world: World) -> None:
    plan = plan_retention(world.backups, world.facts, world.policy, world.now_us)
    assert losses(world, plan) == []
    keep = {decision.object for decision in plan if decision.keep}
    remaining = [item for item in world.backups if item.object in keep]
    good = good_backups(world.backups)
    assert good_backups(remaining)[:1] == good[:1], "the newest good backup stays, and stays good"
    full = [item for item in good if item.full]
    assert len([item for item in good_backups(remaining) if item.full]) >= min(len(full), world.policy.minimum_redundancy)
    assert all(item in good_backups(remaining) for item in good if item.object in keep), "who stays, stays good"
    segments = {(s.timeline, s.number) for s in world.facts.segments if s.object in keep}
    for item in good:
        if item.object in keep:
            assert world.restorable(item.timeline, item.end_time_us, [*remaining], segments), f"{item.object} has lost its log"


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_running_it_twice_changes_nothing_more(world: World) -> None:
    plan = plan_retention(world.backups, world.facts, world.policy, world.now_us)
    keep = {decision.object for decision in plan if decision.keep}
    facts = replace(world.facts, segments=[s for s in world.facts.segments if s.object in keep])
    again = plan_retention([b for b in world.backups if b.object in keep], facts, world.policy, world.now_us)
    assert [decision.object for decision in again if not decision.keep] == []


def naive(world: World) -> list[Decision]:
    """What other tools were caught doing: everything older than its time goes."""
    limit_us = world.now_us - world.policy.wal_retention_us
    plan = [Decision(b.object, "backup", b.finished_us > limit_us, "") for b in world.backups]
    times = {timeline: (born_lsn, born_us) for timeline, (born_lsn, born_us, _) in world.lives.items()}
    for segment in world.facts.segments:
        born_lsn, born_us = times[segment.timeline]
        plan.append(Decision(segment.object, "segment", (segment.number + 1) * SEGMENT - born_lsn + born_us > limit_us, ""))
    return plan


def test_the_property_sees_what_deleting_by_age_breaks() -> None:
    lives = {1: (0, 0, 300)}
    one = BackupFacts("b0", "bk0", True, "daily", True, 1, 95, 100, 100, 101, 9, 10)
    segments = [SegmentFacts(f"1-{number}", 1, number) for number in range(31)]
    world = World([one], ArchiveFacts(segments, {1: {}}, {}, 1), Policy({"daily": 50}, 50, 1), 300, lives)
    assert len(losses(world, naive(world))) == 51, "all of the window"
    assert losses(world, plan_retention([one], world.facts, world.policy, 300)) == []


@pytest.mark.parametrize("missing", ["b0", "1-12"])
def test_the_property_sees_a_single_wrong_removal(missing: str) -> None:
    lives = {1: (0, 0, 300)}
    one = BackupFacts("b0", "bk0", True, "daily", True, 1, 95, 100, 100, 101, 9, 10)
    segments = [SegmentFacts(f"1-{number}", 1, number) for number in range(31)]
    world = World([one], ArchiveFacts(segments, {1: {}}, {}, 1), Policy({"daily": 50}, 50, 1), 300, lives)
    plan = [replace(d, keep=d.keep and d.object != missing) for d in plan_retention([one], world.facts, world.policy, 300)]
    assert losses(world, plan)
