"""Ports to the outside (clock, disk, network, tasks), the primitives built on them, and their production versions."""
