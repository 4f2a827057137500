"""The database: composition of storage, log, recovery and transactions; catalog; tables; the whole-database check."""
