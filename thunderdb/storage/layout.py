"""Names in a data directory, for those who look at one without opening the database."""

from __future__ import annotations

LOCK_FILE = "lock"
MARKER_FILE = "initialising"
CONTROL_FILE = "control"
RESTORE_MARKER = "restore.json"
"""There while a restore goes on (backup/destination.py)."""
LOST_AND_FOUND = "lost+found"
"""What an empty ext4 file system holds: a directory that is a mount point is as empty as one that is not."""
