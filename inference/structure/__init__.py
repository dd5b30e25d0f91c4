"""Posterior over the structures of a family."""
