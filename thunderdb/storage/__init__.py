"""Pages on disk and in memory: codec, files, space map, buffer pool, control file."""
