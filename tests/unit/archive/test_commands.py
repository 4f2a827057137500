"""An archive behind shell commands: what is put into them, what is believed of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.archive.world import ArchiveWorld
from tests.unit.engine.world import DATA, WAL
from thunderdb.archive.command_store import expand
from thunderdb.archive.place import command_source
from thunderdb.base.errors import ConfigError, StorageError
from thunderdb.wal.segment import segment_name

FIRST = segment_name(1, 1)


class Bucket:
    """The commands `put FILE NAME` and `get NAME FILE` over a dict. Satisfies `ports.Command`."""

    def __init__(self, world: ArchiveWorld, overwrites: bool = True) -> None:
        self.world = world
        self.overwrites = overwrites
        self.objects: dict[str, bytes] = {}
        self.commands: list[str] = []
        self.answer: tuple[int, str] | None = None
        self.lies = False
        self.hangs = False

    async def run(self, command: str, timeout_s: float) -> tuple[int, str]:
        self.commands.append(command)
        if self.hangs:
            raise TimeoutError(command)
        if self.answer is not None:
            return self.answer
        verb, first, second = command.split(" ")[:3]
        if verb == "put":
            if self.lies:
                return 0, ""
            if second in self.objects and not self.overwrites:
                return 1, "object exists"
            self.objects[second] = bytes(self.world.disk.files[first])
            return 0, ""
        if first not in self.objects:
            return 1, "404 not found"
        self.world.disk.files[second] = bytearray(self.objects[first])
        return 0, ""


def bucket_world(restore: bool = True, overwrites: bool = True, **settings: Any) -> tuple[ArchiveWorld, Bucket]:
    more = {"wal_restore_command": "get %n %f"} if restore else {}
    world = ArchiveWorld(**{"wal_archive_command": "put %f %n", **more, **settings})
    bucket = Bucket(world, overwrites)
    world.command = bucket  # type: ignore[assignment]
    return world, bucket


def test_the_command_gets_path_and_name() -> None:
    assert expand("cp %f /b/%n", f"{WAL}/{FIRST}", FIRST) == f"cp {WAL}/{FIRST} /b/{FIRST}"
    assert expand("date +%%Y && cp %f %n", "/w/a", "a") == "date +%Y && cp /w/a a"


@pytest.mark.parametrize("path", ["/w/a b", "/w/$(reboot)", "/w/a;b", "/w/'a'", "/w/a\nb", "-rf", "/w/ü", ""])
def test_nothing_that_means_something_to_a_shell_is_put_into_a_command(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be put into a command"):
        expand("cp %f x", path, "a")


@pytest.mark.parametrize("command", ["cp %p x", "cp %f 100%", "cp %N"])
def test_an_unknown_sequence_is_named(command: str) -> None:
    with pytest.raises(ConfigError, match="means nothing"):
        expand(command, "/w/a", "a")


def test_segments_and_history_go_through_the_command() -> None:
    world, bucket = bucket_world()
    world.start()
    world.insert(world.table(), [1, "one"])
    assert world.switch() == 1
    assert sorted(bucket.objects) == ["00000001.history", FIRST]
    assert bucket.objects[FIRST] == world.local(FIRST)
    assert f"put {WAL}/{FIRST} {FIRST}" in bucket.commands
    assert world.archiver.status().verified
    world.close()


def test_at_a_clean_stop_the_open_segment_is_shipped_whole() -> None:
    world, bucket = bucket_world()
    world.start()
    world.insert(world.table(), [1, "one"])
    world.rest(2)
    world.close()
    assert FIRST in bucket.objects


def test_a_store_that_refuses_to_overwrite_is_fine_with_a_restore_command() -> None:
    world, bucket = bucket_world(overwrites=False)
    world.start()
    world.insert(world.table(), [1, "one"])
    world.switch()
    world.crash()
    del world.disk.files[f"{DATA}/archived"]  # as if the crash had come before it was written
    world.command = bucket  # type: ignore[assignment]
    world.start()
    world.rest(3)
    assert not world.archiver.status().failing
    world.insert(world.again(), [2, "two"])
    world.switch()
    world.close()


def test_exit_0_is_not_believed_when_the_file_cannot_be_fetched() -> None:
    """Complaint: last_archived_time moves on although the file was lost."""
    world, bucket = bucket_world()
    db = world.start()
    world.insert(world.table(), [1, "one"])
    world.rest(2)
    bucket.lies = True
    with pytest.raises(StorageError, match=f"exit status 0, but {FIRST} cannot be fetched: 404 not found"):
        world.switch()
    status = world.archiver.status()
    assert (status.last_archived_segment, status.last_archive_time_us) == ("", 0)
    assert status.failing and db.checkpointer.holds["archive"] == db.log.segments[0][1]
    bucket.lies = False
    world.rest(90)
    assert FIRST in bucket.objects
    world.close()


def test_another_file_under_the_name_is_an_error() -> None:
    world, bucket = bucket_world()
    world.start()
    world.insert(world.table(), [1, "one"])
    world.rest(2)
    bucket.objects[FIRST] = b"theirs"
    with pytest.raises(StorageError, match=f"has another {FIRST}"):
        world.switch()
    assert bucket.objects[FIRST] == b"theirs"


def test_without_a_restore_command_exit_0_counts_with_a_warning() -> None:
    world, bucket = bucket_world(restore=False)
    world.start()
    world.insert(world.table(), [1, "one"])
    world.switch()
    status = world.archiver.status()
    assert not status.verified and status.last_archived_segment == FIRST
    assert len(world.events("archive.unverified")) == 1
    assert not any(command.startswith("get") for command in bucket.commands)
    count = len(bucket.commands)
    world.crash()
    world.command = bucket  # type: ignore[assignment]
    world.start()
    world.rest(3)
    assert len(bucket.commands) == count, "what was archived is remembered, and not shipped again"
    again = world.archiver.status()
    assert again.last_archive_time_us == status.last_archive_time_us
    assert again.total_archived_bytes == status.total_archived_bytes == len(bucket.objects[FIRST])
    world.close()


def test_a_failing_command_is_tried_again_with_what_it_said() -> None:
    world, bucket = bucket_world(restore=False)
    world.start()
    world.insert(world.table(), [1, "one"])
    world.rest(2)
    bucket.answer = (2, "upload failed:\n  403 Forbidden\n")
    with pytest.raises(StorageError, match=f"failed for {FIRST} with exit status 2: upload failed: 403 Forbidden"):
        world.switch()
    bucket.answer = None
    world.rest(10)
    assert FIRST in bucket.objects and not world.archiver.status().failing
    world.close()


def test_a_command_that_hangs_fails_by_its_name_and_without_its_text() -> None:
    world, bucket = bucket_world(restore=False, wal_archive_command="put %f %n --secret=hunter2")
    world.start()
    world.insert(world.table(), [1, "one"])
    world.rest(2)
    bucket.hangs = True
    with pytest.raises(StorageError, match="wal_archive_command did not end within 600 s"):
        world.switch()
    assert "hunter2" not in repr(world.archiver.status()) + repr(world.events("archive.failed"))


def test_a_restore_command_that_cannot_run_is_no_missing_file() -> None:
    world, bucket = bucket_world()
    bucket.answer = (127, "sh: aws: not found")
    source = command_source(world, world.config, None)
    with pytest.raises(StorageError, match="exit status 127: sh: aws: not found"):
        world.run(source.segment(1, 1))


def test_a_source_by_command_finds_segments_histories_and_timelines() -> None:
    world, bucket = bucket_world(wal_archive_compress=True)
    world.start()
    world.insert(world.table(), [1, "x" * 5000])
    world.switch()
    assert f"{FIRST}.zst" in bucket.objects
    source = command_source(world, world.config, None)
    assert world.run(source.segment(1, 1)) == world.local(FIRST)
    assert world.run(source.segment(1, 99)) is None
    assert "# owner" in (world.run(source.history(1)) or "")
    assert world.run(source.timelines()) == [1]
    assert [path for path in world.disk.files if "archive.tmp/" in path] == [], "nothing is left lying around"
    world.close()


def test_what_a_command_missed_once_is_not_taken_for_the_end_of_the_log() -> None:
    """A store that throttles: the command fails once for a file that is there, and fetches the others."""
    world, bucket = bucket_world()
    bucket.objects = {FIRST: b"one", segment_name(1, 2): b"two"}
    source = command_source(world, world.config, None)
    assert world.run(source.segment(1, 1)) == b"one"
    bucket.answer = (7, "503 Slow Down")
    assert world.run(source.segment(1, 2)) is None
    bucket.answer = None
    with pytest.raises(StorageError, match=f"fetches {segment_name(1, 2)}, and did not a moment ago"):
        world.run(source.confirm(segment_name(1, 2)))


def test_what_is_not_there_is_asked_for_again_and_then_believed() -> None:
    world, bucket = bucket_world()
    bucket.objects = {FIRST: b"one"}
    source = command_source(world, world.config, None)
    world.run(source.segment(1, 1))
    assert world.run(source.segment(1, 2)) is None
    world.run(source.confirm(segment_name(1, 2)))
    assert sum(segment_name(1, 2) in command for command in bucket.commands) > 4


def test_an_owner_is_refused_through_a_command_too() -> None:
    world, bucket = bucket_world()
    bucket.objects["00000001.history"] = f"# system {1:016x}\n# owner {2:032x}\n".encode()
    world.start()
    world.insert(world.table(), [1, "one"])
    world.rest(3)
    assert world.archiver.status().refused
    assert sorted(bucket.objects) == ["00000001.history"]
    world.close()


def test_a_store_that_answers_now_and_then_does_not_give_a_timeline_two_owners() -> None:
    """One miss of the history file was believed, and `put`, which overwrites, took the timeline from its owner."""
    world, bucket = bucket_world()
    theirs = f"# owner {2:032x}\n".encode()
    bucket.objects["00000001.history"] = theirs
    left, run = [3], bucket.run

    async def flaky(command: str, timeout_s: float) -> tuple[int, str]:
        if command.startswith("get") and left[0]:
            left[0] -= 1
            return 1, "503 Slow Down"
        return await run(command, timeout_s)

    bucket.run = flaky  # type: ignore[method-assign]
    world.start()
    world.insert(world.table(), [1, "one"])
    world.rest(3)
    assert bucket.objects["00000001.history"] == theirs and world.archiver.status().refused
    world.close()


def test_timelines_are_looked_for_again_when_one_has_come_meanwhile() -> None:
    world, bucket = bucket_world()
    bucket.objects = {f"{number:08X}.history": b"" for number in (1, 2)}
    source, run, asked = command_source(world, world.config, None), bucket.run, list[str]()

    async def late(command: str, timeout_s: float) -> tuple[int, str]:
        asked.append(command)
        if asked.count(command) > 1 and "00000003" in command:
            bucket.objects["00000003.history"] = b""
        return await run(command, timeout_s)

    bucket.run = late  # type: ignore[method-assign]
    assert world.run(source.timelines()) == [1, 2, 3]


def test_what_was_archived_is_written_down_before_the_log_goes() -> None:
    """Simulator, seed 18: killed in between, an archive that cannot be listed seemed to have a gap."""
    world, bucket = bucket_world(restore=False)
    db = world.start()
    table = world.table()
    world.run(db.checkpoint())
    remembered: list[int] = []

    def watch(name: str, fields: dict[str, Any]) -> None:
        if name == "wal.segment_removed":
            remembered.append(json.loads(bytes(world.disk.files[f"{DATA}/archived"]))["number"] - fields["number"])

    db.events.subscribe(watch)
    world.rest(2)
    bucket.answer = (1, "503")  # an outage, so that checkpoints are ahead of the archive
    for row in range(5):
        world.insert(table, [row, "x"])
        db.log.switch_segment()
        world.run(db.checkpoint())
        world.run(db.checkpoint())
    bucket.answer = None
    world.rest(120)
    assert remembered and min(remembered) >= 0
    world.close()
