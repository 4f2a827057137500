"""Clients of a database in the world, on the engine's own API or over SQL, and what they do."""
