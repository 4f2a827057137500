"""Scenarios: what runs, what breaks and what is promised, as YAML, as a plan drawn from a seed, or generated."""
