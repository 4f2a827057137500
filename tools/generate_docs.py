"""Write what is generated from the code: configuration and metrics under docs/, deploy/thunderdb.toml. `--check` compares."""

from __future__ import annotations

import sys
from pathlib import Path

from thunderdb.base import config
from thunderdb.server.backup_metrics import BACKUP_METRICS
from thunderdb.server.metrics import METRICS

ROOT = Path(__file__).resolve().parents[1]

HEAD = """\
# Configuration

Written by `make docs` from `thunderdb/base/config.py`; a test compares the two.

The file is the one given with `--config`, else `$THUNDERDB_CONFIG`, else `/etc/thunderdb/thunderdb.toml`, else the built-in
defaults. An empty file is valid. A key is overridden by its environment variable, and that by its flag:

    thunderdb --config thunderdb.toml                                   # the file
    THUNDERDB_PG_PORT=15432 thunderdb --config thunderdb.toml           # over the file
    thunderdb --config thunderdb.toml --pg-port 15433                   # over both

`thunderdb --check-config --config FILE` reads all of it, starts nothing, and exits with 0, or with 2 and one line that names
the key, its value and what is allowed. An unknown key is an error, never ignored.

Sizes are written `"16KB"`, `"128MB"`, `"1GB"` (powers of 1024), durations `"500ms"`, `"30s"`, `"5min"`, `"6h"`, `"7d"`.
"""

METRICS_HEAD = """\
# Metrics

Written by `make docs` from `thunderdb/server/metrics.py`; a test compares the two.

`GET /metrics` on `http_listen_addr:http_port` answers in Prometheus's text format, also while the node recovers:

    curl http://127.0.0.1:8088/metrics

Names are in base units (`_seconds`, `_bytes`, `_total`); nothing unbounded (files, pages, users) is ever a label.

| metric | type | labels | meaning |
|---|---|---|---|
"""

BACKUP_HEAD = """
Of backups and archive, there once the database is open; the alerts in `deploy/prometheus/rules/thunderdb-backup-alerts.yml` and
the dashboard `deploy/grafana/thunderdb-backup.json` use these:

| metric | type | meaning |
|---|---|---|
"""

METRICS_TAIL = """
The engine's own, there once the database is open; `_total` only ever grows while the process lives:

| metric | meaning |
|---|---|
| `thunderdb_wal_next_lsn`, `thunderdb_wal_flushed_lsn` | end of the log in memory, and of what is durable |
| `thunderdb_wal_records_total`, `thunderdb_wal_segments` | records appended; log files there now |
| `thunderdb_pool_used_bytes`, `thunderdb_pool_capacity_bytes` | decoded pages in memory, and `buffer_pool_size` |
| `thunderdb_pool_dirty_pages` | pages that a restart would have to look at |
| `thunderdb_pool_{loads,evictions,writes}_total` | pages read, evicted, written |
| `thunderdb_transactions_active` | transactions open now |
| `thunderdb_transactions_{committed,rolled_back}_total` | transactions ended |
| `thunderdb_locks_held`, `thunderdb_lock_waits_total`, `thunderdb_deadlocks_total` | locks now; waits; deadlocks broken |
| `thunderdb_checkpoints_total`, `thunderdb_checkpoint_redo_lsn` | checkpoints taken; where redo would start |
| `thunderdb_database_pages` | size of the page files, in pages |

And the process's usual ones: `thunderdb_process_resident_memory_bytes`, `thunderdb_process_cpu_seconds_total`,
`thunderdb_process_open_fds`.

## What to watch

- `thunderdb_ready == 0` for longer than a restart may take: the node recovers, or it refused to start; the log says which.
- `rate(thunderdb_events_total{event="wal.disk_full"}[5m]) > 0`: writes are being refused (53100) until there is space.
- `thunderdb_connections / thunderdb_connections_limit > 0.9`: soon clients will be answered 53300.
- `rate(thunderdb_statement_errors_total[5m]) / rate(thunderdb_statements_total[5m])`: how much of the work fails.
- `thunderdb_wal_next_lsn - thunderdb_checkpoint_redo_lsn`: the log that a crash now would have to replay, in bytes.
- `thunderdb_rpo_exposed_seconds`: how much work would be lost if this machine were lost now; without an archive, all since the
  last backup (commits are then counted since the start of the process).
- `time() - thunderdb_last_backup_timestamp`: alert on the age of the last success, not on failures; what hangs never fails.
- `time() - thunderdb_recovery_window_oldest_timestamp` against what you have promised to keep.
- `thunderdb_recovery_duration_seconds` against `recovery_target`: what the last crash cost, beside what was wished.

The events behind `thunderdb_events_total` are the log's lines: whatever is logged is counted, by the same name.
"""


def metrics() -> str:
    rows = [f"| `{name}` | {kind} | {', '.join(labels)} | {text} |\n" for name, (kind, text, labels) in METRICS.items()]
    backups = [f"| `{name}` | {kind} | {text} |\n" for name, (kind, text) in BACKUP_METRICS.items()]
    return METRICS_HEAD + "".join(rows) + BACKUP_HEAD + "".join(backups) + METRICS_TAIL


def configuration() -> str:
    parts = [HEAD]
    rows = config.describe()
    for section in config.SECTIONS:
        own = [row for row in rows if row.section == section]
        parts.append(f"\n## [{section}]\n")
        if not own:
            parts.append("\nNo keys yet; the section itself is accepted.\n")
        for row in own:
            parts.append(f"\n### {row.name}\n\n{row.doc}\n\n")
            parts.append(f"- default: `{row.default}`\n- allowed: {row.allowed}\n- override: `{row.env}`, `{row.flag}`\n")
    return "".join(parts)


def outputs() -> dict[Path, str]:
    """The generated files and what they must contain."""
    return {
        ROOT / "docs" / "configuration.md": configuration(),
        ROOT / "docs" / "metrics.md": metrics(),
        ROOT / "deploy" / "thunderdb.toml": config.sample(),
    }


def main() -> int:
    check, stale = "--check" in sys.argv[1:], []
    for path, text in outputs().items():
        if path.exists() and path.read_text() == text:
            continue
        stale.append(path)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for path in stale:
        print(f"{'stale' if check else 'wrote'}: {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
