"""What the judge takes for intact in a directory: the bytes, not only the name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from sim.incident.copying import put_file
from sim.incident.evidence import Evidence
from sim.incident.site import Site
from sim.world.image import DiskImage
from thunderdb.backup.manifest import MANIFEST_NAME
from thunderdb.wal.segment import SEGMENT_HEADER_SIZE, SEGMENT_MAGIC

ARCHIVE, SEGMENT = "/mnt/archive", "000000010000000000000001"
PLACE = f"{ARCHIVE}/{SEGMENT}"


def evidence() -> tuple[Evidence, DiskImage]:
    image = DiskImage()
    site: Any = SimpleNamespace(node=SimpleNamespace(image=image), archive=ARCHIVE, spoiled=[], db_=None)
    return Evidence(cast(Site, site)), image


def test_a_file_that_has_other_bytes_than_when_it_was_archived_is_not_intact() -> None:
    looking, image = evidence()
    put_file(image, PLACE, b"log")
    looking.happened("archive.pushed", {"segment": SEGMENT})
    assert looking.intact(PLACE)
    put_file(image, PLACE, b"lag")
    assert not looking.intact(PLACE)
    put_file(image, PLACE, b"log")
    assert looking.intact(PLACE)


def test_a_backups_files_count_from_when_it_is_complete() -> None:
    looking, image = evidence()
    put_file(image, "/mnt/backups/b1/data/pages.000000", b"half")
    put_file(image, "/mnt/backups/b1/data/pages.000000", b"whole")
    looking.happened("sim.backup_complete", {"place": "/mnt/backups/b1"})
    assert looking.intact("/mnt/backups/b1/data/pages.000000")
    put_file(image, "/mnt/backups/b1/data/pages.000000", b"half")
    assert not looking.intact("/mnt/backups/b1/data/pages.000000")
    assert not looking.intact("/mnt/backups/b1/data/pages.000001")


def test_the_zeros_in_a_segments_head_count_in_a_backup_and_not_in_an_archive() -> None:
    looking, image = evidence()
    looking.site.world = cast(Any, SimpleNamespace(store=SimpleNamespace(objects={})))
    segment = SEGMENT_MAGIC + bytes(SEGMENT_HEADER_SIZE)
    hurt = segment[: SEGMENT_HEADER_SIZE - 1] + b"\1" + segment[SEGMENT_HEADER_SIZE:]
    in_backup = f"/mnt/backups/b1/wal/{SEGMENT}"
    put_file(image, f"/mnt/backups/b1/{MANIFEST_NAME}", b"{}")
    for path in (PLACE, in_backup):
        put_file(image, path, segment)
    looking.keep([PLACE, in_backup])
    for path in (PLACE, in_backup):
        put_file(image, path, hurt)
    assert looking.intact(PLACE)
    assert not looking.intact(in_backup)
