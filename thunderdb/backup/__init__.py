"""Backups: taken, verified, restored, scheduled."""
