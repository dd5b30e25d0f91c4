"""Peers of the benchmarks: scripts for environments of their own, never imported by evidentia."""
