"""Planted bugs: diffs of tests/mutants/, applied to a copy of the source, that the simulator must see."""
