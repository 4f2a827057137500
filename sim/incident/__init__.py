"""Incidents: an installation, what breaks in it, what its operator does, and whether that was recoverable."""
