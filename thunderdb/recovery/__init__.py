"""Restart in three passes (analysis, redo, undo), checkpoints, and the repair of single pages."""
