"""The least that still fails: a failing run becomes a few lines of YAML, and a pytest file."""
