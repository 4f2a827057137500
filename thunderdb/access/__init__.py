"""Access methods over pages and log: apply, space, B+trees, bulk loading, large values, garbage, rows and keys."""
