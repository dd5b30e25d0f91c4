"""Distributions on structures and their relaxations, as Pyro distributions."""
