"""Random histories of backups, archives and restores, and every I/O of them as a place to be killed."""
