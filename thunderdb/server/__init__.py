"""The daemon: PostgreSQL wire protocol, sessions, HTTP admin API, metrics, logs and the command line."""
