"""The steps of the walk through the manual: its commands, its answers, and what ours must have."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Step:
    """One command. `manual` is the answer that the manual prints; `expect` are patterns that ours must match.

    `keep` names parts of the answer for later commands, which write them in braces. `load`: "start" or "stop" the load first.
    """

    section: str
    title: str
    command: str
    manual: str = ""
    text: str = ""
    remark: str = ""
    expect: tuple[str, ...] = ()
    keep: dict[str, str] = field(default_factory=dict)
    status: int = 0
    hidden: bool = False
    load: str | None = None


HEAD = """\
# Backup and recovery

Written by `python -m tools.spec_walk`, which runs every command below on real processes; a test runs it again and compares the
shape of each answer. Paths are the manual's; in the walk they lie below one scratch folder.

What each part is: [configuration.md](configuration.md) has the keys, [metrics.md](metrics.md) the metrics,
[admin-api.md](admin-api.md) the endpoints, [complaints.md](complaints.md) what users of other tools suffer from and the test that
keeps it from ours. `make demo` does the whole round under load.
"""

FULL, MANUAL, ARCHIVE = "Full backup", "Manual full backup", "Incremental backup: WAL archiving"
PITR, CRASH, SCHEDULE, DR = "Point-in-time recovery", "WAL-based recovery", "Schedule, retention, alerts", "Disaster recovery"

POLL = """\
while true; do
  STATUS=$(curl -s http://localhost:8088/admin/backup/status/{backup_id} | jq -r .status)
  [ "$STATUS" != completed ] && [ "$STATUS" != failed ] || break
  sleep 0.2
done; echo "$STATUS\""""

STEPS: tuple[Step, ...] = (
    Step(FULL, "setup", "sudo systemctl start thunderdb", hidden=True),
    Step(
        FULL, "load", """\
psql -q -h localhost -U admin thunderdb <<'SQL'
CREATE TABLE orders (id int PRIMARY KEY, customer text NOT NULL, amount int NOT NULL);
CREATE TABLE your_table (id int PRIMARY KEY);
INSERT INTO orders SELECT g, 'customer ' || g % 97, g % 500 FROM generate_series(1, 20000) g;
INSERT INTO your_table SELECT g FROM generate_series(1, 1000) g;
SQL""", hidden=True,
    ),
    Step(
        FULL, "Online backup",
        """\
curl -X POST http://localhost:8088/admin/backup \\
  -H "Content-Type: application/json" \\
  -d '{
    "destination": "/backups/thunderdb/full-2026-01-15",
    "include_wal": true,
    "compress": true
  }' 2>/dev/null | jq .""",
        manual="""\
{
  "status": "started",
  "backup_id": "bk-20260115-103045",
  "destination": "/backups/thunderdb/full-2026-01-15",
  "estimated_size_bytes": 5368709120
}""",
        text="It runs while clients write: a thread inserts rows all the time from here on.",
        expect=(r'"status": "started"', r'"backup_id": "bk-\d{8}-\d{6}"', r'"estimated_size_bytes": \d+'),
        keep={"backup_id": r'"backup_id": "([^"]+)"'}, load="start",
    ),
    Step(FULL, "Until it has ended", POLL, text="As the manual's script does it: the loop ends on `completed` or `failed`.", expect=("^completed$",)),
    Step(
        FULL, "Its progress and its end", "curl -s http://localhost:8088/admin/backup/status/{backup_id} | jq .",
        text="The manual does not print this answer; ours has what a script or a person may want to know.",
        expect=(r'"status": "completed"', r'"progress": 1', r'"error": null'),
    ),
    Step(
        FULL, "An unknown backup", "curl -s -w '%{http_code}\\n' http://localhost:8088/admin/backup/status/bk-19700101-000000",
        text="The status is `failed`, so that a script that waits ends.", expect=("failed", "404"),
    ),
    Step(
        FULL, "A destination that exists",
        """curl -s -w '%{http_code}\\n' -X POST http://localhost:8088/admin/backup -d '{"destination": "/backups/thunderdb/full-2026-01-15"}'""",
        text="Nothing is ever written over.", expect=("409", "exists"),
    ),
    Step(
        FULL, "Backup contents", "cd /backups/thunderdb/full-2026-01-15 && find . -type f | sort",
        text="As the manual's table has it: `data/`, `wal/`, `thunderdb.toml` (without secrets) and `backup_manifest.json`.",
        expect=(r"^\./backup_manifest\.json$", r"^\./data/", r"^\./wal/", r"^\./thunderdb\.toml$"),
    ),
    Step(
        FULL, "Verifying a backup", "thunderdb --verify-backup /backups/thunderdb/full-2026-01-15",
        manual="""\
Backup verification: PASSED
Backup time: 2026-01-15T10:30:45Z
LSN: 0/1A3B4C5D
Data pages: 8192 (verified)
WAL segments: 12 (verified)
Checksum: OK""",
        expect=(
            r"\ABackup verification: PASSED\nBackup time: \S+Z\nLSN: \S+\nData pages: \d+ \(verified\)\nWAL segments: \d+ "
            r"\(verified\)\nChecksum: OK\Z",
        ),
    ),
    Step(
        FULL, "Deeper: restore it and check the database", "thunderdb --verify-backup /backups/thunderdb/full-2026-01-15 --deep",
        expect=("PASSED", "Deep check: restored to"),
    ),
    Step(
        FULL, "From the command line", "thunderdb --backup /backups/thunderdb/full-2026-01-16",
        text="The same by the command, with a progress bar on a terminal.", expect=("^Backup completed: bk-",),
    ),
    Step(
        FULL, "A flipped byte",
        """\
cp -r /backups/thunderdb/full-2026-01-16 /backups/thunderdb/damaged
printf '\\xff' | dd of=$(ls /backups/thunderdb/damaged/data/pages.* | head -1) bs=1 seek=20000 conv=notrunc status=none
thunderdb --verify-backup /backups/thunderdb/damaged; echo "exit status $?"; rm -r /backups/thunderdb/damaged""",
        text="Whatever is wrong, the exit status says so.", expect=("^Backup verification: FAILED$", "^First problem: data/pages", "^exit status 1$"),
    ),
    Step(
        FULL, "An incremental backup", "thunderdb --backup /backups/thunderdb/incr-2026-01-16 --incremental --compress",
        text="Only pages that changed since the backup that it stands on. It verifies and restores as one with its chain.",
        expect=("^Backup completed: bk-",),
    ),
    Step(FULL, "Its chain is verified, too", "thunderdb --verify-backup /backups/thunderdb/incr-2026-01-16", expect=("PASSED", "Chain: 2 backups")),
    Step(FULL, "All of them", "curl -s http://localhost:8088/admin/backups | jq -r '.backups[] | [.backup_id, .status, .type, .destination] | @tsv'",
         expect=("completed",)),
    # ---- by hand
    Step(MANUAL, "its folder", "mkdir -p /backups/thunderdb/full-by-hand", hidden=True),
    Step(
        MANUAL, "Checkpoint, copy data, copy log, under load",
        """\
# 1. Force a checkpoint to flush dirty pages to disk
curl -s -X POST http://localhost:8088/admin/checkpoint; echo

# 2. Copy the data directory
sudo -u thunder rsync -a \\
  /var/lib/thunderdb/data/ \\
  /backups/thunderdb/full-by-hand/data/

psql -At -h localhost -U admin thunderdb -c "SELECT count(*) FROM orders" >/backups/thunderdb/acknowledged

# 3. Copy the WAL directory
sudo -u thunder rsync -a \\
  /var/lib/thunderdb/wal/ \\
  /backups/thunderdb/full-by-hand/wal/ || [ $? = 24 ]

# 4. Copy the configuration
sudo cp /etc/thunderdb/thunderdb.toml \\
  /backups/thunderdb/full-by-hand/thunderdb.toml
ls /backups/thunderdb/full-by-hand""",
        text="The manual's four commands, while clients go on writing (`--progress` is left out here; rsync does not make the parent "
        "folder, `mkdir -p /backups/thunderdb/full-by-hand` came before). No log goes away for the time of `hold_until`.",
        expect=("checkpoint_lsn", "^data$", "^wal$"),
    ),
    Step(MANUAL, "It verifies", "thunderdb --verify-backup /backups/thunderdb/full-by-hand", expect=("PASSED", "no manifest"),
         text="There is no manifest to compare with, so every page and every log record is checked."),
    Step(
        MANUAL, "It restores by copying it back",
        """\
mkdir -p /var/lib/thunderdb-test
cp -a /backups/thunderdb/full-by-hand/data /backups/thunderdb/full-by-hand/wal /var/lib/thunderdb-test/
systemctl start thunderdb thunderdb-test.toml {test_http}
psql -At -h localhost -p 15432 -U admin thunderdb -c "SELECT count(*) >= $(cat /backups/thunderdb/acknowledged) FROM orders"
systemctl stop thunderdb thunderdb-test.toml; rm -r /var/lib/thunderdb-test
thunderdb --verify-backup /backups/thunderdb/full-by-hand | head -1""",
        text="Every row that was acknowledged before the copy of `wal/` began is there.", expect=("^t$", "^Backup verification: PASSED$"),
    ),
    # ---- archive
    Step(ARCHIVE, "The configuration", "grep wal_archive /etc/thunderdb/thunderdb.toml", expect=("wal_archive_enabled = true",)),
    Step(
        ARCHIVE, "Monitoring WAL archiving", "sleep 2; curl -s http://localhost:8088/admin/wal/archive/status | jq .",
        manual="""\
{
  "archiving_enabled": true,
  "last_archived_segment": "000000010000000000000042",
  "last_archive_time": "2026-01-15T10:30:45Z",
  "segments_pending": 0,
  "archive_rate_bytes_per_sec": 1048576,
  "total_archived_bytes": 536870912
}""",
        text="The manual's fields come first. `exposed` is what would be lost if this machine died now.",
        expect=(r'"archiving_enabled": true', r'"gaps": \[\]', r'"verified": true'), load="stop",
    ),
    Step(ARCHIVE, "Close the current segment now", "curl -s -X POST http://localhost:8088/admin/wal/switch | jq .", expect=(r'"archived": true',)),
    Step(ARCHIVE, "What is in the archive", "ls /backups/thunderdb/wal-archive | grep -v partial", expect=(r"^[0-9A-F]{24}$", r"^00000001\.history$")),
    # ---- PITR
    Step(
        PITR, "The accident",
        """\
psql -At -h localhost -U admin thunderdb <<'SQL'
SELECT 'before the accident: ' || count(*) || ' orders, ' || sum(amount) || ' in all' FROM orders;
SELECT 'time: ' || replace(to_char(now(), 'YYYY-MM-DD HH24:MI:SS.US'), ' ', 'T') || 'Z';
SQL
sleep 1
psql -At -h localhost -U admin thunderdb -c "DELETE FROM orders WHERE amount > 100"
sleep 2""",
        expect=(r"^before the accident: \d+ orders", r"^DELETE \d+$"), keep={"target": r"^time: (\S+Z)$", "truth": r"^before the accident: (\d+) orders"},
    ),
    Step(
        PITR, "Look before you leap",
        """\
thunderdb --restore-pitr "{target}" \\
  --restore-backup /backups/thunderdb/full-2026-01-15 \\
  --wal-archive-dir /backups/thunderdb/wal-archive --dry-run --config /etc/thunderdb/thunderdb-test.toml""",
        text="`--dry-run` changes nothing: it shows what a restore would use, and what it would give up.", expect=("full-2026-01-15",),
    ),
    Step(
        PITR, "Steps 1 to 3: stop, clear, copy the backup back",
        """\
sudo systemctl stop thunderdb
sudo rm -rf /var/lib/thunderdb/data/*
sudo rm -rf /var/lib/thunderdb/wal/*
sudo -u thunder cp -a /backups/thunderdb/full-2026-01-15/data/* /var/lib/thunderdb/data/
sudo -u thunder cp -a /backups/thunderdb/full-2026-01-15/wal/* /var/lib/thunderdb/wal/""",
        text="Step 3 may be left out: the restore copies what is not there, and uses what is right.",
    ),
    Step(
        PITR, "Step 4: run PITR recovery",
        """\
thunderdb --restore-pitr "{target}" \\
  --restore-backup /backups/thunderdb/full-2026-01-15 \\
  --wal-archive-dir /backups/thunderdb/wal-archive \\
  --config /etc/thunderdb/thunderdb.toml""",
        manual="""\
[INFO] Starting Point-in-Time Recovery
[INFO] Target time: 2026-01-15T14:30:00Z
[INFO] Base backup LSN: 0/1A000000
[INFO] Phase 1: Restoring base backup... done (8192 pages)
[INFO] Phase 2: Replaying WAL segments...
[INFO]   Replaying segment 000000010000000000000038... done
[INFO]   Replaying segment 000000010000000000000039... done
[INFO]   Replaying segment 00000001000000000000003A... done (target reached)
[INFO] Phase 3: Recovery complete
[INFO] Recovered to: 2026-01-15T14:30:00.000Z (LSN: 0/1A3B4C5D)
[INFO] Transactions recovered: 45,231
[INFO] Transactions rolled back: 12 (in-progress at recovery point)""",
        expect=(
            r"\[INFO\] Starting Point-in-Time Recovery", r"\[INFO\] Base backup LSN: ", r"Phase 1: Restoring base backup\.\.\. done",
            r"Replaying segment [0-9A-F]{24}\.\.\. done \(target reached\)", r"\[INFO\] Phase 3: Recovery complete",
            r"\[INFO\] Transactions recovered: ", r"\[INFO\] Transactions rolled back: ",
        ),
    ),
    Step(
        PITR, "Steps 5 and 6: start, and look at the data",
        """\
sudo systemctl start thunderdb
curl -s http://localhost:8088/admin/health | jq -r .status
psql -h localhost -U admin -c "SELECT COUNT(*) FROM your_table;"
psql -At -h localhost -U admin thunderdb -c "SELECT count(*) = {truth} FROM orders;\"""",
        text="The last answer compares with the count just before the accident.", expect=("^healthy$", r"^\s+1000$", "^t$"),
    ),
    Step(PITR, "A time without a zone is refused", """\
thunderdb --restore-pitr "2026-01-15T14:30:00" --restore-backup /backups/thunderdb/full-2026-01-15 \\
  --config /etc/thunderdb/thunderdb-test.toml""", status=2, expect=("zone|Z",)),
    Step(PITR, "A directory that is in use is refused", """\
thunderdb --restore-pitr latest --restore-backup /backups/thunderdb/full-2026-01-15""", status=3, expect=("ERROR", "HINT"),
         text="Nothing is changed. So is a directory that holds another database."),
    # ---- crash
    Step(
        CRASH, "kill -9, and start again",
        """\
psql -q -h localhost -U admin thunderdb -c "INSERT INTO your_table SELECT g FROM generate_series(1001, 2000) g"
before=$(stat -c %s /var/log/thunderdb.log)
systemctl kill thunderdb; systemctl start thunderdb
tail -c +$((before + 1)) /var/log/thunderdb.log | grep -E 'Crash|checkpoint LSN|Phase|Recovery complete'""",
        manual="""\
[INFO] Crash recovery initiated
[INFO] Last checkpoint LSN: 0/1A000000
[INFO] Phase 1 (Analysis): Scanning WAL... 42 dirty pages, 3 active transactions
[INFO] Phase 2 (Redo): Replaying from LSN 0/1A000000... 1,234 records replayed
[INFO] Phase 3 (Undo): Rolling back 3 active transactions... done
[INFO] Recovery complete in 2.34s""",
        expect=(r"Crash recovery initiated", r"Phase 1 \(Analysis\): Scanning WAL\.\.\. [\d,]+ dirty pages", "Recovery complete in"),
    ),
    # ---- schedule
    Step(
        SCHEDULE, "The backup script, as cron runs it", "/etc/cron.d/thunderdb-backup.sh",
        text="`deploy/cron/thunderdb-backup.sh`: the manual's script, made loud. Or let the daemon do it: `schedule_daily` and the "
        "like in [backup]; or systemd: `deploy/systemd/thunderdb-backup.timer`.",
        expect=("Backup started: bk-", "Backup completed", "Backup verification: PASSED", "Backup process complete"),
    ),
    Step(
        SCHEDULE, "What is kept, and why", "thunderdb --retention-report --destination /backups/thunderdb",
        text="`--expire` removes what may go; the schedule does it by itself.", expect=("^Recovery window: ", "keep "),
    ),
    Step(
        SCHEDULE, "The metrics of the alerts",
        "curl -s http://localhost:8088/metrics | grep -E '^thunderdb_(last_backup_|wal_archive_pending|wal_archive_gaps|rpo_|recovery_window)'",
        text="`deploy/prometheus/rules/thunderdb-backup-alerts.yml` has the manual's three alerts and a few more, "
        "`deploy/grafana/thunderdb-backup.json` a dashboard.",
        expect=(r"thunderdb_last_backup_status 1\.0", "thunderdb_last_backup_timestamp", "thunderdb_wal_archive_pending_segments 0.0", "thunderdb_rpo_exposed_seconds"),
    ),
    # ---- disaster recovery
    Step(
        DR, "Testing recovery",
        """\
ln -sfn $(ls -d /backups/thunderdb/full-2* | tail -1) /backups/thunderdb/full-latest
thunderdb --restore-pitr "latest" \\
  --restore-backup /backups/thunderdb/full-latest \\
  --config /etc/thunderdb/thunderdb-test.toml \\
  --no-archive --report /backups/thunderdb/drill.json""",
        text="`full-latest` is a link that the schedule keeps. `--no-archive` makes it a drill: nothing is ever written to the "
        "production's archive. `--report` checks the whole database and writes down the actual RTO.",
        expect=("Recovery complete", "Recovered to"),
    ),
    Step(DR, "The report", "jq . /backups/thunderdb/drill.json", expect=(r"\{",)),
    Step(
        DR, "Start the test instance and run validation queries",
        """\
sudo systemctl start thunderdb thunderdb-test.toml {test_http}
psql -h localhost -p 15432 -U admin -f /scripts/recovery-validation.sql thunderdb
sudo systemctl stop thunderdb thunderdb-test.toml; sudo systemctl stop thunderdb""",
        expect=(r"orders\s+\|\s+total", r"\(1 row\)"),
    ),
)  # fmt: skip

TAIL = """
## Object stores

`wal_archive_dir`, a backup's destination and `--restore-backup` take `s3://`, `gs://` and `az://` as well as a directory; or
`wal_archive_command` and `wal_restore_command` run the manual's `aws s3 cp`, `gsutil cp` and `az storage blob` lines with `%f` and
`%n`. They are not part of this walk: the tests in `tests/unit/archive/` and `tests/conformance/` run them against emulators.

An archive by command cannot be listed, so retention does not touch it: let the store's own lifecycle rules remove what is old.

Nor can a timeline be claimed by command when a restore begins: a command that copies a file has no "only if it is not there". The
claim is made at the first start of the recovered database, by looking, storing and looking again. With a restore command another
database's timeline is refused by name then (nothing is archived, the database serves; a restore into empty directories takes the next
number), unless both came in the same moment. Without one nothing is seen: give each database, and each drill, a prefix of its own.

## What is never removed

- the newest good backup, and the newest `minimum_redundancy` full ones; what an incremental backup stands on
- all that a time of the last `wal_archive_retention` needs: the newest backup taken before that, and all log from it on
- backups made by hand, other databases' backups, and what cannot be read: they go only by hand
- anything while `thunderdb --hold NAME --hold-for 30d` lasts (`--release NAME` ends it), or while a restore reads it

## What differs from the manual

- A time needs a zone (`Z` or an offset); without one the command refuses, and says how to write it.
- A restore checks the log and lays it down; the first start replays it, and serves meanwhile. The lines say so; the counts of
  transactions are what that start will find. With `--report` the restore opens the database itself.
- `--restore-backup` may be a folder of backups: the newest one that reaches the target is used.
- Targets beyond the manual's: `before:drop:TABLE`, `before:truncate:TABLE`, `before:txn:ID`.
- A restore begins a new timeline; its number is claimed in the archive, so that a drill and the real recovery never share one.
- The script removes old backups by the time in their names and never the last two; the manual's `find -mtime` would remove all.
"""
