"""Runs of one node: outages by weight, every crash of a workload, isolation under crashes, the classical anomalies."""
