"""The simulator: a world of disks, networks and clocks that breaks on purpose, and measures what was lost and for how long."""
