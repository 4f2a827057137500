"""Metrics of backups and archive: their names, and how they are made from what the operator knows.

P1. Before the first backup ends, the last status is NaN and the last timestamp the database's creation: a new node pages
    nobody, and a node that never takes a backup becomes stale. A running backup changes neither.
P2. The exposure is what would be lost if this machine died now, with everything on it: commits that neither the archive nor a
    finished backup holds. It is 0 only where nothing would be lost.
"""

from __future__ import annotations

# name → (type, help)
BACKUP_METRICS: dict[str, tuple[str, str]] = {
    "thunderdb_last_backup_status": (
        "gauge",
        "1 if the last backup that ended succeeded, 0 if it failed, NaN before the first.",
    ),
    "thunderdb_last_backup_timestamp": (
        "gauge",
        "When the last successful backup ended (Unix time, seconds); before the first, when the database was made.",
    ),
    "thunderdb_last_backup_size_bytes": ("gauge", "Size of the last successful backup as stored; 0 before the first."),
    "thunderdb_last_backup_duration_seconds": ("gauge", "How long it took."),
    "thunderdb_last_backup_bytes_per_second": ("gauge", "How fast it read the database."),
    "thunderdb_backup_running": ("gauge", "1 while a backup runs, else 0."),
    "thunderdb_backup_progress_ratio": ("gauge", "How much of the running backup is done, from 0 to 1; 0 when none runs."),
    "thunderdb_backup_next_timestamp": (
        "gauge",
        "When the schedule takes the next backup (Unix time); absent without a schedule.",
    ),
    "thunderdb_recovery_window_oldest_timestamp": (
        "gauge",
        "The oldest time that can be restored (Unix time); absent while there is nothing to restore from.",
    ),
    "thunderdb_recovery_window_newest_timestamp": ("gauge", "The newest time that can be restored (Unix time)."),
    "thunderdb_wal_archive_enabled": ("gauge", "1 if the log is archived, else 0."),
    "thunderdb_wal_archive_pending_segments": ("gauge", "Closed segments that are not in the archive yet."),
    "thunderdb_wal_archive_failing": ("gauge", "1 if the last attempt to archive failed, else 0."),
    "thunderdb_wal_archive_gaps": ("gauge", "Places where the archive lacks log between what it has."),
    "thunderdb_wal_archive_lag_seconds": ("gauge", "Age of the oldest log that is flushed and not archived; 0 if none."),
    "thunderdb_wal_archive_lag_bytes": ("gauge", "How much log is flushed and not archived."),
    "thunderdb_wal_archive_last_timestamp": ("gauge", "When a segment was last archived (Unix time); absent before the first."),
    "thunderdb_wal_archive_archived_bytes_total": ("counter", "Bytes sent to the archive by this process."),
    "thunderdb_rpo_exposed_transactions": ("gauge", "Commits that would be lost if this machine were lost now."),
    "thunderdb_rpo_exposed_bytes": ("gauge", "Their log, in bytes."),
    "thunderdb_rpo_exposed_seconds": ("gauge", "Age of the oldest of them; 0 if none."),
}
