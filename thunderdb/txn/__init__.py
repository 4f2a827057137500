"""Transactions: locks, row versions, snapshots, and the manager that begins, commits and rolls back."""
