"""ThunderDB: a PostgreSQL-compatible database that comes back, and proves it."""

__version__ = "0.1.0"
