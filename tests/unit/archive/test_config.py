"""What the configuration of an archive may be; said before anything is opened."""

from __future__ import annotations

import pytest

from thunderdb.base.config import parse
from thunderdb.base.errors import ConfigError

HEAD = '[storage]\ndata_dir = "/v/data"\nwal_dir = "/v/wal"\nwal_archive_enabled = true\n'


@pytest.mark.parametrize(
    "line",
    [
        'wal_archive_dir = "/backups/wal-archive"',
        'wal_archive_dir = "/v/data2"',
        'wal_archive_command = "aws s3 cp %f s3://b/wal/%n --storage-class STANDARD_IA"',
        'wal_archive_command = "gsutil cp %f gs://b/wal/%n"\nwal_restore_command = "gsutil cp gs://b/wal/%n %f"',
        'wal_archive_command = "date +%%s && cp %f /x/%n"',
    ],
)
def test_the_manuals_archives_are_accepted(line: str) -> None:
    assert parse(HEAD + line).wal_archive_enabled


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "nowhere to archive to"),
        ('wal_archive_dir = "/a"\nwal_archive_command = "cp %f /a"', "wal_archive_dir is set, too"),
        ('wal_archive_dir = "/v/data"', "lies in data_dir"),
        ('wal_archive_dir = "/v/wal/archive"', "lies in wal_dir"),
        ('wal_archive_command = "cp %p /a/%f"', "%p means nothing"),
        ('wal_archive_command = "true"', "does not say which file"),
        ('wal_archive_command = "cp %f /a"\nwal_restore_command = "fetch %n"', "does not say which file"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(line: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse(HEAD + line)


def test_a_path_that_a_shell_would_read_is_refused_where_it_goes_into_a_command() -> None:
    with pytest.raises(ConfigError, match="put into a shell command"):
        parse('[storage]\nwal_dir = "/v/my wal"\nwal_archive_command = "cp %f /a/%n"')
    assert parse('[storage]\nwal_dir = "/v/my wal"').wal_dir == "/v/my wal"
